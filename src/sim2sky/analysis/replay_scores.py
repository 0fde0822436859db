"""What replaying flights says about every parameter at once: residuals of short windows and their derivatives, weighed
by what the simulator's own flights show.

The weight is the inverse covariance of the residuals of simulated flights, so that sensor noise, turbulence and the
unknown parts of a start count as much as they do in flights of the very aircraft the replay flies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.evidence import without_nuisances
from sim2sky.analysis.flights import Flight
from sim2sky.analysis.hypotheses import NORMAL_BIAS, PARAMETERS, trial
from sim2sky.analysis.replay import Model, Replayer
from sim2sky.analysis.smoothing import smoothed
from sim2sky.analysis.windows import LONGEST_DELAY_S, Windows, cut_windows

__all__ = ["LENGTHS_S", "NAMES", "Extra", "Floor", "Measured", "Scores", "Window", "replayers", "spread_windows"]

Array = NDArray[np.float64]
NAMES: tuple[str, ...] = tuple(PARAMETERS)
NUISANCES = [NAMES.index(f"offsets.{name}") for name in NORMAL_BIAS]
PRECISION = np.array([3.0 / size**2 for size in NORMAL_BIAS.values()])
"""Of a uniform draw of that half width."""
LENGTHS_S = (2.0, 1.0, 0.5)
"""Of a window: the longest of which there are enough; thrust and drag need time to show."""
TIMES_S = (0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0, 1.5, 2.0)
SHRINKAGE = 0.03
LARGEST_LOG = 2.5  # a factor of 12
LARGEST = 30.0  # standard deviations: a replay that has left the measured flight altogether says no more than that


def replayers(name: str, rate_hz: float) -> tuple[Replayer, Replayer]:
    """The exact one, and one of half its rate for derivatives."""
    fine = rate_hz * max(round(120.0 / rate_hz), 1)
    coarse = rate_hz * max(math.ceil(60.0 / rate_hz - 1e-9), 1)
    return Replayer(name, fine), Replayer(name, coarse)


@dataclass(frozen=True, eq=False)
class Window:
    """Windows ready to be judged: which, by which replayers, under which aircraft."""

    windows: Windows
    exact: Replayer
    coarse: Replayer
    base: Model

    @property
    def ticks(self) -> list[int]:
        """Rows of a window that are looked at."""
        rate = self.windows.rate_hz
        return sorted({min(max(round(t * rate), 1), self.windows.ticks) for t in TIMES_S})

    def residual(self, values: Mapping[str, float], *, coarse: bool = False) -> Array:
        """Measured minus replayed, (w, looked-at ticks * channels)."""
        t = trial(self.base, self.windows, values)
        flown = (self.coarse if coarse else self.exact).predict(t.windows, t.model, t.starts)
        error = (self.windows.measured - flown)[:, self.ticks]
        return error.reshape(len(error), -1)

    def derivative(self, name: str, at: Mapping[str, float], zero: Array) -> Array:
        """Of the replay with respect to a parameter's internal coordinate, (w, ticks * channels).

        Args:
            name: of the parameter.
            at: values there.
            zero: coarse residuals there.
        """
        step = PARAMETERS[name].step
        after = self.residual({**at, name: at.get(name, 0.0) + step}, coarse=True)
        return np.clip(np.nan_to_num((zero - after) / step), -1e9, 1e9)

    def moves(self, name: str) -> bool:
        """Whether the parameter can change a replay at all: neither heading nor altitude acts on an aircraft in still
        air, nor does a coefficient that the airframe does not have."""
        kind, _, key = name.partition(".")
        if kind == "offsets":
            return key not in {"yaw_rad", "altitude_m"}
        return kind != "coefficient_scales" or self.exact.airframe.coefficients.get(key, 0.0) != 0.0

    def possible(self, values: Mapping[str, float]) -> bool:
        """Whether an aircraft can differ so much: no negative delay, nothing beyond what a replay knows."""
        delay = self.base.action_delay_s + values.get("action_delay_s", 0.0)
        mass = self.exact.airframe.mass_kg + self.base.parameters.mass_offset_kg + values.get("mass_offset_kg", 0.0)
        logs = [x for name, x in values.items() if PARAMETERS[name].kind == "log"]
        return (
            0.0 <= delay <= LONGEST_DELAY_S
            and mass > 0.2 * self.exact.airframe.mass_kg
            and max(map(abs, logs), default=0.0) < LARGEST_LOG
        )


def spread_windows(
    flights: Sequence[Flight], length_s: float, at_most: int, *, every_s: float | None = None
) -> Windows:
    """Windows of all flights, evenly thinned out to a number that can be afforded, with starts from smoothed states.

    Raises:
        NotSupportedError: there is not one.
    """
    windows = cut_windows(flights, length_s, every_s=every_s)
    smooth = cut_windows([smoothed(flight) for flight in flights], length_s, every_s=every_s)
    windows = replace(windows, starts=smooth.starts)
    if len(windows) <= at_most:
        return windows
    return windows.chosen(np.unique(np.linspace(0, len(windows) - 1, at_most).round().astype(int)))


@dataclass(frozen=True, eq=False)
class Scores:
    """Per flight: (f, n) gradients, (f, n, n) information, (f,) number of windows."""

    score: Array
    information: Array
    windows: Array


class Floor:
    """What residuals look like where nothing differs.

    Args:
        residual: (w, d) of simulated flights.
    """

    def __init__(self, residual: Array) -> None:
        good = residual[np.isfinite(residual).all(axis=1)]
        self.mean = good.mean(axis=0)
        x = good - self.mean
        spread = np.maximum(x.std(axis=0), 1e-9)
        x = x / spread
        correlation, one = x.T @ x / len(x), np.eye(len(spread))
        # The fewer windows, the less their correlations are believed: Ledoit & Wolf 2004, J. Multivariate Analysis 88,
        # with half the number because the windows overlap.
        scatter = ((x**2).sum(axis=1) ** 2).mean() - (correlation**2).sum()
        share = min(max(2.0 * scatter / len(x) / ((correlation - one) ** 2).sum(), SHRINKAGE), 1.0)
        correlation = (1.0 - share) * correlation + share * one
        self._whiten = np.linalg.inv(np.linalg.cholesky(correlation)) / spread

    def whitened(self, residual: Array) -> Array:
        """(w, d) standard deviations of what is normal."""
        z = np.nan_to_num((residual - self.mean) @ self._whiten.T, nan=LARGEST, posinf=LARGEST, neginf=-LARGEST)
        size = np.sqrt((z**2).mean(axis=1, keepdims=True))
        return z * np.minimum(1.0, LARGEST / np.maximum(size, 1e-9))

    def jacobian(self, derivative: Array) -> Array:
        """The same scale for derivatives (..., w, d)."""
        return derivative @ self._whiten.T


Extra = tuple[Array, Array, float]
"""What a flight's sensors say of each other: score, information and chi-square, as of a replay."""


@dataclass(frozen=True, eq=False)
class Measured:
    """A log's windows under the simulated aircraft.

    Attributes:
        jacobian: (n, w, d) whitened derivatives with respect to `NAMES`. z: (w, d) whitened residuals.
        extra: by flight, what the sensors say among themselves.
    """

    window: Window
    floor: Floor
    jacobian: NDArray[np.float32]
    z: Array
    extra: Sequence[Extra]

    @classmethod
    def of(cls, window: Window, floor: Floor, extra: Sequence[Extra]) -> Measured:
        """Differentiate with respect to everything."""
        z = floor.whitened(window.residual({}))
        zero = window.residual({}, coarse=True)
        jacobian = np.zeros((len(NAMES), *z.shape), np.float32)
        for i, name in enumerate(NAMES):
            if window.moves(name):
                jacobian[i] = floor.jacobian(window.derivative(name, {}, zero))
        return cls(window, floor, jacobian, z, extra)

    def at(self, values: Mapping[str, float], names: Sequence[str]) -> Measured:
        """With the derivatives with respect to `names` of an aircraft that differs by `values`."""
        zero = self.window.residual(values, coarse=True)
        jacobian = self.jacobian.copy()
        for name in names:
            jacobian[NAMES.index(name)] = self.floor.jacobian(self.window.derivative(name, values, zero))
        return replace(self, jacobian=jacobian)

    @property
    def flights(self) -> list[int]:
        """Indices of the flights that have a window."""
        return np.unique(self.window.windows.flight.astype(int)).tolist()

    @property
    def expected(self) -> Array:
        """(f,) chi-square of each flight where nothing differs."""
        index = self.window.windows.flight.astype(int)
        return np.array([float((index == f).sum() * self.z.shape[1]) for f in self.flights])

    def raw(self, z: Array, values: Mapping[str, float] | None = None) -> Iterator[tuple[Array, Array, float, int]]:
        """By flight: score, information, chi-square and number of windows, biases of sensors not yet taken out."""
        at = np.zeros(len(NAMES))
        for name, x in (values or {}).items():
            if name.startswith("offsets."):
                at[NAMES.index(name)] = x
        index = self.window.windows.flight.astype(int)
        for f in self.flights:
            which = index == f
            columns = self.jacobian[:, which].reshape(len(NAMES), -1)
            rest = z[which].reshape(-1)
            s, h, chi = self.extra[f]
            yield (
                (columns @ rest.astype(np.float32)).astype(float) + s - h @ at,
                (columns @ columns.T).astype(float) + h,
                float(rest @ rest) + chi - 2.0 * float(s @ at) + float(at @ h @ at),
                int(which.sum()),
            )

    def scores(self, z: Array | None = None, values: Mapping[str, float] | None = None) -> Scores:
        """Per flight, without what a normal bias may do.

        Args:
            z: whitened residuals of some aircraft; those of the simulated one by default.
            values: by what that aircraft and its sensors differ.
        """
        parts = list(self.raw(self.z if z is None else z, values))
        pairs = [without_nuisances(s, h, NUISANCES, PRECISION) for s, h, *_ in parts]
        return Scores(
            np.array([s for s, _ in pairs]),
            np.array([h for _, h in pairs]),
            np.array([n for *_, n in parts], float),
        )

    def total(self, z: Array, values: Mapping[str, float] | None = None) -> tuple[Array, Array]:
        """Score and information of all flights together."""
        scores = self.scores(z, values)
        return scores.score.sum(axis=0), scores.information.sum(axis=0)

    def misfit(self, z: Array, values: Mapping[str, float] | None = None) -> Array:
        """(f,) chi-square of each flight, with the normal biases of its sensors free."""
        out: list[float] = []
        for s, h, chi, _ in self.raw(z, values):
            block = h[np.ix_(NUISANCES, NUISANCES)] + np.diag(PRECISION)
            out.append(chi - float(s[NUISANCES] @ np.linalg.solve(block, s[NUISANCES])))
        return np.array(out)
