"""Observation and action mapping in C against the Python classes: the same values, and nothing hides a NaN."""

from __future__ import annotations

import ctypes
import itertools
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import astuple, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.c_support import build_shared

from sim2sky.agent.contract import ActionSignal, Contract, Input
from sim2sky.config import EnvironmentSettings
from sim2sky.deployment.toolchain import find_compiler, firmware_folder
from sim2sky.environments.tasks import make_contract
from sim2sky.runtime.observation import HISTORY, SIGNALS, ObservationBuilder, history_index, signal
from sim2sky.runtime.state import CHANNELS, Sample, Setpoint

CORE = firmware_folder() / "core"
SOURCES = [CORE / "observation.c", CORE / "real.c"]
CORNERS = (
    0.0,
    -0.0,
    math.pi,
    -math.pi,
    2 * math.pi,
    1e-310,
    -1e-310,
    5e-324,
    60.0,
    -20.0,
    1e9,
    -1e9,
    math.inf,
    math.nan,
)


class ObservationSignal(ctypes.Structure):
    _fields_ = [("signal", ctypes.c_uint8), ("low", ctypes.c_float), ("high", ctypes.c_float)]


class ActionMap(ctypes.Structure):
    _fields_ = [(n, ctypes.c_double) for n in ("low", "high", "command_low", "command_neutral", "command_high")]


@pytest.fixture(scope="module", params=["gcc", "clang"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    lib = build_shared(SOURCES, tmp_path_factory.mktemp("observation"), compiler=find_compiler("host", request.param))
    for name in ("s2s_action_to_command", "s2s_command_to_action"):
        getattr(lib, name).restype = ctypes.c_double
        getattr(lib, name).argtypes = [ctypes.c_void_p, ctypes.c_double]
    lib.s2s_action_middle.restype = ctypes.c_double
    lib.s2s_action_middle.argtypes = [ctypes.c_void_p]
    return lib


def everything() -> Contract:
    """A contract that observes every signal there is."""
    base = make_contract(EnvironmentSettings())
    names = [*SIGNALS, *(f"previous_{c}_{k}" for k in range(HISTORY, 0, -1) for c in CHANNELS)]
    box = Input("observation", "box", (len(names),), "float32", tuple(map(signal, names)))
    return replace(base, inputs=(box,))


class Observer:
    """`ObservationBuilder` over the C function."""

    def __init__(self, lib: ctypes.CDLL, contract: Contract) -> None:
        measured = list(SIGNALS)
        entries = [
            (measured.index(s.name) if s.name in SIGNALS else len(SIGNALS) + history_index(s.name), s.low, s.high)
            for s in contract.inputs[0].signals
        ]
        self._signals = (ObservationSignal * len(entries))(*entries)
        self._observe = lib.s2s_observe
        self._observe.restype = None
        self._observe.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_void_p] * 4]

    def __call__(self, s: Sample, t: Setpoint, history: list[float]) -> NDArray[np.float32]:
        out = np.full(len(self._signals), 7.0, np.float32)
        self._observe(
            self._signals,
            len(self._signals),
            struct.pack("<q13d", *astuple(s)),
            struct.pack("<8d", *astuple(t)),
            struct.pack("<12d", *history),
            out.ctypes.data,
        )
        return out


def same(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Bit for bit; any NaN equals any NaN."""
    return bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())


def test_the_enum_follows_the_table_of_signals() -> None:
    text = (CORE / "observation.h").read_text()
    names = re.findall(r"S2S_SIGNAL_(\w+)", text.partition("typedef enum {")[2].partition("}")[0])
    stripped = [re.sub(r"_(rad|radps|mps|m)$", "", name).upper() for name in SIGNALS]
    assert names == [*stripped, "PREVIOUS"]
    assert f"S2S_HISTORY = {HISTORY} " in text


def test_sample_and_setpoint_have_the_order_of_the_headers() -> None:
    text = (CORE / "state.h").read_text()
    enums = [re.findall(r"S2S_\w+", body) for body in re.findall(r"enum \{([^}]*)\}", text)]
    plain = [re.sub(r"_(rad|radps|mps|m)$", "", f.name).upper() for f in fields(Sample)[1:]]
    plain[-2:] = ["NORTH_SPEED", "EAST_SPEED"]
    assert [f"S2S_{name}" for name in plain] == enums[1][:-1]
    assert [re.sub(r"_(rad|radps|mps|m)$", "", f.name).upper() for f in fields(Setpoint)] == [
        name.removeprefix("S2S_SET_") for name in enums[2][:-1]
    ]
    assert enums[0][:4] == [f"S2S_{c.upper()}" for c in CHANNELS]


def states(rng: np.random.Generator, n: int) -> Iterator[tuple[Sample, Setpoint, list[float]]]:
    """Random ones, and every corner in every place in turn."""
    scale = np.array([4, 2, 7, 12, 12, 12, 40, 200, 25, 600, 600, 30, 30])
    goal = np.array([200, 30, 7, 3, 2, 12, 12, 12])
    corner = itertools.cycle(CORNERS)
    for i in range(n):
        s, t, h = rng.normal(size=13) * scale, rng.normal(size=8) * goal, rng.uniform(-1.5, 1.5, 12)
        if i % 3 == 0:
            s[i % 13] = next(corner)
        if i % 5 == 0:
            t[i % 8] = next(corner)
        if i % 7 == 0:
            h[i % 12] = next(corner)
        yield Sample(i, *s.tolist()), Setpoint(*t.tolist()), h.tolist()


def test_every_signal_has_the_bits_of_the_python_class(library: ctypes.CDLL) -> None:
    contract = everything()
    observer, builder = Observer(library, contract), ObservationBuilder(contract)
    unfinished = 0
    for s, t, history in states(np.random.default_rng(1), 40_000):
        for k in range(HISTORY, 0, -1):
            builder.record(history[4 * (k - 1) : 4 * k])
        expected = builder.build(s, t)
        unfinished += int(np.isnan(expected).any())
        assert same(observer(s, t, history), expected), (s, t, history)
    assert 1000 < unfinished < 20_000


FINITE_OR_NAN = st.floats(-1e30, 1e30) | st.just(math.nan)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(FINITE_OR_NAN, min_size=13, max_size=13),
    st.lists(FINITE_OR_NAN, min_size=8, max_size=8),
)
def test_whatever_the_state(library: ctypes.CDLL, s: list[float], t: list[float]) -> None:
    contract = everything()
    builder = ObservationBuilder(contract)
    neutral = [a.middle for a in contract.output.signals] * HISTORY
    sample, setpoint = Sample(0, *s), Setpoint(*t)
    assert same(Observer(library, contract)(sample, setpoint, neutral), builder.build(sample, setpoint))


def action_signals() -> list[ActionSignal]:
    """Of every task, and uneven ones: neutral at an end (no way down or up), unlimited."""
    made = [
        s
        for task in ("hsa", "attitude", "rate")
        for s in make_contract(EnvironmentSettings.model_validate({"task": {"name": task}})).output.signals
    ]
    return [
        *made,
        ActionSignal("throttle", "1", -1.0, 1.0, 0.0, 0.0, 1.0),
        ActionSignal("throttle", "1", -1.0, 1.0, 0.0, 1.0, 1.0),
        ActionSignal("aileron", "1", -3.0, 0.7, -0.3, 0.1, 0.9),
        ActionSignal("aileron", "1", -math.inf, math.inf, -0.3, 0.1, 0.9),
        ActionSignal("aileron", "1", 0.0, 1e-310, -1.0, 0.0, 1.0),
    ]


def test_actions_and_commands_map_as_the_contract_says(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(2)
    values = [*rng.normal(size=4000).tolist(), *CORNERS, 1.0, -1.0, 0.7, -3.0, 0.1, 1e300, -1e300]
    for s in action_signals():
        c = ActionMap(s.low, s.high, s.command_low, s.command_neutral, s.command_high)
        assert struct.pack("<d", library.s2s_action_middle(ctypes.byref(c))) == struct.pack("<d", s.middle) or (
            math.isnan(s.middle)
        )
        for v in values:
            for function, twin in (("s2s_action_to_command", s.command), ("s2s_command_to_action", s.action)):
                got, expected = getattr(library, function)(ctypes.byref(c), v), twin(v)
                assert struct.pack("<d", got) == struct.pack("<d", expected) or (got != got and expected != expected), (
                    function, s, v,
                )  # fmt: skip


def test_a_wrong_gain_would_be_found(tmp_path: Path) -> None:
    source = (CORE / "observation.c").read_text()
    broken = tmp_path / "observation.c"
    broken.write_text(source.replace("CLIMB_GAIN 0.4", "CLIMB_GAIN 0.4000002"))
    assert broken.read_text() != source
    lib = build_shared([broken, CORE / "real.c"], tmp_path)
    contract = everything()
    observer, builder = Observer(lib, contract), ObservationBuilder(contract)
    rows = list(states(np.random.default_rng(3), 300))
    builder.record([0.0] * 4)
    assert not all(same(observer(s, t, [0.0] * 12)[:17], builder.build(s, t)[:17]) for s, t, _ in rows)
