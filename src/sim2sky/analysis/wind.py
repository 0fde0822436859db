"""The wind in which a flight took place, from its track over ground, airspeed and heading (the wind triangle)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.flights import Flight
from sim2sky.environments.replay_plant import density_ratio
from sim2sky.errors import NotSupportedError

__all__ = ["Wind", "estimate_wind", "ground_velocity", "path_angle"]

Array = NDArray[np.float64]
BLOCK_S = 4.0  # turbulence is coloured: samples closer than this count as one
AIRSPEED_BIAS_MPS = 0.5  # of a small aircraft's pitot tube and compass, one standard deviation
HEADING_BIAS_RAD = 0.05
LEAST_STD_MPS = 0.3  # of the triangle itself: sideslip and curved paths are not in it


@dataclass(frozen=True)
class Wind:
    """Mean velocity of the air (towards north and east), with standard errors, and what the triangle says of sensors.

    Attributes:
        airspeed_bias_mps, heading_bias_rad: sensor errors that fit best; near zero where the flight does not turn.
    """

    north_mps: float
    east_mps: float
    north_std_mps: float
    east_std_mps: float
    airspeed_bias_mps: float
    heading_bias_rad: float


def path_angle(flight: Flight) -> Array:
    """Climb angle through the air, rad (n,); from the climb rate, or the altitude's slope over half a second."""
    climb = flight.climb_rate_mps
    if not np.isfinite(climb).all():
        climb = np.where(np.isfinite(climb), climb, _slope(flight.altitude_m, flight.rate_hz, 0.5))
    speed = flight.airspeed_mps / np.sqrt(density_ratio(flight.altitude_m))
    return np.arcsin(np.clip(climb / np.maximum(speed, 1.0), -0.9, 0.9))


def ground_velocity(flight: Flight, over_s: float = 0.2) -> Array:
    """North and east velocity over ground by differentiating the position, m/s (n, 2)."""
    return np.column_stack([_slope(x, flight.rate_hz, over_s) for x in (flight.north_m, flight.east_m)])


def estimate_wind(flight: Flight) -> Wind:
    """Least squares over the flight: ground velocity = air velocity + wind, the sensors' biases as nuisances.

    Raises:
        NotSupportedError: the log has no position, airspeed or heading.
    """
    speed = flight.airspeed_mps / np.sqrt(density_ratio(flight.altitude_m)) * np.cos(path_angle(flight))
    cos, sin = np.cos(flight.yaw_rad), np.sin(flight.yaw_rad)
    difference = ground_velocity(flight) - np.column_stack([speed * cos, speed * sin])
    good = np.isfinite(difference).all(axis=1)
    if good.sum() < 3:
        raise NotSupportedError(f"the wind of {flight.name}", hint="it takes position, airspeed and heading in the log")
    one, zero = np.ones(good.sum()), np.zeros(good.sum())
    speed, cos, sin = speed[good], cos[good], sin[good]
    # What is measured too high makes the wind look the other way.
    design = np.concatenate(
        [np.column_stack([one, zero, -cos, speed * sin]), np.column_stack([zero, one, -sin, -speed * cos])]
    )
    target = np.concatenate([difference[good, 0], difference[good, 1]])
    prior = np.diag([0.0, 0.0, 1.0 / AIRSPEED_BIAS_MPS**2, 1.0 / HEADING_BIAS_RAD**2])
    variance, x, information = 1.0, np.zeros(4), prior
    for _ in range(3):  # the prior's weight needs the residuals' size
        per_sample = variance * max(BLOCK_S * flight.rate_hz, 1.0)
        information = design.T @ design / per_sample + prior
        x = np.linalg.solve(information, design.T @ target / per_sample)
        variance = max(float(np.mean((target - design @ x) ** 2)), LEAST_STD_MPS**2)
    std = np.sqrt(np.diag(np.linalg.inv(information)))
    return Wind(*x[:2].tolist(), *std[:2].tolist(), *x[2:].tolist())


def _slope(values: Array, rate_hz: float, over_s: float) -> Array:
    """Derivative by a local quadratic fit; NaN near gaps."""
    from scipy.signal import savgol_filter

    width = max(2 * round(over_s * rate_hz / 2.0) + 1, 5)
    if len(values) < width or not np.isfinite(values).any():
        return np.full(len(values), np.nan)
    slope = np.asarray(savgol_filter(values, width, 2, deriv=1, delta=1.0 / rate_hz, mode="nearest"), np.float64)
    edge = width // 2  # where the fit would look beyond the flight
    slope[:edge], slope[-edge:] = slope[edge], slope[-edge - 1]
    return slope
