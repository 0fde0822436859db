"""What a log lacks for a gap analysis, in words: the same list for foreign logs and for our own."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["missing_for_gap"]

_GROUPS = (
    ("attitude", ("roll", "pitch", "yaw"), "no replay, no tracking error in bank and pitch"),
    ("body rates", ("p", "q", "r"), "no replay, no identification of inertia and damping"),
    (
        "airspeed",
        ("airspeed",),
        "no thrust, no drag, no airspeed tracking, no dynamic pressure",
    ),
    ("altitude", ("altitude",), "no altitude tracking"),
    ("position", ("north", "east"), "no wind estimate from the ground track"),
    ("velocity over ground", ("v_north", "v_east", "v_down"), "no wind estimate"),
    ("surface commands", ("aileron", "elevator"), "no replay, no control effort, no identification"),
    ("throttle", ("throttle",), "no replay, no thrust estimate"),
)
_SETPOINTS = ("set_roll", "set_pitch", "set_altitude", "set_airspeed", "set_heading", "set_p", "set_q", "set_r")


def missing_for_gap(has: Callable[[str], bool]) -> list[str]:
    """What is missing and what that costs.

    Args:
        has: whether the log has a channel (names of `channels.UNITS_OF`) with data.
    """
    lines = []
    for what, names, cost in _GROUPS:
        lacking = [name for name in names if not has(name)]
        if lacking:
            part = "" if len(lacking) == len(names) else f" ({', '.join(lacking)})"
            lines.append(f"{what}{part}: {cost}")
    if not any(map(has, _SETPOINTS)):
        lines.append("setpoints: no tracking error at all")
    return lines
