"""What every foreign log is first read into: topics with a time of their own, and what the log says of itself."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["EMPTY", "ForeignLog", "Topic", "last_before", "ordered_times", "running_median"]

FloatArray = NDArray[np.float64]
EMPTY: FloatArray = np.empty(0)
MAX_TIME_S = 1e10
REGULAR, EDGE, EDGE_S = 20, 3, 60.0
OFTEN_S = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class Topic:
    """Messages of one kind from one sender.

    Attributes:
        name: as the log has it.
        instance: 0, or which of several sensors or senders.
        time_s: (n,) in the log's own clock, strictly increasing.
        fields: by name, (n,) each.
        dropped: messages left out because their time stamp ran backwards or far away.
    """

    name: str
    instance: int
    time_s: FloatArray
    fields: Mapping[str, NDArray[Any]]
    dropped: int = 0

    @classmethod
    def of(cls, name: str, instance: int, time_s: NDArray[Any], fields: Mapping[str, NDArray[Any]]) -> Topic:
        """With messages of an impossible time left out."""
        time = np.asarray(time_s, np.float64)
        keep = ordered_times(time)
        if not keep.all():
            time, fields = time[keep], {k: v[keep] for k, v in fields.items()}
        return cls(name, instance, time, fields, int(len(keep) - keep.sum()))

    def __len__(self) -> int:
        return len(self.time_s)

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def __getitem__(self, name: str) -> FloatArray:
        """(n,) a field as float64."""
        return np.asarray(self.fields[name], np.float64)

    def first(self, *names: str) -> FloatArray | None:
        """The first of these fields that is there."""
        return next((self[name] for name in names if name in self.fields), None)

    @property
    def period_s(self) -> float:
        """Median time between messages; NaN below two."""
        return float(np.median(np.diff(self.time_s))) if len(self.time_s) > 1 else np.nan


@dataclass(frozen=True, eq=False)
class ForeignLog:
    """One file, read.

    Attributes:
        path, format: `PX4 ULog`, `ArduPilot dataflash`, `MAVLink tlog`, `CSV folder`.
        autopilot: `PX4`, `ArduPilot`, or empty.
        vehicle: MAVLink's name of the aircraft type, lower case; empty where the log does not say.
        firmware: name and version; empty where the log does not say.
        simulated: what in the log says that nothing flew; empty where nothing does.
        start_time: ISO 8601 UTC of the log's time 0; empty where the log does not say.
        parameters: of the autopilot, at the start.
        topics: everything that was logged.
        texts: time_s and text of the autopilot's messages.
        dropouts: time_s and length_s of what the logger itself knows to be missing.
        damage: what could not be read, in sentences.
    """

    path: Path
    format: str
    topics: Sequence[Topic]
    autopilot: str = ""
    vehicle: str = ""
    firmware: str = ""
    simulated: str = ""
    start_time: str = ""
    parameters: Mapping[str, float] = field(default_factory=dict[str, float])
    texts: Sequence[tuple[float, str]] = ()
    dropouts: Sequence[tuple[float, float]] = ()
    damage: Sequence[str] = ()

    def find(self, *names: str, instance: int = 0) -> Topic | None:
        """The first of these topics that has messages."""
        for name in names:
            for topic in self.topics:
                if topic.name == name and topic.instance == instance and len(topic):
                    return topic
        return None

    def instances(self, name: str) -> Iterator[Topic]:
        """All topics of a name, by instance."""
        yield from sorted((t for t in self.topics if t.name == name and len(t)), key=lambda t: t.instance)

    @property
    def span_s(self) -> tuple[float, float]:
        """When data begins and ends: of topics that are logged again and again, so that neither a single message
        (a mission loaded at boot) nor a header's time stretches it. NaN where there is none."""
        often = [t for t in self.topics if len(t) >= 10] or [t for t in self.topics if len(t) > 1]
        often = [t for t in often if t.period_s <= OFTEN_S] or often
        if not often:
            return np.nan, np.nan
        return min(float(t.time_s[0]) for t in often), max(float(t.time_s[-1]) for t in often)

    @property
    def duration_s(self) -> float:
        """Of the data."""
        begin, end = self.span_s
        return end - begin


def running_median(x: FloatArray, width: int) -> FloatArray:
    """(n,) median over `width` (odd) neighbours; at the ends over those that are there."""
    half = width // 2
    if len(x) <= width:
        return np.full(len(x), np.median(x) if len(x) else np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(x, width)
    middle = np.median(windows, axis=1)
    return np.concatenate([np.full(half, middle[0]), middle, np.full(half, middle[-1])])


def last_before(time_s: FloatArray, values: FloatArray, at_s: FloatArray) -> FloatArray:
    """The last of (n,) values at or before each of (m,) times; 0 before the first."""
    i = np.searchsorted(time_s, at_s + 1e-9, side="right") - 1
    return np.where(i >= 0, values[np.maximum(i, 0)], 0.0)


def ordered_times(time_s: FloatArray) -> NDArray[np.bool_]:
    """(n,) which time stamps to believe: finite, not negative, and the largest set that is in order.

    A damaged stamp that jumps ahead, or runs back, costs itself and not what follows it. One at an end of messages
    that otherwise come regularly is not believed where it stands a minute and a hundred periods off.
    """
    keep = np.isfinite(time_s) & (time_s >= 0.0) & (time_s < MAX_TIME_S)
    index = np.flatnonzero(keep)
    if len(index) > 1 and (np.diff(time_s[index]) <= 0.0).any():
        index = index[_longest_increasing(time_s[index])]
    if len(index) >= REGULAR:
        steps = np.diff(time_s[index])
        period = float(np.median(steps))
        far = steps > max(EDGE_S, 100.0 * period)
        if np.quantile(steps, 0.9) < 3.0 * period:
            first = 1 + int(np.flatnonzero(far[:EDGE])[-1]) if far[:EDGE].any() else 0
            last = len(index) - EDGE + int(np.flatnonzero(far[-EDGE:])[0]) if far[-EDGE:].any() else len(index)
            index = index[first:last]
    result = np.zeros(len(time_s), bool)
    result[index] = True
    return result


def _longest_increasing(x: FloatArray) -> NDArray[np.int64]:
    """Indices of the longest strictly increasing subsequence (patience sorting, Fredman 1975)."""
    tails: list[float] = []
    ends: list[int] = []
    before = np.full(len(x), -1, np.int64)
    for i, value in enumerate(x.tolist()):
        place = len(tails) if not tails or value > tails[-1] else bisect.bisect_left(tails, value)
        if place:
            before[i] = ends[place - 1]
        if place == len(tails):
            tails.append(value)
            ends.append(i)
        else:
            tails[place], ends[place] = value, i
    chain = np.empty(len(tails), np.int64)
    i = ends[-1]
    for k in range(len(tails) - 1, -1, -1):
        chain[k] = i
        i = int(before[i])
    return chain
