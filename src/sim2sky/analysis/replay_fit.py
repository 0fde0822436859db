"""Fitting one hypothesis to measured windows by real replays, where the first derivatives alone no longer tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.hypotheses import Hypothesis
from sim2sky.analysis.replay_scores import NAMES, Measured

__all__ = ["ITERATIONS", "Fit", "fit"]

Array = NDArray[np.float64]
ITERATIONS = 4
BACKTRACKS = 2
ENOUGH = 1.0  # log likelihood: less than this is not worth another replay


@dataclass(frozen=True, eq=False)
class Fit:
    """A hypothesis at its best values.

    Attributes:
        values: internal coordinates by parameter. std: their posterior standard deviations.
        log_bayes: against no change.
        misfit: (f,) chi-square by flight, see `Measured.misfit`.
        score: (n,) what is left to gain, over all parameters and flights.
    """

    hypothesis: Hypothesis
    values: Mapping[str, float]
    std: Mapping[str, float]
    log_bayes: float
    misfit: Array
    score: Array


def fit(
    measured: Measured,
    hypothesis: Hypothesis,
    starts: Sequence[Mapping[str, float]],
    drift: Array,
    temper: float,
    *,
    exact: bool,
    iterations: int = ITERATIONS,
) -> Fit:
    """Gauss-Newton with the prior of the hypothesis, from the best of some starts.

    Args:
        measured: windows of the real flights.
        hypothesis: what may change.
        starts: internal coordinates to begin from; one at least.
        drift: (n,) score that these flights would have without any difference, in `NAMES`' order.
        temper: by how much the log likelihood is overrated (windows are not independent); >= 1.
        exact: differentiate anew in every iteration; otherwise with the derivatives of the simulated aircraft.
        iterations: at most; 0 only judges the starts.
    """
    names, width = hypothesis.parameters, hypothesis.width
    columns = [NAMES.index(name) for name in names]
    window = measured.window
    before = measured.misfit(measured.z).sum()

    def values_of(x: Array) -> dict[str, float]:
        return dict(zip(names, x.tolist(), strict=True))

    def judge(x: Array) -> tuple[float, Array, Array]:
        """Log posterior against no change, whitened residuals, chi-square by flight."""
        values = values_of(x)
        if not window.possible(values):
            return -math.inf, measured.z, np.empty(0)
        z = measured.floor.whitened(window.residual(values))
        chi = measured.misfit(z, values)
        likelihood = 0.5 * (before - chi.sum()) - float(drift[columns] @ x)
        return likelihood / temper - 0.5 * float(((x / width) ** 2).sum()), z, chi

    nothing = np.zeros(len(names), np.float64)
    tried: list[tuple[Array, float, Array, Array]] = [(nothing, 0.0, measured.z, measured.misfit(measured.z))]
    for start in starts:
        given = np.array([start.get(name, 0.0) for name in names], np.float64)
        tried.append((given, *judge(given)))
    x, best, z, chi = max(tried, key=lambda t: t[1])
    for _ in range(iterations):
        local = measured.at(values_of(x), names) if exact else measured
        s, h = local.total(z, values_of(x))
        s, h = (s - drift)[columns] / temper - x / width**2, h[np.ix_(columns, columns)] / temper
        step = np.clip(np.linalg.solve(h + np.diag(width**-2.0), s), -2.0 * width, 2.0 * width)
        for _ in range(BACKTRACKS + 1):
            objective, new_z, new_chi = judge(x + step)
            if objective > best:
                break
            step = 0.4 * step
        else:
            break
        gained, best = objective - best, objective
        x, z, chi = x + step, new_z, new_chi
        if gained < ENOUGH:
            break
    score, information = measured.total(z, values_of(x))
    scaled = np.eye(len(x)) + information[np.ix_(columns, columns)] / temper * np.outer(width, width)
    std = np.sqrt(np.diag(np.linalg.inv(scaled))) * width
    return Fit(
        hypothesis,
        values_of(x),
        dict(zip(names, std.tolist(), strict=True)),
        best - 0.5 * float(np.linalg.slogdet(scaled)[1]),
        chi,
        score - drift,
    )
