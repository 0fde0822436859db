"""Learning from logs: what the transitions are, what is refused, and that a better logged action is learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retrain_support import AGENTS, champion, write_log
from sim2sky.agent.layers import evaluate
from sim2sky.agent.sb3 import load
from sim2sky.config.retraining import RealEnvSettings
from sim2sky.environments.aircraft_env import AircraftEnv
from sim2sky.errors import FlightLogError, NotSupportedError
from sim2sky.training.continuous_learning import finetune, finetune_with_real_data
from sim2sky.training.offline_updates import TRUST_REGION, advantages
from sim2sky.training.starting_point import open_starting_point
from sim2sky.training.transitions import LoggedFlight, read_transitions, vehicle_of


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("champion")
    return open_starting_point(champion(folder, duration_s="15.0"))


@pytest.fixture(scope="module")
def quiet(start):
    """Its environment without noise, delay and wind: the log's measured states are then the truth."""
    data = start.settings.environment.model_dump(mode="json")
    sensors = data["disturbances"]["sensors"]
    sensors |= {name: 0.0 for name in sensors if name not in ("noise_scale", "offsets")}
    data["disturbances"] |= {"action_delay_s": [0.0, 0.0], "wind_mps": [0.0, 0.0], "turbulence_w20_mps": [0.0, 0.0]}
    return type(start.settings.environment).model_validate(data)


@pytest.fixture(scope="module")
def log(start, quiet, tmp_path_factory):
    return write_log(tmp_path_factory.mktemp("log") / "real.h5", start, quiet)


def settings(log, **changes):
    return RealEnvSettings.model_validate({"vehicle": "virtual", "rung": "offline", "logs": [log], **changes})


def change_on(start, made, log):
    flights = read_transitions([log], start.contract, "virtual")
    rows = {"observation": np.concatenate([f.observations for f in flights])}
    return np.asarray(evaluate(made.network, rows)[0]) - np.asarray(evaluate(start.network, rows)[0])


def test_transitions_are_those_of_the_environment(start, quiet, log):
    """The same flight stepped through AircraftEnv: observations, actions and (without sideslip) rewards agree."""
    flight = read_transitions([log], start.contract, "virtual")[0]
    env = AircraftEnv(quiet)
    observation, _ = env.reset(seed=0)
    assert len(flight.rewards) == quiet.ticks
    for t in range(60):
        np.testing.assert_allclose(flight.observations[t], observation, atol=1e-5)
        observation, reward, *_ = env.step(flight.actions[t])
        slip = min(abs(env.vehicle.beta_rad()), 0.2) * 0.25
        assert flight.rewards[t] == pytest.approx(reward + slip, abs=2e-3)
    assert flight.by_policy.all()
    assert not flight.ended_early


def test_ticks_of_the_guard_are_no_decisions_of_the_policy(start, log):
    import h5py

    copy = log.with_name("guarded.h5")
    copy.write_bytes(log.read_bytes())
    with h5py.File(copy, "r+") as file:
        file["episode_0000/guard"][10:30, 0] = 1
    flight = read_transitions([copy], start.contract, "virtual")[0]
    assert not flight.by_policy[10:30].any()
    assert flight.by_policy.sum() == len(flight.by_policy) - 20
    with h5py.File(copy, "r+") as file:
        for name in file:
            if name.startswith("episode"):
                file[f"{name}/guard"][:, 0] = 1
    with pytest.raises(FlightLogError, match="in none of the logged flights"):
        read_transitions([copy], start.contract, "virtual")


def test_logs_of_another_contract_vehicle_or_of_a_simulation_are_refused(start, quiet, log, tmp_path):
    other = quiet.model_copy(update={"task": quiet.task.model_copy(update={"name": "attitude"})})
    from sim2sky.environments.tasks import make_contract

    foreign = write_log(tmp_path / "foreign.h5", start, quiet, flights=1, contract=_renamed(make_contract(quiet)))
    with pytest.raises(FlightLogError, match="another contract"):
        read_transitions([foreign], start.contract, "virtual")
    assert make_contract(other).hash != start.contract.hash
    with pytest.raises(FlightLogError, match="not 'mavlink'"):
        read_transitions([log], start.contract, "mavlink")
    simulated = write_log(tmp_path / "sim.h5", start, quiet, flights=1, source="sim")
    with pytest.raises(FlightLogError, match="teaches nothing"):
        vehicle_of([simulated])
    real = write_log(tmp_path / "real.h5", start, quiet, flights=1, source="real")
    assert vehicle_of([real]) == "mavlink"
    with pytest.raises(FlightLogError, match="different kinds"):
        vehicle_of([real, log])


def _renamed(contract):
    return replace(contract, rate_hz=contract.rate_hz + 1.0)


def test_a_log_of_the_policys_own_commands_teaches_nothing(start, quiet, tmp_path):
    log = write_log(tmp_path / "own.h5", start, quiet, excitation=0.0)
    with pytest.raises(NotSupportedError, match="the policy's own"):
        finetune(start, settings(log), 2560, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("delay_s", [0.0, 0.15])
def test_awr_moves_towards_what_earned_more(start, log, tmp_path, delay_s):
    """A planted lesson: whenever a flight happened to command more right rudder, it earned more, at once. Told that
    commands arrive three ticks later, it finds nothing in it."""
    flights = read_transitions([log], start.contract, "virtual")
    taught = [
        LoggedFlight(f.observations, f.actions, 2.0 * np.sign(_excess(start, f)[:, 2]), f.by_policy, False)
        for f in flights
    ]
    from sim2sky.training import offline_updates

    hyperparameters = {**start.settings.hyperparameters, "gamma": 0.5}  # the lesson is told at once
    short = replace(start, settings=start.settings.model_copy(update={"hyperparameters": hyperparameters}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offline_updates, "read_transitions", lambda *_: taught)
        patch_ = {"disturbances": {"action_delay_s": [delay_s, delay_s]}}
        made = finetune(short, settings(log, randomization=patch_), 60_000, tmp_path / "run")
    change = change_on(start, load(made.folder / "model.zip"), log)
    if delay_s:
        assert abs(change[:, 2].mean()) < 0.01
        return
    assert change[:, 2].mean() > 0.02
    assert abs(change[:, 2].mean()) > 2.0 * np.abs(change[:, [0, 1, 3]].mean(axis=0)).max()
    assert np.sqrt(np.mean(change**2)) <= TRUST_REGION * 1.01


def _excess(start, flight):
    return flight.actions - np.asarray(evaluate(start.network, {"observation": flight.observations})[0])


def test_advantage_is_counted_from_when_the_action_arrives():
    """A reward three ticks after an action belongs to it only where the delay says so."""
    n = 400
    rng = np.random.default_rng(0)
    actions = rng.choice([-0.5, 0.5], (n, 4)).astype(np.float32)
    observations = rng.normal(size=(n, 5)).astype(np.float32)
    delay, rewards = 3, np.zeros(n)
    rewards[delay:] = actions[:-delay, 0]
    flights = [LoggedFlight(observations, actions, rewards, np.ones(n, bool), False)] * 2

    def explained(assumed):
        (ticks, gained), _ = advantages(flights, 0.5, assumed)
        return np.corrcoef(gained, actions[ticks, 0])[0, 1]

    assert explained(delay) > 0.7
    assert explained(delay + 1) < 0.2


def test_short_flights_are_refused():
    short = LoggedFlight(
        np.zeros((20, 5), np.float32), np.zeros((20, 4), np.float32), np.zeros(20), np.ones(20, bool), False
    )
    with pytest.raises(FlightLogError, match="longer than"):
        advantages([short], 0.98, 0)


def test_a_crash_is_charged_to_the_actions_before_it():
    n, ones = 60, np.ones(60, bool)
    observations = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    calm = LoggedFlight(observations, np.zeros((n, 4), np.float32), np.ones(n), ones, False)
    crash = LoggedFlight(observations, np.zeros((n, 4), np.float32), np.ones(n), ones, True)
    gained = dict(zip(*advantages([calm, crash], 0.9, 0)[1], strict=True))
    assert gained[n - 1] < gained[0] - 10.0


@pytest.mark.parametrize("agent", ["hawk", "kite"])
def test_both_families_stay_within_the_trust_region_and_resume(agent, log, tmp_path):
    start = open_starting_point(AGENTS / agent / "model.zip")
    made = finetune(start, settings(log), 2560, tmp_path / "run")
    assert made.finished
    assert "10 updates from" in made.note
    change = change_on(start, load(tmp_path / "run" / "model.zip"), log)
    assert 0.0 < np.sqrt(np.mean(change**2)) <= TRUST_REGION * 1.01
    written = (tmp_path / "run" / "model.zip").stat().st_mtime_ns
    finetune(start, settings(log), 2560, tmp_path / "run")
    assert (tmp_path / "run" / "model.zip").stat().st_mtime_ns == written


def test_sac_does_not_learn_across_a_delay_it_cannot_remember(log, tmp_path):
    start = open_starting_point(AGENTS / "kite" / "model.zip")
    patch = {"disturbances": {"action_delay_s": [0.25, 0.25]}}
    with pytest.raises(NotSupportedError, match="remembers the last 3 actions"):
        finetune(start, settings(log, randomization=patch), 2560, tmp_path / "run")


def test_the_specifications_call_writes_a_whole_agent(start, log, tmp_path):
    output = tmp_path / "models" / "finetuned.zip"
    config = {"vehicle": "virtual", "logs": [str(log)]}
    result = finetune_with_real_data(str(start.path), config, n_timesteps=2560, output_path=str(output))
    assert result.rung == "offline"
    made = load(output)
    assert made.contract == start.contract
    assert made.provenance["vecnormalize_sha256"] is not None
