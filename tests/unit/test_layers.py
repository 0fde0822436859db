"""The layer list: serialisation, and the reference evaluator against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sim2sky.agent.layers import (
    Activation,
    Affine,
    ArgMax,
    Clip,
    Dense,
    InputHead,
    Lstm,
    MeanQuantile,
    Network,
    Normalise,
    OneHot,
    Threshold,
    evaluate,
)
from sim2sky.agent.network_file import network_from_bytes, network_to_bytes
from sim2sky.errors import ExportError

RNG = np.random.default_rng(7)


def dense(n_in, n_out):
    return Dense(RNG.normal(size=(n_out, n_in)).astype(np.float32), RNG.normal(size=n_out).astype(np.float32))


def everything() -> Network:
    lstm = Lstm(
        (RNG.normal(size=(16, 6)).astype(np.float32),),
        (RNG.normal(size=(16, 4)).astype(np.float32),),
        (RNG.normal(size=16).astype(np.float32),),
    )
    return Network(
        (
            InputHead("a", 3, (Normalise(RNG.normal(size=3), RNG.uniform(0.1, 2, 3), 1e-8, 10.0),)),
            InputHead("b", 1, (OneHot((3,)),)),
        ),
        (
            lstm,
            dense(4, 5),
            Activation("elu", alpha=1.0),
            Affine(np.full(5, 2, np.float32), np.ones(5, np.float32)),
            Clip(np.full(5, -1, np.float32), np.full(5, 1, np.float32)),
        ),
        {"algorithm": "test"},
    )


def test_serialisation_is_exact_and_reproducible():
    network = everything()
    data = network_to_bytes(network)
    again = network_from_bytes(data)
    assert network_to_bytes(again) == data
    observation = {"a": RNG.normal(size=(4, 3)), "b": np.array([[0], [1], [2], [1]])}
    first, second = evaluate(network, observation)[0], evaluate(again, observation)[0]
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("cut", [0, 10, 200, -1])
def test_truncated_bytes_are_refused(cut):
    data = network_to_bytes(everything())
    with pytest.raises(ExportError):
        network_from_bytes(data[:cut] if cut >= 0 else data[:-40])


_TORCH = {
    "tanh": torch.nn.Tanh(),
    "relu": torch.nn.ReLU(),
    "elu": torch.nn.ELU(),
    "leaky_relu": torch.nn.LeakyReLU(),
    "sigmoid": torch.nn.Sigmoid(),
    "hardtanh": torch.nn.Hardtanh(),
    "silu": torch.nn.SiLU(),
    "gelu": torch.nn.GELU(),
    "softplus": torch.nn.Softplus(),
    "mish": torch.nn.Mish(),
    "identity": torch.nn.Identity(),
}


@pytest.mark.parametrize("name", list(_TORCH))
def test_activations_equal_torch(name):
    alpha = {"elu": 1.0, "leaky_relu": 0.01}.get(name, 0.0)
    x = np.linspace(-15, 15, 301).reshape(-1, 1)
    network = Network((InputHead("observation", 1),), (Activation(name, alpha=alpha),))
    ours = evaluate(network, {"observation": x})[0]
    theirs = _TORCH[name](torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_lstm_equals_torch_with_resets(n_layers, hidden, n_in, seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed % 2**31)
    reference = torch.nn.LSTM(n_in, hidden, n_layers).double()
    get = {k: v.detach().numpy().astype(np.float32) for k, v in reference.named_parameters()}
    with torch.no_grad():
        for k, v in reference.named_parameters():
            v.copy_(torch.from_numpy(get[k]).double())
    layers = range(n_layers)
    layer = Lstm(
        tuple(get[f"weight_ih_l{i}"] for i in layers),
        tuple(get[f"weight_hh_l{i}"] for i in layers),
        tuple(get[f"bias_ih_l{i}"].astype(np.float64) + get[f"bias_hh_l{i}"] for i in layers),
    )
    network = Network((InputHead("observation", n_in),), (layer,))
    xs = rng.normal(size=(5, 2, n_in))
    state = None
    reference_state = None
    for t, x in enumerate(xs):
        start = np.array([t == 3, False])
        if reference_state is not None:
            keep = torch.from_numpy(1.0 - start).reshape(1, 2, 1)
            reference_state = tuple(s * keep for s in reference_state)
        ours, state = evaluate(network, {"observation": x}, state, start)
        theirs, reference_state = reference(torch.from_numpy(x)[None], reference_state)
        np.testing.assert_allclose(ours, theirs[0].detach().numpy(), atol=1e-9)


def test_integer_outputs():
    values = np.array([[0.1, 0.9, 0.3, -1.0, 2.0], [5.0, 5.0, 0.0, 1.0, 0.5]])
    head = (InputHead("observation", 5),)
    single = evaluate(Network(head, (ArgMax((5,), start=2),)), {"observation": values})[0]
    assert single.tolist() == [6, 2]  # ties go to the first
    several = evaluate(Network(head, (ArgMax((3, 2), vector=True),)), {"observation": values})[0]
    assert several.tolist() == [[1, 1], [0, 0]]
    bits = evaluate(Network(head, (Threshold(),)), {"observation": values - 0.5})[0]
    assert bits.tolist() == [[0, 1, 0, 0, 1], [1, 1, 0, 1, 0]]
    quantile = Network((InputHead("observation", 6),), (MeanQuantile(3, 2), ArgMax((2,))))
    assert evaluate(quantile, {"observation": np.array([[0, 1, 0, 1, 9, 1.0]])})[0].tolist() == [0]


def test_split_mean_keeps_float64_accuracy_far_from_zero():
    """A normaliser in plain float32 loses an altitude of 1e5 m with 1 cm spread; the split mean does not."""
    mean, var = np.array([123456.789]), np.array([1e-4])
    layer = Normalise(mean, var, 1e-8, 1e9)
    x = np.float32(123456.79)
    exact = (float(x) - mean) / np.sqrt(var + 1e-8)
    split = ((x - layer.mean_high) - layer.mean_low) * layer.scale
    naive = (x - mean.astype(np.float32)) / np.sqrt(var + 1e-8).astype(np.float32)
    assert abs(split[0] - exact[0]) < 1e-6 * abs(exact[0])
    assert abs(naive[0] - exact[0]) > 1e-2 * abs(exact[0])


def test_wrong_inputs_are_named():
    network = everything()
    with pytest.raises(ExportError, match="no input 'b'"):
        evaluate(network, {"a": np.zeros((1, 3))})
    with pytest.raises(ExportError, match="2 values per row, the policy takes 3"):
        evaluate(network, {"a": np.zeros((1, 2)), "b": np.zeros((1, 1))})
