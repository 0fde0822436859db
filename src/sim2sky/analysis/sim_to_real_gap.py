"""The sim-to-real gap: two flight logs in; metrics, intervals, a verdict and a decision out.

The verdict is one of `gap`, `no gap`, `not enough flights`, and the decision `RETRAIN`, `DEPLOYED` or `FLY MORE`. With
`strict=False` the specification's literal rule decides instead: thresholds on observed means, no statistics.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sim2sky.analysis.comparison import GapVerdict, MetricComparison, compare_metric, flights_needed, judge
from sim2sky.analysis.comparison_plot import bars_of, plot_bars
from sim2sky.analysis.diagnosis import ACCEPTABLE, by_evidence, by_points
from sim2sky.analysis.events import EventSearch, find_events
from sim2sky.analysis.flight_metrics import (
    METRICS,
    FlightData,
    FlightMetrics,
    channel_metrics,
    flights_of,
    metrics_of,
    task_of,
    tracked_channels,
)
from sim2sky.analysis.gap_analysis import Decision, GapAnalysis, LogSummary, PerformanceMetrics
from sim2sky.analysis.shift import shift_report
from sim2sky.config.environment import TaskSettings
from sim2sky.errors import ConfigError
from sim2sky.telemetry.flight_log import read_flight_log

__all__ = [
    "Decision",
    "GapAnalysis",
    "LogSummary",
    "NotLoadedError",
    "PerformanceMetrics",
    "SimToRealGapAnalyzer",
]

LONGER = 1.5  # a real flight so many times the planned duration is worth a warning


class NotLoadedError(ConfigError, ValueError):
    """Asked for a gap before both logs were loaded."""

    def __init__(self) -> None:
        super().__init__(
            "Must load both sim and real data first", hint="call load_sim_data and load_real_data with a log each"
        )


@dataclass(frozen=True, eq=False)
class _Side:
    summary: LogSummary
    task: TaskSettings | None
    stated: bool
    flights: tuple[FlightData, ...]
    vehicle: str


class SimToRealGapAnalyzer:
    """Analyze performance gap between simulation and real hardware.

    Args:
        strict: statistics decide; False gives the specification's point rule.
        confidence: of the intervals and of the evidence.

    Attributes:
        sim_metrics, real_metrics: means of each log, None until it is loaded.
    """

    def __init__(self, *, strict: bool = True, confidence: float = 0.95) -> None:
        self.strict = strict
        self.confidence = confidence
        self.sim_metrics: PerformanceMetrics | None = None
        self.real_metrics: PerformanceMetrics | None = None
        self._sim: _Side | None = None
        self._real: _Side | None = None
        self._search = EventSearch(())

    def load_sim_data(self, log_path: str | Path) -> None:
        """Load simulation performance data from a flight log.

        Raises:
            FlightLogError: the log cannot be read, or has no episodes.
            ConfigError: it cannot be compared with the other one.
        """
        self._sim = _load(Path(log_path))
        self.sim_metrics = PerformanceMetrics.of(self._measured(self._sim))
        self._together()

    def load_real_data(self, log_path: str | Path) -> None:
        """Load real hardware performance data from a flight log; `load_sim_data` has the errors."""
        self._real = _load(Path(log_path))
        self.real_metrics = PerformanceMetrics.of(self._measured(self._real))
        self._together()

    def compute_gap_metrics(self) -> dict[str, float]:
        """Compute sim-to-real gap metrics.

        Returns:
            `success_rate_diff`, `tracking_error_ratio`, `control_effort_ratio`, `episode_length_ratio`, of the means.
            A ratio to zero is inf, 0/0 is 1 (nothing differs), and NaN stays NaN.

        Raises:
            NotLoadedError: a log is missing (also a ValueError).
        """
        if self.sim_metrics is None or self.real_metrics is None:
            raise NotLoadedError
        sim, real = self.sim_metrics, self.real_metrics
        return {
            "success_rate_diff": real.success_rate - sim.success_rate,
            "tracking_error_ratio": _ratio(real.mean_tracking_error, sim.mean_tracking_error),
            "control_effort_ratio": _ratio(real.mean_control_effort, sim.mean_control_effort),
            "episode_length_ratio": _ratio(real.episode_length, sim.episode_length),
        }

    def diagnose_gap(self) -> list[str]:
        """Diagnose causes of sim-to-real gap and suggest improvements.

        Strict: a text of the specification where its threshold is crossed **and** the metric is evidently worse; the
        sentence on an acceptable gap where every interval shows it; else what is missing. Not strict: as specified.

        Raises:
            NotLoadedError: a log is missing (also a ValueError).
        """
        gap = self.compute_gap_metrics()
        return list(self.analyse().recommendations) if self.strict else by_points(gap)

    def plot_comparison(self, save_path: str | Path | None = None) -> None:
        """Plot sim vs real performance comparison to a file, or in a window without one.

        Raises:
            NotLoadedError: a log is missing (also a ValueError).
            FlightLogError: the file cannot be written.
            MissingExtraError: matplotlib is not installed.
        """
        if self.sim_metrics is None or self.real_metrics is None:
            raise NotLoadedError
        compared = self.analyse().metrics if self._sim and self._real else ()
        bars = bars_of(self.sim_metrics, self.real_metrics, compared)
        source = self._real.summary.source if self._real else "real"
        plot_bars(bars, None if save_path is None else Path(save_path), source)

    def analyse(self) -> GapAnalysis:
        """Everything at once.

        Raises:
            NotLoadedError: a log is missing (also a ValueError).
        """
        if self._sim is None or self._real is None:
            raise NotLoadedError
        points = self.compute_gap_metrics()
        sim, task, planned_s, search = self._sim, self._task, self._planned_s, self._search
        told = {event.flight: event.time_s for event in search.events}
        simulated = self._measured(sim)
        real = self._measured(self._real, told)
        verdict, metrics = self._judged(simulated, real)
        whole = (verdict, metrics) if not told else self._judged(simulated, self._measured(self._real))
        needed = flights_needed(metrics, confidence=self.confidence)
        more, more_sim = needed if needed is not None else (None, None)
        if self.strict:
            texts = by_evidence(verdict, metrics, points, more, more_sim)
            decision: Decision = "RETRAIN" if verdict == "gap" else "DEPLOYED" if verdict == "no gap" else "FLY MORE"
        else:
            texts = by_points(points)
            decision = "DEPLOYED" if texts == [ACCEPTABLE] else "RETRAIN"
        first = [f.until(planned_s) for f in sim.flights]
        second = [f.until(min(planned_s, told.get(f.name, planned_s))) for f in self._real.flights]
        return GapAnalysis(
            verdict=verdict,
            decision=decision,
            strict=self.strict,
            confidence=self.confidence,
            sim=replace(sim.summary, flights=tuple(simulated)),
            real=replace(self._real.summary, flights=tuple(real)),
            task=task,
            planned_duration_s=planned_s,
            metrics=metrics,
            metrics_with_events=whole[1],
            verdict_with_events=whole[0],
            more_flights=more,
            more_sim_flights=more_sim,
            recommendations=tuple(texts),
            warnings=tuple(_warnings(sim, self._real, planned_s)),
            events=search.events,
            event_note=search.note,
            shift=shift_report(first, second, task.name),
            gap_metrics=points,
        )

    def _judged(
        self, sim: Sequence[FlightMetrics], real: Sequence[FlightMetrics]
    ) -> tuple[GapVerdict, tuple[MetricComparison, ...]]:
        wanted = (*METRICS, *channel_metrics(self._task.name))
        return judge(
            [compare_metric(m, sim, real, self._planned_s, confidence=self.confidence) for m in wanted],
            confidence=self.confidence,
        )

    def _together(self) -> None:
        """Both loaded: refuse what cannot be compared, and measure both by the same task."""
        if self._sim is None or self._real is None:
            return
        _check_comparable(self._sim, self._real)
        self._search = find_events(self._sim.flights, self._real.flights)
        # The specification's rule knows no events.
        told = {event.flight: event.time_s for event in self._search.events} if self.strict else {}
        self.sim_metrics = PerformanceMetrics.of(self._measured(self._sim))
        self.real_metrics = PerformanceMetrics.of(self._measured(self._real, told))

    @property
    def _task(self) -> TaskSettings:
        """The simulated log's, where it states one; else the other's; else the default."""
        sides = [side for side in (self._sim, self._real) if side is not None]
        stated = [side.task for side in sides if side.task is not None and side.stated]
        found = stated or [side.task for side in sides if side.task is not None]
        return found[0] if found else TaskSettings()

    @property
    def _planned_s(self) -> float:
        """What a full flight lasts: as stated, or what the simulated flights lasted in the middle."""
        for side in (self._sim, self._real):
            if side is not None and side.task is not None and side.stated:
                return side.task.duration_s
        flights = (self._sim or self._real).flights  # type: ignore[union-attr]
        return statistics.median(f.duration_s for f in flights)

    def _measured(self, side: _Side, events: Mapping[str, float] | None = None) -> list[FlightMetrics]:
        task, planned_s = self._task, self._planned_s
        channels = frozenset.intersection(
            *(tracked_channels(s.flights, task.name) for s in (self._sim, self._real) if s is not None)
        )
        cuts = events or {}
        return [metrics_of(f, task, planned_s, event_s=cuts.get(f.name), channels=channels) for f in side.flights]


def _load(path: Path) -> _Side:
    with read_flight_log(path) as log:
        m = log.metadata
        flights = flights_of(log)
        task = task_of(log)
        config = m.config
        stated = isinstance(config.get("task"), dict) or isinstance((config.get("environment") or {}).get("task"), dict)
        summary = LogSummary(path, m.source, m.agent, m.bundle_digest, m.contract_hash, m.rate_hz, ())
        return _Side(summary, task, stated, tuple(flights), str(config.get("vehicle", "")))


def _check_comparable(sim: _Side, real: _Side) -> None:
    a, b = sim.summary, real.summary
    if a.path.exists() and b.path.exists() and a.path.samefile(b.path):
        raise ConfigError(f"{a.path} is compared with itself", hint="sim2sky gap SIM.h5 REAL.h5 with two logs")
    if sim.task is not None and real.task is not None and sim.task.name != real.task.name:
        raise ConfigError(
            f"{a.path.name} flies the task '{sim.task.name}', {b.path.name} '{real.task.name}'",
            hint="simulate what was flown",
        )
    if a.bundle_digest and b.bundle_digest:
        length = min(len(a.bundle_digest), len(b.bundle_digest))
        if a.bundle_digest[:length] != b.bundle_digest[:length]:
            raise ConfigError(
                f"two different agents: {a.path.name} has bundle {a.bundle_digest[:16]}, {b.path.name} "
                f"{b.bundle_digest[:16]}; a difference between them would say nothing about the aircraft",
                hint="simulate the bundle that flew: sim2sky simulate BUNDLE --log SIM.h5",
            )
    if a.contract_hash and b.contract_hash and a.contract_hash != b.contract_hash:
        raise ConfigError(
            f"{a.path.name} and {b.path.name} were flown with different contracts",
            hint="simulate the bundle that flew: sim2sky simulate BUNDLE --log SIM.h5",
        )


def _warnings(first: _Side, second: _Side, planned_s: float) -> list[str]:
    sim, real = first.summary, second.summary
    told: list[str] = []
    if sim.source not in ("sim", "hil"):
        told.append(f"{sim.path.name} is compared as the simulation, but its log says '{sim.source}'")
    if real.source in ("sim", "hil"):
        told.append(f"{real.path.name} is compared as the aircraft, but its log says '{real.source}'")
    if real.source == "virtual":
        told.append(f"{real.path.name} is of a virtual aircraft: nothing here is about a real one")
    if not (sim.bundle_digest and real.bundle_digest):
        told.append("a log does not say which bundle flew: that both flew the same agent is not checked")
    if first.vehicle and second.vehicle and first.vehicle != second.vehicle:
        told.append(f"the logs name two vehicles, '{first.vehicle}' and '{second.vehicle}'")
    if sim.rate_hz and real.rate_hz and not math.isclose(sim.rate_hz, real.rate_hz, rel_tol=0.02):
        told.append(f"control rates differ: {sim.rate_hz:g} Hz and {real.rate_hz:g} Hz")
    if any(f.duration_s > LONGER * planned_s for f in second.flights):
        told.append(f"some {real.source} flights are longer: the first {planned_s:g} s of each are compared")
    return told


def _ratio(real: float, sim: float) -> float:
    if math.isnan(real) or math.isnan(sim):
        return math.nan
    if sim == 0.0:
        return 1.0 if real == 0.0 else math.inf
    return real / sim
