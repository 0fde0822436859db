"""What a target remembers of a bundle's compiled C policy: whether it flies, why, and exactly which library it is.

The record lies beside its library in ROOT/native/RELEASE. Nothing here loads code. Runs on the target: standard
library, Python 3.6.
"""

import hashlib
import json
import os
import platform
import stat
from pathlib import Path
from typing import Any

from sim2sky.errors import BundleError

__all__ = ["FORMAT", "LIBRARY", "RECORD", "cpu_features", "folder_of", "read_library", "read_record", "which_flies"]

FORMAT = "c"
"""Name of the format in a bundle."""
SCHEMA = 1
RECORD, LIBRARY = "native.json", "policy.so"
MAX_RECORD_BYTES = 1 << 16
MAX_LIBRARY_BYTES = 64 << 20
_AGAIN = "deploy again: it is compiled and tested anew"


def folder_of(bundle: Path) -> "Path | None":
    """Where the library of an installed bundle (ROOT/releases/RELEASE/bundle) belongs; None for one that is not."""
    release = bundle.resolve().parent
    return release.parent.parent / "native" / release.name if release.parent.name == "releases" else None


def cpu_features() -> "list[str]":
    """Instruction sets that the kernel says this CPU has: code made for more would end in an illegal instruction."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, values = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return sorted(set(values.split()))
    except OSError:
        pass
    return []


def _read(folder: Path, name: str, limit: int) -> bytes:
    """A plain file that nobody but us (or root) can have written, in a folder of which the same is true.

    Raises:
        BundleError: it is something else.
    """
    path = folder / name
    try:
        above = folder.lstat()
        handle = os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            kinds = stat.S_ISDIR(above.st_mode) and stat.S_ISREG(found.st_mode) and found.st_nlink == 1
            if not kinds or found.st_size > limit:
                raise BundleError(f"{path} is no plain file of at most {limit} bytes", hint=_AGAIN)
            for what, entry in ((folder, above), (path, found)):
                if entry.st_uid not in (0, os.geteuid()) or entry.st_mode & 0o022:
                    raise BundleError(f"{what} can be written by somebody else", hint=_AGAIN)
            return file.read(limit + 1)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}", hint=_AGAIN) from None


def read_record(folder: Path, digest: str) -> "dict[str, Any]":
    """What the installation of a bundle noted: at least `flies` (bool), `why`, `compiler`.

    Args:
        folder: see `folder_of`.
        digest: of the bundle.

    Raises:
        BundleError: nothing was noted, or not about this bundle.
    """
    if not os.path.lexists(str(folder / RECORD)):
        raise BundleError("the C policy was not compiled here", hint=_AGAIN)
    try:
        record = json.loads(_read(folder, RECORD, MAX_RECORD_BYTES).decode("utf-8"))
        if record["schema"] != SCHEMA or type(record["flies"]) is not bool:
            raise ValueError
        texts = [record[name] for name in ("bundle", "why", "compiler", "machine", "sha256")]
        if not all(isinstance(text, str) for text in [*texts, *record["features"]]):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise BundleError(f"{folder / RECORD} is damaged", hint=_AGAIN) from None
    if record["bundle"] != digest:
        raise BundleError("what was compiled here is another bundle's policy", hint=_AGAIN)
    return dict(record)


def read_library(folder: Path, record: "dict[str, Any]") -> bytes:
    """The library that a record names, compared with it, on a CPU that can run it.

    Raises:
        BundleError: it is missing, differs, or was compiled for another CPU.
    """
    lacking = sorted(set(record["features"]) - set(cpu_features()))
    if record["machine"] != platform.machine() or lacking:
        what = "{} with {}".format(record["machine"], lacking[0]) if lacking else record["machine"]
        raise BundleError(f"the C policy was compiled for another CPU ({what})", hint=_AGAIN)
    data = _read(folder, LIBRARY, MAX_LIBRARY_BYTES)
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise BundleError("the compiled C policy differs from what was installed (sha256)", hint=_AGAIN)
    return data


def which_flies(bundle: Path, digest: str) -> "dict[str, Any]":
    """Whether the compiled policy of an installed bundle with the format `c` flies: `native` (bool) and `why`.

    No code is loaded: what can be told from files.
    """
    folder = folder_of(bundle)
    try:
        if folder is None:
            raise BundleError("the C policy is compiled where a release is installed")
        record = read_record(folder, digest)
        if record["flies"]:
            read_library(folder, record)
        return {"native": record["flies"], "why": record["why"], "compiler": record["compiler"]}
    except BundleError as error:
        return {"native": False, "why": error.message, "compiler": ""}
