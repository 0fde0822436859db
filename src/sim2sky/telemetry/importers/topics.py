"""What every foreign log is first read into: topics with a time of their own, and what the log says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["EMPTY", "ForeignLog", "Topic", "ordered_times", "running_median"]

FloatArray = NDArray[np.float64]
EMPTY: FloatArray = np.empty(0)
MAX_TIME_S = 1e10
JUMP_S = 0.5
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
    """(n,) median over `width` (odd) neighbours, fewer at the ends."""
    half = width // 2
    if len(x) == 0:
        return x
    padded = np.concatenate([np.full(half, np.nan), x, np.full(half, np.nan)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    result = np.empty(len(x))
    inner = slice(half, len(x) - half)
    if len(x) > 2 * half:
        result[inner] = np.median(windows[inner], axis=1)
    for i in [*range(min(half, len(x))), *range(max(len(x) - half, half), len(x))]:
        seen = windows[i][~np.isnan(windows[i])]
        result[i] = np.median(seen) if len(seen) else np.nan
    return result


def ordered_times(time_s: FloatArray) -> NDArray[np.bool_]:
    """(n,) which time stamps to believe: finite, not negative, in order, and not alone far ahead of their neighbours.

    In an ordered sequence every element is the median of its neighbourhood; one that is not by more than half a
    second (or five periods) is damaged. Of what is left, each must be later than all before it.
    """
    keep = np.isfinite(time_s) & (time_s >= 0.0) & (time_s < MAX_TIME_S)
    index = np.flatnonzero(keep)
    t = time_s[index]
    if len(t) < 2:
        return keep
    if (len(t) > 2 and (np.diff(t) <= 0.0).any()) or (np.diff(t) > JUMP_S).any():
        step = float(np.median(np.abs(np.diff(t))))
        off = np.abs(t - running_median(t, 7)) > max(JUMP_S, 5.0 * step)
        keep[index[off]] = False
        index = index[~off]
        t = t[~off]
    if len(t) > 1:
        latest = np.maximum.accumulate(t)
        keep[index[1:][t[1:] <= latest[:-1]]] = False
    return keep
