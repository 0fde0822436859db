"""Noise, wind and constant errors of the sensors as flights tell them, and which parameters carry a combination."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim2sky.analysis.effective import effective, held
from sim2sky.analysis.flights import Flight
from sim2sky.analysis.identifiability import SHRINKAGE
from sim2sky.analysis.parameters import LARGEST_INTERVAL, Parameter
from sim2sky.analysis.sensor_checks import NOISE_SENSORS
from sim2sky.analysis.surroundings import Surroundings, constant_errors, survey
from sim2sky.config.environment import EnvironmentSettings, SensorSettings

RATE_HZ, N = 20.0, 400


def flight(seed: int, *, noise: float = 1.0, wind=(3.0, 0.0), climb_error_mps: float = 0.0) -> Flight:
    """A gentle turn in steady wind, measured with white noise."""
    rng, s = np.random.default_rng(seed), SensorSettings()
    t = np.arange(N) / RATE_HZ
    yaw = 0.1 * t + rng.uniform(-3.0, 3.0)
    climb = 1.0 + 0.5 * np.sin(0.3 * t)
    altitude = 150.0 + np.concatenate([[0.0], np.cumsum(climb[1:] / RATE_HZ)])
    speed = np.full(N, 18.0)
    path = np.arcsin(climb / speed)
    north = np.cumsum(speed * np.cos(path) * np.cos(yaw) + wind[0]) / RATE_HZ
    east = np.cumsum(speed * np.cos(path) * np.sin(yaw) + wind[1]) / RATE_HZ

    def measured(value, sigma):
        return value + noise * sigma * rng.standard_normal(N)

    zero = np.zeros(N)
    return Flight(
        name=f"flight {seed}",
        airframe="ultrastick25e",
        rate_hz=RATE_HZ,
        source="virtual",
        time_s=t,
        roll_rad=measured(zero, s.attitude_rad),
        pitch_rad=measured(path, s.attitude_rad),
        yaw_rad=measured(yaw, s.heading_rad),
        p_radps=measured(zero, s.rate_radps),
        q_radps=measured(zero, s.rate_radps),
        r_radps=measured(zero + 0.1, s.rate_radps),
        airspeed_mps=measured(speed, s.airspeed_mps),
        altitude_m=measured(altitude, s.altitude_m),
        climb_rate_mps=measured(climb, s.climb_rate_mps) + climb_error_mps,
        north_m=north,
        east_m=east,
        controls=np.zeros((N, 4)),
        setpoints=np.zeros((N, 8)),
        mode=np.zeros(N),
        config={},
    )


@pytest.mark.parametrize("noise", [0.7, 1.0, 2.5])
def test_noise_is_found_by_its_factor(noise):
    found = survey([flight(i, noise=noise) for i in range(10)], {})
    low, high = found.noise_scale(SensorSettings().model_dump())
    assert low <= noise * 1.05 and high >= noise * 0.95 and high < 1.25 * low


def test_wind_is_found_by_its_range_whatever_its_direction():
    speeds = np.linspace(2.0, 6.0, 9)
    turns = np.linspace(0.0, 6.0, 9)
    flights = [
        flight(i, wind=(v * np.cos(a), v * np.sin(a))) for i, (v, a) in enumerate(zip(speeds, turns, strict=True))
    ]
    low, high = survey(flights, {}).wind_mps
    assert 1.0 < low < 3.0 and 5.0 < high < 7.5


def test_an_error_that_all_flights_share_is_told_and_one_that_differs_is_not():
    shared = survey([flight(i, climb_error_mps=0.3) for i in range(10)], {}).offsets
    low, high = shared["climb_rate_mps"]
    assert low < 0.3 < high and high - low < 0.15
    apart = survey([flight(i, climb_error_mps=(-1) ** i * 0.3) for i in range(10)], {}).offsets
    assert "climb_rate_mps" not in apart


def test_two_flights_cannot_agree():
    assert constant_errors({"roll_rad": np.array([0.05, 0.05])}) == {}
    assert constant_errors({"roll_rad": np.array([0.05, 0.051, 0.049])}) != {}
    assert constant_errors({"roll_rad": np.array([0.05, np.nan, 0.049])}) == {}


def test_errors_around_zero_are_called_constant_about_once_in_twenty_times():
    rng = np.random.default_rng(7)
    called = sum("x" in constant_errors({"x": rng.normal(0.0, 1.0, 10)}) for _ in range(2000))
    assert 60 <= called <= 145


def test_a_log_without_position_or_with_too_little_says_nothing():
    blind = flight(1)
    blind = Flight(
        **{name: getattr(blind, name) for name in Flight.__dataclass_fields__ if name not in {"north_m", "east_m"}},
        north_m=np.full(N, np.nan),
        east_m=np.full(N, np.nan),
    )
    found = survey([blind] * 4, {})
    assert found.wind_mps is None and found.noise.keys() == set(NOISE_SENSORS)
    assert survey([], {}) == Surroundings() and str(Surroundings()) == "nothing"


def test_what_was_found_goes_into_the_settings_and_leaves_the_rest():
    before = EnvironmentSettings().disturbances.model_dump()
    before["sensors"]["offsets"] = {"yaw_rad": (0.01, 0.01)}
    found = Surroundings({"roll_rad": 0.02, "altitude_m": 1.0}, 0.05, (1.0, 4.0), {"roll_rad": (0.01, 0.02)})
    after = {**before, **found.disturbances(before)}
    checked = EnvironmentSettings.model_validate({"disturbances": after}).disturbances
    assert checked.wind_mps == (1.0, 4.0) and checked.sensors.noise_scale == pytest.approx((2.0 / 1.05, 2.1), abs=1e-4)
    assert checked.sensors.offsets == {"yaw_rad": (0.01, 0.01), "roll_rad": (0.01, 0.02)}
    assert checked.turbulence_w20_mps == tuple(before["turbulence_w20_mps"])
    assert Surroundings().disturbances(before)["sensors"] == before["sensors"]


def parameters(n: int) -> list[Parameter]:
    return [Parameter(f"p{i}", "1", 1.0, 0.25, 0.0, 3.0, 1.0, 0.05, ("elevator",)) for i in range(n)]


def test_of_two_parameters_that_only_show_together_one_carries_both():
    # Only their sum shows, very well; the third is told whatever they are, the fourth not at all.
    information = np.zeros((4, 4))
    information[:2, :2] = 1e4
    information[2, 2] = 1e4
    assert effective(parameters(4), information, [False, False, True, False]) == (True, False, True, False)


def test_a_parameter_that_would_spoil_a_chosen_one_is_not_taken():
    # The second shows a little, but only as a change of the first.
    information = 60.0 * np.array([[1.0, 0.999], [0.999, 1.0]])
    assert effective(parameters(2), information, [True, False]) == (True, False)


@settings(max_examples=50)
@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_what_is_free_is_narrow_with_all_others_held(n, seed):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((2 * n, n)) * rng.uniform(0.0, 8.0, n)
    information = a.T @ a
    free = effective(parameters(n), information, [False] * n)
    index = np.flatnonzero(free)
    if len(index):
        std = np.sqrt(np.diag(np.linalg.inv(information[np.ix_(index, index)] + np.eye(len(index)) / 0.25**2)))
        assert (1.96 * std <= LARGEST_INTERVAL).all() and (std / 0.25 <= SHRINKAGE + 1e-9).any()


def test_what_is_held_has_no_room_left():
    kept = held(parameters(3), [True, False, True])
    assert [p.std == 0.25 for p in kept] == [True, False, True] and kept[1].std < 1e-4
    assert [p.prior for p in kept] == [1.0] * 3
