"""Train an agent on `AircraftEnv` with Stable-Baselines3, so that the run can be stopped, resumed and traced.

A run folder holds `model.zip`, `vecnormalize.pkl`, `contract.json`, `config.yaml` (resolved), `run.json` (command,
versions, seed, time) and TensorBoard logs. While a run is unfinished, `checkpoint/` holds what it takes to go on.
"""

from __future__ import annotations

import functools
import json
import pickle
import platform
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize

from sim2sky.config import dump_yaml
from sim2sky.config.training import TrainingSettings
from sim2sky.environments.aircraft_env import AircraftEnv
from sim2sky.environments.tasks import make_contract
from sim2sky.errors import ConfigError, Sim2SkyError
from sim2sky.training.starting_point import StartingPoint

__all__ = ["Progress", "TrainingResult", "begin_run", "finish_run", "make_env", "make_model", "train"]

_ACTIVATIONS = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "elu": torch.nn.ELU}
_PACKAGES = ("sim2sky", "stable-baselines3", "sb3-contrib", "torch", "gymnasium", "jsbsim", "numpy")


@dataclass(frozen=True)
class Progress:
    """State of a run, for progress bars.

    Attributes:
        success_rate, mean_reward: over the last 100 episodes; NaN before the first has ended.
    """

    timesteps: int
    total_timesteps: int
    success_rate: float
    mean_reward: float


@dataclass(frozen=True)
class TrainingResult:
    """What a run left behind.

    Attributes:
        finished: False after an interruption; `resume=True` goes on.
        seconds: wall time of training, all sittings together.
    """

    folder: Path
    finished: bool
    timesteps: int
    seconds: float


def train(
    settings: TrainingSettings,
    folder: Path,
    *,
    resume: bool = False,
    start: StartingPoint | None = None,
    on_model: Callable[[BaseAlgorithm], None] | None = None,
    command: Sequence[str] = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> TrainingResult:
    """Train an agent into `folder`; Ctrl-C (SIGINT) or SIGTERM stop it at the next step and leave it resumable.

    Args:
        settings: the run.
        folder: must be empty or absent unless `resume`.
        resume: go on from the checkpoint in `folder`; its settings must be the same.
        start: begin with this agent's weights and normaliser instead of fresh ones.
        on_model: given the model before it learns, after a resume as well; to fix part of its weights, say.
        command: recorded as provenance.
        on_progress: called after each rollout.

    Raises:
        ConfigError: the folder holds another run, or nothing to resume, or a hyper-parameter is unknown.
        Sim2SkyError: the folder cannot be written.
    """
    resolved = dump_yaml(settings)
    checkpoint = folder / "checkpoint"
    _check_folder(folder, checkpoint, resolved, resume)
    torch.set_num_threads(1)  # two threads cost six times the processor time on nets of this size
    env = make_env(settings)
    try:
        begin_run(settings, folder)
        if resume:
            model, env, seconds = _load_checkpoint(settings, checkpoint, env)
        else:
            model, seconds = make_model(settings, env, folder / "tensorboard", start), 0.0
        if on_model is not None:
            on_model(model)
        return _learn(settings, model, folder, seconds, command, on_progress)
    finally:
        env.close()


def _check_folder(folder: Path, checkpoint: Path, resolved: str, resume: bool) -> None:
    if resume:
        if not (checkpoint / "state.json").is_file():
            raise ConfigError(f"{folder}: there is no interrupted run to resume", hint="leave out --resume")
        if (folder / "config.yaml").read_text(encoding="utf-8") != resolved:
            raise ConfigError(
                f"{folder}: the interrupted run had other settings",
                hint=f"resume with --config {folder / 'config.yaml'}",
            )
    elif (checkpoint / "state.json").is_file():
        raise ConfigError(f"{folder}: holds an interrupted run", hint="go on with --resume, or name another folder")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists and is not empty", hint="name another folder, or remove this one")


def begin_run(settings: TrainingSettings, folder: Path) -> None:
    """Make a run's folder with its settings and contract.

    Raises:
        Sim2SkyError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "config.yaml", dump_yaml(settings).encode())
        contract = make_contract(settings.environment)
        _write(folder / "contract.json", json.dumps(contract.to_json(), indent=1).encode())
    except OSError as error:
        raise Sim2SkyError(f"{folder}: cannot be written: {error.strerror}", hint="name another folder") from error


def make_env(settings: TrainingSettings) -> VecEnv:
    """The run's environments, behind a fresh normaliser if it has one."""
    flown = [settings.environment, settings.mixed_with or settings.environment]
    makers: list[Callable[[], gymnasium.Env[Any, Any]]] = [
        functools.partial(AircraftEnv, flown[i % 2]) for i in range(settings.n_envs)
    ]
    env: VecEnv = VecMonitor(DummyVecEnv(makers), info_keywords=("is_success",))
    if settings.normalize:
        gamma = float(settings.hyperparameters.get("gamma", 0.99))
        env = VecNormalize(env, norm_obs=True, norm_reward=False, clip_obs=settings.clip_obs, gamma=gamma)
        env.training = not settings.freeze_normalizer
    return env


def _algorithm(name: str) -> type[BaseAlgorithm]:
    if name == "TQC":
        from sb3_contrib import TQC

        return TQC
    return {"PPO": PPO, "SAC": SAC, "TD3": TD3}[name]


def make_model(
    settings: TrainingSettings, env: VecEnv, tensorboard: Path | None = None, start: StartingPoint | None = None
) -> BaseAlgorithm:
    """A model ready to learn in `env`; with `start`, of that agent's shape, weights and normaliser.

    Raises:
        ConfigError: a hyper-parameter is unknown.
        AgentError: the starting point does not fit the settings.
    """
    # A class of the library, not a function of ours: a function would be pickled into the zip with this file's path.
    rate = settings.learning_rate
    schedule = LinearSchedule(rate, rate * settings.learning_rate_final_fraction, end_fraction=1.0)
    kwargs: dict[str, Any] = dict(settings.hyperparameters)
    if settings.algorithm == "TD3":
        from stable_baselines3.common.noise import NormalActionNoise

        actions = env.action_space.shape or (0,)
        kwargs["action_noise"] = NormalActionNoise(np.zeros(actions), np.full(actions, 0.1))
    shape = {} if start is None else {"net_arch": start.net_arch}
    try:
        model = _algorithm(settings.algorithm)(
            "MlpPolicy",
            env,
            learning_rate=schedule,
            policy_kwargs={**settings.policy_kwargs(), **shape, "activation_fn": _ACTIVATIONS[settings.activation]},
            seed=settings.seed,
            device="cpu",
            tensorboard_log=None if tensorboard is None else str(tensorboard),
            **kwargs,
        )
    except TypeError as error:
        raise ConfigError(
            f"{settings.algorithm} does not take these hyperparameters: {error}",
            hint="the names are those of Stable-Baselines3's constructor",
        ) from error
    if start is not None:
        start.load_into(model)
    return model


class _Watch(BaseCallback):
    """Reports progress, saves checkpoints, and stops the run when asked to."""

    def __init__(
        self, settings: TrainingSettings, save: Callable[[], None], report: Callable[[Progress], None]
    ) -> None:
        super().__init__()
        self.stop_requested = False
        self._settings, self._save, self._report = settings, save, report
        self._next_checkpoint = 0

    def _on_training_start(self) -> None:
        self._next_checkpoint = self.num_timesteps + self._settings.checkpoint_every

    def _on_step(self) -> bool:
        return not self.stop_requested

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer or []
        rate = float(np.mean([e["is_success"] for e in episodes])) if episodes else float("nan")
        reward = float(np.mean([e["r"] for e in episodes])) if episodes else float("nan")
        self.logger.record("rollout/success_rate", rate)
        self._report(Progress(self.num_timesteps, self._settings.total_timesteps, rate, reward))

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self._next_checkpoint:
            self._next_checkpoint = self.num_timesteps + self._settings.checkpoint_every
            self._save()


def _learn(
    settings: TrainingSettings,
    model: BaseAlgorithm,
    folder: Path,
    seconds_before: float,
    command: Sequence[str],
    on_progress: Callable[[Progress], None] | None,
) -> TrainingResult:
    started = time.monotonic()

    def seconds() -> float:
        return seconds_before + time.monotonic() - started

    watch = _Watch(settings, lambda: _save_checkpoint(model, folder, seconds()), on_progress or (lambda _: None))

    def request_stop(_signal: int, _frame: FrameType | None) -> None:
        watch.stop_requested = True

    previous = {s: signal.signal(s, request_stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        remaining = settings.total_timesteps - model.num_timesteps
        if remaining > 0:
            model.learn(remaining, callback=watch, reset_num_timesteps=False, tb_log_name=settings.algorithm)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if watch.stop_requested and model.num_timesteps < settings.total_timesteps:
        _save_checkpoint(model, folder, seconds())
        return TrainingResult(folder, False, model.num_timesteps, seconds())
    finish_run(settings, model, folder, seconds(), command)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return TrainingResult(folder, True, model.num_timesteps, seconds())


def _save_model(model: BaseAlgorithm, folder: Path) -> None:
    model.save(folder / "model.zip")
    normaliser = model.get_vec_normalize_env()
    if normaliser is not None:
        normaliser.save(str(folder / "vecnormalize.pkl"))


def _save_checkpoint(model: BaseAlgorithm, folder: Path, seconds: float) -> None:
    """Everything a resumed run needs, in one atomic rename."""
    new, final, old = (folder / name for name in ("checkpoint.new", "checkpoint", "checkpoint.old"))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    _save_model(model, new)
    if isinstance(model, OffPolicyAlgorithm):
        model.save_replay_buffer(new / "replay_buffer.pkl")
    env = model.get_env()
    states = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - Stable-Baselines3 draws from the global generator
        "torch": torch.get_rng_state(),
        "environments": env.get_attr("np_random") if env is not None else [],
    }
    (new / "random.pkl").write_bytes(pickle.dumps(states))
    _write(new / "state.json", json.dumps({"timesteps": model.num_timesteps, "seconds": seconds}).encode())
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _load_checkpoint(settings: TrainingSettings, checkpoint: Path, env: VecEnv) -> tuple[BaseAlgorithm, VecEnv, float]:
    """Load a checkpoint of one's own: unlike agents from elsewhere it is trusted, and is a pickle."""
    if settings.normalize:
        # `env` carries a fresh normaliser: put the saved one around the same environments.
        inner = env.venv if isinstance(env, VecNormalize) else env
        env = VecNormalize.load(str(checkpoint / "vecnormalize.pkl"), inner)  # type: ignore[arg-type]
    model = _algorithm(settings.algorithm).load(checkpoint / "model.zip", env=env, device="cpu")
    if isinstance(model, OffPolicyAlgorithm):
        model.load_replay_buffer(checkpoint / "replay_buffer.pkl")
    states = pickle.loads((checkpoint / "random.pkl").read_bytes())  # noqa: S301
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    for i, generator in enumerate(states["environments"]):
        env.set_attr("np_random", generator, indices=i)
    seconds = float(json.loads((checkpoint / "state.json").read_text())["seconds"])
    return model, env, seconds


def finish_run(
    settings: TrainingSettings, model: BaseAlgorithm, folder: Path, seconds: float, command: Sequence[str] = ()
) -> None:
    """Save the agent and, last, the record that says the run is complete."""
    _save_model(model, folder)
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    record = {
        "algorithm": settings.algorithm,
        "seed": settings.seed,
        "timesteps": model.num_timesteps,
        "seconds": round(seconds, 1),
        "normalize": settings.normalize,
        "command": list(command),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": versions,
    }
    _write(folder / "run.json", json.dumps(record, indent=1).encode())


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
