"""State, command and setpoint through real MAVLink frames: what is rounded, and that nothing else changes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.flight_support import NAN, sample

from sim2sky.errors import LinkError
from sim2sky.runtime import messages
from sim2sky.runtime.frames import HOME, Geodetic, euler_to_quaternion, quaternion_to_euler
from sim2sky.runtime.link import mavlink
from sim2sky.runtime.real import wrap_angle
from sim2sky.runtime.safety import Mode, Trip
from sim2sky.runtime.state import Command, Sample, Setpoint

angle = st.floats(-math.pi, math.pi)
states = st.builds(
    Sample, st.just(0), angle, st.floats(-1.55, 1.55), angle, *[st.floats(-9, 9)] * 3, st.floats(0, 60),
    st.floats(-100, 3000), st.floats(-20, 20), st.floats(-20000, 20000), st.floats(-20000, 20000),
)  # fmt: skip


def through_the_wire(message: Any) -> Any:
    mav = mavlink.MAVLink(None, 1, 1)
    return mav.decode(bytearray(message.pack(mav)))


@settings(max_examples=200, deadline=None)
@given(states, st.integers(0, 2**50))
def test_a_state_survives_the_wire_within_its_rounding(state: Sample, usec: int) -> None:
    message = through_the_wire(messages.hil_state(state, usec))
    got = messages.sample_from(message, 7)
    assert message.time_usec == usec and got.time_ns == 7
    near_gimbal_lock = abs(state.pitch_rad) > 1.45
    for name in ("roll_rad", "pitch_rad", "yaw_rad"):
        tolerance = 1e-4 if near_gimbal_lock else 2e-6
        assert abs(wrap_angle(getattr(got, name) - getattr(state, name))) < tolerance
    for name in ("p_radps", "q_radps", "r_radps"):
        assert abs(getattr(got, name) - getattr(state, name)) < 5e-7
    assert abs(got.airspeed_mps - state.airspeed_mps) <= 0.005 + 1e-9
    assert abs(got.climb_rate_mps - state.climb_rate_mps) <= 0.005 + 1e-9
    assert abs(got.altitude_m - state.altitude_m) <= 0.0005 + 1e-9
    assert abs(got.north_m - state.north_m) <= 0.0056 and abs(got.east_m - state.east_m) <= 0.0056


@given(angle, st.floats(-1.5, 1.5), angle)
def test_quaternion_and_euler_angles_are_inverse(roll: float, pitch: float, yaw: float) -> None:
    got = quaternion_to_euler(euler_to_quaternion(roll, pitch, yaw))
    assert all(abs(wrap_angle(a - b)) < 1e-7 for a, b in zip(got, (roll, pitch, yaw), strict=True))


@given(angle, st.floats(-1.5, 1.5), angle)
def test_the_quaternion_turns_north_east_down_into_forward_right_down(roll: float, pitch: float, yaw: float) -> None:
    """Against the 3-2-1 rotation matrix of Stevens, Lewis & Johnson, eq. 1.3-8."""
    w, x, y, z = euler_to_quaternion(roll, pitch, yaw)
    quaternion = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
        [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
        [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    cr, sr, cp, sp, cy, sy = (f(a) for a in (roll, pitch, yaw) for f in (math.cos, math.sin))
    euler = np.array([
        [cp * cy, cp * sy, -sp],
        [sr * sp * cy - cr * sy, sr * sp * sy + cr * cy, sr * cp],
        [cr * sp * cy + sr * sy, cr * sp * sy - sr * cy, cr * cp],
    ])  # fmt: skip
    assert np.allclose(quaternion, euler, atol=1e-12)


@given(states, st.sampled_from(["roll_rad", "q_radps", "airspeed_mps", "altitude_m", "climb_rate_mps", "north_m"]))
def test_a_state_that_is_not_finite_arrives_as_not_finite(state: Sample, name: str) -> None:
    setattr(state, name, NAN)
    got = messages.sample_from(through_the_wire(messages.hil_state(state, 1)), 0)
    assert math.isnan(got.roll_rad) and math.isnan(got.p_radps)


wide = st.one_of(st.floats(-1e300, 1e300), st.floats(-1e8, 1e8))


@given(wide, wide, wide, wide)
def test_absurd_numbers_are_clipped_or_arrive_as_nan_and_raise_nothing(
    speed: float, height: float, climb: float, rate: float
) -> None:
    state = sample(airspeed_mps=speed, altitude_m=height, climb_rate_mps=climb, north_m=speed, r_radps=rate)
    got = messages.sample_from(through_the_wire(messages.hil_state(state, 1)), 0)
    usable = all(abs(v) < 1e9 for v in (speed, height, climb, rate))
    assert math.isnan(got.roll_rad) is not usable
    assert 0 <= got.airspeed_mps <= 655.35 and abs(got.climb_rate_mps) <= 327.67
    through_the_wire(messages.hil_sensor(state, 1))


unit = st.floats(-1, 1)


@given(
    st.builds(Command, unit, unit, unit, st.floats(0, 1)),
    st.sampled_from(list(Mode)),
    st.integers(0, int(sum(Trip))),
    st.booleans(),
)
def test_a_command_survives_the_wire_as_float32(command: Command, mode: Mode, trips: int, lockstep: bool) -> None:
    message = through_the_wire(messages.actuator_controls(command, 12345, int(mode), trips, lockstep=lockstep))
    assert messages.trips_from(message) == Trip(trips)
    assert messages.command_from(message) == Command(*(float(np.float32(v)) for v in command))
    assert messages.mode_from(message) is mode and message.flags & 1 == int(lockstep) and message.time_usec == 12345


@pytest.mark.parametrize("values", [(NAN, 0, 0, 0), (1.1, 0, 0, 0), (0, 0, 0, -0.1), (0, -math.inf, 0, 0)])
def test_an_impossible_command_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(LinkError, match="impossible command"):
        messages.command_from(through_the_wire(messages.actuator_controls(Command(*values), 1, 0, lockstep=True)))


@settings(max_examples=100)
@given(st.floats(-100, 3000), st.floats(0, 60), angle, angle, st.floats(-1.5, 1.5), *[st.floats(-5, 5)] * 3)
def test_a_setpoint_survives_the_wire(
    altitude: float, speed: float, heading: float, roll: float, pitch: float, p: float, q: float, r: float
) -> None:
    setpoint = Setpoint(altitude, speed, heading, roll, pitch, p, q, r)
    got: dict[str, float] = {}
    for message in messages.setpoint_messages(setpoint, 5).values():
        part = messages.decode_command_setpoint(through_the_wire(message))
        assert part is not None
        got |= part
    assert set(got) == set(Setpoint.__slots__)
    assert all(abs(value - getattr(setpoint, name)) <= 3e-6 + 1e-6 * abs(value) for name, value in got.items())
    assert set(messages.setpoint_parts(setpoint)) == set(messages.setpoint_messages(setpoint, 5))


def test_a_setpoint_that_is_not_finite_or_not_ours_sets_nothing() -> None:
    for values in ((1.0, NAN), (math.inf, 18.0), (0.0, math.inf)):  # 1 is ground speed
        assert messages.decode_command_setpoint(messages.command_long(messages.SPEED, *values)) is None
    above_sea = messages.command_long(messages.ALTITUDE, 100.0, mavlink.MAV_FRAME_GLOBAL)
    assert messages.decode_command_setpoint(above_sea) is None
    assert messages.decode_command_setpoint(messages.command_long(mavlink.MAV_CMD_NAV_TAKEOFF, 0.0)) is None


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**20))
def test_a_seed_survives_the_wire_exactly(seed: int, episode: int) -> None:
    message = through_the_wire(messages.episode_start(episode, seed, 20.0))
    assert messages.seed_from(message) == seed and message.param1 == episode and message.param6 == 20.0


@given(st.text(alphabet="0123456789abcdef", min_size=64, max_size=64))
def test_digests_survive_as_their_first_sixteen_digits(digest: str) -> None:
    message = through_the_wire(messages.autopilot_version(digest, digest[::-1]))
    assert messages.versions_from(message) == (digest[:16], digest[::-1][:16])


def test_termination_texts_are_cut_not_refused() -> None:
    text, end = messages.episode_end(3, success=True, termination="envelope: " + "é" * 80)
    assert len(through_the_wire(text).text) == 50
    assert through_the_wire(end).param2 == 1.0


def test_the_sensors_of_level_flight_feel_gravity_and_the_right_pressures() -> None:
    state = sample(pitch_rad=0.0, airspeed_mps=20.0, altitude_m=-HOME.altitude_m)
    m = through_the_wire(messages.hil_sensor(state, 1))
    assert (m.xacc, m.yacc, m.zacc) == pytest.approx((0.0, 0.0, -9.80665))
    assert m.abs_pressure == pytest.approx(1013.25) and m.temperature == pytest.approx(15.0)
    assert m.diff_pressure == pytest.approx(0.5 * 1.225 * 400 / 100)
    assert m.fields_updated & 0b111 << 6 == 0  # no magnetometer
    # 5000 m in the standard atmosphere: 540.2 hPa, -17.5 C (ICAO Doc 7488)
    high = through_the_wire(messages.hil_sensor(sample(altitude_m=5000.0 - HOME.altitude_m), 1))
    assert high.abs_pressure == pytest.approx(540.2, abs=0.1) and high.temperature == pytest.approx(-17.5, abs=0.01)
    assert through_the_wire(messages.hil_sensor(sample(roll_rad=NAN), 1)).fields_updated == 0


@given(st.floats(-80, 80), st.floats(-179, 179), st.floats(-3000, 3000), st.floats(-3000, 3000))
def test_positions_round_to_a_centimetre_anywhere(latitude: float, longitude: float, north: float, east: float) -> None:
    assume(abs(longitude) < 178)
    home = Geodetic(latitude, longitude, 0.0)
    got = home.to_metres(*home.to_degrees_e7(north, east))
    assert got == pytest.approx((north, east), abs=0.012)


def test_one_degree_of_latitude_is_as_long_as_wgs84_says() -> None:
    """111,132 m at 45 degrees, 110,574 m at the equator; longitude there 111,320 m."""
    assert Geodetic(45.0, 0.0, 0.0).to_metres(460000000, 0)[0] == pytest.approx(111132, abs=2)
    assert Geodetic(0.0, 0.0, 0.0).to_metres(10000000, 10000000) == pytest.approx((110574, 111320), abs=2)
