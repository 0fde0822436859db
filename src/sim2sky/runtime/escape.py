"""How close to the fence, the floor and the ceiling the aircraft would come if the fallback law took over now.

A coordinated turn of a point mass in steady wind: latency at the present bank, then the bank goes to the fallback law's
own with a first-order lag, on the shorter way home. Standard library only.
"""

from __future__ import annotations

import math

from sim2sky.runtime.geofence import Fence
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.observation import wrap_angle
from sim2sky.runtime.state import Sample

__all__ = ["Escape", "turn_side", "wind_estimate"]

GRAVITY_MPS2 = 9.80665
STEP_S = 0.3
MAX_STEPS = 60
FAR_M = 100.0  # beyond the reach of any turn by so much the path is not followed
MAX_BANK_RAD = 1.3  # beyond it a level turn is no description of the motion
STRAIGHT_RAD = 0.1
UNDECIDED_RAD = 2.4  # error of heading beyond which either way round is as short


def turn_side(error_rad: float, roll_rad: float, previous: float = 0.0) -> float:
    """Which way to turn: 1 right, -1 left.

    The shorter way; where home lies behind, the way begun already, or else the one the wings are banked to.

    Args:
        error_rad: wanted heading minus heading.
        roll_rad: bank angle.
        previous: the side chosen before; 0 for none.
    """
    if abs(error_rad) > UNDECIDED_RAD:
        if previous:
            return previous
        if abs(roll_rad) > STRAIGHT_RAD:
            return math.copysign(1.0, roll_rad)
    return math.copysign(1.0, error_rad)


def wind_estimate(s: Sample) -> tuple[float, float] | None:
    """Velocity of the air (north, east) from ground velocity, airspeed and heading; None where unmeasured."""
    if not (math.isfinite(s.north_mps) and math.isfinite(s.east_mps)):
        return None
    level = math.sqrt(max(s.airspeed_mps**2 - s.climb_rate_mps**2, 0.0))
    return s.north_mps - level * math.cos(s.yaw_rad), s.east_mps - level * math.sin(s.yaw_rad)


class Escape:
    """Predicts the turn home and the levelling off.

    Args:
        limits: latencies, the fallback law's bank, roll-in time and vertical acceleration, strongest wind.
        fence: to stay inside of.
    """

    def __init__(self, limits: SafetyLimits, fence: Fence) -> None:
        self.fence = fence
        self._bank = math.radians(limits.fallback_bank_deg)
        self._tan = math.tan(self._bank)
        self._roll_s = max(limits.fallback_roll_s, 1e-3)
        self._decay = math.exp(-STEP_S / self._roll_s)
        self._half_decay = math.exp(-0.5 * STEP_S / self._roll_s)
        self._latency_s = 1e-3 * (limits.position_latency_ms + limits.command_latency_ms)
        self._command_s = 1e-3 * limits.command_latency_ms
        self._pull = limits.fallback_pull_mps2
        self._wind_max = limits.wind_max_mps

    def range_margin(
        self, s: Sample, north: float, east: float, age_s: float, wind: tuple[float, float] | None = None
    ) -> float:
        """Smallest distance to the border on the way home, m; negative outside. A lower bound where it is far.

        Args:
            s: usable state.
            north, east: newest position, m.
            age_s: its age beyond the configured latency.
            wind: velocity of the air; None: estimated, or where it cannot be, the strongest, away from home.
        """
        margin = self.fence.margin(north, east)
        speed = min(max(s.airspeed_mps, 1.0), 1e3)
        if wind is None:
            wind = wind_estimate(s)
        if wind is None:
            away = math.hypot(north, east)
            share = self._wind_max / away if away > 1.0 else 0.0
            wind = (north * share, east * share)
        wind_n, wind_e = wind
        latency = self._latency_s + age_s
        fastest = speed + abs(wind_n) + abs(wind_e)
        reach = fastest * (latency + self._roll_s) + 4.0 * fastest * speed / (GRAVITY_MPS2 * self._tan)
        if margin <= 0.0 or margin > reach + FAR_M:
            return margin if margin <= 0.0 else margin - reach
        heading = s.yaw_rad
        roll = min(max(wrap_angle(s.roll_rad), -MAX_BANK_RAD), MAX_BANK_RAD)
        # While nobody has reacted yet the aircraft flies on in the turn it is in.
        turn = GRAVITY_MPS2 * math.tan(roll) / speed
        middle = heading + 0.5 * turn * latency
        north += (speed * math.cos(middle) + wind_n) * latency
        east += (speed * math.sin(middle) + wind_e) * latency
        heading += turn * latency
        at = self.fence.margin(north, east)
        margin = min(margin, at)
        home = math.atan2(-east, -north)
        side = turn_side(wrap_angle(home - heading), roll)
        wanted = side * self._bank
        for _ in range(MAX_STEPS):
            off = roll - wanted
            turn = GRAVITY_MPS2 * math.tan(wanted + off * self._half_decay) / speed
            roll = wanted + off * self._decay
            middle = heading + 0.5 * turn * STEP_S
            north += (speed * math.cos(middle) + wind_n) * STEP_S
            east += (speed * math.sin(middle) + wind_e) * STEP_S
            heading += turn * STEP_S
            before, at = at, self.fence.margin(north, east)
            if at < margin:
                margin = at
            elif at > before and roll * side > 0.0:
                break
        return margin

    def altitude_bounds(self, s: Sample) -> tuple[float, float]:
        """Lowest and highest altitude on the way to level flight, m above home.

        The vertical speed goes on through the command latency and the time the wings take to come level, and then falls
        to nothing at the fallback law's vertical acceleration.
        """
        climb = s.climb_rate_mps
        wait = self._command_s + self._roll_s * min(abs(s.roll_rad), MAX_BANK_RAD) / MAX_BANK_RAD
        turning = s.altitude_m + climb * wait + 0.5 * climb * abs(climb) / self._pull
        return min(s.altitude_m, turning), max(s.altitude_m, turning)
