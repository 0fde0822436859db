"""What a virtual autopilot sends: a simulated aircraft's state in the messages real autopilots use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sim2sky.runtime.frames import HOME, euler_to_quaternion
from sim2sky.runtime.link import mavlink
from sim2sky.runtime.state import Command, Sample

__all__ = ["NUMBERS", "View", "build", "home_position", "output_widths"]


@dataclass(frozen=True, slots=True)
class View:
    """What the messages are made of.

    Attributes:
        sample: as the autopilot estimates it.
        boot_ms: its time since it was started.
        command: at the actuators.
        receiver_us: pulse widths by receiver channel, overrides included.
        battery_v: of the battery.
    """

    sample: Sample
    boot_ms: int
    command: Command
    receiver_us: Sequence[int]
    battery_v: float


def output_widths(command: Command) -> list[int]:
    """Servo outputs 1 to 4: aileron, elevator, throttle, rudder; 400 microseconds each way, throttle from 1100."""
    aileron, elevator, rudder, throttle = command
    surfaces = [round(1500.0 + 400.0 * value) for value in (aileron, elevator, rudder)]
    return [surfaces[0], surfaces[1], round(1100.0 + 800.0 * throttle), surfaces[2]]


def _attitude(v: View) -> Any:
    s = v.sample
    return mavlink.MAVLink_attitude_message(
        v.boot_ms, s.roll_rad, s.pitch_rad, _plus_minus_pi(s.yaw_rad), s.p_radps, s.q_radps, s.r_radps
    )


def _plus_minus_pi(angle: float) -> float:
    return math.remainder(angle, 2.0 * math.pi)


def _attitude_quaternion(v: View) -> Any:
    s = v.sample
    w, x, y, z = euler_to_quaternion(s.roll_rad, s.pitch_rad, s.yaw_rad)
    return mavlink.MAVLink_attitude_quaternion_message(v.boot_ms, w, x, y, z, s.p_radps, s.q_radps, s.r_radps)


def _global_position(v: View) -> Any:
    s = v.sample
    latitude, longitude = HOME.to_degrees_e7(s.north_m, s.east_m)
    return mavlink.MAVLink_global_position_int_message(
        v.boot_ms,
        latitude,
        longitude,
        round((HOME.altitude_m + s.altitude_m) * 1000.0),
        round(s.altitude_m * 1000.0),
        round(s.north_mps * 100.0),
        round(s.east_mps * 100.0),
        round(-s.climb_rate_mps * 100.0),
        round(math.degrees(s.yaw_rad) % 360.0 * 100.0) % 36000,
    )


def _local_position(v: View) -> Any:
    s = v.sample
    return mavlink.MAVLink_local_position_ned_message(
        v.boot_ms, s.north_m, s.east_m, -s.altitude_m, s.north_mps, s.east_mps, -s.climb_rate_mps
    )


def _vfr_hud(v: View) -> Any:
    s = v.sample
    heading = round(math.degrees(s.yaw_rad)) % 360
    ground_mps = math.hypot(s.north_mps, s.east_mps)
    altitude = HOME.altitude_m + s.altitude_m
    throttle = round(100.0 * v.command.throttle)
    return mavlink.MAVLink_vfr_hud_message(s.airspeed_mps, ground_mps, heading, throttle, altitude, s.climb_rate_mps)


def _rc_channels(v: View) -> Any:
    widths: Any = [*v.receiver_us, *(65535,) * (18 - len(v.receiver_us))]
    return mavlink.MAVLink_rc_channels_message(v.boot_ms, len(v.receiver_us), *widths, rssi=255)


def _servo_output(v: View) -> Any:
    widths = [*output_widths(v.command), 0, 0, 0, 0]
    return mavlink.MAVLink_servo_output_raw_message(v.boot_ms * 1000 & 0xFFFFFFFF, 0, *widths)


def _sys_status(v: View) -> Any:
    return mavlink.MAVLink_sys_status_message(0, 0, 0, 100, round(v.battery_v * 1000.0), -1, 80, 0, 0, 0, 0, 0, 0)


_BUILDERS: dict[int, Callable[[View], Any]] = {
    mavlink.MAVLINK_MSG_ID_ATTITUDE: _attitude,
    mavlink.MAVLINK_MSG_ID_ATTITUDE_QUATERNION: _attitude_quaternion,
    mavlink.MAVLINK_MSG_ID_GLOBAL_POSITION_INT: _global_position,
    mavlink.MAVLINK_MSG_ID_LOCAL_POSITION_NED: _local_position,
    mavlink.MAVLINK_MSG_ID_VFR_HUD: _vfr_hud,
    mavlink.MAVLINK_MSG_ID_RC_CHANNELS: _rc_channels,
    mavlink.MAVLINK_MSG_ID_SERVO_OUTPUT_RAW: _servo_output,
    mavlink.MAVLINK_MSG_ID_SYS_STATUS: _sys_status,
}
NUMBERS = frozenset(_BUILDERS)
"""Messages that `build` makes."""


def build(number: int, view: View) -> Any:
    """The message of one of `NUMBERS`."""
    return _BUILDERS[number](view)


def home_position() -> Any:
    """HOME_POSITION: also the origin of the local frame."""
    home = HOME
    return mavlink.MAVLink_home_position_message(
        round(home.latitude_deg * 1e7), round(home.longitude_deg * 1e7), round(home.altitude_m * 1e3),
        0.0, 0.0, 0.0, [1.0, 0.0, 0.0, 0.0], 0.0, 0.0, 0.0,
    )  # fmt: skip
