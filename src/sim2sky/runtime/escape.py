"""How close to the fence, the floor and the ceiling the aircraft would come if the fallback law took over now.

A coordinated turn of a point mass in steady wind: latency in the turn that is being flown, then the bank goes to the
fallback law's own with a first-order lag, on the shorter way home. Twin of firmware/core/escape.c. Standard library
only.
"""

from __future__ import annotations

import math

from sim2sky.runtime.geofence import Fence
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.real import asin, atan2, cos, hypot, sin_cos, tan, wrap_angle
from sim2sky.runtime.state import Sample

__all__ = ["GRAVITY_MPS2", "STOP_S", "Escape", "Wind", "heading_for", "turn_side"]

Wind = tuple[float, float]
"""Velocity of the air towards north and east, m/s."""

GRAVITY_MPS2 = 9.80665
STEP_S = 0.4
MAX_STEPS = 45
LOST_M = -50.0  # so far outside nobody asks how much farther
MAX_BANK_RAD = 1.2  # beyond it a level turn is no description of the motion
STRAIGHT_RAD = 0.1
UNDECIDED_RAD = 2.4  # error of heading beyond which either way round is as short
HOMEWARD2 = 0.5  # squared cosine between course and the way home within which the turn counts as done
OVERSHOOT = 1.1
STOP_S = 0.15  # what it takes opposite deflection to stop a rotation
MAX_SWING_RADPS = 5.0
SPEED_RESERVE = 1.3  # times airspeed_min_mps: what is missing to it is regained by losing height


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
            return -1.0 if roll_rad < 0.0 else 1.0
    return -1.0 if error_rad < 0.0 else 1.0


def heading_for(course_rad: float, airspeed_mps: float, wind: Wind | None) -> float:
    """Heading that makes good a course in the wind, rad; the course itself where the wind is unknown or too strong."""
    if wind is None:
        return course_rad
    sin_course, cos_course = sin_cos(course_rad)
    cross = wind[1] * cos_course - wind[0] * sin_course
    ratio = cross / max(airspeed_mps, 1.0)
    return course_rad - asin(ratio) if abs(ratio) < 0.95 else course_rad


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
        # A slow aircraft is brought up to the law's airspeed in the turn, and past it when it levels off from a climb.
        self._slowest = max(OVERSHOOT * limits.fallback_airspeed_mps, 1.0)
        self._pull = limits.fallback_pull_mps2
        self._wind_max = limits.wind_max_mps
        self._reserve2 = (SPEED_RESERVE * limits.airspeed_min_mps) ** 2

    def range_margin(
        self, s: Sample, north: float, east: float, age_s: float, wind: Wind | None, enough: float = math.inf
    ) -> tuple[float, float]:
        """Smallest distance to the border on the way home, and the side of the turn (1 right, -1 left).

        The shorter way round; where it does not leave `enough`, the better of both. So the answer changes steadily with
        the state, and a guard that asks at every tick sees it come.

        Args:
            s: usable state.
            north, east: newest position, m.
            age_s: its age beyond the configured latency.
            wind: None where it is unknown: the strongest, away from home, is reckoned with.
            enough: margin at which the other way round is of no interest, m.

        Returns:
            m, negative outside; a lower bound where the border is far. Side 0 where no path was followed.
        """
        margin = self.fence.margin(north, east)
        speed = min(max(s.airspeed_mps, self._slowest), 1e3)
        if wind is None:
            away = hypot(north, east)
            share = self._wind_max / away if away > 1.0 else 0.0
            wind = (north * share, east * share)
        latency = self._latency_s + age_s
        if margin <= 0.0:
            return margin, 0.0
        reach = self._reach(speed, hypot(*wind), latency)
        if margin - reach >= enough:
            return margin - reach, 0.0
        # While nobody has reacted yet the aircraft flies on in the turn and in the roll it is in.
        rolling = wrap_angle(s.roll_rad) + s.p_radps * self._command_s
        roll = min(max(rolling, -MAX_BANK_RAD), MAX_BANK_RAD)
        turn = GRAVITY_MPS2 * tan(min(max(roll, -self._bank), self._bank)) / speed
        sin_course, cos_course = sin_cos(s.yaw_rad + 0.5 * turn * latency)
        north += (speed * cos_course + wind[0]) * latency
        east += (speed * sin_course + wind[1]) * latency
        # Heading is measured now, position was before. A nose that swings, swings on until it is stopped.
        level = max(cos(s.pitch_rad), 0.5)
        sin_roll, cos_roll = sin_cos(s.roll_rad)
        swing = (s.q_radps * sin_roll + s.r_radps * cos_roll) / level
        heading = s.yaw_rad + min(max(swing, -MAX_SWING_RADPS), MAX_SWING_RADPS) * (self._command_s + STOP_S)
        margin = min(margin, self.fence.margin(north, east))
        home = heading_for(atan2(-east, -north), speed, wind)
        side = turn_side(wrap_angle(home - heading), roll)
        shorter = min(margin, self._turn(side, north, east, heading, roll, speed, wind))
        if shorter >= enough or shorter == margin:
            return shorter, side
        longer = min(margin, self._turn(-side, north, east, heading, roll, speed, wind))
        return (longer, -side) if longer > shorter else (shorter, side)

    def _reach(self, speed: float, wind: float, latency: float) -> float:
        """How far the aircraft could get: straight on until the bank is right, then a turn's diameter, in the wind."""
        rate = GRAVITY_MPS2 * self._tan / speed
        straight = latency + 2.0 * self._roll_s  # rolling out of the wrong bank first
        return speed * (straight + 2.0 / rate) + wind * (straight + 1.5 * math.pi / rate)

    def _turn(
        self, side: float, north: float, east: float, heading: float, roll: float, speed: float, wind: Wind
    ) -> float:
        """Smallest distance to the border in a turn to one side, until the aircraft flies home."""
        wind_n, wind_e = wind
        wanted = side * self._bank
        if roll * side > self._bank:  # a steeper bank is no tighter turn: the lift for it is not there
            roll = wanted
        margin = self.fence.margin(north, east)
        for _ in range(MAX_STEPS):
            off = roll - wanted
            turn = GRAVITY_MPS2 * tan(wanted + off * self._half_decay) / speed
            roll = wanted + off * self._decay
            sin_course, cos_course = sin_cos(heading + 0.5 * turn * STEP_S)
            v_north, v_east = speed * cos_course + wind_n, speed * sin_course + wind_e
            north += v_north * STEP_S
            east += v_east * STEP_S
            heading += turn * STEP_S
            at = self.fence.margin(north, east)
            if at < margin:
                margin = at
                if at < LOST_M:
                    break
            else:
                inward = -(north * v_north + east * v_east)
                ahead = HOMEWARD2 * (north * north + east * east) * (v_north * v_north + v_east * v_east)
                if inward > 0.0 and inward * inward > ahead and roll * side > 0.0:
                    break
        return margin

    def altitude_bounds(self, s: Sample) -> tuple[float, float]:
        """Lowest and highest altitude on the way to level flight, m above home.

        The vertical speed goes on through the command latency and the time the wings take to come level, and then falls
        to nothing at the fallback law's vertical acceleration. Speed that is missing costs the height that gives it.
        """
        climb = s.climb_rate_mps
        wait = self._command_s + self._roll_s * min(abs(s.roll_rad), MAX_BANK_RAD) / MAX_BANK_RAD
        turning = s.altitude_m + climb * wait + 0.5 * climb * abs(climb) / self._pull
        missing = max(self._reserve2 - s.airspeed_mps * s.airspeed_mps, 0.0) / (2.0 * GRAVITY_MPS2)
        return min(s.altitude_m, turning) - missing, max(s.altitude_m, turning)
