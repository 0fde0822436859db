"""Builds programs for the emulated Cortex-M7 board from our C sources: tests, and the flight agent's firmware."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.firmware_config import SOURCES, write_firmware_sources
from sim2sky.deployment.stack_usage import worst_case_stack
from sim2sky.deployment.toolchain import Compiler, compile_c, find_compiler, firmware_folder
from sim2sky.errors import TargetError

__all__ = [
    "EMULATED",
    "TEENSY41",
    "Image",
    "Memory",
    "build_agent",
    "build_program",
    "image_size",
    "require_weights_fit",
]

PORT = "mps2_an500"
LINKER_SCRIPT = "link.ld"
ENTRY = "port_reset"
_RAM_START = 0x20000000
_PT_LOAD = 1


def build_program(
    main: Path, extra: Sequence[Path], out: Path, *, include: Sequence[Path] = (), optimise: str = "-O2"
) -> Path:
    """Link a C program for QEMU's `mps2-an500` with our start-up code.

    Args:
        main: the source with `int main(void)`; `port.h` is on its include path, and `firmware/core`.
        extra: further sources.
        out: the ELF file to make.
        include: further folders of headers; they come first.
        optimise: level.

    Returns:
        `out`.

    Raises:
        ToolchainError: no cross compiler, or it refuses the source.
    """
    firmware = firmware_folder()
    port = firmware / "ports" / PORT
    sources = [port / "start.c", port / "port.c", main, *extra]
    folders = [*include, port, firmware / "core"]
    return _link(find_compiler("cortex-m7"), sources, out, port / LINKER_SCRIPT, folders, optimise)


def _link(
    compiler: Compiler,
    sources: Sequence[Path],
    out: Path,
    script: Path,
    include: Sequence[Path],
    optimise: str = "-O2",
) -> Path:
    return compile_c(
        compiler,
        sources,
        out,
        product="program",
        include=include,
        optimise=optimise,
        options=[
            *("-fno-pie", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"),
            *("-nostartfiles", "-specs=nosys.specs", "-T", str(script)),
        ],
    )


@dataclass(frozen=True)
class Memory:
    """What a board has, in bytes."""

    name: str
    flash: int
    ram: int


TEENSY41 = Memory("the Teensy 4.1", 7_936 << 10, 512 << 10)
"""Its 8 MB of flash without the 256 kB that are the board's own, and the 512 kB of tightly coupled RAM."""
EMULATED = Memory("the emulated board", 4 << 20, 4 << 20)


@dataclass(frozen=True)
class Image:
    """A linked firmware.

    Attributes:
        elf: the file.
        flash: bytes of code memory: code, constants and the initial values of `.data`.
        ram: bytes of static RAM, `.data` and `.bss`, and of the stack at its deepest.
        stack: of these the stack.
        compiler: what made it.
    """

    elf: Path
    flash: int
    ram: int
    stack: int
    compiler: str


def build_agent(bundle: Bundle, out: Path) -> Image:
    """Build the flight agent's firmware for the emulated board, and check that it fits there and on the board it stands
    for.

    Args:
        bundle: what is to fly.
        out: the ELF file to make.

    Raises:
        NotSupportedError: a layer that the C generator does not know.
        TargetError: it does not fit.
        ToolchainError: no cross compiler, or it refuses the source.
        BundleError, ConfigError, ContractError: the bundle cannot fly.
    """
    require_weights_fit(bundle)
    compiler = find_compiler("cortex-m7")
    with tempfile.TemporaryDirectory(prefix="sim2sky-firmware-") as folder:
        project = Path(folder) / "project"
        core = write_firmware_sources(bundle, project, PORT)
        sources = [*sorted(project.glob("*.c")), *core]
        _link(compiler, sources, out, project / LINKER_SCRIPT, [project, project / SOURCES])
    flash, ram = image_size(out)
    stack = worst_case_stack(out, ENTRY).n_bytes
    _require_room("flash", "the firmware takes", flash)
    _require_room("RAM", "the firmware takes", ram + stack)
    return Image(out, flash, ram + stack, stack, str(compiler))


def require_weights_fit(bundle: Bundle) -> None:
    """What can be told without a compiler: the weights alone fit the flash. Raises TargetError."""
    size = 1 if bundle.provenance.get("c_weights") == "int8" else 4
    with np.load(io.BytesIO(bundle.read("network.npz"))) as network:
        n_weights = sum(network[name].size for name in network.files if network[name].dtype == np.float32)
    _require_room("flash", "the policy's weights alone take", size * n_weights)


def _require_room(kind: str, what: str, size: int) -> None:
    for board in (TEENSY41, EMULATED):
        room = board.flash if kind == "flash" else board.ram
        if size > room:
            raise TargetError(
                f"{what} {size:,} bytes of {kind}; {board.name} has {room:,}",
                hint="train a smaller net, e.g. two layers of 64, or set model_export.c_weights: int8",
            )


def image_size(elf: Path) -> tuple[int, int]:
    """(flash, static RAM) of a linked program in bytes, from its program headers.

    Raises:
        TargetError: it is no 32-bit ELF file.
    """
    data = elf.read_bytes()
    try:
        if data[:5] != b"\x7fELF\x01":
            raise struct.error
        (table,), (n,) = struct.unpack_from("<I", data, 28), struct.unpack_from("<H", data, 44)
        segments = [struct.unpack_from("<6I", data, table + 32 * i) for i in range(n)]
    except struct.error:
        raise TargetError(f"{elf} is no program for a 32-bit processor") from None
    loaded = [s for s in segments if s[0] == _PT_LOAD]
    flash = sum(in_file for _, _, _, _, in_file, _ in loaded)
    return flash, sum(in_memory for _, _, address, _, _, in_memory in loaded if address >= _RAM_START)
