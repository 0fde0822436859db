"""C of this project as a shared library for this process: compiled once, kept in the user's cache under its content."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from sim2sky.deployment.toolchain import compile_c, find_compiler
from sim2sky.errors import ToolchainError

__all__ = ["cache_folder", "native_library"]


def cache_folder() -> Path:
    """Where compiled libraries are kept: `$XDG_CACHE_HOME/sim2sky`, or `~/.cache/sim2sky`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sim2sky"


def native_library(sources: Sequence[Path], *, include: Sequence[Path] = (), options: Sequence[str] = ()) -> Path:
    """The library made of these sources; it is compiled only if none was made of the same content before.

    Args:
        sources: C files. They, and the headers beside them and in `include`, are what the library's name depends on,
            with compiler, options and processor.
        include: folders of headers.
        options: of the compiler.

    Raises:
        ToolchainError: there is no compiler, it refuses, or the cache cannot be written.
    """
    compiler = find_compiler()
    folders = [*dict.fromkeys(Path(source).resolve().parent for source in sources), *include]
    key = hashlib.sha256(f"{compiler} {compiler.path} {_processor()} {list(options)}".encode())
    try:
        for file in (*sources, *(header for folder in folders for header in sorted(folder.glob("*.h")))):
            content = file.read_bytes()
            key.update(f"\n{file.name} {len(content)}\n".encode() + content)
        folder = cache_folder() / "native"
        out = folder / f"{sources[0].stem}-{key.hexdigest()[:24]}.so"
        if not out.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            compile_c(compiler, sources, out, product="shared", include=folders, options=options)
    except OSError as error:
        raise ToolchainError(
            f"cannot keep a compiled library in {cache_folder()}: {error.strerror or error}",
            hint="set XDG_CACHE_HOME to a folder that can be written",
        ) from error
    return out


def _processor() -> str:
    """What code made for `the native machine` depends on: a home folder may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), "")
