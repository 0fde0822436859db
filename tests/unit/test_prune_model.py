"""Zeroed weights as specified; removed neurons: what is redundant goes without loss, and what is lost is reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.export_agents import make_agent
from tests.export_support import ACTIVATIONS, affine, dense, dict_policy, normalise, observations, policy, run
from torch import nn

from sim2sky.agent.layers import Activation, Affine, Clip, Dense, InputHead, Network, evaluate
from sim2sky.agent.network_file import network_to_bytes
from sim2sky.deployment.onnx_emitter import emit_onnx, model_to_bytes
from sim2sky.deployment.prune_model import _forward, main, prune_model, prune_network_neurons
from sim2sky.errors import ConfigError, NotSupportedError


def torch_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 20), nn.ReLU(), nn.Linear(20, 4))


def zeros(model: nn.Module) -> list[float]:
    return [float((p == 0).float().mean()) for n, p in model.named_parameters() if n.endswith("weight")]


@pytest.mark.parametrize("method", ["l1", "random"])
@pytest.mark.parametrize("amount", [0.0, 0.3, 0.9])
def test_fraction_of_zeros_per_layer(method: str, amount: float) -> None:
    model = torch_model()
    assert prune_model(model, amount, method) is model
    assert zeros(model) == pytest.approx([amount] * 3, abs=0.02)
    assert not any("mask" in name or "orig" in name for name in model.state_dict())


def test_the_default_is_three_in_ten_of_the_smallest() -> None:
    model = torch_model()
    before = model[2].weight.detach().clone()
    prune_model(model)
    after = model[2].weight.detach()
    removed = after == 0
    assert zeros(model) == pytest.approx([0.3] * 3, abs=0.02)
    assert before[removed].abs().max() <= before[~removed].abs().min()
    assert torch.equal(after[~removed], before[~removed])


def test_random_pruning_is_seeded_and_leaves_the_generator_alone() -> None:
    models = [torch_model() for _ in range(3)]
    state = torch.get_rng_state()
    one, two, three = (prune_model(m, 0.5, "random", seed=s) for m, s in zip(models, (1, 1, 2), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), three.parameters(), strict=True))


@pytest.mark.parametrize(
    ("amount", "method", "match"), [(0.3, "l2", "l2"), (1.0, "l1", "1.0"), (-0.1, "l1", "-0.1"), (np.nan, "l1", "nan")]
)
def test_bad_arguments_leave_the_module_untouched(amount: float, method: str, match: str) -> None:
    model = torch_model()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ConfigError, match=match):
        prune_model(model, amount, method)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def redundant(seed: int = 0, end: str = "clip") -> Network:
    """Every hidden neuron twice, its readers' weights halved: half of them can go without any loss."""
    small = policy(seed, (12, 16, 16), "tanh", end)
    layers = []
    first = True
    for layer in small.layers:
        if not isinstance(layer, Dense):
            layers.append(layer)
            continue
        weight, bias = layer.weight, layer.bias
        if not first:
            weight = np.concatenate([weight, weight], axis=1) / 2
        if weight.shape[0] == 16:
            weight, bias = np.concatenate([weight, weight]), np.concatenate([bias, bias])
        layers.append(Dense(weight, bias))
        first = False
    return Network(small.inputs, tuple(layers))


def test_redundant_neurons_go_without_loss() -> None:
    network = redundant()
    rows = observations(network, 1500)
    result = prune_network_neurons(network, 0.4, rows, steps=300)
    assert result.widths_before == (32, 32)
    assert result.widths_after == (19, 19)
    fresh = observations(network, 500, seed=99)
    error = np.abs(evaluate(result.network, fresh)[0] - evaluate(network, fresh)[0]) / [2.0, 5.0, 0.1]
    plain = Network(network.inputs, network.layers)
    assert error.mean() < 0.02
    assert result.mean_error < 0.02
    assert len(model_to_bytes(emit_onnx(result.network))) < 0.6 * len(model_to_bytes(emit_onnx(plain)))


def test_the_pruned_policy_runs_as_onnx_and_keeps_its_ends() -> None:
    network = policy(3, (12, 32, 24), "relu", "clip")
    rows = observations(network, 400)
    result = prune_network_neurons(network, 0.25, rows, steps=100)
    assert result.widths_after == (24, 18)
    assert [layer.kind for layer in result.network.layers] == [layer.kind for layer in network.layers]
    assert result.network.inputs is network.inputs
    got = run(emit_onnx(result.network), rows)[0]
    np.testing.assert_allclose(got, evaluate(result.network, rows)[0], atol=1e-5)
    assert (got >= [-2, 0, np.float32(-0.1)]).all()


def test_distillation_helps_and_never_harms() -> None:
    network = policy(3, (12, 48, 48), "tanh", "box")
    rows = observations(network, 2000)
    result = prune_network_neurons(network, 0.3, rows, steps=800)
    assert 0 < result.mean_error < result.mean_error_before
    none = prune_network_neurons(network, 0.3, rows, steps=0)
    assert (none.mean_error, none.max_error) == (none.mean_error_before, none.max_error_before)
    wild = prune_network_neurons(network, 0.3, rows, steps=60, learning_rate=10.0)
    assert wild.mean_error <= wild.mean_error_before


def test_refitting_beats_just_removing() -> None:
    """Negative control for the least-squares step: the same neurons removed, their reader not refitted."""
    network = policy(3, (12, 48), "tanh", "box")
    rows, test = observations(network, 2000), observations(network, 500, seed=8)
    fitted = prune_network_neurons(network, 0.3, rows, steps=0).network
    first, last = network.dense
    kept = [int(np.flatnonzero((first.weight == row).all(axis=1))[0]) for row in fitted.dense[0].weight]
    cut = (Dense(first.weight[kept], first.bias[kept]), network.layers[1])
    removed = Network(network.inputs, (*cut, Dense(last.weight[:, kept].copy(), last.bias), network.layers[3]))
    exact = evaluate(network, test)[0]
    assert np.abs(evaluate(fitted, test)[0] - exact).mean() < 0.7 * np.abs(evaluate(removed, test)[0] - exact).mean()


def test_same_seed_same_network_and_the_original_is_unchanged() -> None:
    network = policy(3, (12, 24, 24), "relu", "box")
    rows = observations(network, 300)
    before = network_to_bytes(network)
    one, two, three = (prune_network_neurons(network, 0.3, rows, steps=100, seed=s) for s in (4, 4, 5))
    assert network_to_bytes(one.network) == network_to_bytes(two.network)
    assert network_to_bytes(one.network) != network_to_bytes(three.network)
    assert network_to_bytes(network) == before


@pytest.mark.parametrize("end", ["squash", "argmax", "multi_discrete", "threshold", "quantile"])
def test_every_ending_is_pruned(end: str) -> None:
    network = policy(3, (12, 24, 24), "elu", end)
    result = prune_network_neurons(network, 0.2, observations(network, 400), steps=100)
    assert result.widths_after == (19, 19)
    assert 0 <= result.mean_error <= result.max_error
    rows = observations(network, 20)
    assert evaluate(result.network, rows)[0].shape == evaluate(network, rows)[0].shape


def test_dict_and_batch_normalised_layers_are_pruned() -> None:
    network = dict_policy()
    result = prune_network_neurons(network, 0.5, observations(network, 400), steps=50)
    assert result.widths_after == (8,)
    layer = result.network.layers[1]
    assert isinstance(layer, Affine)
    assert layer.scale.shape == (8,)


@pytest.mark.parametrize("amount", [0.0, 0.999])
def test_nothing_to_remove_and_one_neuron_left(amount: float) -> None:
    network = policy(3, (12, 8), "tanh", "box")
    result = prune_network_neurons(network, amount, observations(network, 100), steps=10)
    assert result.widths_after == ((8,) if amount == 0 else (1,))
    if amount == 0:
        assert result.mean_error < 1e-6


@pytest.mark.parametrize("kind", ["one observation", "saturated"])
def test_neurons_that_hardly_vary_are_no_obstacle(kind: str) -> None:
    """Symptom: division by a variance of nothing, once the neurons picked explained all the others."""
    network = policy(3, (12, 32, 24), "tanh", "box")
    rows = observations(network, 200)["observation"]
    rows = np.repeat(rows[:1], 200, axis=0) if kind == "one observation" else np.sign(rows[:, :1]) * np.float32(1e4)
    rows = np.broadcast_to(rows, (200, 12)).astype(np.float32)
    result = prune_network_neurons(network, 0.5, {"observation": rows}, steps=20)
    assert result.widths_after == (16, 12)
    assert result.max_error_before < 0.02
    assert result.max_error < 0.02


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_torch_and_reference_agree_on_every_layer(name: str) -> None:
    """What is distilled is what will be exported."""
    rng = np.random.default_rng(0)
    middle = Activation(name, alpha=0.3, low=-0.5, high=0.8)  # type: ignore[arg-type]
    box = Clip(np.array([-0.3, -1, 0], np.float32), np.array([0.3, 1, 5], np.float32))
    layers = (dense(rng, 6, 10), affine(rng, 10), middle, dense(rng, 10, 3), box)
    x = rng.normal(size=(40, 6)).astype(np.float32)
    parameters = {
        i: [torch.tensor(la.weight), torch.tensor(la.bias)] for i, la in enumerate(layers) if isinstance(la, Dense)
    }
    got = _forward(torch, layers, parameters, torch.from_numpy(x)).numpy()
    expected = evaluate(Network((InputHead("observation", 6),), layers), {"observation": x})[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ({}, "observation"),
        ({"observation": np.zeros((100, 11))}, "12 per row"),
        ({"observation": np.zeros((10, 12))}, "at least 64"),
        ({"observation": np.full((100, 12), np.inf)}, "finite"),
        ({"observation": np.float32(1)}, "12 per row"),
    ],
)
def test_unsuitable_observations(rows: dict[str, np.ndarray], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        prune_network_neurons(policy(3, (12, 8)), 0.3, rows)


def test_what_cannot_be_pruned_says_so() -> None:
    recurrent = policy(3, (12, 16), recurrent=1)
    with pytest.raises(NotSupportedError, match="recurrent"):
        prune_network_neurons(recurrent, 0.3, observations(recurrent, 100))
    linear = Network(
        (InputHead("observation", 12, (normalise(np.random.default_rng(0), 12),)),), policy(3, (12,)).layers
    )
    with pytest.raises(NotSupportedError, match="without hidden"):
        prune_network_neurons(linear, 0.3, observations(linear, 100))
    with pytest.raises(ConfigError, match="amount"):
        prune_network_neurons(policy(3, (12, 8)), 1.5, {})


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zip_path = make_agent(tmp_path / "agent")
    np.save(tmp_path / "flights.npy", np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32) * 100)
    paths = ["--model-path", str(zip_path), "--output", str(tmp_path / "p.onnx")]
    assert main([*paths, "--observations", str(tmp_path / "flights.npy"), "--amount", "0.5"]) == 0
    assert "(64, 64) -> (32, 32)" in capsys.readouterr().out
    assert main([*paths, "--observations", str(tmp_path / "absent.npy")]) == ConfigError.exit_code
    assert "absent.npy" in capsys.readouterr().err
