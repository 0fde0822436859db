"""Opens the flight agent on a microcontroller: emulated by QEMU or unicorn, or a board on a serial port."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import shutil
from collections.abc import Generator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.c_arithmetic import CPolicy
from sim2sky.deployment.export_c import golden_rows
from sim2sky.errors import GoldenMismatchError, TargetError
from sim2sky.hil.pil import PilLink
from sim2sky.hil.qemu import QEMU, EmulatedChip
from sim2sky.hil.unicorn_chip import UnicornChip
from sim2sky.runtime.channel import open_serial

__all__ = ["BAUD", "can_count", "emulated_chip", "require_emulator", "require_golden", "serial_board"]

BAUD = 115_200
"""Of the serial port; a board on USB takes any."""


def can_count() -> bool:
    """Whether instructions can be counted here: by QEMU only."""
    return shutil.which(QEMU) is not None


def require_emulator() -> str:
    """Name of the emulator there is.

    Raises:
        TargetError: there is none; the hint says how to get one.
    """
    if shutil.which(QEMU) is not None:
        return "QEMU"
    if importlib.util.find_spec("unicorn") is not None:
        return "unicorn"
    raise TargetError(
        f"no emulator for the Cortex-M7: neither {QEMU} nor the Python package unicorn is there",
        hint="sudo apt-get install qemu-system-arm, or: pip install 'sim2sky[mcu]'",
    )


@contextlib.contextmanager
def emulated_chip(elf: Path, *, icount: bool = False) -> Generator[PilLink, None, None]:
    """Start firmware on an emulated Cortex-M7, and end it with the context.

    Args:
        elf: see `firmware_build.build_agent`.
        icount: let it count instructions, where `can_count`.

    Raises:
        TargetError: no emulator, or it does not start.
    """
    emulator = EmulatedChip if require_emulator() == "QEMU" else UnicornChip
    with emulator(elf, icount=icount) as chip:
        yield PilLink(chip.channel, ended=lambda: chip.ended, name="the emulated chip")


@contextlib.contextmanager
def serial_board(device: str) -> Generator[PilLink, None, None]:
    """Speak to the firmware on a board.

    Raises:
        LinkError: the port cannot be opened.
    """
    with contextlib.closing(open_serial(device, BAUD)) as channel:
        yield PilLink(channel, name=f"the board at {device}")


def require_golden(link: PilLink, bundle: Bundle) -> None:
    """The chip answers every golden vector with the very bits that were computed when its policy was generated.

    Raises:
        GoldenMismatchError: it does not; names the first vector that differs, and both answers.
        LinkError: see `PilLink.ask`.
    """
    test = link.self_test()
    if test.different == 0:
        return
    number, golden, rate_hz = test.first, bundle.golden(), bundle.contract.rate_hz
    rows = golden_rows(golden, bundle.contract)
    starts = golden.episode_start if golden.episode_start is not None else np.ones(len(golden))
    begin = int(np.flatnonzero(starts[: number + 1])[-1])  # a recurrent policy answers to all since then
    expected = CPolicy(bundle.network()).evaluate(rows[begin : number + 1], starts[begin : number + 1])[-1]
    period_ns = math.ceil(1e9 / rate_hz) if rate_hz > 0 else 0
    link.forget()
    answers = [link.policy(row, i * period_ns).action for i, row in enumerate(rows[begin : number + 1])]
    raise GoldenMismatchError(
        f"on the chip {test.different} of {test.compared} golden vectors differ; the first is number {number}: "
        f"to {_listed(rows[number])} the chip answers {_listed(answers[-1])}, right is {_listed(expected)}",
        hint="the compiler or the chip computes wrongly: try another version of arm-none-eabi-gcc",
    )


def _listed(values: NDArray[np.float32]) -> str:
    return "[" + ", ".join(f"{float(v):.9g}" for v in values) + "]"
