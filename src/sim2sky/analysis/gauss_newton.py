"""Gauss-Newton with line search for the problem of `output_error`, from the best of several delays, in which it is not
convex."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.identifiability import Identifiability, covariance_of, identifiability, moved
from sim2sky.analysis.output_error import FIRST_GUST, FIRST_NOISE, Linearised, Noise, OutputError, Point, Step

__all__ = ["Solver"]

Array = NDArray[np.float64]
SCAN_STEP_S = 0.02
ROUNDS = 8  # of Gauss-Newton
CHORDS = 3  # steps with one Jacobian
CONVERGED = 0.1  # of a standard deviation
LARGEST_STEP = 2.0  # of the priors' standard deviations
SLIGHT = 0.3  # a parameter whose whole prior moves all residuals by less than this is differentiated once
SLOW_GUSTS = 1.3
"""Factor on standard deviations: gusts that last longer than a window look like an airspeed bias, which the noise model
does not know and the scatter between windows does not show. From `benchmarks/identification.py`, where intervals
without it held in nine cases of ten."""


class Solver:
    """Finds the most probable values of one problem.

    Args:
        problem: to solve.
        values: to start from; by default the prior with the best of several delays.
        noise: first guess.
    """

    def __init__(self, problem: OutputError, values: Array | None = None, noise: Noise | None = None) -> None:
        self.problem = problem
        self.noise = noise or Noise(FIRST_NOISE.copy(), np.full(3, FIRST_GUST))
        self.point = problem.start(values) if values is not None else self._scan()
        self._linear: Linearised | None = None
        self._slight: NDArray[np.bool_] = np.zeros(len(problem.parameters), bool)
        self._step: Step | None = None

    def _scan(self) -> Point:
        """The prior with the delay that fits best: a sine that comes half a period late fits as well the wrong way."""
        problem = self.problem
        index = [p.name for p in problem.parameters].index("action_delay_s")
        delay = problem.parameters[index]
        nothing = np.zeros(len(problem.parameters), bool)
        linear = problem.linearise(problem.start(), which=nothing)
        inverse = problem.inverse_covariance(self.noise, linear)
        best: tuple[float, Point] | None = None
        for value in np.arange(delay.low, delay.high, SCAN_STEP_S):
            values = problem.prior.copy()
            values[index] = value
            point = problem.start(values)
            here = Linearised(problem.residual(point), linear.by_value, linear.by_start, linear.gusts)
            step = problem.step(point, here, self.noise, only_nuisances=True)
            further = point.moved(step, 1.0)
            cost = problem.cost(step.left, further, inverse)
            if best is None or cost < best[0]:
                best = cost, further
        if best is None:
            raise AssertionError("no delay to try")
        return best[1]

    def _linearise(self) -> Step:
        """Jacobians here, noise from what a full step would leave, and that step."""
        problem = self.problem
        self._linear = problem.linearise(self.point, which=~self._slight, last=self._linear)
        step = problem.step(self.point, self._linear, self.noise)
        self.noise = problem.estimate_noise(step.left, self._linear, self.noise)
        self._step = problem.step(self.point, self._linear, self.noise)
        inverse = problem.inverse_covariance(self.noise, self._linear)
        effect = np.einsum("wmp,mn,wnp->p", self._linear.by_value, inverse, self._linear.by_value, optimize=True)
        self._slight = np.sqrt(effect) * problem.std < SLIGHT * np.sqrt(len(problem.windows))
        return self._step

    def first_verdict(self) -> tuple[Identifiability, ...]:
        """Of the Jacobian at the prior."""
        step = self._linearise()
        covariance = covariance_of(self.problem.parameters, step.information)
        return identifiability(self.problem.parameters, covariance, len(self.problem.windows), self.moved())

    def moved(self) -> frozenset[str]:
        """Channels that moved more than the noise makes them."""
        return moved(self.problem.windows, float(self.noise.sensors[3:6].mean()))

    def covariance(self) -> Array:
        """Posterior; the larger of what the noise model and what the windows' scatter says."""
        step = self._step or self._linearise()
        model = covariance_of(self.problem.parameters, step.information)
        robust = covariance_of(self.problem.parameters, step.information, step.scores)
        factor = SLOW_GUSTS * np.sqrt(np.maximum(np.diag(robust) / np.diag(model), 1.0))
        factor = np.minimum(factor, self.problem.std / np.sqrt(np.diag(model)))  # flights never make a prior wider
        return model * np.outer(factor, factor)

    def solve(self) -> None:
        """Gauss-Newton until nothing moves by more than a tenth of its standard deviation."""
        for _ in range(ROUNDS):
            step = self._step or self._linearise()
            if self._walk(step) < CONVERGED:
                return
            self._step = None

    def _walk(self, step: Step) -> float:
        """Steps with one Jacobian, as long as they help; the largest move in standard deviations."""
        problem, linear = self.problem, self._linear
        if linear is None:
            raise AssertionError("not linearised")
        inverse = problem.inverse_covariance(self.noise, linear)
        std = np.sqrt(np.diag(covariance_of(problem.parameters, step.information)))
        begin, cost = self.point.values, problem.cost(linear.residual, self.point, inverse)
        for _ in range(CHORDS):
            size = float(np.abs(step.values / problem.std).max())
            share = min(1.0, LARGEST_STEP / max(size, 1e-9))
            while share > 0.02:
                point = self.point.moved(step, share)
                point = replace(point, values=self._bounded(point.values))
                residual = problem.residual(point)
                new = problem.cost(residual, point, inverse)
                if new < cost:
                    break
                share *= 0.4
            else:
                break
            gained, cost, self.point = cost - new, new, point
            if gained < 0.05 or float(np.abs(step.values / std).max()) < CONVERGED:
                break
            step = problem.step(point, replace(linear, residual=np.nan_to_num(residual)), self.noise)
        return float(np.abs((self.point.values - begin) / std).max())

    def _bounded(self, values: Array) -> Array:
        return np.clip(values, [p.low for p in self.problem.parameters], [p.high for p in self.problem.parameters])
