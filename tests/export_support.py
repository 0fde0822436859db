"""Random networks of every layer kind, and how to run a model: shared by the export tests."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from sim2sky.agent.golden import GoldenVectors
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
    Normalise,
    OneHot,
    Threshold,
    evaluate,
)

ACTIVATIONS = (
    "tanh", "relu", "elu", "leaky_relu", "sigmoid", "hardtanh", "silu", "gelu", "softplus", "mish", "identity",
)  # fmt: skip
ENDS = ("box", "clip", "squash", "argmax", "multi_discrete", "threshold", "quantile")


def dense(rng: np.random.Generator, n_in: int, n_out: int) -> Dense:
    weight = rng.normal(0.0, 1.0 / np.sqrt(n_in), (n_out, n_in)).astype(np.float32)
    return Dense(weight, rng.normal(0.0, 0.3, n_out).astype(np.float32))


def normalise(rng: np.random.Generator, n: int, clip: float = 10.0) -> Normalise:
    """Mixed units: means up to hundreds, deviations from centimetres to tens of metres."""
    return Normalise(rng.normal(0.0, 100.0, n), 10.0 ** rng.uniform(-4, 2, n), 1e-8, clip)


def affine(rng: np.random.Generator, n: int) -> Affine:
    return Affine(rng.uniform(0.5, 2.0, n).astype(np.float32), rng.normal(size=n).astype(np.float32))


def lstm(rng: np.random.Generator, n_in: int, hidden: int, n_layers: int = 1) -> Lstm:
    def make(shape: tuple[int, ...]) -> np.ndarray:
        return rng.normal(0.0, 1.0 / np.sqrt(hidden), shape).astype(np.float32)

    widths = [n_in] + [hidden] * (n_layers - 1)
    return Lstm(
        tuple(make((4 * hidden, w)) for w in widths),
        tuple(make((4 * hidden, hidden)) for _ in widths),
        tuple(make((4 * hidden,)) for _ in widths),
    )


def end_layers(rng: np.random.Generator, end: str, width: int) -> tuple[Layer, ...]:
    """Layers that turn features of `width` into an action as the named family of agents does."""
    match end:
        case "box":  # PPO with equal limits
            return (dense(rng, width, 4), Clip(np.full(4, -1.0, np.float32), np.full(4, 1.0, np.float32)))
        case "clip":  # PPO with mixed limits
            low = np.array([-2.0, 0.0, -0.1], np.float32)
            return (dense(rng, width, 3), Clip(low, np.array([2.0, 10.0, 0.1], np.float32)))
        case "squash":  # SAC with gSDE
            return (
                dense(rng, width, 2),
                Activation("hardtanh", low=-2.0, high=2.0),
                Activation("tanh"),
                Affine(np.array([2.0, 0.5], np.float32), np.array([0.0, 0.5], np.float32)),
            )
        case "argmax":
            return (dense(rng, width, 5), ArgMax((5,), start=-2))
        case "multi_discrete":
            return (dense(rng, width, 7), ArgMax((3, 4), vector=True))
        case "threshold":
            return (dense(rng, width, 6), Threshold())
        case "quantile":
            return (dense(rng, width, 15), MeanQuantile(5, 3), ArgMax((3,)))
    raise AssertionError(end)


def policy(
    seed: int = 0,
    sizes: tuple[int, ...] = (12, 64, 64),
    activation: str = "tanh",
    end: str = "box",
    *,
    recurrent: int = 0,
) -> Network:
    """Normaliser, hidden layers, optionally an LSTM of `recurrent` layers, and an end."""
    rng = np.random.default_rng(seed)
    layers: list[Layer] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [dense(rng, n_in, n_out), Activation(activation, alpha=0.7 if activation == "elu" else 0.1)]  # type: ignore[arg-type]
    width = sizes[-1]
    if recurrent:
        layers.append(lstm(rng, width, 8, recurrent))
        width = 8
    head = InputHead("observation", sizes[0], (normalise(rng, sizes[0]),))
    return Network((head,), (*layers, *end_layers(rng, end, width)))


def dict_policy(seed: int = 0) -> Network:
    """A Dict space: normalised box, raw box, one category, two categories."""
    rng = np.random.default_rng(seed)
    heads = (
        InputHead("achieved", 3, (normalise(rng, 3, 5.0),)),
        InputHead("desired", 2),
        InputHead("mode", 1, (OneHot((4,)),)),
        InputHead("switches", 2, (OneHot((2, 3)),)),
    )
    return Network(heads, (dense(rng, 14, 16), affine(rng, 16), Activation("relu"), *end_layers(rng, "clip", 16)))


def observations(network: Network, n: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Raw observations: around the normaliser's mean where there is one, category numbers where those are meant."""
    rng = np.random.default_rng(seed)
    result = {}
    for head in network.inputs:
        first = head.layers[0] if head.layers else None
        if isinstance(first, Normalise):
            values = first.mean + np.sqrt(first.var) * rng.normal(0.0, 2.0, (n, head.size))
            values[: n // 8] += np.sqrt(first.var) * 100.0 * rng.choice([-1.0, 1.0], (n // 8, head.size))
        elif isinstance(first, OneHot):
            values = np.stack([rng.integers(0, size, n) for size in first.sizes], axis=1)
        else:
            values = rng.normal(0.0, 2.0, (n, head.size))
        result[head.key] = values.astype(np.float32)
    return result


def golden_of(network: Network, n: int = 256) -> GoldenVectors:
    """The reference evaluator's answers in place of a trainer's."""
    rows = observations(network, n)
    starts = None
    if network.lstm is None:
        action = np.asarray(evaluate(network, rows)[0])
    else:
        starts = (np.arange(n) % 50 == 0).astype(np.float32)
        state, answers = None, []
        for t in range(n):
            one, state = evaluate(network, {k: v[t : t + 1] for k, v in rows.items()}, state, starts[t : t + 1])
            answers.append(one)
        action = np.concatenate(answers)
    discrete = action.dtype == np.int64
    action = action if discrete else action.astype(np.float32)
    return GoldenVectors(rows, action, starts, np.full(n, "sampled"), None if discrete else np.ones(action.shape[1]))


def session(model: onnx.ModelProto | bytes) -> ort.InferenceSession:
    data = model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto | bytes, feeds: Mapping[str, Any]) -> list[np.ndarray]:
    return [np.asarray(value) for value in session(model).run(None, dict(feeds))]
