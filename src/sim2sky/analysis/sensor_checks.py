"""What the sensors of a flight say of each other, without a model of the aircraft: white noise and constant errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.flights import Flight
from sim2sky.analysis.wind import ground_velocity, path_angle
from sim2sky.config.environment import SENSORS

__all__ = ["NOISE_SENSORS", "climb_consistency", "noise_levels", "wind_triangle"]

Array = NDArray[np.float64]
ORDER = 3
_MEDIAN_OF_SQUARE = 0.4549  # of a standard normal variable
_ANGLES = ("roll_rad", "pitch_rad", "yaw_rad")
NOISE_SENSORS = ("roll_rad", "pitch_rad", "yaw_rad", "airspeed_mps", "altitude_m", "climb_rate_mps")
"""Whose third differences are noise and nothing else at the usual rates; body rates also feel every gust."""
LEAST_TICKS = 30
BLOCK_S = 4.0  # turbulence is coloured: samples closer than this count as one
LEAST_STD_MPS = 0.4  # of the wind triangle: gusts and curved paths are not in it


def noise_levels(flight: Flight, sensors: Sequence[str] = SENSORS) -> Array:
    """Logarithm of the white noise's standard deviation, by sensor; NaN where the flight is too short or says nothing.

    From third differences: what an aircraft does within 0.2 s is nearly a parabola, noise is not. The variance of the
    n-th difference of white noise is binomial(2n, n) times its own; the median keeps drop-outs out.
    """
    levels = np.full(len(sensors), np.nan)
    for i, name in enumerate(sensors):
        values: Array = getattr(flight, name)
        values = values[np.isfinite(values)]
        if len(values) < LEAST_TICKS:
            continue
        if name in _ANGLES:
            values = np.unwrap(values)
        square = float(np.median(np.diff(values, ORDER) ** 2)) / (_MEDIAN_OF_SQUARE * math.comb(2 * ORDER, ORDER))
        if square > 0.0:
            levels[i] = 0.5 * math.log(square)
    return levels


def climb_consistency(flight: Flight) -> tuple[float, float]:
    """Climb rate against altitude: score and information of a constant error of the climb rate; 0 where unknown.

    The altitude minus the integral of the climb rate has a slope of minus that error.
    """
    good = np.isfinite(flight.altitude_m) & np.isfinite(flight.climb_rate_mps)
    if good.sum() < LEAST_TICKS:
        return 0.0, 0.0
    t, dt = flight.time_s[good], 1.0 / flight.rate_hz
    climb = flight.climb_rate_mps[good]
    # Trapezium rule on the samples' own times; a gap adds its share of the mean climb rate on both sides.
    integral = np.concatenate([[0.0], np.cumsum(0.5 * (climb[1:] + climb[:-1]) * np.diff(t))])
    x = t - t.mean()
    slope = float(x @ (flight.altitude_m[good] - integral) / (x @ x))
    sigma_h, sigma_c = np.exp(noise_levels(flight, ("altitude_m", "climb_rate_mps")))
    if not np.isfinite(sigma_h + sigma_c):
        return 0.0, 0.0
    duration = float(t[-1] - t[0])
    variance = float(sigma_h**2 / (x @ x) + 1.2 * sigma_c**2 * dt / duration) + 0.02**2
    return -slope / variance, 1.0 / variance


def wind_triangle(flight: Flight) -> tuple[Array, Array]:
    """Ground velocity against airspeed and heading: score (2,) and information (2, 2) of constant errors of airspeed
    (m/s) and heading (rad), whatever the steady wind is; zeros where there is no position.

    A wind stays where it is when the aircraft turns, an error of the sensors turns with it.
    """
    speed = flight.airspeed_mps * np.cos(path_angle(flight))
    roll = np.clip(flight.roll_rad, -1.2, 1.2)
    alpha = np.clip((flight.pitch_rad - path_angle(flight)) / np.cos(roll), -0.3, 0.3)
    course = flight.yaw_rad - alpha * np.sin(roll)
    cos, sin = np.cos(course), np.sin(course)
    difference = ground_velocity(flight) - np.column_stack([speed * cos, speed * sin])
    good = np.isfinite(difference).all(axis=1)
    if good.sum() < LEAST_TICKS:
        return np.zeros(2), np.zeros((2, 2))
    one, zero = np.ones(good.sum()), np.zeros(good.sum())
    cos, sin, speed = cos[good], sin[good], speed[good]
    design = np.concatenate(
        [np.column_stack([one, zero, -cos, speed * sin]), np.column_stack([zero, one, -sin, -speed * cos])]
    )
    target = np.concatenate([difference[good, 0], difference[good, 1]])
    x, *_ = np.linalg.lstsq(design, target, rcond=None)
    variance = max(float(np.mean((target - design @ x) ** 2)), LEAST_STD_MPS**2) * max(BLOCK_S * flight.rate_hz, 1.0)
    h, s = design.T @ design / variance, design.T @ target / variance
    into = np.linalg.solve(h[:2, :2], np.column_stack([h[:2, 2:], s[:2]]))
    return s[2:] - h[2:, :2] @ into[:, 2], h[2:, 2:] - h[2:, :2] @ into[:, :2]
