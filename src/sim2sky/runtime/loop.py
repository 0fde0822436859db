"""The loop around a flight agent: a link, a clock, a recorder. Lockstep (the plant's time) or real time (the clock's).

Lockstep: every state is answered by one command; the same state again is answered by the same command, without another
tick, so that lost or doubled datagrams change nothing. A plant that loses states on purpose says itself when a period
ends (SYSTEM_TIME); from then on states only inform, and the agent ticks when it is told the time. Real time: a state is
answered when it comes; when none comes for one and a half periods the agent ticks on the old one, and the guard judges
its age.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from sim2sky.errors import LinkError
from sim2sky.runtime import messages
from sim2sky.runtime.clock import Clock
from sim2sky.runtime.flight_agent import FlightAgent
from sim2sky.runtime.link import Link, mavlink
from sim2sky.runtime.recorder import Recorder, state_row
from sim2sky.runtime.state import PolicyState, Sample, Setpoint
from sim2sky.runtime.timing import TimingMonitor

__all__ = ["WANTED", "AgentLoop"]

WANTED = (
    mavlink.MAVLINK_MSG_ID_HEARTBEAT,
    mavlink.MAVLINK_MSG_ID_TIMESYNC,
    mavlink.MAVLINK_MSG_ID_COMMAND_LONG,
    mavlink.MAVLINK_MSG_ID_SET_ATTITUDE_TARGET,
    mavlink.MAVLINK_MSG_ID_HIL_STATE_QUATERNION,
    mavlink.MAVLINK_MSG_ID_STATUSTEXT,
    mavlink.MAVLINK_MSG_ID_SYSTEM_TIME,
)
"""Messages a flight agent reads."""

_S = 1_000_000_000
HEARTBEAT_NS = _S
ANNOUNCE_NS = _S // 10
LATE = 1.5  # periods without a state before the agent ticks without one
AHEAD = 2.0  # periods that a state's stamp may be ahead of the plant's time
NO_SAMPLE = Sample(0, *(math.nan,) * 11)
SHUTDOWN = mavlink.MAV_CMD_PREFLIGHT_REBOOT_SHUTDOWN


class AgentLoop:
    """Runs one flight agent on one link until it is told to shut down.

    Args:
        agent: what flies.
        link: to the plant.
        recorder: of the agent's side.
        clock: for heartbeats, time-outs and, in real time, everything.
        digest: of the bundle, told to the plant.
        realtime: see the module.
        connect_timeout_s: how long to wait for the plant's first word.
        peer_timeout_s: silence after that ends the run.

    Attributes:
        ticks, late_ticks: flown; of these, in real time, without a new state.
        timing: of all ticks in real time; in lockstep the plant's patience decides, and nothing is measured.
    """

    def __init__(
        self,
        agent: FlightAgent,
        link: Link,
        recorder: Recorder,
        clock: Clock,
        *,
        digest: str = "",
        realtime: bool = False,
        connect_timeout_s: float = 30.0,
        peer_timeout_s: float = 5.0,
    ) -> None:
        self._agent = agent
        self._link = link
        self._recorder = recorder
        self._clock = clock
        self._digest = digest
        self._realtime = realtime
        self._connect_timeout_ns = int(connect_timeout_s * _S)
        self._peer_timeout_ns = int(peer_timeout_s * _S)
        self._rate_hz = agent.contract.rate_hz
        self._late_ns = int(LATE * _S / self._rate_hz)
        self.timing = TimingMonitor(self._rate_hz)
        self._episode_timing = TimingMonitor(self._rate_hz)
        self._setpoint = Setpoint()
        self._episode = -1
        self._flying = False
        self._running = True
        self._heard = False
        self._heard_ns = 0
        self._beat_ns = -_S
        self._sync_ns = -_S
        self._offset_ns: int | None = None
        self._round_trip_ns = 0
        self._text = ""
        self._out: list[Any] = []
        self._state_usec = self._tick_usec = -1
        self._start_usec = 0
        self._told = False
        self._reply: Any = None
        self._sample: Sample | None = None
        self._tick_ns = 0
        self.ticks = 0
        self.late_ticks = 0

    def run(self) -> int:
        """Serve the plant until it says shut down; returns the number of ticks flown.

        Raises:
            LinkError: the plant never spoke, fell silent, or the link broke.
        """
        started = self._heard_ns = self._clock.now_ns()
        while self._running:
            now = self._clock.now_ns()
            self._announce(now)
            for message in self._link.receive(self._wait_s(now)):
                self._handle(message)
            now = self._clock.now_ns()
            if self._realtime and self._flying and self._sample is not None and now - self._tick_ns >= self._late_ns:
                self.late_ticks += 1
                self._tick(self._sample, now, now, self._tick_ns + self._late_ns)
            self._flush()
            if not self._heard and now - started > self._connect_timeout_ns:
                raise LinkError("the plant never spoke", hint="is it running, and is the link address right?")
            if self._heard and now - self._heard_ns > self._peer_timeout_ns:
                self._end(success=False, termination="link lost")
                raise LinkError(f"the plant fell silent for {self._peer_timeout_ns / _S:g} s after {self.ticks} ticks")
        return self.ticks

    def _wait_s(self, now: int) -> float:
        if self._realtime and self._flying:
            return max(self._tick_ns + self._late_ns - now, 0) / _S
        return (HEARTBEAT_NS if self._heard else ANNOUNCE_NS) / _S

    def _announce(self, now: int) -> None:
        period = HEARTBEAT_NS if self._heard else ANNOUNCE_NS
        if now - self._beat_ns >= period:
            self._beat_ns = now
            state = mavlink.MAV_STATE_ACTIVE if self._flying else mavlink.MAV_STATE_STANDBY
            base_mode = mavlink.MAV_MODE_FLAG_HIL_ENABLED | mavlink.MAV_MODE_FLAG_CUSTOM_MODE_ENABLED
            self._out.append(
                mavlink.MAVLink_heartbeat_message(
                    mavlink.MAV_TYPE_ONBOARD_CONTROLLER, mavlink.MAV_AUTOPILOT_INVALID, base_mode, 0, state, 3
                )
            )
        if self._realtime and self._heard and now - self._sync_ns >= HEARTBEAT_NS:
            self._sync_ns = now
            self._out.append(mavlink.MAVLink_timesync_message(0, now))
        self._flush()

    def _flush(self) -> None:
        if self._out:
            self._link.send(*self._out)
            self._out.clear()

    def _handle(self, message: Any) -> None:
        now = self._clock.now_ns()
        self._heard, self._heard_ns = True, now
        number = message.get_msgId()
        if number == mavlink.MAVLINK_MSG_ID_HIL_STATE_QUATERNION:
            self._state(message, now)
        elif number == mavlink.MAVLINK_MSG_ID_COMMAND_LONG:
            self._command(message)
        elif number == mavlink.MAVLINK_MSG_ID_SET_ATTITUDE_TARGET:
            if (values := messages.decode_command_setpoint(message)) is not None:
                self._setpoint = replace(self._setpoint, **values)
                self._out.append(messages.attitude_target(message))
        elif number == mavlink.MAVLINK_MSG_ID_TIMESYNC:
            self._timesync(message, now)
        elif number == mavlink.MAVLINK_MSG_ID_STATUSTEXT:
            self._text = message.text
        elif number == mavlink.MAVLINK_MSG_ID_SYSTEM_TIME:
            self._time(message.time_unix_usec, now)

    def _state(self, message: Any, received: int) -> None:
        if not self._flying or message.time_usec < self._state_usec:
            return
        if message.time_usec == self._state_usec:
            if self._reply is not None and not self._realtime:
                self._out.append(self._reply)
            return
        if self._told and message.time_usec - self._tick_usec > AHEAD * 1e6 / self._rate_hz:
            return  # from the future: believed, it would look fresh for as long as the clock is ahead
        self._state_usec = message.time_usec
        stamp = message.time_usec * 1000
        if self._realtime:
            stamp = received if self._offset_ns is None else min(stamp + self._offset_ns, received)
        self._sample = messages.sample_from(message, stamp)
        if self._told:
            return
        self._tick_usec = message.time_usec
        self._tick(self._sample, received if self._realtime else stamp, received, received)

    def _time(self, usec: int, received: int) -> None:
        """Lockstep: a period ends at `usec`, whatever has come of its state."""
        if not self._flying or self._realtime or usec < self._tick_usec:
            return
        self._told = True
        if usec == self._tick_usec and self._reply is not None:
            self._out.append(self._reply)
            return
        self._tick_usec = usec
        self._tick(self._sample or NO_SAMPLE, usec * 1000, received, received)

    def _tick(self, sample: Sample, now: int, received: int, scheduled: int) -> None:
        tick = self._agent.tick(sample, self._setpoint, now)
        decided = self._clock.now_ns()
        self._reply = messages.actuator_controls(
            tick.command, self._tick_usec, tick.guard, tick.trips, lockstep=not self._realtime
        )
        self._out.append(self._reply)
        self._flush()
        sent = self._clock.now_ns()
        if self._start_usec < 0:
            self._start_usec = self._tick_usec
        time_s = (self._tick_usec - self._start_usec) * 1e-6
        self._recorder.record(state_row(sample, time_s), self._setpoint, tick, (received, decided, sent))
        self._recorder.trips(self._agent.monitor.events)
        if self._realtime:
            self._episode_timing.tick(scheduled, received, sent)
        self._tick_ns = received
        self.ticks += 1

    def _timesync(self, message: Any, now: int) -> None:
        if message.tc1 == 0:
            self._out.append(mavlink.MAVLink_timesync_message(now, message.ts1))
            return
        round_trip = now - message.ts1
        # The quickest exchange seen says most about the clocks; let it age so that drift is followed.
        if round_trip >= 0 and (self._offset_ns is None or round_trip <= self._round_trip_ns * 1.1):
            self._offset_ns = (message.ts1 + now) // 2 - message.tc1
            self._round_trip_ns = round_trip
        else:
            self._round_trip_ns = self._round_trip_ns * 11 // 10 + 1000

    def _command(self, m: Any) -> None:
        accepted, denied = mavlink.MAV_RESULT_ACCEPTED, mavlink.MAV_RESULT_DENIED
        monitor = self._agent.monitor
        result = accepted
        if (values := messages.decode_command_setpoint(m)) is not None:
            self._setpoint = replace(self._setpoint, **values)
        elif not all(map(math.isfinite, (m.param1, m.param2, m.param3, m.param4, m.param5, m.param6))):
            result = denied
        elif m.command == messages.EPISODE_START:
            result = self._begin(m)
        elif m.command == messages.EPISODE_END:
            if m.param1 == self._episode:
                self._end(success=m.param2 == 1.0, termination=self._text)
        elif m.command == mavlink.MAV_CMD_DO_FLIGHTTERMINATION:
            result = accepted if m.param1 == 1.0 and monitor.kill() else denied
        elif m.command == mavlink.MAV_CMD_COMPONENT_ARM_DISARM and m.param1 == 0.0:
            monitor.disarm()
        elif m.command == mavlink.MAV_CMD_COMPONENT_ARM_DISARM and m.param1 == 1.0:
            result = accepted if monitor.arm() else denied
        elif m.command == mavlink.MAV_CMD_REQUEST_MESSAGE and m.param1 == mavlink.MAVLINK_MSG_ID_AUTOPILOT_VERSION:
            self._out.append(messages.autopilot_version(self._digest, self._agent.contract.hash))
        elif m.command == SHUTDOWN and m.param2 == 2.0:
            self._running = False
        else:
            result = mavlink.MAV_RESULT_UNSUPPORTED
        self._acknowledge(m, result)

    def _acknowledge(self, m: Any, result: int) -> None:
        self._out.append(mavlink.MAVLink_command_ack_message(m.command, result, 0, 0, *messages.PLANT))

    def _begin(self, m: Any) -> int:
        episode = int(m.param1)
        if not math.isclose(m.param6, self._rate_hz, rel_tol=1e-6):
            return mavlink.MAV_RESULT_DENIED
        if episode != self._episode:  # a repeated request must not reset twice
            self._end(success=False, termination="abandoned")
            # A policy process may have to be started again, which takes seconds on a small computer.
            self._acknowledge(m, mavlink.MAV_RESULT_IN_PROGRESS)
            self._flush()
            self._agent.reset()
            self._heard_ns = self._clock.now_ns()  # the silence was ours
            if self._agent.policy_state is PolicyState.DEAD:
                self._episode = -1
                self._out.append(
                    mavlink.MAVLink_statustext_message(
                        mavlink.MAV_SEVERITY_CRITICAL, b"the policy process does not run"
                    )
                )
                return mavlink.MAV_RESULT_FAILED
            self._episode, self._flying = episode, True
            self._episode_timing = TimingMonitor(self._rate_hz)
            self._recorder.begin(messages.seed_from(m))
            self._state_usec = self._tick_usec = self._start_usec = -1
            self._told, self._reply, self._sample = False, None, None
            self._tick_ns = self._clock.now_ns()
            self._text = ""
        return mavlink.MAV_RESULT_ACCEPTED

    def _end(self, *, success: bool, termination: str) -> None:
        if self._flying:
            self._flying = False
            extra = self._episode_timing.summary().attributes() if self._realtime else {}
            self._recorder.end(success=success, termination=termination, **extra)
            self.timing.merge(self._episode_timing)

    def abandon(self, reason: str) -> None:
        """Close the open episode, if any, with `reason` as its termination."""
        self._end(success=False, termination=reason)
