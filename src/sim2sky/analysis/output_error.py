"""The least-squares problem of identification: output error over short windows, linearised, its nuisances eliminated.

Unknown besides the parameters are each window's start (nobody measures angle of attack, and all else is noisy), each
flight's sensor biases, and gusts. Starts and biases are eliminated by Schur complements. A gust acts much like an
unknown deflection of each surface, so the residuals' covariance is white sensor noise plus the response to white
deflections, whose sizes are found by expectation-maximisation (R. E. Maine and K. W. Iliff, *Application of parameter
estimation to aircraft stability and control*, NASA RP-1168, 1986, on output and process noise).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.parameters import Parameter, model_of
from sim2sky.analysis.replay import Replayer
from sim2sky.analysis.windows import CHANNELS, Windows
from sim2sky.environments.replay_plant import STATE

__all__ = ["Linearised", "Noise", "OutputError", "Point", "Step"]

Array = NDArray[np.float64]
START_STD = np.array([3.0, 0.06, 0.08, 0.3, 0.3, 9.0, 0.5, 0.5, 0.5, 9.0])
"""How far a true start may be from the measured one, columns `STATE`: loose but for the two angles of the path, in
which gusts are not seen."""
START_STEP = (0.2, 0.01, 0.01, 0.01, 0.01, 0.0, 0.05, 0.05, 0.05, 0.0)
BIAS_STD = np.array([0.02, 0.02, 1e-6, 0.02, 0.02, 0.02, 0.6, 1e-6])
"""Of a flight's sensor biases, columns `CHANNELS`; heading and altitude shift nothing else and are in the starts."""
FIRST_NOISE = np.array([0.015, 0.015, 0.03, 0.03, 0.03, 0.03, 0.4, 0.6])
FIRST_GUST = 0.02  # of travel
KNOT_TICKS = 4  # between two deflections of the gust model
ROBUST = 1.5  # windows whose residuals are larger by this factor weigh less (Huber)
GUSTS = 3  # aileron, elevator, rudder


@dataclass(frozen=True, eq=False)
class Point:
    """Where the problem stands: parameters (p,), starts (w, 10), biases (flights, 8)."""

    values: Array
    starts: Array
    biases: Array

    def moved(self, step: Step, share: float) -> Point:
        """A share of a step further."""
        return Point(
            self.values + share * step.values, self.starts + share * step.starts, self.biases + share * step.biases
        )


@dataclass(frozen=True, eq=False)
class Noise:
    """Standard deviations: sensors (8,), and gusts as deflections of aileron, elevator and rudder (3,)."""

    sensors: Array
    gusts: Array


@dataclass(frozen=True, eq=False)
class Step:
    """A Gauss-Newton step, with the information it stands on.

    Attributes:
        information: (p, p) of the parameters, nuisances eliminated, without the prior.
        scores: (w, p) gradient by window, nuisances eliminated.
        left: (w, m) residuals that the step leaves, in the linear approximation.
    """

    values: Array
    starts: Array
    biases: Array
    information: Array
    scores: Array
    left: Array


@dataclass(frozen=True, eq=False)
class Linearised:
    """Residuals (w, m), their Jacobians by parameter (w, m, p) and start (w, m, 10), and response to a gust knot.

    `gusts` is (m, 3 * knots): the mean response to a unit deflection at each knot; m counts ticks and channels.
    """

    residual: Array
    by_value: Array
    by_start: Array
    gusts: Array


class OutputError:
    """The problem for some windows.

    Args:
        replayer: flies them.
        windows: of flights of one aircraft.
        parameters: unknown.
    """

    def __init__(self, replayer: Replayer, windows: Windows, parameters: Sequence[Parameter]) -> None:
        self.windows = windows
        self.parameters = tuple(parameters)
        self.prior = np.array([p.prior for p in parameters])
        self.std = np.array([p.std for p in parameters])
        self._replayer = replayer
        self._flight = windows.flight.astype(int)
        self._bias_columns = np.tile(np.eye(len(CHANNELS)), (windows.ticks + 1, 1))
        self.size = (windows.ticks + 1) * len(CHANNELS)

    def start(self, values: Array | None = None) -> Point:
        """Measured starts, no biases, the prior's parameters."""
        return Point(
            self.prior.copy() if values is None else values,
            self.windows.starts.copy(),
            np.zeros((len(self.windows.flights), len(CHANNELS))),
        )

    def predict(self, values: Array, starts: Array, added: Array | None = None) -> Array:
        """(w, m), without biases."""
        model = model_of(self.parameters, values)
        flown = self._replayer.predict(self.windows, model, starts, added=added)
        return flown.reshape(len(self.windows), self.size)

    def residual(self, point: Point) -> Array:
        """Measured minus predicted, (w, m)."""
        measured = self.windows.measured.reshape(len(self.windows), self.size)
        bias = np.tile(point.biases[self._flight], (1, self.windows.ticks + 1))
        return measured - self.predict(point.values, point.starts) - bias

    def linearise(
        self, point: Point, *, which: NDArray[np.bool_] | None = None, last: Linearised | None = None
    ) -> Linearised:
        """Jacobians by finite differences.

        Args:
            point: where.
            which: (p,) parameters to differentiate by; the others' columns are those of `last`, or zero.
            last: an earlier linearisation.
        """
        base = self.predict(point.values, point.starts)
        count = len(self.parameters)
        by_value = np.zeros((*base.shape, count)) if last is None else last.by_value.copy()
        for j, parameter in enumerate(self.parameters):
            if which is not None and not which[j]:
                continue
            values = point.values.copy()
            step = parameter.step if values[j] + parameter.step < parameter.high else -parameter.step
            values[j] = max(values[j], parameter.low) + step
            by_value[:, :, j] = (self.predict(values, point.starts) - base) / step
        by_start = self._by_start(point, base)
        gusts = self._gusts(point, base) if last is None else last.gusts
        measured = self.windows.measured.reshape(base.shape)
        residual = measured - base - np.tile(point.biases[self._flight], (1, self.windows.ticks + 1))
        lost = ~(
            np.isfinite(residual).all(axis=1)
            & np.isfinite(by_value).all(axis=(1, 2))
            & np.isfinite(by_start).all(axis=(1, 2))
        )
        for array in (residual, by_value, by_start):  # windows in which the replay fails say nothing
            array[lost] = 0.0
        return Linearised(residual, by_value, by_start, gusts)

    def _by_start(self, point: Point, base: Array) -> Array:
        answer = np.zeros((*base.shape, len(STATE)))
        for k, step in enumerate(START_STEP):
            if step:
                starts = point.starts.copy()
                starts[:, k] += step
                answer[:, :, k] = (self.predict(point.values, starts) - base) / step
        for name in ("yaw_rad", "altitude_m"):  # nothing else depends on them
            answer[:, CHANNELS.index(name) :: len(CHANNELS), STATE.index(name)] = 1.0
        return answer

    def _gusts(self, point: Point, base: Array) -> Array:
        """Response to a triangle of deflection at each knot: that to the first one, later."""
        ticks, channels = self.windows.ticks, len(CHANNELS)
        per_tick = round(self._replayer.physics_hz / self.windows.rate_hz)
        knots = max(ticks // KNOT_TICKS, 1)
        answer = np.zeros((ticks + 1, channels, GUSTS, knots))
        ramp = np.arange(ticks * per_tick) / (KNOT_TICKS * per_tick)
        for surface in range(GUSTS):
            added = np.zeros((ticks * per_tick, 4))
            added[:, surface] = 0.1 * np.clip(1.0 - np.abs(ramp - 1.0), 0.0, 1.0)
            response = (self.predict(point.values, point.starts, added) - base) / 0.1
            mean = np.nan_to_num(np.nanmedian(response, axis=0)).reshape(ticks + 1, channels)
            for knot in range(knots):
                # A knot's triangle begins one knot before the window for the first, so that its peak is at the start.
                shift = (knot - 1) * KNOT_TICKS
                if shift >= 0:
                    answer[shift:, :, surface, knot] = mean[: ticks + 1 - shift]
                else:
                    answer[: ticks + 1 + shift, :, surface, knot] = mean[-shift:] - mean[-shift]
        return answer.reshape(self.size, GUSTS * knots)

    # Noise -----------------------------------------------------------------------------------------------------------

    def covariance(self, noise: Noise, linear: Linearised) -> Array:
        """Of a window's residuals: (m, m)."""
        knots = linear.gusts.shape[1] // GUSTS
        scaled = linear.gusts * np.repeat(noise.gusts, knots)
        return np.diag(np.tile(noise.sensors**2, self.windows.ticks + 1)) + scaled @ scaled.T

    def inverse_covariance(self, noise: Noise, linear: Linearised) -> Array:
        """(m, m)."""
        return np.asarray(np.linalg.inv(self.covariance(noise, linear)), np.float64)

    def estimate_noise(self, left: Array, linear: Linearised, noise: Noise, *, rounds: int = 4) -> Noise:
        """Sizes of sensor noise and gusts by expectation-maximisation, starts eliminated.

        Args:
            left: (w, m) residuals.
            linear: Jacobians.
            noise: first guess.
            rounds: of the iteration.
        """
        channels = len(CHANNELS)
        for _ in range(rounds):
            inverse = self.inverse_covariance(noise, linear)
            weighted = np.matmul(inverse, linear.by_start)
            normal = np.matmul(linear.by_start.transpose(0, 2, 1), weighted) + np.diag(START_STD**-2.0)
            solved = np.matmul(weighted, np.linalg.inv(normal))
            # P r and diag(P), P the inverse covariance with the starts projected out.
            p_left = left @ inverse - np.einsum(
                "wmk,wk->wm", solved, np.einsum("wmk,wm->wk", weighted, left), optimize=True
            )
            weights = self.weights(left, p_left)[:, None]
            diagonal = np.diag(inverse) - np.einsum("wmk,wmk->wm", solved, weighted, optimize=True)
            variance = np.tile(noise.sensors**2, self.windows.ticks + 1)
            squared = (variance * p_left) ** 2 * weights + variance - variance**2 * diagonal
            sensors = np.sqrt(squared.reshape(-1, channels).mean(axis=0))
            g = linear.gusts
            knots = g.shape[1] // GUSTS
            seen = p_left @ g  # (w, gusts)
            inner = np.einsum("mg,mg->g", g, inverse @ g) - np.einsum(
                "wkg,wkg->wg", np.matmul(solved.transpose(0, 2, 1), g), np.matmul(weighted.transpose(0, 2, 1), g)
            )
            q = np.repeat(noise.gusts**2, knots)
            squared = (q * seen) ** 2 * weights + q - q**2 * inner
            gusts = np.sqrt(np.maximum(squared.mean(axis=0).reshape(GUSTS, knots).mean(axis=1), 1e-10))
            noise = Noise(np.maximum(sensors, 1e-5), gusts)
        return noise

    def weights(self, residual: Array, weighted: Array) -> Array:
        """Huber's weight of each window from its mean square (w,)."""
        size = np.sqrt(np.maximum(np.einsum("wm,wm->w", residual, weighted) / self.size, 1e-12))
        return np.minimum(1.0, ROBUST / size)

    # Steps -----------------------------------------------------------------------------------------------------------

    def cost(self, residual: Array, point: Point, inverse: Array) -> float:
        """Robust negative log posterior."""
        size = np.einsum("wm,mn,wn->w", residual, inverse, residual, optimize=True) / self.size
        size = np.where(np.isfinite(size), size, 1e6)
        robust = np.where(size <= ROBUST**2, size, 2.0 * ROBUST * np.sqrt(size) - ROBUST**2)
        return float(
            0.5 * self.size * robust.sum()
            + 0.5 * (((point.values - self.prior) / self.std) ** 2).sum()
            + 0.5 * (((point.starts - self.windows.starts) / START_STD) ** 2).sum()
            + 0.5 * ((point.biases / BIAS_STD) ** 2).sum()
        )

    def step(self, point: Point, linear: Linearised, noise: Noise, *, only_nuisances: bool = False) -> Step:
        """The Gauss-Newton step of everything.

        Args:
            point: where `linear` was taken.
            linear: Jacobians.
            noise: their weights.
            only_nuisances: parameters stay.
        """
        count = 0 if only_nuisances else len(self.parameters)
        w, channels = len(self.windows), len(CHANNELS)
        inverse = self.inverse_covariance(noise, linear)
        factor = np.linalg.cholesky(inverse).T  # whitens: factor.T @ factor = inverse
        weights = self.weights(linear.residual, linear.residual @ inverse)
        root = np.sqrt(weights)[:, None, None]
        residual = (linear.residual @ factor.T) * root[:, :, 0]
        by_start = np.matmul(factor, linear.by_start) * root
        shared = np.broadcast_to(factor @ self._bias_columns, (w, self.size, channels)) * root
        if count:
            shared = np.concatenate([np.matmul(factor, linear.by_value) * root, shared], axis=2)
        transposed = by_start.transpose(0, 2, 1)
        normal = np.matmul(transposed, by_start) + np.diag(START_STD**-2.0)
        pull = np.matmul(transposed, residual[:, :, None])[:, :, 0]
        pull = pull + (self.windows.starts - point.starts) / START_STD**2
        cross = np.matmul(transposed, shared)
        solved = np.linalg.solve(normal, np.concatenate([cross, pull[:, :, None]], axis=2))
        by_window = np.matmul(shared.transpose(0, 2, 1), shared) - np.matmul(
            cross.transpose(0, 2, 1), solved[:, :, :-1]
        )
        gradient = np.matmul(shared.transpose(0, 2, 1), residual[:, :, None])[:, :, 0]
        gradient = gradient - np.matmul(cross.transpose(0, 2, 1), solved[:, :, -1:])[:, :, 0]

        information, pulls, scores = np.zeros((count, count)), np.zeros(count), gradient[:, :count].copy()
        bias_part: list[tuple[Array, Array, Array]] = []
        for flight, bias in enumerate(point.biases):
            mine = self._flight == flight
            total, slope = by_window[mine].sum(axis=0), gradient[mine].sum(axis=0)
            corner = total[count:, count:] + np.diag(BIAS_STD**-2.0)
            bias_slope = slope[count:] - bias / BIAS_STD**2
            back = np.linalg.solve(corner, total[count:, :count])
            information += total[:count, :count] - total[:count, count:] @ back
            pulls += slope[:count] - back.T @ bias_slope
            scores[mine] -= gradient[mine][:, count:] @ back
            bias_part.append((corner, bias_slope, total[count:, :count]))
        if count:
            posterior = information + np.diag(self.std**-2.0)
            values = np.linalg.solve(posterior, pulls + (self.prior - point.values) / self.std**2)
        else:
            values = np.zeros(0)
        biases = np.array([np.linalg.solve(corner, slope - mixed @ values) for corner, slope, mixed in bias_part])
        together = np.concatenate([np.broadcast_to(values, (w, count)), biases[self._flight]], axis=1)
        starts = solved[:, :, -1] - np.matmul(solved[:, :, :-1], together[:, :, None])[:, :, 0]
        left = linear.residual - np.einsum("wmk,wk->wm", linear.by_start, starts)
        left = left - np.tile(biases[self._flight], (1, self.windows.ticks + 1))
        if count:
            left = left - linear.by_value @ values
        values = values if count else np.zeros(len(self.parameters))
        return Step(np.asarray(values, float), starts, np.asarray(biases, float), information, scores, left)
