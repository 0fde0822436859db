"""What a flight log says in short: its episodes, the guard's trips, and everything as one CSV table."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim2sky.runtime.ladder import SWITCHING, Mode, Trip
from sim2sky.telemetry.flight_log import Episode, FlightLog
from sim2sky.telemetry.log_files import replacing, writing

__all__ = ["EpisodeSummary", "TripLine", "summarise", "trips_of", "write_csv"]


@dataclass(frozen=True)
class EpisodeSummary:
    """One line of `sim2sky log info`.

    Attributes:
        ticks: recorded; `dropped` more were flown and are missing.
        segment: 0, or which part of a long flight this is.
        guarded: ticks in which the policy was not in command.
        recovered: its end was never written.
    """

    name: str
    seed: int
    ticks: int
    duration_s: float
    success: bool
    termination: str
    guarded: int
    dropped: int
    segment: int
    recovered: bool

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        return asdict(self)


def summarise(episode: Episode) -> EpisodeSummary:
    """An episode in one line."""
    time_s = episode.column("states", "time")
    attrs = episode.attrs
    guarded = int((episode.column("guard", "mode") != Mode.POLICY).sum()) if "guard" in episode else 0
    return EpisodeSummary(
        episode.name,
        episode.seed,
        len(episode),
        float(time_s[-1] - time_s[0]) if len(time_s) else math.nan,
        episode.success,
        episode.termination,
        guarded,
        int(attrs.get("dropped_ticks", 0)),
        int(attrs.get("segment", 0)),
        bool(attrs.get("recovered", False)),
    )


@dataclass(frozen=True)
class TripLine:
    """A trip that rose, or a change of hands.

    Attributes:
        row: of the episode's tables.
        time_s: since the start of the flight.
        reasons: names of the trips that rose; empty where all is clear again.
        mode: who commands from here on.
        state: what was measured at that tick, by name and unit.
    """

    episode: str
    row: int
    time_s: float
    reasons: tuple[str, ...]
    mode: str
    state: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping; what is not finite is null."""
        state = {k: v if math.isfinite(v) else None for k, v in self.state.items()}
        return {**asdict(self), "state": state}


def trips_of(episode: Episode) -> list[TripLine]:
    """Every tick at which a trip took control from the policy or somebody else took over, from the tables: complete
    also where a kill or a full event log cut the events short."""
    if "guard" not in episode:
        return []
    mode, trips = episode.column("guard", "mode"), episode.column("guard", "trips") & int(SWITCHING)
    raised = trips & ~np.concatenate([[0], trips[:-1]])
    changed = mode != np.concatenate([[int(Mode.POLICY)], mode[:-1]])
    time_s = episode.column("states", "time")
    names, units = episode.columns("states"), episode.units("states")
    keep = [i for i, n in enumerate(names) if n not in {"time", "padding", "u", "v", "w"}]
    states = episode["states"]
    lines = []
    for row in np.flatnonzero(raised | changed).tolist():
        reasons = tuple(str(t.name).lower() for t in Trip if int(t) & int(raised[row]))
        state = {f"{names[i]} [{units[i]}]": float(states[row, i]) for i in keep}
        lines.append(TripLine(episode.name, row, float(time_s[row]), reasons, Mode(int(mode[row])).name, state))
    return lines


def write_csv(log: FlightLog, path: Path) -> int:
    """All tables of all episodes side by side, a row per tick, columns `episode` and `dataset.column [unit]`.

    Returns:
        Rows written.

    Raises:
        FlightLogError: the file cannot be written.
    """
    rows = 0
    heads = [_csv_head(e) for e in log.episodes]
    head = list(dict.fromkeys(name for one in heads for name in one))
    with writing(path), replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["episode", *head])
        for episode, own in zip(log.episodes, heads, strict=True):
            number = episode.name.rpartition("_")[2]
            columns = dict(zip(own, _csv_columns(episode), strict=True))
            blank = [""] * len(episode)
            for values in zip(*(columns.get(name, blank) for name in head), strict=True):
                table.writerow([number, *values])
                rows += 1
    return rows


def _csv_head(episode: Episode) -> list[str]:
    return [
        f"{name}.{column} [{unit}]"
        for name in episode.datasets
        for column, unit in zip(episode.columns(name), episode.units(name), strict=True)
    ]


def _csv_columns(episode: Episode) -> list[list[Any]]:
    columns: list[list[Any]] = []
    for name in episode.datasets:
        table = episode[name]
        columns += (table if table.ndim == 2 else table[:, None]).T.tolist()
    return columns
