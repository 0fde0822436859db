"""The flight log: one HDF5 layout for simulated, hardware-in-the-loop, virtual and real flights (schema 1).

Reading, with data loaded only when asked for; writing is in `log_writer`, the layout in `log_schema`, and both are
offered here. numpy only; h5py is imported when a log is opened.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.errors import FlightLogError
from sim2sky.telemetry.journal import JournalEpisode, TickLayout
from sim2sky.telemetry.log_files import Header, episode_number, journals_of, parts_of
from sim2sky.telemetry.log_schema import COLUMNS, EVENTS, SCHEMA, UNITS, EpisodeData, LogMetadata, Source, import_h5py
from sim2sky.telemetry.log_writer import (
    FlightLogWriter,
    checked,
    fill_episode,
    fill_metadata,
    gather,
    recover,
)

__all__ = [
    "COLUMNS",
    "SCHEMA",
    "UNITS",
    "Episode",
    "EpisodeData",
    "FlightLog",
    "FlightLogWriter",
    "LogMetadata",
    "Source",
    "gather",
    "read_flight_log",
    "recover",
]


ATTEMPTS = 3
_NAMES = itertools.count()


class Episode:
    """One episode of an open log; data is read when asked for."""

    def __init__(self, name: str, group: Any) -> None:
        self.name = name
        self._group = group

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the tables present."""
        return tuple(name for name in self._group if name != EVENTS)

    @property
    def events(self) -> list[dict[str, Any]]:
        """What happened in flight (guard trips), in order; empty where the log has none."""
        return [json.loads(_plain(line)) for line in self._group[EVENTS]] if EVENTS in self._group else []

    @property
    def attrs(self) -> dict[str, Any]:
        """All attributes, as plain Python values."""
        return {key: _plain(value) for key, value in self._group.attrs.items()}

    @property
    def success(self) -> bool:
        """Whether the task's success condition held."""
        return bool(self._group.attrs.get("success", False))

    @property
    def termination(self) -> str:
        """Why the episode ended."""
        return str(_plain(self._group.attrs.get("termination", "")))

    @property
    def seed(self) -> int:
        """Seed of the scenario; -1 where the log has none."""
        return int(self._group.attrs.get("seed", -1))

    def __len__(self) -> int:
        return int(self._group["states"].shape[0])

    def __contains__(self, dataset: str) -> bool:
        return dataset in self._group

    def __getitem__(self, dataset: str) -> NDArray[Any]:
        """A whole dataset.

        Raises:
            FlightLogError: the episode has no such dataset, or it cannot be read.
        """
        return self._dataset(dataset)[...]

    def columns(self, dataset: str) -> tuple[str, ...]:
        """Column names of a dataset."""
        source = self._dataset(dataset)
        if "columns" in source.attrs:
            return tuple(str(_plain(name)) for name in source.attrs["columns"])
        width = source.shape[1] if source.ndim > 1 else 1
        known = COLUMNS.get(dataset, ())
        return known if len(known) == width else tuple(f"{dataset}_{i}" for i in range(width))

    def units(self, dataset: str) -> tuple[str, ...]:
        """Units of a dataset's columns."""
        source = self._dataset(dataset)
        if "units" in source.attrs:
            return tuple(str(_plain(name)) for name in source.attrs["units"])
        known = UNITS.get(dataset, ())
        width = len(self.columns(dataset))
        return known if len(known) == width else ("",) * width

    def column(self, dataset: str, name: str) -> NDArray[Any]:
        """One column, read without the others.

        Raises:
            FlightLogError: no such dataset or column.
        """
        names = self.columns(dataset)
        if name not in names:
            raise FlightLogError(f"{self.name}/{dataset} has no column '{name}'", hint=f"columns: {', '.join(names)}")
        source = self._dataset(dataset)
        return source[...] if source.ndim == 1 else source[:, names.index(name)]

    def _dataset(self, name: str) -> Any:
        try:
            return self._group[name]
        except (KeyError, OSError) as error:
            raise FlightLogError(
                f"{self.name} has no dataset '{name}'", hint=f"it has: {', '.join(self._group)}"
            ) from error


class FlightLog:
    """An open log. Use as a context manager, or call `close`."""

    def __init__(self, path: Path, file: Any, recovered: Any = None) -> None:
        self.path = path
        self._file = file
        self._recovered = recovered
        attrs = dict(file["metadata"].attrs) if "metadata" in file else {}
        config = str(_plain(attrs.get("config", "{}")))
        try:
            parsed = json.loads(config or "{}")
        except ValueError as error:
            raise FlightLogError(f"{path}: the config in its metadata is not JSON") from error
        self.schema = int(attrs.get("schema", 0))
        if self.schema not in {0, SCHEMA}:
            raise FlightLogError(f"{path} has schema {self.schema}, this version reads {SCHEMA} and older")
        self.metadata = LogMetadata(
            source=str(_plain(attrs.get("source", "sim"))),  # type: ignore[arg-type]
            agent=str(_plain(attrs.get("agent", ""))),
            bundle_digest=str(_plain(attrs.get("bundle_digest", ""))),
            contract_hash=str(_plain(attrs.get("contract_hash", ""))),
            rate_hz=float(attrs.get("rate_hz", 0.0)),
            start_time=str(_plain(attrs.get("start_time", ""))),
            config=parsed,
        )
        self.episodes: tuple[Episode, ...] = tuple(self._open_episodes())

    def __enter__(self) -> FlightLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.episodes)

    def close(self) -> None:
        """Close the file; episodes can no longer be read."""
        self._file.close()
        if self._recovered is not None:
            self._recovered.close()

    def _open_episodes(self) -> Iterator[Episode]:
        finished = {name: self._file for name in self._file if name.startswith("episode")}
        recovered: dict[str, Any] = dict.fromkeys(self._recovered or (), self._recovered)
        sources = {**recovered, **finished}
        for name in sorted(sources, key=lambda n: (episode_number(n) or 0, n)):
            try:
                group = sources[name][name]
                group["states"]
            except (KeyError, OSError) as error:
                raise FlightLogError(
                    f"{self.path}: {name} is missing its states or its file in {self.path.name}.parts"
                ) from error
            yield Episode(name, group)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value


def read_flight_log(path: Path) -> FlightLog:
    """Open a log of schema 1, or of the older layout without it.

    A log that is still being written, or whose writer was killed, is read as far as it goes: episodes that were never
    finished come with the attribute `recovered`. Nothing is changed on the disk; `recover` does that.

    Raises:
        FlightLogError: no such file, not HDF5, damaged, or a newer schema.
        MissingExtraError: h5py is not installed.
    """
    import_h5py()
    for _ in range(ATTEMPTS):
        in_parts = parts_of(path).is_dir()
        try:
            return _open(path)
        except (FlightLogError, FileNotFoundError):
            if not in_parts:
                raise
            # Being written: a part has just become another file. Look again.
    return _open(path)


def _open(path: Path) -> FlightLog:
    parts = parts_of(path)
    with contextlib.ExitStack() as stack:
        if path.is_file():
            try:
                file = stack.enter_context(import_h5py().File(path, "r"))
            except OSError as error:
                raise FlightLogError(
                    f"{path} is not a readable flight log: {str(error).splitlines()[0]}",
                    hint=f"a log of another autopilot? sim2sky log import {path}",
                ) from error
        elif (parts / "header.json").is_file():
            metadata = Header.load(parts).metadata
            file = stack.enter_context(_in_memory())
            fill_metadata(file, metadata)
        else:
            raise FlightLogError(f"no flight log at {path}", hint="name an existing .h5 file", misuse=True)
        recovered = stack.enter_context(_in_memory()) if parts.is_dir() else None
        if recovered is not None:
            _read_journals(parts, recovered, set(file))
        try:
            log = FlightLog(path, file, recovered)
        except (OSError, KeyError, RuntimeError) as error:
            raise FlightLogError(f"{path} is not a readable flight log: {str(error).splitlines()[0]}") from error
        stack.pop_all()
        return log


def _in_memory() -> Any:
    name = f"recovered {next(_NAMES)}"  # HDF5 tells files in memory apart by their names
    return import_h5py().File(name, "w", driver="core", backing_store=False)


def _read_journals(parts: Path, file: Any, finished: set[str]) -> None:
    """Journals of episodes that have no part, into an HDF5 file."""
    journals = {n: p for n, p in journals_of(parts).items() if p.stem not in finished}
    if not journals:
        return
    header = Header.load(parts)
    layout = TickLayout(len(header.columns["observations"]), len(header.columns["actions"]))
    for journal in journals.values():
        data = JournalEpisode.read(journal.read_bytes()).to_data(layout)
        if data is not None:
            fill_episode(file.create_group(journal.stem), import_h5py(), data, checked(data, header))
