"""Two causes that need no replay: sensor noise and wind, each judged by what the flights' own logs show of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.flights import Flight
from sim2sky.analysis.sensor_checks import NOISE_SENSORS, noise_levels
from sim2sky.analysis.wind import estimate_wind
from sim2sky.errors import NotSupportedError

__all__ = ["LogEvidence", "noise_evidence", "shift_evidence", "wind_evidence", "wind_speeds"]

Array = NDArray[np.float64]
NOISE_WIDTH = 0.7  # of the logarithm of the noise's factor: a factor of two either way
NOISE_SLACK = 0.05  # logarithm: what manoeuvres add to third differences
WIND_WIDTH_MPS = 4.0
WIND_SLACK_MPS = 0.3


@dataclass(frozen=True, eq=False)
class LogEvidence:
    """Of one shift in the mean of a quantity that every flight has.

    Attributes:
        log_bayes: against no shift.
        shift, std: posterior of the shift.
        before: mean over the simulated flights.
        gain: (f,) log likelihood gained by the shift, by real flight.
        features: (simulated + real flights, k), for a test of whether anything differs at all.
    """

    log_bayes: float
    shift: float
    std: float
    before: float
    gain: Array
    features: Array


def shift_evidence(sim: Array, real: Array, width: float, slack: float) -> LogEvidence:
    """Evidence for one common shift of k quantities between two groups of flights.

    Args:
        sim: (f, k) of the simulated flights; NaN where unknown. real: (g, k) of the real ones.
        width: prior standard deviation of the shift.
        slack: standard deviation of what else may move a group's mean.
    """
    features = np.concatenate([sim, real])
    known = (np.isfinite(sim).sum(axis=0) >= 2) & (np.isfinite(real).sum(axis=0) >= 1)
    sim, real = sim[:, known], real[:, known]
    if not known.any():
        return LogEvidence(-math.inf, 0.0, width, math.nan, np.zeros(len(real)), np.empty((len(features), 0)))
    n, m = np.isfinite(sim).sum(axis=0), np.isfinite(real).sum(axis=0)
    centre, scatter = np.nanmean(sim, axis=0), np.nanvar(sim, axis=0, ddof=1)
    variance = scatter * (1.0 / n + 1.0 / m) + slack**2
    difference = np.nanmean(real, axis=0) - centre
    h, s = float((1.0 / variance).sum()), float((difference / variance).sum())
    shift = s / (h + width**-2)
    # By flight, so that it can be bootstrapped: the flights' gains add up to that of the means.
    gain = np.nansum((shift * (real - centre) - 0.5 * shift**2) / variance / m, axis=1)
    return LogEvidence(
        log_bayes=0.5 * s * shift - 0.5 * math.log1p(h * width**2),
        shift=shift,
        std=(h + width**-2) ** -0.5,
        before=float(centre.mean()),
        gain=gain,
        features=np.nan_to_num(features[:, known], nan=float(np.nanmean(features[:, known]))),
    )


def noise_evidence(sim: Sequence[Flight], real: Sequence[Flight]) -> LogEvidence:
    """Whether the sensors are noisier by one common factor; the shift is its logarithm."""
    a, b = (np.array([noise_levels(f, NOISE_SENSORS) for f in flights]) for flights in (sim, real))
    return shift_evidence(a, b, NOISE_WIDTH, NOISE_SLACK)


def wind_speeds(flights: Sequence[Flight]) -> Array:
    """(f,) mean wind speed of each flight, m/s; NaN where the log has no position."""
    speeds = np.full(len(flights), np.nan)
    for i, flight in enumerate(flights):
        try:
            wind = estimate_wind(flight)
        except NotSupportedError:
            continue
        speeds[i] = math.hypot(wind.north_mps, wind.east_mps)
    return speeds


def wind_evidence(sim: Sequence[Flight], real: Sequence[Flight]) -> LogEvidence:
    """Whether it was windier than in the simulator; the shift is in m/s of mean speed."""
    a, b = (wind_speeds(flights)[:, None] for flights in (sim, real))
    return shift_evidence(a, b, WIND_WIDTH_MPS, WIND_SLACK_MPS)
