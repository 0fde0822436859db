"""A surface command as the stick positions that an autopilot in MANUAL mode passes on to the surfaces.

ArduPilot: RC_CHANNELS_OVERRIDE through its own receiver calibration, so that its `norm_input()` gives the command back.
Positive roll, pitch and yaw input there is right, nose up, right. PX4: MANUAL_CONTROL, whose x is positive forward,
hence nose down. What lies behind (servo reversal and trim) is the aircraft's set-up, to be checked on the ground.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from sim2sky.runtime.autopilots import PX4, AutopilotKind
from sim2sky.runtime.link import mavlink
from sim2sky.runtime.state import Command

__all__ = ["Actuation", "ManualControl", "RcOverride", "StickChannel", "actuation_for", "setup_problems"]

IGNORE = 65535  # this channel stays as it is
RELEASE = 0  # this channel goes back to the receiver
OVERRIDE_LIMIT_S = 1.0
_STICKS = ("RCMAP_ROLL", "RCMAP_PITCH", "RCMAP_YAW", "RCMAP_THROTTLE")  # in the order of `Command`


class Actuation(Protocol):
    """Builds the messages that command one autopilot."""

    def message(self, command: Command) -> Any:
        """The message that commands the actuators."""
        ...

    def release(self) -> Any | None:
        """The message that gives the sticks back at once; None where silence does."""
        ...


class StickChannel(NamedTuple):
    """Calibration of one receiver channel, microseconds."""

    low_us: int
    trim_us: int
    high_us: int
    reversed: bool

    def surface_us(self, command: float) -> int:
        """Pulse width whose `norm_input()` is `command`, -1..1."""
        c = -command if self.reversed else command
        span = self.high_us - self.trim_us if c >= 0.0 else self.trim_us - self.low_us
        return round(self.trim_us + c * span)

    def throttle_us(self, command: float) -> int:
        """Pulse width for a throttle of 0..1."""
        c = 1.0 - command if self.reversed else command
        return round(self.low_us + c * (self.high_us - self.low_us))


class RcOverride:
    """ArduPilot. Only the four channels of the sticks are overridden: mode switch and kill switch stay the pilot's.

    Args:
        parameters: of the autopilot, without `setup_problems`.
        system, component: of the autopilot.
    """

    def __init__(self, parameters: Mapping[str, float], system: int, component: int) -> None:
        self._target = (system, component)
        numbers = [int(parameters[name]) for name in _STICKS]
        self._index = [n - 1 for n in numbers]
        self._sticks = [_channel(parameters, n) for n in numbers]

    def message(self, command: Command) -> Any:
        """See `Actuation`."""
        widths = [IGNORE] * 8
        for i, (stick, value) in enumerate(zip(self._sticks, command, strict=True)):
            widths[self._index[i]] = stick.throttle_us(value) if i == 3 else stick.surface_us(value)
        return mavlink.MAVLink_rc_channels_override_message(*self._target, *widths)

    def release(self) -> Any | None:
        """See `Actuation`."""
        widths = [RELEASE if i in self._index else IGNORE for i in range(8)]
        return mavlink.MAVLink_rc_channels_override_message(*self._target, *widths)


def _channel(parameters: Mapping[str, float], number: int) -> StickChannel:
    low, trim, high = (int(parameters[f"RC{number}_{what}"]) for what in ("MIN", "TRIM", "MAX"))
    return StickChannel(low, trim, high, parameters[f"RC{number}_REVERSED"] == 1.0)


class ManualControl:
    """PX4. When the messages stop, PX4 falls back to the receiver or into its failsafe after COM_RC_LOSS_T."""

    def __init__(self, system: int) -> None:
        self._system = system

    def message(self, command: Command) -> Any:
        """See `Actuation`."""
        aileron, elevator, rudder, throttle = (round(1000.0 * value) for value in command)
        return mavlink.MAVLink_manual_control_message(self._system, -elevator, aileron, throttle, rudder, 0)

    def release(self) -> Any | None:
        """See `Actuation`."""
        return None


def actuation_for(kind: AutopilotKind, parameters: Mapping[str, float], system: int, component: int) -> Actuation:
    """How that autopilot is commanded."""
    return ManualControl(system) if kind is PX4 else RcOverride(parameters, system, component)


def setup_problems(kind: AutopilotKind, parameters: Mapping[str, float], our_system: int) -> list[tuple[str, str]]:
    """What in an autopilot's parameters keeps us from commanding it, and what to set instead."""
    return _px4_problems(parameters) if kind is PX4 else _ardupilot_problems(parameters, our_system)


def _ardupilot_problems(p: Mapping[str, float], our_system: int) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    gcs = "MAV_GCS_SYSID" if "MAV_GCS_SYSID" in p else "SYSID_MYGCS"
    if p.get(gcs) != our_system:
        now = f"{p[gcs]:g}" if gcs in p else "unknown"
        found.append((f"{gcs} is {now}: only that system's stick commands are obeyed", f"{gcs} {our_system}"))
    if not 0.0 < p["RC_OVERRIDE_TIME"] <= OVERRIDE_LIMIT_S:
        what = f"RC_OVERRIDE_TIME is {p['RC_OVERRIDE_TIME']:g} s: for so long a dead computer's last command is flown"
        found.append((what, "RC_OVERRIDE_TIME 0.5"))
    if int(p.get("RC_OPTIONS", 0.0)) & 2:
        found.append(("RC_OPTIONS ignores overrides", f"RC_OPTIONS {int(p['RC_OPTIONS']) & ~2}"))
    bent = [name for name in ("MAN_EXPO_ROLL", "MAN_EXPO_PITCH", "MAN_EXPO_RUDDER") if p.get(name, 0.0) != 0.0]
    found += [(f"{name} is {p[name]:g}: commands would be bent", f"{name} 0") for name in bent]
    numbers = [int(p[name]) for name in _STICKS]
    if sorted(numbers) != [1, 2, 3, 4]:
        found.append((f"RCMAP_* put the sticks on the channels {numbers}, not on 1 to 4", "RCMAP_ROLL 1, ..."))
        return found
    for i, n in enumerate(numbers):
        c = _channel(p, n)
        rising = 800 <= c.low_us < c.high_us <= 2200 and (i == 3 or c.low_us < c.trim_us < c.high_us)
        if not rising:
            now = f"RC{n}_MIN, TRIM, MAX are {c.low_us}, {c.trim_us}, {c.high_us}"
            found.append((f"{now}: not calibrated", "calibrate the radio"))
    return found


def _px4_problems(p: Mapping[str, float]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if p["COM_RC_IN_MODE"] not in {1.0, 2.0, 3.0}:
        found.append((f"COM_RC_IN_MODE is {p['COM_RC_IN_MODE']:g}: MANUAL_CONTROL is ignored", "COM_RC_IN_MODE 1"))
    if not 0.0 < p["COM_RC_LOSS_T"] <= OVERRIDE_LIMIT_S:
        what = f"COM_RC_LOSS_T is {p['COM_RC_LOSS_T']:g} s: for so long a dead computer's last command is flown"
        found.append((what, "COM_RC_LOSS_T 0.5"))
    scaled = [name for name in ("FW_MAN_R_SC", "FW_MAN_P_SC", "FW_MAN_Y_SC") if abs(p[name] - 1.0) > 1e-3]
    found += [(f"{name} is {p[name]:g}: commands would be scaled", f"{name} 1") for name in scaled]
    return found
