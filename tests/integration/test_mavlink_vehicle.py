"""The MAVLink vehicle against virtual ArduPilot and PX4: identity, set-up, state, control, signs, signing, ground
stations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields

import pytest
from tests.virtual_support import Flight, S, virtual_flight

from sim2sky.errors import ConfigError, LinkError, NotSupportedError
from sim2sky.hil.virtual_autopilot import VirtualAutopilot
from sim2sky.runtime.autopilots import ARDUPILOT, PX4, AutopilotKind
from sim2sky.runtime.link import mavlink
from sim2sky.runtime.mavlink_vehicle import COMPONENT
from sim2sky.runtime.signing import Signer
from sim2sky.runtime.state import CHANNELS, Command, Sample
from sim2sky.runtime.vehicle import Control, Request, Status

KINDS = pytest.mark.parametrize("kind", [ARDUPILOT, PX4], ids=lambda k: k.name)
NEUTRAL = Command(0.0, 0.1657, 0.0, 0.622)


def take_control(flight: Flight, command: Command = NEUTRAL) -> None:
    flight.vehicle.take_over()

    def ours() -> bool:
        flight.vehicle.send(command)
        return flight.vehicle.reading.control is Control.OURS

    flight.pump_until(ours)


def hold(flight: Flight, command: Command, seconds: float) -> None:
    for _ in range(round(seconds * 20)):
        flight.vehicle.send(command)
        flight.pump(0.05)


# State ---------------------------------------------------------------------------------------------------------------


@KINDS
def test_it_finds_out_what_it_talks_to_and_reads_the_true_state(kind: AutopilotKind) -> None:
    with virtual_flight(kind) as flight:
        flight.vehicle.connect(10.0)
        assert flight.vehicle.kind is kind and flight.vehicle.virtual
        assert flight.vehicle.name == f"virtual {kind.name} (system 1)"
        flight.pump(1.0)
        got, truth = flight.vehicle.reading.sample, flight.autopilot.truth()
        assert got is not None and flight.vehicle.reading.mode == "LOITER"
        age = (flight.clock.time_ns - got.time_ns) / S
        assert 0.0 <= age < 0.08
        tolerance = {"yaw_rad": 0.05, "altitude_m": 0.3, "north_m": 2.0, "east_m": 2.0, "airspeed_mps": 0.3}
        for name in (f.name for f in fields(Sample) if f.name != "time_ns"):
            a, b = getattr(got, name), getattr(truth, name)
            difference = math.remainder(a - b, math.tau) if name == "yaw_rad" else a - b
            # The state is up to 80 ms old: so far the aircraft moved on.
            assert abs(difference) < tolerance.get(name, 0.6), name
        assert flight.vehicle.reading.battery_v == pytest.approx(12.1)
        assert flight.vehicle.reading.rc_us[:4] == (1500, 1500, 1100, 1500)


def test_state_is_as_old_as_its_oldest_part() -> None:
    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        flight.autopilot._intervals[mavlink.MAVLINK_MSG_ID_VFR_HUD] = 1000 * S  # the airspeed dries up
        flight.pump(0.2)
        before = flight.vehicle.reading.sample
        flight.pump(1.0)
        after = flight.vehicle.reading.sample
        assert before is not None and after is not None and after.time_ns == before.time_ns
        assert after.roll_rad != before.roll_rad  # the rest goes on


def test_px4_without_a_global_position_flies_on_the_local_one() -> None:
    with virtual_flight(PX4) as flight:
        flight.autopilot._command = _without(flight.autopilot, mavlink.MAVLINK_MSG_ID_GLOBAL_POSITION_INT)  # type: ignore[method-assign]
        flight.vehicle.connect(10.0)
        flight.pump(1.0)
        got, truth = flight.vehicle.reading.sample, flight.autopilot.truth()
        assert got is not None and got.north_m == pytest.approx(truth.north_m, abs=2.0)
        assert got.altitude_m == pytest.approx(truth.altitude_m, abs=0.3)


def _without(autopilot: VirtualAutopilot, number: int) -> Callable[[mavlink.MAVLink_message], int]:
    answer = autopilot._command

    def deny(m: mavlink.MAVLink_message) -> int:
        if m.command == mavlink.MAV_CMD_SET_MESSAGE_INTERVAL and int(m.param1) == number:
            return mavlink.MAV_RESULT_DENIED
        return answer(m)

    return deny


def test_ardupilots_local_frame_is_not_believed() -> None:
    """Its HOME_POSITION does not say where home is in it."""
    with virtual_flight() as flight:
        flight.autopilot._command = _without(flight.autopilot, mavlink.MAVLINK_MSG_ID_GLOBAL_POSITION_INT)  # type: ignore[method-assign]
        flight.autopilot._intervals[mavlink.MAVLINK_MSG_ID_LOCAL_POSITION_NED] = S // 20
        with pytest.raises(LinkError, match="does not send GLOBAL_POSITION_INT"):
            flight.vehicle.connect(6.0)


# Signs ---------------------------------------------------------------------------------------------------------------

MOVES = {
    "aileron": ("p_radps", 0.3),
    "elevator": ("q_radps", 0.3),
    "rudder": ("r_radps", 0.5),
    "throttle": ("airspeed_mps", 0.3),
}


def response(flight: Flight, command: Command) -> Sample:
    """The true state after half a second of a command from the same start."""
    flight.autopilot.set_mode("CIRCLE" if flight.autopilot.kind is ARDUPILOT else "POSCTL")  # holds the heading
    flight.pump(3.0)
    take_control(flight, NEUTRAL)
    hold(flight, command, 0.6)
    return flight.autopilot.truth()


def moved(
    kind: AutopilotKind, channel: str, before: Callable[[Flight], None], after: Callable[[Flight], None]
) -> float:
    """How much more the aircraft moves with a positive command than with a negative one."""
    state, size = MOVES[channel]
    ends: list[float] = []
    for sign in (1.0, -1.0):
        with virtual_flight(kind) as flight:
            before(flight)
            flight.vehicle.connect(10.0)
            after(flight)
            value = getattr(NEUTRAL, channel) + sign * size
            ends.append(getattr(response(flight, NEUTRAL._replace(**{channel: value})), state))
    return ends[0] - ends[1]


def nothing(flight: Flight) -> None:
    pass


def reverse_receiver(flight: Flight) -> None:
    flight.autopilot.parameters.update({f"RC{n}_REVERSED": 1.0 for n in range(1, 5)})


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize(
    ("kind", "before"),
    [(ARDUPILOT, nothing), (ARDUPILOT, reverse_receiver), (PX4, nothing)],
    ids=["ArduPilot, RC override", "ArduPilot, reversed receiver", "PX4, manual control"],
)
def test_a_positive_command_moves_the_aircraft_as_the_contract_says(
    kind: AutopilotKind, before: Callable[[Flight], None], channel: str
) -> None:
    assert moved(kind, channel, before, nothing) > 0.3


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_channel_that_is_reversed_behind_our_back_moves_it_the_other_way(channel: str) -> None:
    """Negative control of the test above."""
    assert moved(ARDUPILOT, channel, nothing, reverse_receiver) < -0.3


@KINDS
@pytest.mark.parametrize(
    "command", [Command(0.5, -0.25, 0.75, 0.33), Command(-1.0, 1.0, -1.0, 0.0), Command(1.0, -1.0, 1.0, 1.0)]
)
def test_the_autopilot_flies_the_command_within_the_wires_rounding(kind: AutopilotKind, command: Command) -> None:
    with virtual_flight(kind) as flight:
        flight.autopilot.parameters.update(
            {"RC1_MIN": 1000.0, "RC1_MAX": 2011.0, "RC2_TRIM": 1480.0, "RC3_MIN": 990.0, "RC4_REVERSED": 1.0}
        )
        flight.vehicle.connect(10.0)
        take_control(flight)
        hold(flight, command, 0.2)
        assert flight.autopilot.mode == "MANUAL"
        for sent, flown in zip(command, flight.autopilot.command, strict=True):
            assert flown == pytest.approx(sent, abs=1.0 / 600.0)


@pytest.mark.parametrize("channel", CHANNELS)
def test_ardupilots_manual_control_has_the_same_signs(channel: str) -> None:
    """A third path: MANUAL_CONTROL of the same command gives ArduPilot's sticks the same positions."""
    from sim2sky.runtime.actuation import ManualControl

    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        flight.autopilot.set_mode("MANUAL")
        command = Command(0.0, 0.0, 0.0, 0.5)._replace(**{channel: 0.8})
        flight.vehicle._link.send(ManualControl(1).message(command))
        flight.pump(0.1)
        assert flight.autopilot.command == pytest.approx(command, abs=0.005)


@KINDS
@pytest.mark.parametrize("medium", ["tcp", "serial"])
def test_streams_carry_it_all_as_well(kind: AutopilotKind, medium: str) -> None:
    with virtual_flight(kind, medium=medium, signers=(Signer(KEY), Signer(KEY))) as flight:
        flight.vehicle.connect(10.0)
        take_control(flight)
        hold(flight, NEUTRAL._replace(aileron=0.4), 0.3)
        assert flight.autopilot.command.aileron == pytest.approx(0.4, abs=0.005)
        flight.vehicle.hand_back()
        flight.pump_until(lambda: flight.vehicle.reading.control is Control.THEIRS)
        assert flight.autopilot.mode == "LOITER" and flight.vehicle._link.statistics.damaged == 0


def test_the_other_channels_stay_the_pilots() -> None:
    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        take_control(flight)
        hold(flight, NEUTRAL, 0.5)
        flight.autopilot.receiver_us[6] = 1900
        flight.pump(0.5)
        assert flight.vehicle.reading.rc_us[6] == 1900 and flight.vehicle.reading.rc_us[4:6] == (1100, 1100)


# Control -------------------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("back", ["LOITER", "RTL"])
def test_control_is_taken_by_manual_mode_and_handed_back(kind: AutopilotKind, back: str) -> None:
    with virtual_flight(kind, hand_back_to=back) as flight:
        vehicle = flight.vehicle
        vehicle.connect(10.0)
        assert vehicle.reading.control is Control.THEIRS
        vehicle.send(Command(1.0, 1.0, 1.0, 1.0))  # nothing leaves while control is theirs
        flight.pump(0.2)
        assert flight.autopilot._sticks is None and flight.autopilot._manual_control is None
        take_control(flight)
        assert flight.autopilot.mode == "MANUAL"
        hold(flight, NEUTRAL, 0.5)
        vehicle.hand_back()
        assert vehicle.reading.control is Control.RETURNING
        flight.pump_until(lambda: vehicle.reading.control is Control.THEIRS)
        assert flight.autopilot.mode == back and vehicle.reading.problem == ""
        flight.pump(0.5)
        if kind is ARDUPILOT:  # the sticks are the receiver's at once, not after RC_OVERRIDE_TIME
            assert flight.autopilot._sticks is not None and not any(flight.autopilot._sticks[1][:4])


@KINDS
def test_the_pilots_mode_switch_takes_control_within_half_a_second(kind: AutopilotKind) -> None:
    with virtual_flight(kind) as flight:
        vehicle = flight.vehicle
        vehicle.connect(10.0)
        take_control(flight)
        hold(flight, NEUTRAL, 2.0)
        flight.autopilot.set_mode("RTL")
        started = flight.clock.time_ns
        flight.pump_until(lambda: vehicle.reading.control is Control.THEIRS)
        assert flight.clock.time_ns - started <= S // 2
        assert flight.problems == ["the pilot or a failsafe chose RTL"]
        flight.pump(0.1)
        before = flight.autopilot._sticks or flight.autopilot._manual_control
        vehicle.send(Command(1.0, 1.0, 1.0, 1.0))
        flight.pump(0.5)
        after = flight.autopilot._sticks or flight.autopilot._manual_control
        assert after is not None and before is not None and after[1] == before[1]  # our command was not sent
        assert flight.autopilot.mode == "RTL"


def test_lost_requests_are_sent_again() -> None:
    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        flight.autopilot.answering = False
        flight.vehicle.take_over()
        flight.pump(0.4)
        flight.autopilot.answering = True
        flight.pump_until(lambda: flight.vehicle.reading.control is Control.OURS)


def test_an_autopilot_that_refuses_manual_mode_keeps_control() -> None:
    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        answer = flight.autopilot._command

        def refuse(m: mavlink.MAVLink_message) -> int:
            return mavlink.MAV_RESULT_DENIED if m.command == mavlink.MAV_CMD_DO_SET_MODE else answer(m)

        flight.autopilot._command = refuse  # type: ignore[method-assign]
        flight.vehicle.take_over()
        flight.pump_until(lambda: flight.vehicle.reading.control is Control.THEIRS)
        assert flight.problems == [f"the autopilot refused MANUAL mode (result {mavlink.MAV_RESULT_DENIED})"]


def test_an_autopilot_that_does_not_answer_keeps_control_and_its_sticks_are_let_go() -> None:
    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        handle = flight.autopilot._handle

        def deaf(m: mavlink.MAVLink_message, now: int) -> None:
            if m.get_msgId() != mavlink.MAVLINK_MSG_ID_COMMAND_LONG:
                handle(m, now)

        flight.autopilot._handle = deaf  # type: ignore[method-assign]
        flight.vehicle.take_over()
        hold(flight, NEUTRAL, 1.0)
        assert flight.autopilot._sticks is not None and all(flight.autopilot._sticks[1][:4])
        hold(flight, NEUTRAL, 2.0)
        assert flight.problems == ["the autopilot did not change to MANUAL mode"]
        assert flight.vehicle.reading.control is Control.THEIRS and not any(flight.autopilot._sticks[1][:4])


def test_an_autopilot_that_does_not_take_control_back_leaves_the_sticks_to_the_pilot() -> None:
    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        take_control(flight)
        answer = flight.autopilot._command

        def refuse(m: mavlink.MAVLink_message) -> int:
            return mavlink.MAV_RESULT_DENIED if m.command == mavlink.MAV_CMD_DO_SET_MODE else answer(m)

        flight.autopilot._command = refuse  # type: ignore[method-assign]
        flight.vehicle.hand_back()
        hold(flight, NEUTRAL, 2.0)
        assert flight.vehicle.reading.control is Control.RETURNING  # we command as long as it may still change
        hold(flight, NEUTRAL, 1.5)
        assert flight.vehicle.reading.control is Control.THEIRS and "the sticks are the pilot's" in flight.problems[0]
        assert flight.autopilot._sticks is not None and not any(flight.autopilot._sticks[1][:4])


def test_outputs_that_do_not_follow_end_our_control() -> None:
    """The safety switch is on, or the overrides are ignored somewhere on the way."""
    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        take_control(flight)
        flight.autopilot.moving = False
        for k in range(160):
            flight.vehicle.send(NEUTRAL._replace(aileron=0.3 * math.sin(k / 5)))
            flight.pump(0.05)
        assert flight.vehicle.reading.control is Control.THEIRS
        assert len(flight.problems) == 1 and "do not follow" in flight.problems[0]


def test_outputs_that_follow_are_left_alone() -> None:
    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        take_control(flight)
        for k in range(160):
            flight.vehicle.send(NEUTRAL._replace(aileron=0.3 * math.sin(k / 5)))
            flight.pump(0.05)
        assert flight.vehicle.reading.control is Control.OURS


def test_a_restarted_autopilot_has_control_and_is_asked_for_everything_again() -> None:
    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        flight.pump(5.0)
        take_control(flight)
        hold(flight, NEUTRAL, 1.5)
        flight.autopilot.restart()
        flight.autopilot._intervals[mavlink.MAVLINK_MSG_ID_ATTITUDE] = S // 4  # a default stream
        flight.pump_until(lambda: flight.vehicle.reading.control is Control.THEIRS)
        assert flight.problems == ["the autopilot was restarted: its clock went back"]
        flight.pump_until(lambda: flight.vehicle.reading.sample is not None)
        flight.pump(2.0)
        sample = flight.vehicle.reading.sample
        assert sample is not None and flight.clock.time_ns - sample.time_ns < 0.2 * S


# Set-up --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changes", "remedy"),
    [
        (ARDUPILOT, {"SYSID_MYGCS": 255.0}, "SYSID_MYGCS 1"),
        (ARDUPILOT, {"RC_OVERRIDE_TIME": 3.0}, "RC_OVERRIDE_TIME 0.5"),
        (ARDUPILOT, {"RC_OVERRIDE_TIME": -1.0}, "RC_OVERRIDE_TIME 0.5"),
        (ARDUPILOT, {"RC_OPTIONS": 34.0}, "RC_OPTIONS 32"),
        (ARDUPILOT, {"MAN_EXPO_PITCH": 30.0}, "MAN_EXPO_PITCH 0"),
        (ARDUPILOT, {"RCMAP_ROLL": 5.0}, "RCMAP_ROLL 1"),
        (ARDUPILOT, {"RC2_TRIM": 1100.0}, "calibrate the radio"),
        (ARDUPILOT, {"RC3_MAX": 900.0}, "calibrate the radio"),
        (PX4, {"COM_RC_IN_MODE": 0.0}, "COM_RC_IN_MODE 1"),
        (PX4, {"COM_RC_LOSS_T": 5.0}, "COM_RC_LOSS_T 0.5"),
        (PX4, {"FW_MAN_P_SC": 0.5}, "FW_MAN_P_SC 1"),
    ],
)
def test_an_autopilot_that_is_not_set_up_is_refused_with_the_parameter_to_set(
    kind: AutopilotKind, changes: dict[str, float], remedy: str
) -> None:
    with virtual_flight(kind) as flight:
        flight.autopilot.parameters.update(changes)
        with pytest.raises(ConfigError, match="not set up") as caught:
            flight.vehicle.connect(10.0)
        assert remedy in caught.value.hint


def test_the_ground_station_id_has_a_new_name_in_newer_firmware() -> None:
    with virtual_flight() as flight:
        del flight.autopilot.parameters["SYSID_MYGCS"]
        flight.autopilot.parameters["MAV_GCS_SYSID"] = 254.0
        with pytest.raises(ConfigError) as caught:
            flight.vehicle.connect(10.0)
        assert "MAV_GCS_SYSID 1" in caught.value.hint


def test_parameters_that_never_come_are_named() -> None:
    with virtual_flight() as flight:
        del flight.autopilot.parameters["RCMAP_YAW"]
        with pytest.raises(LinkError, match="RCMAP_YAW"):
            flight.vehicle.connect(5.0)


def beat(autopilot: int, type_: int = mavlink.MAV_TYPE_FIXED_WING) -> mavlink.MAVLink_heartbeat_message:
    return mavlink.MAVLink_heartbeat_message(type_, autopilot, 1, 0, 4, 3)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (beat(mavlink.MAV_AUTOPILOT_GENERIC), "'GENERIC'"),
        (beat(mavlink.MAV_AUTOPILOT_PPZ), "'PPZ'"),
        (beat(250), "'250'"),
        (beat(mavlink.MAV_AUTOPILOT_PX4, mavlink.MAV_TYPE_QUADROTOR), "'QUADROTOR'"),
    ],
)
def test_an_unknown_autopilot_is_not_supported(message: mavlink.MAVLink_message, words: str) -> None:
    with virtual_flight() as flight:
        flight.autopilot._heartbeat = lambda: message  # type: ignore[method-assign]
        with pytest.raises(NotSupportedError, match=words):
            flight.vehicle.connect(5.0)


@pytest.mark.parametrize("type_", [mavlink.MAV_TYPE_GCS, mavlink.MAV_TYPE_CAMERA, mavlink.MAV_TYPE_ONBOARD_CONTROLLER])
def test_what_is_no_autopilot_is_not_taken_for_one(type_: int) -> None:
    with virtual_flight() as flight:
        flight.autopilot._heartbeat = lambda: beat(mavlink.MAV_AUTOPILOT_INVALID, type_)  # type: ignore[method-assign]
        with pytest.raises(LinkError, match="no autopilot's heartbeat"):
            flight.vehicle.connect(3.0)


def test_a_link_that_never_speaks_and_one_with_the_wrong_baud_rate_are_told_apart() -> None:
    with virtual_flight() as flight:
        flight.autopilot.answering = False
        with pytest.raises(LinkError, match="nothing came"):
            flight.vehicle.connect(2.0)
    with virtual_flight() as flight:
        flight.autopilot.answering = False
        flight.vehicle.receive(0.0)  # our heartbeat makes us its peer
        flight.pump(0.1)
        flight.later(0.5, lambda: flight.their_link._channel.send(b"\x00\x80\x78" * 40))
        with pytest.raises(LinkError, match="no MAVLink") as caught:
            flight.vehicle.connect(2.0)
        assert "baud rate" in caught.value.hint


def test_mavlink_1_is_named() -> None:
    with virtual_flight() as flight:
        flight.autopilot.answering = False
        flight.vehicle.receive(0.0)
        flight.pump(0.1)
        old = beat(mavlink.MAV_AUTOPILOT_PX4).pack(mavlink.MAVLink(None, 1, 1), force_mavlink1=True)
        flight.later(0.5, lambda: flight.their_link._channel.send(bytes(old)))
        with pytest.raises(LinkError, match="MAVLink 1") as caught:
            flight.vehicle.connect(2.0)
        assert "SERIALn_PROTOCOL 2" in caught.value.hint


def test_another_autopilot_on_the_same_link_does_not_get_our_commands() -> None:
    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        take_control(flight)
        flight.from_ground(beat(mavlink.MAV_AUTOPILOT_PX4), system=7, component=1)  # another aircraft: none of ours
        hold(flight, NEUTRAL, 0.3)
        assert flight.vehicle.reading.control is Control.OURS
        flight.autopilot._heartbeat = lambda: beat(mavlink.MAV_AUTOPILOT_PX4)  # type: ignore[method-assign]
        flight.pump_until(lambda: flight.vehicle.reading.control is Control.THEIRS, 3.0)


# Ground stations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "parameter", "request_"),
    [
        (mavlink.MAV_CMD_NAV_GUIDED_ENABLE, 1.0, Request.ENGAGE),
        (mavlink.MAV_CMD_NAV_GUIDED_ENABLE, 0.0, Request.DISENGAGE),
        (mavlink.MAV_CMD_DO_FLIGHTTERMINATION, 1.0, Request.KILL),
        (mavlink.MAV_CMD_COMPONENT_ARM_DISARM, 0.0, Request.DISARM),
        (mavlink.MAV_CMD_COMPONENT_ARM_DISARM, 1.0, Request.ARM),
    ],
)
def test_a_ground_station_asks_and_gets_its_answer(command: int, parameter: float, request_: Request) -> None:
    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        flight.command(command, parameter)
        flight.pump(0.05)
        (asked,) = flight.vehicle.requests()
        assert asked.request is request_ and flight.vehicle.requests() == []
        flight.vehicle.answer(asked, accepted=True)
        flight.vehicle.answer(asked, accepted=False)
        flight.pump(0.05)
        acks = flight.heard(mavlink.MAVLINK_MSG_ID_COMMAND_ACK)
        assert [(a.command, a.result, a.target_system) for a in acks[-2:]] == [(command, 0, 255), (command, 2, 255)]


def test_a_setpoint_may_be_changed_from_the_ground() -> None:
    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        flight.command(mavlink.MAV_CMD_DO_CHANGE_ALTITUDE, 120.0, mavlink.MAV_FRAME_GLOBAL_RELATIVE_ALT)
        flight.pump(0.05)
        (asked,) = flight.vehicle.requests()
        assert asked.request is Request.FOLLOW and asked.setpoint == {"altitude_m": 120.0}


def test_strangers_and_commands_for_others_are_not_obeyed() -> None:
    kill = (mavlink.MAV_CMD_DO_FLIGHTTERMINATION, 0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        flight.from_ground(mavlink.MAVLink_command_long_message(1, COMPONENT, *kill), system=77)  # never announced
        flight.command(mavlink.MAV_CMD_DO_SET_HOME, 1.0)  # nothing we do
        flight.from_ground(mavlink.MAVLink_command_long_message(1, 1, *kill))  # for the autopilot
        flight.from_ground(mavlink.MAVLink_command_long_message(9, COMPONENT, *kill))  # for another aircraft
        flight.pump(0.1)
        assert flight.vehicle.requests() == []
        (ack,) = flight.heard(mavlink.MAVLINK_MSG_ID_COMMAND_ACK)
        assert ack.result == mavlink.MAV_RESULT_UNSUPPORTED and ack.command == mavlink.MAV_CMD_DO_SET_HOME


def test_the_autopilots_arming_is_a_request_too_but_only_its_changes() -> None:
    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        assert flight.vehicle.requests() == []
        flight.autopilot.armed = False
        flight.pump(1.0)
        flight.autopilot.armed = True
        flight.pump(1.0)
        assert [a.request for a in flight.vehicle.requests()] == [Request.DISARM, Request.ARM]


def test_it_announces_itself_to_ground_stations() -> None:
    with virtual_flight() as flight:
        flight.vehicle.connect(10.0)
        flight.vehicle.announce(
            Status(engaged=True, guard=3, trips=5, late=7), "a text that is longer than fifty bytes, by far"
        )
        flight.pump(2.1)
        beats = flight.heard(mavlink.MAVLINK_MSG_ID_HEARTBEAT)
        assert (beats[-1].type, beats[-1].custom_mode) == (mavlink.MAV_TYPE_ONBOARD_CONTROLLER, 3)
        assert beats[-1].system_status == mavlink.MAV_STATE_ACTIVE and beats[-1].get_srcComponent() == COMPONENT
        assert flight.texts() == ["sim2sky: a text that is longer than fifty bytes, b"]
        values = {m.name: m.value for m in flight.heard(mavlink.MAVLINK_MSG_ID_NAMED_VALUE_FLOAT)}
        assert values == {"s2s_engage": 1.0, "s2s_guard": 3.0, "s2s_trips": 5.0, "s2s_late": 7.0}
        assert 2 <= len(beats) <= 5


# Signing -------------------------------------------------------------------------------------------------------------

KEY = bytes(range(32))


def test_a_signed_link_flies() -> None:
    with virtual_flight(signers=(Signer(KEY), Signer(KEY))) as flight:
        flight.vehicle.connect(10.0)
        take_control(flight)
        hold(flight, NEUTRAL, 0.5)
        assert flight.autopilot.mode == "MANUAL" and flight.vehicle._link.statistics.refused == 0


def test_with_signing_on_an_unsigned_autopilot_is_not_heard() -> None:
    with virtual_flight(signers=(None, Signer(KEY))) as flight:
        with pytest.raises(LinkError, match="without a good signature") as caught:
            flight.vehicle.connect(3.0)
        assert "key" in caught.value.hint
        assert flight.vehicle._link.statistics.frames_in == 0


def test_with_signing_on_an_unsigned_command_is_not_obeyed() -> None:
    with virtual_flight(signers=(Signer(KEY), Signer(KEY))) as flight:
        flight.vehicle.connect(10.0)
        signer, flight.their_link._signer = flight.their_link._signer, None
        flight.command(mavlink.MAV_CMD_DO_FLIGHTTERMINATION, 1.0)
        flight.their_link._signer = signer
        flight.their_link.introduce(1, 1)
        flight.pump(0.1)
        assert flight.vehicle.requests() == [] and flight.vehicle._link.statistics.refused == 2
        flight.command(mavlink.MAV_CMD_DO_FLIGHTTERMINATION, 1.0)
        flight.pump(0.1)
        assert [a.request for a in flight.vehicle.requests()] == [Request.KILL]
