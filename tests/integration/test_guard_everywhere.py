"""The guard in C as a program: under sanitizers, on aarch64, and on an emulated Cortex-M7, with Python's own bits."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from benchmarks.guard_twin import RECORD, Flown, flown
from tests.c_support import build_program
from tests.flight_support import settings

from sim2sky.deployment import firmware_build
from sim2sky.deployment.guard_table import guard_config_c
from sim2sky.deployment.stack_usage import worst_case_stack
from sim2sky.deployment.toolchain import find_compiler, firmware_folder
from sim2sky.environments.airframes import airframe
from sim2sky.environments.tasks import make_contract
from sim2sky.hil.native_guard import GUARD_SOURCES, guard_sources
from sim2sky.hil.qemu import run_to_exit
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.safety import Mode

TESTS = Path(__file__).resolve().parent.parent / "firmware"
CORE = firmware_folder() / "core"
HOST = firmware_folder() / "ports" / "host"
STEPS = 64 * 320
SANITIZERS = ("-g", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")


SQUARE = ((300.0, -300.0), (300.0, 300.0), (-300.0, 300.0), (-300.0, -300.0))
TRIANGLE = ((900.0, 0.0), (-450.0, 600.0), (-450.0, -600.0))
LIMITS = SafetyLimits(
    geofence_polygons=(SQUARE, TRIANGLE), return_after_s=1.0, recovery_s=0.3, terminate_after_s=1.0,
    airspeed_min_mps=12.0, airspeed_max_mps=32.0, sink_max_mps=9.0, battery_min_voltage=10.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def flight() -> Flown:
    """One long flight with two polygons, which sees every mode."""
    setup = (LIMITS, airframe("ultrastick25e").gains, make_contract(settings()))
    f = flown(7, 2, STEPS, setup)
    assert set(f.answers["mode"][f.calls["what"] == 0].tolist()) == {int(m) for m in Mode}
    return f


@pytest.fixture(scope="module")
def files(flight: Flown, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Its configuration as C, its calls as a file."""
    folder = tmp_path_factory.mktemp("guard")
    config, calls = folder / "config.c", folder / "calls.bin"
    declared = '#include "guard.h"\nextern const s2s_guard_config config;\n'
    config.write_text(f"{declared}const s2s_guard_config config = {guard_config_c(*flight.setup)};\n", encoding="utf-8")
    calls.write_bytes(flight.calls.tobytes())
    return config, calls


@pytest.mark.parametrize(
    ("machine", "kind", "optimise", "options"),
    [("host", "gcc", "-O1", SANITIZERS), ("host", "clang", "-O3", ()), ("aarch64", "gcc", "-O3", ())],
)
def test_a_program_answers_with_the_bits_of_python(
    tmp_path: Path, flight: Flown, files: tuple[Path, Path], machine: Any, kind: Any, optimise: str,
    options: tuple[str, ...],
) -> None:  # fmt: skip
    config, calls = files
    compiler = find_compiler(machine, kind)
    program = build_program(
        [TESTS / "guard_file.c", config, *guard_sources()], tmp_path, compiler=compiler, optimise=optimise,
        options=options,
    )  # fmt: skip
    emulator = ["qemu-aarch64"] if machine == "aarch64" else []
    answers = tmp_path / "answers.bin"
    subprocess.run([*emulator, str(program), str(calls), str(answers)], check=True, timeout=300)
    assert answers.read_bytes() == flight.answers.tobytes()


@pytest.fixture(scope="module")
def board_program(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    elf = tmp_path_factory.mktemp("board") / "guard.elf"
    return firmware_build.build_program(TESTS / "guard_board.c", [files[0], *guard_sources()], elf, include=[HOST])


def test_the_cortex_m7_answers_with_the_bits_of_python(
    tmp_path: Path, flight: Flown, files: tuple[Path, Path], board_program: Path
) -> None:
    answers = tmp_path / "answers.bin"
    done = run_to_exit(board_program, arguments=[str(files[1]), str(answers)], timeout_s=300.0)
    assert done.returncode == 0
    assert answers.read_bytes() == flight.answers.tobytes()


def test_the_comparison_can_fail(tmp_path: Path, flight: Flown, files: tuple[Path, Path]) -> None:
    """Negative control: fused multiplication, which every aarch64 has."""
    program = build_program(
        [TESTS / "guard_file.c", files[0], *guard_sources()], tmp_path, compiler=find_compiler("aarch64"),
        options=["-ffp-contract=fast"],
    )  # fmt: skip
    answers = tmp_path / "answers.bin"
    subprocess.run(["qemu-aarch64", str(program), str(files[1]), str(answers)], check=True, timeout=300)
    assert answers.read_bytes() != flight.answers.tobytes()
    assert len(answers.read_bytes()) == len(flight.calls) * 40 and RECORD.itemsize == 232


def test_the_stack_has_a_bound_that_gcc_confirms(tmp_path: Path, board_program: Path) -> None:
    stack = worst_case_stack(board_program, "s2s_guard_step")
    print(stack)
    assert str(stack).startswith(f"stack: {stack.n_bytes} bytes (s2s_guard_step ")
    assert stack.n_bytes == sum(n for _, n in stack.path) <= 1024
    # gcc says the same of each of our functions on the path.
    compiler = find_compiler("cortex-m7")
    said: dict[str, int] = {}
    for name in GUARD_SOURCES:
        out = tmp_path / f"{name}.o"
        options = ["-std=c99", "-O2", "-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard"]
        options += ["-ffp-contract=off", "-fno-pie", "-fstack-usage", "-ffunction-sections", "-fdata-sections"]
        command = [str(compiler.path), *options, f"-I{CORE}", "-c", str(CORE / f"{name}.c"), "-o", str(out)]
        subprocess.run(command, check=True, timeout=120)
        for line in out.with_suffix(".su").read_text(encoding="utf-8").splitlines():
            where, n, kind = line.split("\t")
            assert kind == "static"
            said[where.rpartition(":")[2]] = int(n)
    ours = {name: n for name, n in stack.path if name.startswith("s2s_")}
    assert len(ours) >= 3 and ours == {name: said[name] for name in ours}
