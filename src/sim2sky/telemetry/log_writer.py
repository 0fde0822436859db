"""Writing flight logs so that a kill at any moment costs at most the episode in progress.

Every finished episode is a file of its own, put in place by a rename, and the log proper is a small file of links to
them that is replaced whole. Closing the writer gathers everything into a single file. Either state opens with plain
h5py as `/metadata`, `/episode_0000`, ... numpy only; h5py is imported when a log is opened.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.contract import Contract
from sim2sky.errors import FlightLogError
from sim2sky.telemetry.journal import JournalEpisode, TickLayout
from sim2sky.telemetry.log_files import (
    Header,
    create_parts,
    episode_number,
    episode_path,
    journals_of,
    lock_parts,
    parts_of,
    replacing,
    writing,
)
from sim2sky.telemetry.log_schema import (
    COLUMNS,
    EVENTS,
    ONE_DIMENSIONAL,
    PART_GROUP,
    REQUIRED,
    SCHEMA,
    TYPES,
    EpisodeData,
    LogMetadata,
    import_h5py,
)

__all__ = ["FlightLogWriter", "fill_episode", "fill_metadata", "gather", "image", "recover"]

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
        import_h5py()
        header = Header.of(metadata, contract)
        create_parts(path, header, overwrite=overwrite)
        self._open(path, header)

    @classmethod
    def resume(cls, path: Path) -> FlightLogWriter:
        """Go on with a log whose parts are there.

        Raises:
            FlightLogError: they are not, or cannot be written to.
            MissingExtraError: h5py is not installed.
        """
        import_h5py()
        writer = cls.__new__(cls)
        writer._open(path, Header.load(parts_of(path)))
        return writer

    def _open(self, path: Path, header: Header) -> None:
        self._h5 = import_h5py()
        self.path = path
        self.parts = parts_of(path)
        self._header = header
        self._closed = False
        with writing(path):
            found = (episode_number(p.name) for p in self.parts.glob("episode_*.h5"))
            self._numbers = sorted(n for n in found if n is not None)
            self._write_index()

    def __enter__(self) -> FlightLogWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def episodes(self) -> int:
        """Episodes written so far."""
        return len(self._numbers)

    def write(self, episode: EpisodeData, number: int | None = None) -> None:
        """Add a finished episode; when this returns it survives a kill.

        Args:
            episode: its data.
            number: in the log; default the next one. One that is there already is replaced.

        Raises:
            FlightLogError: arrays are missing or disagree in length or width, or the disk is full.
        """
        if self._closed:
            raise FlightLogError(f"{self.path} is closed")
        arrays = self._checked(episode)
        number = (self._numbers[-1] + 1 if self._numbers else 0) if number is None else number

        def fill(file: Any) -> None:
            fill_episode(file.create_group(PART_GROUP), self._h5, episode, arrays)

        before = self._numbers
        with writing(self.path):
            _replace(episode_path(self.parts, number, ".h5"), image(self._h5, fill))
            self._numbers = sorted({*before, number})
            try:
                self._write_index()
            except (OSError, RuntimeError):
                self._numbers = before
                raise

    def close(self) -> None:
        """Gather all episodes into one file and remove the parts."""
        if not self._closed:
            self._closed = True
            gather(self.path)

    def _checked(self, episode: EpisodeData) -> dict[str, tuple[NDArray[Any], Sequence[str], Sequence[str]]]:
        return checked(episode, self._header)

    def _write_index(self) -> None:
        def fill(file: Any) -> None:
            fill_metadata(file, self._header.metadata)
            for number in self._numbers:
                part = episode_path(Path(self.parts.name), number, ".h5")
                file[part.stem] = self._h5.ExternalLink(str(part), f"/{PART_GROUP}")

        _replace(self.path, image(self._h5, fill))


def checked(episode: EpisodeData, header: Header) -> dict[str, tuple[NDArray[Any], Sequence[str], Sequence[str]]]:
    """Arrays of an episode with the log's types, and the names and units of their columns.

    Raises:
        FlightLogError: one is missing, unknown, or of the wrong length or width.
    """
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
        columns = tuple(episode.columns.get(name, header.columns[name])) or tuple(f"{name}_{i}" for i in range(width))
        units = tuple(episode.units.get(name, header.units.get(name, ()))) or ("",) * width
        if len(columns) != width or len(units) != width:
            raise FlightLogError(f"dataset '{name}' has {width} columns, {len(columns)} names, {len(units)} units")
        result[name] = (array, columns, units)
    return result


def fill_episode(
    group: Any,
    h5: Any,
    episode: EpisodeData,
    arrays: dict[str, tuple[NDArray[Any], Sequence[str], Sequence[str]]],
) -> None:
    """Write an episode into an HDF5 group; `arrays` from `checked`."""
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
    if episode.events:
        lines = [json.dumps(event, separators=(",", ":")) for event in episode.events]
        group.create_dataset(EVENTS, data=lines, dtype=h5.string_dtype())


def fill_metadata(file: Any, metadata: LogMetadata) -> None:
    """Write `/metadata` of a log."""
    group = file.create_group("metadata")
    group.attrs["schema"] = SCHEMA
    for name in ("source", "agent", "bundle_digest", "contract_hash", "start_time"):
        group.attrs[name] = getattr(metadata, name)
    group.attrs["rate_hz"] = float(metadata.rate_hz)
    group.attrs["config"] = json.dumps(metadata.config, sort_keys=True)


def image(h5: Any, fill: Callable[[Any], None]) -> bytes:
    """An HDF5 file made in memory, so that a failing disk meets plain writes, not the library's open handles."""
    with h5.File("image", "w", driver="core", backing_store=False) as file:
        fill(file)
        file.flush()
        return file.id.get_file_image()


def _replace(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def gather(path: Path) -> None:
    """Make one file of a log whose writer was killed (or is closing): copy the linked episodes in, drop the parts.

    Raises:
        FlightLogError: the log cannot be read or written.
    """
    h5 = import_h5py()
    with writing(path):
        with h5.File(path, "r") as source, replacing(path) as temporary, h5.File(temporary, "w") as file:
            for name in source:
                source.copy(source[name], file, name=name)
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            leftover.unlink(missing_ok=True)
        shutil.rmtree(parts_of(path), ignore_errors=True)


def recover(path: Path) -> int:
    """Make one file of a log whose recorder was killed, or had no h5py: journals become episodes, parts one file.

    Returns:
        How many journals were turned into episodes.

    Raises:
        FlightLogError: there is no log, it is still being written, or it cannot be read or written.
        MissingExtraError: h5py is not installed.
    """
    parts = parts_of(path)
    if not parts.is_dir():
        if path.is_file():
            return 0
        raise FlightLogError(f"no flight log at {path}", hint="name an existing .h5 file", misuse=True)
    with lock_parts(parts, wait_s=0.0):
        writer = FlightLogWriter.resume(path)
        count = sum(write_journal(writer, number, journal) for number, journal in journals_of(parts).items())
        writer.close()
    return count


def write_journal(writer: FlightLogWriter, number: int, journal: Path) -> bool:
    """Turn a journal into an episode of the log, and remove it; False where there was no tick in it.

    Raises:
        FlightLogError: the disk is full; the journal stays.
    """
    header = Header.load(writer.parts)
    layout = TickLayout(len(header.columns["observations"]), len(header.columns["actions"]))
    with writing(writer.path):
        data = JournalEpisode.read(journal.read_bytes()).to_data(layout)
        if data is not None:
            writer.write(data, number)
        journal.unlink()
    return data is not None
