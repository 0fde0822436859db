"""Two groups of flights compared: differences of proportions, ratios of typical values, correction for several metrics.

Pure functions of counts and values, one value per flight; no simulation, no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sim2sky.errors import ConfigError, MissingExtraError

__all__ = ["Effect", "LogSample", "fisher_lower", "holm", "newcombe", "share_ratio", "welch_log_ratio"]

PRIOR_FLIGHTS = 2  # what the first group's scatter counts in that of the second
KNOWS_SCATTER = 20  # values from which it is known well enough


@dataclass(frozen=True, slots=True)
class Effect:
    """How far the second group lies from the first.

    Attributes:
        estimate: difference or ratio; second against first.
        low, high: two-sided confidence interval.
        p_lower, p_higher: one-sided p-values that the second is not lower, not higher than the first.
    """

    estimate: float
    low: float
    high: float
    p_lower: float
    p_higher: float


@dataclass(frozen=True, slots=True)
class LogSample:
    """What Welch's test needs to know of positive values: their number, and mean and variance of their logarithms."""

    n: int
    mean: float
    variance: float

    @classmethod
    def of(cls, values: Sequence[float]) -> LogSample:
        """Of positive, finite values.

        Raises:
            ConfigError: a value that has no logarithm.
        """
        if any(not (math.isfinite(v) and v > 0.0) for v in values):
            raise ConfigError("a ratio needs positive, finite values")
        logs = [math.log(v) for v in values]
        n = len(logs)
        mean = math.fsum(logs) / n if n else math.nan
        variance = math.fsum((x - mean) ** 2 for x in logs) / (n - 1) if n > 1 else math.nan
        return cls(n, mean, variance)


def _special() -> Any:
    try:
        import scipy.special
    except ImportError as error:
        raise MissingExtraError("scipy", "sim") from error
    return scipy.special


def _share_limits(k: float, n: float, tail: float) -> tuple[float, float]:
    """One-sided limits, each at error probability `tail`, of a mean of values in [0, 1] whose sum is `k`.

    Wilson's score interval (JASA 22, 1927); the exact one of Clopper and Pearson where all or none succeeded, as the
    score interval covers too little there. For values between 0 and 1 a binomial's variance is an upper bound.
    """
    special = _special()
    if k <= 0.0 or k >= n:
        low = 0.0 if k <= 0.0 else float(tail ** (1.0 / n))
        high = 1.0 if k >= n else 1.0 - float(tail ** (1.0 / n))
        return low, high
    z = -float(special.ndtri(tail))
    p = k / n
    middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n)
    half = z / (1.0 + z * z / n) * math.sqrt(p * (1.0 - p) / n + z * z / (4.0 * n * n))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def fisher_lower(k1: int, n1: int, k2: int, n2: int) -> float:
    """One-sided p-value that the second group's rate is not lower: Fisher's exact test (JRSS 98, 1935).

    Never more often below a level than that level says, whatever the rates: with a score test a single failure among
    five flights against 196 of 200 would be evidence in 7 % of the cases without a difference.
    """
    total, n = k1 + k2, n1 + n2
    lowest, highest = max(total - n1, 0), min(total, n2)

    def log_choose(a: int, b: int) -> float:
        return math.lgamma(a + 1) - math.lgamma(b + 1) - math.lgamma(a - b + 1)

    def tail(k: int, step: int) -> float:
        """From k outwards, as far as the terms count; they fall away from the mode."""
        term = math.exp(log_choose(n2, k) + log_choose(n1, total - k) - log_choose(n, total))
        terms = [term]
        while lowest <= k + step <= highest and term > 1e-18 * terms[0]:
            if step < 0:
                term *= k * (n1 - total + k) / ((n2 - k + 1) * (total - k + 1))
            else:
                term *= (n2 - k) * (total - k) / ((k + 1) * (n1 - total + k + 1))
            k += step
            terms.append(term)
        return math.fsum(terms)

    if k2 * n <= total * n2:
        return min(tail(k2, -1), 1.0)
    return 1.0 if k2 >= highest else max(1.0 - tail(k2 + 1, 1), 0.0)


def _check(k: float, n: float) -> None:
    if n < 1 or not 0 <= k <= n:
        raise ConfigError(f"{k} of {n} is no share")


def _difference_limits(k1: float, n1: float, k2: float, n2: float, tail: float) -> tuple[float, float]:
    p1, p2 = k1 / n1, k2 / n2
    low1, high1 = _share_limits(k1, n1, tail)
    low2, high2 = _share_limits(k2, n2, tail)
    d = p2 - p1
    return d - math.hypot(p2 - low2, high1 - p1), d + math.hypot(high2 - p2, p1 - low1)


def newcombe(k1: int, n1: int, k2: int, n2: int, *, confidence: float = 0.95) -> Effect:
    """Difference of success rates k2/n2 - k1/n1.

    Hybrid score interval: Newcombe, Statistics in Medicine 17 (1998), method 10, with exact limits in a group where all
    or none succeeded. The p-values are Fisher's.

    Raises:
        ConfigError: impossible counts.
    """
    _check(k1, n1)
    _check(k2, n2)
    low, high = _difference_limits(k1, n1, k2, n2, (1.0 - confidence) / 2.0)
    return Effect(k2 / n2 - k1 / n1, low, high, fisher_lower(k1, n1, k2, n2), fisher_lower(k2, n2, k1, n1))


def _share_ratio_limits(k1: float, n1: float, k2: float, n2: float, tail: float) -> tuple[float, float]:
    m1, m2 = k1 / n1, k2 / n2
    low1, high1 = _share_limits(k1, n1, tail)
    low2, high2 = _share_limits(k2, n2, tail)
    if m1 <= 0.0:
        return 0.0, math.inf
    ratio = m2 / m1
    low = ratio * math.exp(-math.hypot(math.log(m2 / low2), math.log(high1 / m1))) if low2 > 0.0 else 0.0
    if low1 <= 0.0:
        return low, math.inf
    high = ratio * math.exp(math.hypot(math.log(high2 / m2), math.log(m1 / low1))) if m2 > 0.0 else high2 / low1
    return low, high


def share_ratio(k1: float, n1: int, k2: float, n2: int, *, full: tuple[int, int], confidence: float = 0.95) -> Effect:
    """Ratio (k2/n2) / (k1/n1) of two means of values in [0, 1], given by their sums k.

    Square-and-add on logarithms: Zou and Donner, Statistics in Medicine 27 (2008). The limits of each mean are those of
    a proportion, whose variance no distribution on [0, 1] exceeds: so the interval is on the wide side, and it does not
    shrink to nothing where every value is 1. A ratio to zero is inf, 0/0 is 1.

    Args:
        k1, n1, k2, n2: sums and numbers of values.
        full: how many values of each group are 1; the p-values compare these counts (Fisher).
        confidence: of the interval.

    Raises:
        ConfigError: sums that are none.
    """
    _check(k1, n1)
    _check(k2, n2)
    low, high = _share_ratio_limits(k1, n1, k2, n2, (1.0 - confidence) / 2.0)
    m1, m2 = k1 / n1, k2 / n2
    estimate = m2 / m1 if m1 > 0.0 else (1.0 if m2 == 0.0 else math.inf)
    lower, higher = fisher_lower(full[0], n1, full[1], n2), fisher_lower(full[1], n2, full[0], n1)
    return Effect(estimate, low, high, lower, higher)


def welch_log_ratio(first: LogSample, second: LogSample, *, confidence: float = 0.95) -> Effect:
    """Ratio of geometric means, second against first, by Welch's t on logarithms (Biometrika 34, 1947).

    A handful of flights often look more alike than they are, above all where the values are skewed. So the second
    group's variance is moderated (Smyth, Stat. Appl. Genet. Mol. Biol. 3, 2004): the first group's counts like
    `PRIOR_FLIGHTS` more degrees of freedom, provided that the first group is large enough to know it. What that does to
    the coverage is measured in `benchmarks/gap_statistics.py`.

    With a single value in a group nothing is known of its scatter: the interval is (0, inf) and both p-values are 1.
    Two groups without any scatter give an interval without width.

    Raises:
        ConfigError: a group without values.
    """
    if first.n < 1 or second.n < 1:
        raise ConfigError("a ratio needs at least one value on each side")
    difference = second.mean - first.mean
    if first.n < 2 or second.n < 2:
        return Effect(math.exp(difference), 0.0, math.inf, 1.0, 1.0)
    prior = PRIOR_FLIGHTS if first.n >= KNOWS_SCATTER else 0
    free = second.n - 1 + prior
    moderated = ((second.n - 1) * second.variance + prior * first.variance) / free
    a, b = first.variance / first.n, moderated / second.n
    error = math.sqrt(a + b)
    if error < 1e-12:
        ratio = math.exp(difference) if abs(difference) > 1e-12 else 1.0
        return Effect(ratio, ratio, ratio, float(ratio >= 1.0), float(ratio <= 1.0))
    freedom = (a + b) ** 2 / (a * a / (first.n - 1) + b * b / free)
    special = _special()
    quantile = float(special.stdtrit(freedom, 0.5 + confidence / 2.0)) * error
    p_lower = float(special.stdtr(freedom, difference / error))
    p_higher = float(special.stdtr(freedom, -difference / error))
    return Effect(
        math.exp(difference),
        math.exp(difference - quantile),
        math.exp(min(difference + quantile, 700.0)),
        p_lower,
        p_higher,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the family's error probability (Holm, Scand. J. Statistics 6, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [1.0] * len(p_values)
    worst = 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min((len(p_values) - rank) * p_values[i], 1.0))
        adjusted[i] = worst
    return adjusted
