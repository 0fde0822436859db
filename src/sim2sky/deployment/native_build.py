"""Compiles a bundle's C policy with this machine's own compiler.

Runs on the target: numpy and the standard library only.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.toolchain import Compiler, compile_c, find_compiler
from sim2sky.runtime.native_policy import BINDING, NativeBackend

__all__ = ["FORMAT", "compile_policy", "native_backend"]

FORMAT = "c"
HEADER = "policy.h"
COMPILE_TIMEOUT_S = 60.0


def compile_policy(
    source: str, header: str, out: Path, compiler: Compiler, *, timeout_s: float = COMPILE_TIMEOUT_S
) -> Path:
    """The shared library that `NativeBackend` loads, of a generated policy; `out` appears whole or not at all.

    Args:
        source, header: `policy.c` and `policy.h`.
        out: the file to make.
        compiler: of this machine.
        timeout_s: a compiler that takes longer is ended.

    Raises:
        ToolchainError: the compiler refuses the source or hangs.
    """
    with tempfile.TemporaryDirectory(prefix="sim2sky-native-") as name:
        folder = Path(name)
        texts = {"policy.c": source, HEADER: header, "binding.c": BINDING}
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="ascii")
        sources = [folder / "policy.c", folder / "binding.c"]
        return compile_c(compiler, sources, out, product="shared", include=[folder], timeout_s=timeout_s)


def native_backend(bundle: Bundle, compiler: Compiler | None = None) -> NativeBackend:
    """A bundle's C policy, compiled now and loaded into this process.

    Args:
        bundle: with the format `c`.
        compiler: default this machine's.

    Raises:
        BundleError: the bundle has no C policy, or what was compiled cannot be loaded.
        ToolchainError: there is no compiler, or it refuses the source.
    """
    source, header = (bundle.read(name).decode("ascii") for name in (bundle.policy_file(FORMAT), HEADER))
    with tempfile.TemporaryDirectory(prefix="sim2sky-native-") as folder:
        library = compile_policy(source, header, Path(folder) / "policy.so", compiler or find_compiler())
        return NativeBackend(library.read_bytes(), bundle.contract)
