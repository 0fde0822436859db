"""The generated C policy's arithmetic in numpy, to the last bit, so that its golden answers need no compiler.

Only operations that IEEE 754 rounds exactly occur: +, -, *, / and fused multiply-add in float32, comparisons, and
integer operations on the bits. `c_kernels.py` holds the same steps as C text; change both together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

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
)

__all__ = ["COEFFICIENTS", "LANES", "NARROW", "CPolicy", "Weights", "exp", "fma", "quantised", "tanh"]

F32 = NDArray[np.float32]
Weights = Literal["float32", "int8"]

LANES = 8
"""Outputs per stored block of a wide dense layer; inputs per step of a narrow one."""

NARROW = 8
"""A dense layer of at most this many outputs sums over eight lanes of inputs: one accumulator per output would wait
for itself on every machine that has SIMD units."""

_ROWS = 128  # rows at a time: the working arrays stay in the cache


def _constants(*values: float) -> tuple[np.float32, ...]:
    return tuple(np.float32(v) for v in values)


# Near-minimax fits (Lawson's weighted least squares) in the relative error of tanh(x)/x and erf(x)/x over z = x * x,
# of (expm1(r) - r) / r^2 on |r| <= ln(2)/2, and of (atanh(s)/s - 1) / z on s <= 1/3; ascending powers. The first two
# were then moved by single units in the last place until the float32 evaluation erred least; tanh never reaches 1.
COEFFICIENTS: Mapping[str, tuple[np.float32, ...]] = {
    "tanh_p": _constants(1.0, 0.13382684, 0.0034974408, 2.063561e-05, 1.3384176e-08),
    "tanh_q": _constants(1.0, 0.46716008, 0.02588432, 0.00032884884, 7.790192e-07),
    "tanh_limit": _constants(7.9),
    "erf_p": _constants(1.128379, 0.18987814, 0.052678972, 0.0037427745, 0.0002843372, 2.053882e-06),
    "erf_q": _constants(1.0, 0.50160795, 0.113890514, 0.014923875, 0.001156914, 3.810222e-05),
    "erf_limit": _constants(3.92),
    "exp": _constants(0.5, 0.16666577, 0.04166638, 0.00836318, 0.00139411),
    "log": _constants(0.33333319, 0.20003891, 0.14115645, 0.13441776),
    "log2_e": _constants(1.4426950408889634),
    "minus_ln_2": _constants(-0.6931471805599453, float(np.float32(0.6931471805599453)) - 0.6931471805599453),
}  # fmt: skip
_C = COEFFICIENTS
_MAGIC = np.float32(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer, found in the low bits
EXP_LOW, EXP_HIGH = np.float32(-87.0), np.float32(88.0)
_ONE, _TWO, _HALF, _ZERO = np.float32(1), np.float32(2), np.float32(0.5), np.float32(0)


def fma(a: Any, b: Any, c: Any) -> F32:
    """a * b + c rounded once to float32, element-wise over broadcast float32 arrays.

    In float64 the product is exact; the sum is rounded a second time to float32, which errs only where the float64 sum
    lies exactly between two float32 numbers, or the result is subnormal. Those elements are redone with the float64 sum
    rounded to odd (Boldo and Melquiond 2008), after which the second rounding is always right.
    """
    product = np.multiply(a, b, dtype=np.float64)
    addend = np.asarray(c, np.float64)
    total = np.asarray(product + addend)
    bits = total.view(np.int64)
    doubtful = ((bits & 0x1FFFFFFF) == 0x10000000) | ((np.abs(total) < 2.4e-38) & (total != 0))
    result = total.astype(np.float32)
    if doubtful.any():
        p, s = np.broadcast_to(product, total.shape)[doubtful], total[doubtful]
        q = np.broadcast_to(addend, total.shape)[doubtful]
        back = s - p
        error = (p - (s - back)) + (q - back)  # TwoSum (Knuth): s + error is the exact sum
        odd = s.view(np.int64).copy()
        fix = (error != 0) & np.isfinite(error) & ((odd & 1) == 0)
        odd[fix] += np.where((error[fix] > 0) == (s[fix] > 0), 1, -1)
        result[doubtful] = odd.view(np.float64).astype(np.float32)
    return result


def _horner(x: Any, coefficients: tuple[np.float32, ...]) -> F32:
    value: Any = coefficients[-1]
    for c in coefficients[-2::-1]:
        value = fma(value, x, c)
    return value


def _clamp(x: F32, low: np.float32 | F32, high: np.float32 | F32) -> F32:
    """A NaN stays one."""
    x = np.where(x <= low, low + _ZERO, x)
    return np.where(x > high, high + _ZERO, x)


def _reduced(x: F32) -> tuple[F32, F32]:
    """(2^n, exp(r) - 1) with x = n ln 2 + r; x within [-87, 88] or NaN."""
    shifted = fma(x, _C["log2_e"][0], _MAGIC)
    n = shifted - _MAGIC
    r = fma(n, _C["minus_ln_2"][1], fma(n, _C["minus_ln_2"][0], x))
    bits = (shifted.view(np.uint32) << np.uint32(23)) + np.uint32(0x3F800000)
    return bits.view(np.float32), fma(r * r, _horner(r, _C["exp"]), r)


def exp(x: F32) -> F32:
    """exp(x), x limited to [-87, 88]."""
    scale, rest = _reduced(_clamp(x, EXP_LOW, EXP_HIGH))
    return fma(scale, rest, scale)


def _expm1(x: Any) -> F32:
    scale, rest = _reduced(_clamp(x, EXP_LOW, EXP_HIGH))
    return fma(scale, rest, scale - _ONE)


def tanh(x: F32) -> F32:
    """tanh(x) as x P(x^2) / Q(x^2)."""
    x = _clamp(x, -_C["tanh_limit"][0], _C["tanh_limit"][0])
    z = x * x
    return x * _horner(z, _C["tanh_p"]) / _horner(z, _C["tanh_q"])


def _sigmoid(x: Any) -> F32:
    return _ONE / (_ONE + exp(-x))


def _silu(x: Any) -> F32:
    x = np.where(x < -EXP_HIGH, -EXP_HIGH, x)
    return x / (_ONE + exp(-x))


def _gelu(x: Any) -> F32:
    x = np.where(x < np.float32(-6), np.float32(-6), x)
    y = _clamp(x * np.float32(np.sqrt(0.5)), -_C["erf_limit"][0], _C["erf_limit"][0])
    z = y * y
    half = _HALF * x
    return fma(half, y * _horner(z, _C["erf_p"]) / _horner(z, _C["erf_q"]), half)


def _softplus(x: Any) -> F32:
    u = exp(np.where(x < 0, x, -x))
    s = u / (_TWO + u)
    z, t = s * s, s + s
    return np.where(x < 0, _ZERO, x) + fma(t * z, _horner(z, _C["log"]), t)


def _mish(x: Any) -> F32:
    x = np.where(x < EXP_LOW, EXP_LOW, x)
    e = exp(np.where(x > np.float32(20), np.float32(20), x))
    n = e * (e + _TWO)
    return x * (n / (n + _TWO))


def activate(layer: Activation, x: F32) -> F32:
    """One activation, element-wise."""
    alpha = np.float32(layer.alpha)
    match layer.name:
        case "identity":
            return x
        case "tanh":
            return tanh(x)
        case "relu":
            return np.where(x <= 0, _ZERO, x)
        case "elu":
            return np.where(x > 0, x, alpha * _expm1(np.where(x > 0, _ZERO, x)))
        case "leaky_relu":
            return np.where(x > 0, x, alpha * x)
        case "sigmoid":
            return _sigmoid(x)
        case "hardtanh":
            return _clamp(x, np.float32(layer.low), np.float32(layer.high))
        case "silu":
            return _silu(x)
        case "gelu":
            return _gelu(x)
        case "softplus":
            return _softplus(x)
        case "mish":
            return _mish(x)


def quantised(weight: F32) -> tuple[NDArray[np.int8], F32]:
    """Symmetric int8 weights and their scale per output: weight (out, in) is about `q * scale[:, None]`."""
    scale: Any = np.abs(weight).max(axis=1) / np.float32(127)
    scale = np.where(scale > 0, scale, _ONE)  # no weights, or so small that the division underflows
    q = np.clip(np.rint(weight / scale[:, None]), -127, 127).astype(np.int8)
    return q, scale


def _dense(weight: F32, bias: F32, x: F32, scale: F32 | None) -> F32:
    """`x @ weight.T + bias` in the C kernels' order; with `scale`, `(x @ weight.T) * scale + bias`."""
    n_out, n_in = weight.shape
    if n_out > NARROW:
        w = np.pad(weight, ((0, 0), (0, n_in % 2)))
        v = np.pad(x, ((0, 0), (0, n_in % 2)))
        even = np.broadcast_to(bias if scale is None else _ZERO, (len(x), n_out)).astype(np.float32)
        odd = np.zeros_like(even)
        for i in range(0, n_in, 2):
            even = fma(w[:, i], v[:, i : i + 1], even)
            odd = fma(w[:, i + 1], v[:, i + 1 : i + 2], odd)
        return even + odd if scale is None else fma(even + odd, scale, bias)
    steps = -(-n_in // LANES)
    w = np.zeros((n_out, steps * LANES), np.float32)
    w[:, :n_in] = weight
    v = np.zeros((len(x), 1, steps * LANES), np.float32)
    v[:, 0, :n_in] = x
    lanes: F32 = np.zeros((len(x), n_out, LANES), np.float32)
    for i in range(0, steps * LANES, LANES):
        lanes = fma(w[:, i : i + LANES], v[..., i : i + LANES], lanes)
    lanes = lanes[..., :4] + lanes[..., 4:]
    lanes = lanes[..., :2] + lanes[..., 2:]
    total: Any = lanes[..., 0] + lanes[..., 1]
    return total + bias if scale is None else fma(total, scale, bias)


def _arg_max(layer: ArgMax, x: F32) -> F32:
    picks: list[F32] = []
    start = 0
    for size in layer.sizes:
        group = x[:, start : start + size]
        best, index, sum_ = group[:, 0].copy(), np.zeros(len(x), np.float32), group[:, 0].copy()
        for k in range(1, size):
            larger = group[:, k] > best
            best = np.where(larger, group[:, k], best)
            index = np.where(larger, np.float32(k), index)
            sum_ = np.where(np.isnan(group[:, k]), group[:, k], sum_)
        picks.append(np.where(np.isnan(sum_), np.float32(np.nan), index + np.float32(layer.start)))
        start += size
    return np.stack(picks, axis=1)


class CPolicy:
    """The generated policy's answers, bit by bit.

    Args:
        network: the policy.
        weights: how dense and recurrent weights are stored.
    """

    def __init__(self, network: Network, weights: Weights = "float32") -> None:
        self._network = network
        self._weights = weights
        self._matrices: dict[int, tuple[F32, F32 | None]] = {}
        self._hidden: list[F32] = []
        self._cell: list[F32] = []
        self.reset()

    def reset(self) -> None:
        """Begin an episode: recurrent state to zero."""
        lstm = self._network.lstm
        if lstm is not None:
            self._hidden = [np.zeros((1, lstm.hidden_size), np.float32) for _ in range(lstm.n_layers)]
            self._cell = [h.copy() for h in self._hidden]

    def __call__(self, observation: NDArray[Any]) -> F32:
        """One step: observation (n_observation,) to action (n_action,); indices as floats where it is discrete."""
        return self.evaluate(np.asarray(observation, np.float32)[None])[0]

    def evaluate(self, rows: NDArray[Any], episode_start: NDArray[Any] | None = None) -> F32:
        """Answers to rows of observations (batch, n_observation), inputs concatenated in order.

        Where the policy is recurrent the rows follow each other in time, and the state carries on from earlier calls;
        `episode_start` (batch,) is 1 where it is zeroed first. A row that is not finite is not run: its action is NaN.
        """
        rows = np.ascontiguousarray(rows, np.float32)
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(rows).all(axis=1))
        size = _ROWS if self._network.lstm is None else 1
        parts: list[F32] = []
        with np.errstate(all="ignore"):
            for start in range(0, len(rows), size):
                if size == 1 and episode_start is not None and episode_start[start]:
                    self.reset()
                if size == 1 and not finite[start]:
                    parts.append(np.full((1, self.n_action), np.nan, np.float32))
                else:
                    parts.append(self._run(rows[start : start + size]))
        answers = np.concatenate(parts) if parts else np.zeros((0, self.n_action), np.float32)
        answers[~finite] = np.nan
        return answers

    @property
    def n_action(self) -> int:
        """Scalars of one action."""
        for layer in reversed(self._network.layers):
            match layer:
                case Dense():
                    return len(layer.bias)
                case ArgMax():
                    return len(layer.sizes)
                case MeanQuantile():
                    return layer.n_actions
                case Lstm():
                    return layer.hidden_size
                case _:
                    continue
        return sum(_head_width(head) for head in self._network.inputs)

    def _run(self, rows: F32) -> F32:
        parts: list[F32] = []
        start = 0
        for head in self._network.inputs:
            x = rows[:, start : start + head.size]
            for layer in head.layers:
                x = self._apply(layer, x)
            parts.append(x)
            start += head.size
        x = np.concatenate(parts, axis=1)
        for layer in self._network.layers:
            x = self._apply(layer, x)
        return x

    def _apply(self, layer: Layer, x: F32) -> F32:
        match layer:
            case Normalise():
                limit = np.float32(layer.clip)
                return _clamp(((x - layer.mean_high) - layer.mean_low) * layer.scale, -limit, limit)
            case OneHot():
                categories = np.concatenate([np.arange(n, dtype=np.float32) for n in layer.sizes])
                return (np.repeat(x, layer.sizes, axis=1) == categories).astype(np.float32)
            case Dense():
                weight, scale = self._matrix(id(layer), layer.weight)
                return _dense(weight, layer.bias, x, scale)
            case Affine():
                return fma(x, layer.scale, layer.offset)
            case Activation():
                return activate(layer, x)
            case Clip():
                return _clamp(x, layer.low, layer.high)
            case Lstm():
                return self._lstm(layer, x)
            case MeanQuantile():
                groups = x.reshape(-1, layer.n_quantiles, layer.n_actions)
                total = groups[:, 0]
                for k in range(1, layer.n_quantiles):
                    total = total + groups[:, k]
                return np.asarray(total / np.float32(layer.n_quantiles), np.float32)
            case ArgMax():
                return _arg_max(layer, x)
            case Threshold():
                return np.where(x > 0, _ONE, np.where(x <= 0, _ZERO, x))

    def _matrix(self, key: int, weight: F32) -> tuple[F32, F32 | None]:
        if self._weights == "float32":
            return weight, None
        if key not in self._matrices:
            q, scale = quantised(weight)
            self._matrices[key] = (q.astype(np.float32), scale)
        return self._matrices[key]

    def _lstm(self, layer: Lstm, x: F32) -> F32:
        for k in range(layer.n_layers):
            weight = np.concatenate([layer.weight_ih[k], layer.weight_hh[k]], axis=1)
            weight, scale = self._matrix(id(layer.weight_ih[k]), weight)
            gates = _dense(weight, layer.bias[k], np.concatenate([x, self._hidden[k]], axis=1), scale)
            entry, forget, candidate, output = np.split(gates, 4, axis=1)
            self._cell[k] = fma(_sigmoid(forget), self._cell[k], _sigmoid(entry) * tanh(candidate))
            self._hidden[k] = x = _sigmoid(output) * tanh(self._cell[k])
        return x


def _head_width(head: InputHead) -> int:
    width: int = head.size
    for layer in head.layers:
        width = sum(layer.sizes) if isinstance(layer, OneHot) else width
    return width
