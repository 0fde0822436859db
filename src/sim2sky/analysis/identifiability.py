"""Whether flights can tell a parameter at all: asked of the Jacobian and the noise, before anything is solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sim2sky.analysis.parameters import LARGEST_INTERVAL, Parameter

__all__ = ["COLLINEAR", "SHRINKAGE", "Identifiability", "covariance_of", "identifiability"]

Array = NDArray[np.float64]
SHRINKAGE = 0.6
"""A flight has told something of a parameter when its standard deviation is below this share of the prior's."""
COLLINEAR = 0.9


@dataclass(frozen=True)
class Identifiability:
    """What flights can say of one parameter.

    Attributes:
        name: of the parameter.
        half_width: of its 95 % interval, in its unit; relative: over its reference.
        shrinkage: posterior over prior standard deviation; 1: the flights say nothing.
        identifiable: narrow enough, and because of the flights.
        collinear: parameters that look the same in these flights (posterior correlation beyond `COLLINEAR`).
    """

    name: str
    half_width: float
    relative: float
    shrinkage: float
    identifiable: bool
    collinear: tuple[str, ...]


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


def identifiability(parameters: Sequence[Parameter], covariance: Array, clusters: int) -> tuple[Identifiability, ...]:
    """The verdict by parameter.

    Args:
        parameters: all that are unknown.
        covariance: (p, p) posterior.
        clusters: independent pieces of data, for Student's t.
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
                relative <= LARGEST_INTERVAL and shrinkage <= SHRINKAGE,
                tuple(parameters[j].name for j in alike),
            )
        )
    return tuple(answers)
