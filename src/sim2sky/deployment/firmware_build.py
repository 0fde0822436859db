"""Builds programs for the emulated Cortex-M7 board from our C sources: tests, and the flight agent's firmware."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sim2sky.deployment.toolchain import compile_c, find_compiler, firmware_folder

__all__ = ["build_program"]


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
    port = firmware / "ports" / "mps2_an500"
    return compile_c(
        find_compiler("cortex-m7"),
        [port / "start.c", port / "port.c", main, *extra],
        out,
        product="program",
        include=[*include, port, firmware / "core"],
        optimise=optimise,
        options=[
            *("-fno-pie", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"),
            *("-nostartfiles", "-specs=nosys.specs", "-T", str(port / "link.ld")),
        ],
    )
