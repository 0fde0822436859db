"""Learning in flight: guard and leash in the loop, a collapse found and undone, and never begun by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from retrain_support import PATCH, champion
from sim2sky.agent.layers import evaluate
from sim2sky.agent.sb3 import load
from sim2sky.config.retraining import RealEnvSettings
from sim2sky.config.safety import SafetySettings, resolve_safety
from sim2sky.environments.airframe_limits import safety_of
from sim2sky.environments.hidden_aircraft import hidden_aircraft
from sim2sky.errors import ConfigError, NotSupportedError
from sim2sky.training.continuous_learning import finetune, finetune_with_real_data
from sim2sky.training.guarded_env import LEASH, GuardedAircraftEnv
from sim2sky.training.on_vehicle import lowest_expected_mean
from sim2sky.training.starting_point import open_starting_point


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return open_starting_point(champion(tmp_path_factory.mktemp("champion"), duration_s="2.0", n_epochs="2"))


def guarded(start, **limits):
    settings = hidden_aircraft(3, start.settings.environment)
    safety = safety_of(resolve_safety(SafetySettings(extends="default")).values, settings.aircraft)
    return GuardedAircraftEnv(settings, {**safety, **limits}, start.network)


def config(**changes):
    return RealEnvSettings.model_validate({"vehicle": "virtual", "rung": "vehicle", "aircraft_seed": 3, **changes})


# The environment ------------------------------------------------------------------------------------------------------


def test_what_reaches_the_aircraft_is_near_the_champions_answer_and_within_the_limits(start, monkeypatch):
    env = guarded(start)
    flown = []
    step = env.vehicle.step
    monkeypatch.setattr(env.vehicle, "step", lambda command: (flown.append(command), step(command))[1])
    observation, _ = env.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(30):
        own = np.asarray(evaluate(start.network, {"observation": observation[None]})[0])[0]
        observation, *_ = env.step(rng.choice([-1.0, 1.0, math.nan], 4))
        recorded = observation[-12:-8]  # previous_*_1: what was done
        assert np.all(np.abs(recorded - own) <= LEASH + 1e-5)
    assert len(flown) == 30
    assert all(-1.0 <= c <= 1.0 for command in flown for c in command)


def test_the_guard_is_in_the_loop(start):
    """A guard that allows no bank at all must be felt: it takes the aircraft, and the episode's record says so."""
    done, info = False, {}
    env = guarded(start, roll_max=8.0, attitude_hysteresis_deg=2.0)
    observation, _ = env.reset(seed=2)
    while not done:
        action = np.asarray(evaluate(start.network, {"observation": observation[None]})[0])[0]
        observation, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    assert info["guard"] > 5


def test_rewards_come_from_what_the_sensors_say(start):
    env, free = guarded(start), guarded(start)
    noisy = free.settings.model_dump(mode="json")
    noisy["disturbances"]["sensors"]["offsets"]["altitude_m"] = [15.0, 15.0]
    biased = GuardedAircraftEnv(
        type(free.settings).model_validate(noisy),
        safety_of(resolve_safety(SafetySettings(extends="default")).values, free.settings.aircraft),
        start.network,
    )
    env.reset(seed=4), biased.reset(seed=4)
    action = np.zeros(4)
    assert env.step(action)[1] != biased.step(action)[1]
    assert env.vehicle.true_state == biased.vehicle.true_state


# The collapse ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flights", [1, 2, 4])
def test_the_limit_is_exceeded_as_often_as_it_says(flights):
    """Flights of the very same policy fall below in alpha of the cases (normal returns, 4,000 draws)."""
    rng = np.random.default_rng(0)
    alpha, below = 0.05, 0
    for _ in range(4000):
        below += rng.normal(100, 15, flights).mean() < lowest_expected_mean(
            rng.normal(100, 15, 20).tolist(), flights, alpha
        )
    assert stats.binomtest(below, 4000, alpha).pvalue > 1e-4


def test_a_collapse_is_found_stopped_and_undone(start, tmp_path, monkeypatch):
    """After its first update the policy is ruined on purpose: the weights that come out are the champion's."""
    from stable_baselines3 import PPO

    ruined = []
    train = PPO.train

    def ruin(self):
        train(self)
        with torch.no_grad():
            self.policy.action_net.bias += torch.tensor([3.0, -3.0, 3.0, -3.0])
        ruined.append(self.num_timesteps)

    monkeypatch.setattr(PPO, "train", ruin)
    # 2 s are too short for anything to fall: let the ruin be felt in what is earned, leash and guard notwithstanding.
    monkeypatch.setattr("sim2sky.training.guarded_env.LEASH", 2.0)
    made = finetune(start, config(), 100 * 160, tmp_path / "run")
    assert "collapsed" in made.note
    assert len(ruined) < 5
    rows = {"observation": np.random.default_rng(0).normal(0.0, 0.5, (50, 24)).astype(np.float32)}
    change = load(tmp_path / "run" / "model.zip").sb3_predict(rows, None) - load(start.path).sb3_predict(rows, None)
    assert np.abs(change).max() < 0.2


def test_learning_that_harms_nothing_is_not_stopped(start, tmp_path):
    made = finetune(start, config(), 3 * 160, tmp_path / "run")
    assert "collapsed" not in made.note
    assert "and 12 while learning" in made.note
    load(tmp_path / "run" / "model.zip")


# Only by name ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vehicle", ["virtual", "hil", "mavlink"])
def test_it_is_never_chosen_by_itself(vehicle):
    assert RealEnvSettings(vehicle=vehicle, randomization=PATCH).chosen == "refit"
    assert RealEnvSettings(vehicle=vehicle, logs=("x.h5",), randomization=PATCH).chosen == "refit"
    assert RealEnvSettings(vehicle=vehicle, logs=("x.h5",)).chosen == "offline"


@pytest.mark.parametrize("vehicle", ["hil", "mavlink"])
def test_a_vehicle_that_cannot_be_put_back_is_refused_with_the_safe_rungs(start, tmp_path, vehicle):
    with pytest.raises(NotSupportedError, match="not supported: learning in flight") as error:
        finetune(start, config(vehicle=vehicle), 1000, tmp_path / "run")
    assert "refit, offline and residual" in error.value.hint
    assert not (tmp_path / "run").exists()


def test_sac_does_not_learn_in_flight(tmp_path):
    start = open_starting_point(champion(tmp_path, "kite"))
    with pytest.raises(NotSupportedError, match="SAC"):
        finetune(start, config(), 1000, tmp_path / "run")


# The call of the specification ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "vehicle"),
        ({"vehicle": "balloon"}, "'virtual', 'hil' or 'mavlink'"),
        ({"vehicle": "virtual"}, "needs `logs`"),
        ({"vehicle": "virtual", "rung": "refit"}, "needs `randomization`"),
        ({"vehicle": "virtual", "rung": "residual"}, "needs `randomization`"),
        ({"vehicle": "virtual", "rungs": "refit"}, "did you mean 'rung'"),
    ],
)
def test_a_wrong_configuration_names_key_and_remedy(start, given, text):
    with pytest.raises(ConfigError, match=text):
        finetune_with_real_data(str(start.path), given)


def test_the_output_must_not_touch_another_agent(start, tmp_path):
    given = {"vehicle": "virtual", "randomization": PATCH}
    with pytest.raises(ConfigError, match="would overwrite files of the champion"):
        finetune_with_real_data(str(start.path), given, output_path=str(start.path.with_name("new.zip")))
    (tmp_path / "other.zip").write_bytes(b"")
    with pytest.raises(ConfigError, match="holds another agent"):
        finetune_with_real_data(str(start.path), given, output_path=str(tmp_path / "new.zip"))
    with pytest.raises(ConfigError, match=r"ends in \.zip"):
        finetune_with_real_data(str(start.path), given, output_path=str(tmp_path / "new"))
