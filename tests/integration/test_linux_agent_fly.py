"""The flying agent without Python against virtual autopilots on a clock of their own: message for message what the
Python agent does, and never a stick override while it is not engaged."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.flight_support import make_bundle, settings
from tests.fly_support import RELEASED, CFlight, c_flight, fly_library, python_flight, switch
from tests.virtual_support import S

from sim2sky.agent.bundle import Bundle
from sim2sky.environments.jsbsim_plant import Air
from sim2sky.runtime.autopilots import PX4
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.link import mavlink

LIMITS = SafetyLimits(max_range_m=3000.0, battery_min_voltage=10.5)
KILL = 8
Script = Callable[[Any], None]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "hand", settings(), limits=LIMITS)


@pytest.fixture(scope="module")
def library(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return fly_library(bundle, tmp_path_factory.mktemp("fly"))


@pytest.fixture
def flight(library: ctypes.CDLL) -> Iterator[CFlight]:
    with c_flight(library) as flight:
        yield flight
        assert flight.commanded_while_not_engaged == 0  # whatever it was about


def engage_at(flight: Any, seconds: float) -> None:
    flight.later(seconds, lambda: switch(flight, 7, True))


# As the Python agent


def plain(f: Any) -> None:
    engage_at(f, 5.0)
    f.later(9.0, lambda: switch(f, 7, False))


def pilots_mode(f: Any) -> None:
    engage_at(f, 5.0)
    f.later(9.0, lambda: f.autopilot.set_mode("FBWA"))


def killed(f: Any) -> None:
    engage_at(f, 5.0)
    f.later(8.0, lambda: switch(f, KILL, True))
    f.later(8.5, lambda: switch(f, KILL, False))
    f.later(11.0, lambda: switch(f, 7, False))


def silent_link(f: Any) -> None:
    engage_at(f, 5.0)
    f.later(8.0, lambda: setattr(f.autopilot, "answering", False))
    f.later(8.45, lambda: setattr(f.autopilot, "answering", True))


def dead_link(f: Any) -> None:
    engage_at(f, 5.0)
    f.later(8.0, lambda: setattr(f.autopilot, "answering", False))
    f.later(14.0, lambda: setattr(f.autopilot, "answering", True))


def silent_receiver(f: Any) -> None:
    engage_at(f, 5.0)
    f.later(8.0, lambda: f.autopilot._next.__setitem__(mavlink.MAVLINK_MSG_ID_RC_CHANNELS, 10**15))


def restarted(f: Any) -> None:
    engage_at(f, 8.0)
    f.later(11.0, f.autopilot.restart)


def disarmed_and_armed(f: Any) -> None:
    engage_at(f, 5.0)
    f.later(8.0, lambda: setattr(f.autopilot, "armed", False))
    f.later(8.1, lambda: f.autopilot.set_mode("LOITER"))
    f.later(8.5, lambda: switch(f, 7, False))
    f.later(9.0, lambda: setattr(f.autopilot, "armed", True))
    f.later(10.0, lambda: switch(f, 7, True))


def from_the_ground(f: Any) -> None:
    engage_at(f, 5.0)
    f.later(7.0, lambda: f.command(mavlink.MAV_CMD_NAV_GUIDED_ENABLE, 1.0))
    f.later(8.0, lambda: f.command(mavlink.MAV_CMD_NAV_GUIDED_ENABLE, 0.0))
    f.later(9.0, lambda: switch(f, 7, False))
    f.later(10.0, lambda: switch(f, 7, True))
    f.later(11.0, lambda: f.command(mavlink.MAV_CMD_DO_FLIGHTTERMINATION, 1.0))
    f.later(12.0, lambda: f.command(mavlink.MAV_CMD_COMPONENT_ARM_DISARM, 1.0))
    f.later(12.5, lambda: f.command(mavlink.MAV_CMD_COMPONENT_ARM_DISARM, 0.0))
    f.later(12.6, lambda: f.autopilot.set_mode("LOITER"))
    f.later(13.0, lambda: f.command(mavlink.MAV_CMD_COMPONENT_ARM_DISARM, 1.0))


def other_calibration(f: Any) -> None:
    f.autopilot.parameters.update(
        {"RC1_REVERSED": 1.0, "RC2_TRIM": 1481.0, "RC2_MIN": 1012.0, "RC3_REVERSED": 1.0, "RC4_MAX": 2003.0,
         "RCMAP_ROLL": 4.0, "RCMAP_YAW": 1.0, "MAV_GCS_SYSID": 1.0, "MAN_EXPO_ROLL": 0.0}
    )  # fmt: skip
    plain(f)


def refused_mode(f: Any) -> None:
    before = f.autopilot._command
    f.autopilot._command = lambda m: mavlink.MAV_RESULT_DENIED if m.command == 176 else before(m)
    engage_at(f, 5.0)


def ignored_mode(f: Any) -> None:
    f.autopilot.set_mode = lambda name: None
    engage_at(f, 5.0)


def deaf_to_mode(f: Any) -> None:
    before = f.autopilot._command
    f.autopilot._command = lambda m: mavlink.MAV_RESULT_TEMPORARILY_REJECTED if m.command == 176 else before(m)
    sent = f.autopilot._link.send
    f.autopilot._link.send = lambda *ms: sent(*(m for m in ms if getattr(m, "command", 0) != 176))
    engage_at(f, 5.0)


def stalled(f: Any) -> None:
    engage_at(f, 5.0)
    f.later(8.0, lambda: setattr(f.clock, "time_ns", f.clock.time_ns + S // 5 + S // 100))


SCRIPTS = [
    plain, pilots_mode, killed, silent_link, dead_link, silent_receiver, restarted, disarmed_and_armed, from_the_ground,
    other_calibration, refused_mode, ignored_mode, deaf_to_mode,
    stalled,
]  # fmt: skip
ENDS = {
    "stalled": ["the time is up"],
    "plain": ["disengaged by the pilot's switch"],
    "pilots_mode": ["the pilot or a failsafe chose FBWA"],
    "killed": ["disengaged by the pilot's switch; killed: the sticks are the pilot's"],
    "silent_link": ["the time is up"],
    "dead_link": ["the autopilot did not change to LOITER: the sticks are the pilot's"],
    "silent_receiver": ["the receiver is silent"],
    "restarted": ["the autopilot was restarted: its clock went back"],
    "disarmed_and_armed": ["disarmed", "the time is up"],
    "from_the_ground": ["disengaged by a ground station", "disarmed"],
    "other_calibration": ["disengaged by the pilot's switch"],
    "refused_mode": ["the autopilot refused MANUAL mode (result 2)"],
    "ignored_mode": ["the pilot or a failsafe chose LOITER"],
    "deaf_to_mode": ["the autopilot did not change to MANUAL mode"],
}


def compare(library: ctypes.CDLL, bundle: Bundle, script: Script, seconds: float, **options: Any) -> CFlight:
    """Fly a script with both; every message to the autopilot must be the same one at the same time."""
    flown = {k: options.pop(k) for k in ("setpoint", "hand_back") if k in options}
    with c_flight(library, **options) as ours:
        script(ours)
        assert ours.fly(seconds, kill=KILL, **flown) == 0, ours.error
    theirs, summary, said, mode = python_flight(bundle, script, seconds, kill=KILL, **flown, **options)
    assert ours.overrides.rows == theirs.rows
    assert ours.overrides.messages == theirs.messages
    assert ours.ended == summary.ended and ours.autopilot.mode == mode
    assert [text for text in ours.said[1:] if not text.startswith("not engaged")] == [
        text for text in said if not text.startswith("not engaged")
    ]
    assert ours.counter("ticks") == summary.ticks and ours.counter("policy_ticks") == summary.policy_ticks
    assert ours.counter("engagements") == summary.engagements
    assert ours.commanded_while_not_engaged == 0
    return ours


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.__name__)
def test_every_message_is_that_of_the_python_agent(script: Script, library: ctypes.CDLL, bundle: Bundle) -> None:
    ours = compare(library, bundle, script, 16.0, setpoint={"heading_rad": 0.5}, noise=0.5, air=Air(wind_east_mps=2.0))
    assert ours.ended == ENDS[script.__name__] and ours.counter("ticks") > 0


def test_hand_back_to_rtl_and_a_setpoint_as_flown(library: ctypes.CDLL, bundle: Bundle) -> None:
    ours = compare(library, bundle, lambda f: engage_at(f, 4.0), 7.0, hand_back="RTL")
    assert ours.autopilot.mode == "RTL" and ours.ended == ["the time is up"]


@pytest.mark.parametrize("seed", range(8))
def test_random_scripts_are_flown_alike(seed: int, library: ctypes.CDLL, bundle: Bundle) -> None:
    def script(f: Any) -> None:
        rng = random.Random(seed)
        acts: list[Callable[[], object]] = [
            *(lambda on=on: switch(f, 7, on) for on in (True, False, True, False, True, True)),
            *(lambda on=on: switch(f, KILL, on) for on in (True, False, False)),
            *(lambda mode=mode: f.autopilot.set_mode(mode) for mode in ("FBWA", "LOITER", "RTL")),
            *(lambda on=on: setattr(f.autopilot, "armed", on) for on in (False, True, True)),
            *(lambda on=on: setattr(f.autopilot, "answering", on) for on in (False, True, True)),
            lambda: f.autopilot.receiver_us.__setitem__(6, 1500),
            lambda: f.autopilot.receiver_us.__setitem__(6, 900 + 5 * rng.randrange(3)),
            lambda: f.command(mavlink.MAV_CMD_NAV_GUIDED_ENABLE, 0.0),
            lambda: f.command(mavlink.MAV_CMD_COMPONENT_ARM_DISARM, 0.0),
            lambda: f.command(mavlink.MAV_CMD_COMPONENT_ARM_DISARM, 1.0),
            lambda: f.command(mavlink.MAV_CMD_DO_FLIGHTTERMINATION, 1.0, 0.0, 3.0),  # not whole: refused
        ]
        engage_at(f, 4.0)
        for k in range(30):
            f.later(5.0 + 0.6 * k + rng.random(), rng.choice(acts))
        f.later(25.0, lambda: setattr(f.autopilot, "answering", True))

    compare(library, bundle, script, 27.0, setpoint={"altitude_m": 160.0, "airspeed_mps": 19.0}, noise=1.0)


def test_the_comparison_sees_a_wrong_sign(bundle: Bundle, tmp_path: Path) -> None:
    """Negative control: a reversed stick is not reversed."""
    broken = {"fly_sticks.c": ("reversed ? -command : command", "reversed ? command : command")}
    wrong = fly_library(bundle, tmp_path, broken)
    compare(wrong, bundle, plain, 7.0)  # nothing is reversed there
    with pytest.raises(AssertionError):
        compare(wrong, bundle, other_calibration, 7.0)


def test_a_command_while_control_is_theirs_would_be_seen(bundle: Bundle, tmp_path: Path) -> None:
    """Negative control of `commanded_while_not_engaged`."""
    broken = {"fly_loop.c": ("    if (!f->engaged) {\n        return;\n    }\n", "    f->control = FLY_OURS;\n")}
    with c_flight(fly_library(bundle, tmp_path, broken)) as wrong:
        wrong.fly(3.0)
        assert wrong.commanded_while_not_engaged > 0


# Engaging


def test_it_tracks_its_setpoint_and_stays_within_the_limits(flight: CFlight) -> None:
    engage_at(flight, 4.0)
    wanted = {"altitude_m": 160.0, "airspeed_mps": 19.0, "heading_rad": 1.0}
    seen: list[tuple[float, float, float]] = []
    for k in range(40):
        flight.later(30.0 + 0.1 * k, lambda: seen.append(_off(flight, wanted)))
    assert flight.fly(35.0, setpoint=wanted) == 0
    assert len(seen) == 40 and all(abs(a) < 6.0 and abs(v) < 2.0 and abs(h) < 0.2 for a, v, h in seen), seen[-1]
    assert flight.counter("policy_ticks") == flight.counter("ticks") > 550
    assert flight.autopilot.mode == "LOITER" and flight.overrides.rows[-1][2] == RELEASED
    for _, _, widths in flight.overrides.commands:
        assert all(1100 <= w <= 1900 for w in widths[:4]) and widths[4:] == (65535,) * 4
    assert "sim2sky: engaged" in flight.texts()
    heartbeats = [m for m in flight.heard(mavlink.MAVLINK_MSG_ID_HEARTBEAT) if m.get_srcComponent() == 191]
    assert {m.system_status for m in heartbeats} == {mavlink.MAV_STATE_STANDBY, mavlink.MAV_STATE_ACTIVE}


def _off(flight: CFlight, wanted: dict[str, float]) -> tuple[float, float, float]:
    s = flight.autopilot.truth()
    return (
        s.altitude_m - wanted["altitude_m"], s.airspeed_mps - wanted["airspeed_mps"], s.yaw_rad - wanted["heading_rad"]
    )  # fmt: skip


def test_a_switch_that_was_left_on_does_not_engage_until_it_was_off(flight: CFlight) -> None:
    switch(flight, 7, True)
    assert flight.fly(5.0) == 0 and flight.counter("engagements") == 0
    assert flight.overrides.rows == [] and flight.autopilot.mode == "LOITER"


def test_the_middle_position_and_a_flicker_do_nothing(flight: CFlight) -> None:
    flight.later(4.0, lambda: flight.autopilot.receiver_us.__setitem__(6, 1500))
    flight.later(5.0, lambda: switch(flight, 7, True))
    flight.later(5.1, lambda: switch(flight, 7, False))
    assert flight.fly(7.0) == 0 and flight.counter("engagements") == 0 and flight.overrides.rows == []


@pytest.mark.parametrize("why", ["stale", "disarmed", "battery", "low"])
def test_what_speaks_against_engaging_is_said_once_and_nothing_is_sent(
    why: str, flight: CFlight, library: ctypes.CDLL
) -> None:
    if why == "disarmed":
        flight.autopilot.armed = False
    engage_at(flight, 4.0)
    if why == "stale":  # the receiver is still heard
        flight.later(3.5, lambda: flight.autopilot._next.__setitem__(mavlink.MAVLINK_MSG_ID_ATTITUDE, 10**15))
    elif why == "battery":
        flight.autopilot.battery_v = 5.0
    elif why == "low":
        flight.autopilot._estimate = lambda: _lowered(flight)  # type: ignore[method-assign]
    flight.later(6.0, lambda: setattr(flight.autopilot, "armed", True))  # too late: nobody is engaged by surprise
    flight.later(6.1, lambda: flight.autopilot._next.__setitem__(mavlink.MAVLINK_MSG_ID_ATTITUDE, 0))
    code = flight.fly(8.0)
    words = {"stale": "too old", "disarmed": "disarmed", "battery": "battery", "low": "too near the floor"}[why]
    refused = [text for text in flight.said if text.startswith("not engaged: ")]
    assert code == 0 and len(refused) == 1 and words in refused[0], flight.said
    assert flight.overrides.rows == [] and flight.autopilot.mode == "LOITER"


def _lowered(flight: CFlight) -> Any:
    from dataclasses import replace

    return replace(flight.autopilot._seen[0], altitude_m=25.0)


# Ending


def test_an_interrupt_hands_back_first(flight: CFlight) -> None:
    engage_at(flight, 4.0)
    flight.later(7.0, flight.interrupt)
    assert flight.fly(60.0) == 130
    assert flight.ended == ["interrupted"] and flight.autopilot.mode == "LOITER"
    assert flight.clock.time_ns < 115 * S and flight.overrides.rows[-1][2] == RELEASED


def test_an_interrupt_before_it_is_connected_ends_it(flight: CFlight) -> None:
    flight.autopilot.answering = False
    flight.later(1.0, flight.interrupt)
    assert flight.fly(60.0, connect_timeout_s=50.0) == 130 and flight.overrides.rows == []


def test_an_interrupt_that_nobody_confirms_lets_go(flight: CFlight) -> None:
    engage_at(flight, 4.0)
    flight.later(7.0, lambda: setattr(flight.autopilot, "answering", False))
    flight.later(7.1, flight.interrupt)
    assert flight.fly(60.0) == 130
    assert flight.ended == ["the autopilot did not change to LOITER: the sticks are the pilot's"]


def test_after_a_kill_nothing_is_handed_back(flight: CFlight) -> None:
    engage_at(flight, 4.0)
    flight.later(7.0, lambda: switch(flight, KILL, True))
    flight.later(7.5, lambda: switch(flight, KILL, False))  # letting go of it changes nothing
    flight.later(9.0, flight.interrupt)
    assert flight.fly(60.0, kill=KILL) == 130 and flight.counter("killed") == 1
    assert flight.autopilot.mode == "MANUAL"  # LOITER would start the motor
    late = [widths[:4] for time_ns, _, widths in flight.overrides.commands if time_ns > 107.4 * S]
    assert len(late) > 20 and set(late) == {(1500, 1500, 1100, 1500)}


def test_a_broken_link_is_an_error_and_ends_it(flight: CFlight) -> None:
    engage_at(flight, 4.0)
    flight.later(7.0, lambda: setattr(flight, "broken", True))
    assert flight.fly(60.0) == 1
    assert flight.ended == ["the link broke"]


def test_outputs_that_do_not_follow_end_it(flight: CFlight) -> None:
    """The safety switch is on."""
    engage_at(flight, 4.0)
    flight.later(6.0, lambda: setattr(flight.autopilot, "moving", False))
    flight.fly(14.0, setpoint={"heading_rad": 2.0})
    assert flight.ended == ["the autopilot's outputs do not follow our commands: is its safety switch on?"]
    (at,) = [t for t, text in flight.words if text.startswith("disengaged")]
    assert 108.5 * S < at < 110.0 * S  # 3 s of standing still


# Refusals


def _other(flight: CFlight, **fields: int) -> None:
    before = flight.autopilot._heartbeat

    def heartbeat() -> Any:
        m = before()
        for name, value in fields.items():
            setattr(m, name, value)
        return m

    flight.autopilot._heartbeat = heartbeat  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"type": mavlink.MAV_TYPE_QUADROTOR}, "not supported: the aircraft type with MAV_TYPE 2"),
        ({"type": mavlink.MAV_TYPE_VTOL_TILTROTOR}, "not supported: the aircraft type"),
        ({"autopilot": mavlink.MAV_AUTOPILOT_GENERIC}, "not supported: the autopilot with MAV_AUTOPILOT 0"),
    ],
)
def test_another_vehicle_is_refused(fields: dict[str, int], words: str, flight: CFlight) -> None:
    _other(flight, **fields)
    engage_at(flight, 1.0)
    assert flight.fly(10.0) == 2 and words in flight.error and flight.overrides.rows == []


def test_px4_is_refused(library: ctypes.CDLL) -> None:
    with c_flight(library, PX4) as flight:
        assert flight.fly(10.0) == 2 and flight.error.startswith("not supported: PX4")


def test_another_autopilot_in_flight_ends_it(flight: CFlight) -> None:
    engage_at(flight, 4.0)
    flight.later(7.0, lambda: _other(flight, type=mavlink.MAV_TYPE_QUADROTOR))
    flight.fly(10.0)
    assert flight.ended == ["another autopilot answers now"]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"SYSID_MYGCS": 255.0}, 2, "SYSID_MYGCS is 255, not 1"),
        ({"RC_OVERRIDE_TIME": 3.0}, 2, "RC_OVERRIDE_TIME is 3 s"),
        ({"RC_OVERRIDE_TIME": -1.0}, 2, "RC_OVERRIDE_TIME is -1 s"),
        ({"RC_OPTIONS": 2.0}, 2, "RC_OPTIONS ignores overrides"),
        ({"MAN_EXPO_PITCH": 30.0}, 2, "MAN_EXPO_PITCH is 30"),
        ({"RCMAP_ROLL": 5.0}, 2, "RCMAP_* put the sticks on the channels 5"),
        ({"RCMAP_ROLL": 2.0}, 2, "RCMAP_* put the sticks on the channels 2, 2"),
        ({"RC2_TRIM": 1900.0}, 2, "RC2_MIN, TRIM, MAX are 1100, 1900, 1900: not calibrated"),
        ({"RC3_MIN": float("nan")}, 1, "does not say its parameter RC3_MIN"),
        ({"RC3_MIN": 1e30}, 1, "does not say its parameter RC3_MIN"),
        ({"RC4_REVERSED": None}, 1, "does not say its parameter RC4_REVERSED"),
    ],
)
def test_a_set_up_that_cannot_be_commanded_is_refused(
    changes: dict[str, Any], code: int, words: str, flight: CFlight
) -> None:
    for name, value in changes.items():
        if value is None:
            del flight.autopilot.parameters[name]
        else:
            flight.autopilot.parameters[name] = value
    engage_at(flight, 1.0)
    assert flight.fly(10.0, connect_timeout_s=4.0) == code and words in flight.error, flight.error
    assert flight.overrides.rows == []


def test_telemetry_that_does_not_come_is_named(flight: CFlight) -> None:
    flight.autopilot._next[mavlink.MAVLINK_MSG_ID_VFR_HUD] = 10**15
    assert flight.fly(10.0, connect_timeout_s=3.0) == 1 and flight.error == "the autopilot does not send VFR_HUD"


def test_a_command_with_a_parameter_that_means_nothing_or_of_a_stranger_is_not_obeyed(flight: CFlight) -> None:
    engage_at(flight, 4.0)
    kill = mavlink.MAVLink_command_long_message(1, 191, mavlink.MAV_CMD_DO_FLIGHTTERMINATION, 0, 1, 0, 0, 0, 0, 0, 0)
    elsewhere = mavlink.MAVLink_command_long_message(2, 191, kill.command, 0, 1, 0, 0, 0, 0, 0, 0)
    flight.later(5.0, lambda: flight.from_ground(kill, 77))  # it never said what it is
    flight.later(5.5, lambda: flight.command(kill.command, 1.0, 2.0))
    flight.later(6.0, lambda: flight.from_ground(elsewhere, 255))
    flight.later(6.5, lambda: flight.command(kill.command, 1.0))
    counts: list[int] = []
    flight.later(6.4, lambda: counts.append(flight.counter("killed")))
    assert flight.fly(8.0) == 0
    assert counts == [0] and flight.counter("killed") == 1


# Damage


READ = (0, 1, 22, 30, 31, 32, 33, 36, 65, 74, 76, 77, 111, 242)


def random_frames(rng: random.Random) -> bytes:
    """Whole frames with a good checksum and any content, of the autopilot, a ground station or a stranger."""
    out = b""
    for _ in range(rng.randrange(3)):
        cls = mavlink.mavlink_map[rng.choice(READ)]
        payload = rng.choice([rng.randbytes(cls.unpacker.size), bytes(cls.unpacker.size), b"\xff" * cls.unpacker.size])
        sender = rng.choice([(1, 1), (1, 1), (255, 190), (9, 1)])
        header = bytes([0xFD, len(payload), 0, 0, 0, *sender]) + cls.id.to_bytes(3, "little")
        crc = mavlink.x25crc(header[1:] + payload)
        crc.accumulate(bytes([cls.crc_extra]))
        out += header + payload + crc.crc.to_bytes(2, "little")
    return out + (rng.randbytes(rng.randrange(40)) if rng.random() < 0.2 else b"")


def test_random_messages_do_no_harm(bundle: Bundle, tmp_path: Path) -> None:
    """Under the undefined behaviour sanitizer: no trap, no stick beyond its calibration, no command while it is not
    engaged."""
    checks = ["-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
    library = fly_library(bundle, tmp_path, options=checks)
    engaged = 0
    for seed in range(6):
        rng = random.Random(seed)
        with c_flight(library) as flight:
            for k in range(8):
                flight.later(4.0 + 2.0 * k, lambda: switch(flight, 7, True))
                flight.later(5.5 + 2.0 * k, lambda: switch(flight, 7, False))
            flight.later(3.0 + seed, lambda rng=rng: setattr(flight, "noise", lambda: random_frames(rng)))
            code = flight.fly(20.0, kill=KILL)
            assert code in {0, 1, 2}, flight.error
            assert flight.commanded_while_not_engaged == 0
            for _, _, widths in flight.overrides.commands:
                assert all(1100 <= w <= 1900 for w in widths[:4]) and widths[4:] == (65535,) * 4
            engaged += flight.counter("engagements")
    assert engaged > 0
