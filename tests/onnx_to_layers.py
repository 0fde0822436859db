"""One ONNX node and its data as a network of ours: how the conformance cases of `onnx` reach the C generator.

The node's first input (all inputs of Concat) is what the policy observes; the others become its constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from sim2sky.agent.layers import (
    Activation,
    Affine,
    ArgMax,
    Clip,
    Dense,
    InputHead,
    Layer,
    Lstm,
    MeanQuantile,
    Network,
    OneHot,
    Threshold,
)

OBSERVED = "x"
WIDEST = 100
"""A longer vector through an element-wise node is asked in rows of this length."""


class Refused(Exception):
    """This node is no layer of a policy, and why."""


@dataclass(frozen=True)
class Question:
    """What to ask a network, and what the case says it answers.

    Attributes:
        network: the node.
        rows: observations (n, size), inputs concatenated; each row starts from a fresh state.
        arrange: answers (n, m) in the shape and type of the case's output.
    """

    network: Network
    rows: np.ndarray
    arrange: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Node:
    """One node: its operator, attributes, inputs (None where left out), and its answer (last output) in the case."""

    kind: str
    attributes: dict[str, Any]
    inputs: list[Any]
    answer: np.ndarray


def question_of(model: onnx.ModelProto, given: list[Any], wanted: list[Any]) -> Question:
    """Convert a model of a single node.

    Args:
        model: with one node.
        given: its inputs as the case has them.
        wanted: its outputs.

    Raises:
        Refused: with the reason.
    """
    proto = model.graph.node[0]
    inputs = _in_order(proto, given)
    for value in inputs:
        if not isinstance(value, np.ndarray | np.generic | None):
            raise Refused(f"{proto.op_type} of {type(value).__name__}: a policy has arrays")
    if inputs[0].dtype != np.float32 and proto.op_type != "OneHot":
        raise Refused(f"arithmetic in {inputs[0].dtype}: a policy computes in float32")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
    return CONVERTERS[proto.op_type](Node(proto.op_type, attributes, inputs, wanted[-1]))


def _in_order(node: onnx.NodeProto, given: list[Any]) -> list[Any]:
    """Data for every input name; a name left empty stands for an input left out."""
    rest = iter(given)
    return [next(rest) if name else None for name in node.input]


def _asked(rows: np.ndarray, node: Node, *layers: Layer) -> Question:
    network = Network((InputHead(OBSERVED, rows.shape[1]),), layers)
    return Question(network, np.ascontiguousarray(rows, np.float32), lambda answers: answers.reshape(node.answer.shape))


def _rows(x: np.ndarray) -> np.ndarray:
    """The last axis is what a layer sees, all others are a batch."""
    return x.reshape(-1, x.shape[-1])


def _row(x: np.ndarray) -> np.ndarray:
    return x.reshape(1, -1)


def _activation(node: Node) -> Question:
    attributes, x = node.attributes, node.inputs[0]
    alpha, beta = attributes.get("alpha"), attributes.get("beta")
    rows = _rows(x) if x.shape[-1] <= WIDEST else x.reshape(-1, x.size // -(-x.size // WIDEST))
    size = rows.shape[1]

    def times(factor: float, offset: float = 0.0) -> Affine:
        return Affine(np.full(size, factor, np.float32), np.full(size, offset, np.float32))

    match node.kind:
        case "Elu":
            layers: tuple[Layer, ...] = (Activation("elu", alpha=1.0 if alpha is None else alpha),)
        case "Celu":  # max(0, x) + min(0, alpha * (exp(x / alpha) - 1))
            scale = 1.0 if alpha is None else alpha
            layers = (times(1.0 / scale), Activation("elu", alpha=1.0), times(scale))
        case "Selu":
            gamma = attributes.get("gamma", 1.05070102214813232421875)
            layers = (Activation("elu", alpha=1.67326319217681884765625 if alpha is None else alpha), times(gamma))
        case "LeakyRelu":
            layers = (Activation("leaky_relu", alpha=0.01 if alpha is None else alpha),)
        case "HardSigmoid":
            slope, offset = 0.2 if alpha is None else alpha, 0.5 if beta is None else beta
            layers = (times(slope, offset), Activation("hardtanh", low=0.0, high=1.0))
        case "Gelu" if attributes.get("approximate", b"none") != b"none":
            raise Refused("Gelu by the approximation with tanh: ours is the exact one")
        case "Swish" if alpha not in (None, 1.0):
            raise Refused("Swish with a factor of its own")
        case "HardSwish":
            raise Refused("HardSwish: no layer multiplies two signals")
        case _:
            names = {"Swish": "silu", "Tanh": "tanh", "Relu": "relu", "Sigmoid": "sigmoid", "Gelu": "gelu"}
            names |= {"Softplus": "softplus", "Mish": "mish", "Identity": "identity"}
            layers = (Activation(names[node.kind]),)  # type: ignore[arg-type]
    return _asked(rows, node, *layers)


def _elementwise(node: Node) -> Question:
    """With a constant, broadcast; `a - b`, `a / b` by the negative and the inverse of b."""
    a, b = np.broadcast_arrays(*[*node.inputs, np.float32(0)][:2])
    b, one, zero = b.reshape(-1).astype(np.float32), np.ones(a.size, np.float32), np.zeros(a.size, np.float32)
    layers: dict[str, tuple[Layer, ...]] = {
        "Add": (Affine(one, b),),
        "Sub": (Affine(one, -b),),
        "Mul": (Affine(b, zero),),
        "Neg": (Affine(-one, zero),),
        "Greater": (Affine(one, -b), Threshold()),
    }
    chosen = (Affine(one / b, zero),) if node.kind == "Div" else layers[node.kind]
    return _asked(_row(a), node, *chosen)


def _clip(node: Node) -> Question:
    x, low, high = [*node.inputs, None, None][:3]
    size, widest = x.shape[-1], np.finfo(np.float32).max
    layer = Clip(
        np.full(size, -widest if low is None else low, np.float32),
        np.full(size, widest if high is None else high, np.float32),
    )
    return _asked(_rows(x), node, layer)


def _gemm(node: Node) -> Question:
    a, b = node.inputs[:2]
    a = a.T if node.attributes.get("transA") else a
    weight = (b if node.attributes.get("transB") else b.T) * np.float32(node.attributes.get("alpha", 1.0))
    c = [*node.inputs, np.zeros(1, np.float32)][2] * np.float32(node.attributes.get("beta", 1.0))
    if c.ndim == 2 and c.shape[0] > 1:
        raise Refused("Gemm with another bias in each row: a layer has one bias per output")
    bias = np.broadcast_to(c.reshape(-1), (len(weight),))
    return _asked(a, node, Dense(_packed(weight), _packed(bias)))


def _matmul(node: Node) -> Question:
    """A matrix on the right is a layer; a stack of matrices is one linear map, read off the unit vectors."""
    a, b = node.inputs
    if b.ndim <= 2 and a.ndim >= 1:
        weight = b.reshape(b.shape[0], -1).T
        return _asked(_rows(a), node, Dense(_packed(weight), np.zeros(len(weight), np.float32)))
    units = np.eye(a.size, dtype=np.float32).reshape(a.size, *a.shape)
    weight = np.stack([np.matmul(unit, b).reshape(-1) for unit in units], axis=1)
    return _asked(_row(a), node, Dense(_packed(weight), np.zeros(len(weight), np.float32)))


def _concat(node: Node) -> Question:
    axis = node.attributes["axis"] % node.inputs[0].ndim
    n = int(np.prod(node.inputs[0].shape[:axis]))
    parts = [x.reshape(n, -1) for x in node.inputs]
    heads = tuple(InputHead(f"{OBSERVED}{i}", part.shape[1]) for i, part in enumerate(parts))
    network = Network(heads, (Activation("identity"),))
    return Question(network, np.concatenate(parts, axis=1), lambda y: y.reshape(node.answer.shape))


def _argmax(node: Node) -> Question:
    if node.attributes.get("select_last_index"):
        raise Refused("ArgMax with ties to the last: ours go to the first, as in torch and numpy")
    x = np.moveaxis(node.inputs[0], node.attributes.get("axis", 0), -1)
    return _asked(_rows(x), node, ArgMax((x.shape[-1],), vector=True))


def _reduce_mean(node: Node) -> Question:
    x = node.inputs[0]
    axes = [int(axis) % x.ndim for axis in [*node.inputs, []][1]] or list(range(x.ndim))
    count = int(np.prod([x.shape[axis] for axis in axes]))
    x = np.moveaxis(x, axes, range(len(axes)))
    return _asked(x.reshape(1, -1), node, MeanQuantile(count, x.size // count))


def _batch_norm(node: Node) -> Question:
    if node.attributes.get("training_mode"):
        raise Refused("BatchNormalization in training: a policy that flies does not learn")
    x, scale, bias, mean, var = node.inputs
    factor = scale / np.sqrt(var + np.float32(node.attributes.get("epsilon", 1e-5)))
    spread = x[0, 0].size
    layer = Affine(np.repeat(factor, spread), np.repeat(bias - mean * factor, spread))
    return _asked(x.reshape(len(x), -1), node, layer)


def _one_hot(node: Node) -> Question:
    indices, depth, (off, on) = node.inputs[0], int(np.asarray(node.inputs[1]).reshape(-1)[0]), node.inputs[2]
    if node.inputs[2].dtype != np.float32:
        raise Refused(f"OneHot with values in {node.inputs[2].dtype}: a policy computes in float32")
    if (indices < 0).any() or (indices >= depth).any():
        raise Refused("OneHot of an index outside 0..depth-1: no category has it")
    rows = indices.reshape(-1, 1).astype(np.float32)
    network = Network(
        (InputHead(OBSERVED, 1, (OneHot((depth,)),)),),
        (Affine(np.full(depth, on - off, np.float32), np.full(depth, off, np.float32)),),
    )
    axis = node.attributes.get("axis", -1) % (indices.ndim + 1)
    return Question(network, rows, lambda y: np.moveaxis(y.reshape(*indices.shape, depth), -1, axis))


def _lstm(node: Node) -> Question:
    if node.attributes.get("direction", b"forward") != b"forward":
        raise Refused("LSTM backwards in time: a policy does not know the future")
    if len(node.inputs) > 7:
        raise Refused("LSTM with peepholes: torch has none")
    x, w, r = node.inputs[:3]
    hidden = node.attributes["hidden_size"]
    x = x if node.attributes.get("layout") else x.swapaxes(0, 1)  # (batch, time, size)
    if x.shape[1] != 1:
        raise Refused("LSTM over a sequence in one call: a policy takes one step per call")
    bias = node.inputs[3][0].reshape(2, -1).sum(axis=0) if len(node.inputs) > 3 else np.zeros(4 * hidden, np.float32)
    order = np.concatenate([np.arange(hidden) + hidden * gate for gate in (0, 2, 3, 1)])  # iofc to torch's ifco
    layer = Lstm((_packed(w[0][order]),), (_packed(r[0][order]),), (_packed(bias[order]),))
    return _asked(x[:, 0], node, layer)


def _packed(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32)


CONVERTERS: dict[str, Callable[[Node], Question]] = {
    **dict.fromkeys(
        ("Tanh", "Relu", "Elu", "Celu", "Selu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Gelu",
         "Softplus", "Mish", "Identity"), _activation),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Neg", "Greater"), _elementwise),
    "Clip": _clip,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Concat": _concat,
    "ArgMax": _argmax,
    "ReduceMean": _reduce_mean,
    "BatchNormalization": _batch_norm,
    "OneHot": _one_hot,
    "LSTM": _lstm,
}  # fmt: skip
