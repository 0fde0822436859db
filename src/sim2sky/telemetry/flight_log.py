"""The flight log: one HDF5 layout for simulated, hardware-in-the-loop, virtual and real flights (schema 1).

Reading, with data loaded only when asked for; writing is in `log_writer`, the layout in `log_schema`, and both are
offered here. numpy only; h5py is imported when a log is opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sim2sky.errors import FlightLogError
from sim2sky.telemetry.log_schema import COLUMNS, SCHEMA, UNITS, EpisodeData, LogMetadata, Source, import_h5py
from sim2sky.telemetry.log_writer import FlightLogWriter, gather

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
]


class Episode:
    """One episode of an open log; data is read when asked for."""

    def __init__(self, name: str, group: Any) -> None:
        self.name = name
        self._group = group

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the datasets present."""
        return tuple(self._group)

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

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._file = file
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.episodes)

    def close(self) -> None:
        """Close the file; episodes can no longer be read."""
        self._file.close()

    def _open_episodes(self) -> Iterator[Episode]:
        for name in sorted(n for n in self._file if n.startswith("episode")):
            try:
                group = self._file[name]
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

    Raises:
        FlightLogError: no such file, not HDF5, damaged, or a newer schema.
        MissingExtraError: h5py is not installed.
    """
    h5 = import_h5py()
    if not path.is_file():
        raise FlightLogError(f"no flight log at {path}")
    file = None
    try:
        file = h5.File(path, "r")
        return FlightLog(path, file)
    except (OSError, KeyError, RuntimeError) as error:
        if file is not None:
            file.close()
        raise FlightLogError(f"{path} is not a readable flight log: {str(error).splitlines()[0]}") from error
    except FlightLogError:
        if file is not None:
            file.close()
        raise
