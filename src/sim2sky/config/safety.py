"""Safety limits as written in YAML. Values are not limited here: the safety check judges them, not the loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from sim2sky.config.loader import Settings, default_path, load_settings
from sim2sky.errors import ConfigError

__all__ = ["SafetySettings", "resolve_safety"]


class SafetySettings(Settings):
    """Limits the SafetyMonitor enforces on the aircraft, under the names of `runtime.limits.SafetyLimits`.

    A key that is absent everywhere counts as missing. Surfaces: largest deflection in degrees. Altitudes: above home.
    """

    extends: str | None = Field(
        default=None, description="name of a shipped safety configuration, or a YAML file, whose values hold by default"
    )
    aileron_max: float | None = Field(default=None, description="deg")
    elevator_max: float | None = Field(default=None, description="deg")
    rudder_max: float | None = Field(default=None, description="deg")
    throttle_min: float | None = Field(default=None, description="0..1")
    throttle_max: float | None = Field(default=None, description="0..1")
    surface_slew_per_s: float | None = Field(default=None, description="1/s; 1 is from neutral to full travel")
    throttle_slew_per_s: float | None = Field(default=None, description="1/s")
    roll_max: float | None = Field(default=None, description="deg")
    pitch_max: float | None = Field(default=None, description="deg, nose up")
    pitch_min: float | None = Field(default=None, description="deg, nose down, negative")
    airspeed_min_mps: float | None = Field(default=None, description="m/s, the margin to the stall; 0: not watched")
    airspeed_max_mps: float | None = Field(default=None, description="m/s; 0: not watched")
    sink_max_mps: float | None = Field(default=None, description="m/s, fastest descent; 0: not watched")
    altitude_min: float | None = Field(default=None, description="m, the floor")
    max_altitude_m: float | None = Field(default=None, description="m, the ceiling")
    altitude_buffer_m: float | None = Field(default=None, description="m, kept from floor and ceiling by prediction")
    max_range_m: float | None = Field(default=None, description="m, horizontal distance from home")
    geofence_polygons: list[list[tuple[float, float]]] | None = Field(
        default=None, description="inclusion polygons, corners [north, east] from home, m"
    )
    fence_buffer_m: float | None = Field(default=None, description="m, kept from the fence by prediction")
    battery_min_voltage: float | None = Field(default=None, description="V, below it the aircraft goes home; 0: off")
    hold_last_ms: float | None = Field(default=None, description="how long the policy's last command may be repeated")
    stale_data_ms: float | None = Field(default=None, description="an older state estimate ends the policy's turn")
    blind_data_ms: float | None = Field(default=None, description="an older one is no base for any law: trim is held")
    terminate_after_s: float | None = Field(default=None, description="blind for so long: throttle closed")
    attitude_hysteresis_deg: float | None = None
    altitude_hysteresis_m: float | None = None
    range_hysteresis_m: float | None = None
    airspeed_hysteresis_mps: float | None = None
    recovery_s: float | None = Field(default=None, description="all limits kept for so long before the policy returns")
    return_after_s: float | None = Field(default=None, description="the fallback law waits so long, then flies home")
    fallback_airspeed_mps: float | None = Field(default=None, description="0: the setpoint's")
    fallback_bank_deg: float | None = Field(default=None, description="bank the prediction counts on in a turn")
    fallback_roll_s: float | None = Field(default=None, description="time constant of rolling into it")
    fallback_pull_mps2: float | None = Field(default=None, description="vertical acceleration when levelling off")
    position_latency_ms: float | None = Field(default=None, description="age of the position in a fresh estimate")
    command_latency_ms: float | None = Field(default=None, description="from the command to the moved surface")
    wind_max_mps: float | None = Field(default=None, description="strongest wind, where nobody measures it")
    geofence_enabled: bool | None = None
    kill_switch_enabled: bool | None = None
    preflight_checks_required: bool | None = None

    @property
    def values(self) -> dict[str, Any]:
        """What is set, without `extends`; JSON-compatible."""
        return {k: v for k, v in self.model_dump(mode="json", exclude={"extends"}).items() if v is not None}


def resolve_safety(settings: SafetySettings) -> SafetySettings:
    """Fill what is absent from the configuration that `extends` names; the result extends nothing.

    Raises:
        ConfigError: that configuration does not exist, is wrong, or the chain is circular.
    """
    seen: list[str] = []
    values = settings.values
    while settings.extends is not None:
        name = settings.extends
        if name in seen:
            raise ConfigError(f"safety configurations extend each other in a circle: {' -> '.join([*seen, name])}")
        seen.append(name)
        path = Path(name) if name.endswith((".yaml", ".yml")) else default_path("safety", name)
        settings = load_settings(path, SafetySettings, section="safety")
        values = {**settings.values, **values}
    return SafetySettings.model_validate(values)
