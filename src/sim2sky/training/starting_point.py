"""A trained agent as the start of more training, opened without running any of its pickles.

Hyper-parameters come from the `config.yaml` that `sim2sky train` left beside the zip, shapes and weights from plain
tensors, the normaliser's statistics from a reader that calls nothing. Stable-Baselines3's own `load` would execute
whatever code the zip carries, so it is used for nothing but checkpoints of one's own run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from sim2sky.agent.contract import Contract
from sim2sky.agent.layers import Network
from sim2sky.agent.sb3 import load
from sim2sky.agent.sb3_archive import find_vecnormalize, read_archive, read_variables, read_vecnormalize
from sim2sky.agent.sb3_spaces import Normaliser
from sim2sky.config.loader import load_settings
from sim2sky.config.training import TrainingSettings
from sim2sky.environments.tasks import make_contract
from sim2sky.errors import AgentError, ConfigError, NotSupportedError

__all__ = ["StartingPoint", "open_starting_point"]

LARGE_COUNT = 1e6
"""Observations the champion's statistics stand for where a run goes on updating them; the file's own number is not
read, and one so large lets them move slowly."""


@dataclass(frozen=True, eq=False)
class StartingPoint:
    """An agent to go on from.

    Attributes:
        path: its zip.
        settings: the run that made it.
        contract: its inputs and outputs.
        network: its deterministic policy.
        net_arch: widths of the hidden layers, `pi` and `vf` or `qf`, as the weights have them.
        state: the policy's tensors, critics included.
        variables: tensors the algorithm keeps beside them.
        normaliser: of its observations; None where it has none.
        sha256: of the zip.
    """

    path: Path
    settings: TrainingSettings
    contract: Contract
    network: Network
    net_arch: dict[str, list[int]]
    state: dict[str, NDArray[Any]]
    variables: dict[str, NDArray[Any]]
    normaliser: Normaliser | None
    sha256: str

    def load_into(self, model: BaseAlgorithm) -> None:
        """Give a fresh model this agent's weights, and its environment this agent's normaliser.

        Raises:
            AgentError: shapes differ.
        """
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in self.state.items()}
        try:
            model.policy.load_state_dict(tensors)
        except RuntimeError as error:
            raise AgentError(f"{self.path}: the weights do not fit its config.yaml: {error}"[:400]) from error
        for name, value in self.variables.items():
            held = getattr(model, name, None)
            if isinstance(held, torch.Tensor) and held.shape == value.shape:
                with torch.no_grad():
                    held.copy_(torch.from_numpy(value))
        env = model.get_vec_normalize_env()
        if (env is None) != (self.normaliser is None):
            raise AgentError(f"{self.path}: its config.yaml and its files disagree on whether it has a normaliser")
        if env is not None and self.normaliser is not None:
            mean, var = self.normaliser.statistics[None]
            moments: Any = env.obs_rms
            moments.mean, moments.var, moments.count = mean.copy(), var.copy(), LARGE_COUNT
            env.epsilon, env.clip_obs = self.normaliser.epsilon, self.normaliser.clip


def open_starting_point(path: Path) -> StartingPoint:
    """Open an agent that `sim2sky train` (or a finetuning) made.

    Raises:
        AgentError: a file is missing, damaged or would run code.
        ConfigError: there is no `config.yaml` beside it.
        NotSupportedError: not of PPO, SAC, TD3 or TQC, or not a dense policy.
        ContractError: it observes or commands something else than its settings say.
    """
    path = Path(path)
    agent = load(path)
    config = path.with_name("config.yaml")
    if not config.is_file():
        raise ConfigError(
            f"{path}: no config.yaml beside it says how it was trained",
            hint="go on from an agent that sim2sky train made, with its whole folder",
        )
    settings = load_settings(config, TrainingSettings)
    if agent.algorithm != settings.algorithm:
        raise NotSupportedError(
            f"training on an agent of {agent.algorithm} whose config.yaml says {settings.algorithm}",
            hint="PPO, SAC, TD3 and TQC agents, with the config.yaml of their own run, can be trained on",
        )
    contract = make_contract(settings.environment)
    if contract.hash != agent.contract.hash:
        raise AgentError(
            f"{path}: its contract is not that of its config.yaml", hint="put the files of one run into one folder"
        )
    archive = read_archive(path)
    normaliser_path = find_vecnormalize(path)
    normaliser = None if normaliser_path is None else read_vecnormalize(normaliser_path)[0]
    return StartingPoint(
        path,
        settings,
        contract,
        agent.network,
        _net_arch(archive.state, settings.algorithm),
        archive.state,
        read_variables(path),
        normaliser,
        archive.sha256,
    )


def _net_arch(state: dict[str, NDArray[Any]], algorithm: str) -> dict[str, list[int]]:
    """Widths of the hidden layers from the weights' shapes."""

    def widths(prefix: str, *, has_output: bool) -> list[int]:
        pattern = re.compile(re.escape(prefix) + r"\.(\d{1,4})\.weight")
        found = sorted((int(m[1]), len(v)) for k, v in state.items() if (m := pattern.fullmatch(k)))
        return [width for _, width in found][: -1 if has_output else None]

    match algorithm:
        case "PPO":
            policy, value = "mlp_extractor.policy_net", "mlp_extractor.value_net"
            return {"pi": widths(policy, has_output=False), "vf": widths(value, has_output=False)}
        case "TD3":
            return {"pi": widths("actor.mu", has_output=True), "qf": widths("critic.qf0", has_output=True)}
        case _:
            return {"pi": widths("actor.latent_pi", has_output=False), "qf": widths("critic.qf0", has_output=True)}
