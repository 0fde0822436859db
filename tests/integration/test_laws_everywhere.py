"""Elementary functions and laws in C on other machines: an emulated Cortex-M7 and aarch64 give the bits of this one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from benchmarks import elementary_functions
from tests.c_support import build_program

from sim2sky.deployment import firmware_build
from sim2sky.deployment.toolchain import find_compiler, firmware_folder
from sim2sky.hil.qemu import run_to_exit

TESTS = Path(__file__).resolve().parent.parent / "firmware"
CORE = [firmware_folder() / "core" / f"{c}.c" for c in ("real", "fence", "escape", "guidance", "wind", "autopilot")]
STREAMS = [TESTS / "real_stream.c", TESTS / "laws_stream.c"]
PORT = TESTS / "host" / "port.c"
HOST = ("host", "gcc", "-O3")
BUILDS = [("host", "gcc", "-O0"), ("host", "clang", "-O0"), ("host", "clang", "-O3"), ("aarch64", "gcc", "-O3"),
          pytest.param("aarch64", "gcc", "-O0", marks=pytest.mark.slow)]  # fmt: skip


def hashes(program, machine):
    """One a function; over 120,000 answers each of real_stream.c, 100,000 each of laws_stream.c."""
    command = ["qemu-aarch64", str(program)] if machine == "aarch64" else [str(program)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout.split()


@pytest.fixture(scope="module", params=STREAMS, ids=lambda stream: stream.stem)
def source(request):
    return request.param


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


def test_short_form_of_the_benchmark():
    rows = elementary_functions.measure(200)
    for name, row in rows.items():
        assert row["error_units"] < (4.0 if name in ("tan", "asin") else 3.0)
        assert row["libraries_differ"] > 0.01  # why we have functions of our own
        assert 0 < row["m7_instructions"] < 150  # counted, not timed; a division or square root is one
        assert row["newlib_instructions"] > 0
        assert row["python_ns"] > 0


def test_no_undefined_behaviour(source, here, tmp_path):
    """A sanitizer's finding ends the program. Not float-divide-by-zero: IEEE 754 defines it."""
    options = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
    program = build_program([source, PORT, *CORE], tmp_path, compiler=find_compiler("host", "gcc"), options=options)
    assert hashes(program, "host") == here


def test_every_line_and_branch_is_run(tmp_path):
    """The streams leave nothing out: gcov finds every line run and every branch taken both ways."""
    gcc, options = str(find_compiler("host", "gcc").path), ["-std=c99", "-O0", "--coverage", "-ffp-contract=off"]
    include = [f"-I{firmware_folder() / 'core'}", f"-I{PORT.parent}"]
    names = [source.stem for source in CORE]
    for source in (*CORE, PORT, *STREAMS):
        subprocess.run([gcc, *options, *include, "-c", str(source)], cwd=tmp_path, check=True, timeout=120)
    for stream in STREAMS:
        objects = [f"{name}.o" for name in (stream.stem, PORT.stem, *names)]
        subprocess.run([gcc, "--coverage", "-o", "run", *objects, "-lm"], cwd=tmp_path, check=True, timeout=120)
        subprocess.run([tmp_path / "run"], cwd=tmp_path, check=True, capture_output=True, timeout=300)
    for name in names:
        subprocess.run(["gcov", "-b", "-c", f"{name}.o"], cwd=tmp_path, check=True, capture_output=True, timeout=120)
        missed = missed_in((tmp_path / f"{name}.c.gcov").read_text())
        assert not missed, (name, missed)
    (tmp_path / "wind.gcda").unlink()  # the gate can fail
    subprocess.run(["gcov", "-b", "-c", "wind.o"], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert len(missed_in((tmp_path / "wind.c.gcov").read_text())) > 20


def missed_in(gcov):
    """Lines that never ran and branches never taken."""
    assert gcov.count("\nbranch ") > 5
    return re.findall(r"^ *#####:.*|^branch +\d+ (?:taken 0\b|never).*", gcov, re.MULTILINE)
