"""The classical autopilot: flies every task on every airframe, stays within limits, and travels as JSON."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky.config import EnvironmentSettings
from sim2sky.environments.airframes import AIRFRAMES
from sim2sky.environments.episode import fly_episode
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.errors import ConfigError
from sim2sky.runtime.autopilot import Autopilot, AutopilotGains
from sim2sky.runtime.state import Command, Sample, Setpoint


def fly(aircraft, task, seeds, gains=None, **disturbances):
    settings = EnvironmentSettings.model_validate(
        {"aircraft": aircraft, "task": {"name": task}, "disturbances": disturbances}
    )
    vehicle = SimVehicle(settings)
    outcomes = []
    for seed in seeds:
        pilot = Autopilot(gains or vehicle.airframe.gains, 1.0 / settings.rate_hz, task)
        outcomes.append(fly_episode(vehicle, lambda sample, setpoint, _, p=pilot: p.command(sample, setpoint), seed))
    return outcomes


@pytest.mark.parametrize("aircraft", list(AIRFRAMES))
@pytest.mark.parametrize(("task", "at_least"), [("hsa", 29), ("attitude", 29), ("rate", 23)])
def test_it_flies_every_task_in_wind_turbulence_and_noise(aircraft, task, at_least):
    assert sum(o.success for o in fly(aircraft, task, range(30))) >= at_least


def test_it_flies_with_delay_and_in_strong_turbulence():
    outcomes = fly("ultrastick25e", "hsa", range(20), action_delay_s=[0.1, 0.1], turbulence_w20_mps=[9, 9])
    assert sum(o.success for o in outcomes) >= 19


def test_a_climb_at_full_throttle_keeps_its_path():
    """Giving way to airspeed is for a motor that fails, not for one that works hard: it once cost 3 m of altitude."""
    outcomes = fly("ultrastick25e", "hsa", range(20))
    assert np.median([o.tracking_rmse["altitude_rmse_m"] for o in outcomes]) < 1.6


def test_steady_state_error_vanishes_in_calm_air():
    quiet = dict.fromkeys(
        ("attitude_rad", "heading_rad", "rate_radps", "airspeed_mps", "altitude_m", "climb_rate_mps"), 0.0
    )
    for o in fly("ultrastick25e", "hsa", range(5), wind_mps=[0, 0], turbulence_w20_mps=[0, 0], sensors=quiet):
        assert o.success
        assert o.tracking_rmse["altitude_rmse_m"] < 1.5
        assert o.tracking_rmse["airspeed_rmse_mps"] < 0.4
        assert o.tracking_rmse["heading_rmse_rad"] < 0.01


def test_a_wrong_gain_is_seen():
    """Negative control: with the bank loop reversed nothing succeeds."""
    gains = replace(AIRFRAMES["ultrastick25e"].gains, roll_p=-0.5)
    assert sum(o.success for o in fly("ultrastick25e", "hsa", range(5), gains)) == 0


finite = st.floats(-1e3, 1e3)
samples = st.builds(
    Sample,
    st.just(0),
    finite,
    finite,
    finite,
    finite,
    finite,
    finite,
    st.floats(0, 100),
    finite,
    finite,
    finite,
    finite,
)


@given(st.lists(samples, min_size=1, max_size=30), st.sampled_from(["hsa", "attitude", "rate"]))
def test_every_command_is_finite_and_within_range(states, task):
    pilot = Autopilot(AIRFRAMES["ultrastick25e"].gains, 0.05, task)
    for state in states:
        command = pilot.command(state, Setpoint(altitude_m=100.0, airspeed_mps=18.0))
        assert all(map(math.isfinite, command))
        assert all(-1.0 <= c <= 1.0 for c in command[:3])
        assert 0.0 <= command.throttle <= 1.0


def test_reset_forgets_everything():
    level = Sample(0, 0.3, 0.1, 0.5, 0.1, 0.1, 0.1, 15.0, 120.0, -1.0, 0.0, 0.0)
    for task in ("hsa", "attitude", "rate"):
        pilot = Autopilot(AIRFRAMES["aerosonde"].gains, 0.05, task)
        target = Setpoint(150.0, 25.0, 1.0, 0.2, 0.05, 0.3, 0.3, 0.3)
        first = [pilot.command(level, target) for _ in range(20)]
        assert first[0] != first[-1]
        pilot.reset()
        assert [pilot.command(level, target) for _ in range(20)] == first


def test_signs_of_the_loops():
    pilot = Autopilot(AIRFRAMES["ultrastick25e"].gains, 0.05)
    level = Sample(0, 0.0, AIRFRAMES["ultrastick25e"].trim_alpha_rad, 0.0, 0.0, 0.0, 0.0, 18.0, 150.0, 0.0, 0.0, 0.0)
    base = Setpoint(150.0, 18.0, 0.0)

    def first(setpoint=base, sample=level) -> Command:
        pilot.reset()
        return pilot.command(sample, setpoint)

    neutral = first()
    assert first(replace(base, heading_rad=0.5)).aileron > neutral.aileron
    assert first(replace(base, altitude_m=160.0)).elevator > neutral.elevator
    assert first(replace(base, altitude_m=160.0)).throttle > neutral.throttle
    assert first(replace(base, airspeed_mps=20.0)).throttle > neutral.throttle
    assert first(sample=replace(level, r_radps=0.5)).rudder < neutral.rudder


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=1))
def test_gains_travel_as_json(values):
    gains = AutopilotGains(pitch_p=values[0])
    assert AutopilotGains.from_json(gains.to_json()) == gains


@pytest.mark.parametrize("damage", [{"pitch_q": 1.0}, {"pitch_p": math.nan}])
def test_damaged_gains_are_refused(damage):
    with pytest.raises(ConfigError):
        AutopilotGains.from_json({**AutopilotGains().to_json(), **damage})
    with pytest.raises(ConfigError, match="do not match"):
        AutopilotGains.from_json({"pitch_p": 1.0})


def test_unknown_task_is_refused():
    with pytest.raises(ConfigError, match="does not fly the task 'loiter'"):
        Autopilot(AutopilotGains(), 0.05, "loiter")


def test_shipped_gains_hold_the_trim_of_their_airframe():
    for a in AIRFRAMES.values():
        assert a.gains.trim_elevator == pytest.approx(a.trim.elevator)
        assert a.gains.trim_throttle == pytest.approx(a.trim.throttle)
        assert a.gains.trim_pitch_rad == pytest.approx(a.trim_alpha_rad)
        assert a.gains.trim_airspeed_mps == a.cruise_airspeed_mps
        assert np.isfinite(list(a.gains.to_json().values())).all()
