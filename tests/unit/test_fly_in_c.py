"""Parts of the flying agent without Python against their Python twins, on random streams."""

from __future__ import annotations

import ctypes
import math
import random
from typing import Any

import pytest
from tests.flight_support import make_bundle, sample, settings
from tests.fly_support import fly_library

from sim2sky.deployment.guard_table import guard_config
from sim2sky.environments.airframes import airframe
from sim2sky.runtime.actuation import RcOverride, setup_problems
from sim2sky.runtime.autopilot import Autopilot
from sim2sky.runtime.autopilots import ARDUPILOT
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.link import mavlink
from sim2sky.runtime.mavlink_requests import Requests
from sim2sky.runtime.mavlink_state import Telemetry
from sim2sky.runtime.output_watch import OutputWatch
from sim2sky.runtime.rc_switch import RcSwitch
from sim2sky.runtime.safety import SafetyMonitor
from sim2sky.runtime.state import Command, Sample

S = 1_000_000_000
MS = 1_000_000
NAMES = (*ARDUPILOT.required, *ARDUPILOT.optional)


class Message(ctypes.Structure):
    """`s2s_mav_message`."""

    _fields_ = [
        ("id", ctypes.c_uint32), ("system", ctypes.c_uint8), ("component", ctypes.c_uint8),
        ("sequence", ctypes.c_uint8), ("payload", ctypes.c_uint8 * 255),
    ]  # fmt: skip


class CSample(ctypes.Structure):
    """`s2s_sample`."""

    _fields_ = [("time_ns", ctypes.c_int64), ("value", ctypes.c_double * 13)]


class Parameters(ctypes.Structure):
    """`fly_parameters`."""

    _fields_ = [("known", ctypes.c_bool * 27), ("value", ctypes.c_double * 27)]


class Problem(ctypes.Structure):
    """`problem`."""

    _fields_ = [("exit_code", ctypes.c_int), ("message", ctypes.c_char * 256), ("hint", ctypes.c_char * 256)]


class Switch(ctypes.Structure):
    """`fly_switch`."""

    _fields_ = [
        ("channel", ctypes.c_uint32), ("position", ctypes.c_int32), ("candidate", ctypes.c_int32),
        ("since_ns", ctypes.c_int64),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("fly")
    made = fly_library(make_bundle(folder / "hand", settings()), folder)
    made.test_size_of_telemetry.restype = made.test_size_of_watch.restype = ctypes.c_size_t
    made.test_size_of_requests.restype = ctypes.c_size_t
    made.fly_telemetry_sample.restype = made.fly_output_watch_put_out.restype = ctypes.c_bool
    made.fly_answered.restype = made.fly_request_due.restype = ctypes.c_bool
    made.fly_telemetry_missing.restype = ctypes.c_char_p
    made.fly_telemetry_receiver.restype = made.fly_engagement_problems.restype = ctypes.c_uint32
    return made


def packed(message: Any) -> Message:
    frame = message.pack(mavlink.MAVLink(None, 1, 1))
    out = Message(message.get_msgId(), 1, 1, 0)
    payload = frame[10 : 10 + frame[1]]
    ctypes.memmove(out.payload, payload, len(payload))
    return out


def received(message: Any) -> Any:
    """As the other side decodes it."""
    mav = mavlink.MAVLink(None, 1, 1)
    return mav.decode(bytearray(message.pack(mav)))


# The pilot's switch


@pytest.mark.parametrize("seed", range(20))
def test_the_switch_sees_the_edges_that_python_sees(seed: int, library: ctypes.CDLL) -> None:
    rng, theirs, ours = random.Random(seed), RcSwitch(7), Switch()
    library.fly_switch_init(ctypes.byref(ours), 7)
    now, widths, edges = S, (1100,) * 8, 0
    for _ in range(2000):
        now += rng.randrange(60 * MS)
        if rng.random() < 0.2:
            width = rng.choice([0, 799, 800, 1100, 1299, 1300, 1301, 1500, 1699, 1700, 1900, 2200, 2201, 65535])
            widths = rng.choice([(), (1900,) * 6, (1100,) * 6 + (width,), (1100,) * 6 + (width,)])
        edge = theirs.update(widths, now)
        got = library.fly_switch_update(
            ctypes.byref(ours), (ctypes.c_uint16 * 18)(*widths), len(widths), ctypes.c_int64(now)
        )
        assert got == (0 if edge is None else edge.value)
        edges += edge is not None
    assert edges > 3


# Outputs that do not follow


class Watch:
    def __init__(self, library: ctypes.CDLL) -> None:
        self._library, self._memory = library, ctypes.create_string_buffer(library.test_size_of_watch())
        library.fly_output_watch_reset(self._memory)

    def commanded(self, command: Command, now_ns: int) -> None:
        self._library.fly_output_watch_commanded(self._memory, (ctypes.c_double * 4)(*command), ctypes.c_int64(now_ns))

    def put_out(self, widths: tuple[int, ...], now_ns: int) -> bool:
        return bool(
            self._library.fly_output_watch_put_out(
                self._memory, (ctypes.c_uint16 * 16)(*widths), ctypes.c_int64(now_ns)
            )
        )


def watched(watch: Any, command: Any, output: Any, *, phase_ns: int = 0, hz: float = 4.0) -> int | None:
    """When it is noticed that outputs do not follow, ns; commands at 50 Hz for 12 s."""
    due = 0
    for k in range(600):
        now = k * 20 * MS + phase_ns
        watch.commanded(Command(*command(now / S)), now)
        if now >= due:
            due += int(S / hz)
            if watch.put_out(output(now / S), now):
                return now
    return None


def still(_: float) -> tuple[int, ...]:
    return (1500, 1502, *(0,) * 14)


def swing(t: float) -> tuple[float, float, float, float]:
    return (0.3 * math.sin(2.0 * t), 0.0, 0.0, 0.5)


def follow(command: Any) -> Any:
    return lambda t: (round(1500 + 400 * command(max(t - 0.06, 0.0))[0]), 1500, *(0,) * 14)


@pytest.mark.parametrize("phase_ms", [0, 7, 55, 99])
def test_outputs_that_stand_still_are_noticed_about_when_python_does(phase_ms: int, library: ctypes.CDLL) -> None:
    ours = watched(Watch(library), swing, still, phase_ns=phase_ms * MS)
    theirs = watched(OutputWatch(), swing, still, phase_ns=phase_ms * MS)
    assert ours is not None and theirs is not None
    assert 2.6 * S <= ours <= 3.6 * S and abs(ours - theirs) <= 0.6 * S


@pytest.mark.parametrize("hz", [2.0, 4.0, 50.0])
def test_outputs_that_follow_or_have_nothing_to_follow_are_left_alone(hz: float, library: ctypes.CDLL) -> None:
    assert watched(Watch(library), swing, follow(swing), hz=hz) is None
    assert watched(Watch(library), lambda t: (0.05 * math.sin(t), 0.0, 0.0, 0.5), still, hz=hz) is None


@pytest.mark.parametrize("at_s", [3.0 + 0.013 * k for k in range(80)])
def test_one_jump_of_a_command_that_is_followed_is_no_standstill(at_s: float, library: ctypes.CDLL) -> None:
    """A kill: commands jump once and stand still ever after, and so do the outputs."""

    def jump(t: float) -> tuple[float, float, float, float]:
        return (0.5, 0.0, 0.0, 0.5) if t < at_s else (0.0, 0.0, 0.0, 0.0)

    for hz in (4.0, 3.7):
        assert watched(Watch(library), jump, follow(jump), hz=hz) is None
        assert watched(OutputWatch(), jump, follow(jump), hz=hz) is None


def test_outputs_that_were_not_heard_for_a_while_are_not_standing_still(library: ctypes.CDLL) -> None:
    watch = Watch(library)
    for k in range(600):
        now = k * 20 * MS
        watch.commanded(Command(*swing(now / S)), now)
        if now <= S or now == 11 * S:
            assert not watch.put_out(still(0.0), now)


# State


def random_state(rng: random.Random, boot_ms: int) -> Any:
    """One message of those that tell the aircraft's state."""

    def f(n: int) -> list[float]:
        return [rng.uniform(-4.0, 4.0) for _ in range(n)]

    def degrees() -> int:
        return rng.randrange(-1800000000, 1800000000)

    match rng.randrange(8):
        case 0:
            return mavlink.MAVLink_attitude_message(boot_ms, *f(6))
        case 1:
            return mavlink.MAVLink_attitude_quaternion_message(boot_ms, *f(7))
        case 2:
            speeds = [rng.randrange(-32768, 32768) for _ in range(3)]
            height = rng.randrange(-99999, 999999)
            return mavlink.MAVLink_global_position_int_message(boot_ms, degrees(), degrees(), 1, height, *speeds, 0)
        case 3:
            return mavlink.MAVLink_local_position_ned_message(boot_ms, *f(6))
        case 4:
            return mavlink.MAVLink_vfr_hud_message(*f(2), 0, 0, *f(2))
        case 5:
            volts = rng.choice([65535, 0, 11100])
            return mavlink.MAVLink_sys_status_message(0, 0, 0, 0, volts, -1, 80, 0, 0, 0, 0, 0, 0)
        case 6:
            q = [1.0, 0.0, 0.0, 0.0]
            return mavlink.MAVLink_home_position_message(
                degrees() // 3, degrees(), 1000, 0.0, 0.0, 0.0, q, 0.0, 0.0, 0.0
            )
        case _:
            widths = [rng.randrange(65536) for _ in range(18)]
            return mavlink.MAVLink_rc_channels_message(boot_ms, rng.choice([0, 8, 16, 18, 30]), *widths, rssi=255)


@pytest.mark.parametrize("seed", range(6))
def test_random_telemetry_gives_the_sample_that_python_has(seed: int, library: ctypes.CDLL) -> None:
    rng, theirs = random.Random(seed), Telemetry()
    ours = ctypes.create_string_buffer(library.test_size_of_telemetry())
    library.fly_telemetry_init(ours)
    now, boot_ms, compared = 50 * S, 5000, 0

    for _ in range(1500):
        now += rng.randrange(20 * MS)
        boot_ms = max(boot_ms + rng.choice([0, 3, 10, 20, -40 if rng.random() < 0.1 else 5]), 0)
        if rng.random() < 0.003:
            boot_ms = rng.randrange(1000)  # it was restarted
        m = random_state(rng, boot_ms)
        theirs.take(received(m), now)
        library.fly_telemetry_take(ours, ctypes.byref(packed(m)), ctypes.c_int64(now))
        if rng.random() < 0.05:
            sent, stamp = now - rng.randrange(3 * S // 2), boot_ms * MS + rng.randrange(-MS, MS)
            theirs.timesync(sent, stamp, now)
            library.fly_telemetry_timesync(ours, ctypes.c_int64(sent), ctypes.c_int64(stamp), ctypes.c_int64(now))
        expected, got = theirs.sample(), CSample()
        assert library.fly_telemetry_sample(ours, ctypes.byref(got)) == (expected is not None)
        assert (library.fly_telemetry_missing(ours) is None) == (theirs.missing == [])
        widths = ctypes.POINTER(ctypes.c_uint16)()
        later = now + rng.choice([0, S, S + 1])
        n = library.fly_telemetry_receiver(ours, ctypes.c_int64(later), ctypes.byref(widths))
        assert tuple(widths[:n]) == theirs.rc_us(later)
        if expected is not None:
            compared += 1
            values = [getattr(expected, name) for name in Sample.__dataclass_fields__][1:]
            assert got.time_ns == expected.time_ns
            assert [v.hex() for v in got.value] == [float(v).hex() for v in values]
    assert compared > 200


# Sticks


def parameters_of(values: dict[str, float]) -> Parameters:
    out = Parameters()
    for i, name in enumerate(NAMES):
        if name in values:
            out.known[i], out.value[i] = True, values[name]
    return out


def random_parameters(rng: random.Random, *, sound: bool) -> dict[str, float]:
    channels = [1, 2, 3, 4]
    rng.shuffle(channels)
    p: dict[str, float] = {"SYSID_MYGCS": 1.0, "RC_OVERRIDE_TIME": 0.5, "RC_OPTIONS": 32.0}
    p.update(zip(("RCMAP_ROLL", "RCMAP_PITCH", "RCMAP_THROTTLE", "RCMAP_YAW"), map(float, channels), strict=True))
    for n in range(1, 5):
        low, high = rng.randrange(800, 1400), rng.randrange(1600, 2201)
        p |= {f"RC{n}_MIN": low, f"RC{n}_MAX": high, f"RC{n}_TRIM": rng.randrange(low + 1, high),
              f"RC{n}_REVERSED": float(rng.random() < 0.5)}  # fmt: skip
    if not sound:
        for _ in range(rng.randrange(3)):
            name = rng.choice(NAMES)
            p[name] = rng.choice([0.0, 0.5, 1.0, 1.5, 2.0, 2.9, 3.0, 4.0, 5.0, -1.0, 799.0, 1500.0, 2201.0, 1e9, 34.0])
        if rng.random() < 0.1:
            p.pop("SYSID_MYGCS")
    return p


@pytest.mark.parametrize("seed", range(10))
def test_sticks_are_where_python_puts_them(seed: int, library: ctypes.CDLL) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        values = random_parameters(rng, sound=True)
        assert setup_problems(ARDUPILOT, values, 1) == []
        theirs, ours = RcOverride(values, 1, 1), parameters_of(values)
        assert library.fly_setup_problem(ctypes.byref(ours), 1, ctypes.byref(Problem())) == 0
        for _ in range(20):
            ends = [-1.0, 0.0, 1.0, rng.uniform(-1.0, 1.0)]
            command = Command(*(rng.choice(ends) for _ in range(3)), rng.choice([0.0, 1.0, rng.random()]))
            expected, got = packed(theirs.message(command)), Message()
            library.fly_override(ctypes.byref(got), ctypes.byref(ours), (ctypes.c_double * 4)(*command))
            assert bytes(got.payload[:16]) == bytes(expected.payload[:16])
        released = Message()
        library.fly_release(ctypes.byref(released))
        assert bytes(released.payload[:16]) == bytes(packed(theirs.release()).payload[:16])


def test_every_set_up_that_python_refuses_is_refused_and_no_other(library: ctypes.CDLL) -> None:
    rng, refused = random.Random(1), 0
    for _ in range(3000):
        values = random_parameters(rng, sound=False)
        problem = Problem()
        code = library.fly_setup_problem(ctypes.byref(parameters_of(values)), 1, ctypes.byref(problem))
        expected = setup_problems(ARDUPILOT, values, 1)
        assert (code != 0) == bool(expected), (values, problem.message, expected)
        assert code in {0, 2} and (not code or (problem.message and problem.hint))
        refused += bool(code)
    assert 500 < refused < 2900


# Requests


@pytest.mark.parametrize("seed", range(10))
def test_requests_are_sent_again_as_often_and_when_python_does(seed: int, library: ctypes.CDLL) -> None:
    rng, theirs, now = random.Random(seed), Requests(), S
    ours = ctypes.create_string_buffer(library.test_size_of_requests())
    sent = 0
    for k in range(800):
        now += rng.randrange(200 * MS)
        key = rng.choice([176, 511, 512])
        act = rng.random()
        if act < 0.25 and len(theirs) < 40:
            theirs.ask(key, float(k))
            library.fly_ask(ours, key, ctypes.c_float(k), ctypes.c_float(0.0))
        elif act < 0.5:
            assert library.fly_answered(ours, key) == theirs.answered(key)
        elif act < 0.55:
            theirs.forget(key)
            library.fly_forget(ours, key)
        at, m, got = ctypes.c_size_t(0), Message(), []
        while library.fly_request_due(ours, ctypes.byref(at), ctypes.c_int64(now), 1, 1, ctypes.byref(m)):
            got.append(ctypes.c_float.from_buffer_copy(bytes(m.payload[:4])).value)
        expected = theirs.due(now)
        assert sorted(got) == sorted(expected)
        sent += len(got)
    assert sent > 100


# Engagement


SAID = {
    "the state estimate holds": 0x1, "ms old, allowed": 0x4, "there is no position": 0x8000, "bank ": 0x10,
    "where the descent": 0x20, "where the climb": 0x40, "m/s is below": 0x10000, "m/s is above": 0x20000,
    "sinks faster": 0x40000, "outside the fence": 0x80, "the battery has": 0x80000, "does not move": 0x2000000,
    "a wind of": 0x4000000, "no room to turn": 0x8000000, "too near for a circle": 0x10000000,
    "the straight way home": 0x20000000,
}  # fmt: skip
FENCES: list[dict[str, Any]] = [
    {},
    {"geofence_enabled": False},
    {"max_range_m": 150.0},
    {"geofence_polygons": [[(60.0, -900.0), (60.0, 900.0), (-60.0, 900.0), (-60.0, -900.0)]]},
    {"geofence_polygons": [[(400.0, -400.0), (400.0, 400.0), (-400.0, 400.0), (-150.0, 0.0), (-400.0, -400.0)]]},
    {"fallback_airspeed_mps": 17.0, "airspeed_max_mps": 30.0, "sink_max_mps": 6.0},
]


@pytest.mark.parametrize("fence", FENCES, ids=lambda f: "+".join(f) or "plain")
def test_what_speaks_against_engaging_is_what_python_says(fence: dict[str, Any], library: ctypes.CDLL) -> None:
    limits = SafetyLimits.from_json({"battery_min_voltage": 10.5, "airspeed_min_mps": 11.0, **fence})
    law = Autopilot(airframe("ultrastick25e").gains, 0.05)
    monitor = SafetyMonitor(limits, law, 0.05, surface_limit_rad=(0.4,) * 3)
    config = guard_config(monitor)
    rng, seen = random.Random(3), 0
    for _ in range(500):
        s = sample(
            north_m=rng.choice([0.0, rng.uniform(-700, 700), math.nan]) if rng.random() < 0.7 else 20.0,
            east_m=rng.uniform(-700, 700) if rng.random() < 0.5 else 0.0,
            yaw_rad=rng.uniform(-3.2, 3.2), roll_rad=rng.choice([0.0, rng.uniform(-1.5, 1.5)]),
            pitch_rad=rng.choice([0.05, rng.uniform(-1.0, 1.0)]), p_radps=math.nan if rng.random() < 0.05 else 0.0,
            airspeed_mps=rng.choice([18.0, rng.uniform(0.0, 40.0), 0.0]),
            altitude_m=rng.choice([150.0, rng.uniform(0.0, 600.0)]),
            climb_rate_mps=rng.choice([0.0, rng.uniform(-15.0, 15.0)]),
            north_mps=rng.choice([18.0 , rng.uniform(-30.0, 30.0), math.nan]), east_mps=rng.uniform(-5.0, 5.0),
        )  # fmt: skip
        now, battery_v = rng.choice([0, 100, 300]) * MS, rng.choice([math.nan, 12.0, 10.0])
        expected = 0
        for sentence in monitor.engagement_problems(s, now, battery_v=battery_v):
            (bit,) = [bit for words, bit in SAID.items() if words in sentence and not _taken(words, sentence)]
            expected |= bit
        values = [getattr(s, name) for name in Sample.__dataclass_fields__]
        got = library.fly_engagement_problems(
            ctypes.byref(config), ctypes.byref(CSample(values[0], (ctypes.c_double * 13)(*values[1:]))),
            ctypes.c_int64(now), ctypes.c_double(battery_v),
        )  # fmt: skip
        assert got == expected, (s, now, battery_v, hex(got), hex(expected))
        seen |= got
    assert seen.bit_count() >= 7


def _taken(words: str, sentence: str) -> bool:
    """`no room to turn` speaks of a wind, too."""
    return words == "a wind of" and not sentence.startswith("a wind of")
