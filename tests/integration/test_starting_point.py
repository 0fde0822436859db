"""Opening an agent for more training: same answers as the agent's own, no pickle run, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

from retrain_support import AGENTS, champion
from sim2sky.agent.layers import evaluate
from sim2sky.agent.sb3 import load
from sim2sky.agent.sb3_archive import read_variables
from sim2sky.errors import AgentError, ConfigError, NotSupportedError, Sim2SkyError
from sim2sky.training.refit import continue_training, refit_settings
from sim2sky.training.starting_point import open_starting_point
from sim2sky.training.train import make_env, make_model


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/never-written-by-a-test", "w"))


@pytest.fixture(params=["hawk", "kite"])
def start(request):
    return open_starting_point(AGENTS / request.param / "model.zip")


def observations(n=64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0.0, 0.5, (n, 24)).astype(np.float32)


def fresh_model(start, **changes):
    run = refit_settings(start, start.settings.environment, 1000, 0).model_copy(update={"n_envs": 2, **changes})
    return make_model(run, make_env(run), None, start)


def test_a_model_made_from_it_answers_as_the_agent_does(start):
    model, rows = fresh_model(start), observations()
    normalised = model.get_vec_normalize_env().normalize_obs(rows)
    own = np.asarray(evaluate(start.network, {"observation": rows})[0])
    np.testing.assert_allclose(model.predict(normalised, deterministic=True)[0], own, atol=2e-6)


def test_critics_and_entropy_coefficient_come_along():
    start = open_starting_point(AGENTS / "kite" / "model.zip")
    model = fresh_model(start)
    held = {k: v.numpy() for k, v in model.policy.state_dict().items()}
    assert any(k.startswith("critic_target") for k in held)
    for name, value in start.state.items():
        np.testing.assert_array_equal(held[name], value)
    assert float(model.log_ent_coef.detach().exp()) == pytest.approx(np.exp(start.variables["log_ent_coef"][0]))
    assert float(model.log_ent_coef.detach().exp()) < 0.1  # not the trainer's fresh 1.0


def test_shapes_come_from_the_weights_not_from_the_configuration(tmp_path):
    path = champion(tmp_path)
    config = path.with_name("config.yaml")
    config.write_text(config.read_text().replace("- 64", "- 32"))
    start = open_starting_point(path)
    assert start.net_arch == {"pi": [64, 64], "vf": [64, 64]}
    assert fresh_model(start).policy.net_arch == start.net_arch


def test_a_hostile_zip_is_refused_and_nothing_of_it_runs(tmp_path):
    path = champion(tmp_path)
    for name in ("policy.pth", "pytorch_variables.pth", "data"):
        copy = tmp_path / name / "model.zip"
        copy.parent.mkdir()
        for beside in ("config.yaml", "contract.json", "vecnormalize.pkl"):
            (copy.parent / beside).write_bytes(path.with_name(beside).read_bytes())
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
            for entry in old.namelist():
                data = old.read(entry)
                if entry == name == "data":
                    fields = json.loads(data)
                    import base64

                    fields["observation_space"][":serialized:"] = base64.b64encode(pickle.dumps(Evil())).decode()
                    data = json.dumps(fields).encode()
                elif entry == name:
                    stream = io.BytesIO()
                    torch.save({"x": Evil()}, stream)
                    data = stream.getvalue()
                new.writestr(entry, data)
        with pytest.raises(AgentError):
            open_starting_point(copy)


def test_variables_of_a_zip_without_them_are_none(tmp_path):
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
    assert read_variables(path) == {}
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(AgentError, match="truncated"):
        read_variables(tmp_path / "broken.zip")


def test_without_its_configuration_it_cannot_be_trained_on(tmp_path):
    path = champion(tmp_path)
    path.with_name("config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"no config\.yaml"):
        open_starting_point(path)


def test_configuration_of_another_algorithm_is_refused(tmp_path):
    path = champion(tmp_path, algorithm="SAC")
    with pytest.raises(NotSupportedError, match="SAC"):
        open_starting_point(path)


def test_configuration_of_another_task_is_refused(tmp_path):
    path = champion(tmp_path, name="attitude")
    with pytest.raises(AgentError, match="contract"):
        open_starting_point(path)


def test_configuration_without_the_normaliser_is_refused(tmp_path):
    path = champion(tmp_path, normalize="false")
    start = open_starting_point(path)
    with pytest.raises(AgentError, match="normaliser"):
        fresh_model(start)


def test_training_on_keeps_the_champion_untouched_and_changes_the_challenger(tmp_path):
    path = champion(tmp_path, n_steps="64", batch_size="64", n_envs="4")
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    start = open_starting_point(path)
    run = refit_settings(start, start.settings.environment, 256, 1)
    result = continue_training(start, run, tmp_path / "run")
    assert result.finished
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before
    old, new = load(path), load(tmp_path / "run" / "model.zip")
    rows = {"observation": observations()}
    change = np.abs(np.asarray(evaluate(new.network, rows)[0]) - np.asarray(evaluate(old.network, rows)[0]))
    assert 0.0 < change.max() < 0.5
    again = open_starting_point(tmp_path / "run" / "model.zip")  # a challenger can be the next champion
    assert again.settings.mixed_with == start.settings.environment
    assert continue_training(start, run, tmp_path / "run").seconds == 0.0  # finished: left alone


def test_normaliser_moves_slowly_and_only_where_not_frozen(tmp_path):
    start = open_starting_point(champion(tmp_path, n_steps="64", batch_size="64", n_envs="4"))
    moved = {}
    for frozen in (True, False):
        run = refit_settings(start, start.settings.environment, 256, 1)
        folder = tmp_path / f"run{frozen}"
        continue_training(start, run.model_copy(update={"freeze_normalizer": frozen}), folder)
        mean = open_starting_point(folder / "model.zip").normaliser.statistics[None][0]
        moved[frozen] = np.abs(mean - start.normaliser.statistics[None][0]).max()
    assert moved[True] == 0.0
    assert 0.0 < moved[False] < 0.01


def test_sac_is_trained_on_from_a_buffer_of_its_own_flying(tmp_path):
    path = champion(tmp_path, "kite", n_envs="4", gradient_steps="2")
    start = open_starting_point(path)
    seen = []

    def look(model):
        seen.append(model)

    run = refit_settings(start, start.settings.environment, 32, 1)
    result = continue_training(start, run, tmp_path / "run", on_model=look)
    assert result.finished
    buffer = seen[0].replay_buffer
    assert buffer.size() * 4 >= 8000  # of four environments each
    assert np.abs(buffer.actions).max() <= 1.0
    done = buffer.dones[: buffer.pos] == 1.0
    assert 0 < done.sum() < buffer.pos
    load(tmp_path / "run" / "model.zip")


def test_a_killed_run_without_checkpoint_begins_again(tmp_path):
    start = open_starting_point(champion(tmp_path, n_steps="64", batch_size="64", n_envs="4"))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("left behind")
    run = refit_settings(start, start.settings.environment, 256, 1)
    try:
        assert continue_training(start, run, folder).finished
    except Sim2SkyError as error:
        pytest.fail(f"a retraining's own folder must not stop it: {error}")
