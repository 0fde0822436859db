"""Before a policy is given the aircraft: do fence, home, wind and the way back fit together, here and now?

No I/O, no clock, no numpy.
"""

from __future__ import annotations

import math
from dataclasses import replace

from sim2sky.runtime.guidance import loiter_radius
from sim2sky.runtime.ladder import Trip
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.state import Sample
from sim2sky.runtime.watch import Watch
from sim2sky.runtime.wind import wind_of

__all__ = ["engagement_problems"]

COURSES = 16
WAY_HOME_STEP_M = 5.0
HEADWAY = 0.8  # wind as a share of airspeed beyond which the way home is no longer certain

_SAID = {
    Trip.STALE_DATA: "the state estimate is {age_ms:.0f} ms old, allowed are {limits.stale_data_ms:g} ms",
    Trip.NO_POSITION: "there is no position, so the fence cannot be watched",
    Trip.ATTITUDE: "bank {roll:.0f} or pitch {pitch:.0f} degrees is outside the limits",
    Trip.ALTITUDE_LOW: "altitude {s.altitude_m:.0f} m, or where the descent would end, is within "
    "{limits.altitude_buffer_m:g} m of the floor of {limits.altitude_min:g} m",
    Trip.ALTITUDE_HIGH: "altitude {s.altitude_m:.0f} m, or where the climb would end, is within "
    "{limits.altitude_buffer_m:g} m of the ceiling of {limits.max_altitude_m:g} m",
    Trip.AIRSPEED_LOW: "airspeed {s.airspeed_mps:.1f} m/s is below airspeed_min_mps {limits.airspeed_min_mps:g}",
    Trip.AIRSPEED_HIGH: "airspeed {s.airspeed_mps:.1f} m/s is above airspeed_max_mps {limits.airspeed_max_mps:g}",
    Trip.SINK: "the aircraft sinks faster than sink_max_mps {limits.sink_max_mps:g}",
    Trip.RANGE: "the aircraft is outside the fence, or could not turn before it: it is {margin:.0f} m inside",
}


def engagement_problems(
    limits: SafetyLimits,
    s: Sample,
    now_ns: int,
    *,
    wind: tuple[float, float] | None = None,
    battery_v: float = math.nan,
    airspeed_mps: float = 0.0,
) -> list[str]:
    """Sentences on what speaks against engaging; empty where nothing does.

    Args:
        limits: to be kept.
        s: newest state estimate.
        now_ns: on the clock of `s.time_ns`.
        wind: velocity of the air, north and east, m/s; None: estimated, or where it cannot be, `wind_max_mps` from
            every side.
        battery_v: NaN where it is not measured.
        airspeed_mps: flown by the fallback law; 0 for the present one.
    """
    watch = Watch(limits, 1.0)
    trips = watch.look(s, now_ns, battery_v)
    if trips & Trip.NONFINITE_STATE:
        return ["the state estimate holds values that are no numbers, or absurd ones"]
    margin = watch.fence.margin(*watch.fix) if watch.fix is not None else math.nan
    facts = {
        "s": s, "limits": limits, "margin": margin, "roll": math.degrees(s.roll_rad),
        "pitch": math.degrees(s.pitch_rad), "age_ms": abs(now_ns - s.time_ns) * 1e-6,
    }  # fmt: skip
    problems = [text.format_map(facts) for trip, text in _SAID.items() if trips & trip]
    if battery_v < limits.battery_min_voltage:
        problems.append(
            f"the battery has {battery_v:.1f} V, battery_min_voltage is {limits.battery_min_voltage:g}: charge it"
        )
    if watch.sample is not None and limits.geofence_enabled:
        problems += _room_to_return(limits, watch, wind, airspeed_mps or s.airspeed_mps)
    return problems


def _room_to_return(
    limits: SafetyLimits, watch: Watch, wind: tuple[float, float] | None, airspeed_mps: float
) -> list[str]:
    """The fence against the aircraft's turn, the wind and the way home."""
    problems: list[str] = []
    sample, fence = watch.sample, watch.fence
    if sample is None or not airspeed_mps > 0.0:
        return ["the aircraft does not move through the air: engage it in flight"]
    courses = [2.0 * math.pi * k / COURSES for k in range(COURSES)]
    wind = wind or wind_of(sample)
    worst = limits.wind_max_mps
    winds = [wind] if wind is not None else [(worst * math.cos(c), worst * math.sin(c)) for c in courses[::2]]
    strongest = max(math.hypot(*w) for w in winds)
    if strongest > HEADWAY * airspeed_mps:
        problems.append(
            f"a wind of {strongest:.1f} m/s is too much for an airspeed of {airspeed_mps:.1f} m/s: "
            "the aircraft might not come home"
        )
        return problems
    level = replace(sample, roll_rad=0.0, climb_rate_mps=0.0, airspeed_mps=airspeed_mps)
    closest = min(
        watch.escape.range_margin(replace(level, yaw_rad=course), 0.0, 0.0, 0.0, w)[0]
        for course in courses
        for w in winds
    )
    if closest < limits.fence_buffer_m:
        problems.append(
            f"no room to turn: flying out over home in a wind of {strongest:.1f} m/s, the aircraft comes within "
            f"{closest:.0f} m of the fence, fence_buffer_m is {limits.fence_buffer_m:g}: widen the fence, or move home"
        )
    radius, at_home = loiter_radius(limits, airspeed_mps), fence.margin(0.0, 0.0)
    if radius + limits.fence_buffer_m > at_home:
        problems.append(
            f"the fence is {at_home:.0f} m from home: too near for a circle of {radius:.0f} m around home and a buffer "
            f"of {limits.fence_buffer_m:g} m"
        )
    if watch.fix is not None:
        north, east = watch.fix
        steps = min(int(math.hypot(north, east) / WAY_HOME_STEP_M) + 1, 1000)
        if any(fence.margin(north * k / steps, east * k / steps) < 0.0 for k in range(steps)):
            problems.append("the straight way home crosses the fence: fly to where it does not")
    return problems
