"""Rung "offline": updates from logged transitions, kept close to what flew.

PPO: advantage-weighted regression (Peng et al., Advantage-Weighted Regression, 2019). SAC, TD3, TQC: a few of their own
updates on a replay buffer of logged transitions. Either way the result is drawn back towards the champion until, on the
logged observations, its actions differ by no more than a trust region: what nobody has flown nobody may assume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import configure

from sim2sky.agent.layers import evaluate
from sim2sky.config.retraining import RealEnvSettings
from sim2sky.config.training import TrainingSettings
from sim2sky.environments.aircraft_env import ENVELOPE_PENALTY
from sim2sky.errors import FlightLogError, NotSupportedError
from sim2sky.runtime.observation import HISTORY
from sim2sky.training.starting_point import StartingPoint
from sim2sky.training.train import Progress, begin_run, finish_run, make_env, make_model
from sim2sky.training.transitions import LoggedFlight, read_transitions

__all__ = ["TRUST_REGION", "advantages", "update_offline"]

TRUST_REGION = 0.05
"""Largest root mean square change of the action on logged observations, of half the action's range."""
MIN_EXPLORATION = 0.01
"""Smallest deviation of the logged actions from the policy's own that can teach anything, likewise."""
MAX_WEIGHT = 20.0
FORGOTTEN = 0.1  # what lies so far ahead that its discount is below this is not waited for
BATCH = 256
SHRINK_STEPS = 12


def update_offline(
    start: StartingPoint,
    run: TrainingSettings,
    settings: RealEnvSettings,
    folder: Path,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> str:
    """Learn from logs into `folder`, which gets an agent's files.

    Args:
        start: the champion.
        run: seed, learning rate, and transitions to draw (`total_timesteps`).
        settings: logs and vehicle; the delay between observation and effect is the refitted environment's.
        folder: of the run; a finished one is left alone.
        on_progress: told after every tenth of the updates.

    Returns:
        What happened, in a sentence.

    Raises:
        FlightLogError: the logs are of another contract or vehicle, or too short.
        NotSupportedError: the logged commands are the policy's own, or the delay is beyond what it remembers.
    """
    flights = read_transitions(settings.logs, start.contract, settings.vehicle)
    delay = round(math.fsum(run.environment.disturbances.action_delay_s) / 2.0 * start.contract.rate_hz)
    used = np.concatenate([f.observations[f.by_policy] for f in flights])
    actions = np.concatenate([f.actions[f.by_policy] for f in flights])
    own = np.asarray(evaluate(start.network, {start.contract.inputs[0].key: used})[0])
    exploration = float(np.sqrt(np.mean(np.square(actions - own))))
    if exploration < MIN_EXPLORATION:
        raise NotSupportedError(
            f"learning from commands that are the policy's own (they differ by {exploration:.4f} of its range): "
            "nothing shows what another command would have done",
            hint="fly with an excitation plan (sim2sky excite), or take the rung refit",
        )
    updates = max(run.total_timesteps // BATCH, 1)
    if not (folder / "run.json").is_file():
        begin_run(run, folder)
        torch.set_num_threads(1)
        # A replay buffer takes one transition at a time; PPO's batches must divide what its environments collect.
        env = make_env(run if run.algorithm == "PPO" else run.model_copy(update={"n_envs": 1}))
        try:
            model = make_model(run, env, None, start)
            before = {k: v.clone() for k, v in model.policy.state_dict().items()}
            _learn(model, flights, delay, updates, float(run.hyperparameters.get("gamma", 0.99)), run, on_progress)
            _draw_back(model, before, used)
            finish_run(run, model, folder, 0.0)
        finally:
            env.close()
    return (
        f"{updates} updates from {len(used)} logged transitions of {len(flights)} flights, commands differing by "
        f"{exploration:.3f} of the policy's range"
    )


def _learn(
    model: Any,
    flights: Sequence[LoggedFlight],
    delay: int,
    updates: int,
    gamma: float,
    run: TrainingSettings,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    def told(done: int) -> None:
        if on_progress is not None:
            on_progress(Progress(done * BATCH, updates * BATCH, math.nan, math.nan))

    if isinstance(model, PPO):
        _regress(model, flights, advantages(flights, gamma, delay), updates, run, told)
        return
    if delay > HISTORY:
        raise NotSupportedError(
            f"offline updates of {run.algorithm} across a delay of {delay} control periods: the observation remembers "
            f"the last {HISTORY} actions only",
            hint="take the rung refit, which trains with the delay",
        )
    _replay(model, flights)
    model.set_logger(configure(None, []))
    chunk = max(updates // 10, 1)
    for done in range(0, updates, chunk):
        model.train(gradient_steps=min(chunk, updates - done), batch_size=BATCH)
        told(min(done + chunk, updates))


def advantages(
    flights: Sequence[LoggedFlight], gamma: float, delay: int
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Per flight the ticks that can be judged, and what their actions earned beyond what was to be expected there.

    Returns are counted from the tick at which an action reaches the aircraft, `delay` ticks after its observation.
    What was to be expected is a ridge regression on the observation and its squares, fitted on the other half of the
    flights (of the ticks, where there is one flight), so that no return explains itself.

    Raises:
        FlightLogError: no flight is long enough.
    """
    horizon = math.ceil(math.log(FORGOTTEN) / math.log(gamma))
    ticks: list[NDArray[np.int64]] = []
    returns: list[NDArray[np.float64]] = []
    for flight in flights:
        rewards = flight.rewards.copy()
        n = len(rewards)
        if flight.ended_early:
            rewards[-1] -= ENVELOPE_PENALTY
        total, sums = 0.0, np.zeros(n + delay)
        for t in range(n - 1, -1, -1):
            total = rewards[t] + gamma * total
            sums[t] = total
        last = n - delay if flight.ended_early else n - delay - horizon
        judged = np.flatnonzero(flight.by_policy[: max(last, 0)])
        ticks.append(judged)
        returns.append(sums[judged + delay])
    if not sum(map(len, ticks)):
        raise FlightLogError(
            f"no logged flight is longer than the {horizon + delay} ticks an action is judged by", misuse=True
        )
    observed = [f.observations[t].astype(np.float64) for f, t in zip(flights, ticks, strict=True)]
    halves = [np.full(len(t), i % 2) if len(flights) > 1 else np.arange(len(t)) % 2 for i, t in enumerate(ticks)]
    x, y, half = np.concatenate(observed), np.concatenate(returns), np.concatenate(halves)
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = np.clip((x - mean) / spread, -5.0, 5.0)
    features = np.column_stack([np.ones(len(z)), z, z**2])
    expected = np.full(len(y), y.mean())
    for k in (0, 1):
        fitted = features[half != k]
        if len(fitted) > features.shape[1]:
            gram = fitted.T @ fitted + np.eye(features.shape[1]) * 1e-2 * len(fitted)
            expected[half == k] = features[half == k] @ np.linalg.solve(gram, fitted.T @ y[half != k])
    gained = np.split(y - expected, np.cumsum([len(t) for t in ticks])[:-1])
    return list(zip(ticks, gained, strict=True))


def _regress(
    model: PPO,
    flights: Sequence[LoggedFlight],
    judged: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
    updates: int,
    run: TrainingSettings,
    told: Callable[[int], None],
) -> None:
    """Draw the mean towards logged actions, each weighted by exp(advantage / its standard deviation)."""
    gained = np.concatenate([a for _, a in judged])
    weight = np.minimum(np.exp((gained - gained.mean()) / (gained.std() + 1e-9)), MAX_WEIGHT)
    rows = np.concatenate([f.observations[t] for f, (t, _) in zip(flights, judged, strict=True)])
    taken = np.concatenate([f.actions[t] for f, (t, _) in zip(flights, judged, strict=True)])
    x, a, w = torch.from_numpy(_normalised(model, rows)), torch.from_numpy(taken), torch.from_numpy(weight).float()
    policy: Any = model.policy
    parameters = [*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=run.learning_rate)
    generator = torch.Generator().manual_seed(run.seed)
    low, high = (torch.from_numpy(np.asarray(v)) for v in (policy.action_space.low, policy.action_space.high))
    for update in range(updates):
        pick = torch.randint(len(x), (min(BATCH, len(x)),), generator=generator)
        mean = policy.action_net(policy.mlp_extractor.policy_net(x[pick]))
        target = a[pick]
        # A mean beyond the limit already gives the action at the limit: there is nothing to correct.
        beyond = ((target >= high) & (mean > high)) | ((target <= low) & (mean < low))
        error = torch.where(beyond, torch.zeros_like(mean), mean - target)
        loss = (w[pick, None] * error.square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (update + 1) % max(updates // 10, 1) == 0:
            told(update + 1)


def _normalised(model: BaseAlgorithm, observations: NDArray[np.float32]) -> NDArray[np.float32]:
    env = model.get_vec_normalize_env()
    return observations if env is None else np.asarray(env.normalize_obs(observations), np.float32)


def _replay(model: Any, flights: Sequence[LoggedFlight]) -> None:
    buffer: Any = model.replay_buffer
    for flight in flights:
        n = len(flight.rewards)
        for t in range(n - 1):
            if not (flight.by_policy[t] and flight.by_policy[t + 1]):
                continue
            ends = t == n - 2 and flight.ended_early
            earned = flight.rewards[t] - (ENVELOPE_PENALTY if ends else 0.0)
            buffer.add(
                flight.observations[t : t + 1],
                flight.observations[t + 1 : t + 2],
                model.policy.scale_action(flight.actions[t : t + 1]),
                np.array([earned]),
                np.array([ends]),
                [{}],
            )
    if buffer.size() == 0:
        raise FlightLogError("the logs hold no two ticks in a row with the policy in command", misuse=True)


def _draw_back(model: BaseAlgorithm, before: dict[str, torch.Tensor], observations: NDArray[np.float32]) -> None:
    """Halve the way from the champion's weights until the actions stay within the trust region."""
    after = {k: v.clone() for k, v in model.policy.state_dict().items()}
    rows = _normalised(model, observations)

    def act(state: dict[str, torch.Tensor]) -> NDArray[np.float64]:
        model.policy.load_state_dict(state)
        return np.asarray(model.policy.predict(rows, deterministic=True)[0], np.float64)

    champion, way = act(before), 1.0
    for _ in range(SHRINK_STEPS):
        state = {k: before[k] + way * (after[k] - before[k]) for k in before}
        if float(np.sqrt(np.mean(np.square(act(state) - champion)))) <= TRUST_REGION:
            return
        way *= 0.5
    model.policy.load_state_dict(before)
