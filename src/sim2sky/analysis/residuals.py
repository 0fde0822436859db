"""What a flight's next moments differ from those that simulated flights would lead one to expect.

Two linear predictors are fitted by least squares to simulated flights: one tick ahead, for everything that is abrupt (a
surface jams, a sensor jumps), and one second ahead, for what builds up (thrust is lost). No model of the aircraft is
needed, and a difference that is there all the time is a level of the residuals, not a change of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.flight_metrics import FlightData

__all__ = ["FAST", "SLOW", "Predictor", "Residuals"]

Floats = NDArray[np.float64]

FAST = ("roll", "pitch", "p", "q", "r", "airspeed", "altitude")
"""Predicted one tick ahead."""
SLOW = ("roll", "pitch", "airspeed", "altitude", "energy")
"""Predicted one second ahead; energy is the height it is worth, in which thrust and drag show whatever pitch does."""
GRAVITY_MPS2 = 9.80665
TICK_HZ = 20.0  # logs that are faster are averaged down to about this rate
STATE_LAGS, CONTROL_LAGS = 6, 8
CHUNKS = 4  # of a second: the commands within it
ROWS = 60_000  # of training data; more do not help
RIDGE = 1e-4


@dataclass(frozen=True, eq=False)
class Residuals:
    """Measured minus predicted, (n, channels), at (n,) times since the start; NaN where something is missing."""

    time_s: Floats
    values: Floats


def _decimated(flight: FlightData) -> tuple[Floats, Floats, Floats, int]:
    """Time, signals in the order of `FAST`, controls, averaged over whole groups of rows, and the group's size."""
    group = max(round(flight.rate_hz / TICK_HZ), 1)
    n = len(flight) // group * group
    missing = np.full(len(flight), np.nan)
    signals = np.stack([flight.states.get(name, missing) for name in FAST], axis=1)

    def averaged(values: Floats) -> Floats:
        return values[:n].reshape(n // group, group, -1).mean(axis=1) if group > 1 else values[:n]

    return flight.time_s[:n:group], averaged(signals), averaged(flight.controls), group


def _turning(roll: Floats, airspeed: Floats) -> list[Floats]:
    """What bank does: lift lost, and turn rate."""
    return [(1.0 - np.cos(roll))[:, None], (np.sin(roll) / np.maximum(airspeed, 1.0))[:, None]]


def _one_tick(signals: Floats, controls: Floats) -> tuple[Floats, Floats, int]:
    """Regressors, targets (changes over a tick), and rows at the start that have none."""
    start, n = CONTROL_LAGS, len(signals)
    newest = signals[start - 1 : n - 1]
    columns: list[Floats] = []
    for lag in range(1, STATE_LAGS + 1):
        lagged = signals[start - lag : n - lag].copy()
        lagged[:, 6] -= newest[:, 6]  # altitude itself means nothing
        columns.append(lagged)
    columns += [controls[start - lag : n - lag] for lag in range(1, CONTROL_LAGS + 1)]
    columns += [*_turning(newest[:, 0], newest[:, 5]), np.ones((n - start, 1))]
    return np.concatenate(columns, axis=1), signals[start:] - newest, start


def _one_second(signals: Floats, controls: Floats, rate_hz: float) -> tuple[Floats, Floats, int]:
    """As `_one_tick`; the change of the mean over a quarter of a second, one second later."""
    ahead, width = max(round(rate_hz), CHUNKS), max(round(rate_hz / CHUNKS), 1)
    energy = signals[:, 6] + signals[:, 5] ** 2 / (2.0 * GRAVITY_MPS2)
    smooth = np.cumsum(np.column_stack([signals, energy]), axis=0)
    smooth[width:] = smooth[width:] - smooth[:-width]
    smooth /= width
    total = np.cumsum(controls, axis=0)
    start, n = width - 1 + ahead, len(signals)
    before = smooth[width - 1 : n - ahead]
    columns = [before[:, :6]]
    edges = [round(i * ahead / CHUNKS) for i in range(CHUNKS + 1)]
    columns += [
        (total[width - 1 + b : n - ahead + b] - total[width - 1 + a : n - ahead + a]) / (b - a)
        for a, b in itertools.pairwise(edges)
    ]
    columns += [controls[width - 1 : n - ahead], *_turning(before[:, 0], before[:, 5])]
    columns.append(np.ones((n - start, 1)))
    picks = [(*FAST, "energy").index(name) for name in SLOW]
    return np.concatenate(columns, axis=1), smooth[start:, picks] - before[:, picks], start


def _solve(parts: Sequence[tuple[Floats, Floats]]) -> Floats | None:
    """Ridge regression; None where there is too little data."""
    x = np.concatenate([p[0] for p in parts])
    y = np.concatenate([p[1] for p in parts])
    known = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
    x, y = x[known], y[known]
    if len(x) < 10 * x.shape[1]:
        return None
    step = max(len(x) // ROWS, 1)
    x, y = x[::step], y[::step]
    scale = x.std(axis=0)
    scale[scale < 1e-9] = 1.0
    x = x / scale
    gram = x.T @ x + RIDGE * len(x) * np.eye(x.shape[1])
    return np.linalg.solve(gram, x.T @ y) / scale[:, None]


class Predictor:
    """Fitted to simulated flights; see the module.

    Attributes:
        rate_hz: control rate of the logs it is for.
    """

    def __init__(self, rate_hz: float, fast: Floats, slow: Floats) -> None:
        self.rate_hz = rate_hz
        self._fast, self._slow = fast, slow

    @classmethod
    def fit(cls, flights: Sequence[FlightData]) -> Predictor | None:
        """None where the flights hold too little, or lack a signal."""
        fast: list[tuple[Floats, Floats]] = []
        slow: list[tuple[Floats, Floats]] = []
        for flight in flights:
            _, signals, controls, group = _decimated(flight)
            rate_hz = flight.rate_hz / group
            if len(signals) > 3 * rate_hz:
                fast.append(_one_tick(signals, controls)[:2])
                slow.append(_one_second(signals, controls, rate_hz)[:2])
        if not fast:
            return None
        one, two = _solve(fast), _solve(slow)
        return None if one is None or two is None else cls(flights[0].rate_hz, one, two)

    def residuals(self, flight: FlightData) -> tuple[Residuals, Residuals]:
        """One tick and one second ahead, channels in the order of `FAST` and `SLOW`; empty for a very short flight."""
        time_s, signals, controls, group = _decimated(flight)
        rate_hz = flight.rate_hz / group
        if len(signals) <= 3 * rate_hz:
            none = np.zeros(0)
            return Residuals(none, np.zeros((0, len(FAST)))), Residuals(none, np.zeros((0, len(SLOW))))
        x, y, start = _one_tick(signals, controls)
        fast = Residuals(time_s[start:], y - x @ self._fast)
        x, y, start = _one_second(signals, controls, rate_hz)
        return fast, Residuals(time_s[start:], y - x @ self._slow)
