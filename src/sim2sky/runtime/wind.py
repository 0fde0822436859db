"""Estimates the steady wind from ground velocity, airspeed and attitude.

Twin of firmware/core/wind.c. Standard library only.
"""

from __future__ import annotations

import math

from sim2sky.runtime.escape import GRAVITY_MPS2, MAX_BANK_RAD, Wind
from sim2sky.runtime.real import asin, sin_cos
from sim2sky.runtime.state import Sample

__all__ = ["WindEstimate", "wind_of"]

MEMORY_S = 4.0  # gusts are shorter, shifts of the wind longer
MAX_ALPHA_RAD = 0.3
ABSURD_MPS = 1e6  # no ground velocity of a small aircraft is larger


def wind_of(s: Sample, delay_s: float = 0.0) -> Wind | None:
    """Wind of one sample: ground velocity minus air velocity; None where the former is not measured.

    The air velocity points where the nose points, less the angle of attack, whose sideways share in a bank matters.

    Args:
        s: usable state.
        delay_s: by how much ground velocity is older than attitude; the turn since then is taken back.
    """
    if not (-ABSURD_MPS < s.north_mps < ABSURD_MPS and -ABSURD_MPS < s.east_mps < ABSURD_MPS):
        return None
    speed = max(s.airspeed_mps, 1.0)
    bank = min(max(s.roll_rad, -MAX_BANK_RAD), MAX_BANK_RAD)
    sin_bank, cos_bank = sin_cos(bank)
    sin_path = min(max(s.climb_rate_mps / speed, -1.0), 1.0)
    alpha = min(max((s.pitch_rad - asin(sin_path)) / cos_bank, -MAX_ALPHA_RAD), MAX_ALPHA_RAD)
    turn_rate = GRAVITY_MPS2 * (sin_bank / cos_bank) / speed
    sin_course, cos_course = sin_cos(s.yaw_rad - alpha * sin_bank - turn_rate * delay_s)
    level = speed * math.sqrt((1.0 - sin_path) * (1.0 + sin_path))
    return s.north_mps - level * cos_course, s.east_mps - level * sin_course


class WindEstimate:
    """Running mean with a fading memory.

    Args:
        dt_s: time between samples.
        delay_s: by how much ground velocity is older than attitude.

    Attributes:
        wind: None while ground velocity has never been measured.
    """

    def __init__(self, dt_s: float, delay_s: float) -> None:
        self._share = min(dt_s / MEMORY_S, 1.0)
        self._delay_s = delay_s
        self.wind: Wind | None = None

    def update(self, s: Sample) -> None:
        """Take in a usable sample."""
        now = wind_of(s, self._delay_s)
        if now is None:
            return
        if self.wind is None:
            self.wind = now
        else:
            north, east = self.wind
            self.wind = (north + (now[0] - north) * self._share, east + (now[1] - east) * self._share)
