"""Our elementary functions: how exact, how fast in Python, how many instructions on a Cortex-M7, and why we have them.

    python benchmarks/elementary_functions.py [--points 20000] [--json]

The rival is the C library's function of the same name: glibc's through Python's `math`, newlib's on the emulated
Cortex-M7 (exact instruction counts). "Libraries differ" is the share of 2,000 ordinary arguments for which glibc and
newlib give other bits; ours give the same everywhere. Errors are measured against mpmath, in units in the last place.
Nanoseconds are the smallest of many rounds, ours and the rival's in turn.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mpmath

sys.path.insert(0, str(Path(__file__).resolve().parent))

from machine import describe_machine

from sim2sky.deployment import firmware_build
from sim2sky.deployment.toolchain import compile_c, find_compiler, firmware_folder
from sim2sky.hil.qemu import run_to_exit
from sim2sky.runtime import real

HERE = Path(__file__).resolve().parent
STREAM = HERE.parent / "tests" / "firmware"
FUNCTIONS = ("sin", "cos", "tan", "asin", "atan2", "hypot")  # in the order of elementary_functions.c and libm_stream.c
TWO = ("atan2", "hypot")
CALLS = 1000  # of each function in elementary_functions.c


def arguments(name: str, n: int) -> list[tuple[float, ...]]:
    """Ordinary ones: angles of -10 to 10 rad, sines, points."""
    rng = random.Random(name)
    if name in TWO:
        return [(rng.gauss(0.0, 100.0), rng.gauss(0.0, 100.0)) for _ in range(n)]
    reach = 1.0 if name == "asin" else 10.0
    return [(rng.uniform(-reach, reach),) for _ in range(n)]


def worst_error(name: str, points: list[tuple[float, ...]]) -> float:
    """In units in the last place of the exact answer."""
    ours, exact = getattr(real, name), getattr(mpmath, name)
    with mpmath.workdps(40):
        pairs = [(ours(*p), exact(*map(mpmath.mpf, p))) for p in points]
        return max(float(abs(mpmath.mpf(answer) - e) / math.ulp(float(e))) for answer, e in pairs)


def nanoseconds(functions: list[Callable[..., float]], points: list[tuple[float, ...]], rounds: int) -> list[float]:
    """Of a call of each, in turn; the call itself included."""
    best = [math.inf] * len(functions)
    for _ in range(rounds):
        for i, function in enumerate(functions):
            begun = time.perf_counter_ns()
            for p in points:
                function(*p)
            best[i] = min(best[i], (time.perf_counter_ns() - begun) / len(points))
    return best


def instructions(folder: Path) -> list[float]:
    """Of a call on the emulated Cortex-M7, less the loop: ours and newlib's of each function."""
    source, ours = HERE / "elementary_functions.c", firmware_folder() / "core" / "real.c"
    elf = firmware_build.build_program(source, [ours], folder / "cost.elf", include=[STREAM])
    loop, *sums = (int(word, 16) for word in run_to_exit(elf, icount=True).stdout.split())
    return [(total - loop) / CALLS for total in sums]


def library_differences(folder: Path) -> list[float]:
    """Share of arguments for which newlib and glibc differ, of each function."""
    source = STREAM / "libm_stream.c"
    chip = run_to_exit(firmware_build.build_program(source, [], folder / "chip.elf")).stdout.split()
    host = compile_c(
        find_compiler(), [source, STREAM / "host" / "port.c"], folder / "host", product="program",
        include=[STREAM / "host"],
    )  # fmt: skip
    here = subprocess.run([str(host)], check=True, capture_output=True, text=True, timeout=60).stdout.split()
    n = len(FUNCTIONS)
    return [sum(a != b for a, b in zip(chip[k::n], here[k::n], strict=True)) * n / len(chip) for k in range(n)]


def measure(n: int) -> dict[str, dict[str, float]]:
    """Everything, by function."""
    with tempfile.TemporaryDirectory() as folder:
        counts, differ = instructions(Path(folder)), library_differences(Path(folder))
    rows: dict[str, dict[str, float]] = {}
    for k, name in enumerate(FUNCTIONS):
        points = arguments(name, n)
        ours, rival = nanoseconds([getattr(real, name), getattr(math, name)], points[:50], max(n // 10, 20))
        rows[name] = {
            "error_units": worst_error(name, points), "python_ns": ours, "math_ns": rival,
            "m7_instructions": counts[2 * k], "newlib_instructions": counts[2 * k + 1], "libraries_differ": differ[k],
        }  # fmt: skip
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20_000, help="arguments per function")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows, machine = measure(options.points), describe_machine("mpmath")
    if options.json:
        print(json.dumps({"machine": machine, "functions": rows}, indent=1))
        return 0
    print(machine)
    print("          error   Python   math  ratio    M7  newlib  ratio  libraries differ")
    for name, r in rows.items():
        print(
            f"{name:6} {r['error_units']:4.2f} ulp {r['python_ns']:5.0f} ns {r['math_ns']:3.0f} ns "
            f"{r['python_ns'] / r['math_ns']:6.1f} {r['m7_instructions']:5.0f} {r['newlib_instructions']:7.0f} "
            f"{r['m7_instructions'] / r['newlib_instructions']:6.2f}  {100 * r['libraries_differ']:.1f} %"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
