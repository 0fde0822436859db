"""Real Stable-Baselines3 agents, made in a second: random weights, mixed units, actions that reach their limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

LOW = np.array([-1.0, -2.0, 0.0, -0.1], np.float32)
HIGH = np.array([1.0, 2.0, 10.0, 0.1], np.float32)
N_OBSERVED = 12


class Still(gym.Env[Any, Any]):
    """Twelve values in, four actions of mixed limits out; nothing moves: only spaces are needed."""

    def __init__(self, discrete: bool = False) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (N_OBSERVED,), np.float32)
        self.action_space = gym.spaces.Discrete(3) if discrete else gym.spaces.Box(LOW, HIGH, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(N_OBSERVED, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(N_OBSERVED, np.float32), 0.0, True, False, {}


def make_agent(folder: Path, algorithm: str = "PPO", *, seed: int = 0, normalised: bool = True) -> Path:
    """Save `model.zip` (and `vecnormalize.pkl`) in `folder`; returns the zip's path."""
    import stable_baselines3 as sb3
    import torch
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    rng = np.random.default_rng(seed)
    env: Any = DummyVecEnv([lambda: Still(discrete=algorithm == "DQN")])
    if normalised:
        env = VecNormalize(env)
        env.obs_rms.mean = rng.normal(0.0, 100.0, N_OBSERVED)
        env.obs_rms.var = 10.0 ** rng.uniform(-4, 3, N_OBSERVED)
    kwargs: dict[str, Any] = {"seed": seed, "device": "cpu"}
    if algorithm == "RecurrentPPO":
        model: Any = RecurrentPPO("MlpLstmPolicy", env, policy_kwargs={"lstm_hidden_size": 16}, **kwargs)
    else:
        small = {} if algorithm == "PPO" else {"buffer_size": 10}
        model = getattr(sb3, algorithm)("MlpPolicy", env, **small, **kwargs)
    with torch.no_grad():
        for name, parameter in model.policy.named_parameters():
            if "action_net" in name or ".mu." in name:  # drives part of the actions into their limits
                spread = 2.0 / np.sqrt(parameter.shape[-1])
                parameter.copy_(torch.from_numpy(rng.normal(0.0, spread, tuple(parameter.shape)).astype(np.float32)))
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.zip")
    if normalised:
        env.save(str(folder / "vecnormalize.pkl"))
    return folder / "model.zip"
