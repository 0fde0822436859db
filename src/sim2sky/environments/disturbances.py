"""What differs between episodes: parameters, air, sensors, delays, start and setpoint. All from one seed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sim2sky.config import EnvironmentSettings
from sim2sky.config.environment import COEFFICIENTS, SENSORS, SensorSettings
from sim2sky.environments.airframes import Airframe
from sim2sky.environments.jsbsim_plant import SURFACES, Air, InitialState, PlantParameters
from sim2sky.runtime.state import Sample, Setpoint

__all__ = ["Scenario", "SensorModel", "draw_scenario", "sensor_sigma"]

LONGEST_APPROACH_S = 24.0  # longer episodes leave any small fence anyhow
_SENSOR_COLUMNS = len(SENSORS)


@dataclass(frozen=True)
class Scenario:
    """One episode's draw.

    Attributes:
        action_delay_substeps, observation_delay_substeps: transport delays in physics steps.
        sensor_bias: one per sensor column.
        sensor_sigma: standard deviation of white noise, one per sensor column.
        turbulence_seed, noise_seed: of the generators inside the episode.
        rate_amplitudes_radps, rate_periods_s: of the sinusoidal setpoint of the `rate` task.
    """

    initial: InitialState
    parameters: PlantParameters
    air: Air
    setpoint: Setpoint
    action_delay_substeps: int
    observation_delay_substeps: int
    sensor_bias: tuple[float, ...]
    sensor_sigma: tuple[float, ...]
    turbulence_seed: int
    noise_seed: int
    rate_amplitudes_radps: tuple[float, float, float]
    rate_periods_s: tuple[float, float, float]

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping, for logs."""
        data = asdict(self)
        for name in ("coefficient_scale", "command_scale", "command_offset"):
            data["parameters"][name] = dict(getattr(self.parameters, name))
        return data


def sensor_sigma(s: SensorSettings) -> tuple[float, ...]:
    """Standard deviations of white noise, one per sensor column."""
    rates = (s.rate_radps,) * 3
    return (s.attitude_rad, s.attitude_rad, s.heading_rad, *rates, s.airspeed_mps, s.altitude_m, s.climb_rate_mps)


def draw_scenario(settings: EnvironmentSettings, airframe: Airframe, seed: int | np.random.SeedSequence) -> Scenario:
    """Draw an episode. Every number is drawn whatever its range, so that changing one range leaves the others alone."""
    rng = np.random.default_rng(seed)
    d, r, task = settings.disturbances, settings.randomization, settings.task

    def uniform(bounds: tuple[float, float]) -> float:
        return float(bounds[0] + (bounds[1] - bounds[0]) * rng.random())

    def symmetric(limit: float) -> float:
        return uniform((-limit, limit))

    airspeed, target_airspeed = uniform(airframe.start_airspeed_mps), uniform(airframe.start_airspeed_mps)
    heading = symmetric(math.pi)
    roll, pitch = symmetric(0.6), symmetric(0.19)
    if task.name == "rate":  # nobody holds the attitude in this task, so it starts near level
        roll, pitch = 0.1 * roll, 0.1 * pitch + airframe.trim_alpha_rad
    altitude = 150.0
    # Lift needed at this speed against trim: a start near the right angle of attack.
    alpha = airframe.trim_alpha_rad * (airframe.cruise_airspeed_mps / airspeed) ** 2
    setpoint = Setpoint(
        altitude_m=altitude + symmetric(task.altitude_step_m),
        airspeed_mps=target_airspeed,
        heading_rad=heading + math.radians(symmetric(task.heading_step_deg)),
        roll_rad=symmetric(0.7),
        pitch_rad=airframe.trim_alpha_rad + symmetric(0.12),
    )
    wind, wind_direction = uniform(d.wind_mps), symmetric(math.pi)
    blowing = (wind * math.cos(wind_direction), wind * math.sin(wind_direction))
    start = _before_home(setpoint, blowing, min(task.duration_s, LONGEST_APPROACH_S))
    parameters = PlantParameters(
        mass_offset_kg=uniform(r.mass_offset_kg),
        cg_offset_m=uniform(r.cg_offset_m),
        inertia_scale=uniform(r.inertia_scale),
        coefficient_scale={
            name: uniform(r.coefficient_scales.get(name, r.coefficient_scale))
            for name in airframe.coefficients
            if name in COEFFICIENTS
        },
        thrust_scale=uniform(r.thrust_scale),
        actuator_bandwidth_scale=uniform(r.actuator_bandwidth_scale),
        actuator_rate_scale=uniform(r.actuator_rate_scale),
        elevator_offset=uniform(r.elevator_offset),
    )
    s = d.sensors
    base = np.array(sensor_sigma(s))
    sigma = base * uniform(s.noise_scale)
    bias = base * rng.uniform(-1.0, 1.0, _SENSOR_COLUMNS)
    turbulence = uniform(d.turbulence_w20_mps)
    action_delay, observation_delay = uniform(d.action_delay_s), uniform(d.observation_delay_s)
    seeds = int(rng.integers(1, 2**31 - 1)), int(rng.integers(1, 2**63 - 1))
    amplitudes = uniform((0.3, 0.8)), uniform((0.05, 0.2)), uniform((0.03, 0.1))
    periods = uniform((2.5, 4.0)), uniform((3.0, 5.0)), uniform((3.0, 5.0))
    # What came later is drawn later, so that older seeds still mean the same episodes.
    command_scale = {name: uniform(r.command_scale.get(name, (1.0, 1.0))) for name in SURFACES}
    command_offset = {name: uniform(r.command_offset.get(name, (0.0, 0.0))) for name in SURFACES}
    bias += [uniform(s.offsets.get(name, (0.0, 0.0))) for name in SENSORS]
    if r.command_scale or r.command_offset or r.command_swap:
        parameters = replace(
            parameters, command_scale=command_scale, command_offset=command_offset, command_swap=r.command_swap
        )
    return Scenario(
        initial=InitialState(altitude, airspeed, roll, pitch, heading, alpha, *start),
        parameters=parameters,
        air=Air(*blowing, turbulence),
        setpoint=setpoint,
        action_delay_substeps=round(action_delay * settings.physics_hz),
        observation_delay_substeps=round(observation_delay * settings.physics_hz),
        sensor_bias=tuple(float(b) for b in bias),
        sensor_sigma=tuple(float(v) for v in sigma),
        turbulence_seed=seeds[0],
        noise_seed=seeds[1],
        rate_amplitudes_radps=amplitudes,
        rate_periods_s=periods,
    )


def _before_home(setpoint: Setpoint, wind: tuple[float, float], duration_s: float) -> tuple[float, float]:
    """Where to start so that the aircraft, on its setpoint's heading, is over home halfway: north and east, m.

    An episode then flies as far from home as it must and no farther, and the fence has no say in it. Draws nothing.
    """
    north = setpoint.airspeed_mps * math.cos(setpoint.heading_rad) + wind[0]
    east = setpoint.airspeed_mps * math.sin(setpoint.heading_rad) + wind[1]
    return -0.5 * duration_s * north, -0.5 * duration_s * east


class SensorModel:
    """Adds bias and white noise to a true sample; the whole episode's noise is drawn at once.

    Args:
        scenario: bias, standard deviations and seed.
        ticks: samples that may be asked for.
    """

    def __init__(self, scenario: Scenario, ticks: int) -> None:
        rng = np.random.default_rng(scenario.noise_seed)
        noise = rng.standard_normal((ticks, _SENSOR_COLUMNS)) * np.array(scenario.sensor_sigma)
        self._offsets: list[list[float]] = (noise + np.array(scenario.sensor_bias)).tolist()

    def measure(self, true: Sample, tick: int) -> Sample:
        """What the sensors say of `true`; position, ground velocity and time stay exact."""
        roll, pitch, yaw, p, q, r, airspeed, altitude, climb = self._offsets[tick]
        return Sample(
            true.time_ns,
            true.roll_rad + roll,
            true.pitch_rad + pitch,
            true.yaw_rad + yaw,
            true.p_radps + p,
            true.q_radps + q,
            true.r_radps + r,
            max(true.airspeed_mps + airspeed, 0.0),
            true.altitude_m + altitude,
            true.climb_rate_mps + climb,
            true.north_m,
            true.east_m,
            true.north_mps,
            true.east_mps,
        )
