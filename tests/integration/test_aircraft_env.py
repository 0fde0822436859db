"""AircraftEnv: Gymnasium's and Stable-Baselines3's checkers, determinism, delays, judging."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check

from sim2sky.config import EnvironmentSettings
from sim2sky.environments.aircraft_env import AircraftEnv
from sim2sky.environments.disturbances import SensorModel, draw_scenario
from sim2sky.environments.tasks import envelope_violation, make_contract
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.errors import ConfigError
from sim2sky.runtime.autopilot import Autopilot
from sim2sky.runtime.observation import ObservationBuilder
from sim2sky.runtime.state import Command, Sample

QUIET_SENSORS = {
    "attitude_rad": 0, "heading_rad": 0, "rate_radps": 0, "airspeed_mps": 0, "altitude_m": 0, "climb_rate_mps": 0,
}  # fmt: skip
CALM = {"wind_mps": [0, 0], "turbulence_w20_mps": [0, 0], "sensors": QUIET_SENSORS}
EVERYTHING = {
    "disturbances": {"action_delay_s": [0.0, 0.2], "observation_delay_s": [0.0, 0.1]},
    "randomization": {"mass_offset_kg": [-0.1, 0.4], "coefficient_scale": [0.8, 1.2], "cg_offset_m": [-0.01, 0.01]},
}


def make(**config):
    return EnvironmentSettings.model_validate(config)


def rollout(env, seed, ticks=60):
    rng = np.random.default_rng(99)
    rows = [env.reset(seed=seed)[0]]
    rewards = []
    for _ in range(ticks):
        observation, reward, terminated, truncated, _ = env.step(rng.uniform(-0.3, 0.3, 4).astype(np.float32))
        rows.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.array(rows), np.array(rewards)


@pytest.mark.parametrize("aircraft", ["ultrastick25e", "aerosonde"])
@pytest.mark.parametrize("task", ["hsa", "attitude", "rate"])
def test_both_checkers_pass_without_a_warning(aircraft, task):
    env = AircraftEnv({"aircraft": aircraft, "task": {"name": task}, **EVERYTHING})
    gymnasium_check(env, skip_render_check=True)
    sb3_check(env)


def test_same_seed_same_trajectory_bit_for_bit_in_fresh_and_used_environments():
    first, second = AircraftEnv(EVERYTHING), AircraftEnv(EVERYTHING)
    a, ra = rollout(first, 5)
    rollout(second, 6)  # a used environment must not remember
    b, rb = rollout(second, 5)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(ra, rb)
    c, _ = rollout(second, 7)
    assert not np.array_equal(a, c)


def test_unseeded_resets_continue_one_stream():
    one, two = AircraftEnv(None), AircraftEnv(None)
    one.reset(seed=3)
    two.reset(seed=3)
    np.testing.assert_array_equal(one.reset()[0], two.reset()[0])
    assert one.reset()[1]["seed"] != one.reset()[1]["seed"]


def test_spaces_are_the_contract():
    env = AircraftEnv(None)
    signals = env.contract.inputs[0].signals
    assert env.observation_space.shape == (len(signals),)
    np.testing.assert_array_equal(env.observation_space.low, np.array([s.low for s in signals], np.float32))
    assert [s.name for s in env.contract.output.signals] == ["aileron", "elevator", "rudder", "throttle"]
    assert env.contract.rate_hz == 20.0
    assert env.contract.vehicle == "ultrastick25e"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4))
def test_step_flies_the_command_that_the_contract_says(action):
    env = AircraftEnv({"disturbances": CALM})
    env.reset(seed=1)
    flown = []
    original = env.vehicle.step
    env.vehicle.step = lambda command: flown.append(command) or original(command)
    env.step(np.array(action, np.float32))
    expected = env.contract.commands(np.array(action, np.float32))
    assert flown[0]._asdict() == pytest.approx(expected, abs=1e-7)


def test_out_of_range_and_nan_actions_stay_harmless():
    env = AircraftEnv({"disturbances": CALM})
    env.reset(seed=1)
    observation, reward, *_ = env.step(np.array([np.nan, 5.0, -5.0, np.inf], np.float32))
    assert np.isfinite(observation).all()
    assert math.isfinite(reward)


# Delays ---------------------------------------------------------------------------------------------------------------


def response(action_delay=0.0, observation_delay=0.0, ticks=16):
    """True and measured roll rate after an aileron step at tick 0, calm air."""
    config = make(
        disturbances={
            **CALM,
            "action_delay_s": [action_delay, action_delay],
            "observation_delay_s": [observation_delay, observation_delay],
        }
    )
    vehicle = SimVehicle(config)
    vehicle.reset(11)
    step = vehicle.airframe.trim._replace(aileron=0.3)
    truth, measured = [], []
    for _ in range(ticks):
        sample = vehicle.step(step)
        truth.append(vehicle.true_state.p_radps)
        measured.append(sample.p_radps)
    return np.array(truth), np.array(measured)


def test_action_delay_of_whole_ticks_shifts_the_response_by_that_many():
    """Before the delayed command arrives the aircraft flies trim; afterwards the response follows, shifted."""
    prompt, _ = response()
    for ticks in (1, 2, 3):
        late, _ = response(action_delay=ticks / 20.0)
        assert abs(late[ticks - 1] - prompt[0]) > 0.2
        # The aircraft starts banked and drifts meanwhile, so the shifted responses agree closely, not exactly.
        assert late[ticks + 1] == pytest.approx(prompt[1], abs=0.25)


def test_fractions_of_a_tick_are_flown():
    """Roll rate after two ticks falls monotonically as the command comes later within the first."""
    second = [response(action_delay=k / 120.0)[0][1] for k in range(7)]
    assert all(a > b for a, b in itertools.pairwise(second))
    assert second[0] - second[6] > 0.3


def test_delay_longer_than_a_tick_with_a_fraction():
    seven = response(action_delay=7 / 120.0)[0]
    six, twelve = response(action_delay=6 / 120.0)[0], response(action_delay=12 / 120.0)[0]
    assert twelve[1] < seven[1] < six[1]


def test_observation_delay_of_whole_ticks_is_exact():
    truth, measured = response(observation_delay=2 / 20.0)
    np.testing.assert_array_equal(measured[2:], truth[:-2])


def test_observation_delay_fraction_lies_between_ticks():
    truth, measured = response(observation_delay=3 / 120.0)
    between = (measured[1:] - truth[:-1]) * (truth[1:] - measured[1:])
    assert (between[:3] > 0).all()


def test_delays_do_not_change_the_flight_itself():
    a, _ = response()
    b, _ = response(observation_delay=0.1)
    np.testing.assert_allclose(a, b, atol=1e-12)


# Sensors, scenario, judging -------------------------------------------------------------------------------------------


def test_sensor_noise_and_bias_have_the_configured_size():
    config = make(task={"duration_s": 200})
    scenario = draw_scenario(config, SimVehicle(config).airframe, 4)
    model = SensorModel(scenario, 4000)
    zero = Sample(0, *[0.0] * 5, 0.0, 100.0, 0.0, 0.0, 0.0, 0.0)
    rows = np.array(
        [(m.roll_rad, m.airspeed_mps, m.climb_rate_mps) for m in (model.measure(zero, k) for k in range(4000))]
    )
    columns = [0, 6, 8]
    assert rows.std(axis=0) == pytest.approx([scenario.sensor_sigma[c] for c in columns], rel=0.05)
    expected = [scenario.sensor_bias[0], 100.0 + scenario.sensor_bias[6], scenario.sensor_bias[8]]
    assert np.allclose(rows.mean(axis=0), expected, atol=[0.001, 0.03, 0.02])


@given(st.integers(0, 2**63 - 1))
@settings(max_examples=50, deadline=None)
def test_scenarios_stay_in_their_ranges(seed):
    config = make(**EVERYTHING)
    a = SimVehicle(config).airframe
    s = draw_scenario(config, a, seed)
    assert -0.1 <= s.parameters.mass_offset_kg <= 0.4
    assert all(0.8 <= v <= 1.2 for v in s.parameters.coefficient_scale.values())
    assert 0 <= s.action_delay_substeps <= 24
    assert math.hypot(s.air.wind_north_mps, s.air.wind_east_mps) <= 6.0 + 1e-9
    assert abs(s.setpoint.altitude_m - 150.0) <= 30.0
    assert draw_scenario(config, a, seed) == s


def test_changing_one_range_leaves_every_other_draw_alone():
    plain, heavy = make(), make(randomization={"mass_offset_kg": [0.0, 1.0]})
    a = SimVehicle(plain).airframe
    one, two = draw_scenario(plain, a, 1), draw_scenario(heavy, a, 1)
    assert one.parameters.mass_offset_kg != two.parameters.mass_offset_kg
    assert (one.initial, one.setpoint, one.air, one.noise_seed) == (two.initial, two.setpoint, two.air, two.noise_seed)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"roll_rad": 1.5}, "bank"),
        ({"pitch_rad": -1.0}, "pitch"),
        ({"airspeed_mps": 5.0}, "stall"),
        ({"airspeed_mps": 40.0}, "above"),
        ({"altitude_m": 10.0}, "altitude"),
        ({"airspeed_mps": math.nan}, "finite"),
    ],
)
def test_each_envelope_limit(change, reason):
    from dataclasses import replace

    level = Sample(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 18.0, 150.0, 0.0, 0.0, 0.0)
    a = SimVehicle(make()).airframe
    assert envelope_violation(a, level) == ""
    assert reason in envelope_violation(a, replace(level, **change))


def test_a_dive_into_the_ground_ends_the_episode_with_its_reason_and_penalty():
    env = AircraftEnv({"disturbances": CALM})
    env.reset(seed=2)
    for _ in range(400):
        _, reward, terminated, _, info = env.step(np.array([1.0, -1.0, 0.0, 1.0], np.float32))
        if terminated:
            break
    assert terminated
    assert info["termination"].startswith("envelope: ")
    assert info["is_success"] is False
    assert reward < -15.0


def test_success_needs_the_whole_hold_period():
    """The autopilot succeeds; with a tolerance it cannot meet, the same flight does not."""

    def fly(**task):
        config = make(task=task, disturbances={"turbulence_w20_mps": [9, 9]})
        vehicle = SimVehicle(config)
        pilot = Autopilot(vehicle.airframe.gains, 0.05)
        sample = vehicle.reset(21)
        while not vehicle.done:
            sample = vehicle.step(pilot.command(sample, vehicle.setpoint))
        return vehicle

    assert fly().success
    strict = fly(airspeed_tolerance_mps=0.05)
    assert not strict.success
    assert strict.termination == "completed"


def test_nan_state_ends_the_episode_by_name():
    vehicle = SimVehicle(make(disturbances=CALM))
    vehicle.reset(1)
    vehicle.step(Command(math.nan, 0.0, 0.0, 0.5))
    for _ in range(5):
        if not vehicle.done:
            vehicle.step(vehicle.airframe.trim)
    assert vehicle.termination == "envelope: state is not finite"


def test_rate_setpoint_moves_and_the_others_stay():
    for task, moves in (("rate", True), ("hsa", False)):
        vehicle = SimVehicle(make(task={"name": task}))
        vehicle.reset(1)
        first = vehicle.setpoint
        vehicle.step(vehicle.airframe.trim)
        assert (vehicle.setpoint != first) is moves


def test_state_row_is_the_truth_in_log_order():
    vehicle = SimVehicle(make())
    vehicle.reset(1)
    vehicle.step(vehicle.airframe.trim)
    row, true = vehicle.state_row(), vehicle.true_state
    assert len(row) == 16
    assert row[0] == pytest.approx(0.05)
    assert row[3] == pytest.approx(-true.altitude_m)
    assert row[7:13] == pytest.approx(
        (true.roll_rad, true.pitch_rad, true.yaw_rad, true.p_radps, true.q_radps, true.r_radps)
    )
    assert row[13] == pytest.approx(true.airspeed_mps)


def test_wrong_config_is_a_config_error():
    with pytest.raises(ConfigError, match="did you mean 'aircraft'"):
        AircraftEnv({"aircrft": "ultrastick25e"})


def test_builder_on_the_aircraft_gives_the_environments_observation():
    """The flight computer's builder and the environment's are the same code on the same sample."""
    config = make(**EVERYTHING)
    env, vehicle = AircraftEnv(config), SimVehicle(config)
    builder = ObservationBuilder(make_contract(config))
    observation, _ = env.reset(seed=8)
    sample = vehicle.reset(8)
    rng = np.random.default_rng(0)
    for _ in range(30):
        np.testing.assert_array_equal(observation, builder.build(sample, vehicle.setpoint))
        action = rng.uniform(-0.5, 0.5, 4).astype(np.float32)
        observation, *_ = env.step(action)
        sample = vehicle.step(Command(**env.contract.commands(action)))
        builder.record(action.tolist())


@pytest.mark.parametrize("aircraft", ["ultrastick25e", "aerosonde"])
def test_an_episode_passes_over_home_and_where_it_starts_changes_nothing_that_is_observed(aircraft: str) -> None:
    """Or else the fence would act in nominal flight; position is no observation."""
    conditions = EnvironmentSettings(aircraft=aircraft)
    vehicle = SimVehicle(conditions)
    for seed in range(5):
        scenario = draw_scenario(conditions, vehicle.airframe, seed)
        at_home = replace(scenario, initial=replace(scenario.initial, north_m=0.0, east_m=0.0))
        runs = []
        for flown in (scenario, at_home):
            samples = [vehicle.start(flown)]
            samples += [vehicle.step(vehicle.airframe.trim) for _ in range(20)]
            runs.append(samples)
        start = scenario.initial
        assert 100.0 < math.hypot(start.north_m, start.east_m) < 400.0
        for moved, home in zip(*runs, strict=True):
            assert moved.north_m - home.north_m == pytest.approx(start.north_m, abs=1e-6)
            assert moved.east_m - home.east_m == pytest.approx(start.east_m, abs=1e-6)
            assert replace(moved, north_m=0.0, east_m=0.0) == replace(home, north_m=0.0, east_m=0.0)
