"""Elementary functions that give the same bits everywhere: the twin of firmware/core/real.c, operation by operation.

Made of +, -, *, / and square roots, each rounded once, and the exact fmod, so that no C library has a say (ADR 0021).
Nothing raises; infinite and NaN arguments give NaN where there is no better answer. Standard library only.

Accuracy: 3 units in the last place, tan and asin 4. That of sin, cos and tan holds for |x| < 1e6; next to a zero at a
multiple of pi / 2 the error is below 1e-27; beyond, the period is the double 2 pi. Minimax polynomials by the Remez
exchange; reduction in three parts after W. J. Cody and W. Waite, *Software Manual for the Elementary Functions* (1980).
"""

from __future__ import annotations

import math

__all__ = ["asin", "atan", "atan2", "cos", "hypot", "sin", "sin_cos", "tan", "wrap_angle"]

_NAN = math.nan
_INF = math.inf
_fmod, _sqrt, _copysign = math.fmod, math.sqrt, math.copysign  # exact, or rounded once, by IEEE 754


def sin_cos(x: float) -> tuple[float, float]:
    """Sine and cosine of an angle, rad: together they cost little more than one."""
    if not -1e6 < x < 1e6:
        if not -_INF < x < _INF:
            return _NAN, _NAN
        x = _fmod(x, 6.283185307179586)
    # The nearest multiple of pi / 2: next to 1.5 * 2**52 doubles are integers. Times the first two parts of pi / 2, of
    # 33 bits each, it is exact.
    n = x * 0.6366197723675814 + 6755399441055744.0 - 6755399441055744.0
    r = x - n * 1.5707963267341256 - n * 6.077100506303966e-11 - n * 2.0222662487959506e-21
    z = r * r
    s = r + r * (z * (-0.1666666666666663 + z * (0.008333333333322063 + z * (-0.00019841269829542577 + z * (
        2.7557313604515405e-06 + z * (-2.5050745036157456e-08 + z * 1.589606741813015e-10))))))  # fmt: skip
    c = 1.0 + z * (-0.5 + z * (0.041666666666666595 + z * (-0.0013888888888872975 + z * (2.4801587288800055e-05 + z * (
        -2.755731416398449e-07 + z * (2.0875698709569314e-09 + z * -1.1358423568062624e-11))))))  # fmt: skip
    quadrant = int(n) & 3
    if quadrant == 0:
        return s, c
    if quadrant == 1:
        return c, -s
    return (-s, -c) if quadrant == 2 else (-c, s)


def sin(x: float) -> float:
    """Sine of an angle, rad."""
    return sin_cos(x)[0]


def cos(x: float) -> float:
    """Cosine of an angle, rad."""
    return sin_cos(x)[1]


def tan(x: float) -> float:
    """Tangent of an angle, rad. Finite for every finite angle: no double is a pole."""
    s, c = sin_cos(x)
    return s / c


def _arc(t: float) -> float:
    """Arc tangent for 0 <= t <= 1."""
    turned = t > 0.41421356237309503  # tan(pi / 8)
    if turned:
        t = (t - 1.0) / (t + 1.0)
    z = t * t
    a = t + t * (z * (-0.333333333333332 + z * (0.19999999999953236 + z * (-0.14285714280165224 + z * (
        0.11111110782084717 + z * (-0.09090897723145203 + z * (0.07692059678608927 + z * (-0.06663098748612262 + z * (
        0.05847855869128975 + z * (-0.05039174702868947 + z * (0.03806173132930204 + z * -0.017904582743924827
        )))))))))))  # fmt: skip
    return 0.7853981633974483 + (a + 3.061616997868383e-17) if turned else a  # pi / 4 in two parts


def atan(x: float) -> float:
    """Arc tangent, rad, in [-pi / 2, pi / 2]."""
    t = abs(x)
    return _copysign(1.5707963267948966 - (_arc(1.0 / t) - 6.123233995736766e-17) if t > 1.0 else _arc(t), x)


def atan2(y: float, x: float) -> float:
    """Angle of the point (x, y), rad, in [-pi, pi]; with the signs of zero of IEEE 754. NaN for two infinities."""
    ay, ax, behind = abs(y), abs(x), _copysign(1.0, x) < 0.0
    if ay > ax:
        angle = _arc(ax / ay)
        if behind:
            angle = 1.5707963267948966 + (angle + 6.123233995736766e-17)
        else:
            angle = 1.5707963267948966 - (angle - 6.123233995736766e-17)
        return _copysign(angle, y)
    if ax > 0.0:
        angle = _arc(ay / ax)
    elif ax == ay:
        angle = 0.0
    else:
        return _NAN
    return _copysign(3.141592653589793 - (angle - 1.2246467991473532e-16) if behind else angle, y)


def asin(x: float) -> float:
    """Arc sine, rad, in [-pi / 2, pi / 2]; NaN outside [-1, 1]."""
    return atan2(x, _sqrt((1.0 - x) * (1.0 + x))) if -1.0 <= x <= 1.0 else _NAN


def hypot(x: float, y: float) -> float:
    """Length of a vector; infinite where its square is no double, and zero likewise."""
    return _sqrt(x * x + y * y)


def wrap_angle(angle: float) -> float:
    """Angle in [-pi, pi)."""
    return (angle + 3.141592653589793) % 6.283185307179586 - 3.141592653589793
