"""The loop that flies an aircraft: at the contract's rate, receive, judge the data's age, decide, command, record.

It owns the clock and the vehicle; what is decided is `FlightAgent.tick`'s alone. Commands are sent from the moment
control is asked for until somebody else has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sim2sky.runtime.clock import Clock
from sim2sky.runtime.flight_agent import FlightAgent
from sim2sky.runtime.fly_options import Engage
from sim2sky.runtime.inference import Backend
from sim2sky.runtime.rc_switch import Edge, RcSwitch
from sim2sky.runtime.recorder import Recorder, state_row
from sim2sky.runtime.safety import Mode, Trip
from sim2sky.runtime.state import PolicyState, Sample, Setpoint
from sim2sky.runtime.timing import TimingMonitor
from sim2sky.runtime.vehicle import Asked, Control, Request, Status, Vehicle

__all__ = ["FlightLoop", "FlightSummary"]

_S = 1_000_000_000
FINISH_S = 4.0  # for handing back at the end
SILENCE_NS = 2 * _S  # worth telling the operator
REFUSAL_NS = 2 * _S  # between two refusals with the same reasons


@dataclass
class FlightSummary:
    """What was flown.

    Attributes:
        vehicle: what it was.
        engagements: how often control was taken.
        ticks: while in control; policy_ticks: of these, commanded by the policy.
        guard_ticks: ticks by the guard's mode.
        ended: why each engagement ended.
        refused: the last reasons not to engage.
        timing: of the loop while in control.
    """

    vehicle: str = ""
    engagements: int = 0
    ticks: int = 0
    policy_ticks: int = 0
    guard_ticks: dict[str, int] = field(default_factory=dict[str, int])
    ended: list[str] = field(default_factory=list[str])
    refused: list[str] = field(default_factory=list[str])
    timing: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        return asdict(self)


class FlightLoop:
    """Flies one agent on one vehicle.

    Args:
        agent: what decides.
        policy: the agent's, to see whether it is alive.
        vehicle: connected.
        recorder: one episode for each engagement.
        clock: real, or a test's own.
        engage: who engages.
        kill_channel: of the receiver, from 1; 0 for none.
        setpoint: what to follow; fields that are not given are as flown when engaging.
        say: tells the operator.
    """

    def __init__(
        self,
        agent: FlightAgent,
        policy: Backend,
        vehicle: Vehicle,
        recorder: Recorder,
        clock: Clock,
        *,
        engage: Engage,
        kill_channel: int = 0,
        setpoint: Mapping[str, float] | None = None,
        say: Callable[[str], object],
    ) -> None:
        self._agent = agent
        self._policy = policy
        self._vehicle = vehicle
        self._recorder = recorder
        self._clock = clock
        self._engage_by = engage
        self._switch = RcSwitch(engage.channel) if engage.by == "rc" else None
        self._kill_switch = RcSwitch(kill_channel) if kill_channel else None
        self._given = dict(setpoint or {})
        self._setpoint = Setpoint()
        self._operator = say
        self._period_ns = round(_S / agent.contract.rate_hz)
        self.timing = TimingMonitor(agent.contract.rate_hz)
        self._engaged = False
        self._wanted = engage.by == "now"
        self._finishing = False
        self._ending = ""
        self._started_ns = 0
        self._status = Status(engaged=False, guard=0, trips=0, late=0)
        self._refused_ns = -REFUSAL_NS
        self._silent = False
        self._problem = ""  # the last one told
        self.summary = FlightSummary(vehicle.name)

    def run(self, duration_s: float) -> FlightSummary:
        """Fly until the time is up (or, engaged by `now`, until control is lost), and hand back.

        Raises:
            LinkError: the link broke.
        """
        self._finishing = False
        end = self._clock.now_ns() + (int(duration_s * _S) if duration_s < 1e9 else 1 << 62)
        due = self._clock.now_ns()
        while not (self._engage_by.by == "now" and self.summary.engagements and not self._engaged):
            due = self._cycle(due)
            if self._clock.now_ns() >= end:
                self.finish("the time is up")
                break
        self.summary.timing = asdict(self.timing.summary()) if self.summary.ticks else {}
        return self.summary

    def finish(self, reason: str) -> None:
        """Hand back to the autopilot, commanding until it flies, for a few seconds at most.

        Raises:
            LinkError: the link broke.
        """
        self._finishing = True
        self._give_back(reason)
        deadline, due = self._clock.now_ns() + int(FINISH_S * _S), self._clock.now_ns()
        while self._engaged and self._clock.now_ns() < deadline:
            due = self._cycle(due)
        if self._engaged:
            self._vehicle.let_go()
            self._over(f"{reason}; the autopilot did not confirm")
        for _ in range(3):  # the last announcements, and the stick overrides' release
            self._vehicle.receive(0.01)
        self.timing.pause()

    def abandon(self, reason: str) -> None:
        """Close the episode: there is no link any more to do anything on."""
        if self._engaged:
            self._over(reason)

    # One cycle -------------------------------------------------------------------------------------------------------

    def _cycle(self, due: int) -> int:
        """Receive until `due`, then tick; when the next tick is due."""
        while (remaining := due - self._clock.now_ns()) > 0:
            self._receive(remaining / _S)
        self._receive(0.0)
        started = self._clock.now_ns()
        self._listen(started)
        if self._wanted and not self._engaged and not self._finishing:
            self._engage(started)
        if self._engaged:
            self._tick(due, started)
        self._vehicle.announce(self._status)
        # After a stall the lost ticks are not made up for: old commands are worth nothing.
        lost = max((self._clock.now_ns() - due) // self._period_ns, 0)
        return due + (lost + 1) * self._period_ns

    def _receive(self, timeout_s: float) -> None:
        vehicle = self._vehicle
        vehicle.receive(timeout_s)
        reading = vehicle.reading
        if reading.problem and reading.problem != self._problem:
            self._tell(reading.problem)
        self._problem = reading.problem or self._problem
        if self._engaged and reading.control is Control.THEIRS:
            self._over(reading.problem or self._ending or "the autopilot took over")

    def _listen(self, now: int) -> None:
        """Switches and commands."""
        widths = self._vehicle.reading.rc_us
        if self._kill_switch is not None and self._kill_switch.update(widths, now) is Edge.ON:
            self._kill()
        if self._switch is not None:
            edge = self._switch.update(widths, now)
            if edge is Edge.ON:
                self._wanted = True
            elif edge is Edge.OFF:
                self._give_back("disengaged by the pilot's switch")
            elif self._engaged and not widths:
                self._give_back("the receiver is silent")
        for asked in self._vehicle.requests():
            self._vehicle.answer(asked, accepted=self._obey(asked))
        self._watch_silence(now)

    def _obey(self, asked: Asked) -> bool:
        monitor = self._agent.monitor
        match asked.request:
            case Request.ENGAGE:
                if self._engage_by.by != "mavlink":
                    return False
                self._wanted = True
            case Request.DISENGAGE:
                self._give_back("disengaged by a ground station")
            case Request.KILL:
                return self._kill()
            case Request.DISARM:
                monitor.disarm()
                self._wanted = False
                if self._engaged:
                    self._vehicle.let_go()
                    self._over("disarmed")
                self._tell("disarmed")
            case Request.ARM:
                armed = monitor.arm()
                self._tell("armed" if armed else "not armed: the kill switch is latched, disarm first")
                return armed
            case Request.FOLLOW:
                self._given.update(asked.setpoint or {})
                self._setpoint = replace(self._setpoint, **(asked.setpoint or {}))
        return True

    def _kill(self) -> bool:
        killed = self._agent.monitor.kill()
        self._tell("killed: throttle zero, surfaces neutral" if killed else "the limits disable the kill switch")
        return killed

    def _watch_silence(self, now: int) -> None:
        sample = self._vehicle.reading.sample
        silent = sample is not None and now - sample.time_ns > SILENCE_NS
        if silent != self._silent:
            self._silent = silent
            self._tell("nothing is heard from the aircraft" if silent else "the aircraft is heard again")

    # Engaging and disengaging ----------------------------------------------------------------------------------------

    def _engage(self, now: int) -> None:
        problems = self._problems(now)
        if not problems:
            self._agent.reset()
            if self._policy.state is PolicyState.DEAD:
                problems = ["the policy is dead"]
        if problems:
            if problems != self.summary.refused or now - self._refused_ns >= REFUSAL_NS:
                self._refused_ns = now
                self._tell(f"not engaged: {'; '.join(problems)}")
            self.summary.refused = problems
            if self._engage_by.by != "now":
                self._wanted = False  # one request, one answer: the pilot shall not be engaged by surprise later
            return
        sample = self._sample()
        self._setpoint = replace(Setpoint(sample.altitude_m, sample.airspeed_mps, sample.yaw_rad), **self._given)
        self._engaged, self._wanted, self._ending, self._problem = True, False, "", ""
        self._started_ns = now
        self.summary.engagements += 1
        self.timing.pause()
        self._recorder.begin(-1)
        self._vehicle.take_over()
        self._tell("engaged")

    def _problems(self, now: int) -> list[str]:
        """Why the agent may not take control now."""
        reading = self._vehicle.reading
        problems = [] if reading.control is Control.THEIRS else ["the autopilot is still taking over"]
        if reading.sample is None:
            return [*problems, "no state estimate"]
        return problems + self._agent.monitor.engagement_problems(reading.sample, now, battery_v=reading.battery_v)

    def _sample(self) -> Sample:
        sample = self._vehicle.reading.sample
        if sample is None:
            raise AssertionError("engaged without a state estimate")
        return sample

    def _give_back(self, reason: str) -> None:
        """Begin to hand back; after a kill nothing that could start the motor is done."""
        self._wanted = False
        if not self._engaged or self._vehicle.reading.control is Control.RETURNING:
            return
        self._ending = reason
        if self._agent.monitor.killed:
            self._vehicle.let_go()
            self._over(f"{reason}; killed: the sticks are the pilot's")
        else:
            self._vehicle.hand_back()

    def _over(self, reason: str) -> None:
        """Control is somebody else's."""
        self._engaged, self._wanted = False, False
        asked_for = bool(self._ending) and reason == self._ending
        self.timing.pause()
        self._recorder.end(success=asked_for, termination=reason)
        self.summary.ended.append(reason)
        self._status = self._status._replace(engaged=False, guard=0, trips=0)
        self._tell(f"disengaged: {reason}")

    # Flying ----------------------------------------------------------------------------------------------------------

    def _tick(self, due: int, started: int) -> None:
        sample, battery_v = self._sample(), self._vehicle.reading.battery_v
        tick = self._agent.tick(sample, self._setpoint, started, battery_v=battery_v)
        decided = self._clock.now_ns()
        self._vehicle.send(tick.command)
        sent = self._clock.now_ns()
        self.timing.tick(due, started, sent)
        self._recorder.record(
            state_row(sample, (started - self._started_ns) / _S), self._setpoint, tick, (started, decided, sent)
        )
        self._recorder.trips(self._agent.monitor.events)
        self._count(tick.guard, tick.trips)

    def _count(self, guard: int, trips: int) -> None:
        summary, mode = self.summary, Mode(guard)
        summary.ticks += 1
        summary.policy_ticks += mode is Mode.POLICY
        summary.guard_ticks[mode.name] = summary.guard_ticks.get(mode.name, 0) + 1
        if self._status.engaged and guard != self._status.guard:
            self._tell(f"guard: {mode.name} {'+'.join(trip.name or '' for trip in Trip(trips))}".rstrip())
        self._status = Status(engaged=True, guard=guard, trips=trips, late=self.timing.misses)

    def _tell(self, text: str) -> None:
        """The operator here, and the ground stations."""
        self._operator(text)
        self._vehicle.announce(self._status, text)
