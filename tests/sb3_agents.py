"""Real Stable-Baselines3 agents for tests: tiny environments of every kind of space, saved as users save them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

ALTITUDE = spaces.Box(np.float32([-10, -1, 0]), np.float32([10, 1, 1e4]))
MIXED = spaces.Box(np.float32([-2, 0, -1, 0]), np.float32([2, 1, 1, 10]))
UNIT = spaces.Box(-1.0, 1.0, (2,), np.float32)
KEYED = spaces.Dict(
    {
        "wind": spaces.Box(-5, 5, (2,), np.float32),
        "attitude": spaces.Box(-np.inf, np.inf, (3,), np.float32),
        "mode": spaces.Discrete(3),
        "flags": spaces.MultiBinary(4),
        "gear": spaces.MultiDiscrete([2, 3]),
    }
)
BOXES = spaces.Dict({"wind": spaces.Box(-5, 5, (2,), np.float32), "a": spaces.Box(-np.inf, np.inf, (3,), np.float32)})


class TinyEnv(gymnasium.Env[Any, Any]):
    """Random observations, ten steps per episode."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space, self.steps = observation, action, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), float(np.sum(action)), False, self.steps >= 10, {}


@dataclass(frozen=True)
class Recipe:
    """How to make one agent."""

    algorithm: str
    observation: spaces.Space[Any] = field(default_factory=lambda: ALTITUDE)
    action: spaces.Space[Any] = field(default_factory=lambda: MIXED)
    policy: str = "MlpPolicy"
    kwargs: dict[str, Any] = field(default_factory=dict)
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    normalise: bool | list[str] = False
    learn: int = 0


_CONTRIB = {"TQC", "TRPO", "ARS", "QRDQN", "CrossQ", "RecurrentPPO"}
_ROLLOUT = {"n_steps": 32, "batch_size": 32}
_REPLAY = {"buffer_size": 200, "learning_starts": 10}
_FAST: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("PPO", "RecurrentPPO", "TRPO"), _ROLLOUT),
    **dict.fromkeys(("SAC", "TD3", "DDPG", "DQN", "TQC", "QRDQN", "CrossQ"), _REPLAY),
    "A2C": {"n_steps": 16},
    "ARS": {"n_delta": 2},
}
_DEEP = {"SAC": [16, 16], "TD3": [16, 12], "DDPG": [16, 12], "TQC": [16, 16], "CrossQ": {"pi": [16, 16], "qf": [16]}}


def algorithm_class(name: str) -> Any:
    return getattr(sb3_contrib if name in _CONTRIB else stable_baselines3, name)


def make(recipe: Recipe, *, seed: int = 0) -> tuple[Any, VecNormalize | None]:
    """Build, train a little if asked, and shake the weights so that answers spread over the whole action box."""
    policy_kwargs = dict(recipe.policy_kwargs)
    if "net_arch" not in policy_kwargs and recipe.algorithm in _DEEP:
        policy_kwargs["net_arch"] = _DEEP[recipe.algorithm]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recipe.observation.seed(seed)
        recipe.action.seed(seed)
        env: Any = DummyVecEnv([lambda: TinyEnv(recipe.observation, recipe.action)])
        normaliser = None
        if recipe.normalise:
            keys = recipe.normalise if isinstance(recipe.normalise, list) else None
            env = normaliser = VecNormalize(env, norm_obs_keys=keys)
        model = algorithm_class(recipe.algorithm)(
            recipe.policy.replace("MlpPolicy", "MlpLstmPolicy")
            if recipe.algorithm == "RecurrentPPO"
            else recipe.policy,
            env,
            policy_kwargs=policy_kwargs,
            seed=seed,
            device="cpu",
            **_FAST[recipe.algorithm],
            **recipe.kwargs,
        )
        if recipe.learn:
            model.learn(recipe.learn)
    rng = np.random.default_rng(seed)
    if normaliser is not None:
        moments = normaliser.obs_rms if isinstance(normaliser.obs_rms, dict) else {"": normaliser.obs_rms}
        for stats in moments.values():
            stats.mean = rng.normal(scale=3000.0, size=stats.mean.shape)
            stats.var = rng.uniform(0.01, 4.0, stats.var.shape)
        normaliser.clip_obs = 5.0
    with torch.no_grad():
        for name, parameter in model.policy.named_parameters():
            if "log_std" not in name:
                parameter.add_(torch.from_numpy(rng.normal(scale=0.2, size=parameter.shape)).float())
        for name, buffer in model.policy.named_buffers():
            if name.endswith("ra_mean"):
                buffer.add_(torch.from_numpy(rng.normal(scale=5.0, size=buffer.shape)).float())
            elif name.endswith("ra_var"):
                buffer.mul_(torch.from_numpy(rng.uniform(0.5, 2.0, buffer.shape)).float())
    return model, normaliser


def save(model: Any, normaliser: VecNormalize | None, folder: Path) -> Path:
    """As a user would: model.zip and, where there is one, vecnormalize.pkl beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.zip")
    if normaliser is not None:
        normaliser.save(str(folder / "vecnormalize.pkl"))
    return folder / "model.zip"


def truth(model: Any, normaliser: VecNormalize | None, observations: dict[str, Any], starts: Any = None) -> Any:
    """What the real library answers, through the real objects."""
    keyed = isinstance(model.observation_space, spaces.Dict)
    children = model.observation_space.spaces if keyed else {"observation": model.observation_space}
    typed = {k: v.astype(children[k].dtype) for k, v in observations.items()}
    single = typed if keyed else typed["observation"]
    if normaliser is not None:
        single = normaliser.normalize_obs(single)
    if starts is None:
        return model.predict(single, deterministic=True)[0]
    state, answers = None, []
    for t in range(len(starts)):
        row = {k: v[t : t + 1] for k, v in single.items()} if keyed else single[t : t + 1]
        answer, state = model.predict(row, state, starts[t : t + 1] != 0, deterministic=True)
        answers.append(answer)
    return np.concatenate(answers)
