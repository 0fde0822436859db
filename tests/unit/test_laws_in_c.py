"""The laws below the guard in C give the bits of Python, on harmless and hostile states, however they are compiled."""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from tests.c_support import build_shared
from tests.real_support import bits, pointer

from sim2sky.deployment.toolchain import find_compiler, firmware_folder
from sim2sky.runtime.autopilot import Autopilot, AutopilotGains
from sim2sky.runtime.escape import Escape, heading_for, turn_side
from sim2sky.runtime.geofence import Fence
from sim2sky.runtime.guidance import Guidance, loiter_radius
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.state import Sample, Setpoint
from sim2sky.runtime.wind import WindEstimate

TESTS = Path(__file__).resolve().parent.parent / "firmware"
CORE = [
    firmware_folder() / "core" / f"{name}.c" for name in ("real", "fence", "escape", "guidance", "wind", "autopilot")
]
SOURCES = [TESTS / "laws_stream.c", TESTS / "host" / "port.c", *CORE]
ROWS = 100_000
BUILDS = [(kind, optimise) for kind in ("gcc", "clang") for optimise in ("-O0", "-O3")]
LIMITS = (
    SafetyLimits(),
    SafetyLimits(fallback_bank_deg=50.0, fallback_roll_s=0.4, fallback_pull_mps2=6.0, command_latency_ms=0.0),
    SafetyLimits(airspeed_min_mps=12.0, fallback_airspeed_mps=17.0, wind_max_mps=15.0, position_latency_ms=1000.0),
    SafetyLimits(fallback_bank_deg=75.0, fallback_roll_s=1e-6, airspeed_min_mps=20.0, fallback_airspeed_mps=30.0),
)
ESCAPES = tuple(Escape(limits, Fence(math.inf)) for limits in LIMITS)
GAINS = 28
CORNERS = 6


def escape_constants(escape):
    """In the order of the fields of `s2s_escape`."""
    e = escape
    return (
        e._bank, e._tan, e._roll_s, e._decay, e._half_decay, e._latency_s, e._command_s, e._slowest, e._pull,
        e._wind_max, e._reserve2,
    )  # fmt: skip


def sample(row):
    return Sample(0, *row[:13])


def wind(row):
    return (row[1], row[2]) if row[0] else None


def fence_row(row):
    """A fence from a row, and the rest of the row."""
    radius, row = row[0], row[1:]
    polygons = []
    for _ in range(2):
        n, corners, row = int(row[0]), row[1 : 1 + 2 * CORNERS], row[1 + 2 * CORNERS :]
        if n:
            polygons.append(list(zip(corners[0 : 2 * n : 2], corners[1 : 2 * n : 2], strict=True)))
    return Fence(radius, polygons), row


class Laws:
    """What Python answers, row by row. A row begins with whether an episode begins, and the number of the limits."""

    def autopilot(self, begin, _, row):
        if begin:
            self._autopilot = Autopilot(AutopilotGains(*row[1 : 1 + GAINS]), row[0])
        row = row[1 + GAINS :]
        return self._autopilot.command(sample(row), Setpoint(*row[13:]))

    def fence(self, _begin, _, row):
        fence, position = fence_row(row)
        return (fence.margin(*position),)

    def altitude(self, _begin, i, row):
        return ESCAPES[i].altitude_bounds(sample(row))

    def range(self, _begin, i, row):
        ESCAPES[i].fence, row = fence_row(row)
        north, east, age, *air, enough = row[13:]
        return ESCAPES[i].range_margin(sample(row), north, east, age, wind(air), enough)

    def turn_side(self, _begin, _, row):
        return (turn_side(*row),)

    def heading(self, _begin, _, row):
        return (heading_for(row[0], row[1], wind(row[2:])),)

    def home(self, begin, i, row):
        if begin:
            self._guidance = Guidance(LIMITS[i])
            self._guidance.reset(row[0])
        return (self._guidance.home(sample(row[1:]), *row[17:], wind(row[14:])),)

    def loiter(self, _begin, i, row):
        limits, airspeed = LIMITS[i], row[0]
        heading = Guidance(limits).loiter(sample(row[1:]), *row[17:], wind(row[14:]), airspeed)
        return heading, loiter_radius(limits, airspeed)

    def circle(self, _begin, i, row):
        return (Guidance(LIMITS[i]).circle(sample(row)),)

    def wind(self, begin, _, row):
        if begin:
            self._wind = WindEstimate(row[0], row[1])
        self._wind.update(sample(row[2:]))
        return (1.0, *self._wind.wind) if self._wind.wind else (0.0, 0.0, 0.0)


NAMES = ("autopilot", "fence", "altitude", "range", "turn_side", "heading", "home", "loiter", "circle", "wind")


class Library:
    """laws_stream.c, loaded, with the limits above."""

    def __init__(self, folder, **build):
        self._library = build_shared(SOURCES, folder, **build)
        for i, escape in enumerate(ESCAPES):
            constants = np.array(escape_constants(escape))
            self._library.laws_escape(i, pointer(constants))

    def rows(self, law):
        flat = np.zeros(64 * ROWS)
        length = self._library.laws_inputs(law, ctypes.c_uint64(law + 1), ctypes.c_long(ROWS), pointer(flat))
        return flat[: length * ROWS].reshape(ROWS, length).copy()

    def answers(self, law, rows):
        out = np.zeros(4 * len(rows))
        n = self._library.laws_answers(law, ctypes.c_long(len(rows)), pointer(rows), pointer(out))
        return out[: n * len(rows)].reshape(len(rows), n)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("laws")

    @lru_cache
    def build(kind, optimise, *options):
        return Library(folder, compiler=find_compiler("host", kind), optimise=optimise, options=options)

    return build


@pytest.fixture(scope="module")
def expected(built):
    """The rows of a law, and what Python answers to them."""

    @lru_cache
    def answer(law):
        rows = built("gcc", "-O3").rows(law)
        function = getattr(Laws(), NAMES[law])
        return rows, np.array([function(row[0] == 1.0, int(row[1]), row[2:]) for row in rows.tolist()])

    return answer


@pytest.mark.parametrize("law", range(len(NAMES)), ids=NAMES)
def test_c_gives_the_bits_of_python(built, expected, law):
    rows, answers = expected(law)
    for build in BUILDS:
        theirs = built(*build).answers(law, rows)
        different = np.flatnonzero((bits(theirs) != bits(answers)).any(axis=1))
        assert different.size == 0, (build, different.size, rows[different[0]].tolist(), theirs[different[0]])


@pytest.mark.parametrize("law", range(len(NAMES)), ids=NAMES)
def test_the_rows_are_plausible_and_hostile(expected, law):
    rows, answers = expected(law)
    assert np.isnan(rows).any(axis=1).sum() > 100
    assert np.isfinite(rows).all(axis=1).sum() > ROWS / 4
    assert np.isfinite(answers).all(axis=1).sum() > ROWS / 2
    assert np.unique(answers[:, 0]).size > (1 if NAMES[law] == "turn_side" else 1000 if NAMES[law] != "wind" else 1)


@pytest.mark.parametrize("law", ["autopilot", "range", "loiter", "wind"])
def test_fused_multiplication_is_caught(built, expected, law):
    if "fma" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this machine has no fused multiply-add to be misused")
    rows, answers = expected(NAMES.index(law))
    fused = built("gcc", "-O3", "-ffp-contract=fast").answers(NAMES.index(law), rows)
    assert (bits(fused) != bits(answers)).any()
