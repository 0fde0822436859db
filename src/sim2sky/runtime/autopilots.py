"""The autopilots that are commanded: how a heartbeat names them, their flight modes, how they must be set up.

Sources: ArduPlane `mode.h` and `RC_Channel`, PX4 `px4_custom_mode.h`, `FixedwingRateControl` and `mavlink_receiver`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sim2sky.errors import NotSupportedError
from sim2sky.runtime.link import mavlink

__all__ = ["ARDUPILOT", "PX4", "AutopilotKind", "identify", "is_autopilot", "parameter_value"]


def _px4(main: int, sub: int = 0) -> int:
    """PX4's custom mode: the main mode in the third byte, the sub mode in the fourth."""
    return main << 16 | sub << 24


@dataclass(frozen=True)
class AutopilotKind:
    """One family of autopilots.

    Attributes:
        name: as people call it.
        modes: custom mode by its name. `MANUAL` passes stick positions to the surfaces unchanged.
        required: parameters that decide how it is commanded.
        optional: parameters that older or newer releases do not have.
    """

    name: str
    modes: Mapping[str, int]
    required: tuple[str, ...]
    optional: tuple[str, ...]

    def mode_name(self, custom_mode: int) -> str:
        """Name of a custom mode; `mode N` where we know none."""
        return next((name for name, value in self.modes.items() if value == custom_mode), f"mode {custom_mode}")

    def set_mode(self, name: str, target: tuple[int, int]) -> Any:
        """MAV_CMD_DO_SET_MODE to a mode of that name."""
        custom = self.modes[name]
        main, sub = (custom >> 16 & 0xFF, custom >> 24) if self is PX4 else (custom, 0)
        flag = mavlink.MAV_MODE_FLAG_CUSTOM_MODE_ENABLED
        return mavlink.MAVLink_command_long_message(
            *target, mavlink.MAV_CMD_DO_SET_MODE, 0, flag, main, sub, 0, 0, 0, 0
        )


ARDUPILOT = AutopilotKind(
    "ArduPilot",
    {
        "MANUAL": 0, "CIRCLE": 1, "STABILIZE": 2, "TRAINING": 3, "ACRO": 4, "FBWA": 5, "FBWB": 6, "CRUISE": 7,
        "AUTOTUNE": 8, "AUTO": 10, "RTL": 11, "LOITER": 12, "TAKEOFF": 13, "AVOID_ADSB": 14, "GUIDED": 15,
        "INITIALISING": 16, "THERMAL": 24,
    },
    (
        "RC_OVERRIDE_TIME", "RCMAP_ROLL", "RCMAP_PITCH", "RCMAP_THROTTLE", "RCMAP_YAW",
        *(f"RC{n}_{what}" for n in range(1, 5) for what in ("MIN", "MAX", "TRIM", "REVERSED")),
    ),
    ("SYSID_MYGCS", "MAV_GCS_SYSID", "RC_OPTIONS", "MAN_EXPO_ROLL", "MAN_EXPO_PITCH", "MAN_EXPO_RUDDER"),
)  # fmt: skip

PX4 = AutopilotKind(
    "PX4",
    {
        "MANUAL": _px4(1), "ALTCTL": _px4(2), "POSCTL": _px4(3), "ACRO": _px4(5), "OFFBOARD": _px4(6),
        "STABILIZED": _px4(7), "TAKEOFF": _px4(4, 2), "LOITER": _px4(4, 3), "MISSION": _px4(4, 4), "RTL": _px4(4, 5),
        "LAND": _px4(4, 6),
    },
    ("COM_RC_IN_MODE", "COM_RC_LOSS_T", "FW_MAN_R_SC", "FW_MAN_P_SC", "FW_MAN_Y_SC"),
    (),
)  # fmt: skip

_KINDS = {mavlink.MAV_AUTOPILOT_ARDUPILOTMEGA: ARDUPILOT, mavlink.MAV_AUTOPILOT_PX4: PX4}
_NOT_FLYING = {
    mavlink.MAV_TYPE_GCS, mavlink.MAV_TYPE_ONBOARD_CONTROLLER, mavlink.MAV_TYPE_GIMBAL, mavlink.MAV_TYPE_ADSB,
    mavlink.MAV_TYPE_CAMERA, mavlink.MAV_TYPE_ANTENNA_TRACKER,
}  # fmt: skip


def is_autopilot(heartbeat: Any) -> bool:
    """Whether a heartbeat is that of an autopilot, not of a ground station, a camera or another companion."""
    return heartbeat.autopilot != mavlink.MAV_AUTOPILOT_INVALID and heartbeat.type not in _NOT_FLYING


def identify(heartbeat: Any) -> AutopilotKind:
    """The family of the autopilot that sent a heartbeat.

    Raises:
        NotSupportedError: an autopilot we do not know, or not one of a fixed-wing aircraft.
    """
    kind = _KINDS.get(heartbeat.autopilot)
    if kind is None:
        raise NotSupportedError(
            f"the autopilot '{_enum_name('MAV_AUTOPILOT', heartbeat.autopilot)}'", hint="ArduPilot and PX4 are"
        )
    if heartbeat.type != mavlink.MAV_TYPE_FIXED_WING:
        raise NotSupportedError(
            f"the aircraft type '{_enum_name('MAV_TYPE', heartbeat.type)}'",
            hint="the contracts command a fixed-wing aircraft; is the right firmware on the autopilot?",
        )
    return kind


def _enum_name(enum: str, value: int) -> str:
    entry = mavlink.enums[enum].get(value)
    return entry.name.removeprefix(enum + "_") if entry is not None else str(value)


_INTEGERS = {
    mavlink.MAV_PARAM_TYPE_UINT8: "<Bxxx", mavlink.MAV_PARAM_TYPE_INT8: "<bxxx", mavlink.MAV_PARAM_TYPE_UINT16: "<Hxx",
    mavlink.MAV_PARAM_TYPE_INT16: "<hxx", mavlink.MAV_PARAM_TYPE_UINT32: "<I", mavlink.MAV_PARAM_TYPE_INT32: "<i",
}  # fmt: skip


def parameter_value(kind: AutopilotKind, message: Any) -> tuple[str, float]:
    """Name and value in a PARAM_VALUE. PX4 puts the bytes of an integer into the float, ArduPilot its value."""
    name = message.param_id.rstrip("\x00")
    layout = _INTEGERS.get(message.param_type)
    if kind is PX4 and layout is not None:
        return name, float(struct.unpack(layout, struct.pack("<f", message.param_value))[0])
    return name, float(message.param_value)
