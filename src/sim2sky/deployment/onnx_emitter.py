"""The layer list as an ONNX graph, node by node: exact opset and IR version, one file, equal networks give equal bytes.

`torch.onnx` cannot promise any of that (it raises opsets silently, splits files and writes local paths), so policies
whose layers are known go this way. Needs `onnx` only, no torch.

Every input is float32 of shape (batch_size, size), also where the agent's space is discrete (the category's number as
a float). A NaN in a discrete input selects no category, and an arg-max answers an index whatever it compares: test
observations with `isfinite` before inference, as the flight runtime does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import sim2sky
from sim2sky.agent.layers import (
    Activation,
    Affine,
    ArgMax,
    Clip,
    Dense,
    Layer,
    Lstm,
    MeanQuantile,
    Network,
    Normalise,
    OneHot,
    Threshold,
)
from sim2sky.errors import ConfigError, ExportError, NotSupportedError

__all__ = [
    "ACTION",
    "BATCH",
    "EPISODE_START",
    "PROFILES",
    "STATE_INPUTS",
    "STATE_OUTPUTS",
    "Profile",
    "emit_onnx",
    "ir_version_for",
    "model_to_bytes",
    "resolve_versions",
]

ACTION = "action"
EPISODE_START = "episode_start"
STATE_INPUTS = ("state_h", "state_c")
STATE_OUTPUTS = ("state_h_out", "state_c_out")
BATCH = "batch_size"
OPSETS = range(11, 22)


@dataclass(frozen=True, slots=True)
class Profile:
    """What a target's runtimes read.

    Attributes:
        opset, ir_version: what is written unless an opset is asked for.
        max_opset, max_ir_version: the newest the target's onnxruntime loads.
        symmetric_int8: the target's accelerator takes symmetric int8 only (TensorRT 8.2).
    """

    opset: int
    ir_version: int
    max_opset: int = 21
    max_ir_version: int = 10
    symmetric_int8: bool = False


PROFILES: Mapping[str, Profile] = {
    # JetPack 4.6: Python 3.6, onnxruntime 1.10 (opset <= 15, IR <= 8), TensorRT 8.2 (opset <= 13, symmetric QDQ).
    "jetson_nano": Profile(opset=13, ir_version=7, max_opset=15, max_ir_version=8, symmetric_int8=True),
    # A microcontroller flies the bundle's C; its ONNX file is for the checks before.
    **dict.fromkeys(("raspberry_pi", "generic_linux", "local", "teensy"), Profile(opset=17, ir_version=8)),
}


def ir_version_for(opset: int) -> int:
    """The oldest IR version that may carry `opset` (11 -> 6, 13 -> 7, 17 -> 8, 20 -> 9, 21 -> 10).

    Raises:
        NotSupportedError: the opset is none of 11..21.
    """
    if opset not in OPSETS:
        raise NotSupportedError(
            f"ONNX opset {opset}", hint=f"choose one of {OPSETS.start}..{OPSETS.stop - 1}; opset 11 is the oldest"
        )
    return helper.find_min_ir_version_for([helper.make_opsetid("", opset)])


def resolve_versions(profile: str, opset_version: int | None = None) -> tuple[int, int]:
    """(opset, IR version) for a target profile; an explicit opset overrides the profile's.

    Raises:
        ConfigError: no such profile.
        NotSupportedError: the opset is none of 11..21, or newer than the profile's runtime loads.
    """
    if profile not in PROFILES:
        raise ConfigError(f"no target profile '{profile}'", hint=f"choose one of {', '.join(PROFILES)}")
    limits = PROFILES[profile]
    if opset_version is None or opset_version == limits.opset:
        return limits.opset, limits.ir_version
    ir_version = ir_version_for(opset_version)
    if opset_version > limits.max_opset or ir_version > limits.max_ir_version:
        raise NotSupportedError(
            f"opset {opset_version} (IR {ir_version}) on '{profile}', whose onnxruntime loads opset "
            f"<= {limits.max_opset} and IR <= {limits.max_ir_version}",
            hint=f"leave the opset out (then {limits.opset}) or choose another profile",
        )
    return opset_version, ir_version


def model_to_bytes(model: onnx.ModelProto) -> bytes:
    """Serialise; equal models give equal bytes."""
    return model.SerializeToString(deterministic=True)


class _Graph:
    """Nodes and initialisers under construction; every internal name begins with `/`, so no input key can clash."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.scope = "/"

    def constant(self, label: str, value: NDArray[Any]) -> str:
        name = f"{self.scope}{label}"
        if all(known.name != name for known in self.initializers):
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        return name

    def scalar(self, label: str, value: float) -> str:
        return self.constant(label, np.array(value, np.float32))

    def ints(self, label: str, value: Sequence[int]) -> str:
        return self.constant(label, np.array(value, np.int64))

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        return self.ops(op_type, 1, *inputs, **attributes)[0]

    def ops(self, op_type: str, n_outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        name = f"{self.scope}{len(self.nodes)}_{op_type}"
        outputs = [name] if n_outputs == 1 else [f"{name}_{i}" for i in range(n_outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), outputs, name=name, **attributes))
        return outputs

    def split(self, x: str, sizes: Sequence[int], label: str) -> list[str]:
        """Split the last of two axes; opset 13 made the sizes an input."""
        if len(sizes) == 1:
            return [x]
        if self.opset < 13:
            return self.ops("Split", len(sizes), x, axis=1, split=list(sizes))
        return self.ops("Split", len(sizes), x, self.ints(label, sizes), axis=1)

    def rename(self, old: str, new: str) -> None:
        """Rename an internal tensor everywhere."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new


def emit_onnx(
    network: Network,
    *,
    opset: int = 17,
    ir_version: int | None = None,
    producer_name: str = "sim2sky",
    producer_version: str = sim2sky.__version__,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """The network as an ONNX model.

    Inputs: one float32 (batch_size, size) tensor per input key (`observation` unless the space is a Dict); recurrent
    networks also take `state_h`, `state_c` (n_layers, batch_size, hidden) and `episode_start` (batch_size,), 1 where
    the state is to be zeroed first, and answer `state_h_out`, `state_c_out`. Output: `action`, (batch_size, n) float32,
    or int64 for discrete actions ((batch_size,) for one category).

    Args:
        network: the policy.
        opset: 11 to 21, written exactly.
        ir_version: None means the oldest that may carry the opset.
        producer_name, producer_version, metadata: written to the model as they are.

    Raises:
        NotSupportedError: the opset is out of range, or the IR version too old for it.
        ExportError: an input key clashes with another name, or widths do not fit.
    """
    oldest = ir_version_for(opset)
    ir = oldest if ir_version is None else ir_version
    if ir < oldest:
        raise NotSupportedError(f"opset {opset} in IR version {ir}", hint=f"IR version {oldest} is the oldest for it")
    _check_names(network)
    graph = _Graph(opset)
    inputs = [helper.make_tensor_value_info(h.key, TensorProto.FLOAT, [BATCH, h.size]) for h in network.inputs]
    parts: list[str] = []
    width = 0
    for number, head in enumerate(network.inputs):
        x, size = head.key, head.size
        for index, layer in enumerate(head.layers):
            graph.scope = f"/input{number}_{index}_{layer.kind}/"
            x, size = _emit(graph, layer, x, size)
        parts.append(x)
        width += size
    graph.scope = "/join/"
    x = graph.op("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
    outputs = []
    for index, layer in enumerate(network.layers):
        graph.scope = f"/layer{index}_{layer.kind}/"
        if isinstance(layer, Lstm):
            _expect(layer.weight_ih[0].shape[1], width, graph)
            x = _emit_lstm(graph, layer, x)
            shape = [layer.n_layers, BATCH, width := layer.hidden_size]
            inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in STATE_INPUTS]
            inputs.append(helper.make_tensor_value_info(EPISODE_START, TensorProto.FLOAT, [BATCH]))
            outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in STATE_OUTPUTS]
        else:
            x, width = _emit(graph, layer, x, width)
    graph.scope = "/output/"
    if not any(x in node.output for node in graph.nodes):
        x = graph.op("Identity", x)
    graph.rename(x, ACTION)
    outputs.insert(0, _action_info(network, width))
    model = helper.make_model(
        helper.make_graph(graph.nodes, "policy", inputs, outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=ir,
        producer_name=producer_name,
        producer_version=producer_version,
    )
    helper.set_model_props(model, dict(sorted((metadata or {}).items())))
    return model


def _check_names(network: Network) -> None:
    reserved = {ACTION}
    if network.lstm is not None:
        reserved |= {*STATE_INPUTS, *STATE_OUTPUTS, EPISODE_START}
    seen: set[str] = set()
    for head in network.inputs:
        if head.key in reserved | seen or head.key.startswith("/") or not head.key:
            raise ExportError(
                f"the observation key {head.key!r} cannot name an ONNX input",
                hint=f"it must be unique, not begin with '/' and be none of {sorted(reserved)}",
            )
        seen.add(head.key)


def _action_info(network: Network, width: int) -> onnx.ValueInfoProto:
    last = network.layers[-1] if network.layers else None
    if isinstance(last, ArgMax):
        shape: list[str | int] = [BATCH, len(last.sizes)] if last.vector else [BATCH]
        return helper.make_tensor_value_info(ACTION, TensorProto.INT64, shape)
    kind = TensorProto.INT64 if isinstance(last, Threshold) else TensorProto.FLOAT
    return helper.make_tensor_value_info(ACTION, kind, [BATCH, width])


def _expect(expected: int, width: int, graph: _Graph) -> None:
    if expected != width:
        raise ExportError(f"layer '{graph.scope.strip('/')}' takes {expected} values per row, but is given {width}")


def _emit(g: _Graph, layer: Layer, x: str, width: int) -> tuple[str, int]:
    """Nodes of one layer; returns the tensor it ends in and that tensor's width."""
    match layer:
        case Normalise():
            _expect(layer.mean.shape[0], width, g)
            x = g.op("Sub", x, g.constant("mean_high", layer.mean_high))
            x = g.op("Sub", x, g.constant("mean_low", layer.mean_low))
            x = g.op("Mul", x, g.constant("scale", layer.scale))
            return g.op("Clip", x, g.scalar("low", -layer.clip), g.scalar("high", layer.clip)), width
        case OneHot():
            _expect(len(layer.sizes), width, g)
            column = np.repeat(np.arange(len(layer.sizes)), layer.sizes)
            category = np.concatenate([np.arange(n) for n in layer.sizes])
            if len(layer.sizes) > 1:
                x = g.op("Gather", x, g.ints("column", column.tolist()), axis=1)
            x = g.op("Equal", x, g.constant("category", category.astype(np.float32)))
            return g.op("Cast", x, to=TensorProto.FLOAT), len(category)
        case Dense():
            _expect(layer.weight.shape[1], width, g)
            _expect(layer.weight.shape[0], layer.bias.shape[0], g)
            weight, bias = g.constant("weight", layer.weight), g.constant("bias", layer.bias)
            return g.op("Gemm", x, weight, bias, transB=1), layer.weight.shape[0]
        case Affine():
            _expect(layer.scale.shape[0], width, g)
            x = g.op("Mul", x, g.constant("scale", layer.scale))
            return g.op("Add", x, g.constant("offset", layer.offset)), width
        case Activation():
            return _emit_activation(g, layer, x), width
        case Clip():
            _expect(layer.low.shape[0], width, g)
            return _emit_clip(g, layer, x), width
        case MeanQuantile():
            _expect(layer.n_quantiles * layer.n_actions, width, g)
            x = g.op("Reshape", x, g.ints("shape", [-1, layer.n_quantiles, layer.n_actions]))
            if g.opset < 18:
                return g.op("ReduceMean", x, axes=[1], keepdims=0), layer.n_actions
            return g.op("ReduceMean", x, g.ints("axes", [1]), keepdims=0), layer.n_actions
        case ArgMax():
            _expect(sum(layer.sizes), width, g)
            groups = g.split(x, layer.sizes, "sizes")
            picks = [g.op("ArgMax", group, axis=1, keepdims=1) for group in groups]
            x = g.op("Concat", *picks, axis=1) if len(picks) > 1 else picks[0]
            if layer.start:
                x = g.op("Add", x, g.ints("start", [layer.start]))
            return (x if layer.vector else g.op("Reshape", x, g.ints("shape", [-1]))), len(layer.sizes)
        case Threshold():
            return g.op("Cast", g.op("Greater", x, g.scalar("zero", 0.0)), to=TensorProto.INT64), width
        case Lstm():
            raise NotSupportedError("an LSTM in front of the point where the inputs are joined")


def _emit_clip(g: _Graph, layer: Clip, x: str) -> str:
    """Clip takes scalar limits only; limits that differ between elements need Max and Min."""
    if (layer.low == layer.low[0]).all() and (layer.high == layer.high[0]).all():
        return g.op("Clip", x, g.scalar("low", float(layer.low[0])), g.scalar("high", float(layer.high[0])))
    return g.op("Min", g.op("Max", x, g.constant("low", layer.low)), g.constant("high", layer.high))


def _emit_activation(g: _Graph, layer: Activation, x: str) -> str:
    """One activation. silu, mish and gelu (exact, by erf) are written out: that is the same graph at every opset, and
    onnxruntime fuses them again."""
    match layer.name:
        case "identity":
            return x
        case "tanh":
            return g.op("Tanh", x)
        case "relu":
            return g.op("Relu", x)
        case "elu":
            return g.op("Elu", x, alpha=float(layer.alpha))
        case "leaky_relu":
            return g.op("LeakyRelu", x, alpha=float(layer.alpha))
        case "sigmoid":
            return g.op("Sigmoid", x)
        case "hardtanh":
            return g.op("Clip", x, g.scalar("low", layer.low), g.scalar("high", layer.high))
        case "silu":
            return g.op("Mul", x, g.op("Sigmoid", x))
        case "gelu":
            half_erf = g.op("Erf", g.op("Div", x, g.scalar("sqrt2", math.sqrt(2.0))))
            return g.op("Mul", g.op("Mul", x, g.op("Add", half_erf, g.scalar("one", 1.0))), g.scalar("half", 0.5))
        case "softplus":
            return g.op("Softplus", x)
        case "mish":
            return g.op("Mul", x, g.op("Tanh", g.op("Softplus", x)))


def _emit_lstm(g: _Graph, layer: Lstm, x: str) -> str:
    """One step of a stacked LSTM from Gemm, Sigmoid and Tanh.

    Written out because Gemm is what quantisers know, at the same speed as the ONNX LSTM operator at width 256 (about a
    tenth slower at width 64). Gates are reordered from torch's (input, forget, cell, output) to
    (input, forget, output, cell) so that one Sigmoid serves the first three. The state is zeroed by selection, not by
    multiplication: a NaN does not survive the start of an episode.
    """
    n, h = layer.n_layers, layer.hidden_size
    order = np.concatenate([np.arange(0, 2 * h), np.arange(3 * h, 4 * h), np.arange(2 * h, 3 * h)])
    fresh = g.op("Cast", g.op("Reshape", EPISODE_START, g.ints("column", [-1, 1])), to=TensorProto.BOOL)
    zero, row = g.scalar("zero", 0.0), g.ints("row", [-1, h])
    state = [g.op("Where", fresh, zero, name) for name in STATE_INPUTS]  # (n, batch, h)
    new: tuple[list[str], list[str]] = ([], [])
    for index in range(n):
        hidden, cell = (
            g.op("Reshape", s, row)
            if n == 1
            else g.op("Gather", s, g.constant(f"index{index}", np.array(index)), axis=0)
            for s in state
        )
        weight = np.concatenate([layer.weight_ih[index], layer.weight_hh[index]], axis=1)[order]
        gates = g.op(
            "Gemm",
            g.op("Concat", x, hidden, axis=1),
            g.constant(f"weight{index}", weight),
            g.constant(f"bias{index}", layer.bias[index][order]),
            transB=1,
        )
        logistic, candidate = g.split(gates, [3 * h, h], "gate_sizes")
        i, f, o = g.split(g.op("Sigmoid", logistic), [h, h, h], "logistic_sizes")
        cell = g.op("Add", g.op("Mul", f, cell), g.op("Mul", i, g.op("Tanh", candidate)))
        x = g.op("Mul", o, g.op("Tanh", cell))
        for states, value in zip(new, (x, cell), strict=True):
            states.append(g.op("Reshape", value, g.ints("stack", [1, -1, h])))
    for values, name in zip(new, STATE_OUTPUTS, strict=True):
        stacked = g.op("Concat", *values, axis=0) if n > 1 else values[0]
        g.rename(stacked, name)
    return x
