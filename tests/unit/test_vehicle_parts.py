"""Small parts of the MAVLink vehicle: requests sent again, outputs that do not follow, announcements, modes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky.errors import NotSupportedError
from sim2sky.runtime.actuation import StickChannel
from sim2sky.runtime.announcements import Announcer
from sim2sky.runtime.autopilots import ARDUPILOT, PX4, identify, parameter_value
from sim2sky.runtime.link import mavlink
from sim2sky.runtime.mavlink_requests import MAX_CONFIRMATION, Requests, request_in
from sim2sky.runtime.output_watch import WINDOW_NS, OutputWatch
from sim2sky.runtime.state import Command
from sim2sky.runtime.vehicle import Request, Status

MS = 1_000_000


def test_a_request_is_sent_until_it_is_answered() -> None:
    requests = Requests(retry_ns=100, tries=3)
    requests.ask("a", "first")
    requests.ask("a", "second")
    requests.ask("b", "other")
    assert not requests.answered("a")  # nothing has been sent yet
    assert requests.due(0) == ["first", "other"] and requests.due(50) == []
    assert requests.due(100) == ["first", "other"]
    assert requests.answered("a") and requests.due(120) == ["second"] and len(requests) == 2
    assert requests.due(200) == ["other"]  # the third and last time
    assert requests.due(300) == ["second"] and not requests.waiting("b") and requests.waiting("a")
    requests.forget("a")
    assert len(requests) == 0 and not requests.answered("a")


def test_what_was_sent_often_enough_makes_room_for_the_next() -> None:
    requests = Requests(retry_ns=100, tries=2)
    requests.ask("a", "first")
    requests.ask("a", "second")
    assert [requests.due(t) for t in (0, 100, 199, 200)] == [["first"], ["first"], [], ["second"]]


def command(number: int, *parameters: float, confirmation: int = 0) -> mavlink.MAVLink_command_long_message:
    values = [*parameters, *(0.0,) * (7 - len(parameters))]
    return mavlink.MAVLink_command_long_message(1, 191, number, confirmation, *values)


def test_only_whole_commands_are_requests() -> None:
    kill = mavlink.MAV_CMD_DO_FLIGHTTERMINATION
    assert request_in(command(kill, 1.0)) is Request.KILL
    assert request_in(command(kill, 1.0, confirmation=3)) is Request.KILL
    assert request_in(command(kill, 1.0, *(float("nan"),) * 6)) is Request.KILL
    for damaged in (
        command(kill, 2.0),
        command(kill, 1.0, 0.0, 1e-30),
        command(kill, 1.0, confirmation=MAX_CONFIRMATION),
    ):
        assert request_in(damaged) is None


def watch(command_travel: float, output_travel: int, seconds: float = 4.0) -> bool:
    w, stuck = OutputWatch(), False
    for k in range(int(seconds * 20)):
        now = k * 50 * MS
        w.commanded(Command(command_travel * (k % 2), 0.0, 0.0, 0.5), now)
        if k % 5 == 0:
            stuck = w.put_out((1500 + output_travel * (k % 2), 1500, 1100, 0), now)
    return stuck


def test_outputs_are_compared_with_commands() -> None:
    assert watch(0.3, 0) and watch(0.3, 4)
    assert not watch(0.3, 100) and not watch(0.1, 0) and not watch(0.3, 0, WINDOW_NS * 0.8e-9)


def test_a_change_of_hands_starts_the_watch_anew() -> None:
    w = OutputWatch()
    for k in range(80):
        w.commanded(Command(0.3 * (k % 2), 0.0, 0.0, 0.5), k * 50 * MS)
        w.put_out((1500,), k * 50 * MS)
    w.reset()
    assert not w.put_out((1500,), 80 * 50 * MS)
    assert not w.put_out((1500, 1500), 81 * 50 * MS)  # another number of outputs is another autopilot's


def test_announcements_keep_their_rates_and_texts_are_said_once() -> None:
    announcer = Announcer()
    announcer.update(Status(engaged=False, guard=0, trips=0, late=0), "grüß Gott")
    sent = [m for k in range(21) for m in announcer.due(k * 100 * MS)]
    counts = {t: sum(m.get_type() == t for m in sent) for t in ("HEARTBEAT", "NAMED_VALUE_FLOAT", "STATUSTEXT")}
    assert counts == {"HEARTBEAT": 3, "NAMED_VALUE_FLOAT": 20, "STATUSTEXT": 1}
    (text,) = (m.text for m in sent if m.get_type() == "STATUSTEXT")
    assert text == "sim2sky: gr?? Gott"
    names = {m.name for m in sent if m.get_type() == "NAMED_VALUE_FLOAT"}
    assert all(len(name) <= 10 for name in names)


@given(st.integers(900, 1400), st.integers(1450, 1550), st.integers(1600, 2100), st.booleans(), st.floats(-1, 1))
def test_a_stick_position_is_the_inverse_of_the_autopilots_normalisation(
    low: int, trim: int, high: int, backwards: bool, value: float
) -> None:
    """`RC_Channel::norm_input` and `pwm_to_range`, as ArduPilot has them."""
    channel = StickChannel(low, trim, high, backwards)
    width = channel.surface_us(value)
    norm = (width - trim) / (trim - low if width < trim else high - trim) * (-1 if backwards else 1)
    assert low <= width <= high and abs(norm - value) <= 0.51 / min(trim - low, high - trim)
    throttle = channel.throttle_us(abs(value))
    share = (throttle - low) / (high - low)
    assert abs((1 - share if backwards else share) - abs(value)) <= 0.51 / (high - low)


@pytest.mark.parametrize(("kind", "mode"), [(k, m) for k in (ARDUPILOT, PX4) for m in k.modes])
def test_a_mode_change_names_the_mode_the_heartbeat_will_name(kind: object, mode: str) -> None:
    message = kind.set_mode(mode, (1, 1))  # type: ignore[attr-defined]
    custom = int(message.param2) if kind is ARDUPILOT else int(message.param2) << 16 | int(message.param3) << 24
    assert kind.mode_name(custom) == mode and message.param1 == 1.0  # type: ignore[attr-defined]


def test_an_unknown_mode_has_a_name_too() -> None:
    assert ARDUPILOT.mode_name(99) == "mode 99" and PX4.mode_name(0) == "mode 0"


def test_integer_parameters_are_bytes_on_px4_and_values_on_ardupilot() -> None:
    bits = struct.unpack("<f", struct.pack("<i", 3))[0]
    px4 = mavlink.MAVLink_param_value_message(b"COM_RC_IN_MODE", bits, mavlink.MAV_PARAM_TYPE_INT32, 1, 0)
    ardupilot = mavlink.MAVLink_param_value_message(b"SYSID_MYGCS", 255.0, mavlink.MAV_PARAM_TYPE_INT16, 1, 0)
    decoded = [mavlink.MAVLink(None).decode(bytearray(m.pack(mavlink.MAVLink(None, 1, 1)))) for m in (px4, ardupilot)]
    assert parameter_value(PX4, decoded[0]) == ("COM_RC_IN_MODE", 3.0)
    assert parameter_value(ARDUPILOT, decoded[1]) == ("SYSID_MYGCS", 255.0)


def test_every_autopilot_of_the_dialect_is_identified_or_refused_by_name() -> None:
    known = 0
    for number in mavlink.enums["MAV_AUTOPILOT"]:
        beat = mavlink.MAVLink_heartbeat_message(mavlink.MAV_TYPE_FIXED_WING, number, 1, 0, 4, 3)
        try:
            known += identify(beat).name in {"ArduPilot", "PX4"}
        except NotSupportedError as error:
            assert error.message.startswith("not supported: the autopilot '")
    assert known == 2
