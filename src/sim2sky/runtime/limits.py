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
from sim2sky.runtime.geofence import Point, polygon_problem

__all__ = ["SafetyLimits"]

MAX_CORNER_M = 1e6

_POSITIVE = (
    "aileron_max", "elevator_max", "rudder_max", "surface_slew_per_s", "throttle_slew_per_s", "roll_max", "pitch_max",
    "max_range_m", "stale_data_ms", "fallback_bank_deg", "fallback_pull_mps2",
)  # fmt: skip
_ANY_SIGN = ("pitch_min", "altitude_min", "max_altitude_m", "throttle_min", "throttle_max")


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
        airspeed_min_mps, airspeed_max_mps: the lower one holds the margin to the stall. 0: not watched.
        sink_max_mps: fastest descent. 0: not watched.
        altitude_min, max_altitude_m: floor and ceiling above home, m.
        altitude_buffer_m: the predicted way to level flight must end so far above the floor and below the ceiling, m.
        max_range_m: largest horizontal distance from home, m.
        geofence_polygons: corners (north, east) from home, m. The aircraft stays inside the circle and every polygon.
        geofence_enabled: whether circle and polygons are watched.
        fence_buffer_m: the predicted way home must stay so far inside, m.
        battery_min_voltage: below it for two seconds the aircraft goes home and descends, V. 0: not watched.
        kill_switch_enabled: whether a kill request is obeyed.
        preflight_checks_required: whether the golden vectors are replayed before the first command.
        hold_last_ms: how long the policy's last command may be repeated when no usable new one comes, ms.
        stale_data_ms: a state estimate older than this ends the policy's turn, ms.
        blind_data_ms: one older than this is no base for any control law: trim is held, ms.
        terminate_after_s: blind for so long, the aircraft is brought down: throttle closed, surfaces at trim, s.
        attitude_hysteresis_deg, altitude_hysteresis_m, range_hysteresis_m, airspeed_hysteresis_mps: how far inside a
            limit the aircraft must be before the limit counts as kept again; the last one for the sink, too.
        recovery_s: how long all limits must be kept before the policy is given control back, s.
        return_after_s: how long the fallback law holds course, waiting for the policy, before it flies home, s.
        fallback_airspeed_mps: airspeed the fallback law holds; 0 means the setpoint's.
        fallback_bank_deg, fallback_roll_s, fallback_pull_mps2: what the prediction counts on: the fallback law's bank
            in a turn, the time constant of rolling into it, its vertical acceleration when it levels off.
        position_latency_ms: how old the position in a fresh state estimate is, at worst, ms.
        command_latency_ms: from the guard's command to the moved surface, at worst, ms.
        wind_max_mps: strongest wind to reckon with where ground velocity is not measured.
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
    airspeed_min_mps: float = 0.0
    airspeed_max_mps: float = 0.0
    sink_max_mps: float = 0.0
    altitude_min: float = 30.0
    max_altitude_m: float = 500.0
    altitude_buffer_m: float = 10.0
    max_range_m: float = 500.0
    geofence_polygons: tuple[tuple[Point, ...], ...] = ()
    geofence_enabled: bool = True
    fence_buffer_m: float = 25.0
    battery_min_voltage: float = 0.0
    kill_switch_enabled: bool = True
    preflight_checks_required: bool = True
    hold_last_ms: float = 100.0
    stale_data_ms: float = 200.0
    blind_data_ms: float = 500.0
    terminate_after_s: float = 5.0
    attitude_hysteresis_deg: float = 5.0
    altitude_hysteresis_m: float = 5.0
    range_hysteresis_m: float = 20.0
    airspeed_hysteresis_mps: float = 1.0
    recovery_s: float = 1.0
    return_after_s: float = 10.0
    fallback_airspeed_mps: float = 0.0
    fallback_bank_deg: float = 35.0
    fallback_roll_s: float = 1.0
    fallback_pull_mps2: float = 3.0
    position_latency_ms: float = 200.0
    command_latency_ms: float = 100.0
    wind_max_mps: float = 10.0

    def __post_init__(self) -> None:
        """Refuse limits that contradict each other.

        Raises:
            ConfigError: naming the limit.
        """
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name == "geofence_polygons":
                continue
            if spec.type == "bool":
                if not isinstance(value, bool):
                    raise ConfigError(f"safety limit '{spec.name}' must be true or false, got {value!r}")
            elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ConfigError(f"safety limit '{spec.name}' must be a finite number, got {value!r}")
            elif spec.name in _POSITIVE and value <= 0:
                raise ConfigError(f"safety limit '{spec.name}' must be above 0, got {value}")
            elif spec.name not in _ANY_SIGN and value < 0:
                raise ConfigError(f"safety limit '{spec.name}' must not be negative, got {value}")
        for kept, message, hint in self._rules():
            if not kept:
                raise ConfigError(f"safety limits contradict each other: {message}", hint=hint)
        for i, polygon in enumerate(self.geofence_polygons, 1):
            if problem := polygon_problem(polygon):
                raise ConfigError(
                    f"safety limit 'geofence_polygons': polygon {i} {problem}",
                    hint="corners in order around home, [north, east] in metres from home",
                )

    def _rules(self) -> tuple[tuple[bool, str, str], ...]:
        """What must hold between limits: (whether it does, what is said, how to mend it)."""
        return (
            (
                0.0 <= self.throttle_min < self.throttle_max <= 1.0,
                "0 <= throttle_min < throttle_max <= 1 must hold",
                "the usual values are 0 and 1",
            ),
            (
                self.roll_max <= 180 and self.pitch_max <= 90,
                "roll_max is at most 180 and pitch_max at most 90 degrees",
                "angles are degrees",
            ),
            (-90 <= self.pitch_min < 0, "pitch_min must be in [-90, 0) degrees", "nose down is negative"),
            (
                self.blind_data_ms >= self.stale_data_ms,
                "blind_data_ms must not be below stale_data_ms",
                f"raise blind_data_ms to {self.stale_data_ms:g} or more",
            ),
            (
                self.attitude_hysteresis_deg < min(self.roll_max, self.pitch_max, -self.pitch_min),
                "attitude_hysteresis_deg must be below roll_max, pitch_max and -pitch_min",
                "a hysteresis of 5 degrees is usual",
            ),
            (
                self.max_altitude_m - self.altitude_min > 4 * self.altitude_hysteresis_m + 2 * self.altitude_buffer_m,
                "max_altitude_m must lie above altitude_min by more than four hysteresis and two buffers of altitude",
                f"the floor is {self.altitude_min:g} m and the ceiling {self.max_altitude_m:g} m: raise the ceiling",
            ),
            (
                self.range_hysteresis_m + self.fence_buffer_m < self.max_range_m,
                "range_hysteresis_m and fence_buffer_m together must be below max_range_m",
                "widen max_range_m, or name a smaller buffer",
            ),
            (
                self.airspeed_max_mps == 0.0
                or self.airspeed_max_mps - self.airspeed_min_mps > 4 * self.airspeed_hysteresis_mps,
                "airspeed_max_mps must lie above airspeed_min_mps by more than four airspeed_hysteresis_mps",
                "0 leaves an airspeed limit unwatched",
            ),
            (
                self.airspeed_hysteresis_mps < self.sink_max_mps or self.sink_max_mps == 0.0,
                "airspeed_hysteresis_mps must be below sink_max_mps",
                "0 leaves the sink unwatched",
            ),
            (
                self.fallback_airspeed_mps == 0.0
                or self.airspeed_min_mps <= self.fallback_airspeed_mps <= (self.airspeed_max_mps or math.inf),
                "fallback_airspeed_mps must lie between airspeed_min_mps and airspeed_max_mps",
                "0 holds the setpoint's airspeed",
            ),
            (self.fallback_bank_deg <= 75.0, "fallback_bank_deg is at most 75 degrees", "angles are degrees"),
        )

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        data = asdict(self)
        data["geofence_polygons"] = [[list(point) for point in polygon] for polygon in self.geofence_polygons]
        return data

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
            if name == "geofence_polygons":
                values[name] = _polygons(value)
            else:
                whole = isinstance(value, int) and not isinstance(value, bool)
                values[name] = float(value) if whole else value
        return cls(**values)


def _polygons(value: Any) -> tuple[tuple[Point, ...], ...]:
    """Polygons from nested lists.

    Raises:
        ConfigError: a corner is not two finite numbers.
    """
    try:
        polygons = tuple(tuple((float(north), float(east)) for north, east in polygon) for polygon in value)
    except (TypeError, ValueError, OverflowError):
        polygons = None
    if polygons is None or not all(abs(v) < MAX_CORNER_M for polygon in polygons for point in polygon for v in point):
        raise ConfigError(
            "safety limit 'geofence_polygons' must be a list of polygons, each a list of corners [north, east] in m",
            hint="for example [[[200, -200], [200, 200], [-200, 200], [-200, -200]]]",
        )
    return polygons
