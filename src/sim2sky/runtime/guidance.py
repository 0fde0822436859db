"""Where the fallback law is to fly: home, around home, in circles. Headings, corrected for the wind where it is known.

Twin of firmware/core/guidance.c. Standard library only.
"""

from __future__ import annotations

import math

from sim2sky.runtime.escape import GRAVITY_MPS2, Wind, heading_for, turn_side
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.real import atan, atan2, hypot, wrap_angle
from sim2sky.runtime.state import Sample

__all__ = ["Guidance", "loiter_radius"]

AHEAD_RAD = 2.0  # heading error that keeps the fallback law at its bank limit
DECIDED_RAD = 1.0  # heading error below which the turn is so far done that no gust turns it round
CIRCLE_RAD = 0.35  # the same for a gentle circle where no position is known
RADII = 1.5  # loiter circle in turn radii
MIN_RADIUS_M = 60.0


def loiter_radius(limits: SafetyLimits, airspeed_mps: float) -> float:
    """Radius of the circle around home, m: wide enough to be flown at less than the fallback law's bank."""
    bank = math.tan(math.radians(limits.fallback_bank_deg))
    return max(RADII * (airspeed_mps * airspeed_mps) / (GRAVITY_MPS2 * bank), MIN_RADIUS_M)


class Guidance:
    """Headings for the fallback law. Remembers which way round it turned, so that it does not change its mind halfway.

    Args:
        limits: for the loiter circle's radius.
    """

    def __init__(self, limits: SafetyLimits) -> None:
        self._limits = limits
        self.reset()

    def reset(self, side: float = 0.0) -> None:
        """Forget the way round, or begin with one: 1 right, -1 left."""
        self._side = side

    def home(self, s: Sample, north_m: float, east_m: float, wind: Wind | None) -> float:
        """Heading that leads from a position home, rad."""
        heading = heading_for(atan2(-east_m, -north_m), s.airspeed_mps, wind)
        error = wrap_angle(heading - s.yaw_rad)
        if abs(error) < DECIDED_RAD:  # nobody flies a full circle for a few degrees, whatever side was meant
            self._side = 0.0
            return wrap_angle(heading)
        if not self._side:
            self._side = turn_side(error, s.roll_rad)
        if error * self._side < 0.0:  # the longer way round, because it was begun or chosen
            return wrap_angle(s.yaw_rad + self._side * AHEAD_RAD)
        return wrap_angle(heading)

    def loiter(self, s: Sample, north_m: float, east_m: float, wind: Wind | None, airspeed_mps: float) -> float:
        """Heading that leads onto the circle around home and along it, clockwise, rad.

        The vector field of Beard & McLain, *Small Unmanned Aircraft*, section 10.2.
        """
        radius = loiter_radius(self._limits, airspeed_mps)
        away = hypot(north_m, east_m)
        course = atan2(east_m, north_m) + math.pi / 2.0 + atan(2.0 * (away - radius) / radius)
        return wrap_angle(heading_for(course, s.airspeed_mps, wind))  # the course turns along: no side to be kept to

    def circle(self, s: Sample) -> float:
        """Heading a little to the right, for circling where no position is known, rad."""
        return wrap_angle(s.yaw_rad + CIRCLE_RAD)
