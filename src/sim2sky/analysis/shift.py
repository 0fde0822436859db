"""Signals of two logs compared by distribution, spectrum, limits, quantisation and timing: where they differ most."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["BandRatio", "ShiftReport", "SignalShift", "TimingShift"]


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
        p_value: that flights of both logs are alike in this signal: permutation of whole flights.
        bands: power ratios from slow to fast.
        saturation_sim, saturation_real: share of time at the limit; NaN for signals without one.
        step_sim, step_real: quantisation, smallest step that values keep to; 0 where there is none to be seen.
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
        """As a mapping; NaN stays NaN."""
        return asdict(self)
