"""Bounds of a mean that hold at every look, so that paired flights may stop as soon as they decide.

Testing by betting (Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, Journal of the
Royal Statistical Society B 86, 2024): a player who bets that values lie above m and starts with one unit cannot expect
to win if they do not, so a capital of 1 / alpha, whenever it is reached, refutes "mean <= m" at level alpha (Ville).
Exact for every distribution on a bounded interval; no normality, no number of looks fixed beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim2sky.errors import ConfigError

__all__ = ["lower_bound", "upper_bound"]

_STAKES: NDArray[np.float64] = 0.95 * np.geomspace(0.004, 1.0, 24)
"""Shares of what may be staked without risking ruin; the capital is split evenly among them."""
_STEPS = 26  # halvings: far below what the values' own spread resolves


def _best_capital(values: NDArray[np.float64], mean: float, low: float) -> float:
    """Largest logarithm of the capital so far, betting on a mean above `mean`."""
    stakes = _STAKES / (mean - low)
    wealth = np.cumsum(np.log1p(np.outer(stakes, values - mean)), axis=1)
    return float(np.max(np.logaddexp.reduce(wealth, axis=0))) - math.log(len(stakes))


def lower_bound(values: Sequence[float], low: float, high: float, *, alpha: float) -> float:
    """A number the mean lies below with probability `alpha` at most, at whichever look it is asked for.

    Args:
        values: in the order in which they came, each within [low, high].
        low, high: limits of any value.
        alpha: error probability over all looks together.

    Returns:
        The bound; `low` where nothing is known yet. More values never lower it.

    Raises:
        ConfigError: a value outside the limits, or no level.
    """
    array = np.asarray(values, np.float64)
    if not 0.0 < alpha < 1.0 or not low < high or not np.all((array >= low) & (array <= high)):
        raise ConfigError(f"a bound needs 0 < alpha < 1 and values from {low} to {high}")
    needed = -math.log(alpha)
    below, above = low, high
    if not len(array):
        return low
    # Capital falls as the mean that is bet against rises, so the refuted means are those below one number.
    for _ in range(_STEPS):
        middle = 0.5 * (below + above)
        if _best_capital(array, middle, low) >= needed:
            below = middle
        else:
            above = middle
    return below


def upper_bound(values: Sequence[float], low: float, high: float, *, alpha: float) -> float:
    """As `lower_bound`, from above."""
    return -lower_bound([-v for v in values], -high, -low, alpha=alpha)
