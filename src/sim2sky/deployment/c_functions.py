"""The C99 text of exp, tanh and the activations made of them; `c_arithmetic.py` is the same arithmetic in numpy."""

from __future__ import annotations

import numpy as np

from sim2sky.deployment.c_arithmetic import COEFFICIENTS, EXP_HIGH, EXP_LOW

__all__ = ["FUNCTIONS", "hex_float"]


def hex_float(value: float | np.floating) -> str:
    """A C99 float constant that reads back to exactly this float32."""
    number = float(np.float32(value))
    if np.isinf(number):
        return "INFINITY" if number > 0 else "-INFINITY"
    mantissa, exponent = number.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}f"


_CLAMP = """
/* A NaN stays one. At the lower limit the limit, at the upper x: so -0 and +0 come out as from the instruction that
 * clang takes for a limit of zero on aarch64, whatever C says of their signs. No limit is -0. */
static inline float clamp(float x, float low, float high)
{
    x = x <= low ? low : x;
    return x > high ? high : x;
}
"""


def _horner(target: str, variable: str, table: str) -> str:
    *rest, last = COEFFICIENTS[table]
    text = f"    float {target} = {hex_float(last)};\n"
    return text + "".join(f"    {target} = fused({target}, {variable}, {hex_float(c)});\n" for c in reversed(rest))


def _limit(table: str) -> str:
    return hex_float(COEFFICIENTS[table][0])


_TANH = f"""
static inline float tanh_of(float x)
{{
    x = clamp(x, -{_limit("tanh_limit")}, {_limit("tanh_limit")});
    float z = x * x;
{_horner("p", "z", "tanh_p")}{_horner("q", "z", "tanh_q")}    return x * p / q;
}}
"""

_REDUCED = f"""
/* x = n ln 2 + r, limited to [{EXP_LOW:g}, {EXP_HIGH:g}]: returns exp(r) - 1, and 2^n in *scale. */
static inline float reduced(float x, float *scale)
{{
    x = clamp(x, {hex_float(EXP_LOW)}, {hex_float(EXP_HIGH)});
    float_bits shifted;
    shifted.value = fused(x, {_limit("log2_e")}, {hex_float(12582912.0)}); /* rounds to an integer */
    float n = shifted.value - {hex_float(12582912.0)};
    float r = fused(n, {hex_float(COEFFICIENTS["minus_ln_2"][0])}, x);
    r = fused(n, {hex_float(COEFFICIENTS["minus_ln_2"][1])}, r);
    shifted.bits = (shifted.bits << 23) + 0x3f800000u;
    *scale = shifted.value;
{_horner("c", "r", "exp")}    return fused(r * r, c, r);
}}
"""

_EXP = """
static inline float exp_of(float x)
{
    float scale, rest = reduced(x, &scale);
    return fused(scale, rest, scale);
}
"""

_SIGMOID = """
static inline float sigmoid_of(float x) { return 1.0f / (1.0f + exp_of(-x)); }
"""

_ELU = """
static inline float elu_of(float x, float alpha)
{
    float scale, rest = reduced(x > 0.0f ? 0.0f : x, &scale), y = alpha * fused(scale, rest, scale - 1.0f);
    return x > 0.0f ? x : y;
}
"""

_SILU = f"""
static inline float silu_of(float x)
{{
    x = x < -{hex_float(EXP_HIGH)} ? -{hex_float(EXP_HIGH)} : x;
    return x / (1.0f + exp_of(-x));
}}
"""

_GELU = f"""
static inline float gelu_of(float x)
{{
    x = x < -6.0f ? -6.0f : x;
    float y = clamp(x * {hex_float(np.sqrt(0.5))}, -{_limit("erf_limit")}, {_limit("erf_limit")});
    float z = y * y, half = 0.5f * x;
{_horner("p", "z", "erf_p")}{_horner("q", "z", "erf_q")}    return fused(half, y * p / q, half);
}}
"""

_SOFTPLUS = f"""
static inline float softplus_of(float x)
{{
    float u = exp_of(x < 0.0f ? x : -x), s = u / (2.0f + u), z = s * s, t = s + s;
{_horner("c", "z", "log")}    return (x < 0.0f ? 0.0f : x) + fused(t * z, c, t);
}}
"""

_MISH = f"""
static inline float mish_of(float x)
{{
    x = x < {hex_float(EXP_LOW)} ? {hex_float(EXP_LOW)} : x;
    float e = exp_of(x > 20.0f ? 20.0f : x), n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
}}
"""


def _each(name: str, value: str, parameters: str = "") -> str:
    """An activation over the whole buffer; not inlined, because compilers vectorise it better alone."""
    return f"""
static NOINLINE void {name}_each(float *x, size_t n{parameters})
{{
    for (size_t i = 0; i < n; ++i) {{
        x[i] = {value};
    }}
}}
"""


FUNCTIONS = {
    "clamp": (_CLAMP, ()),
    "tanh": (_TANH, ("clamp",)),
    "reduced": (_REDUCED, ("clamp",)),
    "exp": (_EXP, ("reduced",)),
    "sigmoid": (_SIGMOID, ("exp",)),
    "elu": (_ELU, ("reduced",)),
    "silu": (_SILU, ("exp",)),
    "gelu": (_GELU, ("clamp",)),
    "softplus": (_SOFTPLUS, ("exp",)),
    "mish": (_MISH, ("exp",)),
    "relu_each": (_each("relu", "x[i] <= 0.0f ? 0.0f : x[i]"), ()),
    "leaky_relu_each": (_each("leaky_relu", "x[i] > 0.0f ? x[i] : alpha * x[i]", ", float alpha"), ()),
    "hardtanh_each": (_each("hardtanh", "clamp(x[i], low, high)", ", float low, float high"), ("clamp",)),
    "elu_each": (_each("elu", "elu_of(x[i], alpha)", ", float alpha"), ("elu",)),
    **{f"{n}_each": (_each(n, f"{n}_of(x[i])"), (n,)) for n in ("tanh", "sigmoid", "silu", "gelu", "softplus", "mish")},
}
"""Text of each function, and the functions it calls; in an order in which C can read them."""
