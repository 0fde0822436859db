"""Signals of two logs compared by distribution, spectrum, limits, quantisation and timing: where they differ most."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.flight_metrics import FlightData, tracking_signals
from sim2sky.runtime.state import CHANNELS

__all__ = ["BandRatio", "ShiftReport", "SignalShift", "TimingShift", "shift_report"]

Floats = NDArray[np.float64]

STATES = {"roll": "rad", "pitch": "rad", "p": "rad/s", "q": "rad/s", "r": "rad/s", "airspeed": "m/s"}
BANDS_HZ = (0.1, 0.5, 1.5, 4.0, 10.0, 25.0)
SEGMENT_S = 4.0  # of Welch's spectrum
QUANTILES = 33  # that stand for a flight's distribution
MOST_FLIGHTS = 200  # of each log; more are thinned out evenly
PERMUTATIONS = 999
MOST_MISSING = 0.2  # of a flight's values, for a spectrum


@dataclass(frozen=True)
class BandRatio:
    """Power in a band, real against simulated (medians over flights)."""

    low_hz: float
    high_hz: float
    ratio: float


@dataclass(frozen=True)
class SignalShift:
    """One signal, real against simulated.

    Attributes:
        signal, unit: name and unit; commands are called by their channel, errors by `... error`.
        distance: Wasserstein-1 distance of the pooled values in units of the simulated flights' standard deviation.
        p_value: that flights of both logs are alike in this signal: energy distance, permuting whole flights. Not below
            1/1000; 1 where there are too few flights.
        bands: power ratios from slow to fast.
        saturation_sim, saturation_real: share of time at the limit; NaN for signals without one.
        step_sim, step_real: quantisation, smallest step that values keep to; 0 where there is none to be seen.
        evidence: the energy distance in standard deviations of its permutations; what the report is ranked by.
    """

    signal: str
    unit: str
    distance: float
    p_value: float
    bands: tuple[BandRatio, ...]
    saturation_sim: float
    saturation_real: float
    step_sim: float
    step_real: float
    evidence: float = 0.0


@dataclass(frozen=True)
class TimingShift:
    """Timing of one log: rate, jitter of the interval (99th percentile of |interval - period|), time from the state's
    arrival to the command's sending (median and 99th percentile); NaN where the log has no timing."""

    rate_hz: float
    jitter_p99_s: float
    delay_median_s: float
    delay_p99_s: float


@dataclass(frozen=True)
class ShiftReport:
    """Signals, the most different first, and the timing of both logs."""

    signals: tuple[SignalShift, ...]
    sim_timing: TimingShift
    real_timing: TimingShift

    def to_json(self) -> dict[str, Any]:
        """JSON-compatible; what is not finite is null."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shift_report(sim: Sequence[FlightData], real: Sequence[FlightData], task: str, *, seed: int = 0) -> ShiftReport:
    """Compare all signals that both logs have: attitude, rates, airspeed, tracking errors, commands.

    Time steps of one flight depend on each other, so what is evident is decided by permuting whole flights between the
    logs.

    Args:
        sim, real: flights, each cut to what is to be compared.
        task: names the tracking errors.
        seed: of the permutations.
    """
    first, second = _thinned(sim), _thinned(real)
    units = {**STATES, **dict.fromkeys(CHANNELS, "1")}
    units |= {name: unit for name, (_, unit) in tracking_signals(first[0], task).items()}
    a, b = [_signals(f, task) for f in first], [_signals(f, task) for f in second]
    edges = _band_edges(min(first[0].rate_hz, second[0].rate_hz))
    powers = [
        [_band_powers([s[name] for name in units], f.rate_hz, edges) for s, f in zip(signals, flights, strict=True)]
        for signals, flights in ((a, first), (b, second))
    ]
    found: list[SignalShift] = []
    for i, (name, unit) in enumerate(units.items()):
        bands = _ratios(edges, [p[i] for p in powers[0]], [p[i] for p in powers[1]])
        shift = _compare(name, unit, [s[name] for s in a], [s[name] for s in b], bands, seed)
        if shift is not None:
            found.append(shift)
    found.sort(key=lambda s: -s.evidence)
    return ShiftReport(tuple(found), _timing(sim), _timing(real))


def _thinned(flights: Sequence[FlightData]) -> list[FlightData]:
    if len(flights) <= MOST_FLIGHTS:
        return list(flights)
    return [flights[i] for i in np.linspace(0, len(flights) - 1, MOST_FLIGHTS).round().astype(int)]


def _signals(flight: FlightData, task: str) -> dict[str, Floats]:
    missing = np.full(len(flight), np.nan)
    return {
        **{name: flight.states.get(name, missing) for name in STATES},
        **{name: values for name, (values, _) in tracking_signals(flight, task).items()},
        **{name: flight.controls[:, i] for i, name in enumerate(CHANNELS)},
    }


def _compare(
    name: str,
    unit: str,
    sim: Sequence[Floats],
    real: Sequence[Floats],
    bands: tuple[BandRatio, ...],
    seed: int,
) -> SignalShift | None:
    known = [[v[np.isfinite(v)] for v in values] for values in (sim, real)]
    a, b = ([v for v in values if len(v) >= 2] for values in known)
    if not a or not b:
        return None
    pooled_a, pooled_b = np.concatenate(a), np.concatenate(b)
    levels = (np.arange(512) + 0.5) / 512
    spread = max(float(pooled_a.std()), 1e-12)
    distance = float(np.mean(np.abs(np.quantile(pooled_a, levels) - np.quantile(pooled_b, levels)))) / spread
    p, evidence = _permuted(a, b, seed)
    limited = name in CHANNELS
    return SignalShift(
        name,
        unit,
        distance,
        p,
        bands,
        _saturation(pooled_a, len(a)) if limited else math.nan,
        _saturation(pooled_b, len(b)) if limited else math.nan,
        _step(pooled_a),
        _step(pooled_b),
        evidence,
    )


def _permuted(a: Sequence[Floats], b: Sequence[Floats], seed: int) -> tuple[float, float]:
    """Energy distance (Szekely and Rizzo 2004) of flights, the distance of two flights being Wasserstein-1."""
    if len(a) + len(b) < 4 or len(a) < 2 or len(b) < 1:
        return 1.0, 0.0
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    quantiles = np.array([np.quantile(v, levels) for v in (*a, *b)])
    between = np.zeros((len(quantiles), len(quantiles)))
    for column in quantiles.T:
        between += np.abs(column[:, None] - column[None, :])
    n, m = len(a), len(b)
    rng = np.random.default_rng(seed)
    groups = np.zeros((PERMUTATIONS + 1, n + m))
    groups[:, n:] = 1.0
    groups[1:] = rng.permuted(groups[1:], axis=1)
    inside_b = np.einsum("ij,ij->i", groups @ between, groups)
    inside_a = np.einsum("ij,ij->i", (1.0 - groups) @ between, 1.0 - groups)
    cross = (between.sum() - inside_a - inside_b) / 2.0
    energy = 2.0 * cross / (n * m) - inside_a / n**2 - inside_b / m**2
    p = float(np.mean(energy >= energy[0] * (1.0 - 1e-12)))
    scatter = float(energy[1:].std())
    return p, float((energy[0] - energy[1:].mean()) / scatter) if scatter > 0.0 else 0.0


def _band_edges(rate_hz: float) -> list[float]:
    return [edge for edge in BANDS_HZ if edge <= rate_hz / 2.0]


def _ratios(edges: Sequence[float], sim: Sequence[Floats], real: Sequence[Floats]) -> tuple[BandRatio, ...]:
    """Of the medians over the flights that have a spectrum."""
    known = [[row for row in rows if np.isfinite(row).all()] for rows in (sim, real)]
    if not all(known) or len(edges) < 2:
        return ()
    a, b = (np.median(rows, axis=0) for rows in known)
    return tuple(
        BandRatio(low, high, float(b[i] / a[i]) if a[i] > 0.0 else (1.0 if b[i] == 0.0 else math.inf))
        for i, (low, high) in enumerate(itertools.pairwise(edges))
    )


def _band_powers(signals: Sequence[Floats], rate_hz: float, edges: Sequence[float]) -> Floats:
    """Power by signal and band after Welch (IEEE Trans. Audio Electroacoust. 15, 1967): segments of 4 s that overlap by
    half, freed of their linear trend, Hann window. NaN for a signal that is too short or has too many gaps."""
    size, bands = round(SEGMENT_S * rate_hz), max(len(edges) - 1, 0)
    result = np.full((len(signals), bands), np.nan)
    n = len(signals[0])
    if n < size or not bands:
        return result
    ticks = np.arange(n)
    rows: list[Floats] = []
    picks: list[int] = []
    for i, values in enumerate(signals):
        known = np.isfinite(values)
        if known.mean() >= 1.0 - MOST_MISSING:
            rows.append(np.interp(ticks, ticks[known], values[known]))
            picks.append(i)
    if not rows:
        return result
    pieces = np.lib.stride_tricks.sliding_window_view(np.array(rows), size, axis=1)[:, :: size // 2]
    time = np.arange(size) - (size - 1) / 2.0
    slope = pieces @ time / (time @ time)
    flat = pieces - pieces.mean(axis=2, keepdims=True) - slope[..., None] * time
    window = np.hanning(size)
    power = np.mean(np.abs(np.fft.rfft(flat * window, axis=2)) ** 2, axis=1) / (rate_hz * (window @ window)) * 2.0
    frequency = np.fft.rfftfreq(size, 1.0 / rate_hz)
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = (frequency >= low) & (frequency < high)
        result[picks, i] = power[:, inside].sum(axis=1) * frequency[1]
    return result


def _saturation(values: Floats, flights: int) -> float:
    """Share of time at the log's own highest or lowest value: a limit is a value that is met again and again."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:
        return 0.0
    counts = [int(np.sum(np.abs(values - end) < 1e-6)) for end in (low, high)]
    return sum(c for c in counts if c > 2 * flights) / len(values)


def _step(values: Floats) -> float:
    """Smallest step between values that repeat; 0 where hardly any value comes twice."""
    distinct = np.unique(np.round(values, 9))
    if len(distinct) < 2 or len(distinct) > 0.5 * len(values):
        return 0.0
    return float(np.quantile(np.diff(distinct), 0.1))


def _timing(flights: Sequence[FlightData]) -> TimingShift:
    steps = np.concatenate([np.diff(f.time_s) for f in flights])
    nan = math.nan
    if not len(steps):
        return TimingShift(nan, nan, nan, nan)
    period = float(np.median(steps))
    delays = [
        (f.timing[:, 2] - f.timing[:, 0]) * 1e-9 for f in flights if f.timing is not None and (f.timing[:, 2] > 0).any()
    ]
    delay = np.concatenate(delays) if delays else np.zeros(0)
    return TimingShift(
        1.0 / period if period > 0.0 else nan,
        float(np.quantile(np.abs(steps - period), 0.99)),
        float(np.median(delay)) if len(delay) else nan,
        float(np.quantile(delay, 0.99)) if len(delay) else nan,
    )
