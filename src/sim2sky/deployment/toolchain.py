"""Finds a C compiler for a machine and compiles with it, strictly: every warning on, no floating-point liberty.

Standard library, Python 3.6: it may run on a target that compiles its own policy.
"""

import os
import platform
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sim2sky.errors import NotSupportedError, ToolchainError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal  # novm

    Machine = Literal["host", "aarch64", "cortex-m7"]
    Kind = Literal["gcc", "clang"]

__all__ = ["Compiler", "compile_c", "find_compiler", "firmware_folder"]

TIMEOUT_S = 120.0

# Names to look for and the Debian package that brings them.
_NAMES: "dict[tuple[Machine, Kind | None], tuple[tuple[str, ...], str]]" = {
    ("host", None): (("cc", "gcc", "clang"), "gcc libc6-dev"),
    ("host", "gcc"): (("gcc", "cc"), "gcc libc6-dev"),
    ("host", "clang"): (("clang", "cc"), "clang"),
    ("aarch64", "gcc"): (("aarch64-linux-gnu-gcc",), "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
    ("cortex-m7", "gcc"): (("arm-none-eabi-gcc",), "gcc-arm-none-eabi libnewlib-arm-none-eabi"),
}
_VERSION: "list[tuple[Kind, list[str]]]" = [
    ("clang", ["__clang_major__", "__clang_minor__", "__clang_patchlevel__"]),
    ("gcc", ["__GNUC__", "__GNUC_MINOR__", "__GNUC_PATCHLEVEL__"]),  # clang has these, too
]
# Strict: what C99 says and IEEE 754 rounds; a*b+c is fused only where the source writes __builtin_fmaf.
# No operation traps, which changes no value: gcc else keeps branches where it could select, and vectorises fewer loops.
_STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-ffp-contract=off", "-fno-trapping-math"]
_CORTEX_M7 = ["-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard"]
_PRODUCTS: "dict[str, list[str]]" = {"shared": ["-shared", "-fPIC"], "object": ["-c"], "program": []}
_ERROR = re.compile(r"(?:error|undefined reference|cannot find|will not fit in region)\b")


class Compiler(NamedTuple):
    """A C compiler that answered.

    Attributes:
        path: of the executable.
        kind: whose command line it understands.
        version: such as 12.2.0.
        machine: what its code runs on.
    """

    path: Path
    kind: "Kind"
    version: str
    machine: "Machine"

    def __str__(self) -> str:
        return f"{self.path.name} ({self.kind} {self.version})"


def find_compiler(machine: "Machine" = "host", kind: "Kind | None" = None) -> Compiler:
    """The compiler for a machine: for the host $CC where it is set, else cc, gcc, clang; the cross gcc for the others.

    Args:
        machine: `host` is the machine this runs on.
        kind: only this one; None takes what there is.

    Raises:
        ToolchainError: there is none, or $CC names something else; the hint says what to install.
        NotSupportedError: clang for another machine.
    """
    if machine != "host" and kind == "clang":
        raise NotSupportedError(f"clang as the compiler for {machine}", hint="use gcc")
    if machine == platform.machine():
        return find_compiler("host", kind)._replace(machine=machine)
    wanted = os.environ.get("CC", "") if machine == "host" else ""
    if wanted:
        path = shutil.which(wanted)
        found = _identify(Path(path), machine) if path else None
        if found is None:
            raise ToolchainError(
                f"the environment variable CC names {wanted!r}, which is no gcc or clang that runs here",
                hint="unset CC, or set it to the path of a compiler (without options)",
            )
        if kind in (None, found.kind):
            return found
    names, package = _NAMES[machine, kind if machine == "host" else "gcc"]
    for name in names:
        path = shutil.which(name)
        found = _identify(Path(path), machine) if path else None
        if found is not None and kind in (None, found.kind):
            return found
    what = "this machine" if machine == "host" else machine
    raise ToolchainError(
        f"no C compiler for {what} found (looked for {', '.join(names)})", hint=f"apt-get install {package}"
    )


def _identify(path: Path, machine: "Machine") -> "Compiler | None":
    try:
        code, text = _run([str(path), "-dM", "-E", "-x", "c", os.devnull], 20.0)
    except (OSError, subprocess.TimeoutExpired):
        return None
    macros = dict(re.findall(r"#define (\w+) (\d+)$", text, re.MULTILINE))  # what it says of itself to any source
    for kind, names in _VERSION:
        if code == 0 and all(name in macros for name in names):
            return Compiler(path, kind, ".".join(macros[name] for name in names), machine)
    return None


def compile_c(
    compiler: Compiler,
    sources: "Sequence[Path]",
    out: Path,
    *,
    product: "Literal['shared', 'object', 'program']",
    include: "Sequence[Path]" = (),
    optimise: str = "-O3",
    options: "Sequence[str]" = (),
    timeout_s: float = TIMEOUT_S,
) -> Path:
    """Compile C99 with all warnings on and strict floating point; `out` appears whole or not at all.

    Args:
        compiler: see `find_compiler`.
        sources: C files; object files too, where the product is linked.
        out: the file to make.
        product: what it is to be; `object` takes one source.
        include: folders of headers.
        optimise: level.
        options: of the compiler, after all others, so that they win (`-march=x86-64`).
        timeout_s: a compiler that takes longer is ended with all it started.

    Returns:
        `out`.

    Raises:
        ToolchainError: the compiler refuses (its first error, with file and line), hangs, or `out` cannot be written.
    """
    if product == "object" and len(sources) != 1:
        raise ValueError("an object file is made of one source")
    out = Path(out)
    flags = [*_STRICT, optimise, *_PRODUCTS[product]]
    if compiler.machine == "cortex-m7":
        flags += _CORTEX_M7
    elif compiler.machine == "host" and platform.machine() in ("x86_64", "AMD64"):
        flags.append("-march=native")  # for FMA; every aarch64 has it
    flags += [f"-I{folder}" for folder in include] + list(options)
    libraries = [] if product == "object" else ["-lm"]  # fmaf, where the machine has no instruction for it
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=str(out.parent)) as folder:
            made = Path(folder) / out.name
            command = [str(compiler.path), *flags, "-o", str(made), *map(str, sources), *libraries]
            code, text = _run(command, timeout_s)
            if code != 0:
                raise ToolchainError(f"{compiler} refuses the source: {_first_error(text)}")
            made.replace(out)
    except subprocess.TimeoutExpired:
        raise ToolchainError(
            f"{compiler} did not finish {', '.join(Path(s).name for s in sources)} within {timeout_s:g} s",
            hint="is the machine out of memory? Try again, or another compiler through the environment variable CC",
        ) from None
    except OSError as error:
        raise ToolchainError(f"cannot compile to {out}: {error.strerror or error}") from error
    return out


def firmware_folder() -> Path:
    """The folder of our C sources: `firmware/` of a checkout, `sim2sky/firmware/` of an installed package.

    Raises:
        ToolchainError: it is in neither place.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "firmware", package.parent.parent / "firmware"):
        if (folder / "core").is_dir():
            return folder
    raise ToolchainError("sim2sky's C sources (firmware/) are not there", hint="install sim2sky again")


def _run(command: "list[str]", timeout_s: float) -> "tuple[int, str]":
    """Exit code and output; at the time limit the whole group of processes ends (gcc's cc1 would run on)."""
    environment = dict(os.environ, LC_ALL="C")
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output.decode("utf-8", "replace")


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if _ERROR.search(line)), lines[-1] if lines else "no reason given")
