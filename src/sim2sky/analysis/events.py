"""Events in flight: what failed at a time, as against an aircraft that differs from its simulation all along.

Three kinds: a signal that stands still, values that are missing, and a change in how the aircraft or a sensor behaves.
What is usual is taken from the logs themselves: a change counts only where it goes far beyond every simulated flight
and, with five flights or more, far beyond what most flights of the same aircraft show.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.flight_metrics import FlightData
from sim2sky.analysis.residuals import FAST, SLOW, Predictor, Residuals

__all__ = ["EventKind", "EventSearch", "FlightEvent", "find_events"]

EventKind = Literal["change", "frozen", "drop-out"]
Floats = NDArray[np.float64]

SENSORS = ("roll", "pitch", "yaw", "p", "q", "r", "airspeed", "altitude")
STILL_S = 0.5  # a noisy sensor does not stand still so long
TIMES_USUAL = 3.0  # nor so many times longer than in most flights
WINDOW_S, STEP_S = 60.0, 30.0  # a long flight is searched in pieces
BEFORE_S, AFTER_S = 1.0, 0.5  # what a change needs on both sides
CLIP = 8.0  # of a residual, in robust standard deviations
FLOOR = 0.05  # of a variance, in squares of those: quantised signals have none
BEYOND_SIM = {"fast": 1.5, "slow": 1.2, "jump": 1.5}  # times the largest of the simulated flights
BEYOND_OTHERS = {"fast": 4.0, "slow": 2.5, "jump": 2.5}  # times the upper quartile of the same aircraft's flights
FEW_FACTOR = 1.5  # times more where there are too few of those, and again where there are few simulated flights
TOGETHER_S = 1.5  # signs of one event lie within
FEW = 5  # flights that have one
FEW_SIM = 20
MOST = 1.0 / 3.0  # of all flights may have an event; beyond, it is how this aircraft flies


@dataclass(frozen=True)
class FlightEvent:
    """A change point in one flight.

    Attributes:
        flight: name of the flight in its log.
        time_s: when, since the start of the flight.
        kind: the aircraft or a sensor behaves otherwise from then on; a signal stands still; values are missing.
        signal: where it shows most, by the log's column name.
        score: how far beyond the threshold the evidence is, in thresholds (> 1).
        description: one sentence.
    """

    flight: str
    time_s: float
    kind: EventKind
    signal: str
    score: float
    description: str

    def to_json(self) -> dict[str, Any]:
        """JSON-compatible."""
        return asdict(self)


@dataclass(frozen=True)
class EventSearch:
    """Events found, the first of each flight, and what is to be said about the search; may be empty."""

    events: tuple[FlightEvent, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Peak:
    """Largest value of one statistic in a flight, and when."""

    value: float
    time_s: float


def find_events(sim: Sequence[FlightData], real: Sequence[FlightData]) -> EventSearch:
    """The first event of each flight of the second log; what is usual comes from both logs.

    Where more than a third of the flights (and at least three) would have an event, these are no failures but how the
    aircraft flies: none is returned, and the note says so.
    """
    found = {event.flight: event for event in _still(sim, real)}
    # A sensor's own failure is the event, whatever the aircraft does because of it.
    before = [f.until(found[f.name].time_s) if f.name in found else f for f in real]
    found |= {event.flight: event for event in _changes(sim, before)}
    events = tuple(found[f.name] for f in real if f.name in found)
    if len(events) >= 3 and len(events) > MOST * len(real):
        return EventSearch(
            (),
            f"{len(events)} of {len(real)} flights show a change within the flight: too many to be failures, so "
            "they are counted as they are",
        )
    return EventSearch(events)


# Signals that stand still or are missing -----------------------------------------------------------------------------


def _longest_run(flags: NDArray[np.bool_]) -> tuple[int, int]:
    """Length and start of the longest run of True."""
    edges = np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if not len(starts):
        return 0, 0
    longest = int(np.argmax(ends - starts))
    return int(ends[longest] - starts[longest]), int(starts[longest])


def _runs(flight: FlightData, name: str, kind: EventKind) -> tuple[float, float]:
    """Seconds and start of the longest stretch without change, or without values."""
    values = flight.states.get(name)
    if values is None or len(values) < 2 or not np.isfinite(values).any():
        return 0.0, 0.0
    if kind == "drop-out":
        length, start = _longest_run(~np.isfinite(values))
        at = start
    else:
        length, start = _longest_run(np.diff(values) == 0.0)
        at = start + 1  # the first value that repeats
    return length / flight.rate_hz, float(flight.time_s[at]) if length else 0.0


def _still(sim: Sequence[FlightData], real: Sequence[FlightData]) -> Iterable[FlightEvent]:
    kinds: tuple[EventKind, ...] = ("frozen", "drop-out")
    earliest: dict[str, FlightEvent] = {}
    for kind in kinds:
        for name in SENSORS:
            runs = [_runs(f, name, kind) for f in real]
            groups = [
                [_runs(f, name, kind)[0] for f in sim],
                [length for length, _ in runs] if len(real) >= FEW else [],
            ]
            limit = max(STILL_S, *(TIMES_USUAL * float(np.median(lengths)) for lengths in groups if lengths))
            for flight, (length, start) in zip(real, runs, strict=True):
                if length < limit or (flight.name in earliest and earliest[flight.name].time_s <= start):
                    continue
                what = "stands still" if kind == "frozen" else "is missing"
                earliest[flight.name] = FlightEvent(
                    flight.name, start, kind, name, length / limit, f"{name} {what} for {length:.2f} s"
                )
    return earliest.values()


# Changes -------------------------------------------------------------------------------------------------------------


def _changes(sim: Sequence[FlightData], real: Sequence[FlightData]) -> Iterable[FlightEvent]:
    predictor = Predictor.fit(sim)
    if predictor is None or not real or abs(real[0].rate_hz / predictor.rate_hz - 1.0) > 0.02:
        return
    usual = [_statistics(predictor, f) for f in sim]
    seen = [_statistics(predictor, f) for f in real]
    few = len(real) < FEW
    factor = (FEW_FACTOR if few else 1.0) * (FEW_FACTOR if len(sim) < FEW_SIM else 1.0)
    limits: dict[tuple[str, str], float] = {}
    for key in usual[0]:
        limit = max(peaks[key].value for peaks in usual) * BEYOND_SIM[key[0]] * factor
        if not few:
            limit = max(limit, BEYOND_OTHERS[key[0]] * float(np.quantile([peaks[key].value for peaks in seen], 0.75)))
        limits[key] = max(limit, 1.0)
    for flight, peaks in zip(real, seen, strict=True):
        beyond = [(peak.value / limits[key], key, peak) for key, peak in peaks.items() if peak.value > limits[key]]
        if not beyond:
            continue
        # Everything follows from the first thing that happened; what is abrupt tells better when that was.
        first_s = min(b[2].time_s for b in beyond)
        near = [b for b in beyond if b[2].time_s <= first_s + TOGETHER_S]
        score, (what, signal), peak = min(near, key=lambda b: (b[1][0] == "slow", b[2].time_s))
        how = {
            "jump": f"{signal} jumps",
            "fast": f"{signal} does otherwise than predicted from then on",
            "slow": f"{signal} drifts away from what is predicted from then on",
        }[what]
        yield FlightEvent(flight.name, peak.time_s, "change", signal, score, how)


def _statistics(predictor: Predictor, flight: FlightData) -> dict[tuple[str, str], _Peak]:
    """Likelihood ratios of a change, by kind and signal; the largest over the pieces of a flight."""
    fast, slow = predictor.residuals(flight)
    peaks = {("fast", name): _peak(fast, i, jumps=False) for i, name in enumerate(FAST)}
    peaks |= {("slow", name): _peak(slow, i, jumps=False) for i, name in enumerate(SLOW)}
    peaks |= {("jump", name): _peak(fast, i, jumps=True) for i, name in enumerate(FAST)}
    return peaks


def _peak(residuals: Residuals, channel: int, *, jumps: bool) -> _Peak:
    values, time_s = residuals.values[:, channel], residuals.time_s
    known = np.isfinite(values)
    values, time_s = values[known], time_s[known]
    if len(values) < 20:
        return _Peak(0.0, 0.0)
    middle = np.median(values)
    values = values - middle
    values = values / max(1.4826 * float(np.median(np.abs(values))), 1e-9)
    if jumps:
        values = np.where(time_s < BEFORE_S, 0.0, values)
        at = int(np.argmax(np.abs(values)))
        return _Peak(float(values[at] ** 2), float(time_s[at]))
    values = np.clip(values, -CLIP, CLIP)
    step = (time_s[-1] - time_s[0]) / max(len(time_s) - 1, 1)
    before, after = max(round(BEFORE_S / step), 5), max(round(AFTER_S / step), 5)
    size, stride = round(WINDOW_S / step), round(STEP_S / step)
    best = _Peak(0.0, 0.0)
    for start in range(0, max(len(values) - stride, 1), stride):
        piece = values[start : start + size]
        ratio, at = _likelihood_ratio(piece, before, after)
        if ratio > best.value:
            best = _Peak(ratio, float(time_s[start + at]))
    return best


def _likelihood_ratio(x: Floats, before: int, after: int) -> tuple[float, int]:
    """Twice the log likelihood ratio of normal values whose mean and variance change once, towards what fits worse.

    Returns:
        The largest ratio, and the first index after the change.
    """
    n = len(x)
    k = np.arange(before, n - after + 1)
    if not len(k):
        return 0.0, 0
    total, square = np.cumsum(x), np.cumsum(x * x)
    first, second = total[k - 1] / k, (total[-1] - total[k - 1]) / (n - k)
    var_first = np.maximum(square[k - 1] / k - first**2, FLOOR)
    var_second = np.maximum((square[-1] - square[k - 1]) / (n - k) - second**2, FLOOR)
    var_all = max(float(square[-1] / n - (total[-1] / n) ** 2), FLOOR)
    ratio = n * np.log(var_all) - k * np.log(var_first) - (n - k) * np.log(var_second)
    worse = var_second + (second - first) ** 2 > var_first
    ratio = np.where(worse, ratio, 0.0)
    best = int(np.argmax(ratio))
    return float(ratio[best]), int(k[best])
