"""The guard between a policy and the actuators: monitor, switch, recovery (after ASTM F3269), then hard limits.

Whatever comes in, what goes out is finite and within the limits. When nothing is wrong the policy's command passes
bit for bit. numpy-free and without I/O or clocks, so that it can be enumerated and fuzzed.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

from sim2sky.agent.contract import Contract
from sim2sky.errors import ContractError
from sim2sky.runtime.ladder import SWITCHING, Mode, Trip
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.state import CHANNELS, NOMINAL, Command, Health, PolicyState, Sample, Setpoint
from sim2sky.telemetry.trips import TripEvent, TripLog

__all__ = ["SWITCHING", "FallbackLaw", "Guarded", "Mode", "SafetyMonitor", "Trip", "command_limits"]

NEUTRAL = Command(0.0, 0.0, 0.0, 0.0)


class FallbackLaw(Protocol):
    """A classical control law that flies when the policy may not."""

    def reset(self) -> None:
        """Forget integrators."""
        ...

    def command(self, sample: Sample, setpoint: Setpoint) -> Command:
        """Command for one tick."""
        ...


class Guarded(NamedTuple):
    """What the guard decided: the command to send, who gave it, and what was wrong."""

    command: Command
    mode: Mode
    trips: Trip


def command_limits(limits: SafetyLimits, surface_limit_rad: tuple[float, float, float]) -> tuple[Command, Command]:
    """Lowest and highest command, surfaces normalised by the airframe's own deflection limits."""
    degrees = (limits.aileron_max, limits.elevator_max, limits.rudder_max)
    high = [min(1.0, math.radians(d) / limit) for d, limit in zip(degrees, surface_limit_rad, strict=True)]
    return (
        Command(-high[0], -high[1], -high[2], limits.throttle_min),
        Command(high[0], high[1], high[2], limits.throttle_max),
    )


class SafetyMonitor:
    """Decides each tick who commands, and limits whatever they command.

    Args:
        limits: what must be kept.
        fallback: flies while a limit is broken and until `recovery_s` after.
        dt_s: control period, s.
        surface_limit_rad: deflection of aileron, elevator and rudder at command 1, rad.
        trim: command held when there is no usable state at all.

    The kill switch latches: throttle zero and surfaces neutral until `disarm`, then `arm`. A new episode or a reset
    does not clear it.
    """

    def __init__(
        self,
        limits: SafetyLimits,
        fallback: FallbackLaw,
        dt_s: float,
        *,
        surface_limit_rad: tuple[float, float, float],
        trim: Command = NEUTRAL,
    ) -> None:
        if not (math.isfinite(dt_s) and dt_s > 0):
            raise ContractError(f"the control period must be above 0 s, got {dt_s}")
        if not all(math.isfinite(limit) and limit > 0 for limit in surface_limit_rad):
            raise ContractError(f"surface deflection limits must be above 0 rad, got {surface_limit_rad}")
        if not all(math.isfinite(value) for value in trim):
            raise ContractError(f"the trim command must be finite, got {trim}")
        self.limits = limits
        self.low, self.high = command_limits(limits, surface_limit_rad)
        surface, throttle = limits.surface_slew_per_s * dt_s, limits.throttle_slew_per_s * dt_s
        self.slew = Command(surface, surface, surface, throttle)
        self._fallback = fallback
        self._trim = trim
        self._hold_ticks = math.ceil(limits.recovery_s / dt_s - 1e-9)
        self._roll = math.radians(limits.roll_max)
        self._pitch = (math.radians(limits.pitch_min), math.radians(limits.pitch_max))
        self._margin = math.radians(limits.attitude_hysteresis_deg)
        self._killed = False
        self._armed = True
        self.events = TripLog()
        self.reset()

    @classmethod
    def for_contract(cls, limits: SafetyLimits, fallback: FallbackLaw, contract: Contract) -> SafetyMonitor:
        """A monitor with deflection limits, trim and rate from the contract.

        Raises:
            ContractError: the contract does not command the four channels, or names no deflection limit or rate.
        """
        signals = {s.name: s for s in contract.output.signals}
        if tuple(signals) != CHANNELS or contract.output.kind != "continuous":
            raise ContractError(f"flying needs the continuous actions {', '.join(CHANNELS)}; got {', '.join(signals)}")
        if not contract.rate_hz > 0:
            raise ContractError("the contract names no control rate")
        aileron, elevator, rudder = (signals[name].deflection_limit_rad for name in CHANNELS[:3])
        trim = Command(*(signals[name].command_neutral for name in CHANNELS))
        surface_limit_rad = (aileron, elevator, rudder)
        return cls(limits, fallback, 1.0 / contract.rate_hz, surface_limit_rad=surface_limit_rad, trim=trim)

    def reset(self) -> None:
        """New episode: forget trips, last command and last state. A kill stays."""
        self._mode = Mode.POLICY
        self._active = Trip(0)  # envelope trips, with hysteresis
        self._clear_ticks = 0
        self._previous: Command | None = None
        self._sample: Sample | None = None
        self._hold: Setpoint | None = None
        self._tick = 0
        self._last: tuple[int, Mode] = (0, Mode.POLICY)
        self.events.clear()
        self._fallback.reset()

    @property
    def killed(self) -> bool:
        """Whether the kill switch is latched or the aircraft disarmed."""
        return self._killed or not self._armed

    def kill(self) -> bool:
        """Latch the kill switch; False where the limits disable it."""
        if self.limits.kill_switch_enabled:
            self._killed = True
        return self._killed

    def disarm(self) -> None:
        """Stop commanding. After a kill this is the first of the two steps back."""
        self._armed = False
        self._killed = False

    def arm(self) -> bool:
        """Command again; refused (False) while a kill is latched, which only `disarm` clears."""
        if not self._killed:
            self._armed = True
        return not self._killed

    def guard(
        self, sample: Sample, setpoint: Setpoint, proposed: Command, now_ns: int, health: Health = NOMINAL
    ) -> Guarded:
        """One tick.

        Args:
            sample: newest state estimate; its age is `now_ns - sample.time_ns`.
            setpoint: what the policy follows.
            proposed: the policy's command; may hold anything.
            now_ns: time of this tick on the clock of the sample.
            health: of the policy and the battery.
        """
        guarded = self._guard(sample, setpoint, proposed, now_ns, health)
        self._log(sample, now_ns, health, guarded)
        return guarded

    def _log(self, s: Sample, now_ns: int, health: Health, guarded: Guarded) -> None:
        trips, mode = int(guarded.trips), guarded.mode
        last_trips, last_mode = self._last
        raised = trips & ~last_trips & int(SWITCHING)
        if raised or mode is not last_mode:
            state = (
                s.roll_rad, s.pitch_rad, s.yaw_rad, s.p_radps, s.q_radps, s.r_radps, s.airspeed_mps, s.altitude_m,
                s.climb_rate_mps, s.north_m, s.east_m, s.north_mps, s.east_mps, health.battery_v,
            )  # fmt: skip
            self.events.add(TripEvent(now_ns, self._tick, raised, trips, int(mode), state))
        if trips:
            self.events.count(trips)
        self._last = (trips, mode)
        self._tick += 1

    def _guard(self, sample: Sample, setpoint: Setpoint, proposed: Command, now_ns: int, health: Health) -> Guarded:
        trips = self._watch(sample, proposed, now_ns)
        if health.policy is not PolicyState.ANSWERED:
            trips |= Trip.POLICY_LATE
        if self.killed:
            self._mode, self._clear_ticks = Mode.KILLED, 0
            self._previous = NEUTRAL
            return Guarded(NEUTRAL, Mode.KILLED, trips | Trip.KILL)
        self._switch(trips)
        if self._mode is Mode.POLICY:
            return self._limited(proposed, trips)
        return self._limited(self._recover(setpoint, trips), trips)

    def _watch(self, sample: Sample, proposed: Command, now_ns: int) -> Trip:
        """Everything that takes control from the policy, except the kill switch."""
        trips = Trip(0)
        if _finite(sample):
            self._sample = sample
            self._envelope(sample)
        else:
            trips |= Trip.NONFINITE_STATE
        if not all(map(math.isfinite, proposed)):
            trips |= Trip.NONFINITE_ACTION
        age_ms = math.inf if self._sample is None else abs(now_ns - self._sample.time_ns) * 1e-6
        if age_ms > self.limits.stale_data_ms:
            trips |= Trip.STALE_DATA
        if age_ms > self.limits.blind_data_ms:
            trips |= Trip.BLIND
        return trips | self._active

    def _envelope(self, s: Sample) -> None:
        limits, was = self.limits, self._active
        inside = self._margin if was & Trip.ATTITUDE else 0.0
        active = Trip(0)
        level = abs(s.roll_rad) <= self._roll - inside
        if not (level and self._pitch[0] + inside <= s.pitch_rad <= self._pitch[1] - inside):
            active |= Trip.ATTITUDE
        if s.altitude_m < limits.altitude_min + (limits.altitude_hysteresis_m if was & Trip.ALTITUDE_LOW else 0.0):
            active |= Trip.ALTITUDE_LOW
        if s.altitude_m > limits.max_altitude_m - (limits.altitude_hysteresis_m if was & Trip.ALTITUDE_HIGH else 0.0):
            active |= Trip.ALTITUDE_HIGH
        fence = limits.max_range_m - (limits.range_hysteresis_m if was & Trip.RANGE else 0.0)
        if limits.geofence_enabled and math.hypot(s.north_m, s.east_m) > fence:
            active |= Trip.RANGE
        self._active = active

    def _switch(self, trips: Trip) -> None:
        if trips or self._mode is Mode.KILLED:  # after a kill, too, the fallback law takes the aircraft over first
            if self._mode is not Mode.HOLD:
                self._fallback.reset()
                self._hold = None
            self._mode, self._clear_ticks = Mode.HOLD, 0
        elif self._mode is not Mode.POLICY:
            self._clear_ticks += 1
            if self._clear_ticks >= self._hold_ticks:
                self._mode = Mode.POLICY

    def _recover(self, setpoint: Setpoint, trips: Trip) -> Command:
        """The fallback law's command towards a safe state, or the trim where there is no state to act on."""
        sample = self._sample
        if sample is None or trips & Trip.BLIND:
            self._hold = None
            return self._trim
        if self._hold is None:
            speed = self.limits.fallback_airspeed_mps or setpoint.airspeed_mps
            self._hold = Setpoint(
                altitude_m=self._safe_altitude(sample.altitude_m),
                airspeed_mps=speed if math.isfinite(speed) and speed > 0 else sample.airspeed_mps,
                heading_rad=sample.yaw_rad,
            )
        target = self._hold
        if trips & Trip.RANGE:  # turn home
            home = math.atan2(-sample.east_m, -sample.north_m)
            target = Setpoint(target.altitude_m, target.airspeed_mps, home)
            self._hold = target
        try:
            command = self._fallback.command(sample, target)
        except (ArithmeticError, ValueError):  # finite but absurd states overflow
            command = None
        if command is None or not all(map(math.isfinite, command)):
            self._fallback.reset()
            return self._trim
        return command

    def _safe_altitude(self, altitude_m: float) -> float:
        """The altitude flown, moved inside floor and ceiling by twice the hysteresis."""
        margin = 2.0 * self.limits.altitude_hysteresis_m
        low, high = self.limits.altitude_min + margin, self.limits.max_altitude_m - margin
        return min(max(altitude_m, low), high)

    def _limited(self, command: Command, trips: Trip) -> Guarded:
        """Slew limits, then absolute limits; identity for a command within both."""
        values = list(command)
        previous = self._previous
        for i in range(4):
            value = values[i]
            if previous is not None and abs(value - previous[i]) > self.slew[i]:
                value = previous[i] + math.copysign(self.slew[i], value - previous[i])
                trips |= Trip.SLEW_LIMIT
            if value < self.low[i] or value > self.high[i]:
                value = min(max(value, self.low[i]), self.high[i])
                trips |= Trip.THROTTLE_LIMIT if i == 3 else Trip.SURFACE_LIMIT
            values[i] = value
        sent = Command(*values)
        self._previous = sent
        return Guarded(sent, self._mode, trips)


def _finite(s: Sample) -> bool:
    values = (
        s.roll_rad, s.pitch_rad, s.yaw_rad, s.p_radps, s.q_radps, s.r_radps,
        s.airspeed_mps, s.altitude_m, s.climb_rate_mps, s.north_m, s.east_m,
    )  # fmt: skip
    return all(map(math.isfinite, values))
