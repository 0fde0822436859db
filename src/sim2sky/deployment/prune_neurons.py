"""Which neurons of a policy can go, and what their readers must weigh instead. numpy only: `prune_model` distils."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.layers import Activation, Affine, ArgMax, Clip, Dense, Layer, Network, Threshold, evaluate
from sim2sky.errors import ConfigError

__all__ = [
    "action_errors",
    "action_scale",
    "checked_rows",
    "decision_values",
    "dense_at",
    "hidden_layers",
    "remove_neurons",
    "up_to",
]

MIN_ROWS = 64
RIDGE = 1e-4
DISCRETE = ArgMax | Threshold


def checked_rows(network: Network, observations: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Observations as (n, size) float32 per input.

    Raises:
        ConfigError: an input is missing, of another width, too short or not finite.
    """
    rows: dict[str, NDArray[np.float32]] = {}
    for head in network.inputs:
        if head.key not in observations:
            raise ConfigError(f"pruning needs observations '{head.key}' of flights")
        values = np.asarray(observations[head.key])
        if values.ndim == 0 or values.size != len(values) * head.size:
            raise ConfigError(f"observations '{head.key}' of shape {values.shape} do not have {head.size} per row")
        rows[head.key] = values.reshape(len(values), head.size).astype(np.float32)
    lengths = {len(v) for v in rows.values()}
    if len(lengths) != 1 or min(lengths) < MIN_ROWS or not all(np.isfinite(v).all() for v in rows.values()):
        raise ConfigError(
            f"pruning needs at least {MIN_ROWS} finite observations, the same number for every input",
            hint=f"there are {sorted(lengths)}",
        )
    return rows


def dense_at(network: Network, index: int) -> Dense:
    """The dense layer at `index`."""
    layer = network.layers[index]
    assert isinstance(layer, Dense)  # noqa: S101  # indices come from hidden_layers and _reader
    return layer


def _reader(network: Network, index: int) -> int | None:
    """Index of the dense layer that reads layer `index` through element-wise layers only, if one does."""
    for i in range(index + 1, len(network.layers)):
        layer = network.layers[i]
        if isinstance(layer, Dense):
            return i
        if not isinstance(layer, Activation | Affine):
            return None
    return None


def hidden_layers(network: Network) -> list[int]:
    """Indices of the dense layers whose neurons can go: another dense layer reads them."""
    return [i for i, la in enumerate(network.layers) if isinstance(la, Dense) and _reader(network, i) is not None]


def up_to(network: Network, end: int) -> Network:
    """The policy without the layers from `end` on."""
    return Network(network.inputs, network.layers[:end])


def remove_neurons(
    original: Network, smaller: Network, index: int, amount: float, rows: Mapping[str, NDArray[np.float32]]
) -> Network:
    """Remove neurons of one layer of `smaller` and refit its reader to what that reads in the original."""
    reader = _reader(smaller, index)
    assert reader is not None  # noqa: S101  # indices come from hidden_layers
    width = dense_at(smaller, index).weight.shape[0]
    keep_count = max(1, width - round(amount * width))
    if keep_count == width:
        return smaller
    activity = np.asarray(evaluate(up_to(smaller, reader), rows)[0], np.float64)  # (n, width)
    wanted = np.asarray(evaluate(up_to(original, reader + 1), rows)[0], np.float64)
    read = (activity - activity.mean(axis=0)) * np.linalg.norm(dense_at(smaller, reader).weight, axis=0)
    keep = _most_telling(read.T @ read / len(read), keep_count)
    layers = list(smaller.layers)
    for i in range(index, reader):
        layers[i] = _select(layers[i], keep)
    inputs = np.column_stack([activity[:, keep], np.ones(len(activity))])
    start = np.column_stack([dense_at(smaller, reader).weight[:, keep], dense_at(smaller, reader).bias]).T
    gram = inputs.T @ inputs + RIDGE * len(inputs) * np.eye(inputs.shape[1])
    fitted = start + np.linalg.solve(gram, inputs.T @ (wanted - inputs @ start))
    layers[reader] = Dense(
        np.ascontiguousarray(fitted[:-1].T, dtype=np.float32), np.ascontiguousarray(fitted[-1], dtype=np.float32)
    )
    return Network(smaller.inputs, tuple(layers), smaller.meta)


def _most_telling(covariance: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Indices, ascending, of the `count` variables that explain most of the others: pivoted Cholesky factorisation.

    Each pick is the variable with the largest variance that the picks before it do not explain, so that of two equal
    neurons one is taken (Golub and Van Loan, Matrix Computations, section 4.2.8).
    """
    left = np.diag(covariance).copy()
    negligible = 1e-12 * float(left.max(initial=0.0))
    factor = np.zeros((len(covariance), count))
    picks: list[int] = []
    for j in range(count):
        i = int(np.argmax(left))
        if left[i] > negligible:  # else the picks explain all there is, and any neuron is as good
            factor[:, j] = (covariance[:, i] - factor[:, :j] @ factor[i, :j]) / np.sqrt(left[i])
            left = np.maximum(left - factor[:, j] ** 2, 0.0)
        picks.append(i)
        left[picks] = -1.0
    return np.sort(np.array(picks))


def _select(layer: Layer, keep: NDArray[np.intp]) -> Layer:
    match layer:
        case Dense():
            return Dense(np.ascontiguousarray(layer.weight[keep]), layer.bias[keep])
        case Affine():
            return Affine(layer.scale[keep], layer.offset[keep])
        case _:
            return layer


def decision_values(network: Network) -> Network:
    """The policy up to the values that its decision is made from: without a final arg-max or threshold."""
    return up_to(network, len(network.layers) - 1) if isinstance(network.layers[-1], DISCRETE) else network


def action_scale(network: Network, rows: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """Size of the answers: half the clip range where there is one, else their largest value."""
    last = network.layers[-1]
    if isinstance(last, Clip):
        half = (last.high.astype(np.float64) - last.low.astype(np.float64)) / 2
        if np.isfinite(half).all() and (half > 0).all():
            return half
    answers = np.abs(np.asarray(evaluate(decision_values(network), rows)[0], np.float64)).max(axis=0)
    return np.where(answers > 0, answers, 1.0)


def action_errors(
    original: Network, other: Network, rows: Mapping[str, NDArray[np.float32]], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How far two policies are apart: (n, n_actions) relative to `scale`; discrete: (n,), 1 where they differ."""
    old, new = (np.asarray(evaluate(network, rows)[0], np.float64) for network in (original, other))
    if isinstance(original.layers[-1], DISCRETE):
        return (old != new).reshape(len(old), -1).any(axis=1).astype(np.float64)
    return np.abs(old - new) / scale
