"""What a comparison of two flight logs gives: the data that is printed, reported and acted upon."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sim2sky.analysis.comparison import MARGIN, GapVerdict, MetricComparison
from sim2sky.analysis.events import FlightEvent
from sim2sky.analysis.flight_metrics import FlightMetrics
from sim2sky.analysis.shift import ShiftReport
from sim2sky.config.environment import TaskSettings

__all__ = ["Decision", "GapAnalysis", "LogSummary", "PerformanceMetrics"]

Decision = Literal["RETRAIN", "DEPLOYED", "FLY MORE"]


@dataclass(frozen=True)
class PerformanceMetrics:
    """Performance metrics for gap analysis: means over flights.

    Attributes:
        success_rate: share of successful flights, of those that can be told.
        mean_tracking_error: in tolerances of the task (1: as far off as a success allows).
        mean_control_effort: mean absolute command, of full travel.
        episode_length: s, up to the planned duration.
    """

    success_rate: float
    mean_tracking_error: float
    mean_control_effort: float
    episode_length: float

    @classmethod
    def of(cls, flights: Sequence[FlightMetrics]) -> PerformanceMetrics:
        """Means of the flights that have a value; NaN where none has."""

        def mean(name: str) -> float:
            values = [v for f in flights if math.isfinite(v := f.values[name])]
            return math.fsum(values) / len(values) if values else math.nan

        return cls(mean("success"), mean("tracking_error"), mean("control_effort"), mean("episode_length"))


@dataclass(frozen=True)
class LogSummary:
    """What one of the two logs is, and the metrics of its flights (events cut off)."""

    path: Path
    source: str
    agent: str
    bundle_digest: str
    contract_hash: str
    rate_hz: float
    flights: tuple[FlightMetrics, ...]

    @property
    def title(self) -> str:
        """The log's own source and its number of flights."""
        n = len(self.flights)
        return f"{n} {self.source} flight{'s' if n != 1 else ''}"


@dataclass(frozen=True)
class GapAnalysis:
    """All that a comparison of two logs gave.

    Attributes:
        verdict, decision: see the module.
        strict: whether statistics decided; else the specification's point rule did.
        metrics: primary ones first. Flights in which something failed count up to that moment only.
        metrics_with_events: the same, failures counted as if they were the aircraft's own.
        verdict_with_events: what the verdict would be then.
        more_flights, more_sim_flights: how many more would decide, see `comparison.flights_needed`; None where no
            number would, 0 where decided.
        recommendations: the specification's texts that apply, or what else is to be said.
        warnings: what the reader must know about the two logs.
        events: failures found in flight, of the second log; `event_note` where there are too many to be failures.
        shift: the signals compared; None where they were not.
        task, planned_duration_s: what both logs are judged by.
    """

    verdict: GapVerdict
    decision: Decision
    strict: bool
    confidence: float
    sim: LogSummary
    real: LogSummary
    task: TaskSettings
    planned_duration_s: float
    metrics: tuple[MetricComparison, ...]
    metrics_with_events: tuple[MetricComparison, ...]
    verdict_with_events: GapVerdict
    more_flights: int | None
    more_sim_flights: int | None
    recommendations: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    events: tuple[FlightEvent, ...] = ()
    event_note: str = ""
    shift: ShiftReport | None = None
    gap_metrics: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def rule(self) -> str:
        """The rule behind the decision, in words."""
        if not self.strict:
            return (
                "point rule of the specification: RETRAIN where an observed mean crosses its threshold (success "
                "-0.15, tracking 1.5, effort 1.3, length 0.7), else DEPLOYED; no statistics"
            )
        return (
            f"RETRAIN where a metric is evidently worse (one-sided p, corrected for the metrics, at most "
            f"{1 - self.confidence:.2g}) and worse by {MARGIN:.0%} or more as estimated (success: by 0.15); DEPLOYED "
            f"where every {self.confidence:.0%} interval excludes {MARGIN:.0%} worse; else FLY MORE"
        )

    def metric(self, name: str) -> MetricComparison:
        """One comparison by its metric's name."""
        return next(c for c in self.metrics if c.metric.name == name)

    def to_json(self) -> dict[str, Any]:
        """JSON-compatible: verdict, decision, rule and the numbers behind them."""

        def log(s: LogSummary) -> dict[str, Any]:
            flights = [
                {
                    "name": f.name,
                    "seed": f.seed,
                    "termination": f.termination,
                    "duration_s": f.duration_s,
                    **{k: v if math.isfinite(v) else None for k, v in f.values.items()},
                }
                for f in s.flights
            ]
            return {
                "path": str(s.path), "source": s.source, "agent": s.agent, "bundle_digest": s.bundle_digest,
                "rate_hz": s.rate_hz, "flights": flights,
            }  # fmt: skip

        return {
            "verdict": self.verdict,
            "decision": self.decision,
            "strict": self.strict,
            "confidence": self.confidence,
            "rule": self.rule,
            "more_flights": self.more_flights,
            "more_sim_flights": self.more_sim_flights,
            "task": self.task.name,
            "planned_duration_s": self.planned_duration_s,
            "gap_metrics": {k: v if math.isfinite(v) else None for k, v in self.gap_metrics.items()},
            "metrics": [c.to_json() for c in self.metrics],
            "verdict_with_events": self.verdict_with_events,
            "metrics_with_events": [c.to_json() for c in self.metrics_with_events],
            "recommendations": list(self.recommendations),
            "warnings": list(self.warnings),
            "events": [e.to_json() for e in self.events],
            "event_note": self.event_note,
            "shift": None if self.shift is None else self.shift.to_json(),
            "sim": log(self.sim),
            "real": log(self.real),
        }
