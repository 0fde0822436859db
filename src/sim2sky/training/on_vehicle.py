"""Rung "vehicle": learning in flight on the virtual aircraft, behind the guard, until it helps or it hurts.

The first updates of a policy on a new vehicle are known to ruin it before they improve it. So the champion flies first,
and its returns say what the flights after an update may look like: fall they below that, the weights are put back and
learning stops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from sim2sky.config.safety import SafetySettings, resolve_safety
from sim2sky.config.training import TrainingSettings
from sim2sky.environments.airframe_limits import safety_of
from sim2sky.environments.hidden_aircraft import hidden_aircraft
from sim2sky.errors import NotSupportedError
from sim2sky.training.guarded_env import LEASH, GuardedAircraftEnv
from sim2sky.training.starting_point import StartingPoint
from sim2sky.training.train import Progress, begin_run, finish_run, make_model

__all__ = ["CollapseWatch", "learn_on_vehicle", "lowest_expected_mean"]

BASELINE_FLIGHTS = 20
FLIGHTS_PER_UPDATE = 4
FEWEST_FLIGHTS = 2  # after an update, before anything is concluded from them
ALPHA = 0.05
EXPLORATION = LEASH / 4.0  # standard deviation of what is tried around the policy's answer, at most


def lowest_expected_mean(baseline: Sequence[float], flights: int, alpha: float) -> float:
    """What the mean of further flights of the same policy lies below with probability `alpha`.

    The one-sided prediction limit of Student's t for the mean of `flights` new values from those at hand (Hahn and
    Meeker, Statistical Intervals, 1991, 4.8).
    """
    from scipy.special import stdtrit

    values = np.asarray(baseline, np.float64)
    n = len(values)
    spread = float(values.std(ddof=1)) * math.sqrt(1.0 / n + 1.0 / flights)
    return float(values.mean()) + float(stdtrit(n - 1, alpha)) * spread


class CollapseWatch(BaseCallback):
    """Compares the flights after each update with the champion's own; stops learning and puts the weights back.

    Args:
        baseline: returns of the champion's flights.
        updates: planned; the error probability `ALPHA` is shared among all the looks there will be.

    Attributes:
        collapsed: whether it stopped the learning.
        flights: episodes flown.
    """

    def __init__(self, baseline: Sequence[float], updates: int, told: Callable[[int], None]) -> None:
        super().__init__()
        self.collapsed = False
        self.flights = 0
        looks = max(updates, 1) * (FLIGHTS_PER_UPDATE - FEWEST_FLIGHTS + 1)
        self._limit = [lowest_expected_mean(baseline, m, ALPHA / looks) for m in range(1, 2 * FLIGHTS_PER_UPDATE + 1)]
        self._since: list[float] = []
        self._good: Mapping[str, torch.Tensor] = {}
        self._told = told

    def _on_training_start(self) -> None:
        self._good = _copy(self.model)

    def _on_rollout_start(self) -> None:
        self._since = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.flights += 1
                self._since.append(float(info["episode"]["r"]))
        seen = len(self._since)
        if FEWEST_FLIGHTS <= seen <= len(self._limit) and float(np.mean(self._since)) < self._limit[seen - 1]:
            self.model.policy.load_state_dict(self._good)
            self.collapsed = True
        return not self.collapsed

    def _on_rollout_end(self) -> None:
        self._good = _copy(self.model)  # these weights have just flown, and as well as the champion's
        self._told(self.num_timesteps)


def _copy(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def learn_on_vehicle(
    start: StartingPoint,
    run: TrainingSettings,
    aircraft_seed: int,
    folder: Path,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> str:
    """Fly and learn on a virtual aircraft; `folder` gets an agent's files at the end, and nothing before.

    Args:
        start: the champion.
        run: seed, steps and learning rate.
        aircraft_seed: which virtual aircraft.
        folder: of the run; a finished one is left alone.
        on_progress: told after each update.

    Returns:
        What happened, in a sentence.

    Raises:
        NotSupportedError: an algorithm other than PPO.
    """
    if start.settings.algorithm != "PPO":
        raise NotSupportedError(
            f"learning in flight with {start.settings.algorithm}", hint="take the rung refit or offline"
        )
    vehicle = hidden_aircraft(aircraft_seed, start.settings.environment)
    safety = safety_of(resolve_safety(SafetySettings(extends="default")).values, vehicle.aircraft) or {}
    rollout = FLIGHTS_PER_UPDATE * vehicle.ticks
    updates = max(run.total_timesteps // rollout, 1)
    hyperparameters = {**run.hyperparameters, "n_steps": rollout, "batch_size": rollout // FLIGHTS_PER_UPDATE}
    settings = run.model_copy(update={"n_envs": 1, "mixed_with": None, "hyperparameters": hyperparameters})
    torch.set_num_threads(1)
    env: Any = VecMonitor(DummyVecEnv([lambda: GuardedAircraftEnv(vehicle, safety, start.network)]))
    if start.normaliser is not None:
        env = VecNormalize(env, norm_reward=False)
        env.training = False
    try:
        model: Any = make_model(settings, env, None, start)
        with torch.no_grad():
            model.policy.log_std.clamp_(max=math.log(EXPLORATION))
        baseline = _returns(model, env, BASELINE_FLIGHTS)

        def told(steps: int) -> None:
            if on_progress is not None:
                on_progress(Progress(steps, updates * rollout, math.nan, math.nan))

        watch = CollapseWatch(baseline, updates, told)
        model.learn(updates * rollout, callback=watch)
        begin_run(settings, folder)
        finish_run(settings, model, folder, 0.0)
    finally:
        env.close()
    flown = f"{BASELINE_FLIGHTS} flights of the champion and {watch.flights} while learning, on virtual aircraft"
    if watch.collapsed:
        return f"{flown} {aircraft_seed}; returns collapsed after an update, so its weights were put back and it ended"
    return f"{flown} {aircraft_seed}"


def _returns(model: Any, env: Any, flights: int) -> list[float]:
    """Returns of the policy as it explores, before anything is learned."""
    returns: list[float] = []
    observation = env.reset()
    while len(returns) < flights:
        action, _ = model.predict(observation, deterministic=False)
        observation, _, _, infos = env.step(action)
        returns += [float(i["episode"]["r"]) for i in infos if "episode" in i]
    return returns
