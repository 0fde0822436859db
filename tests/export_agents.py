"""The agent that the export tests are made with: twelve values in, four actions of mixed limits out, normalised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gymnasium import spaces
from tests.sb3_agents import Recipe, make, save

N_OBSERVED = 12
LOW = np.array([-1.0, -2.0, 0.0, -0.1], np.float32)
HIGH = np.array([1.0, 2.0, 10.0, 0.1], np.float32)


def recipe(algorithm: str) -> Recipe:
    observation = spaces.Box(-np.inf, np.inf, (N_OBSERVED,), np.float32)
    discrete = algorithm in ("DQN", "QRDQN")
    action = spaces.Discrete(3) if discrete else spaces.Box(LOW, HIGH, dtype=np.float32)
    small = {"lstm_hidden_size": 16} if algorithm == "RecurrentPPO" else {}
    return Recipe(algorithm, observation, action, normalise=True, policy_kwargs=small)


def make_agent(folder: Path, algorithm: str = "PPO", *, seed: int = 0) -> Path:
    """Save `model.zip` and `vecnormalize.pkl` in `folder`; returns the zip's path."""
    return save(*make(recipe(algorithm), seed=seed), folder)
