"""Writing flight logs so that a kill at any moment costs at most the episode in progress.

Every finished episode is a file of its own, put in place by a rename, and the log proper is a small file of links to
them that is replaced whole. Closing the writer gathers everything into a single file. Either state opens with plain
h5py as `/metadata`, `/episode_0000`, ... numpy only; h5py is imported when a log is opened.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.contract import Contract
from sim2sky.errors import FlightLogError
from sim2sky.telemetry.log_schema import (
    COLUMNS,
    ONE_DIMENSIONAL,
    PART_GROUP,
    REQUIRED,
    SCHEMA,
    TYPES,
    UNITS,
    EpisodeData,
    LogMetadata,
    Source,
    import_h5py,
)

__all__ = ["FlightLogWriter", "gather"]

MAX_HDF5_INT = 2**63


class FlightLogWriter:
    """Writes a log, episode by episode.

    Args:
        path: the file; its folder must exist. Beside it a folder `PATH.parts` holds the episodes until `close`.
        metadata: see `LogMetadata`.
        contract: names and units of observations and actions.
        overwrite: replace a log that is already there.

    Raises:
        FlightLogError: the log exists, or the folder is missing, read-only or full.
        MissingExtraError: h5py is not installed.
    """

    def __init__(
        self, path: Path, metadata: LogMetadata, contract: Contract | None = None, *, overwrite: bool = False
    ) -> None:
        if metadata.source not in get_args(Source):
            raise FlightLogError(f"log source '{metadata.source}' is none of {', '.join(get_args(Source))}")
        self._h5 = import_h5py()
        self.path = path
        self.parts = path.with_name(path.name + ".parts")
        self._metadata = metadata
        self._columns = dict(COLUMNS)
        self._units = dict(UNITS)
        if contract is not None:
            signals = [s for spec in contract.inputs for s in spec.signals]
            self._columns |= {
                "observations": tuple(s.name for s in signals),
                "actions": tuple(s.name for s in contract.output.signals),
            }
            self._units |= {
                "observations": tuple(s.unit for s in signals),
                "actions": tuple("action" for _ in contract.output.signals),
            }
        self._count = 0
        self._closed = False
        with _writing(path):
            if (path.exists() or self.parts.exists()) and not overwrite:
                raise FlightLogError(f"{path} already exists", hint="choose another file, or remove it")
            shutil.rmtree(self.parts, ignore_errors=True)
            self.parts.mkdir()
            self._write_index()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def episodes(self) -> int:
        """Episodes written so far."""
        return self._count

    def write(self, episode: EpisodeData) -> None:
        """Add a finished episode; when this returns it survives a kill.

        Raises:
            FlightLogError: arrays are missing or disagree in length or width, or the disk is full.
        """
        if self._closed:
            raise FlightLogError(f"{self.path} is closed")
        arrays = self._checked(episode)
        name = f"episode_{self._count:04d}.h5"

        def fill(file: Any) -> None:
            group = file.create_group(PART_GROUP)
            group.attrs["success"] = bool(episode.success)
            group.attrs["termination"] = episode.termination
            group.attrs["seed"] = episode.seed if abs(episode.seed) < MAX_HDF5_INT else str(episode.seed)
            group.attrs["total_reward"] = float(episode.total_reward)
            for key, value in episode.extra.items():
                group.attrs[key] = value
            for key, (array, columns, units) in arrays.items():
                dataset = group.create_dataset(key, data=array)
                dataset.attrs["columns"] = list(columns)
                dataset.attrs["units"] = list(units)

        with _writing(self.path):
            _replace(self.parts / name, _image(self._h5, fill))
            self._count += 1
            try:
                self._write_index()
            except (OSError, RuntimeError):
                self._count -= 1
                raise

    def close(self) -> None:
        """Gather all episodes into one file and remove the parts."""
        if not self._closed:
            self._closed = True
            gather(self.path)

    def _checked(self, episode: EpisodeData) -> dict[str, tuple[NDArray[Any], Sequence[str], Sequence[str]]]:
        if missing := [name for name in REQUIRED if name not in episode.arrays]:
            raise FlightLogError(f"an episode needs the dataset '{missing[0]}'")
        if unknown := [name for name in episode.arrays if name not in COLUMNS]:
            raise FlightLogError(f"'{unknown[0]}' is no dataset of the flight log: {', '.join(COLUMNS)}")
        length = len(episode.arrays["time_s"])
        result: dict[str, tuple[NDArray[Any], Sequence[str], Sequence[str]]] = {}
        for name, given in episode.arrays.items():
            array = np.ascontiguousarray(given, dtype=TYPES.get(name, np.float64))
            if name == "states" and array.ndim == 2 and array.shape[1] == len(COLUMNS["states"]) - 1:
                array = np.pad(array, ((0, 0), (0, 1)))
            if name in ONE_DIMENSIONAL:
                array = array.reshape(-1)
            if len(array) != length or array.ndim != (1 if name in ONE_DIMENSIONAL else 2):
                raise FlightLogError(f"dataset '{name}' has shape {np.shape(given)}, expected {length} rows")
            width = int(np.prod(array.shape[1:]))
            columns = tuple(episode.columns.get(name, self._columns[name])) or tuple(
                f"{name}_{i}" for i in range(width)
            )
            units = tuple(episode.units.get(name, self._units.get(name, ()))) or ("",) * width
            if len(columns) != width or len(units) != width:
                raise FlightLogError(f"dataset '{name}' has {width} columns, {len(columns)} names, {len(units)} units")
            result[name] = (array, columns, units)
        return result

    def _write_index(self) -> None:
        m = self._metadata

        def fill(file: Any) -> None:
            group = file.create_group("metadata")
            group.attrs["schema"] = SCHEMA
            for name in ("source", "agent", "bundle_digest", "contract_hash", "start_time"):
                group.attrs[name] = getattr(m, name)
            group.attrs["rate_hz"] = float(m.rate_hz)
            group.attrs["config"] = json.dumps(m.config, sort_keys=True)
            for i in range(self._count):
                part = f"{self.parts.name}/episode_{i:04d}.h5"
                file[f"episode_{i:04d}"] = self._h5.ExternalLink(part, f"/{PART_GROUP}")

        _replace(self.path, _image(self._h5, fill))


@contextlib.contextmanager
def _writing(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 reports a full disk as either
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise FlightLogError(
            f"cannot write the flight log {path}: {reason}",
            hint="check that the folder exists, is writable and the disk is not full",
        ) from error


def _image(h5: Any, fill: Callable[[Any], None]) -> bytes:
    """An HDF5 file made in memory, so that a failing disk meets plain writes, not the library's open handles."""
    with h5.File("image", "w", driver="core", backing_store=False) as file:
        fill(file)
        file.flush()
        return file.id.get_file_image()


@contextlib.contextmanager
def _replacing(path: Path) -> Generator[Path, None, None]:
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


def _replace(path: Path, image: bytes) -> None:
    with _replacing(path) as temporary:
        temporary.write_bytes(image)


def gather(path: Path) -> None:
    """Make one file of a log whose writer was killed (or is closing): copy the linked episodes in, drop the parts.

    Raises:
        FlightLogError: the log cannot be read or written.
    """
    h5 = import_h5py()
    with _writing(path):
        with h5.File(path, "r") as source, _replacing(path) as temporary, h5.File(temporary, "w") as file:
            for name in source:
                source.copy(source[name], file, name=name)
        shutil.rmtree(path.with_name(path.name + ".parts"), ignore_errors=True)
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            leftover.unlink(missing_ok=True)
