"""Brings a Stable-Baselines3 agent in: the zip and its normaliser become a layer list and a contract.

No pickle of the zip is executed: hyper-parameters and spaces are read by a machine that calls nothing, weights by
torch's tensors-only loader. Needs torch, stable-baselines3 and (for its algorithms) sb3-contrib: `sim2sky[train]`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim2sky.agent.contract import Contract, Output
from sim2sky.agent.layers import Network
from sim2sky.agent.sb3_archive import find_vecnormalize, read_archive, read_vecnormalize
from sim2sky.agent.sb3_network import build_network
from sim2sky.agent.sb3_policy import read_policy
from sim2sky.agent.sb3_reference import Predict, make_reference
from sim2sky.agent.sb3_spaces import generic_contract, space_from
from sim2sky.errors import AgentError, ContractError, MissingExtraError

__all__ = ["TrainedAgent", "load"]


@dataclass(frozen=True)
class TrainedAgent:
    """A trained agent, ready to export.

    Attributes:
        algorithm: `PPO`, `SAC`, ...
        network: the deterministic policy as a list of layers.
        contract: its inputs and outputs.
        provenance: algorithm, versions, hashes, steps and seed of the training run; no paths.
        sb3_predict: Stable-Baselines3's own policy with the same weights: raw observations (batch, ...) per input key,
            `episode_start` (batch,) for recurrent policies (the rows are then one sequence) -> actions as
            `predict(deterministic=True)` gives them.
    """

    algorithm: str
    network: Network
    contract: Contract
    provenance: dict[str, object]
    sb3_predict: Predict


def load(model_path: Path, *, vecnormalize: Path | None = None, contract: Path | None = None) -> TrainedAgent:
    """Load an agent of PPO, A2C, TRPO, RecurrentPPO, SAC, TQC, CrossQ, TD3, DDPG, DQN, QR-DQN or ARS.

    Args:
        model_path: the zip that `model.save(...)` wrote.
        vecnormalize: the normaliser; one beside the zip is found by itself.
        contract: the contract; a `contract.json` beside the zip is found by itself, else the spaces alone give one
            with numbered signals.

    Raises:
        AgentError: a file is missing, truncated, inconsistent, or would run code.
        NotSupportedError: custom policies, feature extractors, images, or spaces no export takes.
        ContractError: the contract does not fit the agent's spaces.
        MissingExtraError: torch, stable-baselines3 or sb3-contrib is not installed.
    """
    model_path = Path(model_path)
    if not model_path.exists() and model_path.suffix != ".zip":
        with_suffix = model_path.with_name(f"{model_path.name}.zip")
        model_path = with_suffix if with_suffix.exists() else model_path
    if model_path.is_dir():
        raise AgentError(f"{model_path} is a folder", hint="give the .zip that model.save(...) wrote")
    try:
        archive = read_archive(model_path)
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "train") from error
    fields = archive.fields
    if missing := [name for name in ("observation_space", "action_space") if name not in fields]:
        raise AgentError(f"{model_path} has no {missing[0]}")
    policy = read_policy(fields)
    observation, action = (space_from(fields[k], f"{model_path}: {k}") for k in ("observation_space", "action_space"))
    normaliser_path = Path(vecnormalize) if vecnormalize is not None else find_vecnormalize(model_path)
    normaliser, normaliser_hash = None, None
    if normaliser_path is not None:
        normaliser, normaliser_hash = read_vecnormalize(normaliser_path)
    network, hidden = build_network(policy, archive.state, observation, action, normaliser)
    predict = make_reference(policy, archive.state, (observation, action), normaliser, hidden)
    generic = generic_contract(observation, action)
    found = Path(contract) if contract is not None else model_path.with_name("contract.json")
    chosen = _read_contract(found, generic) if contract is not None or found.is_file() else generic
    provenance: dict[str, object] = {
        "algorithm": policy.algorithm,
        "policy_class": policy.policy_class,
        "stable_baselines3_version": archive.sb3_version,
        "zip_sha256": archive.sha256,
        "vecnormalize_sha256": normaliser_hash,
    }
    for name in ("num_timesteps", "seed"):
        provenance[name] = fields[name] if type(fields.get(name)) is int else None
    return TrainedAgent(policy.algorithm, network, chosen, provenance, predict)


def _read_contract(path: Path, generic: Contract) -> Contract:
    try:
        data: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise ContractError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise ContractError(f"{path} is not a contract")
    contract = Contract.from_json(data)
    if problem := _misfit(contract, generic):
        raise ContractError(
            f"{path} does not fit the agent's spaces: {problem}",
            hint="give the contract of this very training run, or move the file away to use the spaces alone",
        )
    return contract


def _misfit(contract: Contract, spaces: Contract) -> str:
    """What of the contract contradicts the spaces; empty if nothing does."""
    keys, wanted = [i.key for i in contract.inputs], [i.key for i in spaces.inputs]
    if keys != wanted:
        return f"inputs {keys}, the agent observes {wanted}"
    for ours, theirs in zip(contract.inputs, spaces.inputs, strict=True):
        for name in ("kind", "shape", "sizes", "dtype"):
            if getattr(ours, name) != getattr(theirs, name):
                return f"{name} of input '{ours.key}' is {getattr(ours, name)}, the agent's {getattr(theirs, name)}"
        if len(ours.signals) != len(theirs.signals):
            return f"input '{ours.key}' has {len(ours.signals)} signals, the agent observes {len(theirs.signals)}"
    return _output_misfit(contract.output, spaces.output)


def _output_misfit(ours: Output, theirs: Output) -> str:
    if ours.kind != theirs.kind or ours.sizes != theirs.sizes:
        return f"output {ours.kind} {list(ours.sizes)}, the agent's is {theirs.kind} {list(theirs.sizes)}"
    if len(ours.signals) != len(theirs.signals):
        return f"{len(ours.signals)} action signals, the agent has {len(theirs.signals)}"
    for a, b in zip(ours.signals, theirs.signals, strict=True):
        if not np.allclose([a.low, a.high], [b.low, b.high], rtol=1e-5, atol=1e-7):
            return f"action '{a.name}' reaches from {a.low} to {a.high}, the agent's from {b.low} to {b.high}"
    return ""
