"""Opens the flight agent on a microcontroller: emulated by QEMU or unicorn, or a board on a serial port."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.bundle import Bundle
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
    """The chip answers every golden vector with the very bits that were computed when the bundle was made.

    Raises:
        GoldenMismatchError: it does not; the first vector that differs, and the chip's answer to it.
        LinkError: see `PilLink.ask`.
    """
    test = link.self_test()
    if test.different == 0:
        return
    golden = bundle.golden()
    rows = np.concatenate([golden.observations[box.key] for box in bundle.contract.inputs], axis=1).astype(np.float32)
    number = test.first
    starts = golden.episode_start if golden.episode_start is not None else np.ones(len(golden))
    link.forget()
    period_ns = math.ceil(1e9 / bundle.contract.rate_hz) if bundle.contract.rate_hz > 0 else 0
    answer: NDArray[np.float32] = np.empty(0, np.float32)
    for i in range(int(np.flatnonzero(starts[: number + 1])[-1]), number + 1):
        answer = link.policy(rows[i], i * period_ns).action
    raise GoldenMismatchError(
        f"on the chip {test.different} of {test.compared} golden vectors differ, the first is number {number}: "
        f"to the observation {_listed(rows[number])} it answers {_listed(answer)}, "
        f"the trained agent {_listed(golden.action[number])}",
        hint="is the compiler one we know (arm-none-eabi-gcc 12 or newer)? The active firmware was not touched",
    )


def _listed(values: Any) -> str:
    return "[" + ", ".join(f"{float(v):.9g}" for v in np.ravel(values)) + "]"
