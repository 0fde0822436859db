"""Opens the flight agent on a microcontroller: emulated by QEMU or unicorn, or a board on a serial port."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Generator
from pathlib import Path

from sim2sky.errors import TargetError
from sim2sky.hil.pil import PilLink
from sim2sky.hil.qemu import QEMU, EmulatedChip
from sim2sky.hil.unicorn_chip import UnicornChip
from sim2sky.runtime.channel import open_serial

__all__ = ["BAUD", "can_count", "emulated_chip", "require_emulator", "serial_board"]

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
