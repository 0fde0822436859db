"""The guard exists twice: C and Python give the same bits, no branch of the C is left out, and a changed C is found."""

from __future__ import annotations

import ctypes
import gzip
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import guard_twin
from benchmarks.guard_twin import Flown, differences, flown

from sim2sky.deployment.toolchain import Compiler, compile_c, find_compiler, firmware_folder
from sim2sky.hil.native_guard import guard_sources, open_guard
from sim2sky.runtime.safety import Mode, Trip

CORE = firmware_folder() / "core"
HOST = firmware_folder() / "ports" / "host"
EXTRA = Path(__file__).resolve().parent.parent / "firmware"
SEED = 5
FLIGHTS = 200
OURS = ("guard", "watch", "ladder")


@pytest.fixture(scope="module")
def flights() -> list[Flown]:
    """10^5 calls, answered by the guard in Python."""
    return [flown(SEED, k) for k in range(FLIGHTS)]


def build(folder: Path, compiler: Compiler, optimise: str, *options: str) -> ctypes.CDLL:
    out = folder / f"guard-{compiler.kind}{optimise}.so"
    compile_c(
        compiler, guard_sources(), out, product="shared", include=[CORE], optimise=optimise,
        options=["-Werror", *options],
    )  # fmt: skip
    return open_guard(out)


def all_differences(flights: list[Flown], library: ctypes.CDLL | None = None) -> list[str]:
    return [text for f in flights for text in differences(f, library)]


@pytest.mark.parametrize(
    ("kind", "optimise", "options"),
    [
        ("gcc", "-O0", ()),
        ("gcc", "-O3", ()),
        ("clang", "-O3", ()),
        ("gcc", "-O1", ("-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all")),
    ],
)
def test_c_and_python_answer_alike_to_the_last_bit(
    tmp_path: Path, flights: list[Flown], kind: Any, optimise: str, options: tuple[str, ...]
) -> None:
    assert not all_differences(flights, build(tmp_path, find_compiler("host", kind), optimise, *options))


def test_the_flights_go_everywhere(flights: list[Flown]) -> None:
    answers = np.concatenate([f.answers[f.calls["what"] == 0] for f in flights])
    assert len(answers) > 0.98 * FLIGHTS * guard_twin.FLIGHT
    assert set(np.unique(answers["mode"])) == {int(m) for m in Mode}
    seen = int(np.bitwise_or.reduce(answers["trips"]))
    assert seen == sum(int(t) for t in Trip)
    for trip in Trip:  # and back
        assert 0 < np.count_nonzero(answers["trips"] & int(trip)) < 0.9 * len(answers)


MUTANTS = [
    ("guard_table.h", "S2S_BLENDED_OUT 0.01", "S2S_BLENDED_OUT 0.011"),
    ("guard_table.h", "S2S_HOME_RADII 1.5", "S2S_HOME_RADII 1.6"),
    ("guard_table.h", "S2S_NOSE_DOWN_M 20.0", "S2S_NOSE_DOWN_M 20.000001"),
    ("guard_table.h", "S2S_ABSURD 1000000.0", "S2S_ABSURD 1000001.0"),
    ("guard_table.h", "0x80000u, 0x0u, 0x8u, S2S_ACTION_DESCEND", "0x80000u, 0x0u, 0x8u, S2S_ACTION_LOITER"),
    ("guard_table.h", "{0x8000u, 0x0u, 0x0u, S2S_ACTION_CIRCLE}", "{0x8000u, 0x0u, 0x0u, S2S_ACTION_HOLD}"),
    ("guard.c", "g->clear_ticks = -1;", "g->clear_ticks = 0;"),
    ("guard.c", "g->bridge -= 1.0;", "g->bridge -= 0.5;"),
    ("guard.c", "change < 0.0 ? -slew : slew", "change <= 0.0 ? slew : -slew"),
    ("guard.c", "g->guidance.side = w->side;", ""),
    ("guard.c", "s2s_autopilot_reset(&g->law);\n        return", "return"),
    ("guard.c", "g->killed = g->killed || g->config->kill_enabled;", "g->killed = true;"),
    ("guard.c", "g->disarmed = true;", ""),
    ("watch.c", "w->fix_ns = s->time_ns;", "w->fix_ns = now_ns;"),
    ("watch.c", "enough += c->fence_buffer_m;", ""),
    ("watch.c", "return a_ns < b_ns ? b - a : a - b;", "return a - b;"),
    ("watch.c", "age_ns > c->stale_ns", "age_ns >= c->stale_ns"),
    ("watch.c", "w->battery_count = 0;", ""),
    ("watch.c", "w->turning--;", "w->turning = 0;"),
    ("escape.c", "#define STEP_S 0.4", "#define STEP_S 0.41"),
]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The guard as it is, one object file per source."""
    folder, gcc = tmp_path_factory.mktemp("objects"), find_compiler("host", "gcc")
    return {source.name: compile_object(gcc, source, folder) for source in guard_sources()}


def compile_object(gcc: Compiler, source: Path, folder: Path) -> Path:
    out = folder / f"{source.stem}.o"
    return compile_c(gcc, [source], out, product="object", include=[CORE], optimise="-O1", options=["-fPIC"])


@pytest.mark.parametrize(("name", "old", "new"), MUTANTS)
def test_a_guard_with_one_thing_changed_is_found(
    tmp_path: Path, flights: list[Flown], objects: dict[str, Path], name: str, old: str, new: str
) -> None:
    for file in (*CORE.glob("*.[ch]"), *HOST.glob("*.[ch]")):
        text = file.read_text(encoding="utf-8")
        if file.name == name:
            assert text.count(old) == 1
            text = text.replace(old, new)
        (tmp_path / file.name).write_text(text, encoding="utf-8")
    gcc = find_compiler("host", "gcc")
    changed = [name] if name.endswith(".c") else ["guard.c", "watch.c", "ladder.c"]
    linked = {**objects, **{source: compile_object(gcc, tmp_path / source, tmp_path) for source in changed}}
    library = open_guard(compile_c(gcc, [*linked.values()], tmp_path / "mutant.so", product="shared"))
    found = next((text for f in flights for text in differences(f, library)), "")
    assert f"seed {SEED} flight" in found and "Python: " in found and "C: " in found


def test_a_difference_is_described_so_that_it_can_be_flown_again(flights: list[Flown]) -> None:
    f = flights[0]
    again = flown(f.seed, f.flight)
    assert again.calls.tobytes() == f.calls.tobytes() and again.answers.tobytes() == f.answers.tobytes()
    wrong = f.answers.copy()
    wrong["command"][7, 2] = np.nextafter(wrong["command"][7, 2], 2.0)
    wrong["mode"][9] ^= 1
    (first, second) = differences(replace(f, answers=wrong))
    assert first.startswith("seed 5 flight 0 step 7: {'time_ns':") and second == "flight 0 step 9"
    assert float(wrong["command"][7, 2]).hex() in first and float(f.answers["command"][7, 2]).hex() in first


def test_negative_zero_is_another_command_than_zero(flights: list[Flown]) -> None:
    f = flights[0]
    wrong = f.answers.copy()
    k = int(np.flatnonzero(f.calls["what"] == 0)[0])
    wrong["command"][k] = -wrong["command"][k] * 0.0
    assert differences(replace(f, answers=wrong))


def test_every_branch_of_monitor_switch_and_recovery_is_taken(tmp_path: Path, flights: list[Flown]) -> None:
    gcc = str(find_compiler("host", "gcc").path)
    flags = [gcc, "--coverage", "-O0", "-fPIC", "-std=c99", "-ffp-contract=off", f"-I{CORE}", f"-I{HOST}"]
    sources = [*guard_sources(), EXTRA / "guard_coverage.c"]
    for source in sources:
        subprocess.run([*flags, "-c", str(source)], cwd=tmp_path, check=True, timeout=120)
    objects = [f"{source.stem}.o" for source in sources]
    subprocess.run([gcc, "--coverage", "-shared", *objects, "-o", "covered.so"], cwd=tmp_path, check=True, timeout=120)
    library = open_guard(tmp_path / "covered.so")
    assert not all_differences(flights, library)
    library.guard_coverage_dump()
    missed = missed_branches(tmp_path)
    assert not missed, "\n".join(missed)
    # Negative control: a few calls do not go everywhere.
    for file in tmp_path.glob("*.gcda"):
        file.unlink()
    program = tmp_path / "few"
    few_calls(tmp_path, program, flags, objects[:-1])
    assert missed_branches(tmp_path)


def few_calls(folder: Path, program: Path, flags: list[str], objects: list[str]) -> None:
    """A program that steps the covered guard once, without an estimate."""
    source = folder / "few.c"
    source.write_text(
        '#include "guard.h"\nint main(void) { static s2s_guard g; static const s2s_guard_config c; '
        "s2s_sample s = {0}; s2s_setpoint t = {{0}}; s2s_command p = {{0}}; s2s_guard_init(&g, &c);\n"
        "return s2s_guard_step(&g, &s, &t, &p, 0, S2S_DEAD, 0.0).mode == S2S_MODE_POLICY; }\n",
        encoding="utf-8",
    )
    subprocess.run([*flags, str(source), *objects, "-lm", "-o", str(program)], cwd=folder, check=True, timeout=120)
    subprocess.run([str(program)], cwd=folder, check=False, timeout=60)


def missed_branches(folder: Path) -> list[str]:
    """Branches and lines of our three files that were never taken, by gcov."""
    for name in OURS:
        subprocess.run(
            ["gcov", "--json-format", "-b", f"{name}.o"], cwd=folder, check=True, capture_output=True, timeout=60
        )
    missed: list[str] = []
    for name in OURS:
        report = json.loads(gzip.decompress((folder / f"{name}.gcov.json.gz").read_bytes()))
        (file,) = [f for f in report["files"] if Path(f["file"]).name == f"{name}.c"]
        assert len(file["lines"]) > 4
        for line in file["lines"]:
            taken = [branch["count"] for branch in line["branches"]]
            if line["count"] == 0 or 0 in taken:
                missed.append(f"{name}.c:{line['line_number']}: run {line['count']} times, branches {taken}")
    return missed
