"""Signals of a flight in our units and frames, each still at the times at which it was logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.runtime.frames import Geodetic
from sim2sky.telemetry.importers.topics import FloatArray, Topic, running_median

__all__ = ["ANGLES", "UNITS_OF", "Channel", "Method", "Recording", "euler_angles", "north_east"]


class Method(StrEnum):
    """How a channel comes onto another clock."""

    LINEAR = "linear"
    ANGLE = "unwrapped, linear"
    HOLD = "held"
    STATE = "held until it changes"


@dataclass(frozen=True, slots=True, eq=False)
class Channel:
    """One signal.

    Attributes:
        name: see `UNITS_OF`.
        origin: topic and field it comes from.
        time_s, values: (n,) each; without what was marked.
        method: for resampling.
        marked: how many samples were left out, by reason.
    """

    name: str
    origin: str
    time_s: FloatArray
    values: FloatArray
    method: Method
    marked: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def rate_hz(self) -> float:
        """Median rate; 0 below two samples."""
        if len(self.time_s) < 2:
            return 0.0
        return float(1.0 / np.median(np.diff(self.time_s)))


ANGLES = ("roll", "pitch", "yaw", "set_roll", "set_pitch", "set_heading")
_STATES = ("armed", "airborne", "engaged", "mode")
_COMMANDS = ("aileron", "elevator", "rudder", "throttle")
_SETPOINTS = {"set_altitude": "m", "set_airspeed": "m/s", "set_heading": "rad", "set_roll": "rad", "set_pitch": "rad",
              "set_p": "rad/s", "set_q": "rad/s", "set_r": "rad/s"}  # fmt: skip
UNITS_OF: Mapping[str, str] = {
    "roll": "rad", "pitch": "rad", "yaw": "rad", "p": "rad/s", "q": "rad/s", "r": "rad/s",
    "north": "m", "east": "m", "altitude": "m", "v_north": "m/s", "v_east": "m/s", "v_down": "m/s",
    "airspeed": "m/s", **dict.fromkeys(_COMMANDS, "1"), **_SETPOINTS, **dict.fromkeys(_STATES, ""),
}  # fmt: skip
"""Every channel and its unit. Angles of the body (forward, right, down) against north, east, down; `altitude` above
home; `airspeed` calibrated; commands positive to the right, nose up, nose right."""

# What a fixed-wing aircraft and its sensors can do: floor, and change per second, of a sample against its neighbours.
_SPIKE = {
    "roll": (0.3, 10.0), "pitch": (0.3, 6.0), "yaw": (0.3, 8.0), **dict.fromkeys(("p", "q", "r"), (3.0, 100.0)),
    "north": (20.0, 150.0), "east": (20.0, 150.0), "altitude": (10.0, 60.0),
    "v_north": (8.0, 60.0), "v_east": (8.0, 60.0), "v_down": (8.0, 60.0), "airspeed": (6.0, 40.0),
}  # fmt: skip
_RANGE = {
    "pitch": (-1.6, 1.6), **dict.fromkeys(("p", "q", "r"), (-60.0, 60.0)), "airspeed": (0.0, 200.0),
    "altitude": (-2000.0, 20000.0), "north": (-2e5, 2e5), "east": (-2e5, 2e5),
    **dict.fromkeys(("v_north", "v_east", "v_down"), (-300.0, 300.0)),
    **dict.fromkeys(_COMMANDS[:3], (-1.5, 1.5)), "throttle": (-1.0, 1.5), "set_altitude": (-2000.0, 20000.0),
    "set_airspeed": (0.0, 200.0),
}  # fmt: skip
_SPIKE_WIDTH = 7


class Recording:
    """The channels of one log; the first source given for a name is the one taken.

    Attributes:
        channels: by name.
        refused: origin, and samples by reason, of channels of which nothing was left.
        notes: what a reader should know about how they were found.
    """

    def __init__(self) -> None:
        self.channels: dict[str, Channel] = {}
        self.refused: dict[str, tuple[str, dict[str, int]]] = {}
        self.notes: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self.channels

    def __getitem__(self, name: str) -> Channel:
        return self.channels[name]

    def add(
        self,
        name: str,
        topic: Topic | None,
        values: FloatArray | None,
        *,
        origin: str = "",
        valid: NDArray[np.bool_] | None = None,
        reason: str = "declared invalid",
    ) -> bool:
        """Take a channel, with what cannot be true marked and left out.

        Args:
            name: one of `UNITS_OF`.
            topic: whose times it has; None, as no `values`, adds nothing.
            values: (n,) in our unit; NaN where there is no value.
            origin: the field's name.
            valid: (n,) where the log itself says the value holds.
            reason: of what is not valid.

        Returns:
            Whether it was taken: not if there is a channel of that name already, or nothing is left of this one.
        """
        if topic is None or values is None or name in self.channels:
            return False
        marked: dict[str, int] = {}
        keep = np.ones(len(values), bool)

        def mark(bad: NDArray[np.bool_], why: str) -> None:
            if count := int((bad & keep).sum()):
                marked[why] = marked.get(why, 0) + count
                keep[bad] = False

        if valid is not None:
            mark(~valid, reason)
        mark(~np.isfinite(values), "not a number")
        if name in _RANGE:
            low, high = _RANGE[name]
            mark(values < low, "negative" if low == 0.0 else "out of range")
            mark(values > high, "out of range")
        method = _method(name)
        index = np.flatnonzero(keep)
        if name in _SPIKE and len(index) > 2:
            floor, slew = _SPIKE[name]
            good = values[index]
            good = np.unwrap(good) if method is Method.ANGLE else good
            reach = running_median(np.gradient(topic.time_s[index]), _SPIKE_WIDTH) * (_SPIKE_WIDTH // 2 + 1)
            off = np.zeros(len(values), bool)
            off[index[np.abs(good - running_median(good, _SPIKE_WIDTH)) > floor + slew * reach]] = True
            mark(off, "jump")
        if topic.dropped:
            marked["time stamp"] = topic.dropped
        where = f"{topic.name}{f'[{topic.instance}]' if topic.instance else ''}"
        where += f".{origin}" if origin else ""
        if not keep.any():
            self.refused.setdefault(name, (where, marked))
            return False
        self.refused.pop(name, None)
        self.channels[name] = Channel(name, where, topic.time_s[keep], values[keep], method, marked)
        return True


def _method(name: str) -> Method:
    if name in _STATES:
        return Method.STATE
    if name in _COMMANDS or name in _SETPOINTS:
        return Method.HOLD
    return Method.ANGLE if name in ANGLES else Method.LINEAR


def north_east(home: Geodetic, latitude_deg: FloatArray, longitude_deg: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Metres north and east of home, (n,) each."""
    to_metres: Any = home.to_metres  # plain arithmetic: takes arrays as well
    north, east = to_metres(latitude_deg * 1e7, longitude_deg * 1e7)
    return north, east


def euler_angles(
    w: FloatArray, x: FloatArray, y: FloatArray, z: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """3-2-1 Euler angles (roll, pitch, yaw; rad; (n,) each) of unit quaternions from north-east-down to body; NaN where
    they are none."""
    norm = np.sqrt(w * w + x * x + y * y + z * z)
    norm = np.where(np.abs(norm - 1.0) < 0.1, norm, np.nan)
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    return (
        np.arctan2(2.0 * (w * x + y * z), 1.0 - 2.0 * (x * x + y * y)),
        np.arcsin(np.clip(2.0 * (w * y - z * x), -1.0, 1.0)),
        np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z)),
    )
