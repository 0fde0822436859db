"""C in tests: built with both compilers, warnings as errors, loaded or run."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from pathlib import Path

from sim2sky.deployment.toolchain import Compiler, compile_c, find_compiler, firmware_folder

_SERIAL = itertools.count()


def include_folders(sources: Sequence[Path]) -> list[Path]:
    """The core's headers, and those beside the sources."""
    return [firmware_folder() / "core", *dict.fromkeys(Path(source).resolve().parent for source in sources)]


def build_shared(
    sources: Sequence[Path],
    folder: Path,
    *,
    compiler: Compiler | None = None,
    optimise: str = "-O3",
    options: Sequence[str] = (),
) -> ctypes.CDLL:
    """A shared library from C sources, with warnings as errors, loaded; each call makes a file of its own.

    Args:
        sources: C files; headers are found beside them and in `firmware/core`.
        folder: where the library goes.
        compiler: default: the host's.
        optimise, options: as of `compile_c`.
    """
    out = folder / f"lib{Path(sources[0]).stem}{next(_SERIAL)}.so"
    compile_c(
        compiler or find_compiler(),
        sources,
        out,
        product="shared",
        include=include_folders(sources),
        optimise=optimise,
        options=["-Werror", *options],
    )
    return ctypes.CDLL(str(out))


def build_program(
    sources: Sequence[Path],
    folder: Path,
    *,
    compiler: Compiler | None = None,
    optimise: str = "-O3",
    options: Sequence[str] = (),
) -> Path:
    """As `build_shared`, an executable. For aarch64 it is static, so that `qemu-aarch64` needs no system around it."""
    found = compiler or find_compiler()
    out = folder / f"{Path(sources[0]).stem}{next(_SERIAL)}"
    static = ["-static"] if found.machine == "aarch64" else []
    return compile_c(
        found,
        sources,
        out,
        product="program",
        include=include_folders(sources),
        optimise=optimise,
        options=["-Werror", *static, *options],
    )
