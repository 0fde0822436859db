"""Training runs: results with provenance, stopped by Ctrl-C or a kill and resumed, refused when misused."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sim2sky.agent.contract import Contract
from sim2sky.config import dump_yaml, load_settings, parse_settings
from sim2sky.config.training import TrainingSettings
from sim2sky.environments.aircraft_env import AircraftEnv
from sim2sky.environments.tasks import make_contract
from sim2sky.errors import ConfigError, Sim2SkyError
from sim2sky.training.train import train

TINY_PPO = """
algorithm: PPO
total_timesteps: 512
n_envs: 2
checkpoint_every: 128
hyperparameters: {n_steps: 64, batch_size: 64, n_epochs: 1}
environment: {task: {duration_s: 5, hold_s: 1}}
"""
TINY = {
    "PPO": TINY_PPO,
    "SAC": """
algorithm: SAC
total_timesteps: 200
n_envs: 2
net_arch: [8]
hyperparameters: {learning_starts: 50, buffer_size: 400, batch_size: 16}
environment: {task: {duration_s: 5, hold_s: 1}}
""",
}
TINY["TD3"] = TINY["SAC"].replace("SAC", "TD3")
TINY["TQC"] = TINY["SAC"].replace("SAC", "TQC")


def settings(text: str) -> TrainingSettings:
    return parse_settings(text, TrainingSettings, source="test.yaml")


@pytest.mark.parametrize("algorithm", list(TINY))
def test_run_leaves_a_complete_traceable_folder(tmp_path, algorithm):
    run = settings(TINY[algorithm])
    seen = []
    result = train(run, tmp_path / "run", command=["sim2sky", "train", "x"], on_progress=seen.append)
    assert result.finished
    assert result.timesteps >= run.total_timesteps
    folder = result.folder
    assert load_settings(folder / "config.yaml", TrainingSettings) == run
    assert Contract.from_json(json.loads((folder / "contract.json").read_text())) == make_contract(run.environment)
    record = json.loads((folder / "run.json").read_text())
    assert record["algorithm"] == algorithm
    assert record["command"] == ["sim2sky", "train", "x"]
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"]["stable-baselines3"] == stable_baselines3.__version__
    assert zipfile.is_zipfile(folder / "model.zip")
    assert (folder / "vecnormalize.pkl").is_file()
    assert list((folder / "tensorboard").rglob("events.*"))
    assert not (folder / "checkpoint").exists()
    assert seen[-1].timesteps <= seen[-1].total_timesteps + run.n_envs * 64


def test_no_path_of_this_machine_travels_with_the_agent(tmp_path):
    """Stable-Baselines3 pickles functions by value, with the name of the file that holds them."""
    result = train(settings(TINY_PPO), tmp_path / "run")
    here = str(Path(train.__code__.co_filename).parent).encode()
    with zipfile.ZipFile(result.folder / "model.zip") as archive:
        data = json.loads(archive.read("data"))
        held = [v for v in data.values() if isinstance(v, dict) and ":serialized:" in v]
        pickles = [base64.b64decode(v[":serialized:"]) for v in held]
        pickles += [archive.read(name) for name in archive.namelist()]
    pickles.append((result.folder / "vecnormalize.pkl").read_bytes())
    assert len(pickles) > 10
    assert not [p[:60] for p in pickles if here in p]


def test_the_learning_rate_falls_linearly_to_its_fraction(tmp_path):
    run = settings(TINY_PPO + "learning_rate: 1.0e-3\nlearning_rate_final_fraction: 0.1\n")
    result = train(run, tmp_path / "run")
    schedule = PPO.load(result.folder / "model.zip", device="cpu").lr_schedule
    assert [schedule(remaining) for remaining in (1.0, 0.5, 0.0)] == pytest.approx([1e-3, 5.5e-4, 1e-4])


def test_without_normaliser_none_is_saved(tmp_path):
    result = train(settings(TINY_PPO + "normalize: false\n"), tmp_path / "run")
    assert not (result.folder / "vecnormalize.pkl").exists()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(folder / "model.zip") as archive, archive.open("policy.pth") as stream:
        return torch.load(stream, weights_only=True)


def test_same_seed_same_weights(tmp_path):
    for name in ("a", "b"):
        train(settings(TINY_PPO), tmp_path / name)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[k], b[k]) for k in a)
    train(settings(TINY_PPO + "seed: 1\n"), tmp_path / "c")
    assert not all(torch.equal(a[k], v) for k, v in weights(tmp_path / "c").items())


def start_run(tmp_path: Path, text: str) -> subprocess.Popen:
    (tmp_path / "run.yaml").write_text(text)
    code = (
        "import sys; from pathlib import Path; from sim2sky.config import load_settings;"
        "from sim2sky.config.training import TrainingSettings; from sim2sky.training.train import train;"
        "r = train(load_settings(Path(sys.argv[1]), TrainingSettings), Path(sys.argv[2]),"
        " on_progress=lambda p: print(p.timesteps, flush=True)); print('finished', r.finished)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run.yaml"), str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


LONG_PPO = TINY_PPO.replace("total_timesteps: 512", "total_timesteps: 100000")


def test_ctrl_c_leaves_a_run_that_resumes_with_normaliser_and_random_state(tmp_path):
    process = start_run(tmp_path, LONG_PPO)
    try:
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert "finished False" in out, err
    folder = tmp_path / "run"
    assert not (folder / "model.zip").exists()  # nothing that looks like a finished agent
    state = json.loads((folder / "checkpoint" / "state.json").read_text())
    assert state["timesteps"] > 0

    saved = VecNormalize.load(str(folder / "checkpoint" / "vecnormalize.pkl"), DummyVecEnv([lambda: AircraftEnv(None)]))
    states = pickle.loads((folder / "checkpoint" / "random.pkl").read_bytes())
    assert len(states["environments"]) == 2
    text = LONG_PPO.replace("100000", str(state["timesteps"] + 256))
    with pytest.raises(ConfigError, match="other settings"):
        train(settings(text), folder, resume=True)

    # Resume the very run, with an end that is reachable in a test.
    (folder / "config.yaml").write_text(dump_yaml(settings(text)))
    result = train(settings(text), folder, resume=True)
    assert result.finished
    assert result.timesteps >= state["timesteps"] + 256
    assert result.seconds > state["seconds"]
    final = VecNormalize.load(str(folder / "vecnormalize.pkl"), DummyVecEnv([lambda: AircraftEnv(None)]))
    assert final.obs_rms.count >= saved.obs_rms.count + 256
    assert not (folder / "checkpoint").exists()


def test_resume_restores_the_random_generators(tmp_path):
    """Resumed twice from one checkpoint, the run ends with the same weights: nothing random was left out."""
    process = start_run(tmp_path, LONG_PPO)
    try:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    folder = tmp_path / "run"
    steps = json.loads((folder / "checkpoint" / "state.json").read_text())["timesteps"]
    text = LONG_PPO.replace("100000", str(steps + 256))
    (folder / "config.yaml").write_text(dump_yaml(settings(text)))
    results = []
    for name in ("first", "second"):
        subprocess.run(["cp", "-r", str(folder), str(tmp_path / name)], check=True)
        np.random.seed(len(name))  # noqa: NPY002 - what the process did before must not matter
        train(settings(text), tmp_path / name, resume=True)
        results.append(weights(tmp_path / name))
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])


def test_kill_at_any_moment_costs_at_most_the_steps_since_the_last_checkpoint(tmp_path):
    process = start_run(tmp_path, LONG_PPO)
    try:
        for _ in range(8):
            process.stdout.readline()
        process.kill()
    finally:
        process.communicate(timeout=60)
    state = json.loads((tmp_path / "run" / "checkpoint" / "state.json").read_text())
    assert state["timesteps"] >= 128
    assert VecNormalize.load(
        str(tmp_path / "run" / "checkpoint" / "vecnormalize.pkl"), DummyVecEnv([lambda: AircraftEnv(None)])
    )


def test_off_policy_resume_keeps_the_replay_buffer(tmp_path):
    run = settings(TINY["SAC"].replace("total_timesteps: 200", "total_timesteps: 100000"))
    started = time.monotonic()

    def stop(progress):
        if progress.timesteps >= 120 and time.monotonic() - started < 60:
            os.kill(os.getpid(), signal.SIGINT)

    result = train(run, tmp_path / "run", on_progress=stop)
    assert not result.finished
    assert (result.folder / "checkpoint" / "replay_buffer.pkl").is_file()
    shorter = settings(TINY["SAC"].replace("total_timesteps: 200", f"total_timesteps: {result.timesteps + 50}"))
    (result.folder / "config.yaml").write_text(dump_yaml(shorter))
    again = train(shorter, result.folder, resume=True)
    assert again.finished


# Misuse ---------------------------------------------------------------------------------------------------------------


def test_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("x")
    with pytest.raises(ConfigError, match="not empty"):
        train(settings(TINY_PPO), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["precious.txt"]


def test_nothing_to_resume(tmp_path):
    with pytest.raises(ConfigError, match="no interrupted run"):
        train(settings(TINY_PPO), tmp_path / "run", resume=True)


def test_unknown_hyperparameter_is_named(tmp_path):
    with pytest.raises(ConfigError, match="n_stepz"):
        train(settings(TINY_PPO.replace("n_steps", "n_stepz")), tmp_path / "run")


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Sim2SkyError, match="cannot be written"):
        train(settings(TINY_PPO), tmp_path / "file" / "run")


def test_unknown_algorithm_names_the_known():
    with pytest.raises(ConfigError, match="'PPO', 'SAC', 'TD3' or 'TQC'"):
        settings("algorithm: DQN\n")
