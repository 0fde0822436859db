"""The numpy twin of the generated C: its fused multiply-add against the C library's, its functions' error bounds."""

from __future__ import annotations

import ctypes
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import special

from sim2sky.agent.layers import Activation
from sim2sky.deployment import c_arithmetic
from sim2sky.deployment.c_arithmetic import activate, exp, fma, quantised, tanh

ROOT = Path(__file__).resolve().parents[2]
LIBM = ctypes.CDLL("libm.so.6")
LIBM.fmaf.argtypes = [ctypes.c_float] * 3
LIBM.fmaf.restype = ctypes.c_float

# Largest error: absolute where |y| <= 1, relative beyond. docs/c-core.md states the same.
BOUNDS = {
    "tanh": 3.1e-7,
    "sigmoid": 1.2e-7,
    "elu": 1.0e-7,
    "silu": 1.5e-7,
    "gelu": 1.0e-6,
    "softplus": 2.0e-7,
    "mish": 1.5e-7,
}
BOUND_EXP = 1.2e-7
"""Relative, for -87 <= x <= 88."""

REFERENCE = {
    "tanh": np.tanh,
    "sigmoid": lambda x: np.where(
        x > 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))
    ),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "silu": lambda x: x * special.expit(x),
    "gelu": lambda x: x * 0.5 * special.erfc(-x / math.sqrt(2)),
    "softplus": lambda x: np.logaddexp(x, 0),
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
}


def arguments(step: int, start: float = 0.0, end: float = np.inf) -> np.ndarray:
    """Every `step`-th float32 from `start` to `end`, and the same below zero."""
    first, last = (int(np.float32(v).view(np.uint32)) for v in (start, end))
    x = np.arange(first, last, step, dtype=np.uint32).view(np.float32)
    return np.concatenate([x, -x])


def error(y: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(y - expected) / np.maximum(1.0, np.abs(expected))))


def float_of(bits: int) -> float:
    return float(np.uint32(bits).view(np.float32))


bits = st.integers(0, 2**32 - 1)
near_tie = st.integers(0x3F800000 - 40, 0x3F800000 + 40)
ordinary = st.integers(0x3F000000, 0x41000000)
tiny = st.integers(0, 0x01000000)
operand = st.one_of(bits, near_tie, ordinary, tiny)


@settings(max_examples=600, deadline=None)
@given(operand, operand, operand)
@example(0x3F800001, 0x3F800001, 0x33800000)
@example(0x3F7FFFFF, 0x33800000, 0x3F800000)  # half a unit less a bit: the float64 sum is exactly a tie
@example(0x3F800001, 0x33800000, 0x3F800000)  # half a unit and a bit more
@example(0x00000001, 0x3F000000, 0x00000001)  # one and a half of the smallest denormal
@example(0x7F7FFFFF, 0x40000000, 0xFF7FFFFF)  # overflows only if the product is rounded first
@example(0x7F7FFFFF, 0x3F800000, 0x73000000)  # a tie between the largest number and infinity
@example(0x7F800000, 0x00000000, 0x3F800000)  # infinity times zero
def test_fma_rounds_once(a: int, b: int, c: int) -> None:
    x, y, z = (np.full(1, v, np.uint32).view(np.float32) for v in (a, b, c))
    with np.errstate(all="ignore"):
        got = fma(x, y, z)[0]
    expected = np.float32(LIBM.fmaf(float(x[0]), float(y[0]), float(z[0])))
    if np.isnan(expected):
        assert np.isnan(got)
    else:
        assert got.view(np.uint32) == expected.view(np.uint32)


def test_fma_is_right_where_two_roundings_are_wrong() -> None:
    """Negative control: the sum lies 2^-46 of half a unit below a tie, which float64 rounds to the tie."""
    n = np.arange(1, 2000, 2)
    c = (1 + n * 2.0**-23).astype(np.float32)  # odd: the tie goes up
    a = np.full(len(n), 1 + 2.0**-23, np.float32)
    b = np.full(len(n), 2.0**-24 * (1 - 2.0**-23), np.float32)
    got = fma(a, b, c)
    np.testing.assert_array_equal(got, c)
    np.testing.assert_array_equal([LIBM.fmaf(*map(float, row)) for row in zip(a, b, c, strict=True)], c)
    assert ((a.astype(np.float64) * b + c).astype(np.float32) > c).all()


@pytest.mark.parametrize("name", BOUNDS)
def test_activations_keep_their_bounds(name: str) -> None:
    x = np.concatenate([arguments(40_009), arguments(401, 2.0**-6, 32.0)])
    with np.errstate(all="ignore"):
        y = activate(Activation(name, alpha=1.0), x)  # type: ignore[arg-type]
        expected = REFERENCE[name](x.astype(np.float64))
    assert np.isfinite(y).all()
    assert error(y.astype(np.float64), expected) <= BOUNDS[name]


@pytest.mark.slow
def test_every_argument_of_tanh_keeps_its_bound() -> None:
    """All 2^27 or so float32 numbers from 2^-12 to 16."""
    for exponent in range(-12, 4):
        x = arguments(1, 2.0**exponent, 2.0 ** (exponent + 1))[: 2**23]
        y = tanh(x)
        assert error(y.astype(np.float64), np.tanh(x.astype(np.float64))) <= BOUNDS["tanh"]
        assert np.abs(y).max() < 1.0


def test_exp_keeps_its_bound() -> None:
    x = np.concatenate([arguments(4001, 2.0**-20, 87.0), np.array([0.0, -0.0, 88.0, -87.0], np.float32)])
    y = exp(x).astype(np.float64)
    assert np.abs(y / np.exp(x.astype(np.float64)) - 1).max() <= BOUND_EXP


def test_small_arguments_of_tanh_come_back_to_the_bit() -> None:
    x = arguments(997, 0.0, 2.0**-20)
    np.testing.assert_array_equal(tanh(x).view(np.uint32), x.view(np.uint32))


def test_functions_stay_in_their_range() -> None:
    x = np.concatenate([arguments(40_009), arguments(101, 4.0, 32.0)])
    with np.errstate(all="ignore"):
        assert 0.9999997 < np.abs(tanh(x)).max() < 1.0
        sigmoid = activate(Activation("sigmoid"), x)
        softplus = activate(Activation("softplus"), x)
        elu = activate(Activation("elu", alpha=1.0), x)
    assert sigmoid.min() >= 0.0
    assert sigmoid.max() == 1.0
    assert softplus.min() >= 0.0
    assert elu.min() == -1.0


@pytest.mark.parametrize("name", [*BOUNDS, "relu", "leaky_relu", "hardtanh", "identity"])
def test_a_nan_stays_one(name: str) -> None:
    x = np.full(9, np.nan, np.float32)
    with np.errstate(all="ignore"):
        assert np.isnan(activate(Activation(name, alpha=0.5), x)).all()  # type: ignore[arg-type]


def test_the_documented_bounds_are_the_tested_ones() -> None:
    text = (ROOT / "docs/c-core.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `?(\w+)`? \| [^|]+ \| ([0-9.]+e-\d) \|$", text, re.MULTILINE))
    assert {k: float(v) for k, v in rows.items()} == {**BOUNDS, "exp": BOUND_EXP}


def test_int8_weights_are_within_half_a_step() -> None:
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 1, (9, 30)).astype(np.float32)
    weight[4] = 0.0
    weight[5] *= np.float32(1e-44)
    q, scale = quantised(weight)
    assert q.dtype == np.int8
    assert np.abs(q).max() == 127
    assert (scale > 0).all()
    assert (np.abs(weight - q * scale[:, None]) <= 0.5001 * scale[:, None]).all()


def test_rows_do_not_depend_on_their_batch() -> None:
    """Working arrays hold 128 rows at a time; a row's answer is its own."""
    from tests.c_policy_support import rows_of
    from tests.export_support import policy

    network = policy(3, sizes=(5, 19))
    rows = rows_of(network, 300)
    together = c_arithmetic.CPolicy(network).evaluate(rows)
    apart = np.stack([c_arithmetic.CPolicy(network)(row) for row in rows[::17]])
    np.testing.assert_array_equal(together[::17], apart)
    assert c_arithmetic.CPolicy(network).evaluate(rows[:0]).shape == (0, 4)
