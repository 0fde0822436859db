"""QEMU's emulated Cortex-M7 board (machine `mps2-an500`): runs a program on it, ends QEMU by its own process id."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sim2sky.errors import TargetError

__all__ = ["Completed", "emulator_command", "find_qemu", "run_to_exit"]

ICOUNT_SHIFT = 7
"""An instruction takes 2^7 ns of emulated time, which the 40 ns timer resolves: `port_instructions` is exact."""


class Completed(NamedTuple):
    """How a program on the board ended.

    Attributes:
        returncode: what its `main` returned, 0..255.
        stdout: what it printed.
    """

    returncode: int
    stdout: str


def find_qemu() -> str:
    """The emulator's path.

    Raises:
        TargetError: it is not installed.
    """
    if (path := shutil.which("qemu-system-arm")) is None:
        raise TargetError(
            "no emulator for the Cortex-M7: qemu-system-arm is missing", hint="sudo apt-get install qemu-system-arm"
        )
    return path


def emulator_command(
    elf: Path, arguments: Sequence[str] = (), *, serial: str = "null", icount: bool = False
) -> list[str]:
    """The command line that runs a program.

    Args:
        elf: linked for the board.
        arguments: words for `port_argument`; the program's name is word 0. They may not hold blanks.
        serial: QEMU's character device for UART0, e.g. `pty`.
        icount: count instructions; slower.
    """
    words = "".join(f",arg={word.replace(',', ',,')}" for word in (elf.name, *arguments))
    command = [find_qemu(), "-machine", "mps2-an500", "-nodefaults", "-display", "none", "-monitor", "none"]
    command += ["-serial", serial, "-chardev", "stdio,id=console,signal=off"]
    command += ["-semihosting-config", f"enable=on,target=native,chardev=console{words}"]
    return [*command, *(["-icount", f"shift={ICOUNT_SHIFT}"] if icount else []), "-kernel", str(elf)]


def run_to_exit(
    elf: Path, *, arguments: Sequence[str] = (), icount: bool = False, timeout_s: float = 120.0
) -> Completed:
    """Run a program until its `main` returns.

    Args:
        elf, arguments, icount: see `emulator_command`.
        timeout_s: after which it is ended.

    Raises:
        TargetError: no emulator, the program did not end in time, or QEMU gave up (a fault within a fault).
    """
    command = emulator_command(elf, arguments, icount=icount)
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False, text=True
        )
    except subprocess.TimeoutExpired as error:
        raise TargetError(f"{elf.name} did not end within {timeout_s:g} s on the emulated board") from error
    if done.returncode < 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise TargetError(f"the emulator gave up on {elf.name}: {said}")
    return Completed(done.returncode, done.stdout)
