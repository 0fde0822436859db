"""Every small change of the guard in C that `guard_twin.py` does not notice: is the comparison worth anything?

    python benchmarks/guard_mutants.py [--flights 200] [--seed 5]

One operator after the other in guard.c, watch.c and ladder.c is replaced (`<` by `<=`, `&&` by `||`, `+` by `-`, ...),
the library built again, and the flights answered. What survives is printed, to be read: it is the same function, or the
flights do not go there.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import re
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from guard_twin import Flown, differences, flown

from sim2sky.deployment.toolchain import Compiler, compile_c, find_compiler, firmware_folder
from sim2sky.errors import ToolchainError
from sim2sky.hil.native_guard import guard_sources, open_guard

FILES = ("guard.c", "watch.c", "ladder.c")
SWAPS = (
    (" < ", " <= "), (" > ", " >= "), (" <= ", " < "), (" >= ", " > "), (" && ", " || "), (" || ", " && "),
    (" == ", " != "), (" != ", " == "), (" + ", " - "), (" - ", " + "), (" += ", " -= "), ("|= ", "= "),
    ("= true;", "= false;"), ("= false;", "= true;"), ("++", "--"), ("s2s_min(", "s2s_max("), ("s2s_max(", "s2s_min("),
)  # fmt: skip
CPU_S = 20  # a loop that does not end is a change that is noticed


def mutants(text: str) -> Iterator[tuple[int, str, str, str]]:
    """Line number, what is replaced, by what, and the text with this one change."""
    for old, new in SWAPS:
        for found in re.finditer(re.escape(old), text):
            changed = text[: found.start()] + new + text[found.end() :]
            yield text.count("\n", 0, found.start()) + 1, old, new, changed


def noticed(library: Path, flights: list[Flown]) -> bool:
    """Whether any flight is answered otherwise; in a child process, which may crash or never end."""
    pid = os.fork()
    if pid == 0:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
        code = 1
        try:
            guard = open_guard(library)
            code = 1 if any(differences(f, guard) for f in flights) else 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] != 0


def survivors(flights: list[Flown], folder: Path, files: tuple[str, ...] = FILES) -> Iterator[str]:
    """One line per change: `survives FILE:LINE ...` or `found`."""
    gcc, core = find_compiler("host", "gcc"), firmware_folder() / "core"
    objects = {source.name: _compiled(gcc, source, folder / f"{source.stem}.o") for source in guard_sources()}
    library = folder / "whole.so"
    compile_c(gcc, [*objects.values()], library, product="shared")
    if noticed(library, flights):
        raise AssertionError("the guards differ as they are")
    for name in files:
        text = (core / name).read_text(encoding="utf-8")
        for k, (line, old, new, changed) in enumerate(mutants(text)):
            source, library = folder / name, folder / f"{name}-{k}.so"
            source.write_text(changed, encoding="utf-8")
            try:
                objects_now = {**objects, name: _compiled(gcc, source, folder / "mutant.o")}
                compile_c(gcc, [*objects_now.values()], library, product="shared")
                found = noticed(library, flights)
                library.unlink()
            except ToolchainError:
                found = True  # it is no C any more
            where = f"{name}:{line} {old.strip()} -> {new.strip()}: {text.splitlines()[line - 1].strip()}"
            yield "found" if found else f"survives {where}"


def _compiled(gcc: Compiler, source: Path, out: Path) -> Path:
    core = firmware_folder() / "core"
    return compile_c(gcc, [source], out, product="object", include=[core], optimise="-O1", options=["-fPIC"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flights", type=int, default=200)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    flights = [flown(options.seed, k) for k in range(options.flights)]
    with tempfile.TemporaryDirectory(prefix="sim2sky-mutants-") as folder:
        said: list[str] = []
        for text in survivors(flights, Path(folder)):
            said.append(text)
            if text != "found":
                print(text, flush=True)
    left = sum(text != "found" for text in said)
    print(f"{len(said)} changes, {left} survive {sum(len(f.calls) for f in flights):,} calls")
    return 0


if __name__ == "__main__":
    sys.exit(main())
