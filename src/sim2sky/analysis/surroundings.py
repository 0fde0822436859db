"""What flights say of the air and the sensors, besides the aircraft: noise, constant errors, wind.

A simulator refitted to an aircraft but not to its sensors flies better than the aircraft does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.flights import Flight
from sim2sky.analysis.sensor_checks import NOISE_SENSORS, climb_consistency, noise_levels
from sim2sky.analysis.wind import estimate_wind
from sim2sky.config.environment import SensorSettings
from sim2sky.errors import NotSupportedError

__all__ = ["Range", "Surroundings", "constant_errors", "survey"]

Array = NDArray[np.float64]
Range = tuple[float, float]
FEWEST = 3  # flights that must agree on a constant error: every flight has some of its own
LEAST_WIDTH = 0.03  # of the noise's factor
LEVEL = 0.95
_SETTING = {
    "roll_rad": "attitude_rad", "pitch_rad": "attitude_rad", "yaw_rad": "heading_rad", "airspeed_mps": "airspeed_mps",
    "altitude_m": "altitude_m", "climb_rate_mps": "climb_rate_mps",
}  # fmt: skip


@dataclass(frozen=True)
class Surroundings:
    """What the flights say; None or a missing name where they do not.

    Attributes:
        noise: standard deviation of a sensor's white noise, by name.
        noise_error: relative, of one common factor of all of them; half of its 95 % interval.
        wind_mps: steady wind from flight to flight.
        offsets: constant errors that the flights agree on, by sensor: 95 % interval of their mean, in its unit.
    """

    noise: Mapping[str, float] = field(default_factory=dict[str, float])
    noise_error: float = LEAST_WIDTH
    wind_mps: Range | None = None
    offsets: Mapping[str, Range] = field(default_factory=dict[str, Range])

    def noise_scale(self, sensors: Mapping[str, Any]) -> Range | None:
        """The noise as a factor on the standard deviations of `SensorSettings`."""
        ratios = [v / sensors[_SETTING[name]] for name, v in self.noise.items() if sensors[_SETTING[name]] > 0.0]
        if not ratios:
            return None
        centre = float(np.median(ratios))
        return centre / (1.0 + self.noise_error), centre * (1.0 + self.noise_error)

    def disturbances(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """What changes in the settings of disturbances."""
        changes: dict[str, Any] = {}
        if self.wind_mps is not None:
            changes["wind_mps"] = _rounded(self.wind_mps)
        sensors = dict(before["sensors"])
        if (scale := self.noise_scale(sensors)) is not None:
            sensors["noise_scale"] = _rounded(scale)
        sensors["offsets"] = {**sensors["offsets"], **{name: _rounded(r) for name, r in self.offsets.items()}}
        return {**changes, "sensors": sensors}

    def __str__(self) -> str:
        said: list[str] = []
        if (scale := self.noise_scale(SensorSettings().model_dump())) is not None:
            said.append(f"sensor noise {scale[0]:.2f} to {scale[1]:.2f} times the simulator's")
        said += [f"{name} off by {low:+.3g} to {high:+.3g}" for name, (low, high) in self.offsets.items()]
        if self.wind_mps is not None:
            said.append(f"wind {self.wind_mps[0]:.1f} to {self.wind_mps[1]:.1f} m/s")
        return "; ".join(said) or "nothing"


def _rounded(bounds: Range) -> Range:
    return round(bounds[0], 5), round(bounds[1], 5)


def survey(flights: Sequence[Flight], biases: Mapping[str, Array]) -> Surroundings:
    """Noise, wind and constant errors of flights.

    Args:
        flights: of one aircraft at one place.
        biases: (flights,) constant errors by sensor, as identification found them.
    """
    climb = [climb_consistency(f) for f in flights]
    known = {**biases, "climb_rate_mps": np.array([s / h for s, h in climb if h > 0.0])}
    return Surroundings(*_noise(flights), _wind(flights), constant_errors(known))


def constant_errors(biases: Mapping[str, Array]) -> dict[str, Range]:
    """Sensors whose errors have a mean other than zero over the flights: Student's interval of it, 95 %.

    One sensor in twenty would be called so by chance; the interval then begins near zero and does little harm.
    """
    from scipy import stats

    found: dict[str, Range] = {}
    for name, values in biases.items():
        n = len(values)
        if n < FEWEST or not np.isfinite(values).all():
            continue
        half = float(stats.t.ppf(0.5 + LEVEL / 2.0, n - 1) * np.std(values, ddof=1)) / math.sqrt(n)
        mean = float(np.mean(values))
        if abs(mean) > half:
            found[name] = (mean - half, mean + half)
    return found


def _noise(flights: Sequence[Flight]) -> tuple[dict[str, float], float]:
    levels = np.array([noise_levels(f, NOISE_SENSORS) for f in flights]).reshape(-1, len(NOISE_SENSORS))
    names = [name for name, column in zip(NOISE_SENSORS, levels.T, strict=True) if np.isfinite(column).all()]
    if not len(levels) or not names:
        return {}, LEAST_WIDTH
    levels = levels[:, [NOISE_SENSORS.index(name) for name in names]]
    centre = np.median(levels, axis=0)
    error = 2.0 * float(np.std(levels - centre)) / math.sqrt(levels.size)
    return dict(zip(names, np.exp(centre).tolist(), strict=True)), max(error, LEAST_WIDTH)


def _wind(flights: Sequence[Flight]) -> Range | None:
    """The uniform range with the mean and the spread of the flights' wind speeds, their errors taken off."""
    squares: list[float] = []
    for flight in flights:
        try:
            w = estimate_wind(flight)
        except NotSupportedError:
            continue
        error = w.north_std_mps**2 + w.east_std_mps**2
        squares.append(max(w.north_mps**2 + w.east_mps**2 - error, 0.0))
    if len(squares) < FEWEST:
        return None
    speeds = np.sqrt(squares)
    mean, spread = float(np.mean(speeds)), math.sqrt(3.0) * float(np.std(speeds, ddof=1))
    return max(mean - spread, 0.0), mean + spread
