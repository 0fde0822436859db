"""Compiles a bundle's C policy with this machine's own compiler and decides whether it flies here.

It flies where every one of its own vectors comes out bit for bit, the trainer's answers within the tolerance, and a
call is faster than onnxruntime's. Whatever fails costs speed, never the installation. Runs on the target: numpy and
the standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.toolchain import Compiler, compile_c, find_compiler
from sim2sky.errors import BundleError, ToolchainError
from sim2sky.runtime.boot import module_command
from sim2sky.runtime.inference import GOLDEN_TOLERANCE, Backend, load_backend
from sim2sky.runtime.native_policy import BINDING, HEADER, NativeBackend
from sim2sky.runtime.native_record import (
    FORMAT,
    LIBRARY,
    RECORD,
    SCHEMA,
    cpu_features,
    folder_of,
    read_library,
    read_record,
)

__all__ = ["backend_here", "compile_policy", "install_native", "native_backend", "verdict"]

COMPILE_TIMEOUT_S = 60.0
TRIAL_TIMEOUT_S = 30.0


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
        OSError: the temporary folder cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="sim2sky-native-") as name:
        folder = Path(name)
        texts = {"policy.c": source, HEADER: header, "binding.c": BINDING}
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="ascii")
        sources = [folder / "policy.c", folder / "binding.c"]
        return compile_c(compiler, sources, out, product="shared", include=[folder], timeout_s=timeout_s)


def _sources(bundle: Bundle) -> tuple[str, str]:
    try:
        return bundle.read(bundle.policy_file(FORMAT)).decode("ascii"), bundle.read(HEADER).decode("ascii")
    except UnicodeDecodeError as error:
        raise BundleError("the bundle's C policy is not the text that an export writes") from error


def native_backend(bundle: Bundle, compiler: Compiler | None = None) -> NativeBackend:
    """A bundle's C policy, compiled now and loaded into this process.

    Args:
        bundle: with the format `c`.
        compiler: default this machine's.

    Raises:
        BundleError: the bundle has no C policy, or what was compiled cannot be loaded.
        ToolchainError: there is no compiler, or it refuses the source.
    """
    source, header = _sources(bundle)
    with tempfile.TemporaryDirectory(prefix="sim2sky-native-") as folder:
        library = compile_policy(source, header, Path(folder) / LIBRARY, compiler or find_compiler())
        return NativeBackend(library.read_bytes(), bundle.contract)


def backend_here(bundle: Bundle, fmt: str | None = None) -> Backend:
    """The bundle's policy on this machine, where nothing need be installed: `load_backend`, but C is compiled now.

    Args:
        bundle: verified.
        fmt: one of its formats; default the active one.

    Raises:
        BundleError, NotSupportedError, ToolchainError: it cannot be loaded or compiled here.
    """
    return native_backend(bundle) if (fmt or bundle.active) == FORMAT else load_backend(bundle, fmt)


def install_native(bundle: Bundle, *, timeout_s: float = COMPILE_TIMEOUT_S) -> dict[str, Any]:
    """Compile, try and judge the C policy of an installed bundle; note the verdict beside the library.

    A library that is there already and is what was noted is not compiled again, but tried and judged again.

    Args:
        bundle: in a release's folder, with the format `c`.
        timeout_s: of the compiler.

    Returns:
        `flies`, `why`, `compiler`, and `trial` (see `native_trial.trial`; empty where it did not come to that).
    """
    folder, report = folder_of(bundle.path), _judged("", {"error": "no release was installed here"})
    if folder is None:
        return report
    compiler = ""
    try:
        above = folder.parent
        above.mkdir(mode=0o755, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=above, prefix=f".{folder.name}.") as temporary:
            fresh = Path(temporary) / "native"
            fresh.mkdir()
            library = fresh / LIBRARY
            try:
                with contextlib.suppress(BundleError):
                    note = read_record(folder, bundle.digest)
                    library.write_bytes(read_library(folder, note))
                    compiler = note["compiler"]
                if not library.exists():
                    found = find_compiler()
                    compiler = f"{found.kind} {found.version}"
                    compile_policy(*_sources(bundle), library, found, timeout_s=timeout_s)
                report = _judged(compiler, _try(bundle, library))
            except ToolchainError as error:
                report = _judged(compiler, {"error": error.message})
            note = {
                "schema": SCHEMA,
                "bundle": bundle.digest,
                "flies": report["flies"],
                "why": report["why"],
                "compiler": compiler,
                "machine": platform.machine(),
                "features": cpu_features(),
                "sha256": hashlib.sha256(library.read_bytes()).hexdigest() if library.exists() else "",
            }
            (fresh / RECORD).write_text(json.dumps(note), encoding="utf-8")
            _put(fresh, folder)
    except OSError as error:
        return _judged(compiler, {"error": f"{error.filename or folder}: {error.strerror or error}"})
    except BundleError as error:
        return _judged(compiler, {"error": error.message})
    return report


def _put(fresh: Path, final: Path) -> None:
    """Make a complete folder the one that counts; nobody but us can write there, whatever the umask says."""
    for path in fresh.iterdir():
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    fresh.chmod(0o755)
    final.parent.chmod(0o755)
    if final.exists():
        final.rename(fresh.with_name("old"))
    fresh.rename(final)


def _try(bundle: Bundle, library: Path) -> dict[str, Any]:
    """The report of `native_trial` in a process of its own; `error` where it gave none."""
    command = module_command(
        "sim2sky.deployment.native_trial", "--bundle", str(bundle.path), "--digest", bundle.digest,
        "--library", str(library),
    )  # fmt: skip
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TRIAL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"its trial did not end within {TRIAL_TIMEOUT_S:g} s"}
    if done.returncode < 0:
        return {"error": f"its trial was ended by {signal.Signals(-done.returncode).name}"}
    with contextlib.suppress(ValueError, IndexError):
        report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return report
    return {"error": f"its trial failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}"}


def _judged(compiler: str, trial: dict[str, Any]) -> dict[str, Any]:
    flies, why = verdict(trial)
    return {"flies": flies, "why": why, "compiler": compiler, "trial": {} if "error" in trial else trial}


def verdict(trial: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a trial's library flies, and why (not)."""
    if "error" in trial:
        return False, str(trial["error"])
    if trial["differing"]:
        return False, f"not bit-identical: {trial['differing']} of {trial['vectors']} vectors, first {trial['first']}"
    error, active = float(trial["native"]["golden_max_error"]), float(trial["active"]["p50_us"])
    if not error <= GOLDEN_TOLERANCE:
        return False, f"its golden vectors differ by {error:.3g}, allowed {GOLDEN_TOLERANCE:.3g}"
    own = float(trial["native"]["p50_us"])
    if not own < active:
        return False, f"not faster: {own:.2f} us, onnxruntime {active:.2f} us"
    return True, f"bit-identical, {active / own:.1f} times as fast as onnxruntime"
