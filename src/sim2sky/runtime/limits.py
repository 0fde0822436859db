"""Safety limits under the specification's names: what a policy's commands and the flight itself must stay within.

Standard library only. Angles are degrees here, as in the YAML files people write.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from sim2sky.errors import ConfigError

__all__ = ["SafetyLimits"]


@dataclass(frozen=True, slots=True)
class SafetyLimits:
    """Limits of commands, attitude, position and data age.

    Attributes:
        aileron_max, elevator_max, rudder_max: largest deflection either way, degrees. A value beyond the airframe's
            own travel limits nothing; the deployment check refuses it.
        throttle_min, throttle_max: 0..1.
        surface_slew_per_s: largest change of a surface command per second; 1 is from neutral to full travel.
        throttle_slew_per_s: the same for the throttle.
        roll_max: largest bank either way, degrees.
        pitch_max, pitch_min: degrees, nose up and (negative) nose down.
        altitude_min, max_altitude_m: floor and ceiling above home, m.
        max_range_m: largest horizontal distance from home, m.
        geofence_enabled: whether `max_range_m` is watched.
        kill_switch_enabled: whether a kill request is obeyed.
        preflight_checks_required: whether the golden vectors are replayed before the first command.
        stale_data_ms: a state estimate older than this ends the policy's turn, ms.
        blind_data_ms: one older than this is no base for any control law: trim is held, ms.
        attitude_hysteresis_deg, altitude_hysteresis_m, range_hysteresis_m: how far inside a limit the aircraft must
            be before the limit counts as kept again.
        recovery_s: how long all limits must be kept before the policy is given control back, s.
        fallback_airspeed_mps: airspeed the fallback law holds; 0 means the one flown when it took over.
    """

    aileron_max: float = 25.0
    elevator_max: float = 25.0
    rudder_max: float = 25.0
    throttle_min: float = 0.0
    throttle_max: float = 1.0
    surface_slew_per_s: float = 12.0
    throttle_slew_per_s: float = 10.0
    roll_max: float = 60.0
    pitch_max: float = 35.0
    pitch_min: float = -35.0
    altitude_min: float = 30.0
    max_altitude_m: float = 500.0
    max_range_m: float = 500.0
    geofence_enabled: bool = True
    kill_switch_enabled: bool = True
    preflight_checks_required: bool = True
    stale_data_ms: float = 200.0
    blind_data_ms: float = 500.0
    attitude_hysteresis_deg: float = 5.0
    altitude_hysteresis_m: float = 5.0
    range_hysteresis_m: float = 20.0
    recovery_s: float = 1.0
    fallback_airspeed_mps: float = 0.0

    def __post_init__(self) -> None:
        """Refuse limits that contradict each other.

        Raises:
            ConfigError: naming the limit.
        """
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.type == "bool":
                if not isinstance(value, bool):
                    raise ConfigError(f"safety limit '{spec.name}' must be true or false, got {value!r}")
            elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ConfigError(f"safety limit '{spec.name}' must be a finite number, got {value!r}")
        positive = (
            "aileron_max", "elevator_max", "rudder_max", "surface_slew_per_s", "throttle_slew_per_s", "roll_max",
            "pitch_max", "max_range_m", "stale_data_ms",
        )  # fmt: skip
        for name in positive:
            if getattr(self, name) <= 0:
                raise ConfigError(f"safety limit '{name}' must be above 0, got {getattr(self, name)}")
        rules = (
            (0.0 <= self.throttle_min < self.throttle_max <= 1.0, "0 <= throttle_min < throttle_max <= 1 must hold"),
            (self.roll_max <= 180 and self.pitch_max <= 90, "roll_max is at most 180 and pitch_max at most 90 degrees"),
            (-90 <= self.pitch_min < 0, "pitch_min must be in [-90, 0) degrees"),
            (self.blind_data_ms >= self.stale_data_ms, "blind_data_ms must not be below stale_data_ms"),
            (
                min(self.attitude_hysteresis_deg, self.altitude_hysteresis_m, self.range_hysteresis_m) >= 0
                and self.recovery_s >= 0
                and self.fallback_airspeed_mps >= 0,
                "hysteresis, recovery_s and fallback_airspeed_mps must not be negative",
            ),
            (
                self.attitude_hysteresis_deg < min(self.roll_max, self.pitch_max, -self.pitch_min),
                "attitude_hysteresis_deg must be below roll_max, pitch_max and -pitch_min",
            ),
            (
                self.max_altitude_m - self.altitude_min > 4 * self.altitude_hysteresis_m,
                "max_altitude_m must lie above altitude_min by more than four altitude_hysteresis_m",
            ),
            (self.range_hysteresis_m < self.max_range_m, "range_hysteresis_m must be below max_range_m"),
        )  # fmt: skip
        for kept, message in rules:
            if not kept:
                raise ConfigError(f"safety limits contradict each other: {message}")

    def to_json(self) -> dict[str, float | bool]:
        """As a JSON-compatible mapping."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SafetyLimits:
        """Inverse of `to_json`; what is left out has its default, and the fallback law's gains are passed over.

        Raises:
            ConfigError: an unknown name, a value of the wrong type, or limits that contradict each other.
        """
        names = [spec.name for spec in fields(cls)]
        values: dict[str, Any] = {}
        for name, value in data.items():
            if name == "fallback":
                continue
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
                hint = f"did you mean '{close[0]}'?" if close else f"known limits: {', '.join(names)}"
                raise ConfigError(f"unknown safety limit '{name}'", hint=hint)
            whole = isinstance(value, int) and not isinstance(value, bool)
            values[name] = float(value) if whole else value
        return cls(**values)
