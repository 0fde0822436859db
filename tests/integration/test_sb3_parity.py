"""Every algorithm, every space: the layer list, the torch module and the reference answer as the real library does."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tests.sb3_agents import BOXES, KEYED, UNIT, Recipe, make, save, truth

from sim2sky.agent.golden import GoldenVectors, make_golden, max_error
from sim2sky.agent.layers import Network, Normalise, evaluate
from sim2sky.agent.network_file import network_from_bytes, network_to_bytes
from sim2sky.agent.policy import DeterministicPolicy
from sim2sky.agent.sb3 import TrainedAgent, load

TOLERANCE = 1e-5

ON_POLICY = ("PPO", "A2C", "TRPO")
SQUASHED = ("SAC", "TD3", "DDPG", "TQC", "CrossQ")
RECIPES = {
    # every algorithm, really trained for a few steps
    **{name: Recipe(name, learn=64, normalise=True) for name in (*ON_POLICY, *SQUASHED, "ARS")},
    "RecurrentPPO": Recipe("RecurrentPPO", learn=64, normalise=True, policy_kwargs={"lstm_hidden_size": 24}),
    **{name: Recipe(name, action=spaces.Discrete(5), learn=40, normalise=True) for name in ("DQN", "QRDQN")},
    # what exploration leaves in the deterministic answer
    **{f"{n}-gsde": Recipe(n, kwargs={"use_sde": True}) for n in ("PPO", "A2C", "SAC", "TQC", "CrossQ")},
    "SAC-gsde-clip": Recipe("SAC", kwargs={"use_sde": True}, policy_kwargs={"clip_mean": 0.5}),
    "SAC-gsde-noclip": Recipe("SAC", kwargs={"use_sde": True}, policy_kwargs={"clip_mean": 0.0}),
    "PPO-gsde-squash": Recipe("PPO", kwargs={"use_sde": True}, policy_kwargs={"squash_output": True}),
    "A2C-gsde-squash-norm": Recipe(
        "A2C", kwargs={"use_sde": True}, policy_kwargs={"squash_output": True, "full_std": False}, normalise=True
    ),
    # observations
    **{f"{n}-dict": Recipe(n, KEYED, policy="MultiInputPolicy") for n in ("PPO", "SAC", "TD3", "TQC", "DDPG")},
    "DQN-dict": Recipe("DQN", KEYED, spaces.Discrete(3), policy="MultiInputPolicy"),
    "QRDQN-dict": Recipe("QRDQN", KEYED, spaces.Discrete(3), policy="MultiInputPolicy"),
    "Recurrent-dict": Recipe(
        "RecurrentPPO", BOXES, policy="MultiInputLstmPolicy", policy_kwargs={"lstm_hidden_size": 16}
    ),
    "PPO-dict-norm": Recipe("PPO", BOXES, policy="MultiInputPolicy", normalise=True),
    "PPO-dict-norm-one": Recipe("PPO", KEYED, policy="MultiInputPolicy", normalise=["attitude"]),
    "PPO-discrete-obs": Recipe("PPO", spaces.Discrete(7)),
    "SAC-multidiscrete-obs": Recipe("SAC", spaces.MultiDiscrete([3, 1, 4])),
    "TD3-multibinary-obs": Recipe("TD3", spaces.MultiBinary(6)),
    "PPO-multibinary-2d-obs": Recipe("PPO", spaces.MultiBinary([2, 3])),
    "PPO-float64": Recipe("PPO", spaces.Box(-1e3, 1e3, (4,), np.float64), normalise=True),
    "SAC-float64-raw": Recipe("SAC", spaces.Box(-3, 3, (4,), np.float64)),
    "PPO-matrix": Recipe("PPO", spaces.Box(-1, 1, (3, 2), np.float32), normalise=True),
    "PPO-int-box": Recipe("PPO", spaces.Box(0, 9, (3,), np.int64)),
    "PPO-bytes": Recipe("PPO", spaces.Box(0, 255, (3,), np.uint8)),
    # actions
    "PPO-discrete": Recipe("PPO", action=spaces.Discrete(4)),
    "A2C-multidiscrete": Recipe("A2C", action=spaces.MultiDiscrete([3, 2, 5])),
    "A2C-multidiscrete-one": Recipe("A2C", action=spaces.MultiDiscrete([3])),
    "PPO-multibinary": Recipe("PPO", action=spaces.MultiBinary(5)),
    "TRPO-discrete": Recipe("TRPO", action=spaces.Discrete(4)),
    "Recurrent-discrete": Recipe("RecurrentPPO", action=spaces.Discrete(4)),
    "PPO-matrix-action": Recipe("PPO", action=spaces.Box(-0.01, 0.01, (2, 2), np.float32)),
    "SAC-far-action": Recipe("SAC", action=spaces.Box(np.float32([1000, -5]), np.float32([1002, 95]))),
    "TD3-unit": Recipe("TD3", action=UNIT),
    "PPO-discrete-start": Recipe("PPO", action=spaces.Discrete(3, start=2)),
    # ARS
    "ARS-linear": Recipe("ARS", policy="LinearPolicy", normalise=True),
    "ARS-linear-bias-squash": Recipe(
        "ARS", policy="LinearPolicy", policy_kwargs={"with_bias": True, "squash_output": True}
    ),
    "ARS-clip": Recipe("ARS", policy_kwargs={"squash_output": False, "net_arch": [8]}),
    "ARS-nobias": Recipe("ARS", policy_kwargs={"with_bias": False}),
    "ARS-discrete": Recipe("ARS", action=spaces.Discrete(3)),
    # architectures
    "PPO-arch": Recipe("PPO", policy_kwargs={"net_arch": {"pi": [9, 7, 5], "vf": [3]}}),
    "PPO-linear": Recipe("PPO", policy_kwargs={"net_arch": []}),
    "PPO-list": Recipe("PPO", policy_kwargs={"net_arch": [11, 3]}),
    "SAC-linear": Recipe("SAC", policy_kwargs={"net_arch": []}),
    "TD3-linear": Recipe("TD3", policy_kwargs={"net_arch": {"pi": [], "qf": [4]}}),
    "QRDQN-few": Recipe("QRDQN", action=spaces.Discrete(3), policy_kwargs={"n_quantiles": 7, "net_arch": [16]}),
    "CrossQ-plain": Recipe("CrossQ", policy_kwargs={"batch_norm": False}),
    "CrossQ-eps": Recipe("CrossQ", policy_kwargs={"batch_norm_eps": 0.1}),
    "PPO-separate-extractors": Recipe("PPO", policy_kwargs={"share_features_extractor": False}),
    "Recurrent-two-layers": Recipe("RecurrentPPO", policy_kwargs={"lstm_hidden_size": 12, "n_lstm_layers": 2}),
    "Recurrent-shared": Recipe(
        "RecurrentPPO", policy_kwargs={"shared_lstm": True, "enable_critic_lstm": False, "net_arch": [8]}
    ),
    "Recurrent-no-bias-gsde": Recipe(
        "RecurrentPPO", kwargs={"use_sde": True}, policy_kwargs={"lstm_kwargs": {"bias": False}, "squash_output": True}
    ),
    **{
        f"PPO-{name}": Recipe("PPO", policy_kwargs={"activation_fn": getattr(torch.nn, name), "net_arch": [8, 8]})
        for name in ("ReLU", "ELU", "LeakyReLU", "Sigmoid", "Hardtanh", "SiLU", "GELU", "Softplus", "Mish", "ReLU6")
    },
}


def replay(network: Network, golden: GoldenVectors, dtype: Any = np.float64) -> Any:
    if golden.episode_start is None:
        return evaluate(network, golden.observations, dtype=dtype)[0]
    state, answers = None, []
    for t in range(len(golden)):
        row = {k: v[t : t + 1] for k, v in golden.observations.items()}
        answer, state = evaluate(network, row, state, golden.episode_start[t : t + 1], dtype=dtype)
        answers.append(answer)
    return np.concatenate(answers)


def replay_torch(module: DeterministicPolicy, golden: GoldenVectors) -> Any:
    tensors: Any = {k: torch.from_numpy(v) for k, v in golden.observations.items()}
    if golden.episode_start is None:
        return module(tensors if len(tensors) > 1 else next(iter(tensors.values()))).numpy()
    starts, state, answers = torch.from_numpy(golden.episode_start), None, []
    for t in range(len(golden)):
        answer, state = module({k: v[t : t + 1] for k, v in tensors.items()}, state, starts[t : t + 1])
        answers.append(answer.numpy())
    return np.concatenate(answers)


@pytest.mark.parametrize("name", RECIPES)
def test_answers_equal_the_real_library(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    model, normaliser = make(recipe, seed=len(name))
    agent = load(save(model, normaliser, tmp_path))
    assert agent.algorithm == recipe.algorithm
    golden = make_golden(agent, seed=1)
    assert len(golden) == 256
    expected = truth(model, normaliser, golden.observations, golden.episode_start)
    assert max_error(golden, expected) <= 1e-7
    assert max_error(golden, replay(agent.network, golden)) <= TOLERANCE
    assert max_error(golden, replay(agent.network, golden, np.float32)) <= TOLERANCE
    assert max_error(golden, replay_torch(DeterministicPolicy(agent.network), golden)) <= TOLERANCE
    again = network_from_bytes(network_to_bytes(agent.network))
    assert max_error(golden, replay(again, golden)) <= TOLERANCE
    assert np.unique(golden.action, axis=0).shape[0] >= 2, "an agent that always answers the same tests nothing"


def test_gsde_mean_is_limited_before_tanh(tmp_path: Path) -> None:
    model, _ = make(Recipe("SAC", action=UNIT, kwargs={"use_sde": True}), seed=3)
    with torch.no_grad():
        model.policy.actor.mu[0].bias += 50.0
    golden = make_golden(load(save(model, None, tmp_path)), seed=0)
    assert np.abs(golden.action).max() == pytest.approx(np.tanh(2.0), abs=1e-6)


def test_observations_sampled_by_the_space_itself(tmp_path: Path) -> None:
    model, normaliser = make(RECIPES["PPO-dict-norm-one"])
    agent = load(save(model, normaliser, tmp_path))
    KEYED.seed(5)
    drawn = [KEYED.sample() for _ in range(200)]
    observations = {k: np.array([d[k] for d in drawn]) for k in KEYED.spaces}
    expected = truth(model, normaliser, observations)
    assert np.abs(agent.sb3_predict(observations, None) - expected).max() <= 1e-5
    assert np.abs(evaluate(agent.network, observations)[0] - expected).max() / 10 <= TOLERANCE


def test_keys_keep_the_order_in_which_the_policy_concatenates(tmp_path: Path) -> None:
    model, _ = make(RECIPES["PPO-dict"])
    agent = load(save(model, None, tmp_path))
    order = list(model.policy.features_extractor.extractors)
    assert [h.key for h in agent.network.inputs] == order == [i.key for i in agent.contract.inputs]


def trained(tmp_path: Path, recipe: Recipe) -> tuple[TrainedAgent, GoldenVectors]:
    model, normaliser = make(recipe, seed=2)
    agent = load(save(model, normaliser, tmp_path))
    return agent, make_golden(agent, seed=0)


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "TD3", "CrossQ", "RecurrentPPO", "ARS"])
def test_a_broken_export_is_seen_by_the_golden_vectors(algorithm: str, tmp_path: Path) -> None:
    agent, golden = trained(tmp_path, RECIPES[algorithm])
    network = agent.network
    assert max_error(golden, replay(network, golden)) <= TOLERANCE
    head = network.inputs[0]
    broken = {
        "normaliser dropped": Network((replace(head, layers=()),), network.layers),
        "last layer dropped": Network(network.inputs, network.layers[:-1]),
    }
    for what, bad in broken.items():
        assert max_error(golden, replay(bad, golden)) > 10 * TOLERANCE, what
    normalise = head.layers[0]
    assert isinstance(normalise, Normalise)
    for change in ({"clip": 1e9}, {"epsilon": 1e-2}, {"mean": normalise.mean[::-1]}):
        bad = Network((replace(head, layers=(replace(normalise, **change),)),), network.layers)
        assert max_error(golden, replay(bad, golden)) > TOLERANCE, change
    swapped = golden.observations["observation"][:, [1, 0, 2]]
    assert max_error(golden, replay(network, replace(golden, observations={"observation": swapped}))) > 10 * TOLERANCE
    assert max_error(golden, golden.action[:, [1, 0, 2, 3]]) > 10 * TOLERANCE
    assert max_error(golden, golden.action[::-1]) > 10 * TOLERANCE


def test_a_state_that_is_never_reset_is_seen(tmp_path: Path) -> None:
    agent, golden = trained(tmp_path, RECIPES["RecurrentPPO"])
    assert golden.episode_start is not None
    assert golden.episode_start[0] == 1
    assert 3 <= golden.episode_start.sum() < 60
    never = replace(golden, episode_start=np.zeros_like(golden.episode_start))
    assert max_error(golden, replay(agent.network, never)) > TOLERANCE
    always = replace(golden, episode_start=np.ones_like(golden.episode_start))
    assert max_error(golden, replay(agent.network, always)) > TOLERANCE


@pytest.mark.parametrize(
    "name", ["PPO", "SAC", "PPO-dict", "QRDQN", "RecurrentPPO", "Recurrent-dict", "PPO-multibinary"]
)
def test_the_module_can_be_traced_with_any_batch(name: str, tmp_path: Path) -> None:
    agent, golden = trained(tmp_path, RECIPES[name])
    module = DeterministicPolicy(agent.network)
    tensors: Any = {k: torch.from_numpy(v) for k, v in golden.observations.items()}
    observation = tensors if len(tensors) > 1 else tensors["observation"]
    example = {k: v[:1] for k, v in tensors.items()} if len(tensors) > 1 else observation[:1]
    extra = ()
    if module.recurrent:
        zeros = torch.zeros(module.n_layers, 1, module.hidden_size)
        extra = ((zeros, zeros), torch.ones(1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated", category=DeprecationWarning)
        traced = torch.jit.trace(module, (example, *extra))
    if module.recurrent:
        n = 5
        zeros = torch.zeros(module.n_layers, n, module.hidden_size)
        batch = {k: v[:n] for k, v in tensors.items()} if len(tensors) > 1 else observation[:n]
        ours, (hidden, _) = traced(batch, (zeros, zeros), torch.ones(n))
        theirs, (expected, _) = module(batch, (zeros, zeros), torch.ones(n))
        assert torch.equal(ours, theirs)
        assert torch.equal(hidden, expected)
    else:
        assert max_error(golden, traced(observation).numpy()) <= TOLERANCE


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    path = save(*make(RECIPES["PPO-gsde"]), tmp_path)
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    load(path)
    drawn = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    assert torch.equal(drawn[0], torch.rand(3))
    assert np.array_equal(drawn[1], np.random.rand(3))  # noqa: NPY002
