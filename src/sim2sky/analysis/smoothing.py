"""Better estimates of the states a flight was in than single samples: what a replay starts from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.flights import Flight

__all__ = ["smoothed"]

Array = NDArray[np.float64]
ATTITUDE_S = 1.0
SLOW_S = 0.35


def smoothed(flight: Flight) -> Flight:
    """The flight with attitude, airspeed, altitude and climb rate smoothed; body rates and commands as they were.

    Attitude minus the integral of the body rates is nearly a straight line (a gyroscope's bias) and is smoothed as one
    over a second, so that no motion is lost; the rest by local parabolas.
    """
    roll, pitch = flight.roll_rad, flight.pitch_rad
    turning = flight.q_radps * np.sin(roll) + flight.r_radps * np.cos(roll)
    cos = np.maximum(np.cos(pitch), 0.2)
    rates = {
        "roll_rad": flight.p_radps + np.sin(pitch) / cos * turning,
        "pitch_rad": flight.q_radps * np.cos(roll) - flight.r_radps * np.sin(roll),
        "yaw_rad": turning / cos,
    }
    channels: dict[str, Array] = {}
    for name, rate in rates.items():
        angle = _unwrapped(getattr(flight, name))
        mean = np.nan_to_num(0.5 * (rate[1:] + rate[:-1]))
        integral = np.concatenate([[0.0], np.cumsum(mean * np.diff(flight.time_s))]) if len(rate) else rate
        channels[name] = integral + _local(angle - integral, flight.rate_hz, ATTITUDE_S, 1)
    for name in ("airspeed_mps", "altitude_m", "climb_rate_mps"):
        channels[name] = _local(getattr(flight, name), flight.rate_hz, SLOW_S, 2)
    return replace(flight, **channels)


def _unwrapped(angle: Array) -> Array:
    out = angle.copy()
    known = np.isfinite(out)
    out[known] = np.unwrap(out[known])
    return out


def _local(values: Array, rate_hz: float, over_s: float, order: int) -> Array:
    """Local polynomial at each sample; as measured where the flight is too short or a sample is missing nearby."""
    from scipy.signal import savgol_filter

    width = 2 * round(over_s * rate_hz / 2.0) + 1
    if len(values) < width or width <= order + 1:
        return values
    smooth = np.asarray(savgol_filter(values, width, order), np.float64)
    return np.where(np.isfinite(smooth), smooth, values)
