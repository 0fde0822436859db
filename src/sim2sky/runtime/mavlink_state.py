"""From an autopilot's telemetry to one state estimate, as old as the oldest of its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sim2sky.runtime.frames import Geodetic, quaternion_to_euler
from sim2sky.runtime.link import mavlink
from sim2sky.runtime.sender_clock import SenderClock
from sim2sky.runtime.state import Sample

__all__ = ["STATE_MESSAGES", "Telemetry"]

_MS = 1_000_000
RC_LIFE_NS = 1_000 * _MS
GLOBAL_LIFE_NS = 1_000 * _MS  # after so long without a global position a local one is taken
STATE_MESSAGES = (
    mavlink.MAVLINK_MSG_ID_ATTITUDE,
    mavlink.MAVLINK_MSG_ID_ATTITUDE_QUATERNION,
    mavlink.MAVLINK_MSG_ID_GLOBAL_POSITION_INT,
    mavlink.MAVLINK_MSG_ID_LOCAL_POSITION_NED,
    mavlink.MAVLINK_MSG_ID_HOME_POSITION,
    mavlink.MAVLINK_MSG_ID_VFR_HUD,
    mavlink.MAVLINK_MSG_ID_RC_CHANNELS,
    mavlink.MAVLINK_MSG_ID_SERVO_OUTPUT_RAW,
    mavlink.MAVLINK_MSG_ID_SYS_STATUS,
)
"""Messages that `Telemetry.take` reads."""


@dataclass(slots=True)
class _Attitude:
    time_ns: int
    angles_rad: tuple[float, float, float]
    rates_radps: tuple[float, float, float]


@dataclass(slots=True)
class _Position:
    time_ns: int
    north_m: float
    east_m: float
    altitude_m: float
    velocity_mps: tuple[float, float, float]


class Telemetry:
    """Collects what one autopilot says.

    Attributes:
        sender: its clock.
        home: its home position, None until it says.
        battery_v: NaN until it says.
        servo_us: pulse widths it puts out, empty until it says.
        local: whether HOME_POSITION says where home is in the frame of LOCAL_POSITION_NED, as PX4's does. ArduPilot's
            holds zeros there.
    """

    def __init__(self) -> None:
        self.local = False
        self.sender = SenderClock()
        self.home: Geodetic | None = None
        self.battery_v = math.nan
        self.servo_us: tuple[int, ...] = ()
        self._home_local: tuple[float, float, float] | None = None
        self._attitude: _Attitude | None = None
        self._position: _Position | None = None
        self._global_ns: int | None = None
        self._airspeed: tuple[int, float] | None = None
        self._rc: tuple[int, tuple[int, ...]] | None = None

    def take(self, m: Any, now_ns: int) -> None:
        """Take in one of `STATE_MESSAGES`, received at `now_ns`."""
        number = m.get_msgId()
        if number == mavlink.MAVLINK_MSG_ID_ATTITUDE:
            self._take_attitude(m, (m.roll, m.pitch, m.yaw), now_ns)
        elif number == mavlink.MAVLINK_MSG_ID_ATTITUDE_QUATERNION:
            self._take_attitude(m, quaternion_to_euler([m.q1, m.q2, m.q3, m.q4]), now_ns)
        elif number == mavlink.MAVLINK_MSG_ID_GLOBAL_POSITION_INT:
            self._take_global(m, now_ns)
        elif number == mavlink.MAVLINK_MSG_ID_LOCAL_POSITION_NED:
            self._take_local(m, now_ns)
        elif number == mavlink.MAVLINK_MSG_ID_VFR_HUD:
            self._airspeed = (now_ns, m.airspeed)  # it carries no time stamp
        elif number == mavlink.MAVLINK_MSG_ID_RC_CHANNELS:
            widths = tuple(getattr(m, f"chan{i}_raw") for i in range(1, min(m.chancount, 18) + 1))
            self._rc = (now_ns, widths)
        elif number == mavlink.MAVLINK_MSG_ID_SERVO_OUTPUT_RAW and m.port == 0:
            self.servo_us = tuple(getattr(m, f"servo{i}_raw") for i in range(1, 17))
        elif number == mavlink.MAVLINK_MSG_ID_SYS_STATUS:
            self.battery_v = m.voltage_battery * 1e-3 if m.voltage_battery != 65535 else math.nan
        elif number == mavlink.MAVLINK_MSG_ID_HOME_POSITION:
            self.home = Geodetic(m.latitude * 1e-7, m.longitude * 1e-7, m.altitude * 1e-3)
            self._home_local = (m.x, m.y, m.z)

    def _stamp(self, m: Any, now_ns: int) -> int | None:
        """Our time of a message; None where it is older than one that came before."""
        stamp, restarts = m.time_boot_ms * _MS, self.sender.restarts
        if not self.sender.receipt(stamp, now_ns):
            return None
        if self.sender.restarts > restarts:
            self._forget()
        return self.sender.to_ours(stamp, now_ns)

    def timesync(self, sent_ns: int, stamp_ns: int, now_ns: int) -> None:
        """An answered TIMESYNC, see `SenderClock.timesync`."""
        restarts = self.sender.restarts
        self.sender.timesync(sent_ns, stamp_ns, now_ns)
        if self.sender.restarts > restarts:
            self._forget()

    def _forget(self) -> None:
        """The sender was restarted: nothing of before belongs to what comes now."""
        self._attitude = self._position = self._airspeed = self._global_ns = None

    def _take_attitude(self, m: Any, angles: tuple[float, float, float], now_ns: int) -> None:
        if (time_ns := self._stamp(m, now_ns)) is not None:
            self._attitude = _Attitude(time_ns, angles, (m.rollspeed, m.pitchspeed, m.yawspeed))

    def _take_global(self, m: Any, now_ns: int) -> None:
        time_ns = self._stamp(m, now_ns)
        if time_ns is None or self.home is None:
            return
        self._global_ns = now_ns
        north, east = self.home.to_metres(m.lat, m.lon)
        velocity = (m.vx * 0.01, m.vy * 0.01, m.vz * 0.01)
        self._position = _Position(time_ns, north, east, m.relative_alt * 1e-3, velocity)

    def _take_local(self, m: Any, now_ns: int) -> None:
        """PX4's local frame, where there is no global position; its HOME_POSITION says where home is in it."""
        time_ns = self._stamp(m, now_ns)
        lately = self._global_ns is not None and now_ns - self._global_ns < GLOBAL_LIFE_NS
        if time_ns is None or not self.local or self._home_local is None or lately:
            return
        x, y, z = self._home_local
        self._position = _Position(time_ns, m.x - x, m.y - y, z - m.z, (m.vx, m.vy, m.vz))

    @property
    def missing(self) -> list[str]:
        """What has to come before there is a state estimate."""
        parts = {
            "ATTITUDE": self._attitude,
            "HOME_POSITION": self.home,
            "GLOBAL_POSITION_INT": self._position,
            "VFR_HUD": self._airspeed,
        }
        return [name for name, value in parts.items() if value is None]

    def sample(self) -> Sample | None:
        """The state estimate; None until each part has come once."""
        a, p, v = self._attitude, self._position, self._airspeed
        if a is None or p is None or v is None:
            return None
        return Sample(
            min(a.time_ns, p.time_ns, v[0]), *a.angles_rad, *a.rates_radps, v[1], p.altitude_m, -p.velocity_mps[2],
            p.north_m, p.east_m, p.velocity_mps[0], p.velocity_mps[1],
        )  # fmt: skip

    def rc_us(self, now_ns: int) -> tuple[int, ...]:
        """Receiver pulse widths; empty where none came within a second."""
        return self._rc[1] if self._rc is not None and now_ns - self._rc[0] <= RC_LIFE_NS else ()
