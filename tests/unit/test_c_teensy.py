"""A Teensy's values, its clock, attitude and position in C against their Python twins, to the last bit."""

from __future__ import annotations

import ctypes
import math
import random
import struct
from dataclasses import astuple, replace

import pytest
from tests.c_support import build_shared
from tests.unit.test_teensy import LEVEL, blind_contract

from sim2sky.deployment.toolchain import firmware_folder
from sim2sky.runtime.clock import ManualClock
from sim2sky.runtime.frames import Geodetic, quaternion_to_euler
from sim2sky.runtime.sender_clock import SenderClock
from sim2sky.runtime.state import Command, Sample
from sim2sky.runtime.teensy import TeensyState, TeensyVehicle, command_frame, encode_frame, state_frame

S = 1_000_000_000
f64, i64, u32 = ctypes.c_double, ctypes.c_int64, ctypes.c_uint32


class CSample(ctypes.Structure):
    """`s2s_sample`."""

    _fields_ = (("time_ns", i64), ("value", f64 * 13))


class CClock(ctypes.Structure):
    """`s2s_sender_clock`."""

    _fields_ = (
        ("restarts", u32),
        ("heard", ctypes.c_bool),
        ("has_before", ctypes.c_bool),
        ("has_exchanged", ctypes.c_bool),
        *((name, i64) for name in ("newest", "least", "least_before", "window_ns", "exchanged", "round_trip_ns")),
    )


class CGeodetic(ctypes.Structure):
    """`s2s_geodetic`."""

    _fields_ = tuple((name, f64) for name in ("latitude", "longitude", "altitude", "metres_north", "metres_east"))


class CTeensy(ctypes.Structure):
    """`s2s_teensy`."""

    _fields_ = (
        ("airspeed_mps", f64),
        ("clock", CClock),
        ("has_home", ctypes.c_bool),
        ("has_last", ctypes.c_bool),
        ("home", CGeodetic),
        *((name, f64) for name in ("climb_mps", "last_time_s", "last_altitude_m")),
    )


class Wire:
    """A channel that gives what it is given."""

    whole, foreign, dropped = False, 0, 0

    def __init__(self) -> None:
        self.data = b""

    def receive(self, timeout_s: float) -> bytes:
        data, self.data = self.data, b""
        return data

    def send(self, data: bytes) -> bool:
        return True

    def accept(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    core = firmware_folder() / "core"
    sources = [core / f"{name}.c" for name in ("teensy_state", "sender_clock", "geodetic", "real")]
    loaded = build_shared(sources, tmp_path_factory.mktemp("teensy"), options=["-fsanitize=undefined"])
    loaded.s2s_teensy_init.argtypes = (ctypes.c_void_p, f64)
    loaded.s2s_teensy_state.argtypes = (ctypes.c_void_p, ctypes.c_char_p, i64, ctypes.c_void_p)
    loaded.s2s_teensy_state.restype = ctypes.c_bool
    loaded.s2s_sender_clock_receipt.argtypes = (ctypes.c_void_p, i64, i64)
    loaded.s2s_sender_clock_receipt.restype = ctypes.c_bool
    loaded.s2s_sender_clock_timesync.argtypes = (ctypes.c_void_p, i64, i64, i64)
    loaded.s2s_sender_clock_to_ours.argtypes = (ctypes.c_void_p, i64, i64)
    loaded.s2s_sender_clock_to_ours.restype = i64
    loaded.s2s_geodetic_at.argtypes = (f64, f64, f64)
    loaded.s2s_geodetic_at.restype = CGeodetic
    loaded.s2s_geodetic_to_metres.argtypes = (
        ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p,
    )  # fmt: skip
    loaded.s2s_nearest.argtypes, loaded.s2s_nearest.restype = (f64,), f64
    return loaded


def bits(sample: Sample) -> tuple[int, bytes]:
    time_ns, *values = astuple(sample)
    return time_ns, struct.pack("<13d", *values)


class Both:
    """One stream of states into both; says whether the newest sample is the same."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._wire, self.clock = Wire(), ManualClock(5 * S)
        self.vehicle = TeensyVehicle(self._wire, self.clock, blind_contract(), airspeed_mps=17.3)
        self.ours, self._sample, self._any = CTeensy(), CSample(), False
        library.s2s_teensy_init(ctypes.byref(self.ours), 17.3)

    def take(self, payload: bytes) -> bool:
        before = self.vehicle.reading.sample
        self._wire.data = encode_frame(payload)
        self.vehicle.receive(0.0)
        after = self.vehicle.reading.sample
        taken = self._library.s2s_teensy_state(
            ctypes.byref(self.ours), payload, self.clock.now_ns(), ctypes.byref(self._sample)
        )
        assert taken == (after is not before)
        if after is not None:
            assert (self._sample.time_ns, bytes(self._sample.value)) == bits(after)
        return taken


def random_state(time_s: float, rng: random.Random) -> TeensyState:
    angle = rng.uniform(-math.pi, math.pi)
    return TeensyState(
        time_s, angle, rng.uniform(-1.5, 1.5), rng.uniform(-2.0 * math.pi, 2.0 * math.pi),
        *(rng.gauss(0.0, 2.0) for _ in range(6)), 47.0 + rng.gauss(0.0, 0.01), 8.0 + rng.gauss(0.0, 0.01),
        500.0 + rng.gauss(0.0, 50.0),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_samples_are_those_of_the_python_vehicle(library: ctypes.CDLL, seed: int) -> None:
    """Jittered, late, doubled and impossible states, and a controller that restarts."""
    rng, both = random.Random(seed), Both(library)
    time_s = rng.uniform(0.0, 1e5)
    taken = refused = 0
    for _ in range(3000):
        both.clock.time_ns += rng.randrange(0, 40_000_000)
        chance = rng.random()
        time_s += 0.02
        if chance < 0.002:
            time_s = rng.uniform(0.0, 10.0)
        stamp = time_s - rng.choice([0.02, 0.4]) if 0.002 < chance < 0.05 else time_s
        values = list(astuple(random_state(max(stamp, 0.0), rng)))
        if chance > 0.95:
            values[rng.randrange(13)] = rng.choice([math.nan, math.inf, -math.inf, 1e30, -1e30, 181.0, -3.0])
        if both.take(struct.pack("<13f", *values)):
            taken += 1
        else:
            refused += 1
    assert taken > 2000 and refused > 100 and both.ours.clock.restarts == both.vehicle._sender.restarts > 0


@pytest.mark.parametrize(
    ("field", "limit"),
    [(0, 1e6), (1, math.pi + 1e-3), (2, math.pi / 2 + 1e-3), (3, 2 * (math.pi + 1e-3)), (4, 100.0), (5, 100.0),
     (6, 100.0), (10, 90.0), (11, 180.0), (12, 20_000.0)],
)  # fmt: skip
def test_what_is_possible_ends_at_the_same_value(library: ctypes.CDLL, field: int, limit: float) -> None:
    near = struct.unpack("<I", struct.pack("<f", limit))[0]
    for step in range(-2, 3):
        for sign in (1.0, -1.0):
            values = list(astuple(LEVEL))
            values[field] = sign * struct.unpack("<f", struct.pack("<I", near + step))[0]
            payload = struct.pack("<13f", *values)
            expected = TeensyState(*struct.unpack("<13f", payload)).usable
            assert Both(library).take(payload) == expected
    assert not Both(library).take(struct.pack("<13f", *astuple(replace(LEVEL, time_s=-1.0))))


def test_a_state_frame_holds_what_is_read(library: ctypes.CDLL) -> None:
    assert Both(library).take(state_frame(LEVEL)[3:-2])


def test_the_command_is_that_of_python(library: ctypes.CDLL) -> None:
    rng = random.Random(4)
    for _ in range(500):
        command = Command(*(rng.uniform(-1.0, 1.0) for _ in range(3)), rng.random())
        out = ctypes.create_string_buffer(16)
        library.s2s_teensy_command((f64 * 4)(*command), out)
        assert out.raw == command_frame(command)[3:-2]


@pytest.mark.parametrize("seed", range(3))
def test_the_senders_clock_is_that_of_python(library: ctypes.CDLL, seed: int) -> None:
    rng, theirs, ours = random.Random(seed), SenderClock(), CClock()
    clock = ctypes.byref(ours)
    library.s2s_sender_clock_init(clock)
    now, offset = 7 * S, rng.randrange(-(10**14), 10**14)
    for _ in range(4000):
        now += rng.randrange(0, 50_000_000)
        if rng.random() < 0.002:
            offset += rng.randrange(-(10**10), 10**10)
        stamp = now - rng.randrange(0, 60_000_000) - offset
        if rng.random() < 0.3:
            sent = now - rng.choice([rng.randrange(80_000_000), 2 * S, -5])
            library.s2s_sender_clock_timesync(clock, sent, stamp, now)
            theirs.timesync(sent, stamp, now)
        else:
            assert library.s2s_sender_clock_receipt(clock, stamp, now) == theirs.receipt(stamp, now)
        assert library.s2s_sender_clock_to_ours(clock, stamp, now) == theirs.to_ours(stamp, now)
    assert ours.restarts == theirs.restarts > 0


def test_attitude_and_position_are_those_of_python(library: ctypes.CDLL) -> None:
    rng = random.Random(5)
    outs = [f64() for _ in range(3)]
    places = [ctypes.byref(out) for out in outs]
    for k in range(20_000):
        q = [rng.gauss(0.0, 1.0) for _ in range(4)]
        if k % 10 == 0:
            q[rng.randrange(4)] = rng.choice([0.0, -0.0, 1e300, math.nan, math.inf])
        if k % 7 == 0:
            q = [struct.unpack("<f", struct.pack("<f", max(min(v, 1e30), -1e30) * 0.2))[0] for v in q]
        library.s2s_quaternion_to_euler((f64 * 4)(*q), *places)
        assert struct.pack("<3d", *(out.value for out in outs)) == struct.pack("<3d", *quaternion_to_euler(q))
    for _ in range(2000):
        home = Geodetic(rng.uniform(-90.0, 90.0), rng.uniform(-180.0, 180.0), rng.uniform(-100.0, 5000.0))
        where = (rng.randrange(-(2**31), 2**31), rng.randrange(-(2**31), 2**31))
        ours = library.s2s_geodetic_at(*astuple(home))
        library.s2s_geodetic_to_metres(ctypes.byref(ours), *where, *places[:2])
        assert (outs[0].value, outs[1].value) == home.to_metres(*where)


def test_rounding_goes_to_the_even_neighbour(library: ctypes.CDLL) -> None:
    rng = random.Random(6)
    values = [k / 2.0 for k in range(-9, 10)] + [
        rng.uniform(-1.0, 1.0) * 10.0 ** rng.randrange(15) for _ in range(5000)
    ]
    assert all(library.s2s_nearest(value) == round(value) for value in values)
