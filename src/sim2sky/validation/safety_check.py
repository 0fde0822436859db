"""Are the safety limits present, and do they make sense for the airframe they are to protect?

A limit that the aircraft cannot reach protects nothing; one below what it needs to fly brings it down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sim2sky.environments.airframes import Airframe
from sim2sky.errors import ConfigError
from sim2sky.runtime.limits import SafetyLimits

__all__ = ["REQUIRED", "check_safety"]

REQUIRED = (
    "aileron_max",
    "elevator_max",
    "altitude_min",
    "kill_switch_enabled",
    "rudder_max",
    "throttle_max",
    "roll_max",
    "pitch_max",
    "pitch_min",
    "max_altitude_m",
    "max_range_m",
    "geofence_enabled",
)
"""The specification's four first, then those without which the limits of `configs/deployment` protect nothing."""

MUST_BE_TRUE = ("kill_switch_enabled", "geofence_enabled", "preflight_checks_required")
MAX_ALTITUDE_M = 1000.0
MAX_RANGE_M = 10_000.0
MIN_AUTHORITY = 0.2
MAX_STALE_MS = 1000.0
MAX_HOLD_MS = 200.0
MAX_SLEW_RATIO = 10.0
MAX_TURN_BANK_DEG = 60.0
MIN_RANGE_RADII = 3.0


GRAVITY_MPS2 = 9.80665


def check_safety(values: Mapping[str, object], airframe: Airframe | None) -> tuple[list[str], list[str]]:
    """Judge resolved safety limits.

    Args:
        values: limits by name, as in `configs/safety`.
        airframe: None for an agent whose airframe is unknown; then nothing relative to it can be judged.

    Returns:
        (missing names, what is insane about the others); both empty where the limits pass.
    """
    missing = [name for name in REQUIRED if values.get(name) is None]
    problems: list[str] = []
    known = {k: v for k, v in values.items() if v is not None}
    problems += [f"{n} is {known[n]}: it must be true" for n in MUST_BE_TRUE if n in known and known[n] is not True]
    try:
        limits = SafetyLimits.from_json(known)
    except ConfigError as error:
        return missing, [*problems, error.message]
    problems += _attitude_and_space(limits)
    if airframe is not None:
        problems += _against_airframe(limits, airframe)
    return missing, problems


def _attitude_and_space(limits: SafetyLimits) -> list[str]:
    rules = (
        (10.0 <= limits.roll_max <= 90.0, f"roll_max {limits.roll_max:g} deg is not within 10..90"),
        (10.0 <= limits.pitch_max <= 60.0, f"pitch_max {limits.pitch_max:g} deg is not within 10..60"),
        (-60.0 <= limits.pitch_min <= -10.0, f"pitch_min {limits.pitch_min:g} deg is not within -60..-10"),
        (limits.altitude_min >= 10.0, f"altitude_min {limits.altitude_min:g} m leaves less than 10 m to the ground"),
        (
            limits.altitude_min + 50.0 <= limits.max_altitude_m,
            f"less than 50 m between floor ({limits.altitude_min:g} m) and ceiling ({limits.max_altitude_m:g} m)",
        ),
        (
            limits.max_altitude_m <= MAX_ALTITUDE_M,
            f"max_altitude_m {limits.max_altitude_m:g} is above {MAX_ALTITUDE_M:g}",
        ),
        (limits.max_range_m <= MAX_RANGE_M, f"max_range_m {limits.max_range_m:g} is above {MAX_RANGE_M:g}"),
        (limits.throttle_max >= 0.5, f"throttle_max {limits.throttle_max:g} is too little to climb"),
        (limits.throttle_min <= 0.2, f"throttle_min {limits.throttle_min:g} is too much to descend"),
        (
            limits.fallback_bank_deg < limits.roll_max,
            f"the fallback law turns at {limits.fallback_bank_deg:g} deg, roll_max {limits.roll_max:g} would stop it",
        ),
        (
            limits.hold_last_ms <= MAX_HOLD_MS,
            f"hold_last_ms {limits.hold_last_ms:g} is above {MAX_HOLD_MS:g}: the aircraft rolls on meanwhile",
        ),
        (limits.stale_data_ms <= MAX_STALE_MS, f"stale_data_ms {limits.stale_data_ms:g} is above {MAX_STALE_MS:g}"),
    )
    return [text for kept, text in rules if not kept]


def _against_airframe(limits: SafetyLimits, airframe: Airframe) -> list[str]:
    problems = []
    travel = math.degrees(airframe.surface_limit_rad)
    for name in ("aileron_max", "elevator_max", "rudder_max"):
        limit = float(getattr(limits, name))
        if limit > travel + 1e-6:
            problems.append(f"{name} {limit:g} deg is beyond the actuator's travel of {travel:g} deg")
        elif limit < MIN_AUTHORITY * travel:
            problems.append(
                f"{name} {limit:g} deg leaves less than {MIN_AUTHORITY:.0%} of the travel of {travel:g} deg"
            )
    actuator = airframe.surface_rate_limit_radps / airframe.surface_limit_rad
    if limits.surface_slew_per_s > MAX_SLEW_RATIO * actuator:
        problems.append(
            f"surface_slew_per_s {limits.surface_slew_per_s:g} limits nothing: the actuator does {actuator:.1f}"
        )
    if limits.throttle_max < airframe.trim.throttle:
        problems.append(
            f"throttle_max {limits.throttle_max:g} is below the {airframe.trim.throttle:.2f} that level flight takes"
        )
    speed = airframe.cruise_airspeed_mps
    law = math.degrees(airframe.gains.bank_limit_rad)
    if limits.fallback_bank_deg > law:
        problems.append(
            f"fallback_bank_deg {limits.fallback_bank_deg:g} is more than the fallback law's {law:.0f} deg: it would "
            "turn wider than predicted"
        )
    if 0.0 < limits.airspeed_min_mps < airframe.stall_airspeed_mps:
        problems.append(
            f"airspeed_min_mps {limits.airspeed_min_mps:g} is below the stall at {airframe.stall_airspeed_mps:g} m/s"
        )
    if limits.airspeed_min_mps > min(airframe.start_airspeed_mps):
        problems.append(f"airspeed_min_mps {limits.airspeed_min_mps:g} is above the airspeeds this aircraft flies at")
    if 0.0 < limits.airspeed_max_mps < max(airframe.start_airspeed_mps):
        problems.append(f"airspeed_max_mps {limits.airspeed_max_mps:g} is below the airspeeds this aircraft flies at")
    radius = speed**2 / (GRAVITY_MPS2 * math.tan(math.radians(min(limits.roll_max, MAX_TURN_BANK_DEG))))
    if limits.max_range_m < MIN_RANGE_RADII * radius:
        problems.append(f"max_range_m {limits.max_range_m:g} is less than three turn radii of {radius:.0f} m")
    return problems
