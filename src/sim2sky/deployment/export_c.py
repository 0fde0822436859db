"""A policy as one C99 source and header: no heap, no libm, the same bits on every IEEE machine and compiler.

The embedded golden answers are the C arithmetic's own (`c_arithmetic.CPolicy`), so that a target compares with `==`;
how far they lie from the trainer's answers is checked here. Needs no compiler.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.contract import Contract
from sim2sky.agent.golden import GoldenVectors, max_error
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
from sim2sky.agent.network_file import network_to_bytes
from sim2sky.deployment.c_arithmetic import LANES, NARROW, CPolicy, Weights, quantised
from sim2sky.deployment.c_functions import hex_float
from sim2sky.deployment.c_kernels import PREAMBLE, kernels
from sim2sky.deployment.c_template import header_text, source_text
from sim2sky.errors import ExportError, GoldenMismatchError, NotSupportedError

__all__ = ["TOLERANCE", "CSources", "c_sources", "golden_rows"]

F32 = NDArray[np.float32]

TOLERANCE = 1e-5
"""Largest error of a float32 policy on any golden vector, relative to the action's scale."""


@dataclass(frozen=True, slots=True)
class CSources:
    """A generated policy.

    Attributes:
        source: text of `policy.c`.
        header: text of `policy.h`.
        max_error: largest error of the C arithmetic on the golden vectors, relative to the action's scale.
        weight_bytes: bytes of weights and other constants of the layers, without the golden vectors.
    """

    source: str
    header: str
    max_error: float
    weight_bytes: int


def golden_rows(golden: GoldenVectors, contract: Contract) -> F32:
    """The golden observations as the C policy takes them: (n, n_observation), inputs concatenated in order."""
    parts = [np.asarray(golden.observations[i.key]).reshape(len(golden), -1) for i in contract.inputs]
    return np.ascontiguousarray(np.concatenate(parts, axis=1), np.float32)


def c_sources(network: Network, contract: Contract, golden: GoldenVectors, *, weights: Weights = "float32") -> CSources:
    """Generate `policy.c` and `policy.h`.

    Args:
        network: the policy.
        contract: its signals and rate.
        golden: the trainer's own answers; the observations are embedded with the C arithmetic's answers.
        weights: `int8` stores dense and recurrent weights with one scale per output; activations stay float32.

    Raises:
        NotSupportedError: a layer that the generator does not know; the message names it.
        ExportError: a layer's shape does not fit, or a constant is not finite.
        GoldenMismatchError: float32 weights answer further than `TOLERANCE` from the trainer.
    """
    writer = _Writer(weights)
    n_action = writer.network(network)
    rows = golden_rows(golden, contract)
    if tuple(h.key for h in network.inputs) != tuple(i.key for i in contract.inputs) or rows.shape[1] != writer.n_in:
        raise ExportError("the contract's inputs are not the policy's")
    answers = CPolicy(network, weights).evaluate(rows, golden.episode_start)
    discrete = golden.action.dtype.kind in "iu"
    error = max_error(golden, answers.astype(np.int64) if discrete and np.isfinite(answers).all() else answers)
    if not np.isfinite(error) or (weights == "float32" and error > TOLERANCE):
        raise GoldenMismatchError(f"the C policy's answers differ from the trainer's by up to {error:.2g}")
    header = header_text(
        n_observation=writer.n_in,
        n_action=n_action,
        n_golden=len(rows),
        rate_hz=contract.rate_hz,
        contract_hash=contract.hash,
        digest=hashlib.sha256(network_to_bytes(network)).hexdigest(),
        golden_error=error,
        weights=weights,
        weight_bytes=writer.constant_bytes,
        width=writer.width,
        state=writer.state,
    )
    golden_tables = [
        _table("float", "golden_observation", (hex_float(v) for v in rows.ravel()), rows.size),
        _table("float", "golden_action", (hex_float(v) for v in answers.ravel()), answers.size),
    ]
    if writer.state:
        starts = golden.episode_start if golden.episode_start is not None else np.zeros(len(rows))
        golden_tables.append(_table("uint8_t", "golden_start", (str(int(s != 0)) for s in starts), len(rows)))
    source = source_text(
        preamble=PREAMBLE,
        kernels=kernels(writer.kernels),
        tables="\n".join(writer.tables),
        golden="\n".join(golden_tables),
        statements="".join(f"    {line}\n" for line in writer.lines),
        n_action=n_action,
        width=writer.width,
        state=writer.state,
    )
    return CSources(source, header, error, writer.constant_bytes)


def _table(kind: str, name: str, values: Iterable[str], n: int) -> str:
    """A constant array with a static assert on its size."""
    text = list(values)
    per_line = 24 if kind in ("int8_t", "uint8_t") else 8
    lines = ("    " + ", ".join(text[i : i + per_line]) for i in range(0, n, per_line))
    body = ",\n".join(lines)
    check = f"STATIC_ASSERT({name}, sizeof({name}) == {n}u * sizeof({kind}));"
    return f"static const {kind} {name}[{n}] = {{\n{body}\n}};\n{check}\n"


def _padded(n: int) -> int:
    return -(-n // LANES) * LANES


class _Writer:
    """Walks the layers; collects constant tables, statements and the kernels they call.

    Statements work on two buffers: element-wise layers in place, the others from one into the other.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.tables: list[str] = []
        self.lines: list[str] = []
        self.kernels: set[str] = set()
        self.width = LANES
        """Floats of one working buffer: the widest layer, padded."""
        self.state = 0
        """Floats of the hidden state; as many of the cell state."""
        self.constant_bytes = 0
        self.n_in = 0
        self._index = 0
        self._here, self._there = "a", "b"
        self._where = ""

    def network(self, network: Network) -> int:
        """All statements of one step; returns the number of scalars of an action."""
        width = 0
        for head in network.inputs:
            self._where = f"input '{head.key}'"
            width += self._head(head, width)
        self._fits(width)
        for index, layer in enumerate(network.layers):
            self._index += 1
            self._where = f"layer {index} ({layer.kind})"
            width = self._layer(layer, width)
            self._fits(width)
        self._each(width, "memory->action[i]", f"{self._here}[i]")
        return width

    def _fits(self, width: int) -> None:
        self.width = max(self.width, _padded(width))

    def _expect(self, n: int, width: int) -> None:
        if n != width:
            raise ExportError(f"{self._where} takes {n} values but is given {width}")

    def _each(self, n: int, target: str, value: str) -> None:
        self.lines += [f"for (size_t i = 0; i < {n}; ++i) {{", f"    {target} = {value};", "}"]

    def _floats(self, name: str, values: NDArray[Any], *, finite: bool = True) -> str:
        array = np.asarray(values, np.float32).ravel()
        if np.isnan(array).any() or (finite and not np.isfinite(array).all()):
            raise ExportError(f"{self._where}: a constant of it is not finite in float32")
        return self._constant("float", name, (hex_float(v) for v in array), array.size, 4)

    def _constant(self, kind: str, name: str, values: Iterable[str], n: int, size: int) -> str:
        name = f"{name}_{self._index}"
        self.tables.append(_table(kind, name, values, n))
        self.constant_bytes += n * size
        return name

    def _sizes(self, sizes: tuple[int, ...]) -> str:
        return self._constant("uint32_t", "sizes", (f"{n}u" for n in sizes), len(sizes), 4)

    def _head(self, head: InputHead, at: int) -> int:
        """One input into the first buffer from element `at` on; returns its width."""
        source, target = _element("observation", self.n_in), _element("a", at)
        self.n_in += head.size
        width = head.size
        if not head.layers:
            self._each(width, target, source)
        for layer in head.layers:
            self._index += 1
            if isinstance(layer, OneHot) and source != target:
                self._expect(len(layer.sizes), width)
                self.kernels.add("one_hot")
                start = f"observation + {self.n_in - head.size}"
                self.lines.append(f"one_hot(a + {at}, {start}, {self._sizes(layer.sizes)}, {width});")
                width = sum(layer.sizes)
            elif (value := self._elementwise(layer, width, source)) is not None:
                self._each(width, target, value)
            else:
                raise NotSupportedError(f"a C policy with {self._where}: layer '{layer.kind}' before inputs are joined")
            source = target
        return width

    def _elementwise(self, layer: Layer, width: int, x: str) -> str | None:
        """The C expression of an element-wise layer applied to `x`; None where the layer is none."""
        match layer:
            case Normalise():
                self._expect(len(layer.mean), width)
                high, low = self._floats("mean_high", layer.mean_high), self._floats("mean_low", layer.mean_low)
                scale, limit = self._floats("scale", layer.scale), hex_float(layer.clip)
                self.kernels.add("clamp")
                return f"clamp((({x} - {high}[i]) - {low}[i]) * {scale}[i], -{limit}, {limit})"
            case Affine():
                self._expect(len(layer.scale), width)
                scale, offset = self._floats("factor", layer.scale), self._floats("offset", layer.offset)
                return f"fused({x}, {scale}[i], {offset}[i])"
            case Clip():
                self._expect(len(layer.low), width)
                low, high = (
                    self._floats(n, v, finite=False) for n, v in (("low", layer.low + 0.0), ("high", layer.high + 0.0))
                )  # -0 to +0
                self.kernels.add("clamp")
                return f"clamp({x}, {low}[i], {high}[i])"
            case Threshold():
                return f"{x} > 0.0f ? 1.0f : {x} <= 0.0f ? 0.0f : {x}"
            case _:
                return None

    def _activation(self, layer: Activation, width: int) -> None:
        match layer.name:
            case "identity":
                return
            case "leaky_relu" | "elu":
                constants = f", {hex_float(layer.alpha)}"
            case "hardtanh":
                constants = f", {hex_float(layer.low + 0.0)}, {hex_float(layer.high + 0.0)}"  # -0 to +0
            case "relu" | "tanh" | "sigmoid" | "silu" | "gelu" | "softplus" | "mish":
                constants = ""
            case _:
                raise NotSupportedError(f"a C policy with {self._where}: activation '{layer.name}'")
        self.kernels.add(f"{layer.name}_each")
        self.lines.append(f"{layer.name}_each({self._here}, {width}{constants});")

    def _swap(self) -> None:
        self._here, self._there = self._there, self._here

    def _layer(self, layer: Layer, width: int) -> int:
        x = f"{self._here}[i]"
        if (value := self._elementwise(layer, width, x)) is not None:
            self._each(width, x, value)
            return width
        match layer:
            case Activation():
                self._activation(layer, width)
                return width
            case Dense():
                self._dense(layer.weight, layer.bias, width)
                return len(layer.bias)
            case OneHot():
                self._expect(len(layer.sizes), width)
                self.kernels.add("one_hot")
                self.lines.append(f"one_hot({self._there}, {self._here}, {self._sizes(layer.sizes)}, {width});")
                self._swap()
                return sum(layer.sizes)
            case Lstm():
                return self._lstm(layer, width)
            case MeanQuantile():
                self._expect(layer.n_quantiles * layer.n_actions, width)
                self.kernels.add("mean_quantile")
                sizes = f"{layer.n_quantiles}, {layer.n_actions}"
                self.lines.append(f"mean_quantile({self._there}, {self._here}, {sizes});")
                self._swap()
                return layer.n_actions
            case ArgMax():
                self._expect(sum(layer.sizes), width)
                self.kernels.add("arg_max")
                sizes, start, n = self._sizes(layer.sizes), hex_float(layer.start), len(layer.sizes)
                self.lines.append(f"arg_max({self._there}, {self._here}, {sizes}, {start}, {n});")
                self._swap()
                return n
            case _:
                raise NotSupportedError(f"a C policy with {self._where}")

    def _dense(self, weight: F32, bias: F32, width: int) -> None:
        """A dense layer from one buffer into the other."""
        n_out, n_in = weight.shape
        self._expect(n_in, width)
        self._expect(len(bias), n_out)
        self._fits(n_in)
        self._fits(n_out)
        if not np.isfinite(weight).all():
            raise ExportError(f"{self._where}: a weight is not finite")
        wide = n_out > NARROW
        kernel = "dense" if wide else "dense_narrow"
        scales = ""
        if self._weights == "int8":
            kernel += "_int8"
            q, scale = quantised(weight)
            scales = self._floats("scale", _pad(scale, n_out)) + ", "
            stored = _blocks(q) if wide else _pad(q, n_in)
            name = self._constant("int8_t", "weight", map(str, stored.ravel().tolist()), stored.size, 1)
        else:
            name = self._floats("weight", _blocks(weight) if wide else _pad(weight, n_in))
        biases = self._floats("bias", _pad(bias, n_out))
        self.kernels.add(kernel)
        full = n_in + n_in % 2 if wide else _padded(n_in)
        if full > n_in:
            self.lines += [f"for (size_t i = {n_in}; i < {full}; ++i) {{", f"    {self._here}[i] = 0.0f;", "}"]
        sizes = f"{full}, {_padded(n_out) // LANES if wide else n_out}"
        self.lines.append(f"{kernel}({name}, {scales}{biases}, {self._here}, {self._there}, {sizes});")
        self._swap()

    def _lstm(self, layer: Lstm, width: int) -> int:
        n = layer.hidden_size
        self.kernels.add("lstm_cell")
        for k in range(layer.n_layers):
            self._index += 1
            at = f" + {self.state}" if self.state else ""
            hidden = _element("memory->hidden", self.state)
            self.state += n
            self._each(n, _element(self._here, width), hidden)
            self._expect(4 * n, len(layer.bias[k]))
            self._dense(np.concatenate([layer.weight_ih[k], layer.weight_hh[k]], axis=1), layer.bias[k], width + n)
            self.lines.append(f"lstm_cell({self._here}, memory->hidden{at}, memory->cell{at}, {n});")
            self._each(n, f"{self._here}[i]", hidden)
            width = n
        return width


def _element(array: str, start: int) -> str:
    return f"{array}[{start} + i]" if start else f"{array}[i]"


def _pad(values: NDArray[Any], n: int) -> NDArray[Any]:
    """Zeros behind the last of `n` columns, up to a multiple of eight."""
    padding = [(0, 0)] * (values.ndim - 1) + [(0, _padded(n) - n)]
    return np.pad(values, padding)


def _blocks(weight: NDArray[Any]) -> NDArray[Any]:
    """(out, in) to blocks of eight outputs, zeros behind the last, and an even number of inputs: (out / 8, in, 8)."""
    n_out, n_in = weight.shape
    padded = np.pad(weight, ((0, _padded(n_out) - n_out), (0, n_in % 2)))
    return np.ascontiguousarray(padded.reshape(-1, LANES, n_in + n_in % 2).transpose(0, 2, 1))
