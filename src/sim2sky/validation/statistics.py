"""Exact statistics of success counts: intervals, verdicts, paired comparison, sequential test.

Pure functions of counts; no simulation, no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sim2sky.errors import ConfigError, MissingExtraError

__all__ = [
    "Interval",
    "Outcome",
    "Sprt",
    "Verdict",
    "clopper_pearson",
    "failure_free_trials",
    "fewest",
    "needed_successes",
    "samples_for_quantile",
    "verdict",
]

Outcome = Literal["pass", "fail", "inconclusive"]
MAX_TRIALS = 1_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds of a success probability, each in [0, 1]."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `successes` of `trials` say about a threshold.

    Attributes:
        outcome: the verdict.
        successes, trials, threshold, confidence, strict: what it was formed from.
        lower, upper: one-sided bounds, each at `confidence`.
        trials_needed: size of a fresh campaign that would decide at the observed rate; None where decided already, or
            where the observed rate is so close to the threshold that none below a million would.
    """

    outcome: Outcome
    successes: int
    trials: int
    threshold: float
    confidence: float
    strict: bool
    lower: float
    upper: float
    trials_needed: int | None = None

    @property
    def rate(self) -> float:
        """Observed success rate."""
        return self.successes / self.trials

    def __str__(self) -> str:
        text = (
            f"{self.rate:.1%} success rate ({self.successes}/{self.trials}), "
            f"{self.confidence:.0%} lower bound {self.lower:.3f}, threshold {self.threshold:.2f}"
        )
        if self.outcome == "inconclusive":
            text += f", upper bound {self.upper:.3f}"
            more = (
                f"a fresh campaign of {self.trials_needed} episodes would decide at this rate"
                if self.trials_needed
                else "the observed rate is too close to the threshold for any campaign to decide"
            )
            text += f": {more}"
        return text


def _scipy_special() -> Any:
    try:
        import scipy.special
    except ImportError as error:
        raise MissingExtraError("scipy", "sim") from error
    return scipy.special


def _check(successes: int, trials: int) -> None:
    if trials < 1 or not 0 <= successes <= trials:
        raise ConfigError(f"{successes} successes of {trials} trials is no count")


def clopper_pearson(
    successes: int, trials: int, *, confidence: float = 0.95, side: Literal["two", "lower", "upper"] = "two"
) -> Interval:
    """Exact interval of a binomial probability (Clopper and Pearson, Biometrika 26, 1934).

    Args:
        successes, trials: the counts.
        confidence: of the interval.
        side: `lower` puts the whole error probability below (upper end 1), `upper` above (lower end 0).

    Raises:
        ConfigError: impossible counts.
    """
    _check(successes, trials)
    special = _scipy_special()
    tail = (1.0 - confidence) / (2.0 if side == "two" else 1.0)
    low = 0.0 if successes == 0 else float(special.betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(special.betaincinv(successes + 1, trials - successes, 1.0 - tail))
    return Interval(0.0 if side == "upper" else low, 1.0 if side == "lower" else high)


def verdict(successes: int, trials: int, threshold: float, *, confidence: float = 0.95, strict: bool = True) -> Verdict:
    """Judge a success count against a threshold.

    strict: `pass` where the one-sided lower bound reaches the threshold, `fail` where the one-sided upper bound lies
    below it, else `inconclusive`. Not strict: the specification's rule, observed rate >= threshold.

    A campaign's size is fixed before it starts. Extending one until it passes would let a true rate of .70 pass a
    threshold of .80 in a third of the cases; `trials_needed` is the size of a fresh one, with another seed.

    Raises:
        ConfigError: impossible counts.
    """
    lower = clopper_pearson(successes, trials, confidence=confidence, side="lower").low
    upper = clopper_pearson(successes, trials, confidence=confidence, side="upper").high
    outcome: Outcome
    if not strict:
        outcome = "pass" if successes / trials >= threshold else "fail"
    elif lower >= threshold:
        outcome = "pass"
    elif upper < threshold:
        outcome = "fail"
    else:
        outcome = "inconclusive"
    needed = _trials_needed(successes / trials, trials, threshold, confidence) if outcome == "inconclusive" else None
    return Verdict(outcome, successes, trials, threshold, confidence, strict, lower, upper, needed)


def _trials_needed(rate: float, trials: int, threshold: float, confidence: float) -> int | None:
    """Smallest doubling-then-bisected campaign that decides at `rate`; monotone up to rounding of the count."""

    def decides(n: int) -> bool:
        k = round(rate * n)
        if rate >= threshold:
            return clopper_pearson(k, n, confidence=confidence, side="lower").low >= threshold
        return clopper_pearson(k, n, confidence=confidence, side="upper").high < threshold

    return fewest(decides, trials, first=trials, most=MAX_TRIALS)


def fewest(decides: Callable[[int], bool], undecided: int, *, first: int, most: int) -> int | None:
    """Smallest number that decides, by doubling and bisection; the rule is monotone up to the rounding of counts.

    Args:
        decides: the rule.
        undecided: a number that does not decide.
        first: to try. most: None where none up to this decides.
    """
    high = first
    while not decides(high):
        high *= 2
        if high > most:
            return None
    low = max(high // 2, undecided)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def needed_successes(trials: int, threshold: float, *, confidence: float = 0.95) -> int | None:
    """Fewest successes of `trials` whose one-sided lower bound reaches `threshold`; None where even all do not."""
    low, high = 0, trials + 1
    while high - low > 0:
        middle = (low + high) // 2
        if middle > trials:
            return None
        if clopper_pearson(middle, trials, confidence=confidence, side="lower").low >= threshold:
            high = middle
        else:
            low = middle + 1
    return high if high <= trials else None


def failure_free_trials(probability: float, *, confidence: float = 0.95) -> int:
    """Fewest trials that, all successful, show a success probability of at least `probability`."""
    return math.ceil(math.log(1.0 - confidence) / math.log(probability) - 1e-12)


def samples_for_quantile(quantile: float, *, confidence: float = 0.95) -> int:
    """Fewest samples whose maximum bounds the `quantile` of the distribution with the given confidence (Wilks 1941)."""
    return failure_free_trials(quantile, confidence=confidence)


@dataclass(frozen=True, slots=True)
class Sprt:
    """Wald's sequential probability ratio test of success rate p0 (bad) against p1 (good).

    Wald, Sequential Analysis, 1947. `alpha`: probability of accepting the bad, `beta`: of rejecting the good.
    """

    p0: float
    p1: float
    alpha: float = 0.05
    beta: float = 0.05

    def __post_init__(self) -> None:
        if not 0.0 < self.p0 < self.p1 < 1.0 or not 0.0 < self.alpha < 0.5 or not 0.0 < self.beta < 0.5:
            raise ConfigError(f"a sequential test needs 0 < p0 < p1 < 1 and error rates below .5, got {self}")

    @property
    def _gain(self) -> float:
        return math.log(self.p1 / self.p0) + math.log((1 - self.p0) / (1 - self.p1))

    @property
    def slope(self) -> float:
        """Successes per trial on both boundaries."""
        return math.log((1 - self.p0) / (1 - self.p1)) / self._gain

    @property
    def accept_offset(self) -> float:
        """Accept where successes >= slope * trials + this."""
        return math.log((1 - self.beta) / self.alpha) / self._gain

    @property
    def reject_offset(self) -> float:
        """Reject where successes <= slope * trials + this (negative)."""
        return math.log(self.beta / (1 - self.alpha)) / self._gain

    def decide(self, successes: int, trials: int) -> Outcome:
        """`pass`: accept, `fail`: reject, `inconclusive`: fly on.

        Raises:
            ConfigError: impossible counts.
        """
        _check(successes, trials)
        if successes >= self.slope * trials + self.accept_offset:
            return "pass"
        if successes <= self.slope * trials + self.reject_offset:
            return "fail"
        return "inconclusive"
