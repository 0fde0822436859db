"""What a foreign log is, for `sim2sky log info`: who flew what for how long, how often topics came, what is missing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim2sky.telemetry.importers.episodes import clock_rate, flight_intervals
from sim2sky.telemetry.importers.gap_needs import missing_for_gap
from sim2sky.telemetry.importers.import_log import read_foreign, record
from sim2sky.telemetry.importers.resample import GAP_PERIODS
from sim2sky.telemetry.importers.topics import Topic

__all__ = ["ChannelSummary", "LogDescription", "TopicSummary", "describe"]


@dataclass(frozen=True)
class TopicSummary:
    """One line: how often, how evenly.

    Attributes:
        name, instance, messages: of the topic.
        rate_hz: median; NaN below two messages.
        gaps: pauses longer than `GAP_PERIODS` median periods; `longest_s` is the longest pause.
        bad_times: messages with a time stamp that was repeated, ran backwards or jumped.
    """

    name: str
    instance: int
    messages: int
    rate_hz: float
    gaps: int
    longest_s: float
    bad_times: int

    @classmethod
    def of(cls, topic: Topic) -> TopicSummary:
        """Of a topic."""
        steps = np.diff(topic.time_s)
        period = topic.period_s
        gaps = int((steps > GAP_PERIODS * period).sum()) if len(steps) else 0
        longest = float(steps.max(initial=0.0))
        return cls(topic.name, topic.instance, len(topic), 1.0 / period, gaps, longest, topic.dropped)


@dataclass(frozen=True)
class ChannelSummary:
    """A signal of the flight log that was found.

    Attributes:
        name, origin, rate_hz: as in `channels.Channel`; samples that are left.
        marked: samples left out, by reason.
    """

    name: str
    origin: str
    rate_hz: float
    samples: int
    marked: dict[str, int]


@dataclass(frozen=True)
class LogDescription:
    """See `ForeignLog` and `ImportResult`; `flights` are begin, end, condition and end reason."""

    file: str
    format: str
    autopilot: str
    vehicle: str
    firmware: str
    source: str
    simulated: str
    start_time: str
    duration_s: float
    rate_hz: float
    parameters: int
    dropouts: int
    dropped_s: float
    flights: list[tuple[float, float, str, str]]
    no_flight: str
    missing: list[str]
    notes: list[str]
    damage: list[str]
    channels: list[ChannelSummary]
    topics: list[TopicSummary]

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping; what is not finite is null."""
        return _finite(asdict(self))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}  # type: ignore[reportUnknownVariableType]
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]  # type: ignore[reportUnknownVariableType]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def describe(path: Path, mapping: Path | None = None) -> LogDescription:
    """What a foreign log holds.

    Raises:
        FlightLogError: there is none, or it is too damaged to be read.
        ConfigError: the mapping is wrong or missing.
        NotSupportedError: a format we do not read.
    """
    log = read_foreign(path, mapping)
    recording, _ = record(log, mapping)
    flights, reason = flight_intervals(recording)
    begin, _ = log.span_s
    channels = [
        ChannelSummary(c.name, c.origin, c.rate_hz, len(c.values), dict(c.marked)) for c in recording.channels.values()
    ]
    channels += [ChannelSummary(name, origin, 0.0, 0, marked) for name, (origin, marked) in recording.refused.items()]
    return LogDescription(
        path.name,
        log.format,
        log.autopilot,
        log.vehicle,
        log.firmware,
        "sim" if log.simulated else "real",
        log.simulated,
        log.start_time,
        log.duration_s,
        clock_rate(recording),
        len(log.parameters),
        len(log.dropouts),
        sum(length for _, length in log.dropouts),
        [(i.begin_s - begin, i.end_s - begin, i.condition, i.ended) for i in flights],
        reason,
        missing_for_gap(recording.channels, success=False),
        list(recording.notes),
        list(log.damage),
        channels,
        [TopicSummary.of(t) for t in sorted(log.topics, key=lambda t: (t.name, t.instance)) if len(t)],
    )
