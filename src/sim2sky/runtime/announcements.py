"""What the flight agent says of itself, so that a ground station (QGroundControl, MAVProxy) shows it. No I/O."""

from __future__ import annotations

from typing import Any

from sim2sky.runtime.link import mavlink
from sim2sky.runtime.vehicle import Status

__all__ = ["Announcer"]

_S = 1_000_000_000
HEARTBEAT_NS = _S
VALUES_NS = _S // 2
MAX_TEXT = 50


class Announcer:
    """Decides what is due. Heartbeats once a second, as every MAVLink component; named values twice; texts at once."""

    def __init__(self) -> None:
        self._heartbeat_ns: int | None = None
        self._values_ns: int | None = None
        self._status = Status(engaged=False, guard=0, trips=0, late=0)
        self._texts: list[str] = []

    def update(self, status: Status, text: str = "") -> None:
        """Take note of how it goes, and of something to be said once."""
        self._status = status
        if text:
            self._texts.append(text)

    def due(self, now_ns: int) -> list[Any]:
        """Messages to send now."""
        out: list[Any] = []
        s = self._status
        if self._heartbeat_ns is None or now_ns - self._heartbeat_ns >= HEARTBEAT_NS:
            self._heartbeat_ns = now_ns
            out.append(heartbeat(s))
        if self._values_ns is None or now_ns - self._values_ns >= VALUES_NS:
            self._values_ns = now_ns
            time_ms = now_ns // 1_000_000 & 0xFFFFFFFF
            values = {"s2s_engage": s.engaged, "s2s_guard": s.guard, "s2s_trips": s.trips, "s2s_late": s.late}
            out += [
                mavlink.MAVLink_named_value_float_message(time_ms, name.encode(), float(value))
                for name, value in values.items()
            ]
        for text in self._texts:
            line = f"sim2sky: {text}".encode("ascii", "replace")[:MAX_TEXT]
            out.append(mavlink.MAVLink_statustext_message(mavlink.MAV_SEVERITY_NOTICE, line))
        self._texts.clear()
        return out


def heartbeat(status: Status) -> Any:
    """HEARTBEAT of an onboard computer; its custom mode is the guard's mode."""
    engaged = status.engaged
    base = mavlink.MAV_MODE_FLAG_CUSTOM_MODE_ENABLED | (mavlink.MAV_MODE_FLAG_GUIDED_ENABLED if engaged else 0)
    state = mavlink.MAV_STATE_ACTIVE if engaged else mavlink.MAV_STATE_STANDBY
    return mavlink.MAVLink_heartbeat_message(
        mavlink.MAV_TYPE_ONBOARD_CONTROLLER, mavlink.MAV_AUTOPILOT_INVALID, base, status.guard, state, 3
    )
