"""Watches the state estimate: usable or not, fresh or not, inside the envelope or about to leave it. With hysteresis.

No I/O, no clock, no numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sim2sky.runtime.escape import GRAVITY_MPS2, STOP_S, Escape
from sim2sky.runtime.geofence import Fence
from sim2sky.runtime.ladder import Trip
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.state import Sample
from sim2sky.runtime.wind import WindEstimate

__all__ = ["Bound", "Watch"]

Bound = tuple[str, float, float]
"""Field of a `Sample`, lowest and highest value that the policy was made for."""

ABSURD = 1e6  # no quantity of a small aircraft in SI units is larger
NOSE_DOWN_S = 0.5
OLDEST_NS = 1e18
BATTERY_S = 2.0  # voltage sags under load for less

_NONFINITE_STATE, _STALE, _BLIND, _LOST = (
    int(t) for t in (Trip.NONFINITE_STATE, Trip.STALE_DATA, Trip.BLIND, Trip.LOST)
)
_NO_POSITION, _OUT_OF_CONTRACT, _BATTERY = (int(t) for t in (Trip.NO_POSITION, Trip.OUT_OF_CONTRACT, Trip.BATTERY))
_ATTITUDE, _LOW, _HIGH, _RANGE = (int(t) for t in (Trip.ATTITUDE, Trip.ALTITUDE_LOW, Trip.ALTITUDE_HIGH, Trip.RANGE))
_SLOW, _FAST, _SINK = int(Trip.AIRSPEED_LOW), int(Trip.AIRSPEED_HIGH), int(Trip.SINK)


class Watch:
    """Turns samples into trips.

    Args:
        limits: what must be kept.
        dt_s: control period, s.
        bounds: of the measured quantities in the policy's contract.

    Attributes:
        sample: newest usable estimate; None before the first.
        fix: newest usable position, north and east, m; None before the first.
        wind: running estimate.
        side: of the turn home as last predicted: 1 right, -1 left, 0 for none.
    """

    def __init__(self, limits: SafetyLimits, dt_s: float, bounds: Sequence[Bound] = ()) -> None:
        self._limits = limits
        self._dt_s = dt_s
        self._bounds = tuple(bounds)
        self.fence = Fence(limits.max_range_m, limits.geofence_polygons)
        self.escape = Escape(limits, self.fence)
        self._roll = math.radians(limits.roll_max)
        self._pitch_low, self._pitch_high = math.radians(limits.pitch_min), math.radians(limits.pitch_max)
        self._angle_margin = math.radians(limits.attitude_hysteresis_deg)
        self._floor = limits.altitude_min + limits.altitude_buffer_m
        self._ceiling = limits.max_altitude_m - limits.altitude_buffer_m
        self._turning_s = 1e-3 * limits.command_latency_ms + STOP_S
        self._stale_ns, self._blind_ns = _whole_ns(limits.stale_data_ms), _whole_ns(limits.blind_data_ms)
        self._lost_ticks = math.ceil(limits.terminate_after_s / dt_s - 1e-9)
        self._turn_ticks = math.ceil(limits.recovery_s / dt_s - 1e-9) + 1
        self._battery_ticks = math.ceil(BATTERY_S / dt_s)
        self._slow, self._fast = limits.airspeed_min_mps or -math.inf, limits.airspeed_max_mps or math.inf
        self._sink = limits.sink_max_mps or math.inf
        self.reset()

    def reset(self) -> None:
        """New episode."""
        self.sample: Sample | None = None
        self.fix: tuple[float, float] | None = None
        self.wind = WindEstimate(self._dt_s, 0.5e-3 * self._limits.position_latency_ms)  # at worst as old: half of it
        self.side = 0.0
        self._fix_ns = 0
        self._active = 0  # envelope trips
        self._turning = 0
        self._blind_count = 0
        self._battery_count = 0
        self._battery = 0

    def look(self, s: Sample, now_ns: int, battery_v: float) -> int:
        """Trip bits of one tick.

        Args:
            s: newest state estimate; may hold anything.
            now_ns: on the clock of `s.time_ns`.
            battery_v: NaN where it is not measured.
        """
        trips = 0
        if _usable(s):
            self.sample = s
            self.wind.update(s)
            if -ABSURD < s.north_m < ABSURD and -ABSURD < s.east_m < ABSURD:
                self.fix, self._fix_ns = (s.north_m, s.east_m), s.time_ns
            self._active = self._envelope(s, now_ns)
            for name, low, high in self._bounds:
                if not low <= getattr(s, name) <= high:
                    trips |= _OUT_OF_CONTRACT
        else:
            trips |= _NONFINITE_STATE
        age_ns = math.inf if self.sample is None else abs(now_ns - self.sample.time_ns)
        if age_ns > self._stale_ns:
            trips |= _STALE
        if age_ns > self._blind_ns:
            trips |= _BLIND
            self._blind_count += 1
            if self._blind_count >= self._lost_ticks:
                trips |= _LOST
        else:
            self._blind_count = 0
        newest = self.sample  # an old estimate as a whole is another matter
        if self._limits.geofence_enabled and newest is not None and not self._located(newest.time_ns):
            trips |= _NO_POSITION
        if battery_v < self._limits.battery_min_voltage:  # False for NaN
            self._battery_count += 1
            if self._battery_count >= self._battery_ticks:
                self._battery = _BATTERY  # for the rest of the flight: the load gone, the voltage recovers
        else:
            self._battery_count = 0
        return trips | self._active | self._battery

    def _located(self, now_ns: int) -> bool:
        return self.fix is not None and abs(now_ns - self._fix_ns) <= self._stale_ns

    def _envelope(self, s: Sample, now_ns: int) -> int:
        limits, was = self._limits, self._active
        active = 0
        inside = self._angle_margin if was & _ATTITUDE else 0.0
        # Where the rotation leads before the fallback law's command has stopped it.
        roll, pitch = s.roll_rad, s.pitch_rad
        ahead_roll, ahead_pitch = roll + s.p_radps * self._turning_s, pitch + s.q_radps * self._turning_s
        if not (
            -self._roll + inside <= min(roll, ahead_roll)
            and max(roll, ahead_roll) <= self._roll - inside
            and self._pitch_low + inside <= min(pitch, ahead_pitch)
            and max(pitch, ahead_pitch) <= self._pitch_high - inside
        ):
            active = _ATTITUDE
        lowest, highest = self.escape.altitude_bounds(s)
        hysteresis = limits.altitude_hysteresis_m
        if lowest < self._floor + (hysteresis if was & _LOW else 0.0):
            active |= _LOW
        if highest > self._ceiling - (hysteresis if was & _HIGH else 0.0):
            active |= _HIGH
        slack = limits.airspeed_hysteresis_mps
        # In a climb the speed goes on falling until the nose is down again.
        losing = (
            GRAVITY_MPS2 * s.climb_rate_mps / max(s.airspeed_mps, 1.0) * NOSE_DOWN_S if s.climb_rate_mps > 0.0 else 0.0
        )
        if s.airspeed_mps - losing < self._slow + (slack if was & _SLOW else 0.0):
            active |= _SLOW
        if s.airspeed_mps > self._fast - (slack if was & _FAST else 0.0):
            active |= _FAST
        if -s.climb_rate_mps > self._sink - (slack if was & _SINK else 0.0):
            active |= _SINK
        if limits.geofence_enabled and self.fix is not None:
            age_s = abs(now_ns - self._fix_ns) * 1e-9
            north, east = self.fix
            enough = limits.fence_buffer_m + (limits.range_hysteresis_m if was & _RANGE else 0.0)
            if active:  # while the attitude is being recovered the turn is not as predicted: begin it early
                enough += limits.fence_buffer_m
            margin, self.side = self.escape.range_margin(s, north, east, min(age_s, 1.0), self.wind.wind, enough)
            if margin < enough:
                self._turning = self._turn_ticks
            elif self._turning:  # a swing of the nose makes the way home look short for a moment: turn on
                self._turning -= 1
            if self._turning:
                active |= _RANGE
        return active


def _whole_ns(ms: float) -> int:
    """Times are whole nanoseconds: so is the last age that is not too old."""
    return math.floor(min(ms * 1e6, OLDEST_NS))


def _usable(s: Sample) -> bool:
    """Whether attitude, rates, air data and altitude are numbers that an aircraft can have."""
    return (
        -ABSURD < s.roll_rad < ABSURD
        and -ABSURD < s.pitch_rad < ABSURD
        and -ABSURD < s.yaw_rad < ABSURD
        and -ABSURD < s.p_radps < ABSURD
        and -ABSURD < s.q_radps < ABSURD
        and -ABSURD < s.r_radps < ABSURD
        and -ABSURD < s.airspeed_mps < ABSURD
        and -ABSURD < s.altitude_m < ABSURD
        and -ABSURD < s.climb_rate_mps < ABSURD
    )
