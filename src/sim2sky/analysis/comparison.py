"""Metrics of two groups of flights compared: intervals, evidence, and what they say together.

`gap`: at least one metric is evidently worse (one-sided, corrected for the number of metrics) and, as estimated, worse
by a relevant amount. `no gap`: every interval lies within 20 % on the worse side. Else there are not enough flights,
and how many more would decide is computed. Why: docs/adr/0014.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sim2sky.analysis.flight_metrics import FlightMetrics, Metric
from sim2sky.validation.statistics import fewest
from sim2sky.validation.two_sample import Effect, LogSample, holm, newcombe, share_ratio, welch_log_ratio

__all__ = [
    "MARGIN",
    "Arms",
    "GapVerdict",
    "MetricComparison",
    "compare_metric",
    "flights_needed",
    "judge",
]

GapVerdict = Literal["gap", "no gap", "not enough flights"]
Finding = Literal["gap", "no gap", "undecided", "missing"]

MARGIN = 0.20
"""What a metric may be worse by: the specification's "<20% on all metrics"."""
RELEVANT_SUCCESS = 0.15
"""A loss of success that is a gap where it is evident: the specification's threshold, tighter than the margin."""
MOST_FLIGHTS = 100_000
FEWEST = 2  # flights on each side that can be evidence
FULL = 0.99  # of the planned duration: the log may lack the last ticks


@dataclass(frozen=True, slots=True)
class Arms:
    """What the comparison of one metric needs of both groups.

    Attributes:
        n_sim, n_real: flights with a value.
        sim_sum, real_sum: sums of the values: successes, or shares of the planned duration.
        full: flights that lasted as planned, simulated and real; 0 for anything but shares.
        logs: of both groups, simulated first; None for anything but ratios.
    """

    n_sim: int
    n_real: int
    sim_sum: float
    real_sum: float
    full: tuple[int, int] = (0, 0)
    logs: tuple[LogSample, LogSample] | None = None

    def effect(self, kind: str, confidence: float) -> Effect:
        """Real against simulated."""
        if self.logs is not None:
            return welch_log_ratio(*self.logs, confidence=confidence)
        if kind == "proportion":
            return newcombe(round(self.sim_sum), self.n_sim, round(self.real_sum), self.n_real, confidence=confidence)
        return share_ratio(self.sim_sum, self.n_sim, self.real_sum, self.n_real, full=self.full, confidence=confidence)

    def grown(self, sim: float, real: float) -> Arms:
        """So many times as many flights of the same kind: rates, means and scatter as observed.

        A single flight has no scatter of its own: the other group's stands in.
        """
        n_sim, n_real = max(round(self.n_sim * sim), 1), max(round(self.n_real * real), 1)
        logs = None
        if self.logs is not None:
            a, b = self.logs
            first, second = a.variance, b.variance
            logs = (
                LogSample(n_sim, a.mean, first if math.isfinite(first) else second),
                LogSample(n_real, b.mean, second if math.isfinite(second) else first),
            )
        sim, real = n_sim / self.n_sim, n_real / self.n_real
        full = round(self.full[0] * sim), round(self.full[1] * real)
        sums = min(self.sim_sum * sim, n_sim), min(self.real_sum * real, n_real)
        return Arms(n_sim, n_real, *sums, full, logs)


@dataclass(frozen=True)
class MetricComparison:
    """One metric, real against simulated.

    Attributes:
        metric: which.
        sim, real: arithmetic means over the flights that have a value.
        sim_values, real_values: those values, one per flight.
        estimate, low, high: difference (success) or ratio (others; of geometric means, length of arithmetic ones) with
            its two-sided confidence interval.
        p_worse: that the real flights are not worse, one-sided; adjusted for the metrics of the verdict, else raw.
        evident: p_worse is small enough. relevant: as estimated, worse by a relevant amount.
        finding: what this metric says.
        reason: why it is missing, or what is special about it; may be empty.
    """

    metric: Metric
    sim: float
    real: float
    sim_values: tuple[float, ...]
    real_values: tuple[float, ...]
    estimate: float
    low: float
    high: float
    p_worse: float
    evident: bool
    relevant: bool
    finding: Finding
    reason: str = ""
    arms: Arms | None = None

    @property
    def is_difference(self) -> bool:
        """Whether `estimate` is a difference; else a ratio."""
        return self.metric.kind == "proportion"

    def to_json(self) -> dict[str, Any]:
        """JSON-compatible; what is not finite is null."""
        return {
            "metric": self.metric.name,
            "label": self.metric.label,
            "unit": self.metric.unit,
            "primary": self.metric.primary,
            "effect": "difference" if self.is_difference else "ratio",
            **{k: _plain(getattr(self, k)) for k in ("sim", "real", "estimate", "low", "high", "p_worse")},
            "sim_flights": len(self.sim_values),
            "real_flights": len(self.real_values),
            "evident": self.evident,
            "relevant": self.relevant,
            "finding": self.finding,
            "reason": self.reason,
        }


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _values(flights: Sequence[FlightMetrics], name: str) -> tuple[float, ...]:
    return tuple(v for f in flights if math.isfinite(v := f.values.get(name, math.nan)))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def compare_metric(
    metric: Metric,
    sim: Sequence[FlightMetrics],
    real: Sequence[FlightMetrics],
    planned_s: float,
    *,
    confidence: float = 0.95,
) -> MetricComparison:
    """One metric alone; `judge` puts several together.

    A value that is NaN is left out. No flight with a value on one side, or a value of zero where a ratio is meant: the
    finding is `missing`, and the reason says why.
    """
    a, b = _values(sim, metric.name), _values(real, metric.name)

    def missing(reason: str) -> MetricComparison:
        nan = math.nan
        return MetricComparison(metric, _mean(a), _mean(b), a, b, nan, nan, nan, nan, False, False, "missing", reason)

    if not a or not b:
        which = "both logs lack" if not a and not b else f"the {'first' if not a else 'second'} log lacks"
        return missing(f"{which} what tells the {metric.label}")
    if metric.kind == "ratio":
        if min(a) <= 0.0 or min(b) <= 0.0:
            return missing(f"a {metric.label} of zero has no ratio")
        arms = Arms(len(a), len(b), math.fsum(a), math.fsum(b), logs=(LogSample.of(a), LogSample.of(b)))
    else:
        whole = planned_s if metric.kind == "share" else 1.0
        shares = [[min(v / whole, 1.0) for v in values] for values in (a, b)]
        sums = [math.fsum(values) for values in shares]
        full = [sum(v > FULL for v in values) for values in shares]
        arms = Arms(len(a), len(b), sums[0], sums[1], (full[0], full[1]))
    result = MetricComparison(
        metric, _mean(a), _mean(b), a, b, math.nan, math.nan, math.nan, math.nan, False, False, "undecided", "", arms
    )
    return _with_effect(result, arms, confidence, 1.0)


def _with_effect(c: MetricComparison, arms: Arms, confidence: float, p_factor: float) -> MetricComparison:
    effect = arms.effect(c.metric.kind, confidence)
    p = effect.p_lower if c.metric.worse == "lower" else effect.p_higher
    c = replace(c, estimate=effect.estimate, low=effect.low, high=effect.high, arms=arms)
    return _with_p(c, min(p * p_factor, 1.0), confidence)


def _with_p(c: MetricComparison, p: float, confidence: float) -> MetricComparison:
    arms = c.arms
    # One flight is an anecdote, however unlikely: whatever befell it befell it alone.
    evident = p <= 1.0 - confidence and arms is not None and min(arms.n_sim, arms.n_real) >= FEWEST
    relevant = _loss(c, c.estimate) >= (RELEVANT_SUCCESS if c.is_difference else MARGIN) - 1e-12
    worst = c.low if c.metric.worse == "lower" else c.high
    finding: Finding = "gap" if evident and relevant else "no gap" if _loss(c, worst) < MARGIN else "undecided"
    return replace(c, p_worse=p, evident=evident, relevant=relevant, finding=finding)


def _loss(c: MetricComparison, value: float) -> float:
    """How much worse a difference or ratio is than equality; negative: better."""
    if c.is_difference:
        return -value
    return 1.0 - value if c.metric.worse == "lower" else value - 1.0


def judge(
    comparisons: Sequence[MetricComparison], *, confidence: float = 0.95
) -> tuple[GapVerdict, tuple[MetricComparison, ...]]:
    """The verdict of the primary metrics, and all metrics with the primary ones' p-values adjusted (Holm)."""
    primary = [c for c in comparisons if c.metric.primary and c.finding != "missing"]
    adjusted = dict(zip((c.metric.name for c in primary), holm([c.p_worse for c in primary]), strict=True))
    result = tuple(
        _with_p(c, adjusted[c.metric.name], confidence) if c.metric.name in adjusted else c for c in comparisons
    )
    findings = [c.finding for c in result if c.metric.primary]
    if "gap" in findings:
        return "gap", result
    return ("no gap" if findings and set(findings) == {"no gap"} else "not enough flights"), result


def flights_needed(comparisons: Sequence[MetricComparison], *, confidence: float = 0.95) -> tuple[int, int] | None:
    """How many more real and simulated flights would decide, if rates, means and scatter stay as they are.

    Simulated flights are asked for only where no number of real ones alone would do. None where nothing would decide (a
    metric is missing), or not within 100,000 flights; (0, 0) where it is decided.

    Args:
        comparisons: of all metrics, as `compare_metric` or `judge` returns them.
        confidence: of the verdict.
    """
    primary = [c for c in comparisons if c.metric.primary and c.arms is not None]
    whole = all(c.finding != "missing" for c in comparisons if c.metric.primary)
    if not primary:
        return None
    n_sim, n_real = max(len(c.sim_values) for c in primary), max(len(c.real_values) for c in primary)

    def decides(sim: int, real: int) -> bool:
        grown = [
            _with_effect(c, c.arms.grown(sim / n_sim, real / n_real), confidence, 1.0)
            for c in primary
            if c.arms is not None
        ]
        verdict, _ = judge(grown, confidence=confidence)
        return verdict == "gap" or (verdict == "no gap" and whole)

    if decides(n_sim, n_real):
        return (0, 0)
    real = fewest(lambda n: decides(n_sim, n), n_real, first=n_real + 1, most=MOST_FLIGHTS)
    if real is not None:
        return real - n_real, 0
    fewer = min(n_sim, n_real)
    both = fewest(lambda n: decides(max(n, n_sim), max(n, n_real)), fewer, first=fewer + 1, most=MOST_FLIGHTS)
    if both is None:
        return None
    return max(both - n_real, 0), max(both - n_sim, 0)
