"""Flights as arrays with named channels, as replay, identification and attribution need them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.errors import FlightLogError
from sim2sky.telemetry.flight_log import COLUMNS, Episode, FlightLog, read_flight_log

__all__ = ["Flight", "load_flights"]

Array = NDArray[np.float64]
_STATES = {
    "roll_rad": "roll", "pitch_rad": "pitch", "yaw_rad": "yaw", "p_radps": "p", "q_radps": "q", "r_radps": "r",
    "airspeed_mps": "airspeed", "altitude_m": "altitude", "north_m": "north", "east_m": "east",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Flight:
    """One episode of a flight log as it was measured; arrays (n,) unless said otherwise, NaN where nobody knows.

    Attributes:
        name: log and episode.
        airframe: its name; empty where the log does not say.
        rate_hz: of the samples.
        source: sim, hil, virtual or real.
        controls: (n, 4) commands after the guard: aileron, elevator, rudder, throttle.
        setpoints: (n, 8), columns as in the flight log.
        mode: of the guard; NaN where the log has none.
        config: what the log's metadata says of the run.
    """

    name: str
    airframe: str
    rate_hz: float
    source: str
    time_s: Array
    roll_rad: Array
    pitch_rad: Array
    yaw_rad: Array
    p_radps: Array
    q_radps: Array
    r_radps: Array
    airspeed_mps: Array
    altitude_m: Array
    climb_rate_mps: Array
    north_m: Array
    east_m: Array
    controls: Array
    setpoints: Array
    mode: Array
    config: dict[str, Any]

    def __len__(self) -> int:
        return len(self.time_s)

    def part(self, start: int, stop: int) -> Flight:
        """The ticks from `start` to before `stop`."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v[start:stop] for k, v in arrays.items() if isinstance(v, np.ndarray)})


def load_flights(*paths: Path) -> list[Flight]:
    """All episodes of the logs, in order; those without a single tick are left out.

    Raises:
        FlightLogError: a log cannot be read, or has neither a rate nor times to tell it from.
    """
    flights: list[Flight] = []
    for path in paths:
        with read_flight_log(path) as log:
            flights += [_flight(path, log, episode) for episode in log.episodes if len(episode)]
    return flights


def _flight(path: Path, log: FlightLog, episode: Episode) -> Flight:
    states = np.asarray(episode["states"], np.float64)
    time_s = np.asarray(episode["time_s"] if "time_s" in episode else states[:, 0], np.float64).reshape(-1)
    columns = episode.columns("states")
    n = len(states)

    def state(name: str) -> Array:
        return states[:, columns.index(name)].copy() if name in columns else np.full(n, np.nan)

    config = dict(log.metadata.config)
    return Flight(
        name=f"{path.stem}/{episode.name}",
        airframe=str(config.get("vehicle") or ""),
        rate_hz=log.metadata.rate_hz or _rate(time_s, path),
        source=log.metadata.source,
        time_s=time_s,
        **{field: state(name) for field, name in _STATES.items()},
        climb_rate_mps=_observed(episode, "climb_rate_mps", n),
        controls=_table(episode, "controls", n),
        setpoints=_table(episode, "setpoints", n),
        mode=_table(episode, "guard", n)[:, 0],
        config=config,
    )


def _rate(time_s: Array, path: Path) -> float:
    steps = np.diff(time_s)
    if not len(steps) or not np.median(steps) > 0.0:
        raise FlightLogError(f"{path} says neither its rate nor the times of its samples")
    return float(1.0 / np.median(steps))


def _observed(episode: Episode, name: str, n: int) -> Array:
    """A column of the observations, as the policy saw it."""
    if "observations" not in episode or name not in episode.columns("observations"):
        return np.full(n, np.nan)
    return np.asarray(episode.column("observations", name), np.float64)


def _table(episode: Episode, dataset: str, n: int) -> Array:
    if dataset not in episode:
        return np.full((n, len(COLUMNS[dataset])), np.nan)
    return np.asarray(episode[dataset], np.float64)
