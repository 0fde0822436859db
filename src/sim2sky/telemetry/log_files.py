"""Where a flight log lies: the file itself, and beside it `FILE.parts` as long as it is being written.

`FILE.parts` holds `header.json` (metadata and column names), a lock, finished episodes as `episode_0000.h5`, and those
still being flown (or flown where h5py is missing) as `episode_0001.journal`. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from sim2sky.agent.contract import Contract
from sim2sky.errors import FlightLogError
from sim2sky.telemetry.log_schema import COLUMNS, UNITS, LogMetadata, Source

__all__ = [
    "Header",
    "create_parts",
    "episode_number",
    "episode_path",
    "journals_of",
    "lock_parts",
    "parts_of",
    "replacing",
    "require_place",
    "writing",
]

LOCK_WAIT_S = 10.0
_NAME = re.compile(r"episode_(\d{4,})(\.h5|\.journal)?")


@dataclass(frozen=True)
class Header:
    """What all episodes of a log have in common.

    Attributes:
        metadata: see `LogMetadata`.
        columns, units: by dataset.
    """

    metadata: LogMetadata
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    units: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    @classmethod
    def of(cls, metadata: LogMetadata, contract: Contract | None) -> Header:
        """With the contract's names and units of observations and actions.

        Raises:
            FlightLogError: the metadata names a source we do not know.
        """
        if metadata.source not in get_args(Source):
            raise FlightLogError(f"log source '{metadata.source}' is none of {', '.join(get_args(Source))}")
        columns, units = dict(COLUMNS), dict(UNITS)
        if contract is not None:
            signals = [s for spec in contract.inputs for s in spec.signals]
            columns |= {
                "observations": tuple(s.name for s in signals),
                "actions": tuple(s.name for s in contract.output.signals),
            }
            units |= {
                "observations": tuple(s.unit for s in signals),
                "actions": tuple("action" for _ in contract.output.signals),
            }
        return cls(metadata, columns, units)

    def save(self, parts: Path) -> None:
        """Write `header.json`."""
        with replacing(parts / "header.json") as temporary:
            temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, parts: Path) -> Header:
        """Inverse of `save`.

        Raises:
            FlightLogError: there is none, or it is damaged.
        """
        try:
            data: dict[str, Any] = json.loads((parts / "header.json").read_text(encoding="utf-8"))
            columns, units = ({k: tuple(v) for k, v in data[name].items()} for name in ("columns", "units"))
            return cls(LogMetadata(**data["metadata"]), columns, units)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FlightLogError(f"{parts} has no readable header.json: {error}") from error


def parts_of(path: Path) -> Path:
    """The folder beside a log."""
    return path.with_name(path.name + ".parts")


def episode_path(parts: Path, number: int, suffix: str) -> Path:
    """File of an episode: suffix `.h5` or `.journal`."""
    return parts / f"episode_{number:04d}{suffix}"


def episode_number(name: str) -> int | None:
    """Number in `episode_0001`, `episode_0001.h5` or `episode_0001.journal`; None for any other name."""
    match = _NAME.fullmatch(name)
    return int(match.group(1)) if match else None


def journals_of(parts: Path) -> dict[int, Path]:
    """Journals by episode number, in order."""
    found = {episode_number(p.name): p for p in parts.glob("episode_*.journal")}
    return {number: found[number] for number in sorted(n for n in found if n is not None)}


def require_place(path: Path, *, overwrite: bool) -> None:
    """A log can be written there.

    Raises:
        FlightLogError: there is one already, or no such folder.
    """
    if (path.exists() or parts_of(path).exists()) and not overwrite:
        raise FlightLogError(f"{path} already exists", hint="choose another file, or --overwrite", misuse=True)
    if not path.parent.is_dir():
        raise FlightLogError(
            f"cannot write the flight log {path}: there is no folder {path.parent}",
            hint=f"mkdir -p {path.parent}",
            misuse=True,
        )


def create_parts(path: Path, header: Header, *, overwrite: bool) -> None:
    """Make room for a new log.

    Raises:
        FlightLogError: a log exists already, another process is writing it, or the folder is missing, read-only or
            full.
    """
    parts = parts_of(path)
    require_place(path, overwrite=overwrite)
    with writing(path):
        if parts.exists():
            with lock_parts(parts, wait_s=LOCK_WAIT_S):
                shutil.rmtree(parts)
        path.unlink(missing_ok=True)
        parts.mkdir()
        header.save(parts)


@contextlib.contextmanager
def lock_parts(parts: Path, *, wait_s: float = LOCK_WAIT_S) -> Generator[None, None, None]:
    """Be the only one that writes a log; a process that dies, however, gives the lock back.

    Raises:
        FlightLogError: another process still writes it after `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    handle = os.open(parts / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise FlightLogError(
                        f"{parts.name.removesuffix('.parts')} is still being written by another process",
                        hint="wait for the flight to end",
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(path: Path) -> Generator[None, None, None]:
    """Map what a disk and HDF5 raise to a plain error."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 reports a full disk as either
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise FlightLogError(
            f"cannot write the flight log {path}: {reason}",
            hint="check that the folder exists, is writable and the disk is not full",
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """A temporary name beside `path`; what the caller leaves there is brought to the disk and renamed into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        handle = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
