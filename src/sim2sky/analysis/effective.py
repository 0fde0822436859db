"""Which parameters a refitted simulator changes: those that flights tell one by one, and those that carry what only
shows together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.identifiability import SHRINKAGE
from sim2sky.analysis.parameters import LARGEST_INTERVAL, Parameter

__all__ = ["HELD", "effective", "held"]

Array = NDArray[np.float64]
HELD = 1e-5  # of the prior's standard deviation: what is as good as fixed


def effective(parameters: Sequence[Parameter], information: Array, chosen: Sequence[bool]) -> tuple[bool, ...]:
    """What the flights tell once everything else is held at its prior: the chosen ones and, for each combination of
    which only the sum shows, the one parameter that shows most.

    Args:
        parameters: all.
        information: (p, p) of the flights, nuisances eliminated, without the priors.
        chosen: which are told whatever the others are.
    """
    free = list(chosen)

    def widths(of: list[bool]) -> tuple[Array, Array]:
        """Half of the 95 % interval over the reference, and standard deviation over the prior's; infinite if held."""
        index: list[int] = np.flatnonzero(of).tolist()
        prior = np.diag([parameters[i].std ** -2.0 for i in index])
        std = np.sqrt(np.diag(np.linalg.inv(information[np.ix_(index, index)] + prior)))
        relative, shrinkage = np.full(len(of), np.inf), np.full(len(of), np.inf)
        relative[index] = 1.96 * std / [parameters[i].reference for i in index]
        shrinkage[index] = std / [parameters[i].std for i in index]
        return relative, shrinkage

    while True:
        best: tuple[float, int] | None = None
        for i in range(len(free)):
            if free[i]:
                continue
            trial = [*free[:i], True, *free[i + 1 :]]
            relative, shrinkage = widths(trial)
            fits = relative[trial].max() <= LARGEST_INTERVAL and shrinkage[i] <= SHRINKAGE
            if fits and (best is None or shrinkage[i] < best[0]):
                best = float(shrinkage[i]), i
        if best is None:
            return tuple(free)
        free[best[1]] = True


def held(parameters: Sequence[Parameter], free: Sequence[bool]) -> tuple[Parameter, ...]:
    """The parameters with those that are not free held at their priors."""
    return tuple(p if f else replace(p, std=HELD * p.std) for p, f in zip(parameters, free, strict=True))
