"""The emitter writes exactly what was asked for: versions, names, shapes, one file, equal bytes, every layer kind."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from tests.export_support import ACTIVATIONS, ENDS, dict_policy, lstm, observations, policy, run, session

from sim2sky.agent.layers import (
    Activation,
    Affine,
    ArgMax,
    Clip,
    Dense,
    InputHead,
    Lstm,
    Network,
    Normalise,
    evaluate,
)
from sim2sky.deployment.onnx_emitter import PROFILES, emit_onnx, ir_version_for, model_to_bytes, resolve_versions
from sim2sky.errors import ConfigError, ExportError, NotSupportedError

OPSETS = (11, 12, 13, 15, 17, 18, 20, 21)


@pytest.mark.parametrize("opset", range(11, 22))
def test_opset_and_ir_version_are_exact(opset: int) -> None:
    model = emit_onnx(policy(), opset=opset)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    assert model.ir_version == ir_version_for(opset)
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize(("opset", "ir"), [(11, 6), (12, 7), (13, 7), (14, 7), (15, 8), (17, 8), (19, 9), (21, 10)])
def test_ir_version_is_the_oldest_that_carries_the_opset(opset: int, ir: int) -> None:
    assert ir_version_for(opset) == ir


@pytest.mark.parametrize("opset", [7, 10, 22, 0, -1])
def test_other_opsets_are_refused(opset: int) -> None:
    with pytest.raises(NotSupportedError, match=f"opset {opset}"):
        emit_onnx(policy(), opset=opset)


def test_ir_version_too_old_for_the_opset_is_refused() -> None:
    with pytest.raises(NotSupportedError, match="IR version 6"):
        emit_onnx(policy(), opset=17, ir_version=6)
    assert emit_onnx(policy(), opset=13, ir_version=8).ir_version == 8


def test_profiles_decide_versions_and_an_explicit_opset_overrides() -> None:
    assert resolve_versions("jetson_nano") == (13, 7)
    for name in ("raspberry_pi", "generic_linux", "local", "teensy"):
        assert resolve_versions(name) == (17, 8)
    assert resolve_versions("jetson_nano", 11) == (11, 6)
    assert resolve_versions("local", 21) == (21, 10)
    assert set(PROFILES) == {"jetson_nano", "raspberry_pi", "generic_linux", "local", "teensy"}


def test_a_profile_refuses_what_its_runtime_cannot_load() -> None:
    with pytest.raises(NotSupportedError, match="jetson_nano"):
        resolve_versions("jetson_nano", 17)
    with pytest.raises(ConfigError, match="esp32"):
        resolve_versions("esp32")


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("end", ENDS)
def test_every_ending_equals_the_reference(opset: int, end: str) -> None:
    network = policy(3, (12, 16, 16), "tanh", end)
    rows = observations(network, 64)
    got, expected = run(emit_onnx(network, opset=opset), rows)[0], evaluate(network, rows)[0]
    assert got.shape == expected.shape
    assert got.dtype == (np.int64 if expected.dtype == np.int64 else np.float32)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 17, 21])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_equals_the_reference_from_tail_to_tail(opset: int, name: str) -> None:
    grid = np.concatenate([np.linspace(-30, 30, 241), [-1e-8, 0.0, 1e-8, -88.0, 88.0]]).astype(np.float32)[:, None]
    network = Network((InputHead("observation", 1),), (Activation(name, alpha=0.3, low=-2.0, high=1.5),))  # type: ignore[arg-type]
    got, expected = (
        run(emit_onnx(network, opset=opset), {"observation": grid})[0],
        evaluate(network, {"observation": grid})[0],
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", OPSETS)
def test_dict_inputs_are_named_by_key_and_joined_in_order(opset: int) -> None:
    network = dict_policy()
    model = emit_onnx(network, opset=opset)
    assert [i.name for i in model.graph.input] == ["achieved", "desired", "mode", "switches"]
    rows = observations(network, 50)
    np.testing.assert_allclose(run(model, rows)[0], evaluate(network, rows)[0], atol=1e-5)


def test_swapping_two_dict_inputs_changes_the_answer() -> None:
    network = dict_policy()
    swapped = Network((network.inputs[1], network.inputs[0], *network.inputs[2:]), network.layers)
    rows = observations(network, 50)
    assert np.abs(run(emit_onnx(swapped), rows)[0] - evaluate(network, rows)[0]).max() > 0.01


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_recurrent_sequence_with_resets_equals_the_reference(opset: int, n_layers: int) -> None:
    network = policy(5, (12, 16), "tanh", "box", recurrent=n_layers)
    model = session(emit_onnx(network, opset=opset))
    assert [i.name for i in model.get_inputs()] == ["observation", "state_h", "state_c", "episode_start"]
    assert [o.name for o in model.get_outputs()] == ["action", "state_h_out", "state_c_out"]
    rows = observations(network, 40)["observation"]
    starts = np.zeros(40, np.float32)
    starts[[0, 11, 12, 30]] = 1.0
    hidden = cell = np.full((n_layers, 1, 8), 7.0, np.float32)  # must not be seen: the first row starts an episode
    state = None
    for t in range(40):
        expected, state = evaluate(network, {"observation": rows[t : t + 1]}, state, starts[t : t + 1])
        feeds = {"observation": rows[t : t + 1], "state_h": hidden, "state_c": cell, "episode_start": starts[t : t + 1]}
        got, hidden, cell = (np.asarray(v) for v in model.run(None, feeds))
        np.testing.assert_allclose(got, expected, atol=1e-5)
        np.testing.assert_allclose(hidden, state[0], atol=1e-5)
        np.testing.assert_allclose(cell, state[1], atol=1e-5)


def test_recurrent_rows_of_a_batch_do_not_touch_each_other() -> None:
    network = policy(5, (12, 16), "tanh", "box", recurrent=2)
    rng = np.random.default_rng(0)
    feeds = {
        **observations(network, 6),
        "state_h": rng.normal(size=(2, 6, 8)).astype(np.float32),
        "state_c": rng.normal(size=(2, 6, 8)).astype(np.float32),
        "episode_start": np.array([0, 1, 0, 0, 1, 0], np.float32),
    }
    model = emit_onnx(network)
    whole = run(model, feeds)
    for i in range(6):
        one = {k: v[:, i : i + 1] if k.startswith("state") else v[i : i + 1] for k, v in feeds.items()}
        single = run(model, one)
        np.testing.assert_allclose(single[0], whole[0][i : i + 1], atol=1e-6)
        np.testing.assert_allclose(single[1], whole[1][:, i : i + 1], atol=1e-6)


def test_a_nan_state_does_not_survive_the_start_of_an_episode() -> None:
    network = policy(5, (12, 16), "tanh", "box", recurrent=1)
    nan = np.full((1, 1, 8), np.nan, np.float32)
    feeds = {**observations(network, 1), "state_h": nan, "state_c": nan}
    model = emit_onnx(network)
    assert np.isnan(run(model, {**feeds, "episode_start": np.zeros(1, np.float32)})[0]).all()
    assert all(np.isfinite(v).all() for v in run(model, {**feeds, "episode_start": np.ones(1, np.float32)}))


@pytest.mark.parametrize("end", ["box", "clip", "squash"])
def test_a_nan_observation_gives_no_finite_action(end: str) -> None:
    network = policy(3, (12, 16), "tanh", end)
    rows = observations(network, 1)
    rows["observation"][0, 4] = np.nan
    assert not np.isfinite(run(emit_onnx(network), rows)[0]).any()


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_batch_axis_is_dynamic(n: int) -> None:
    network = policy(3, (12, 16), "relu", "clip")
    model = emit_onnx(network)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch_size"
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch_size"
    assert run(model, observations(network, n))[0].shape == (n, 3)


def test_declared_output_shapes_are_those_that_come_out() -> None:
    for end in ENDS:
        network = policy(3, (12, 8), "relu", end)
        model = emit_onnx(network)
        declared = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim][1:]
        assert list(run(model, observations(network, 3))[0].shape[1:]) == declared


def test_equal_networks_give_equal_bytes() -> None:
    for make in (lambda: policy(9, end="clip"), dict_policy, lambda: policy(9, (12, 8), recurrent=2)):
        assert model_to_bytes(emit_onnx(make())) == model_to_bytes(emit_onnx(make()))


def test_bytes_hold_no_paths_times_or_external_data() -> None:
    model = emit_onnx(policy(), metadata={"b": "2", "a": "1"})
    data = model_to_bytes(model)
    for word in (b"/tmp", b"/home", b"/root", b"site-packages", b".py", b"location"):
        assert word not in data
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in model.graph.initializer)
    assert [(p.key, p.value) for p in model.metadata_props] == [("a", "1"), ("b", "2")]
    assert model.producer_name == "sim2sky"


def test_normaliser_keeps_float64_accuracy_far_from_zero() -> None:
    """An altitude of 3000 m with a deviation of 2 cm: a mean rounded to float32 alone would be off by 6e-3 units."""
    layer = Normalise(np.array([3000.00007]), np.array([4e-4]), 1e-8, 10.0)
    network = Network((InputHead("observation", 1, (layer,)),), ())
    x = (3000.0 + np.linspace(-0.05, 0.05, 31)).astype(np.float32)[:, None]
    exact = np.clip((x.astype(np.float64) - layer.mean) / np.sqrt(layer.var + layer.epsilon), -10, 10)
    assert np.abs(run(emit_onnx(network), {"observation": x})[0] - exact).max() < 1e-5
    rounded = Normalise(layer.mean_high.astype(np.float64), layer.var, 1e-8, 10.0)
    without = Network((InputHead("observation", 1, (rounded,)),), ())
    assert np.abs(run(emit_onnx(without), {"observation": x})[0] - exact).max() > 1e-3


@pytest.mark.parametrize("low", [(-np.inf, 0.0), (-np.inf, -np.inf)])
def test_unlimited_and_one_sided_boxes_do_not_clip(low: tuple[float, float]) -> None:
    limits = np.array(low, np.float32)
    network = Network((InputHead("observation", 2),), (Clip(limits, np.full(2, np.inf, np.float32)),))
    x = np.array([[-(2.0**90), -5.0], [2.0**90, 5.0]], np.float32)
    np.testing.assert_array_equal(run(emit_onnx(network), {"observation": x})[0], np.maximum(x, limits))


def test_ties_go_to_the_first_category() -> None:
    network = Network((InputHead("observation", 4),), (ArgMax((4,)),))
    x = np.array([[1, 1, 1, 1], [0, 2, 2, 1]], np.float32)
    np.testing.assert_array_equal(run(emit_onnx(network), {"observation": x})[0], [0, 1])


def test_a_policy_without_layers_passes_its_input_on() -> None:
    network = Network((InputHead("observation", 3),), ())
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(run(emit_onnx(network), {"observation": x})[0], x)


def test_a_policy_that_ends_in_its_lstm_answers_the_hidden_state() -> None:
    network = Network((InputHead("observation", 3),), (lstm(np.random.default_rng(0), 3, 4),))
    zeros = np.zeros((1, 2, 4), np.float32)
    x = np.ones((2, 3), np.float32)
    out = run(
        emit_onnx(network),
        {"observation": x, "state_h": zeros, "state_c": zeros, "episode_start": np.zeros(2, np.float32)},
    )
    np.testing.assert_array_equal(out[0], out[1][0])


@pytest.mark.parametrize("key", ["action", "", "/layer0_dense/weight"])
def test_an_observation_key_that_clashes_is_refused(key: str) -> None:
    rng = np.random.default_rng(0)
    weight = Dense(rng.normal(size=(2, 3)).astype(np.float32), np.zeros(2, np.float32))
    with pytest.raises(ExportError, match="cannot name an ONNX input"):
        emit_onnx(Network((InputHead(key, 3),), (weight,)))


def test_state_names_are_reserved_for_recurrent_policies_only() -> None:
    rng = np.random.default_rng(0)
    head = InputHead("episode_start", 3)
    emit_onnx(Network((head,), (Affine(np.ones(3, np.float32), np.zeros(3, np.float32)),)))
    with pytest.raises(ExportError, match="episode_start"):
        emit_onnx(Network((head,), (lstm(rng, 3, 4),)))


def test_widths_that_do_not_fit_are_refused_with_the_layer_named() -> None:
    network = policy(3, (12, 16), "relu", "box")
    wrong = Network((InputHead("observation", 13),), network.layers)
    with pytest.raises(ExportError, match=r"layer0_dense.*takes 12 values per row, but is given 13"):
        emit_onnx(wrong)
    recurrent = Network((InputHead("observation", 5),), (lstm(np.random.default_rng(0), 4, 4),))
    with pytest.raises(ExportError, match="layer0_lstm"):
        emit_onnx(recurrent)


def test_an_lstm_in_a_head_is_not_supported() -> None:
    layer: Lstm = lstm(np.random.default_rng(0), 3, 4)
    with pytest.raises(NotSupportedError, match="LSTM"):
        emit_onnx(Network((InputHead("observation", 3, (layer,)),), ()))
