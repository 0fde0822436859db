"""`fly`'s loop against virtual autopilots on a clock of its own: engaging, flying, killing, losing and handing back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.flight_support import make_bundle, settings
from tests.unit.test_teensy import blind_contract
from tests.virtual_support import Flight, S, virtual_flight

from sim2sky.agent.bundle import Bundle
from sim2sky.environments.airframes import airframe
from sim2sky.environments.jsbsim_plant import Air, InitialState, JsbsimPlant, PlantParameters
from sim2sky.errors import LinkError
from sim2sky.runtime import messages
from sim2sky.runtime.assembly import make_monitor
from sim2sky.runtime.autopilots import ARDUPILOT, PX4, AutopilotKind
from sim2sky.runtime.clock import ManualClock
from sim2sky.runtime.flight_agent import FlightAgent
from sim2sky.runtime.flight_loop import FlightLoop, FlightSummary
from sim2sky.runtime.fly import exit_code
from sim2sky.runtime.fly_options import parse_engage
from sim2sky.runtime.frames import HOME
from sim2sky.runtime.inference import load_backend
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.link import mavlink
from sim2sky.runtime.recorder import Recorder
from sim2sky.runtime.safety import Mode
from sim2sky.runtime.state import CHANNELS, Command, PolicyState, Sample
from sim2sky.runtime.teensy import FrameReader, TeensyState, TeensyVehicle, command_frame, decode_command, state_frame
from sim2sky.telemetry.flight_log import LogMetadata, read_flight_log

LIMITS = SafetyLimits(max_range_m=3000.0)
KINDS = pytest.mark.parametrize("kind", [ARDUPILOT, PX4], ids=lambda k: k.name)
NEUTRAL = Command(0.0, 0.0, 0.0, 0.0)
KILL_ON, SWITCH_ON, OFF = 1900, 1900, 1100


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "hand", settings(), limits=LIMITS)


class Watched:
    """A policy that can be declared dead."""

    def __init__(self, bundle: Bundle) -> None:
        self._inner = load_backend(bundle)
        self.state = PolicyState.ANSWERED

    def __call__(self, observation: Any) -> Any:
        return self._inner(observation)

    def reset(self) -> None:
        self._inner.reset()


@dataclass
class Run:
    flight: Flight
    loop: FlightLoop
    agent: FlightAgent
    policy: Watched
    said: list[str] = field(default_factory=list)

    def fly(self, seconds: float) -> FlightSummary:
        return self.loop.run(seconds)


def prepare(flight: Flight, bundle: Bundle, engage: str = "now", *, log: Path | None = None, **options: Any) -> Run:
    flight.vehicle.connect(10.0)
    policy = Watched(bundle)
    agent = FlightAgent(bundle.contract, policy, make_monitor(bundle.safety(), bundle.contract))
    recorder = Recorder(log, LogMetadata("virtual"), bundle.contract)
    said: list[str] = []
    loop = FlightLoop(
        agent, policy, flight.vehicle, recorder, flight.clock, engage=parse_engage(engage), say=said.append, **options
    )
    run = Run(flight, loop, agent, policy, said)
    run.recorder = recorder  # type: ignore[attr-defined]
    return run


@pytest.fixture
def flight() -> Iterator[Flight]:
    with virtual_flight() as flight:
        yield flight


# Flying --------------------------------------------------------------------------------------------------------------


@KINDS
def test_an_agent_tracks_its_setpoint_in_wind_and_noise(kind: AutopilotKind, bundle: Bundle) -> None:
    with virtual_flight(kind, air=Air(wind_north_mps=2.0, wind_east_mps=-2.0), noise=1.0) as flight:
        start = flight.autopilot.truth()
        wanted = {"altitude_m": start.altitude_m + 15.0, "airspeed_mps": 19.0, "heading_rad": 1.0}
        run = prepare(flight, bundle, setpoint=wanted)
        errors: list[tuple[float, float, float]] = []

        def measure() -> None:
            s = flight.autopilot.truth()
            heading = math.remainder(wanted["heading_rad"] - s.yaw_rad, math.tau)
            errors.append((wanted["altitude_m"] - s.altitude_m, 19.0 - s.airspeed_mps, heading))

        for k in range(50):
            flight.later(25.0 + k * 0.1, measure)
        summary = run.fly(30.0)
        rmse = np.sqrt(np.mean(np.square(errors), axis=0))
        assert len(errors) == 50 and rmse[0] < 5.0 and rmse[1] < 2.0 and rmse[2] < math.radians(10.0), rmse
        assert summary.ended == ["the time is up"] and summary.engagements == 1
        assert abs(summary.ticks - 600) <= 6 and summary.policy_ticks == summary.ticks
        assert flight.autopilot.mode == "LOITER" and exit_code(_options("now"), summary) == 0
        assert summary.timing["ticks"] == summary.ticks and abs(summary.timing["bias"]) < 0.02


def _options(engage: str) -> Any:
    class Options:
        pass

    options = Options()
    options.engage = parse_engage(engage)  # type: ignore[attr-defined]
    return options


def test_ticks_lost_in_a_stall_are_not_made_up_for(flight: Flight, bundle: Bundle) -> None:
    run = prepare(flight, bundle)
    flight.later(5.0, lambda: setattr(flight.clock, "time_ns", flight.clock.time_ns + S // 5 + S // 100))
    summary = run.fly(10.0)
    assert summary.timing["jitter_max_us"] == pytest.approx(200_000, rel=0.1)
    # Four periods went by; the ticks before and after keep their grid, and none follows closer than a period.
    assert 194 <= summary.ticks <= 198 and summary.timing["misses"] == 1


def test_fields_of_the_setpoint_that_are_not_given_are_as_flown(flight: Flight, bundle: Bundle) -> None:
    run = prepare(flight, bundle, setpoint={"heading_rad": 0.5})
    flight.pump(1.0)
    before = flight.autopilot.truth()
    run.fly(0.5)
    setpoint = run.loop._setpoint
    assert setpoint.heading_rad == 0.5 and setpoint.altitude_m == pytest.approx(before.altitude_m, abs=1.0)
    assert setpoint.airspeed_mps == pytest.approx(before.airspeed_mps, abs=1.0)


def test_a_ground_station_changes_the_setpoint_in_flight(flight: Flight, bundle: Bundle) -> None:
    run = prepare(flight, bundle, setpoint={"heading_rad": 0.0})
    flight.later(5.0, lambda: flight.command(mavlink.MAV_CMD_GUIDED_CHANGE_HEADING, mavlink.HEADING_TYPE_HEADING, 90.0))
    run.fly(25.0)
    assert abs(math.remainder(flight.autopilot.truth().yaw_rad - math.pi / 2, math.tau)) < 0.6  # it loiters by now
    assert run.loop._setpoint.heading_rad == pytest.approx(math.pi / 2)


def test_each_engagement_is_an_episode_of_the_log(flight: Flight, bundle: Bundle, tmp_path: Path) -> None:
    run = prepare(flight, bundle, "mavlink", log=tmp_path / "f.h5")
    on, off = (mavlink.MAV_CMD_NAV_GUIDED_ENABLE, 1.0), (mavlink.MAV_CMD_NAV_GUIDED_ENABLE, 0.0)
    for seconds, command in ((0.5, on), (2.5, off), (4.0, on), (6.0, off)):
        flight.later(seconds, lambda command=command: flight.command(*command))
    summary = run.fly(8.0)
    run.recorder.close()  # type: ignore[attr-defined]
    assert summary.engagements == 2 and summary.ended == ["disengaged by a ground station"] * 2
    assert run.recorder.problem == ""  # type: ignore[attr-defined]
    with read_flight_log(tmp_path / "f.h5") as log:
        assert log.metadata.source == "virtual" and len(log.episodes) == 2
        for episode in log.episodes:
            assert episode.success and episode.termination == "disengaged by a ground station"
            assert 35 <= len(episode) <= 50 and (episode["guard"][:, 0] == Mode.POLICY).all()
            timing = episode["timing"]
            assert (timing[:, 0] <= timing[:, 1]).all() and (timing[:, 1] <= timing[:, 2]).all()


# Engaging ------------------------------------------------------------------------------------------------------------


def test_the_pilots_switch_engages_and_disengages(flight: Flight, bundle: Bundle) -> None:
    run = prepare(flight, bundle, "rc:7")
    modes: list[str] = []

    def switch(width: int) -> None:
        flight.autopilot.receiver_us[6] = width

    flight.later(1.0, lambda: switch(SWITCH_ON))
    flight.later(4.0, lambda: modes.append(flight.autopilot.mode))
    flight.later(4.1, lambda: switch(OFF))
    flight.later(5.0, lambda: modes.append(flight.autopilot.mode))
    summary = run.fly(6.0)
    assert modes == ["MANUAL", "LOITER"] and summary.ended == ["disengaged by the pilot's switch"]
    assert "sim2sky: engaged" in flight.texts()


def test_a_switch_that_was_left_on_does_not_engage(flight: Flight, bundle: Bundle) -> None:
    flight.autopilot.receiver_us[6] = SWITCH_ON
    run = prepare(flight, bundle, "rc:7")
    assert run.fly(2.0).engagements == 0

    def switch(width: int) -> None:
        flight.autopilot.receiver_us[6] = width

    flight.later(0.5, lambda: switch(OFF))
    flight.later(1.5, lambda: switch(SWITCH_ON))
    assert run.fly(3.0).engagements == 1


def test_a_silent_receiver_hands_back(flight: Flight, bundle: Bundle) -> None:
    run = prepare(flight, bundle, "rc:7")
    flight.later(1.0, lambda: flight.autopilot.receiver_us.__setitem__(6, SWITCH_ON))
    flight.later(3.0, lambda: flight.autopilot._intervals.__setitem__(mavlink.MAVLINK_MSG_ID_RC_CHANNELS, 10**15))
    flight.later(3.0, lambda: flight.autopilot._next.__setitem__(mavlink.MAVLINK_MSG_ID_RC_CHANNELS, 10**15))
    summary = run.fly(6.0)
    assert summary.ended == ["the receiver is silent"] and flight.autopilot.mode == "LOITER"


def test_only_the_way_that_was_chosen_engages(flight: Flight, bundle: Bundle) -> None:
    run = prepare(flight, bundle, "rc:7")
    flight.later(0.5, lambda: flight.command(mavlink.MAV_CMD_NAV_GUIDED_ENABLE, 1.0))
    assert run.fly(2.0).engagements == 0
    (ack,) = flight.heard(mavlink.MAVLINK_MSG_ID_COMMAND_ACK)
    assert ack.result == mavlink.MAV_RESULT_DENIED


@pytest.mark.parametrize("why", ["stale", "killed", "dead"])
def test_what_speaks_against_engaging_is_said_and_nothing_is_sent(flight: Flight, bundle: Bundle, why: str) -> None:
    run = prepare(flight, bundle)
    if why == "stale":
        flight.autopilot.answering = False
        flight.pump(1.0)
    elif why == "killed":
        run.agent.monitor.kill()
    else:
        run.policy.state = PolicyState.DEAD
    summary = run.fly(3.0)
    words = {"stale": "ms old", "killed": "kill switch is latched", "dead": "the policy is dead"}[why]
    assert summary.engagements == 0 and any(words in reason for reason in summary.refused), summary.refused
    assert any(text.startswith("not engaged:") and words in text for text in run.said)
    assert flight.autopilot._sticks is None and flight.autopilot.mode == "LOITER"
    assert exit_code(_options("now"), summary) == 1


def test_a_refused_request_is_not_remembered(flight: Flight, bundle: Bundle) -> None:
    """The pilot shall not be engaged by surprise when the reason has gone."""
    run = prepare(flight, bundle, "mavlink")
    run.agent.monitor.kill()
    flight.later(0.5, lambda: flight.command(mavlink.MAV_CMD_NAV_GUIDED_ENABLE, 1.0))
    flight.later(1.5, run.agent.monitor.disarm)
    flight.later(1.5, run.agent.monitor.arm)
    assert run.fly(3.0).engagements == 0


# Kill ----------------------------------------------------------------------------------------------------------------


def test_the_kill_switch_stops_the_motor_and_latches(flight: Flight, bundle: Bundle) -> None:
    run = prepare(flight, bundle, kill_channel=8)
    commands: list[Command] = []
    flight.later(3.0, lambda: flight.autopilot.receiver_us.__setitem__(7, KILL_ON))
    flight.later(3.5, lambda: flight.autopilot.receiver_us.__setitem__(7, OFF))  # letting go of it changes nothing
    for k in range(20):
        flight.later(3.6 + 0.1 * k, lambda: commands.append(flight.autopilot.command))
    summary = run.fly(5.5)
    assert all(c == pytest.approx(NEUTRAL, abs=2e-3) for c in commands) and len(commands) >= 15
    assert summary.guard_ticks["KILLED"] > 0 and run.agent.monitor.killed
    assert any(text.startswith("killed") for text in run.said)
    # Handing back to LOITER would start the motor again.
    assert flight.autopilot.mode == "MANUAL" and summary.ended == ["the time is up; killed: the sticks are the pilot's"]


def test_a_kill_switch_that_is_on_from_the_start_does_not_kill_but_its_next_edge_does(
    flight: Flight, bundle: Bundle
) -> None:
    flight.autopilot.receiver_us[7] = KILL_ON
    run = prepare(flight, bundle, kill_channel=8)
    run.fly(1.0)
    assert not run.agent.monitor.killed


def test_the_kill_switch_acts_within_a_quarter_of_a_second(flight: Flight, bundle: Bundle) -> None:
    run = prepare(flight, bundle, kill_channel=8)
    seen: list[Command] = []
    flight.later(3.0, lambda: flight.autopilot.receiver_us.__setitem__(7, KILL_ON))
    flight.later(3.4, lambda: seen.append(flight.autopilot.command))
    run.fly(4.0)
    assert seen[0] == pytest.approx(NEUTRAL, abs=2e-3)


@pytest.mark.parametrize("by", ["command", "autopilot"])
def test_only_disarm_and_arm_clear_a_kill_and_flying_on_takes_a_new_request(
    flight: Flight, bundle: Bundle, by: str
) -> None:
    run = prepare(flight, bundle, "mavlink")
    engage = (mavlink.MAV_CMD_NAV_GUIDED_ENABLE, 1.0)
    flight.later(0.5, lambda: flight.command(*engage))
    flight.later(2.0, lambda: flight.command(mavlink.MAV_CMD_DO_FLIGHTTERMINATION, 1.0))
    flight.later(2.5, lambda: flight.command(mavlink.MAV_CMD_COMPONENT_ARM_DISARM, 1.0))  # arming alone: refused
    killed: list[bool] = []
    flight.later(2.8, lambda: killed.append(run.agent.monitor.killed))
    for seconds, armed in ((3.0, False), (3.8, True)):
        if by == "command":
            flight.later(
                seconds, lambda armed=armed: flight.command(mavlink.MAV_CMD_COMPONENT_ARM_DISARM, float(armed))
            )
        else:
            flight.later(seconds, lambda armed=armed: setattr(flight.autopilot, "armed", armed))
    flight.later(4.5, lambda: killed.append(run.agent.monitor.killed))
    engaged: list[bool] = []
    flight.later(4.6, lambda: engaged.append(run.loop._engaged))
    flight.later(3.1, lambda: flight.autopilot.set_mode("LOITER"))  # the pilot catches the falling aircraft
    flight.later(9.0, lambda: flight.command(*engage))
    flight.later(10.0, lambda: engaged.append(run.loop._engaged))
    summary = run.fly(11.0)
    assert killed == [True, False] and engaged == [False, True]
    assert summary.ended[0] == "disarmed" and summary.engagements == 2
    results = [a.result for a in flight.heard(mavlink.MAVLINK_MSG_ID_COMMAND_ACK)]
    assert results[2] == mavlink.MAV_RESULT_DENIED


# Loss ----------------------------------------------------------------------------------------------------------------


def test_the_pilots_mode_switch_ends_it_and_nothing_engages_again(flight: Flight, bundle: Bundle) -> None:
    run = prepare(flight, bundle)
    flight.later(4.0, lambda: flight.autopilot.set_mode("FBWA"))
    summary = run.fly(30.0)
    assert summary.ended == ["the pilot or a failsafe chose FBWA"] and summary.engagements == 1
    assert flight.autopilot.mode == "FBWA" and exit_code(_options("now"), summary) == 1
    assert flight.clock.time_ns < 120 * S  # it did not wait for the time to be up


def test_a_silent_link_is_the_guards_and_when_it_is_back_the_policy_flies_on(flight: Flight, bundle: Bundle) -> None:
    run = prepare(flight, bundle)
    flight.later(4.0, lambda: setattr(flight.autopilot, "answering", False))
    flight.later(4.45, lambda: setattr(flight.autopilot, "answering", True))
    summary = run.fly(10.0)
    assert summary.ended == ["the time is up"] and summary.ticks > summary.policy_ticks > 0
    assert any(text.startswith("guard: ") and "STALE_DATA" in text for text in run.said)
    assert "guard: POLICY" in run.said


def test_a_long_silence_is_told_and_is_no_end(flight: Flight, bundle: Bundle) -> None:
    run = prepare(flight, bundle)
    flight.later(4.0, lambda: setattr(flight.autopilot, "answering", False))
    flight.later(7.0, lambda: setattr(flight.autopilot, "answering", True))
    run.fly(12.0)
    assert "nothing is heard from the aircraft" in run.said and "the aircraft is heard again" in run.said


def test_a_restarted_autopilot_ends_it(flight: Flight, bundle: Bundle) -> None:
    run = prepare(flight, bundle)
    flight.later(6.0, flight.autopilot.restart)
    summary = run.fly(30.0)
    assert summary.ended == ["the autopilot was restarted: its clock went back"]


def test_a_policy_that_dies_is_replaced_by_the_fallback_law(flight: Flight, bundle: Bundle) -> None:
    run = prepare(flight, bundle)
    flight.later(4.0, lambda: setattr(run.policy, "state", PolicyState.DEAD))
    before = flight.autopilot.truth().altitude_m
    summary = run.fly(12.0)
    assert summary.ended == ["the time is up"] and summary.policy_ticks < 90 < summary.ticks
    assert abs(flight.autopilot.truth().altitude_m - before) < 20.0


def test_a_broken_link_ends_the_episode_and_is_said(flight: Flight, bundle: Bundle, tmp_path: Path) -> None:
    run = prepare(flight, bundle)

    def cut() -> None:
        raise LinkError("the connection broke")

    flight.later(3.0, cut)
    with pytest.raises(LinkError):
        run.fly(10.0)
    run.loop.abandon("the link broke")
    assert run.loop.summary.ended == ["the link broke"]


# The other paths -----------------------------------------------------------------------------------------------------

ULTRA = airframe("ultrastick25e")
MOVES = {"aileron": "p_radps", "elevator": "q_radps", "rudder": "r_radps", "throttle": "airspeed_mps"}


def plant() -> JsbsimPlant:
    p = JsbsimPlant(ULTRA, 120.0)
    alpha = ULTRA.trim_alpha_rad
    p.reset(InitialState(150.0, 18.0, pitch_rad=alpha, alpha_rad=alpha), PlantParameters(), Air(), ULTRA.trim, 0)
    return p


def through_hil(command: Command) -> Command:
    message = messages.actuator_controls(command, 1, 0, lockstep=True)
    mav = mavlink.MAVLink(None, 1, 191)
    return messages.command_from(mav.decode(bytearray(message.pack(mav))))


def through_teensy(command: Command) -> Command:
    got = decode_command(FrameReader().feed(command_frame(command))[0])
    assert got is not None
    return got


@pytest.mark.parametrize("path", [through_hil, through_teensy])
@pytest.mark.parametrize("channel", CHANNELS)
def test_a_positive_command_moves_the_aircraft_as_the_contract_says(path: Any, channel: str) -> None:
    """HIL and Teensy; RC override and manual control are in test_mavlink_vehicle.py."""
    ends: list[float] = []
    for sign in (1.0, -1.0):
        p = plant()
        value = getattr(ULTRA.trim, channel) + sign * 0.3
        p.command(path(ULTRA.trim._replace(**{channel: value})))
        p.run(72)
        ends.append(getattr(p.sample(0), MOVES[channel]))
    assert ends[0] - ends[1] > 0.3


class TeensyAircraft:
    """A channel with an aircraft at its other end."""

    whole, foreign, dropped = False, 0, 0

    def __init__(self, clock: ManualClock) -> None:
        self.clock, self.plant, self.reader = clock, plant(), FrameReader()
        self.command = ULTRA.trim
        self._flown_ns = self._sent_ns = clock.time_ns

    def send(self, data: bytes) -> bool:
        for payload in self.reader.feed(data):
            command = decode_command(payload)
            assert command is not None
            self.command = command
        return True

    def receive(self, timeout_s: float) -> bytes:
        self.clock.time_ns += min(int(timeout_s * S), 5_000_000)
        self.plant.command(self.command)
        while self._flown_ns + S // 120 <= self.clock.time_ns:
            self.plant.run(1)
            self._flown_ns += S // 120
        if self.clock.time_ns - self._sent_ns < S // 50:
            return b""
        self._sent_ns = self.clock.time_ns
        return state_frame(self._state(self.plant.sample(0)))

    def _state(self, s: Sample) -> TeensyState:
        latitude, longitude = HOME.to_degrees_e7(s.north_m, s.east_m)
        return TeensyState(
            self.clock.time_ns / S, s.roll_rad, s.pitch_rad, s.yaw_rad, s.p_radps, s.q_radps, s.r_radps, 0.0, 0.0,
            -9.8, latitude * 1e-7, longitude * 1e-7, s.altitude_m,
        )  # fmt: skip

    def accept(self) -> None: ...

    def close(self) -> None: ...


def test_an_agent_without_airspeed_flies_behind_a_teensy() -> None:
    contract = blind_contract()

    class Rates:
        """Damps body rates: three lines are enough to see that states arrive and commands act."""

        state = PolicyState.ANSWERED

        def __call__(self, observation: Any) -> Any:
            p, q, r = (float(v) for v in observation[:3])
            return np.array([0.4 * p, 0.4 * q, 0.2 * r, 0.0], np.float32)

        def reset(self) -> None: ...

    clock = ManualClock(50 * S)
    aircraft = TeensyAircraft(clock)
    vehicle = TeensyVehicle(aircraft, clock, contract, airspeed_mps=18.0)
    vehicle.connect(5.0)
    wide = {**SafetyLimits(altitude_min=-1000.0, max_range_m=5000.0).to_json(), "fallback": ULTRA.gains.to_json()}
    agent = FlightAgent(contract, Rates(), make_monitor(wide, contract))
    recorder = Recorder(None, LogMetadata("virtual"), contract)
    said: list[str] = []
    loop = FlightLoop(
        agent, Rates(), vehicle, recorder, clock, engage=parse_engage("now"), setpoint={"p_radps": 0.2},
        say=said.append,
    )  # fmt: skip
    summary = loop.run(2.5)
    assert summary.ended == ["the time is up"] and summary.policy_ticks == summary.ticks >= 48, (summary, said)
    assert 0.15 < aircraft.plant.sample(0).roll_rad < 0.8  # 0.2 rad/s for 2.5 s, less the damping
