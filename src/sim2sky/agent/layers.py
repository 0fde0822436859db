"""A policy as a short list of layers: the one source that torch, ONNX, C and numpy are views of.

Imports numpy only. Arrays are float32 and C-ordered unless said otherwise; a batch is always the first axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sim2sky.errors import ExportError

__all__ = [
    "Activation",
    "Affine",
    "ArgMax",
    "Clip",
    "Dense",
    "InputHead",
    "Layer",
    "Lstm",
    "LstmState",
    "MeanQuantile",
    "Network",
    "Normalise",
    "OneHot",
    "Threshold",
    "evaluate",
]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
ActivationKind = Literal[
    "tanh", "relu", "elu", "leaky_relu", "sigmoid", "hardtanh", "silu", "gelu", "softplus", "mish", "identity"
]
LstmState = tuple[F32, F32]  # (hidden, cell), each (n_layers, batch, hidden_size)


@dataclass(frozen=True, slots=True, eq=False)
class Normalise:
    """`clip((x - mean) / sqrt(var + epsilon), -clip, clip)`: Stable-Baselines3's VecNormalize.

    VecNormalize computes in float64. In float32 the same accuracy comes from splitting the mean in two float32 parts:
    `(x - mean_high) - mean_low` is exact where x is close to the mean (Sterbenz), so every view uses that.
    `mean` and `var` are float64 of shape (n,).
    """

    kind: ClassVar[str] = "normalise"
    mean: F64
    var: F64
    epsilon: float
    clip: float

    @property
    def mean_high(self) -> F32:
        """Mean rounded to float32."""
        return self.mean.astype(np.float32)

    @property
    def mean_low(self) -> F32:
        """What `mean_high` leaves over."""
        return (self.mean - self.mean_high.astype(np.float64)).astype(np.float32)

    @property
    def scale(self) -> F32:
        """1 / sqrt(var + epsilon), rounded once."""
        return (1.0 / np.sqrt(self.var + self.epsilon)).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class OneHot:
    """Category indices (batch, len(sizes)) to concatenated one-hot vectors (batch, sum(sizes))."""

    kind: ClassVar[str] = "one_hot"
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """`x @ weight.T + bias`; weight (out, in), bias (out,)."""

    kind: ClassVar[str] = "dense"
    weight: F32
    bias: F32


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """`x * scale + offset` per element, both (n,): batch normalisation at inference, and unscaling of actions."""

    kind: ClassVar[str] = "affine"
    scale: F32
    offset: F32


@dataclass(frozen=True, slots=True, eq=False)
class Activation:
    """Element-wise non-linearity. `alpha`: slope or scale of elu / leaky_relu; `low`, `high`: limits of hardtanh."""

    kind: ClassVar[str] = "activation"
    name: ActivationKind
    alpha: float = 0.0
    low: float = -1.0
    high: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Limit to [low, high] per element, both (n,): the action box of PPO, A2C, TRPO, ARS."""

    kind: ClassVar[str] = "clip"
    low: F32
    high: F32


@dataclass(frozen=True, slots=True, eq=False)
class Lstm:
    """Stacked LSTM in torch's layout and gate order (input, forget, cell, output), one step per call.

    Per layer l: weight_ih[l] (4h, in), weight_hh[l] (4h, h), bias[l] (4h,) = bias_ih + bias_hh. Where `episode_start`
    is 1 the state is zeroed before the step.
    """

    kind: ClassVar[str] = "lstm"
    weight_ih: tuple[F32, ...]
    weight_hh: tuple[F32, ...]
    bias: tuple[F32, ...]

    @property
    def hidden_size(self) -> int:
        """Width of hidden and cell state."""
        return int(self.weight_hh[0].shape[1])

    @property
    def n_layers(self) -> int:
        """Number of stacked layers."""
        return len(self.weight_hh)


@dataclass(frozen=True, slots=True, eq=False)
class MeanQuantile:
    """(batch, n_quantiles * n_actions) to (batch, n_actions): mean over quantiles (QR-DQN)."""

    kind: ClassVar[str] = "mean_quantile"
    n_quantiles: int
    n_actions: int


@dataclass(frozen=True, slots=True, eq=False)
class ArgMax:
    """Index of the largest logit or value in each group; (batch,) for one group, else (batch, len(sizes)); int64.

    `start` is added (Discrete spaces may not start at zero); ties go to the first, as in torch.
    """

    kind: ClassVar[str] = "argmax"
    sizes: tuple[int, ...]
    start: int = 0
    vector: bool = False  # True: keep the last axis even for a single group (MultiDiscrete)


@dataclass(frozen=True, slots=True, eq=False)
class Threshold:
    """1 where the logit is positive, else 0; int64 (batch, n): the mode of independent Bernoullis (MultiBinary)."""

    kind: ClassVar[str] = "threshold"


Layer = Normalise | OneHot | Dense | Affine | Activation | Clip | Lstm | MeanQuantile | ArgMax | Threshold


@dataclass(frozen=True, slots=True, eq=False)
class InputHead:
    """What happens to one input before all inputs are concatenated.

    Attributes:
        key: input name; `observation` unless the space is a Dict.
        size: scalars of one flattened raw observation.
        layers: normalise, one-hot.
    """

    key: str
    size: int
    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A deterministic policy: heads, concatenated in order, then `layers`. Raw observations in, actions out."""

    inputs: tuple[InputHead, ...]
    layers: tuple[Layer, ...]
    meta: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def lstm(self) -> Lstm | None:
        """The recurrent layer, if there is one (there is at most one)."""
        return next((layer for layer in self.layers if isinstance(layer, Lstm)), None)

    @property
    def dense(self) -> tuple[Dense, ...]:
        """All dense layers in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, Dense))


def _sigmoid(x: Any) -> Any:
    positive = x >= 0
    e = np.exp(np.where(positive, -x, x))
    return np.where(positive, 1 / (1 + e), e / (1 + e))


def _activate(layer: Activation, x: Any) -> Any:
    match layer.name:
        case "identity":
            return x
        case "tanh":
            return np.tanh(x)
        case "relu":
            return np.maximum(x, 0)
        case "elu":
            return np.where(x > 0, x, layer.alpha * np.expm1(np.minimum(x, 0)))
        case "leaky_relu":
            return np.where(x > 0, x, layer.alpha * x)
        case "sigmoid":
            return _sigmoid(x)
        case "hardtanh":
            return np.clip(x, layer.low, layer.high)
        case "silu":
            return x * _sigmoid(x)
        case "gelu":
            from math import erf  # scalar, but numpy has none; only the reference evaluator comes here

            return x * 0.5 * (1 + np.vectorize(erf, otypes=[x.dtype])(x / np.sqrt(2)))
        case "softplus":
            return np.logaddexp(x, 0)
        case "mish":
            return x * np.tanh(np.logaddexp(x, 0))


def _lstm(layer: Lstm, x: Any, state: LstmState, dtype: Any) -> tuple[Any, LstmState]:
    hidden, cell = state
    new_hidden, new_cell = [], []
    for w_ih, w_hh, bias, h, c in zip(layer.weight_ih, layer.weight_hh, layer.bias, hidden, cell, strict=True):
        gates = x @ w_ih.T.astype(dtype) + h @ w_hh.T.astype(dtype) + bias.astype(dtype)
        i, f, g, o = np.split(gates, 4, axis=-1)
        c_next = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        x = _sigmoid(o) * np.tanh(c_next)
        new_hidden.append(x)
        new_cell.append(c_next)
    return x, (np.stack(new_hidden), np.stack(new_cell))


def evaluate(
    network: Network,
    observation: Mapping[str, NDArray[Any]],
    state: LstmState | None = None,
    episode_start: NDArray[Any] | None = None,
    *,
    dtype: type[np.floating[Any]] = np.float64,
) -> tuple[NDArray[Any], LstmState | None]:
    """Reference evaluation in numpy.

    Args:
        network: the policy.
        observation: per input key, (batch, size) raw values.
        state: (hidden, cell), each (n_layers, batch, hidden); None means zeros.
        episode_start: (batch,) 1 where the state is to be zeroed first; None means nowhere.
        dtype: arithmetic type.

    Returns:
        action (batch, n) or integer (batch,) / (batch, n), and the next state.

    Raises:
        ExportError: an input is missing or of the wrong width.
    """
    parts = []
    for head in network.inputs:
        if head.key not in observation:
            raise ExportError(f"observation has no input '{head.key}'; it has {sorted(observation)}")
        x: Any = np.asarray(observation[head.key])
        x = x.reshape(x.shape[0], -1).astype(dtype)
        if x.shape[1] != head.size:
            raise ExportError(f"input '{head.key}' has {x.shape[1]} values per row, the policy takes {head.size}")
        for layer in head.layers:
            x, state = _apply(layer, x, state, episode_start, dtype)
        parts.append(x)
    x = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
    for layer in network.layers:
        x, state = _apply(layer, x, state, episode_start, dtype)
    return x, state


def _apply(layer: Layer, x: Any, state: Any, episode_start: Any, dtype: Any) -> tuple[Any, Any]:
    match layer:
        case Normalise():
            if dtype is np.float32:
                y = ((x - layer.mean_high) - layer.mean_low) * layer.scale
            else:
                y = (x - layer.mean.astype(dtype)) / np.sqrt(layer.var + layer.epsilon).astype(dtype)
            return np.clip(y, -layer.clip, layer.clip), state
        case OneHot():
            columns = x.astype(np.int64)
            return np.concatenate([np.eye(n, dtype=dtype)[columns[:, i]] for i, n in enumerate(layer.sizes)], 1), state
        case Dense():
            return x @ layer.weight.T.astype(dtype) + layer.bias.astype(dtype), state
        case Affine():
            return x * layer.scale.astype(dtype) + layer.offset.astype(dtype), state
        case Activation():
            return _activate(layer, x), state
        case Clip():
            return np.clip(x, layer.low.astype(dtype), layer.high.astype(dtype)), state
        case Lstm():
            if state is None:
                zeros = np.zeros((layer.n_layers, x.shape[0], layer.hidden_size), dtype)
                state = (zeros, zeros)
            if episode_start is not None:
                keep = (1 - np.asarray(episode_start, dtype)).reshape(1, -1, 1)
                state = (state[0] * keep, state[1] * keep)
            return _lstm(layer, x, state, dtype)
        case MeanQuantile():
            return x.reshape(-1, layer.n_quantiles, layer.n_actions).mean(axis=1), state
        case ArgMax():
            ends = np.cumsum(layer.sizes)
            picks = [x[:, end - n : end].argmax(axis=1) for n, end in zip(layer.sizes, ends, strict=True)]
            indices = np.stack(picks, axis=1).astype(np.int64) + layer.start
            return (indices if layer.vector else indices[:, 0]), state
        case Threshold():
            return (x > 0).astype(np.int64), state
