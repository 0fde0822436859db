"""The loop around the agent on a link and a clock held in the hand."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.flight_support import NAN, sample
from tests.flight_support import settings as env_settings

from sim2sky.environments.airframes import airframe
from sim2sky.environments.tasks import make_contract
from sim2sky.errors import LinkError
from sim2sky.runtime import messages
from sim2sky.runtime.autopilot import Autopilot
from sim2sky.runtime.clock import ManualClock
from sim2sky.runtime.flight_agent import FlightAgent
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.link import mavlink
from sim2sky.runtime.loop import AgentLoop
from sim2sky.runtime.recorder import Recorder
from sim2sky.runtime.safety import Mode, SafetyMonitor
from sim2sky.runtime.state import PolicyState, Setpoint
from sim2sky.telemetry.flight_log import LogMetadata, read_flight_log

CONTRACT = make_contract(env_settings())
MS = 1_000_000
START = messages.episode_start(0, 5, 20.0)
SHUTDOWN = messages.command_long(mavlink.MAV_CMD_PREFLIGHT_REBOOT_SHUTDOWN, 0.0, 2.0)
_MAV = mavlink.MAVLink(None, 1, 1)


class Zero:
    """The trim policy."""

    state = PolicyState.ANSWERED

    def __call__(self, observation: Any) -> NDArray[np.float32]:
        return np.zeros(4, np.float32)

    def reset(self) -> None:
        pass


class Script:
    """A link that delivers batches of messages at given times and keeps what is sent."""

    def __init__(self, clock: ManualClock, batches: list[tuple[int, list[Any]]]) -> None:
        self._clock = clock
        self._batches = deque(batches)
        self.sent: list[Any] = []

    def send(self, *out: Any) -> None:
        self.sent += [_MAV.decode(bytearray(m.pack(_MAV))) for m in out]

    def receive(self, timeout_s: float) -> list[Any]:
        end = self._clock.time_ns + max(int(timeout_s * 1e9), 1)
        if self._batches and self._batches[0][0] <= end:
            at, batch = self._batches.popleft()
            self._clock.sleep_until(at)
            return [_MAV.decode(bytearray(m.pack(_MAV))) for m in batch]
        self._clock.time_ns = end
        return []

    def close(self) -> None:
        pass

    def of(self, name: str) -> list[Any]:
        return [m for m in self.sent if m.get_type() == name]


def state(tick: int, **changes: float) -> Any:
    return messages.hil_state(sample(**changes), 50_000 * (tick + 1))


def run(
    *batches: list[Any],
    realtime: bool = False,
    times_ms: list[int] | None = None,
    policy: Any = None,
    clock: ManualClock | None = None,
    **loop: Any,
) -> Script:
    clock = clock or ManualClock()
    times = times_ms or [10 * (i + 1) for i in range(len(batches))]
    link = Script(clock, [(t * MS, b) for t, b in zip(times, batches, strict=True)])
    law = Autopilot(airframe("ultrastick25e").gains, 0.05)
    agent = FlightAgent(CONTRACT, policy or Zero(), SafetyMonitor.for_contract(SafetyLimits(), law, CONTRACT))
    recorder = Recorder(None, LogMetadata("hil"), CONTRACT)
    AgentLoop(agent, link, recorder, clock, realtime=realtime, **loop).run()
    return link


def acks(link: Script) -> list[tuple[int, int]]:
    """Final acknowledgements."""
    at_work = mavlink.MAV_RESULT_IN_PROGRESS
    return [(m.command, m.result) for m in link.of("COMMAND_ACK") if m.result != at_work]


def test_one_state_one_command_and_a_repeated_state_the_same_command() -> None:
    link = run([START], [state(0)], [state(0), state(0)], [state(1)], [state(0)], [SHUTDOWN])
    replies = link.of("HIL_ACTUATOR_CONTROLS")
    assert [m.time_usec for m in replies] == [50_000, 50_000, 50_000, 100_000]  # the late one is old: no answer
    assert len({tuple(m.controls) for m in replies[:3]}) == 1 and replies[0].flags == 1
    assert messages.mode_from(replies[0]) is Mode.POLICY


def test_states_outside_an_episode_are_not_answered() -> None:
    end = messages.episode_end(0, success=True, termination="completed")
    assert not run([state(0)], [SHUTDOWN]).of("HIL_ACTUATOR_CONTROLS")
    link = run([START], [state(0)], end, [state(1)], [SHUTDOWN])
    assert len(link.of("HIL_ACTUATOR_CONTROLS")) == 1


def test_a_repeated_episode_request_does_not_reset_twice() -> None:
    link = run([START], [state(0, roll_rad=0.3)], [START], [state(0)], [state(1)], [SHUTDOWN])
    assert [m.time_usec for m in link.of("HIL_ACTUATOR_CONTROLS")] == [50_000, 50_000, 100_000]
    assert acks(link)[:2] == [(messages.EPISODE_START, 0)] * 2


def test_an_episode_at_another_rate_is_denied() -> None:
    link = run([messages.episode_start(0, 5, 50.0)], [state(0)], [SHUTDOWN])
    assert acks(link)[0] == (messages.EPISODE_START, mavlink.MAV_RESULT_DENIED)
    assert not link.of("HIL_ACTUATOR_CONTROLS")


def test_setpoints_are_receipted_in_the_same_piece_as_the_command() -> None:
    setpoint = Setpoint(160.0, 19.0, 0.5, 0.1, 0.05, 0.2, 0.3, 0.4)
    out = messages.setpoint_messages(setpoint, 9)
    link = run([START], [*out.values(), state(0)], [SHUTDOWN])
    receipts = {messages.receipt_of(m) for m in link.sent}
    assert set(out) <= receipts and link.of("ATTITUDE_TARGET")[0].time_boot_ms == 9


def test_kill_over_the_link_latches_until_disarm_and_arm() -> None:
    kill = messages.command_long(mavlink.MAV_CMD_DO_FLIGHTTERMINATION, 1.0)
    arm, disarm = (messages.command_long(mavlink.MAV_CMD_COMPONENT_ARM_DISARM, v) for v in (1.0, 0.0))
    link = run([START], [state(0)], [kill], [state(1)], [arm], [state(2)], [disarm], [arm], [state(3)], [SHUTDOWN])
    modes = [messages.mode_from(m) for m in link.of("HIL_ACTUATOR_CONTROLS")]
    assert modes == [Mode.POLICY, Mode.KILLED, Mode.KILLED, Mode.HOLD]
    assert link.of("HIL_ACTUATOR_CONTROLS")[1].controls[:4] == [0.0] * 4
    accepted, denied = mavlink.MAV_RESULT_ACCEPTED, mavlink.MAV_RESULT_DENIED
    assert [result for _, result in acks(link)] == [accepted, accepted, denied, accepted, accepted, accepted]


@pytest.mark.parametrize("command", [messages.EPISODE_START, messages.EPISODE_END, messages.SPEED, 400, 185, 246, 7])
def test_commands_with_nan_are_refused_not_crashed_on(command: int) -> None:
    link = run([messages.command_long(command, NAN, math.inf, NAN, NAN, NAN, NAN, NAN)], [SHUTDOWN])
    assert acks(link)[0][0] == command and acks(link)[0][1] != mavlink.MAV_RESULT_ACCEPTED


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 65535), st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=7, max_size=7)
)
def test_no_command_crashes_the_loop(command: int, parameters: list[float]) -> None:
    link = run([START], [messages.command_long(command, *parameters)], [state(0)], [SHUTDOWN])
    assert link.of("COMMAND_ACK")


def test_the_agent_says_what_it_flies_and_answers_clock_questions() -> None:
    ask = messages.command_long(mavlink.MAV_CMD_REQUEST_MESSAGE, float(mavlink.MAVLINK_MSG_ID_AUTOPILOT_VERSION))
    link = run([ask], [mavlink.MAVLink_timesync_message(0, 77)], [SHUTDOWN], digest="ab" * 32)
    assert messages.versions_from(link.of("AUTOPILOT_VERSION")[0]) == ("ab" * 8, CONTRACT.hash[:16])
    assert link.of("TIMESYNC")[0].ts1 == 77 and link.of("TIMESYNC")[0].tc1 == 20 * MS
    assert link.of("HEARTBEAT")[0].type == mavlink.MAV_TYPE_ONBOARD_CONTROLLER


def test_silence_before_and_after_the_first_word_is_an_error() -> None:
    with pytest.raises(LinkError, match="never spoke"):
        run(connect_timeout_s=1.0)
    with pytest.raises(LinkError, match="fell silent for 2 s after 1 ticks"):
        run([START], [state(0)], peer_timeout_s=2.0)


def test_in_real_time_the_agent_ticks_on_when_states_stop_and_the_fallback_law_takes_over() -> None:
    beats = [[mavlink.MAVLink_heartbeat_message(1, 0, 0, 0, 4, 3)]] * 5
    times = [10, 50, 100, *range(200, 1200, 200), 1200]
    link = run([START], [state(0)], [state(1)], *beats, [SHUTDOWN], realtime=True, times_ms=times)
    replies = link.of("HIL_ACTUATOR_CONTROLS")
    modes = [messages.mode_from(m) for m in replies]
    # 1.1 s without a state at one tick per 75 ms; data older than 200 ms is stale.
    assert 12 <= len(replies) <= 17 and modes[:3] == [Mode.POLICY] * 3 and set(modes[5:]) == {Mode.HOLD}
    assert replies[-1].controls[:4] == pytest.approx([s.command_neutral for s in CONTRACT.output.signals], abs=1e-6)
    assert replies[0].flags == 0


def test_in_real_time_the_clocks_are_compared_by_timesync() -> None:
    """The plant's clock is 5 s ahead; a state that took 300 ms to arrive is stale although it has just come."""
    ahead = 5_000 * MS
    fresh = messages.hil_state(sample(), (ahead + 50 * MS) // 1000)
    late = messages.hil_state(sample(), (ahead + 60 * MS) // 1000)
    answer = mavlink.MAVLink_timesync_message(ahead + 20 * MS, 20 * MS)
    link = run([START], [answer], [fresh], [late], [SHUTDOWN], realtime=True, times_ms=[10, 20, 50, 360, 370])
    modes = [messages.mode_from(m) for m in link.of("HIL_ACTUATOR_CONTROLS")]
    assert modes[0] is Mode.POLICY and modes[-1] is Mode.HOLD


class Slow(Zero):
    """A policy that needs time to come back at a new episode, or does not."""

    def __init__(self, clock: ManualClock, seconds: float, *, comes_back: bool = True) -> None:
        self._clock, self._seconds, self._comes_back = clock, seconds, comes_back
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1
        if self.resets > 1:  # the first is the agent's own, when it is made
            self._clock.time_ns += int(self._seconds * 1e9)
            self.state = PolicyState.ANSWERED if self._comes_back else PolicyState.DEAD


def results(link: Script) -> list[int]:
    return [m.result for m in link.of("COMMAND_ACK") if m.command == messages.EPISODE_START]


def test_a_policy_that_takes_long_to_start_is_announced_and_is_not_the_plants_silence() -> None:
    clock = ManualClock()
    policy = Slow(clock, 20.0)
    times = [10, 20_020, 20_030]
    link = run([START], [state(0)], [SHUTDOWN], clock=clock, policy=policy, peer_timeout_s=5.0, times_ms=times)
    assert results(link) == [mavlink.MAV_RESULT_IN_PROGRESS, mavlink.MAV_RESULT_ACCEPTED]
    assert len(link.of("HIL_ACTUATOR_CONTROLS")) == 1


def test_an_episode_does_not_begin_without_a_policy() -> None:
    clock = ManualClock()
    policy = Slow(clock, 0.0, comes_back=False)
    link = run([START], [START], [state(0)], [SHUTDOWN], clock=clock, policy=policy)
    assert results(link) == [mavlink.MAV_RESULT_IN_PROGRESS, mavlink.MAV_RESULT_FAILED] * 2
    assert policy.resets == 3 and not link.of("HIL_ACTUATOR_CONTROLS")
    assert link.of("STATUSTEXT")[0].text == "the policy process does not run"


def test_timing_is_measured_in_real_time_and_kept_with_each_episode(tmp_path: Path) -> None:
    """Twenty states at 20 Hz, one of them 20 ms late; then silence, in which the agent ticks every 75 ms."""
    clock = ManualClock()
    times = [10, *(50 * k + (20 if k == 10 else 0) for k in range(1, 21)), 1300, 1310]
    end = messages.episode_end(0, success=True, termination="completed")
    link = Script(
        clock,
        [(t * MS, b) for t, b in zip(times, [[START], *([state(k)] for k in range(20)), end, [SHUTDOWN]], strict=True)],
    )
    law = Autopilot(airframe("ultrastick25e").gains, 0.05)
    agent = FlightAgent(CONTRACT, Zero(), SafetyMonitor.for_contract(SafetyLimits(), law, CONTRACT))
    path = tmp_path / "log.h5"
    recorder = Recorder(path, LogMetadata("hil"), CONTRACT)
    loop = AgentLoop(agent, link, recorder, clock, realtime=True)
    ticks = loop.run()
    recorder.close()
    summary = loop.timing.summary()
    assert summary.ticks == ticks > 22 and loop.late_ticks == ticks - 20
    assert summary.jitter_max_us == pytest.approx(25_000.0) and summary.jitter_p50_us == 0.0
    assert summary.tick_max_us == 0.0 and summary.misses == 0
    with read_flight_log(path) as log:
        attributes = log.episodes[0].attrs
        assert attributes["timing_ticks"] == ticks and attributes["timing_jitter_max_us"] == summary.jitter_max_us


def test_in_lockstep_no_timing_is_claimed() -> None:
    clock = ManualClock()
    link = Script(clock, [(10 * MS, [START]), (20 * MS, [state(0)]), (30 * MS, [SHUTDOWN])])
    law = Autopilot(airframe("ultrastick25e").gains, 0.05)
    agent = FlightAgent(CONTRACT, Zero(), SafetyMonitor.for_contract(SafetyLimits(), law, CONTRACT))
    loop = AgentLoop(agent, link, Recorder(None, LogMetadata("hil"), CONTRACT), clock)
    assert loop.run() == 1 and loop.timing.summary().ticks == 0


def told(tick: int) -> Any:
    """The plant says what time it is."""
    return mavlink.MAVLink_system_time_message(50_000 * (tick + 1), 0)


def test_told_the_time_the_agent_ticks_whether_or_not_a_state_came() -> None:
    """States of ticks 2 to 8 are lost: at the fifth, 250 ms, the data is stale."""
    batches = [[state(k), told(k)] if k < 2 or k > 8 else [told(k)] for k in range(11)]
    replies = run([START], *batches, [SHUTDOWN]).of("HIL_ACTUATOR_CONTROLS")
    assert list(dict.fromkeys(m.time_usec for m in replies)) == [50_000 * (k + 1) for k in range(11)]
    modes = {m.time_usec // 50_000 - 1: messages.mode_from(m) for m in replies}
    assert [modes[k] is Mode.POLICY for k in range(11)] == [k < 6 for k in range(11)]


def test_the_same_time_again_is_answered_without_another_tick() -> None:
    link = run([START], [state(0), told(0)], [told(0)], [state(1)], [told(1)], [told(0)], [SHUTDOWN])
    replies = link.of("HIL_ACTUATOR_CONTROLS")
    assert [m.time_usec for m in replies] == [50_000, 50_000, 50_000, 100_000]  # the late question is old
    assert len({tuple(m.controls) for m in replies[:3]}) == 1


def test_told_the_time_before_any_state_the_agent_holds_trim() -> None:
    (reply,) = run([START], [told(0)], [SHUTDOWN]).of("HIL_ACTUATOR_CONTROLS")
    assert reply.controls[:4] == pytest.approx([s.command_neutral for s in CONTRACT.output.signals], abs=1e-6)


def test_a_state_from_the_future_is_not_believed() -> None:
    """It would look fresh for as long as the plant's clock is ahead."""
    ahead = [[state(k + 40), told(k)] for k in range(1, 30)]
    replies = run([START], [state(0), told(0)], *ahead, [SHUTDOWN]).of("HIL_ACTUATOR_CONTROLS")
    assert [messages.mode_from(m) is Mode.POLICY for m in replies[2:]] == [k < 4 for k in range(29)]
    near = run([START], [state(0), told(0)], *[[state(k + 1), told(k)] for k in range(1, 30)], [SHUTDOWN])
    assert {messages.mode_from(m) for m in near.of("HIL_ACTUATOR_CONTROLS")} == {Mode.POLICY}


def test_in_real_time_and_outside_an_episode_the_plants_time_is_not_obeyed() -> None:
    assert not run([told(0)], [SHUTDOWN]).of("HIL_ACTUATOR_CONTROLS")
    assert not run([START], [told(0)], [SHUTDOWN], realtime=True).of("HIL_ACTUATOR_CONTROLS")
