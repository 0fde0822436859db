"""Backends: the onnxruntime one against the numpy reference, in flight's own way of stepping."""

from __future__ import annotations

import builtins
import itertools
from typing import Any

import numpy as np
import pytest
from tests.export_support import dict_policy, observations, policy, session
from tests.flight_support import linear_network, make_bundle, make_golden, settings

from sim2sky.agent.golden import GoldenVectors
from sim2sky.agent.layers import Network, evaluate
from sim2sky.deployment.onnx_emitter import emit_onnx, model_to_bytes
from sim2sky.environments.tasks import make_contract
from sim2sky.errors import BundleError, ContractError, NotSupportedError
from sim2sky.runtime.inference import OnnxBackend, load_backend, measure_latency, onnx_session, replay_golden


def backend(network: Network) -> OnnxBackend:
    return OnnxBackend(onnx_session(model_to_bytes(emit_onnx(network))))


def golden(network: Network, n: int = 60, starts: tuple[int, ...] = ()) -> GoldenVectors:
    rows = observations(network, n)
    flags = np.zeros(n, np.float32)
    flags[list(starts)] = 1.0
    if network.lstm is None:
        actions = evaluate(network, rows)[0]
    else:
        state, answers = None, []
        for t in range(n):
            answer, state = evaluate(network, {k: v[t : t + 1] for k, v in rows.items()}, state, flags[t : t + 1])
            answers.append(answer[0])
        actions = np.stack(answers)
    kind = np.array(["sampled"] * n)
    recurrent = network.lstm is not None
    return GoldenVectors(rows, actions, flags if recurrent else None, kind)


@pytest.mark.parametrize("end", ["box", "clip", "squash", "argmax", "multi_discrete", "threshold", "quantile"])
def test_every_kind_of_policy_answers_as_the_reference(end: str) -> None:
    network = policy(1, end=end)
    assert replay_golden(backend(network), golden(network)) <= (1e-5 if end in {"box", "clip", "squash"} else 0)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_recurrent_policy_is_replayed_as_one_sequence_with_resets(layers: int) -> None:
    network = policy(2, recurrent=layers)
    vectors = golden(network, starts=(0, 20, 21, 47))
    assert replay_golden(backend(network), vectors) < 1e-5
    # Negative control: without the resets in the middle the answers differ.
    wrong = GoldenVectors(vectors.observations, vectors.action, np.eye(1, 60, dtype=np.float32)[0], vectors.kind)
    assert replay_golden(backend(network), wrong) > 1e-3


def test_a_session_can_be_replayed_directly() -> None:
    network = policy(3)
    assert replay_golden(session(emit_onnx(network)), golden(network)) < 1e-5


def test_dict_observations_reach_the_input_of_their_name() -> None:
    network = dict_policy()
    vectors = golden(network)
    assert replay_golden(backend(network), vectors) < 1e-5
    step = backend(network)
    with pytest.raises(BundleError, match="several inputs"):
        step(np.zeros(8, np.float32))
    with pytest.raises(BundleError, match="no input 'desired'"):
        step({"achieved": np.zeros(3)})


def test_answers_are_copies_not_views_of_the_bound_buffer() -> None:
    network = policy(4)
    step, rows = backend(network), observations(network, 2)["observation"]
    first = step(rows[0])
    kept = first.copy()
    step(rows[1])
    assert np.array_equal(first, kept)


def test_reset_forgets_the_recurrent_state() -> None:
    network = policy(5, recurrent=1)
    step, rows = backend(network), observations(network, 5)["observation"]
    fresh = step(rows[0])
    for row in rows[1:]:
        step(row)
    assert not np.array_equal(step(rows[0]), fresh)
    step.reset()
    assert np.array_equal(step(rows[0]), fresh)


@pytest.mark.parametrize("width", [1, 11, 13])
def test_an_observation_of_the_wrong_width_is_refused(width: int) -> None:
    with pytest.raises(ContractError, match=f"{width} values, the policy takes 12"):
        backend(policy(6))(np.zeros(width, np.float32))


def test_a_damaged_model_is_a_plain_error() -> None:
    data = model_to_bytes(emit_onnx(policy(7)))
    with pytest.raises(BundleError, match="cannot load the ONNX policy"):
        onnx_session(data[: len(data) // 2])


def test_a_model_with_other_outputs_is_refused() -> None:
    model = emit_onnx(policy(8))
    for node in model.graph.node:
        node.output[:] = ["reply" if name == "action" else name for name in node.output]
    model.graph.output[0].name = "reply"
    with pytest.raises(BundleError, match="not those of an exported policy"):
        OnnxBackend(session(model))


def test_latency_is_measured_with_the_given_clock() -> None:
    network = policy(9)
    durations = itertools.cycle([1_000_000] * 9 + [50_000_000])
    now = 0

    def clock() -> int:
        nonlocal now, reading
        reading = not reading
        if not reading:
            now += next(durations)
        return now

    reading = False
    result = measure_latency(backend(network), golden(network), n=100, warmup=3, deadline_ms=20.0, clock_ns=clock)
    assert result["mean_ms"] == pytest.approx(5.9)
    assert (result["p50_ms"], result["max_ms"]) == (1.0, 50.0)
    assert result["deadline_miss_rate"] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="at least 1"):
        measure_latency(backend(network), golden(network), n=0)


def test_real_latency_is_finite_ordered_and_small() -> None:
    network = policy(9)
    result = measure_latency(backend(network), golden(network), n=300)
    assert 0 < result["p50_ms"] <= result["p95_ms"] <= result["p99_ms"] <= result["max_ms"]
    assert result["p50_ms"] < 1.0


def test_load_backend_takes_the_active_format_and_names_what_there_is(tmp_path: Any) -> None:
    bundle = make_bundle(tmp_path / "b", settings())
    assert replay_golden(load_backend(bundle), bundle.golden()) < 1e-5
    with pytest.raises(BundleError, match="no format 'torchscript'"):
        load_backend(bundle, "torchscript")


def test_a_policy_swapped_after_opening_is_refused(tmp_path: Any) -> None:
    bundle = make_bundle(tmp_path / "b", settings())
    target = bundle.path / "policy.onnx"
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(bytes(data))
    with pytest.raises(BundleError, match="sha256"):
        load_backend(bundle)


def test_swapped_channels_are_found_by_the_golden_replay() -> None:
    contract = make_contract(settings())
    network = linear_network(contract)
    vectors = make_golden(network, contract)
    dense = network.layers[0]
    swapped = Network(network.inputs, (type(dense)(dense.weight[[1, 0, 2, 3]], dense.bias), *network.layers[1:]))  # type: ignore[union-attr]
    assert replay_golden(backend(network), vectors) < 1e-6
    assert replay_golden(backend(swapped), vectors) > 0.1


@pytest.mark.parametrize("recurrent", [0, 1])
def test_torchscript_steps_as_onnx_does(tmp_path: Any, recurrent: int) -> None:
    torch = pytest.importorskip("torch")
    from sim2sky.runtime.inference import TorchScriptBackend

    network = policy(10, (12, 16), recurrent=recurrent)

    class Reference(torch.nn.Module):  # type: ignore[name-defined,misc]
        """The deployed module's signature around numbers a script can hold."""

        def __init__(self) -> None:
            super().__init__()
            self.cell = torch.nn.LSTMCell(12, 4)
            self.head = torch.nn.Linear(12, 4)

        def forward(self, observation: Any, state: Any = None, episode_start: Any = None) -> Any:
            if state is None:
                return self.head(observation)
            keep = 1.0 - episode_start.reshape(1, 1)
            h, c = self.cell(observation, (state[0][0] * keep, state[1][0] * keep))
            return h, (h.unsqueeze(0), c.unsqueeze(0))

    module = Reference().eval()
    rows = [torch.randn(12) for _ in range(6)]
    state = (torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
    step = TorchScriptBackend(module, ("observation",), (1, 1, 4) if recurrent else None)
    first = step(rows[0].numpy())
    with torch.no_grad():
        if recurrent:
            expected, state = module(rows[0][None], state, torch.ones(1))
            assert np.allclose(first, expected[0])
            expected, _ = module(rows[1][None], state, torch.zeros(1))
            assert np.allclose(step(rows[1].numpy()), expected[0])
            step.reset()
            assert np.allclose(step(rows[0].numpy()), first)
        else:
            assert np.allclose(first, module(rows[0][None])[0])
    assert network.lstm is not None or not recurrent


def test_without_torch_a_torchscript_policy_is_refused_plainly(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "b", settings())
    object.__setattr__(bundle, "formats", {"torchscript": "policy.pt"})
    original = builtins.__import__

    def no_torch(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torch":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_torch)
    with pytest.raises(NotSupportedError, match="torch is not installed"):
        load_backend(bundle, "torchscript")
    for fmt, name in (("tflite", "policy.tflite"), ("native", "libpolicy.so")):
        object.__setattr__(bundle, "formats", {fmt: name})
        with pytest.raises(NotSupportedError, match=f"not supported: a policy in the file '{name}'") as caught:
            load_backend(bundle, fmt)
        assert "formats that fly: .onnx" in caught.value.hint
