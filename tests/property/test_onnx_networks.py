"""Random networks of every layer kind: ONNX and the reference evaluator agree, at every kind of opset."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.export_support import (
    ACTIVATIONS,
    ENDS,
    affine,
    dense,
    end_layers,
    lstm,
    normalise,
    observations,
    run,
)

from sim2sky.agent.layers import Activation, ArgMax, InputHead, Layer, Network, OneHot, Threshold, evaluate
from sim2sky.agent.network_file import network_from_bytes, network_to_bytes
from sim2sky.deployment.onnx_emitter import emit_onnx, ir_version_for, model_to_bytes

OPSETS = st.sampled_from((11, 13, 15, 17, 20))
MARGIN = 1e-4


@st.composite
def networks(draw: st.DrawFn) -> Network:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    heads = []
    width = 0
    for number in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(("raw", "normalised", "categories")))
        if kind == "categories":
            sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
            heads.append(InputHead(f"key {number}", len(sizes), (OneHot(sizes),)))
            width += sum(sizes)
            continue
        size = draw(st.integers(1, 9))
        layers = (normalise(rng, size, draw(st.sampled_from((1.0, 5.0, 10.0)))),) if kind == "normalised" else ()
        heads.append(InputHead(f"key {number}", size, layers))
        width += size
    body: list[Layer] = []
    recurrent = draw(st.integers(0, 2))
    for _ in range(draw(st.integers(1, 3))):
        next_width = draw(st.integers(1, 20))
        body.append(dense(rng, width, next_width))
        width = next_width
        if draw(st.booleans()):
            body.append(affine(rng, width))
        alpha = draw(st.sampled_from((0.01, 0.5, 1.0)))
        body.append(Activation(draw(st.sampled_from(ACTIVATIONS)), alpha=alpha, low=-0.5, high=2.0))
    if recurrent:
        hidden = draw(st.integers(1, 9))
        body.append(lstm(rng, width, hidden, recurrent))
        width = hidden
    return Network(tuple(heads), (*body, *end_layers(rng, draw(st.sampled_from(ENDS)), width)))


def _state(network: Network, batch: int) -> tuple[np.ndarray, np.ndarray] | None:
    if network.lstm is None:
        return None
    rng = np.random.default_rng(4)
    shape = (network.lstm.n_layers, batch, network.lstm.hidden_size)
    return rng.normal(size=shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)


def _decided(network: Network, rows: dict, state: object, start: object) -> np.ndarray:
    """Rows whose discrete decision is not a matter of rounding."""
    last = network.layers[-1]
    values = np.asarray(evaluate(Network(network.inputs, network.layers[:-1]), rows, state, start)[0])  # type: ignore[arg-type]
    if isinstance(last, Threshold):
        return (np.abs(values) > MARGIN).all(axis=1)
    assert isinstance(last, ArgMax)
    clear = np.full(len(values), True)
    for group in np.split(values, np.cumsum(last.sizes)[:-1], axis=1):
        top = np.sort(group, axis=1)
        clear &= top.shape[1] == 1 or top[:, -1] - top[:, -2] > MARGIN
    return clear


@settings(max_examples=120, deadline=None)
@given(networks(), OPSETS, st.integers(1, 12))
def test_onnx_equals_the_reference(network: Network, opset: int, batch: int) -> None:
    rows = observations(network, batch)
    state = _state(network, batch)
    feeds: dict[str, np.ndarray] = dict(rows)
    start = None
    if state is not None:
        start = (np.arange(batch) % 3 == 1).astype(np.float32)
        feeds |= {"state_h": state[0], "state_c": state[1], "episode_start": start}
    model = emit_onnx(network, opset=opset)
    assert (model.opset_import[0].version, model.ir_version) == (opset, ir_version_for(opset))
    got = run(model, feeds)
    expected, new_state = evaluate(network, rows, state, start)
    if expected.dtype == np.int64:
        clear = _decided(network, rows, state, start)
        np.testing.assert_array_equal(got[0][clear], expected[clear])
    else:
        np.testing.assert_allclose(got[0], expected, rtol=1e-5, atol=2e-5)
    if state is not None:
        assert new_state is not None
        np.testing.assert_allclose(got[1], new_state[0], rtol=1e-5, atol=2e-5)
        np.testing.assert_allclose(got[2], new_state[1], rtol=1e-5, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(networks(), OPSETS)
def test_bytes_depend_on_the_network_alone(network: Network, opset: int) -> None:
    again = network_from_bytes(network_to_bytes(network))
    assert model_to_bytes(emit_onnx(network, opset=opset)) == model_to_bytes(emit_onnx(again, opset=opset))
