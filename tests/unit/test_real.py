"""Our elementary functions: how exact they are, what they make of any argument, and that C gives the same bits."""

from __future__ import annotations

import ctypes
import math
import random
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.c_support import build_shared
from tests.real_support import bits, pointer

from sim2sky.deployment.toolchain import find_compiler, firmware_folder
from sim2sky.errors import ToolchainError
from sim2sky.runtime import real

TESTS = Path(__file__).resolve().parent.parent / "firmware"
SOURCES = [TESTS / "real_stream.c", TESTS / "host" / "port.c", firmware_folder() / "core" / "real.c"]
N = 100_000
# In the order of `answer` in tests/firmware/real_stream.c.
FUNCTIONS = {
    "sin": lambda x, _: real.sin(x),
    "cos": lambda x, _: real.cos(x),
    "tan": lambda x, _: real.tan(x),
    "asin": lambda x, _: real.asin(x),
    "atan": lambda x, _: real.atan(x),
    "atan2": real.atan2,
    "hypot": real.hypot,
    "wrap_angle": lambda x, _: real.wrap_angle(x),
    "min": min,
    "max": max,
    "sin_cos": lambda x, _: min(real.sin_cos(x)),
}
ANY = st.floats(allow_nan=True, allow_infinity=True)


def c_answers(library, x, y):
    out = np.empty((len(FUNCTIONS), len(x)))
    for i in range(len(FUNCTIONS)):
        library.real_answers(i, ctypes.c_size_t(len(x)), pointer(x), pointer(y), pointer(out[i]))
    return out


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    library = build_shared(SOURCES, tmp_path_factory.mktemp("real"))
    x, y = np.empty(N), np.empty(N)
    library.real_inputs(ctypes.c_uint64(20261126), ctypes.c_size_t(N), pointer(x), pointer(y))
    return x, y


@pytest.fixture(scope="module")
def python_answers(arguments):
    pairs = list(zip(*(a.tolist() for a in arguments), strict=True))
    return [bits([function(x, y) for x, y in pairs]) for function in FUNCTIONS.values()]


@pytest.mark.parametrize("kind", ["gcc", "clang"])
@pytest.mark.parametrize("optimise", ["-O0", "-O3"])
def test_c_gives_the_bits_of_python(tmp_path, arguments, python_answers, kind, optimise):
    library = build_shared(SOURCES, tmp_path, compiler=find_compiler("host", kind), optimise=optimise)
    for name, ours, theirs in zip(FUNCTIONS, python_answers, c_answers(library, *arguments), strict=True):
        different = np.flatnonzero(ours != bits(theirs))
        assert different.size == 0, (name, [a[different[0]].hex() for a in arguments])


def test_the_arguments_are_of_all_kinds(arguments, python_answers):
    x = arguments[0]
    assert np.isnan(x).sum() > 100
    assert np.isinf(x).sum() > 100
    assert ((x == 0) & np.signbit(x)).sum() > 10
    assert ((x != 0) & (abs(x) < 2.3e-308)).sum() > 10
    assert (abs(x) > 1e300).sum() > 100
    numbers = [np.unique(row).size for row in python_answers]
    assert min(numbers) > N / 5, numbers  # answers, not one NaN after the other


@pytest.mark.parametrize("options", [("-ffast-math",), ("-Ofast",)])
def test_a_compiler_that_is_told_to_take_liberties_is_refused(tmp_path, options):
    with pytest.raises(ToolchainError, match="build without -ffast-math"):
        build_shared(SOURCES, tmp_path, compiler=find_compiler("host", "gcc"), options=options)


# Short of what firmware/core/arithmetic.h refuses. (Linked with -ffast-math itself, a library makes the whole process
# flush denormals to zero.)
FAST_MATH = (
    "-fno-math-errno", "-fassociative-math", "-freciprocal-math", "-fno-signed-zeros",
    "-fno-trapping-math",
)  # fmt: skip


@pytest.mark.parametrize("liberties", [("-ffp-contract=fast",), FAST_MATH])
def test_a_compiler_that_takes_liberties_is_caught(tmp_path, arguments, python_answers, liberties):
    """Else the comparison could not fail."""
    if liberties != FAST_MATH and "fma" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this machine has no fused multiply-add to be misused")
    library = build_shared(SOURCES, tmp_path, compiler=find_compiler("host", "gcc"), options=liberties)
    answers = c_answers(library, *arguments)
    assert sum((ours != bits(theirs)).any() for ours, theirs in zip(python_answers, answers, strict=True)) >= 3


def units_off(answer, exact):
    """Error in units in the last place of the exact answer."""
    return float(abs(mpmath.mpf(answer) - exact) / math.ulp(float(exact)))


def worst(function, exact, arguments):
    with mpmath.workdps(50):
        return max(units_off(function(*a), exact(*map(mpmath.mpf, a))) for a in arguments)


@pytest.mark.parametrize(("name", "limit"), [("sin", 3.0), ("cos", 3.0), ("tan", 4.0)])
@pytest.mark.parametrize("reach", [0.8, 10.0, 1e3, 1e6])
def test_angles_are_exact_to_a_few_units(name, limit, reach):
    rng = random.Random(int(reach))
    arguments = [(rng.uniform(-reach, reach),) for _ in range(1500)]
    assert worst(getattr(real, name), getattr(mpmath, name), arguments) < limit


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_next_to_their_zeros_too(name):
    rng = random.Random(3)
    with mpmath.workdps(60):
        for _ in range(1500):
            x = rng.randrange(-600_000, 600_000) * (math.pi / 2)
            exact = getattr(mpmath, name)(mpmath.mpf(x))
            error = abs(mpmath.mpf(getattr(real, name)(x)) - exact)
            assert error < max(4.0 * math.ulp(float(exact)), 1e-27)


def test_beyond_a_million_the_period_is_that_of_a_double():
    for x in (1e6, -1e6, 123456789.25, 1e300, math.nextafter(math.inf, 0.0)):
        assert real.sin_cos(x) == real.sin_cos(math.fmod(x, 2 * math.pi))
    assert real.sin(1e6) == pytest.approx(math.sin(1e6), abs=1e-10)


def arc_arguments():
    rng = random.Random(4)
    return [rng.uniform(-1, 1) for _ in range(2000)] + [math.copysign(10 ** rng.uniform(-12, 0), rng.random() - 0.5)
            for _ in range(2000)]  # fmt: skip


def test_arc_functions_are_exact_to_a_few_units():
    inside = arc_arguments()
    assert worst(real.asin, mpmath.asin, [(x,) for x in inside]) < 4.0
    assert worst(real.asin, mpmath.asin, [(1.0 - abs(x),) for x in inside if abs(x) < 1]) < 4.0
    assert worst(real.atan, mpmath.atan, [(x,) for x in inside] + [(1.0 / x,) for x in inside]) < 3.0
    pairs = list(zip(inside, reversed(inside), strict=True))
    assert worst(real.atan2, mpmath.atan2, pairs) < 3.0


@given(ANY, ANY)
def test_nothing_raises_and_what_is_finite_stays_finite(x, y):
    for name in ("sin", "cos", "tan", "asin", "atan", "wrap_angle"):
        answer = getattr(real, name)(x)
        if math.isfinite(x) and not (name == "asin" and abs(x) > 1.0):
            assert math.isfinite(answer)
    assert math.isnan(real.sin(x)) == (not math.isfinite(x))
    assert math.isnan(real.asin(x)) == (not -1.0 <= x <= 1.0)
    real.hypot(x, y)
    if math.isfinite(x) and math.isfinite(y):
        assert real.atan2(y, x) == pytest.approx(math.atan2(y, x), rel=1e-15, abs=5e-324)


@given(st.floats(-1e6, 1e6))
def test_identities(x):
    s, c = real.sin_cos(x)
    assert (s, c) == (real.sin(x), real.cos(x))
    assert s * s + c * c == pytest.approx(1.0, abs=1e-15)
    assert real.sin(-x) == -s
    assert real.cos(-x) == c
    assert real.atan(-x) == -real.atan(x)


@pytest.mark.parametrize("y", [0.0, -0.0, 1.0, -1.0, 1e300, 5e-324])
@pytest.mark.parametrize("x", [0.0, -0.0, 1.0, -1.0, 1e300, 5e-324, math.inf, -math.inf])
def test_atan2_on_the_axes_is_that_of_ieee(y, x):
    assert real.atan2(y, x) == math.atan2(y, x)
    assert math.copysign(1.0, real.atan2(y, x)) == math.copysign(1.0, y)


def test_corners():
    assert real.asin(1.0) == math.pi / 2
    assert real.asin(-1.0) == -math.pi / 2
    assert real.atan(math.inf) == math.pi / 2
    assert real.atan2(-math.inf, 3.0) == -math.pi / 2
    assert math.isnan(real.atan2(math.inf, math.inf))
    assert math.isnan(real.atan2(math.nan, 1.0))
    assert math.isnan(real.atan2(1.0, math.nan))
    assert math.isnan(real.atan2(math.nan, 0.0))
    assert real.hypot(3.0, -4.0) == 5.0
    assert real.hypot(1e200, 0.0) == math.inf
    assert math.isnan(real.wrap_angle(math.inf))
    assert real.tan(math.pi / 2) == pytest.approx(1.633123935319537e16)
