"""Sensors against each other, on flights whose noise, errors and wind are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim2sky.analysis.flights import Flight
from sim2sky.analysis.log_evidence import noise_evidence, shift_evidence, wind_evidence, wind_speeds
from sim2sky.analysis.sensor_checks import NOISE_SENSORS, climb_consistency, noise_levels, wind_triangle
from sim2sky.analysis.smoothing import smoothed
from sim2sky.config.environment import SENSORS

RATE = 20.0
NOISE = {
    "roll_rad": 0.01, "pitch_rad": 0.01, "yaw_rad": 0.02, "p_radps": 0.02, "q_radps": 0.02, "r_radps": 0.02,
    "airspeed_mps": 0.3, "altitude_m": 0.5, "climb_rate_mps": 0.2,
}  # fmt: skip


def flight(seed=0, *, noise=1.0, bias=None, wind=(3.0, -2.0), turn=0.35, seconds=20.0, position=True):
    """A gentle climbing turn in steady wind; body rates are those of the turn."""
    rng = np.random.default_rng(seed)
    n = round(seconds * RATE)
    t = np.arange(n) / RATE
    speed = 18.0 + 0.5 * np.sin(0.4 * t)
    climb = 0.8 * np.sin(0.3 * t)
    roll = np.full(n, math.atan(speed[0] * turn / 9.80665)) if turn else np.zeros(n)
    gamma = np.arcsin(climb / speed)
    alpha = 0.05
    pitch = gamma + alpha * np.cos(roll)
    track = 0.3 + turn * t
    yaw = track + alpha * np.sin(roll)
    north = np.cumsum(speed * np.cos(gamma) * np.cos(track) + wind[0]) / RATE
    east = np.cumsum(speed * np.cos(gamma) * np.sin(track) + wind[1]) / RATE
    # Euler angles' rates, turned into body rates.
    pitch_rate = np.gradient(pitch, t)
    true = {
        "roll_rad": roll, "pitch_rad": pitch, "yaw_rad": yaw,
        "p_radps": -turn * np.sin(pitch),
        "q_radps": pitch_rate * np.cos(roll) + turn * np.cos(pitch) * np.sin(roll),
        "r_radps": turn * np.cos(pitch) * np.cos(roll) - pitch_rate * np.sin(roll),
        "airspeed_mps": speed * 0.9928, "altitude_m": 150.0 + np.cumsum(climb) / RATE, "climb_rate_mps": climb,
    }  # fmt: skip
    measured = {
        name: true[name] + noise * NOISE[name] * rng.standard_normal(n) + (bias or {}).get(name, 0.0)
        for name in SENSORS
    }
    nowhere = np.full(n, np.nan)
    return Flight(
        name=f"made/{seed}", airframe="ultrastick25e", rate_hz=RATE, source="sim", time_s=t, **measured,
        north_m=north if position else nowhere, east_m=east if position else nowhere,
        controls=np.zeros((n, 4)), setpoints=np.full((n, 8), np.nan), mode=np.zeros(n), config={},
    )  # fmt: skip


# Noise ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(0.3, 6.0), seed=st.integers(0, 999))
def test_noise_levels_are_the_noise_that_was_added(factor, seed):
    levels = noise_levels(flight(seed, noise=factor))
    expected = np.log(factor * np.array([NOISE[name] for name in SENSORS]))
    np.testing.assert_allclose(levels, expected, atol=0.3)


def test_drop_outs_and_a_turn_through_north_are_no_noise():
    one = flight(1, turn=0.5)
    wrapped = (one.yaw_rad + np.pi) % (2 * np.pi) - np.pi
    assert np.ptp(wrapped) > 6.0
    gaps = one.altitude_m.copy()
    gaps[100:110] = np.nan
    spikes = one.climb_rate_mps.copy()
    spikes[50] = 90.0
    odd = type(one)(**{**vars(one), "yaw_rad": wrapped, "altitude_m": gaps, "climb_rate_mps": spikes})
    np.testing.assert_allclose(noise_levels(odd), noise_levels(one), atol=0.15)


def test_a_flight_too_short_has_no_noise_level():
    assert np.isnan(noise_levels(flight(seconds=1.0))).all()


def test_noise_evidence_finds_the_factor_and_no_factor():
    sim = [flight(seed) for seed in range(12)]
    loud = noise_evidence(sim, [flight(seed, noise=2.5) for seed in range(20, 26)])
    assert loud.log_bayes > 50.0
    assert math.exp(loud.shift) == pytest.approx(2.5, rel=0.1)
    same = noise_evidence(sim, [flight(seed) for seed in range(20, 26)])
    assert same.log_bayes < 1.0
    assert math.exp(same.shift) == pytest.approx(1.0, abs=0.1)
    assert loud.features.shape == (18, len(NOISE_SENSORS))


# Constant errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [-0.9, 0.0, 0.4])
def test_climb_rate_against_altitude(error):
    found = np.array([climb_consistency(flight(seed, bias={"climb_rate_mps": error})) for seed in range(8)])
    estimate = found[:, 0].sum() / found[:, 1].sum()
    assert estimate == pytest.approx(error, abs=4.0 * found[:, 1].sum() ** -0.5 + 0.02)


@pytest.mark.parametrize("bias", [{}, {"airspeed_mps": 3.0}, {"yaw_rad": 0.2}, {"airspeed_mps": -2.5, "yaw_rad": 0.1}])
def test_the_wind_triangle_finds_errors_of_airspeed_and_heading_in_a_turn(bias):
    parts = [wind_triangle(flight(seed, bias=bias)) for seed in range(6)]
    score, information = sum(p[0] for p in parts), sum(p[1] for p in parts)
    found = np.linalg.solve(information, score)
    assert found[0] == pytest.approx(bias.get("airspeed_mps", 0.0), abs=0.35)
    assert found[1] == pytest.approx(bias.get("yaw_rad", 0.0), abs=0.03)


def test_flying_straight_it_says_that_it_does_not_know():
    """Straight on, an error of the airspeed is a head wind: next to no information, whatever the error."""
    _, straight = wind_triangle(flight(turn=0.0, bias={"airspeed_mps": 3.0}))
    _, turning = wind_triangle(flight(turn=0.35))
    assert straight[0, 0] < 0.05 * turning[0, 0]
    assert np.linalg.eigvalsh(straight).min() > -1e-6


def test_without_a_position_it_says_nothing():
    score, information = wind_triangle(flight(position=False))
    assert not score.any()
    assert not information.any()
    assert climb_consistency(flight(seconds=1.0)) == (0.0, 0.0)


# Wind -----------------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(speed=st.floats(0.0, 12.0), direction=st.floats(-3.1, 3.1), seed=st.integers(0, 99))
def test_wind_speed_is_found_whatever_its_direction(speed, direction, seed):
    wind = (speed * math.cos(direction), speed * math.sin(direction))
    assert wind_speeds([flight(seed, wind=wind)])[0] == pytest.approx(speed, abs=0.6)


def test_windier_flights_are_evidence_and_equally_windy_ones_are_not():
    rng = np.random.default_rng(5)

    def flights(low, high, seeds):
        made = []
        for seed in seeds:
            speed, direction = rng.uniform(low, high), rng.uniform(-np.pi, np.pi)
            made.append(flight(seed, wind=(speed * math.cos(direction), speed * math.sin(direction))))
        return made

    sim = flights(0.0, 6.0, range(20))
    windy = wind_evidence(sim, flights(10.0, 10.0, range(30, 38)))
    assert windy.log_bayes > 10.0
    assert windy.before + windy.shift == pytest.approx(10.0, abs=1.0)
    assert wind_evidence(sim, flights(0.0, 6.0, range(40, 48))).log_bayes < 3.0


def test_logs_without_positions_leave_the_wind_open():
    nowhere = [flight(seed, position=False) for seed in range(6)]
    found = wind_evidence(nowhere[:4], nowhere[4:])
    assert found.log_bayes == -math.inf
    assert found.features.shape == (6, 0)
    assert not found.gain.any()


def test_the_flights_gains_add_up_to_that_of_their_means():
    rng = np.random.default_rng(2)
    sim, real = rng.normal(size=(15, 3)), rng.normal(1.0, 1.0, size=(9, 3))
    found = shift_evidence(sim, real, 2.0, 0.1)
    variance = sim.var(axis=0, ddof=1) * (1 / 15 + 1 / 9) + 0.1**2
    d = real.mean(axis=0) - sim.mean(axis=0)
    expected = ((found.shift * d - 0.5 * found.shift**2) / variance).sum()
    assert found.gain.sum() == pytest.approx(expected)


# Smoothing ------------------------------------------------------------------------------------------------------------


def test_smoothing_halves_the_noise_and_moves_nothing():
    quiet, loud = flight(3, noise=0.0), flight(3)
    better = smoothed(loud)
    for name in ("roll_rad", "pitch_rad", "yaw_rad", "airspeed_mps", "altitude_m", "climb_rate_mps"):
        inside = slice(15, -15)
        before = (getattr(loud, name) - getattr(quiet, name))[inside]
        after = (getattr(better, name) - getattr(quiet, name))[inside]
        assert after.std() < 0.65 * before.std(), name
        assert abs(after.mean()) < 0.3 * before.std(), name
    assert better.p_radps is loud.p_radps
    assert better.controls is loud.controls


def test_a_gyroscope_bias_does_not_bend_the_attitude():
    biased = smoothed(flight(3, noise=0.0, bias={"p_radps": 0.05, "q_radps": -0.05}))
    true = flight(3, noise=0.0)
    inside = slice(15, -15)
    assert np.abs(biased.roll_rad - true.roll_rad)[inside].max() < 3e-3
    assert np.abs(biased.pitch_rad - true.pitch_rad)[inside].max() < 3e-3


def test_gaps_stay_gaps_and_short_flights_stay_as_they_are():
    one = flight(4)
    altitude = one.altitude_m.copy()
    altitude[200] = np.nan
    holed = smoothed(type(one)(**{**vars(one), "altitude_m": altitude}))
    assert np.isnan(holed.altitude_m[200])
    assert np.isfinite(np.delete(holed.altitude_m, 200)).all()
    short = flight(seconds=0.2)
    np.testing.assert_array_equal(smoothed(short).altitude_m, short.altitude_m)
