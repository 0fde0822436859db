"""The plant of a hardware-in-the-loop run: the simulated aircraft on the far end of a MAVLink link.

It draws the scenario, sends what the sensors say, applies what comes back, judges the episode. The flight agent is
another process, on this machine or on the target.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.contract import ActionSignal, Contract, Input, Output, Signal
from sim2sky.environments.episode import EpisodeOutcome, EpisodeRecord
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.errors import LinkError
from sim2sky.runtime import messages
from sim2sky.runtime.clock import Clock
from sim2sky.runtime.flight_agent import Tick
from sim2sky.runtime.link import Link, mavlink
from sim2sky.runtime.recorder import Recorder
from sim2sky.runtime.safety import Mode, Trip
from sim2sky.runtime.state import CHANNELS, Command, Sample

__all__ = ["WANTED", "AgentIdentity", "Plant", "PlantStatistics", "measurement_contract"]

WANTED = (
    mavlink.MAVLINK_MSG_ID_HEARTBEAT,
    mavlink.MAVLINK_MSG_ID_TIMESYNC,
    mavlink.MAVLINK_MSG_ID_COMMAND_ACK,
    mavlink.MAVLINK_MSG_ID_ATTITUDE_TARGET,
    mavlink.MAVLINK_MSG_ID_HIL_ACTUATOR_CONTROLS,
    mavlink.MAVLINK_MSG_ID_AUTOPILOT_VERSION,
    mavlink.MAVLINK_MSG_ID_STATUSTEXT,
)
"""Messages the plant reads."""

_S = 1_000_000_000
SHUTDOWN_S = 0.5
IN_PROGRESS_S = 60.0  # an agent that says it is at work may take so long: a policy process is started again
_MEASURED = (
    ("roll_rad", "rad"), ("pitch_rad", "rad"), ("yaw_rad", "rad"), ("p_radps", "rad/s"), ("q_radps", "rad/s"),
    ("r_radps", "rad/s"), ("airspeed_mps", "m/s"), ("altitude_m", "m"), ("climb_rate_mps", "m/s"), ("north_m", "m"),
    ("east_m", "m"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """What the flight agent says it flies: the first 16 hex digits of bundle digest and contract hash."""

    bundle_digest: str
    contract_hash: str


@dataclass(slots=True)
class PlantStatistics:
    """Measured on the plant's side.

    Attributes:
        exchange_ns: per tick, from packing the state to having decoded the command.
        round_trip_ns: TIMESYNC round trips.
        retransmissions: datagrams sent again because no answer came in time.
        missed: real time only: ticks whose command came too late.
    """

    exchange_ns: list[int] = field(default_factory=list[int])
    round_trip_ns: list[int] = field(default_factory=list[int])
    retransmissions: int = 0
    missed: int = 0


def measurement_contract(vehicle: str, task: str, rate_hz: float) -> Contract:
    """Names the columns of the plant's log: observations are the measured state, actions the commands received."""
    inf = float("inf")
    signals = tuple(Signal(name, unit, "", -inf, inf) for name, unit in _MEASURED)
    actions = tuple(ActionSignal(name, "1", -1.0, 1.0, -1.0, 0.0, 1.0) for name in CHANNELS)
    box = Input("observation", "box", (len(signals),), "float64", signals)
    return Contract(vehicle, task, rate_hz, (box,), Output("continuous", actions))


def _measured(s: Sample) -> NDArray[np.float32]:
    return np.array([getattr(s, name) for name, _ in _MEASURED], np.float32)


class Plant:
    """Drives one vehicle and one flight agent through episodes.

    Args:
        vehicle: the simulated aircraft.
        link: to the agent.
        clock: measures exchanges; in real time it also paces them.
        recorder: of the plant's side; its contract is `measurement_contract`.
        realtime: one tick per control period; else lockstep, as fast as the answers come.
        timeout_s: no answer for so long ends the run.
        retry_s: a request is sent again after so long without an answer.
        sensors: also send HIL_SENSOR with every state.
        alive: says why the agent can answer no more (its process ended), or nothing.
    """

    def __init__(
        self,
        vehicle: SimVehicle,
        link: Link,
        clock: Clock,
        recorder: Recorder | None = None,
        *,
        realtime: bool = False,
        timeout_s: float = 2.0,
        retry_s: float = 0.05,
        sensors: bool = True,
        alive: Callable[[], str] = lambda: "",
    ) -> None:
        self._vehicle = vehicle
        self._link = link
        self._clock = clock
        self._recorder = recorder
        self._realtime = realtime
        self._timeout_ns = int(timeout_s * _S)
        self._retry_s = retry_s
        self._sensors = sensors
        self._alive = alive
        self._rate_hz = vehicle.settings.rate_hz
        self._period_ns = round(_S / self._rate_hz)
        self._usec = 0
        self._known: dict[int, tuple[float, ...]] = {}
        self._offered: dict[int, tuple[float, ...]] = {}
        self._command = Command(0.0, 0.0, 0.0, 0.0)
        self._mode, self._trips = Mode.POLICY, Trip(0)
        self._where = "before the first episode"
        self._silent_since = 0
        self._text = ""
        self.statistics = PlantStatistics()

    def connect(self, timeout_s: float = 30.0) -> AgentIdentity:
        """Wait for the agent's heartbeat, ask what it flies, and measure the round trip.

        Raises:
            LinkError: no agent speaks in time, or it does not answer.
        """
        deadline = self._clock.now_ns() + int(timeout_s * _S)
        while not any(m.get_msgId() == mavlink.MAVLINK_MSG_ID_HEARTBEAT for m in self._link.receive(self._retry_s)):
            self._give_up(deadline, "no flight agent came")
        request = messages.command_long(
            mavlink.MAV_CMD_REQUEST_MESSAGE, float(mavlink.MAVLINK_MSG_ID_AUTOPILOT_VERSION)
        )
        heartbeat = mavlink.MAVLink_heartbeat_message(
            mavlink.MAV_TYPE_FIXED_WING,
            mavlink.MAV_AUTOPILOT_GENERIC,
            mavlink.MAV_MODE_FLAG_HIL_ENABLED,
            0,
            mavlink.MAV_STATE_ACTIVE,
            3,
        )
        number = mavlink.MAVLINK_MSG_ID_AUTOPILOT_VERSION
        answer = self._ask([heartbeat, request], lambda m: m.get_msgId() == number)
        return AgentIdentity(*messages.versions_from(answer))

    def fly(self, episode: int, seed: int) -> EpisodeOutcome:
        """Fly one seeded episode; `interventions` counts ticks in which the guard replaced or limited the command.

        Raises:
            LinkError: the agent refuses, falls silent, or sends an impossible command.
        """
        self._where = f"in episode {episode} (seed {seed})"
        try:
            return self._fly(episode, seed)
        except LinkError as error:
            if self._where in error.message:
                raise
            raise LinkError(f"{error.message}, {self._where}", hint=error.hint) from error

    def _fly(self, episode: int, seed: int) -> EpisodeOutcome:
        vehicle, clock = self._vehicle, self._clock
        sample = vehicle.reset(seed)
        record = EpisodeRecord(vehicle)
        self._command, self._known = vehicle.airframe.trim, {}
        start = messages.episode_start(episode, seed, self._rate_hz)
        self._acknowledged(messages.EPISODE_START, [start])
        self._measure_round_trip()
        if self._recorder is not None:
            self._recorder.begin(seed)
        interventions = 0
        self._usec = max(self._usec, clock.now_ns() // 1000 if self._realtime else 0)
        due = clock.now_ns()
        while not vehicle.done:
            self._usec = clock.now_ns() // 1000 if self._realtime else self._usec + self._period_ns // 1000
            sent = clock.now_ns()
            due += self._period_ns
            command = self._paced(sample, due) if self._realtime else self._exchange(sample)
            received = clock.now_ns()
            interventions += self._mode is not Mode.POLICY or bool(self._trips)
            if self._recorder is not None:
                action = np.array(command, np.float32)
                tick = Tick(command, action, _measured(sample), int(self._mode), int(self._trips))
                self._recorder.record(vehicle.state_row(), vehicle.setpoint, tick, (received, received, sent))
            sample = vehicle.step(command)
            record.after_step(command)
        ending = messages.episode_end(episode, success=vehicle.success, termination=vehicle.termination)
        self._acknowledged(messages.EPISODE_END, ending)
        outcome = record.outcome(seed, interventions)
        if self._recorder is not None:
            self._recorder.end(success=vehicle.success, termination=vehicle.termination, interventions=interventions)
        return outcome

    def shutdown(self) -> None:
        """Tell the agent to end. One that does not answer has ended: its answer may be what was lost."""
        command = mavlink.MAV_CMD_PREFLIGHT_REBOOT_SHUTDOWN
        self._timeout_ns = min(self._timeout_ns, int(SHUTDOWN_S * _S))
        with contextlib.suppress(LinkError):
            self._acknowledged(command, [messages.command_long(command, 0.0, 2.0)])

    def _state_messages(self, sample: Sample) -> list[Any]:
        """Setpoint changes that are not yet acknowledged, then the state: one datagram, so that none can be missed."""
        vehicle = self._vehicle
        out: list[Any] = []
        parts = messages.setpoint_parts(vehicle.setpoint)
        changed = [number for number, values in parts.items() if self._known.get(number) != values]
        if changed:
            all_messages = messages.setpoint_messages(vehicle.setpoint, self._usec // 1000 & 0xFFFFFFFF)
            out += [all_messages[number] for number in changed]
        self._offered = parts
        if self._sensors:
            out.append(messages.hil_sensor(sample, self._usec))
        out.append(messages.hil_state(sample, self._usec))
        return out

    def _exchange(self, sample: Sample) -> Command:
        """Lockstep: the state goes out, its command comes back."""
        start = self._clock.now_ns()
        number, usec = mavlink.MAVLINK_MSG_ID_HIL_ACTUATOR_CONTROLS, self._usec

        def answers(m: Any) -> bool:
            return m.get_msgId() == number and m.time_usec == usec

        self._take(self._ask(self._state_messages(sample), answers))
        self.statistics.exchange_ns.append(self._clock.now_ns() - start)
        return self._command

    def _paced(self, sample: Sample, due_ns: int) -> Command:
        """Real time: the command in force at the end of the period; the last one where none came in time."""
        clock, link = self._clock, self._link
        start = clock.now_ns()
        link.send(*self._state_messages(sample))
        fresh = False
        while (remaining := due_ns - clock.now_ns()) > 0:
            if fresh:
                clock.sleep_until(due_ns)
                break
            for m in link.receive(remaining / _S):
                self._note(m)
                if m.get_msgId() == mavlink.MAVLINK_MSG_ID_HIL_ACTUATOR_CONTROLS:
                    self._take(m)
                    if m.time_usec == self._usec and not fresh:
                        fresh = True
                        self._silent_since = clock.now_ns()
                        self.statistics.exchange_ns.append(self._silent_since - start)
        if not fresh:
            self.statistics.missed += 1
            self._give_up(self._silent_since + self._timeout_ns, "the flight agent fell silent")
        return self._command

    def _take(self, message: Any) -> None:
        self._command = messages.command_from(message)
        self._mode = messages.mode_from(message)
        self._trips = messages.trips_from(message)

    def _acknowledged(self, command: int, out: Sequence[Any]) -> None:
        """Send a command until it is acknowledged."""

        def acknowledges(m: Any) -> bool:
            return m.get_msgId() == mavlink.MAVLINK_MSG_ID_COMMAND_ACK and m.command == command

        at_work = mavlink.MAV_RESULT_IN_PROGRESS
        ack = self._ask(out, acknowledges)
        if ack.result == at_work:
            ack = self._ask(out, lambda m: acknowledges(m) and m.result != at_work, timeout_s=IN_PROGRESS_S)
        if ack.result == mavlink.MAV_RESULT_FAILED:
            raise LinkError(
                f"the flight agent could not carry out command {command} {self._where}: {self._text}",
                hint="its own output says more",
            )
        if ack.result != mavlink.MAV_RESULT_ACCEPTED:
            raise LinkError(
                f"the flight agent refused command {command} {self._where} (result {ack.result})",
                hint=f"its contract must have the control rate {self._rate_hz:g} Hz",
            )
        self._silent_since = self._clock.now_ns()

    def _measure_round_trip(self) -> None:
        now = self._clock.now_ns()
        request = mavlink.MAVLink_timesync_message(0, now)
        number = mavlink.MAVLINK_MSG_ID_TIMESYNC
        self._ask([request], lambda m: m.get_msgId() == number and m.tc1 != 0 and m.ts1 == now)
        self.statistics.round_trip_ns.append(self._clock.now_ns() - now)

    def _ask(self, out: Sequence[Any], answers: Callable[[Any], bool], *, timeout_s: float = 0.0) -> Any:
        """Send, and send again until an answer comes.

        Raises:
            LinkError: none comes in time.
        """
        clock, link = self._clock, self._link
        link.send(*out)
        deadline = retry = 0
        while True:
            for m in link.receive(self._retry_s):
                self._note(m)
                if answers(m):
                    return m
            now = clock.now_ns()
            if deadline == 0:
                deadline, retry = now + (int(timeout_s * _S) or self._timeout_ns), now + int(self._retry_s * _S)
            if now >= retry:
                self._give_up(deadline, "the flight agent does not answer")
                self.statistics.retransmissions += 1
                retry = now + int(self._retry_s * _S)
                link.send(*out)

    def _note(self, message: Any) -> None:
        """Receipts of setpoints, and the agent's own clock questions."""
        number = message.get_msgId()
        if number == mavlink.MAVLINK_MSG_ID_TIMESYNC and message.tc1 == 0:
            self._link.send(mavlink.MAVLink_timesync_message(self._clock.now_ns(), message.ts1))
            return
        if number == mavlink.MAVLINK_MSG_ID_STATUSTEXT:
            self._text = message.text
        receipt = messages.receipt_of(message)
        if receipt in self._offered:
            self._known[receipt] = self._offered[receipt]

    def _give_up(self, deadline_ns: int, what: str) -> None:
        if reason := self._alive():
            raise LinkError(f"{what} {self._where}: {reason}")
        if self._clock.now_ns() >= deadline_ns:
            raise LinkError(f"{what} {self._where}", hint="is the flight agent running, and the link address right?")
