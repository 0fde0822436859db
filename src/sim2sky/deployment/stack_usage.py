"""Worst-case stack of a program for the Cortex-M7: the deepest path through the calls of the linked program.

Read from the instructions themselves, so the C library is in it and inlining is as it came out. An interrupt or fault
takes up to 108 bytes more (Armv7-M, with floating-point registers); the firmware uses no interrupts.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sim2sky.errors import NotSupportedError, ToolchainError

__all__ = ["Stack", "worst_case_stack"]

OBJDUMP = "arm-none-eabi-objdump"

_FUNCTION = re.compile(r"^([0-9a-f]+) <(.+)>:$")
_INSTRUCTION = re.compile(r"^\s*[0-9a-f]+:\t(\S+)(?:\t([^@;]*))?")
_TARGET = re.compile(r"\b([0-9a-f]+) <")
_PUSH = re.compile(r"^(?:v?push|v?stmdb|vstmdb|stmfd)(?:\.\w+)?$")
_STORE = re.compile(r"^v?str[a-z]*(?:\.\w+)?$")
_BRANCH = re.compile(r"^(?:bl|blx|b(?:eq|ne|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?)(?:\.[nw])?$")


class Stack(NamedTuple):
    """The deepest path.

    Attributes:
        n_bytes: that it takes.
        path: functions and the bytes of their frames, the entry first.
    """

    n_bytes: int
    path: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        return f"stack: {self.n_bytes} bytes ({' > '.join(f'{name} {n}' for name, n in self.path)})"


@dataclass
class _Function:
    """What its instructions say: bytes it takes, addresses it goes to, why there is no bound (empty: there is)."""

    name: str
    n_bytes: int = 0
    targets: set[int] = field(default_factory=set[int])
    called: set[int] = field(default_factory=set[int])
    unbounded: str = ""


def worst_case_stack(program: Path, entry: str) -> Stack:
    """The deepest path from a function on.

    Args:
        program: linked ELF file for the Cortex-M7, with its symbols.
        entry: name of the function.

    Raises:
        NotSupportedError: a function calls itself on whatever way, or through a pointer, or has a frame whose size is
            only known when it runs: there is no bound.
        ToolchainError: no such function, or no disassembler.
    """
    functions = _disassembled(program)
    start = next((address for address, f in functions.items() if f.name == entry), None)
    if start is None:
        raise ToolchainError(f"there is no function '{entry}' in {program.name}")
    return _deepest(start, functions, sorted(functions), [], {})


def _deepest(
    at: int, functions: dict[int, _Function], starts: list[int], above: list[int], known: dict[int, Stack]
) -> Stack:
    if at in known:
        return known[at]
    function = functions[at]
    if at in function.called:
        above = [*above, at]
    chain = " > ".join(functions[a].name for a in [*above, at])
    if at in above:
        raise NotSupportedError(f"a bound of the stack of a recursion ({chain})")
    if function.unbounded:
        raise NotSupportedError(f"a bound of the stack of {function.unbounded} ({chain})")
    goes_to = {starts[bisect_right(starts, target) - 1] for target in function.targets} - {at}
    below = [_deepest(to, functions, starts, [*above, at], known) for to in sorted(goes_to)]
    deepest = max(below, key=lambda s: s.n_bytes, default=Stack(0, ()))
    known[at] = Stack(function.n_bytes + deepest.n_bytes, ((function.name, function.n_bytes), *deepest.path))
    return known[at]


def _disassembled(program: Path) -> dict[int, _Function]:
    """Functions by address."""
    tool = shutil.which(OBJDUMP)
    if tool is None:
        raise ToolchainError(f"{OBJDUMP} is missing", hint="apt-get install binutils-arm-none-eabi")
    done = subprocess.run(
        [tool, "-d", "--no-show-raw-insn", str(program)], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode != 0:
        raise ToolchainError(f"{OBJDUMP} cannot read {program.name}: {done.stderr.strip()}")
    functions: dict[int, _Function] = {}
    function = _Function("")
    for line in done.stdout.splitlines():
        if head := _FUNCTION.match(line):
            function = functions[int(head[1], 16)] = _Function(head[2])
        elif instruction := _INSTRUCTION.match(line):
            _take_in(function, instruction[1], (instruction[2] or "").strip())
    return functions


def _take_in(f: _Function, name: str, operands: str) -> None:
    """One instruction. What takes stack on one way through the function only is counted as if it always did."""
    if _PUSH.match(name) and (name.startswith(("push", "vpush")) or operands.startswith("sp!")):
        f.n_bytes += _registers(operands)
    elif _STORE.match(name) and (below := re.search(r"\[sp, #-(\d+)\]!", operands)):
        f.n_bytes += int(below[1])
    elif name.startswith("sub") and re.match(r"sp\b", operands):
        size = re.search(r"#(\d+)$", operands)
        f.n_bytes += int(size[1]) if size else 0
        f.unbounded = f.unbounded or ("" if size else "a frame whose size varies")
    elif name.startswith("mov") and operands.startswith("sp,"):
        f.unbounded = f.unbounded or "a frame whose size varies"
    elif _BRANCH.match(name) and (target := _TARGET.search(operands)):
        f.targets.add(int(target[1], 16))
        if name in ("bl", "blx"):
            f.called.add(int(target[1], 16))
    elif name.startswith(("blx", "bx")) and operands != "lr":
        f.unbounded = f.unbounded or "a call through a pointer"


def _registers(operands: str) -> int:
    """Bytes of a register list such as `{r4, r5, lr}` or `{d8-d11}`."""
    n_bytes = 0
    for part in operands[operands.index("{") + 1 : operands.index("}")].split(","):
        first, _, last = part.strip().partition("-")
        size = 8 if first.startswith("d") else 4
        n_bytes += size * (int(last[1:]) - int(first[1:]) + 1 if last else 1)
    return n_bytes
