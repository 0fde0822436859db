"""Whether flights can tell a parameter at all: asked of the Jacobian and the noise, before anything is solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sim2sky.analysis.parameters import LARGEST_INTERVAL, Parameter
from sim2sky.analysis.windows import Windows
from sim2sky.runtime.state import CHANNELS

__all__ = [
    "COLLINEAR",
    "MOVING",
    "SHRINKAGE",
    "Identifiability",
    "activity",
    "covariance_of",
    "identifiability",
    "moved",
]

Array = NDArray[np.float64]
SHRINKAGE = 0.6
"""A flight has told something of a parameter when its standard deviation is below this share of the prior's."""
COLLINEAR = 0.9
MOVING = {"aileron": 0.05, "elevator": 0.05, "rudder": 0.05, "throttle": 0.1}
"""Root mean square of a channel within windows, of travel, below which it moves by what the controller makes of sensor
noise: intervals from such a flight would hold only if the noise were exactly what it is taken for."""
RATE_NOISE_RADPS = 0.03
"""Of gyroscopes for which `MOVING` stands; with noisier ones a controller moves more of its own accord."""


@dataclass(frozen=True)
class Identifiability:
    """What flights can say of one parameter.

    Attributes:
        name: of the parameter.
        half_width: of its 95 % interval, in its unit; relative: over its reference.
        shrinkage: posterior over prior standard deviation; 1: the flights say nothing.
        identifiable: narrow enough, because of the flights, and one of its channels was moved.
        collinear: parameters that look the same in these flights (posterior correlation beyond `COLLINEAR`).
    """

    name: str
    half_width: float
    relative: float
    shrinkage: float
    identifiable: bool
    collinear: tuple[str, ...]


def activity(windows: Windows) -> dict[str, float]:
    """Root mean square of each channel's commands around their mean in each window, of travel."""
    commands = windows.controls[:, windows.before :]
    rms = np.sqrt(commands.var(axis=1).mean(axis=0))
    return dict(zip(CHANNELS, rms.tolist(), strict=True))


def moved(windows: Windows, rate_noise_radps: float) -> frozenset[str]:
    """Channels that moved more than noise makes them.

    Args:
        windows: of the flights.
        rate_noise_radps: standard deviation of the measured body rates' noise.
    """
    scale = max(1.0, rate_noise_radps / RATE_NOISE_RADPS)
    return frozenset(channel for channel, rms in activity(windows).items() if rms >= scale * MOVING[channel])


def covariance_of(parameters: Sequence[Parameter], information: Array, scores: Array | None = None) -> Array:
    """Posterior covariance (p, p) from the flights' information (p, p) and the priors.

    With the windows' `scores` (w, p) it is the sandwich, which also holds where the noise is not what it is taken for.
    """
    prior = np.diag([p.std**-2.0 for p in parameters])
    bread = np.asarray(np.linalg.inv(information + prior), np.float64)
    if scores is None or len(scores) < 2:
        return bread
    filling = scores.T @ scores * len(scores) / (len(scores) - 1) + prior
    return bread @ filling @ bread


def identifiability(
    parameters: Sequence[Parameter], covariance: Array, clusters: int, moving: frozenset[str] = frozenset(MOVING)
) -> tuple[Identifiability, ...]:
    """The verdict by parameter.

    Args:
        parameters: all that are unknown.
        covariance: (p, p) posterior.
        clusters: independent pieces of data, for Student's t.
        moving: channels that were moved.
    """
    quantile = float(stats.t.ppf(0.975, max(clusters - 1, 1)))
    std = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(std, std)
    answers: list[Identifiability] = []
    for i, parameter in enumerate(parameters):
        half = quantile * float(std[i])
        relative, shrinkage = half / parameter.reference, float(std[i]) / parameter.std
        alike = [j for j in np.argsort(-np.abs(correlation[i])) if j != i and abs(correlation[i, j]) > COLLINEAR]
        answers.append(
            Identifiability(
                parameter.name,
                half,
                relative,
                shrinkage,
                relative <= LARGEST_INTERVAL and shrinkage <= SHRINKAGE and not moving.isdisjoint(parameter.channels),
                tuple(parameters[j].name for j in alike),
            )
        )
    return tuple(answers)
