"""The guard between a policy and the actuators: monitor, switch, recovery (after ASTM F3269), then hard limits.

Whatever comes in, what goes out is finite and within the limits. When nothing is wrong the policy's command passes
bit for bit. numpy-free and without I/O or clocks, so that it can be enumerated and fuzzed. What is wrong is found in
`watch`, what is done about it decided in `ladder`, where to fly in `guidance`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple, Protocol

from sim2sky.agent.contract import Contract
from sim2sky.errors import ContractError
from sim2sky.runtime.engagement import engagement_problems
from sim2sky.runtime.guidance import Guidance, loiter_radius
from sim2sky.runtime.ladder import SWITCHING, Action, Mode, Situation, Trip, decide
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.real import hypot
from sim2sky.runtime.state import CHANNELS, NOMINAL, Command, Health, PolicyState, Sample, Setpoint
from sim2sky.runtime.watch import Bound, Watch
from sim2sky.telemetry.trips import TripLog

__all__ = ["SWITCHING", "FallbackLaw", "Guarded", "Mode", "SafetyMonitor", "Trip", "command_limits"]

NEUTRAL = Command(0.0, 0.0, 0.0, 0.0)
BRIDGE_TICKS = 2  # at any rate: the fallback law commands within three ticks of the policy's last answer
BLEND_S = 0.3  # time constant with which a command is led over to whoever commands next
BLENDED_OUT = 0.01  # of full travel: the rest of the way is one step
HOME_RADII = 1.5
NOSE_DOWN_M = 20.0  # how far below itself a slow aircraft aims, so that the fallback law puts the nose down

_SWITCHING = int(SWITCHING)
_KILL, _LATE, _DEAD, _NONFINITE_ACTION = (
    int(t) for t in (Trip.KILL, Trip.POLICY_LATE, Trip.POLICY_DEAD, Trip.NONFINITE_ACTION)
)
_SURFACE, _THROTTLE, _SLEW = int(Trip.SURFACE_LIMIT), int(Trip.THROTTLE_LIMIT), int(Trip.SLEW_LIMIT)
_BRIDGED, _BLENDED, _BATTERY = int(Trip.BRIDGED), int(Trip.BLENDED), int(Trip.BATTERY)
_AIRSPEED_LOW = int(Trip.AIRSPEED_LOW)
URGENT = int(
    Trip.ATTITUDE | Trip.ALTITUDE_LOW | Trip.ALTITUDE_HIGH | Trip.RANGE | Trip.AIRSPEED_LOW | Trip.AIRSPEED_HIGH
    | Trip.SINK | Trip.OUT_OF_CONTRACT
)  # fmt: skip
"""With these the fallback law's own command is sent at once: continuing the last one is what led here."""
_BRIDGE, _SETTLING, _PERSISTENT, _AT_HOME = (
    int(s) for s in (Situation.BRIDGE, Situation.SETTLING, Situation.PERSISTENT, Situation.HOME)
)
_BY_LAW = frozenset({Action.HOLD, Action.RETURN, Action.LOITER, Action.CIRCLE, Action.DESCEND})


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
        bounds: measured quantities that the policy's contract limits.

    Attributes:
        events: why and when the guard stepped in, of this episode.
        watch: what finds out what is wrong.

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
        bounds: tuple[Bound, ...] = (),
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
        self._glide = trim._replace(throttle=0.0)
        self.watch = Watch(limits, dt_s, bounds)
        self._guidance = Guidance(limits)
        self._recovery_ticks = max(math.ceil(limits.recovery_s / dt_s - 1e-9), 1)
        self._return_ticks = math.ceil(limits.return_after_s / dt_s - 1e-9)
        self._bridge_ticks = min(math.floor(limits.hold_last_ms * 1e-3 / dt_s + 1e-9), BRIDGE_TICKS)
        self._bridge_refill = self._bridge_ticks / self._recovery_ticks
        self._fade = math.exp(-dt_s / BLEND_S)
        # Where the fallback law may be sent: inside the limits by twice the hysteresis, so that it ends their trips.
        slack = 2.0 * limits.airspeed_hysteresis_mps
        self._slowest = limits.airspeed_min_mps + slack if limits.airspeed_min_mps else -math.inf
        self._fastest = limits.airspeed_max_mps - slack if limits.airspeed_max_mps else math.inf
        inside = limits.altitude_buffer_m + 2.0 * limits.altitude_hysteresis_m
        self._lowest, self._highest = limits.altitude_min + inside, limits.max_altitude_m - inside
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
        observed = [s for box in contract.inputs for s in box.signals if s.name in Sample.__dataclass_fields__]
        return cls(
            limits,
            fallback,
            1.0 / contract.rate_hz,
            surface_limit_rad=(aileron, elevator, rudder),
            trim=trim,
            bounds=tuple((s.name, s.low, s.high) for s in observed),
        )

    def reset(self) -> None:
        """New episode: forget trips, last command and last state. A kill stays."""
        self.watch.reset()
        self._guidance.reset()
        self._fallback.reset()
        self.events.clear()
        self._action = Action.POLICY
        self._previous: Command | None = None
        self._hold: Setpoint | None = None
        self._bump: tuple[float, ...] | None = None  # what is still added to lead one command over into the next
        self._bridge = float(self._bridge_ticks)  # ticks for which the last command may still be repeated
        self._relieved = False  # the policy has been relieved and not come back yet
        self._relieved_ticks = 0
        self._clear_ticks = 0

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

    def engagement_problems(
        self, sample: Sample, now_ns: int, *, wind: tuple[float, float] | None = None, battery_v: float = math.nan
    ) -> list[str]:
        """Why the policy should not be given this aircraft here and now; empty where nothing speaks against it.

        Args:
            sample: newest state estimate.
            now_ns: on the clock of `sample.time_ns`.
            wind: velocity of the air, north and east, m/s; None: estimated from the sample.
            battery_v: NaN where it is not measured.
        """
        problems = ["the kill switch is latched, or the aircraft disarmed"] if self.killed else []
        trim_speed = self.limits.fallback_airspeed_mps or sample.airspeed_mps
        return problems + engagement_problems(
            self.limits, sample, now_ns, wind=wind, battery_v=battery_v, airspeed_mps=trim_speed
        )

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
        trips = self.watch.look(sample, now_ns, health.battery_v)
        if not all(map(math.isfinite, proposed)):
            trips |= _NONFINITE_ACTION
        if health.policy is not PolicyState.ANSWERED:
            trips |= _DEAD | _LATE if health.policy is PolicyState.DEAD else _LATE
        if self._killed or not self._armed:
            trips |= _KILL
        action = decide(trips, self._situation(trips))
        if action is Action.STOP:
            command = NEUTRAL
            self._bump = None
        else:
            command, trips = self._led_over(action, self._command(action, setpoint, proposed, trips), trips)
            command, trips = self._limited(command, trips)
        self._account(action)
        self._previous = command
        mode = action.mode
        self.events.note(sample, now_ns, health.battery_v, trips, mode)
        return Guarded(command, mode, Trip(trips))

    def _situation(self, trips: int) -> int:
        situation = _BRIDGE if self._bridge >= 1.0 and self._previous is not None else 0
        if self._relieved:
            self._clear_ticks = 0 if trips & _SWITCHING else self._clear_ticks + 1
            if self._clear_ticks < self._recovery_ticks:
                situation |= _SETTLING
            if self._relieved_ticks >= self._return_ticks:
                situation |= _PERSISTENT
        if (trips & _BATTERY or situation & _PERSISTENT) and self._at_home():
            situation |= _AT_HOME
        return situation

    def _at_home(self) -> bool:
        fix, sample = self.watch.fix, self.watch.sample
        if fix is None or sample is None:
            return False
        return hypot(*fix) < HOME_RADII * loiter_radius(self.limits, self._speed(sample, None))

    def _account(self, action: Action) -> None:
        """Remember who flew."""
        if action is Action.POLICY:
            self._relieved, self._relieved_ticks = False, 0
            self._bridge = min(self._bridge + self._bridge_refill, self._bridge_ticks)
        elif action is Action.REPEAT:
            self._bridge -= 1.0
        else:
            self._relieved = True
            self._relieved_ticks += 1
            self._bridge = 0.0
            if action is Action.STOP:  # armed again, the fallback law takes the aircraft over first
                self._clear_ticks = -1
        self._action = action

    def _command(self, action: Action, setpoint: Setpoint, proposed: Command, trips: int) -> Command:
        """What the action commands, before it is led over and limited."""
        if action is Action.POLICY:
            return proposed
        if action is Action.REPEAT:
            return self._previous or self._trim
        sample = self.watch.sample
        if action not in _BY_LAW or sample is None:
            return self._glide if action is Action.TERMINATE else self._trim
        if self._action not in _BY_LAW or self._hold is None:
            self._fallback.reset()
            self._hold = Setpoint(
                altitude_m=self._safe_altitude(sample.altitude_m),
                airspeed_mps=self._speed(sample, setpoint),
                heading_rad=sample.yaw_rad,
            )
        self._hold = target = self._target(action, sample, self._hold)
        if trips & _AIRSPEED_LOW:  # speed first, or height is lost for nothing
            target = replace(target, altitude_m=sample.altitude_m - NOSE_DOWN_M)
        try:
            command = self._fallback.command(sample, target)
        except (ArithmeticError, ValueError):  # finite but absurd states overflow
            command = None
        if command is None or not all(map(math.isfinite, command)):
            self._fallback.reset()
            return self._trim
        return command

    def _target(self, action: Action, s: Sample, hold: Setpoint) -> Setpoint:
        fix, guidance, wind = self.watch.fix, self._guidance, self.watch.wind.wind
        if action is not self._action:
            guidance.reset(self.watch.side)
        if action is Action.HOLD:
            return hold
        altitude = hold.altitude_m
        if action is Action.CIRCLE or fix is None:
            heading = guidance.circle(s)
        elif action is Action.RETURN:
            heading = guidance.home(s, *fix, wind)
        else:
            heading = guidance.loiter(s, *fix, wind, hold.airspeed_mps)
            if action is Action.DESCEND:
                altitude = self._safe_altitude(-math.inf)
        return Setpoint(altitude, hold.airspeed_mps, heading)

    def _speed(self, sample: Sample, setpoint: Setpoint | None) -> float:
        """Airspeed for the fallback law: configured, or the setpoint's, or the one flown; within the limits."""
        speed = self.limits.fallback_airspeed_mps or (setpoint.airspeed_mps if setpoint is not None else 0.0)
        if not 0.0 < speed < math.inf:
            speed = sample.airspeed_mps
        return min(max(speed, self._slowest), self._fastest)

    def _safe_altitude(self, altitude_m: float) -> float:
        """The altitude flown, moved inside floor and ceiling by the buffer and twice the hysteresis."""
        return min(max(altitude_m, self._lowest), self._highest)

    def _led_over(self, action: Action, command: Command, trips: int) -> tuple[Command, int]:
        """Bumpless transfer: after a change of hands the first command continues the last one, and the difference
        fades. Not where the fallback law must act at once."""
        if action is Action.REPEAT:
            return command, trips | _BRIDGED
        to_policy, was = action is Action.POLICY, self._action
        previous = self._previous
        if previous is not None and was is not Action.STOP:
            from_policy = was in {Action.POLICY, Action.REPEAT}
            if (to_policy and not from_policy) or (action in _BY_LAW and from_policy):
                self._bump = tuple(p - c for p, c in zip(previous, command, strict=True))
        bump = self._bump
        if bump is None:
            return command, trips
        if trips & URGENT or not (to_policy or action in _BY_LAW) or max(map(abs, bump)) < BLENDED_OUT:
            self._bump = None
            return command, trips
        fade = self._fade
        self._bump = tuple(b * fade for b in bump)
        a, e, r, t = command
        return Command(a + bump[0], e + bump[1], r + bump[2], t + bump[3]), trips | _BLENDED

    def _limited(self, command: Command, trips: int) -> tuple[Command, int]:
        """Slew limits, then absolute limits; identity for a command within both."""
        previous, low, high, slew = self._previous, self.low, self.high, self.slew
        values = list(command)
        changed = False
        for i in range(4):
            value = values[i]
            if previous is not None and abs(value - previous[i]) > slew[i]:
                value = previous[i] + math.copysign(slew[i], value - previous[i])
                trips |= _SLEW
                changed = True
            if value < low[i] or value > high[i]:
                value = min(max(value, low[i]), high[i])
                trips |= _THROTTLE if i == 3 else _SURFACE
                changed = True
            values[i] = value
        return (Command(*values) if changed else command), trips
