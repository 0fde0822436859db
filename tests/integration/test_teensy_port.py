"""The Teensy 4.1 port: what it does with frames, on this machine; and that it builds for the Cortex-M7, glue and all.

The board itself and PlatformIO are not here: nothing of them is tested.
"""

from __future__ import annotations

import configparser
import ctypes
import math
import shlex
import struct
import subprocess
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.agent_support import bundle_of, differs, moments, step
from tests.c_support import build_shared
from tests.twin_agent import twin
from tests.unit.test_teensy import LEVEL, blind_contract

from sim2sky import cli
from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.firmware_config import agent_sources, write_firmware_sources
from sim2sky.deployment.toolchain import compile_c, find_compiler, firmware_folder
from sim2sky.errors import LinkError
from sim2sky.hil.native_agent import NativeAgent
from sim2sky.hil.pil import ChipAgent, PilLink
from sim2sky.runtime.clock import ManualClock
from sim2sky.runtime.flight_agent import Tick
from sim2sky.runtime.safety import Mode
from sim2sky.runtime.state import CHANNELS, Setpoint
from sim2sky.runtime.teensy import (
    FrameReader,
    TeensyState,
    TeensyVehicle,
    decode_command,
    encode_frame,
    state_frame,
)

TESTS = Path(__file__).resolve().parents[1] / "firmware"
PERIOD = 50_000_000
WAITING, FLYING, BENCH, REFUSED = range(4)
SAFE = [1500, 1500, 1500, 1000]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


class Board:
    """`flight.c` of a written project, compiled for this machine."""

    def __init__(self, project: Path) -> None:
        sources = [*project.glob("src/*.c"), *project.glob("sim2sky/*.c"), TESTS / "flight_calls.c"]
        options = [f"-I{project / 'src'}", f"-I{project / 'sim2sky'}"]
        self._c = build_shared(sources, project.parent, optimise="-O1", options=options)
        self._c.flight_size.restype = self._c.flight_take.restype = self._c.flight_tick.restype = ctypes.c_size_t
        self._memory = ctypes.create_string_buffer(self._c.flight_size())
        self._out = ctypes.create_string_buffer(260)
        self.power_on()

    def power_on(self) -> None:
        self._c.flight_init(self._memory, ctypes.byref(ctypes.c_char.in_dll(self._c, "s2s_config")))

    @property
    def phase(self) -> int:
        return self._c.flight_phase_of(self._memory)

    @property
    def pulses(self) -> list[int]:
        values = (ctypes.c_uint16 * 4)()
        self._c.flight_pulses_us(self._memory, values)
        return list(values)

    def take(self, data: bytes, now_ns: int = 0) -> bytes:
        """All that is answered to bytes."""
        buffer = ctypes.create_string_buffer(data, len(data))
        at, left = ctypes.c_void_p(ctypes.addressof(buffer)), ctypes.c_size_t(len(data))
        answer = b""
        while left.value:
            size = self._c.flight_take(
                self._memory, ctypes.byref(at), ctypes.byref(left), ctypes.c_int64(now_ns), self._out
            )
            answer += self._out.raw[:size]
        return answer

    def tick(self, now_ns: int) -> bytes:
        size = self._c.flight_tick(self._memory, ctypes.c_int64(now_ns), self._out)
        return self._out.raw[:size]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An agent that observes nothing but what the 13 values hold."""
    return bundle_of(tmp_path_factory.mktemp("bundle") / "b", "lstm", contract=blind_contract())


@pytest.fixture(scope="module")
def project(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teensy") / "project"
    write_firmware_sources(bundle, folder, "teensy41")
    return folder


@pytest.fixture(scope="module")
def compiled(project: Path) -> Board:
    return Board(project)


@pytest.fixture
def board(compiled: Board) -> Board:
    compiled.power_on()
    return compiled


def state(k: int, **changes: float) -> TeensyState:
    """The k-th state of a gentle flight."""
    altitude = LEVEL.altitude_m + (150.0 if k else 0.0)  # home is where it is first heard: on the ground
    moved = replace(LEVEL, time_s=0.05 * k, roll_rad=0.1 * math.sin(0.2 * k), altitude_m=altitude)
    return replace(moved, **changes)


class Wire:
    """A channel that holds what is to be received."""

    def __init__(self) -> None:
        self.data = b""

    def receive(self, timeout_s: float) -> bytes:
        data, self.data = self.data, b""
        return data


# In flight


def test_before_anything_is_heard_nothing_moves(board: Board) -> None:
    assert board.phase == WAITING and board.pulses == SAFE
    assert board.tick(10**10) == b"" and board.pulses == SAFE


def test_a_flight_is_that_of_the_python_runtime_behind_the_same_frames(board: Board, bundle: Bundle) -> None:
    contract = bundle.contract
    gains = (bundle.safety() or {})["fallback"]
    wire, clock = Wire(), ManualClock()
    vehicle = TeensyVehicle(wire, clock, contract, airspeed_mps=gains["trim_airspeed_mps"])  # type: ignore[arg-type]
    agent = twin(bundle.path)
    agent.monitor.disarm()
    wanted = Setpoint()
    seen = set()
    for k in range(400):
        now = 7 + k * PERIOD
        clock.sleep_until(now)
        if not 150 <= k < 230:  # silence for four seconds
            wire.data = state_frame(state(k, p_radps=math.nan if k == 60 else 0.02))
            assert board.take(wire.data, now) == b""
            vehicle.receive(0.0)
        sample = vehicle.reading.sample
        assert sample is not None
        if k == 20:
            assert board.pulses == SAFE
            assert board.take(encode_frame(b"A"), now) == encode_frame(b"a\x01") and agent.monitor.arm()
            agent.reset()
            wanted = Setpoint(sample.altitude_m, sample.airspeed_mps, sample.yaw_rad)
        tick = agent.tick(sample, wanted, now)
        (payload,) = FrameReader().feed(board.tick(now))
        assert payload == struct.pack("<4f", *tick.command), (k, tick)
        assert decode_command(payload) is not None
        assert board.pulses == [
            int((1000 + 1000 * v if i == 3 else 1500 + 500 * v) + 0.5) for i, v in enumerate(tick.command)
        ]
        seen.add(Mode(tick.guard))
        assert board.tick(now) == board.tick(now + PERIOD - 1) == b""  # not before the next is due
    assert {Mode.KILLED, Mode.POLICY, Mode.HOLD} <= seen and board.phase == FLYING


def test_when_the_states_stay_away_the_throttle_closes(board: Board) -> None:
    now = 0
    for k in range(20):
        board.take(state_frame(state(k)), now)
        board.take(encode_frame(b"A"))
        board.tick(now)
        now += PERIOD
    throttle = []
    for _ in range(200):
        board.tick(now)
        throttle.append(board.pulses[3])
        now += PERIOD
    assert max(throttle[:20]) > 1000  # the fallback law holds what was flown
    assert set(throttle[-60:]) == {1000}


def test_missed_ticks_are_not_made_up_for(board: Board) -> None:
    board.take(state_frame(state(0)), 0)
    made = [bool(board.tick(t)) for t in (0, PERIOD, 10 * PERIOD, 10 * PERIOD + 1, 11 * PERIOD, 11 * PERIOD + 1)]
    assert made == [True, True, True, False, True, False]


def test_the_kill_switch_works_in_flight_and_no_other_question_is_answered(board: Board) -> None:
    for k in range(2):
        board.take(state_frame(state(k)), k)
    assert board.take(encode_frame(b"A")) == encode_frame(b"a\x01")
    board.tick(0)
    assert board.pulses != SAFE
    for question in (b"S" + bytes(192), b"R", b"T", b"I", b"P", b"x", b"", b"Q"):
        assert board.take(encode_frame(question)) == b""
    assert board.take(b"\xaa\x55\x01K\x00\x00" + bytes(4)) == b""  # a damaged one
    assert board.take(encode_frame(b"K")) == encode_frame(b"k\x01")
    (payload,) = FrameReader().feed(board.tick(PERIOD))
    assert payload == bytes(16) and board.pulses == SAFE
    assert board.take(encode_frame(b"A")) == encode_frame(b"a\x00")  # first disarm
    assert board.take(encode_frame(b"D") + encode_frame(b"A")) == encode_frame(b"d\x01") + encode_frame(b"a\x01")
    board.take(state_frame(state(2)), 2 * PERIOD)
    assert board.tick(2 * PERIOD) and board.pulses != SAFE


def test_impossible_states_begin_no_flight(board: Board) -> None:
    for wrong in (state(0, roll_rad=math.nan), state(0, latitude_deg=91.0), state(0, altitude_m=3e4)):
        board.take(state_frame(wrong))
        assert board.phase == WAITING
    board.take(state_frame(state(0))[:-1] + b"\x00")
    assert board.phase == WAITING


def test_an_agent_that_observes_what_is_not_measured_does_not_fly(tmp_path: Path) -> None:
    made = bundle_of(tmp_path / "b", "tanh")
    assert "airspeed_mps" in made.contract.observation_names
    write_firmware_sources(made, tmp_path / "p", "teensy41")
    board = Board(tmp_path / "p")
    board.take(state_frame(state(0)), 0)
    assert board.phase == WAITING and board.tick(0) == b"" and board.pulses == SAFE
    assert board.take(encode_frame(b"T"))[3:4] == b"t"  # on the bench it does


def test_a_board_whose_policy_is_damaged_refuses_to_fly_and_says_which_vector(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "p"
    subprocess.run(["cp", "-r", str(project), str(copy)], check=True, timeout=20)
    policy = copy / "sim2sky" / "policy.c"
    text = policy.read_text()
    at = text.index("weight_")
    at = text.index("0x1.", at) + 4
    policy.write_text(text[:at] + f"{int(text[at], 16) ^ 8:x}" + text[at + 1 :])
    board = Board(copy)
    assert board.phase == REFUSED
    board.take(state_frame(state(0)), 0)
    assert board.phase == REFUSED and board.tick(0) == b"" and board.pulses == SAFE
    (answer,) = FrameReader().feed(board.take(encode_frame(b"T")))
    compared, different, first = struct.unpack("<cIII", answer)[1:]
    assert 0 <= first < compared == 64 and different > 0


# On the bench


class Cable:
    """A channel to a board, as a USB cable would be one."""

    def __init__(self, board: Board) -> None:
        self._board, self._answer = board, b""

    def send(self, data: bytes) -> bool:
        self._answer += self._board.take(data)
        return True

    def receive(self, timeout_s: float) -> bytes:
        answer, self._answer = self._answer, b""
        return answer


def test_processor_in_the_loop_has_the_bits_of_the_native_agent(board: Board, bundle: Bundle) -> None:
    link = PilLink(Cable(board), timeout_s=0.2)  # type: ignore[arg-type]
    chip, native = ChipAgent.expecting(link, bundle.contract, bundle.digest), NativeAgent(bundle)
    assert link.self_test()[:2] == (64, 0)
    assert board.phase == WAITING
    n = 0
    for moment in moments(5, 2000):
        a, b = step(native, moment), step(chip, moment)  # type: ignore[arg-type]
        if isinstance(a, Tick) and isinstance(b, Tick):
            assert not differs(a, b)
            n += 1
    assert n == 2000 and board.phase == BENCH and board.pulses == SAFE
    board.take(state_frame(state(0)), 0)  # a bench test does not turn into a flight
    assert board.phase == BENCH and board.tick(0) == b"" and board.pulses == SAFE
    with pytest.raises(LinkError, match="unknown question"):
        link.ask(b"x")


# For the board


def test_it_builds_for_the_cortex_m7_with_the_flags_of_its_project_file(project: Path, tmp_path: Path) -> None:
    """All C files, warnings as errors, after the flags that PlatformIO's Teensy builder sets by itself; then the glue
    against the declared calls. What stays undefined is the Teensy core, the C library and nothing else."""
    ini = configparser.ConfigParser()
    ini.read(project / "platformio.ini")
    own = [
        f"-I{project / flag[2:]}" if flag.startswith("-I") else flag
        for flag in shlex.split(ini["env:teensy41"]["build_flags"])
    ]
    assert {"-ffp-contract=off", "-fno-single-precision-constant"} <= set(own)
    assert ini["env:teensy41"]["build_unflags"] == "-fsingle-precision-constant"
    filters = ini["env:teensy41"]["build_src_filter"]
    assert "+<sim2sky/*.c>" in filters and "+<src/*.c>" in filters and "+<src/*.cpp>" in filters
    builder = ["-fsingle-precision-constant", "-ffunction-sections", "-fdata-sections"]
    compiler = find_compiler("cortex-m7")
    objects = []
    for source in [*sorted(project.glob("src/*.c")), *sorted(project.glob("sim2sky/*.c"))]:
        out = tmp_path / f"{source.stem}.o"
        options = [*builder, *own, "-Werror"]
        objects.append(compile_c(compiler, [source], out, product="object", optimise="-O2", options=options))
    cpu = ["-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard"]
    cxx = compiler.path.with_name(compiler.path.name.replace("gcc", "g++"))
    glue = tmp_path / "main.o"
    language = ["-std=gnu++14", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-O2", "-Werror"]
    run([cxx, *cpu, *builder, *language, *own, f"-I{TESTS / 'teensy'}", "-c", project / "src/main.cpp", "-o", glue])
    whole = tmp_path / "whole.o"
    run([compiler.path, *cpu, "-nostdlib", "-r", "-o", whole, glue, *objects])
    symbols = run([compiler.path.with_name("arm-none-eabi-nm"), whole]).splitlines()
    undefined = {line.split()[-1] for line in symbols if line.split()[-2] == "U"}
    defined = {line.split()[-1] for line in symbols if line.split()[-2] == "T"}
    assert {"_Z5setupv", "_Z4loopv", "s2s_agent_tick"} <= defined
    arduino = {name for name in undefined if "usb_serial_class" in name} | {
        "micros", "pinMode", "digitalWrite", "analogWrite", "analogWriteResolution", "analogWriteFrequency", "Serial",
    }  # fmt: skip
    library = {"memcpy", "memset", "memmove", "memcmp", "sqrt", "fmod", "fabs"}
    helpers = {name for name in undefined if name.startswith("__aeabi_")}
    assert undefined - arduino - library - helpers == set()
    assert "malloc" not in undefined


def run(command: list[Any]) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_port_is_the_one_in_the_repository(project: Path, bundle: Bundle) -> None:
    for name in ("platformio.ini", "src/main.cpp", "src/flight.c", "src/flight.h"):
        assert (project / name).read_bytes() == (firmware_folder() / "ports" / "teensy41" / name).read_bytes()
    documented = (firmware_folder().parent / "docs" / "firmware.md").read_text()
    assert f"`{encode_frame(b'A').hex(' ').upper()}`" in documented
    for name, text in agent_sources(bundle).items():
        assert (project / "sim2sky" / name).read_text() == text
    assert len(CHANNELS) == 4 and np.dtype("<f4").itemsize == 4 and len(astuple(LEVEL)) == 13


def test_the_command_writes_the_project(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "board"
    assert cli.run(["firmware", str(bundle.path), "-o", str(out), "--port", "teensy41"]) == 0
    assert "complete in itself" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["platformio.ini", "sim2sky", "src"]
    assert cli.run(["firmware", str(bundle.path), "-o", str(out), "--port", "teensy41"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert cli.run(["firmware", str(bundle.path), "-o", str(tmp_path / "c"), "--port", "sources"]) == 0
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["sim2sky"]
