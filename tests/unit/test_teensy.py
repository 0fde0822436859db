"""The Teensy's serial protocol: frames byte for byte, over a pseudo-terminal, with damage; what it cannot fly."""

from __future__ import annotations

import math
import os
import struct
from dataclasses import astuple, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.flight_support import settings as env_settings
from tests.link_support import serial_cable, wait_for

from sim2sky.agent.contract import Contract, Input
from sim2sky.environments.tasks import make_contract
from sim2sky.errors import LinkError, NotSupportedError
from sim2sky.runtime.channel import open_serial
from sim2sky.runtime.clock import RealClock
from sim2sky.runtime.observation import signal
from sim2sky.runtime.state import Command
from sim2sky.runtime.teensy import (
    FrameReader,
    TeensyState,
    TeensyVehicle,
    command_frame,
    crc16,
    decode_command,
    decode_state,
    encode_frame,
    state_frame,
)
from sim2sky.runtime.vehicle import Control

LEVEL = TeensyState(1.0, 0.1, 0.05, -2.0, 0.01, 0.02, 0.03, 0.5, 0.0, -9.8, 47.0, 8.0, 500.0)
float32 = st.floats(width=32)


def blind_contract() -> Contract:
    """An agent that needs neither airspeed nor climb rate."""
    full = make_contract(env_settings(name="rate"))
    names = (
        "p_error_radps",
        "q_error_radps",
        "r_error_radps",
        "roll_rad",
        "pitch_rad",
        "p_radps",
        "q_radps",
        "r_radps",
    )
    box = Input("observation", "box", (len(names),), "float32", tuple(signal(n) for n in names))
    return Contract(full.vehicle, full.task, full.rate_hz, (box,), full.output)


def test_the_checksum_is_the_published_one() -> None:
    """Check value of CRC-16/MODBUS in the catalogue of parametrised CRC algorithms."""
    assert crc16(b"123456789") == 0x4B37 and crc16(b"") == 0xFFFF


def test_a_command_frame_byte_for_byte() -> None:
    data = command_frame(Command(0.5, -0.25, 1.0, 0.75))
    body = bytes((16,)) + struct.pack("<4f", 0.5, -0.25, 1.0, 0.75)
    assert data[:2] == b"\xaa\x55" and data[2:-2] == body
    assert int.from_bytes(data[-2:], "little") == crc16(body) and len(data) == 21


def test_a_state_survives_its_frame() -> None:
    (payload,) = FrameReader().feed(state_frame(LEVEL))
    got = decode_state(payload)
    assert got is not None and got.usable
    assert astuple(got) == pytest.approx(astuple(LEVEL), rel=1e-6)
    assert len(state_frame(LEVEL)) == 57 and decode_state(payload[:-1]) is None


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=255), max_size=5), st.lists(st.integers(1, 60), max_size=30))
def test_frames_pass_a_stream_that_is_cut_anywhere(payloads: list[bytes], cuts: list[int]) -> None:
    data, reader, got = b"".join(map(encode_frame, payloads)), FrameReader(), []
    for cut in [*cuts, len(data)]:
        got += reader.feed(data[:cut])
        data = data[cut:]
    assert got == payloads and reader.damaged == 0


@settings(max_examples=300)
@given(st.integers(0, 56), st.integers(1, 255))
def test_a_changed_byte_costs_its_own_frame_only(at: int, flip: int) -> None:
    damaged = bytearray(state_frame(LEVEL))
    damaged[at] ^= flip
    after = [state_frame(replace(LEVEL, time_s=float(k))) for k in range(2, 9)]
    reader = FrameReader()
    got = reader.feed(bytes(damaged) + b"".join(after))
    assert got == [f[3:-2] for f in after] and reader.damaged >= 1


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=400), max_size=8))
def test_any_bytes_at_all_raise_nothing_and_are_not_hoarded(chunks: list[bytes]) -> None:
    reader = FrameReader()
    for chunk in chunks:
        reader.feed(chunk)
        assert len(reader._pending) < 260


@settings(max_examples=300)
@given(st.tuples(*[float32] * 4))
def test_the_flight_controller_takes_possible_commands_only(values: tuple[float, float, float, float]) -> None:
    got = decode_command(struct.pack("<4f", *values))
    possible = all(math.isfinite(v) and -1.0 <= v <= 1.0 for v in values) and values[3] >= 0.0
    assert (got is not None) == possible


@settings(max_examples=300)
@given(st.integers(0, 12), st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -1e30]))
def test_no_impossible_value_makes_a_state(field: int, value: float) -> None:
    values = list(astuple(LEVEL))
    values[field] = value
    assert not TeensyState(*values).usable or (7 <= field <= 9 and math.isfinite(value))


def test_an_agent_that_observes_airspeed_cannot_fly_it() -> None:
    with serial_cable() as (_, device):
        channel = open_serial(device, 115200)
        with pytest.raises(NotSupportedError, match="airspeed_mps") as caught:
            TeensyVehicle(channel, RealClock(), make_contract(env_settings()), airspeed_mps=18.0)
        assert "airspeed sensor" in caught.value.hint
        channel.close()


def vehicle_on(device: str) -> TeensyVehicle:
    return TeensyVehicle(open_serial(device, 115200), RealClock(), blind_contract(), airspeed_mps=18.0)


def test_states_in_commands_out_over_a_serial_port() -> None:
    with serial_cable() as (other, device):
        vehicle = vehicle_on(device)
        os.write(other, b"\x55\xaanoise" + state_frame(LEVEL))
        vehicle.connect(10.0)
        north = replace(LEVEL, time_s=1.05, latitude_deg=47.001, altitude_m=510.0, roll_rad=-0.4)
        os.write(other, state_frame(north))

        def arrived() -> bool:
            vehicle.receive(0.1)
            sample = vehicle.reading.sample
            return sample is not None and sample.roll_rad < 0.0

        wait_for(arrived, "the second state")
        s = vehicle.reading.sample
        assert s is not None and s.altitude_m == pytest.approx(10.0) and s.airspeed_mps == 18.0
        # float32 degrees: 0.4 m at this latitude
        assert s.north_m == pytest.approx(111.2, abs=1.0) and s.east_m == pytest.approx(0.0, abs=0.01)
        assert s.climb_rate_mps == pytest.approx(200.0 * 0.1, rel=0.01)  # 10 m in 50 ms, through a filter of 0.5 s
        assert abs(RealClock().now_ns() - s.time_ns) < 5_000_000_000 and math.isnan(s.north_mps)
        vehicle.take_over()
        assert vehicle.reading.control is Control.OURS
        vehicle.send(Command(0.25, -0.5, 0.0, 1.0))
        (payload,) = FrameReader().feed(os.read(other, 100))
        assert decode_command(payload) == Command(0.25, -0.5, 0.0, 1.0)
        vehicle.hand_back()
        assert vehicle.reading.control is Control.THEIRS
        vehicle.close()


def test_a_restarted_teensy_is_a_problem_once() -> None:
    with serial_cable() as (other, device):
        vehicle = vehicle_on(device)
        os.write(other, state_frame(replace(LEVEL, time_s=100.0)))
        vehicle.connect(10.0)
        os.write(other, state_frame(replace(LEVEL, time_s=0.5)))
        problems: list[str] = []

        def seen() -> bool:
            vehicle.receive(0.1)
            problems.append(vehicle.reading.problem)
            return bool(problems[-1])

        wait_for(seen, "the problem")
        vehicle.receive(0.0)
        assert "restarted" in problems[-1] and vehicle.reading.problem == ""
        vehicle.close()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "nothing came"),
        (bytes(100), "no whole frame"),
        (encode_frame(b"1234"), "no state of 52 bytes"),
        (state_frame(replace(LEVEL, latitude_deg=math.nan)), "no state of 52 bytes"),
    ],
)
def test_a_teensy_that_says_nothing_useful_is_explained(data: bytes, message: str) -> None:
    with serial_cable() as (other, device):
        vehicle = vehicle_on(device)
        os.write(other, data)
        with pytest.raises(LinkError, match=message):
            vehicle.connect(0.3)
        vehicle.close()


def test_an_unplugged_teensy_is_an_error() -> None:
    with serial_cable() as (other, device):
        vehicle = vehicle_on(device)
        os.close(other)
        with pytest.raises(LinkError, match="broke"):
            vehicle.connect(5.0)
        vehicle.close()
