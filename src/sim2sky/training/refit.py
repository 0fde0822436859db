"""Rung "refit": training goes on in a simulator that was refitted to flights, half of it still in the old one.

Recipe, as measured on virtual aircraft (docs/retraining.md): without the old environments in the mixture an agent
forgets within 100,000 steps what it could; the learning rate starts at 40 % of the first training's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.training import TrainingSettings
from sim2sky.training.starting_point import StartingPoint
from sim2sky.training.train import Progress, TrainingResult, train

__all__ = ["continue_training", "refit_settings"]

RATE_FRACTION = 0.4
FINAL_FRACTION = 0.1
CHECKPOINTS = 8
WARM_UP_STEPS = 8000
"""Transitions of the champion's own flying that an off-policy learner sees before its first update."""


def refit_settings(
    start: StartingPoint, environment: EnvironmentSettings, timesteps: int, seed: int
) -> TrainingSettings:
    """The run that goes on from an agent: its own settings, with the refitted environment beside its old one."""
    before = start.settings
    hyperparameters = dict(before.hyperparameters)
    if "learning_starts" in hyperparameters:
        hyperparameters["learning_starts"] = 0  # until then Stable-Baselines3 acts at random
    changes: dict[str, Any] = {
        "total_timesteps": timesteps,
        "seed": seed,
        "learning_rate": RATE_FRACTION * before.learning_rate,
        "learning_rate_final_fraction": FINAL_FRACTION,
        "hyperparameters": hyperparameters,
        "checkpoint_every": max(timesteps // CHECKPOINTS, 1),
        "environment": environment,
        "mixed_with": before.environment,
        "freeze_normalizer": False,
    }
    return before.model_copy(update=changes)


def continue_training(
    start: StartingPoint,
    settings: TrainingSettings,
    folder: Path,
    *,
    on_model: Callable[[BaseAlgorithm], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> TrainingResult:
    """Train on in `folder`; called again after an interruption, it goes on, and a finished run is left alone.

    Raises:
        As `train`.
    """

    def prepare(model: BaseAlgorithm) -> None:
        if on_model is not None:
            on_model(model)
        if isinstance(model, OffPolicyAlgorithm):
            _warm_up(model)

    if (folder / "run.json").is_file():
        return TrainingResult(folder, True, settings.total_timesteps, 0.0)
    resume = (folder / "checkpoint" / "state.json").is_file()
    if not resume:  # killed before its first checkpoint: nothing to keep
        shutil.rmtree(folder, ignore_errors=True)
    return train(settings, folder, resume=resume, start=start, on_model=prepare, on_progress=on_progress)


def _warm_up(model: OffPolicyAlgorithm) -> None:
    """Fill an empty replay buffer with the policy's own flying: updates on a handful of transitions would ruin it."""
    buffer, env = model.replay_buffer, model.get_env()
    if buffer is None or env is None or buffer.size() > 0:
        return
    normaliser = env if isinstance(env, VecNormalize) else None
    observation: Any = env.reset()
    raw = normaliser.get_original_obs() if normaliser else observation
    for _ in range(max(WARM_UP_STEPS // env.num_envs, 1)):
        action, _ = model.predict(observation, deterministic=False)
        observation, reward, done, infos = env.step(action)
        after: Any = normaliser.get_original_obs() if normaliser else observation
        following = np.array(after)
        for i in np.flatnonzero(done):  # the vector environment has already begun the next episode
            following[i] = infos[i]["terminal_observation"]
            if normaliser:
                following[i] = normaliser.unnormalize_obs(following[i])
        buffer.add(np.asarray(raw), following, model.policy.scale_action(action), reward, done, infos)
        raw = after
