"""Settings of `AircraftEnv`: aircraft, task, disturbances, randomisation. Ranges are drawn once per episode."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from sim2sky.config.loader import Range, Settings

__all__ = [
    "CALIBRATED_BIAS",
    "COEFFICIENTS",
    "SENSORS",
    "DisturbanceSettings",
    "EnvironmentSettings",
    "RandomizationSettings",
    "Sensor",
    "SensorSettings",
    "Surface",
    "TaskSettings",
]

Surface = Literal["aileron", "elevator", "rudder"]
Sensor = Literal[
    "roll_rad", "pitch_rad", "yaw_rad", "p_radps", "q_radps", "r_radps", "airspeed_mps", "altitude_m", "climb_rate_mps"
]
SENSORS: tuple[Sensor, ...] = get_args(Sensor)
"""In the order of the simulated sensors' columns."""
CALIBRATED_BIAS: dict[Sensor, float] = {
    "roll_rad": 0.025, "pitch_rad": 0.025, "yaw_rad": 0.05, "p_radps": 0.01, "q_radps": 0.01, "r_radps": 0.01,
    "airspeed_mps": 0.8, "altitude_m": 2.0, "climb_rate_mps": 0.2,
}  # fmt: skip
"""A mounted and calibrated low-cost autopilot: 1.5 degrees, 3 degrees of compass, half a degree per second."""
COEFFICIENTS = (
    "CL0", "CLa", "CLq", "CLde", "CD0", "CDde", "CDda", "CDdr", "CYb", "CYp", "CYr", "CYda", "CYdr", "Clb", "Clp",
    "Clr", "Clda", "Cldr", "Cm0", "Cma", "Cmq", "Cmde", "Cnb", "Cnp", "Cnr", "Cnda", "Cndr",
)  # fmt: skip
"""Aerodynamic derivatives that have a scale (CLm is a place on the drag polar and has none)."""


class TaskSettings(Settings):
    """What is to be flown, and when an episode counts as a success."""

    name: Literal["hsa", "attitude", "rate"] = "hsa"
    duration_s: float = Field(default=20.0, gt=0, le=3600, description="length of an episode, s")
    hold_s: float = Field(default=5.0, gt=0, description="the last so many seconds must lie within the tolerances, s")
    altitude_tolerance_m: float = Field(default=10.0, gt=0)
    airspeed_tolerance_mps: float = Field(default=2.0, gt=0)
    heading_tolerance_deg: float = Field(default=10.0, gt=0, le=180)
    roll_tolerance_deg: float = Field(default=10.0, gt=0, le=180)
    pitch_tolerance_deg: float = Field(default=8.0, gt=0, le=90)
    rate_tolerance_degps: float = Field(default=25.0, gt=0)
    altitude_step_m: float = Field(default=30.0, ge=0, description="setpoints are drawn within +- this of the start, m")
    heading_step_deg: float = Field(default=90.0, ge=0, le=180)

    @model_validator(mode="after")
    def _hold_within_episode(self) -> Self:
        if self.hold_s > self.duration_s:
            raise ValueError(f"hold_s {self.hold_s} is longer than duration_s {self.duration_s}")
        return self


class SensorSettings(Settings):
    """Standard deviations of white noise per sample; a bias of the same size is drawn once per episode."""

    attitude_rad: float = Field(default=0.01, ge=0, le=1)
    heading_rad: float = Field(default=0.02, ge=0, le=1)
    rate_radps: float = Field(default=0.02, ge=0, le=5)
    airspeed_mps: float = Field(default=0.3, ge=0, le=10)
    altitude_m: float = Field(default=0.5, ge=0, le=50)
    climb_rate_mps: float = Field(default=0.2, ge=0, le=10)
    noise_scale: Range = Field(default=(1.0, 1.0), description="factor on the noise of all of them, drawn per episode")
    offsets: dict[Sensor, Range] = Field(
        default_factory=dict, description="a bias beyond that, by sensor: drawn per episode, in the sensor's unit"
    )


class DisturbanceSettings(Settings):
    """Air, sensors and delays."""

    wind_mps: Range = Field(default=(0.0, 6.0), description="steady wind speed, direction uniform, m/s")
    turbulence_w20_mps: Range = Field(default=(0.0, 9.0), description="Dryden: wind at 20 ft, m/s (MIL-F-8785C)")
    action_delay_s: Range = Field(default=(0.0, 0.0), description="between the policy's input and the actuators, s")
    observation_delay_s: Range = Field(default=(0.0, 0.0), description="between measurement and the policy's input, s")
    sensors: SensorSettings = SensorSettings()


class RandomizationSettings(Settings):
    """Ranges of the aircraft's parameters; the defaults are the nominal aircraft."""

    mass_offset_kg: Range = (0.0, 0.0)
    cg_offset_m: Range = Field(default=(0.0, 0.0), description="positive forward, m")
    inertia_scale: Range = (1.0, 1.0)
    coefficient_scale: Range = Field(default=(1.0, 1.0), description="drawn per aerodynamic coefficient")
    thrust_scale: Range = (1.0, 1.0)
    actuator_bandwidth_scale: Range = (1.0, 1.0)
    actuator_rate_scale: Range = (1.0, 1.0)
    elevator_offset: Range = Field(default=(0.0, 0.0), description="of full travel")
    coefficient_scales: dict[str, Range] = Field(
        default_factory=dict, description="by coefficient (CLa, Cmq, ...), in the place of coefficient_scale"
    )
    command_scale: dict[Surface, Range] = Field(
        default_factory=dict, description="factor on a surface's command; negative: it moves the wrong way"
    )
    command_offset: dict[Surface, Range] = Field(
        default_factory=dict, description="added to a surface's command, of full travel"
    )
    command_swap: tuple[Surface, Surface] | None = Field(
        default=None, description="two surfaces whose commands are exchanged"
    )

    @field_validator("coefficient_scales")
    @classmethod
    def _known_coefficients(cls, value: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        if unknown := sorted(set(value) - set(COEFFICIENTS)):
            raise ValueError(f"no aerodynamic coefficient {unknown[0]}; there are {', '.join(COEFFICIENTS)}")
        return value


class EnvironmentSettings(Settings):
    """Everything `AircraftEnv` needs."""

    aircraft: Literal["ultrastick25e", "aerosonde"] = "ultrastick25e"
    task: TaskSettings = TaskSettings()
    rate_hz: float = Field(default=20.0, gt=0, le=200, description="control rate, Hz")
    physics_hz: float = Field(default=120.0, ge=60, le=1000, description="integration rate, Hz; a multiple of rate_hz")
    disturbances: DisturbanceSettings = DisturbanceSettings()
    randomization: RandomizationSettings = RandomizationSettings()

    @model_validator(mode="after")
    def _whole_substeps(self) -> Self:
        ratio = self.physics_hz / self.rate_hz
        if abs(ratio - round(ratio)) > 1e-9:
            raise ValueError(f"physics_hz {self.physics_hz} is not a multiple of rate_hz {self.rate_hz}")
        return self

    @property
    def substeps(self) -> int:
        """Physics steps per control step."""
        return round(self.physics_hz / self.rate_hz)

    @property
    def ticks(self) -> int:
        """Control steps of a full episode."""
        return round(self.task.duration_s * self.rate_hz)
