"""Elementary functions and laws in C on other machines: an emulated Cortex-M7 and aarch64 give the bits of this one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.c_support import build_program

from sim2sky.deployment import firmware_build
from sim2sky.deployment.toolchain import find_compiler, firmware_folder
from sim2sky.hil.qemu import run_to_exit

TESTS = Path(__file__).resolve().parent.parent / "firmware"
CORE = [firmware_folder() / "core" / f"{c}.c" for c in ("real", "fence", "escape", "guidance", "wind", "autopilot")]
PORT = TESTS / "host" / "port.c"
HOST = ("host", "gcc", "-O3")
BUILDS = [("host", "gcc", "-O0"), ("host", "clang", "-O0"), ("host", "clang", "-O3"), ("aarch64", "gcc", "-O3"),
          pytest.param("aarch64", "gcc", "-O0", marks=pytest.mark.slow)]  # fmt: skip


def hashes(program, machine):
    """One a function; over 120,000 answers each of real_stream.c, 100,000 each of laws_stream.c."""
    command = ["qemu-aarch64", str(program)] if machine == "aarch64" else [str(program)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout.split()


@pytest.fixture(scope="module", params=["real_stream.c", "laws_stream.c"])
def source(request):
    return TESTS / request.param


@pytest.fixture(scope="module")
def here(source, tmp_path_factory):
    machine, kind, optimise = HOST
    folder = tmp_path_factory.mktemp("here")
    found = hashes(
        build_program([source, PORT, *CORE], folder, compiler=find_compiler(machine, kind), optimise=optimise), machine
    )
    assert len(set(found)) == len(found) >= 10
    return found


@pytest.mark.parametrize(("machine", "kind", "optimise"), BUILDS)
def test_same_bits(source, here, tmp_path, machine, kind, optimise):
    compiler = find_compiler(machine, kind)
    assert hashes(build_program([source, PORT, *CORE], tmp_path, compiler=compiler, optimise=optimise), machine) == here


@pytest.mark.parametrize("optimise", [pytest.param("-O0", marks=pytest.mark.slow), "-O2"])
def test_same_bits_on_the_cortex_m7(source, here, tmp_path, optimise):
    elf = firmware_build.build_program(source, CORE, tmp_path / "stream.elf", optimise=optimise)
    done = run_to_exit(elf, timeout_s=300.0)
    assert done.returncode == 0
    assert done.stdout.split() == here


def test_fused_multiplication_is_caught(here, tmp_path, source):
    """Every aarch64 can fuse: there the comparison can always fail."""
    compiler = find_compiler("aarch64")
    program = build_program([source, PORT, *CORE], tmp_path, compiler=compiler, options=["-ffp-contract=fast"])
    assert hashes(program, "aarch64") != here
