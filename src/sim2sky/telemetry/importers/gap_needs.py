"""What a log lacks for a gap analysis, in words: the same list for foreign logs and for our own."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.telemetry.log_schema import COLUMNS

__all__ = ["channels_of", "missing_for_gap"]

_GROUPS = (
    ("attitude", ("roll", "pitch", "yaw"), "no replay, no tracking error in bank and pitch"),
    ("body rates", ("p", "q", "r"), "no replay, no identification of inertia and damping"),
    ("airspeed", ("airspeed",), "no thrust, no drag, no airspeed tracking, no dynamic pressure"),
    ("altitude", ("altitude",), "no altitude tracking"),
    ("position", ("north", "east"), "no wind estimate from the ground track"),
    ("surface commands", ("aileron", "elevator"), "no replay, no control effort, no identification"),
    ("throttle", ("throttle",), "no replay, no thrust estimate"),
)
_SETPOINTS = tuple(f"set_{name}" for name in COLUMNS["setpoints"])
_STATES = ("roll", "pitch", "yaw", "p", "q", "r", "airspeed", "altitude", "north", "east")


def missing_for_gap(channels: Container[str], *, success: bool) -> list[str]:
    """What is missing and what that costs.

    Args:
        channels: names of `channels.UNITS_OF` that the log has data of.
        success: whether it says which flights fulfilled their task.
    """
    lines: list[str] = []
    for what, names, cost in _GROUPS:
        lacking = [name for name in names if name not in channels]
        if lacking:
            part = "" if len(lacking) == len(names) else f" ({', '.join(lacking)})"
            lines.append(f"{what}{part}: {cost}")
    if not any(name in channels for name in _SETPOINTS):
        lines.append("setpoints: no tracking error at all")
    if not success:
        lines.append("success: the log does not say whether a flight fulfilled its task, so there is no success rate")
    return lines


def channels_of(arrays: Mapping[str, NDArray[Any]]) -> set[str]:
    """Names of the channels that an episode's tables have a finite value of."""
    found: set[str] = set()
    for dataset, prefix, wanted in (
        ("states", "", _STATES),
        ("controls", "", COLUMNS["controls"]),
        ("setpoints", "set_", COLUMNS["setpoints"]),
    ):
        table = arrays.get(dataset)
        if table is not None and table.ndim == 2:
            for i, name in enumerate(COLUMNS[dataset][: table.shape[1]]):
                if name in wanted and np.isfinite(table[:, i]).any():
                    found.add(prefix + name)
    return found
