"""What a flight log holds (schema 1): datasets, columns, units, metadata. numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sim2sky.errors import MissingExtraError

__all__ = [
    "COLUMNS",
    "EVENTS",
    "ONE_DIMENSIONAL",
    "PART_GROUP",
    "REQUIRED",
    "SCHEMA",
    "TYPES",
    "UNITS",
    "EpisodeData",
    "LogMetadata",
    "Source",
    "import_h5py",
]

SCHEMA = 1
Source = Literal["sim", "hil", "virtual", "real"]
PART_GROUP = "episode"
EVENTS = "events"
"""The one dataset that is not a table of ticks: a line of JSON per event."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "time_s": ("time",),
    "states": (
        "time", "north", "east", "down", "u", "v", "w", "roll", "pitch", "yaw", "p", "q", "r", "airspeed", "altitude",
        "padding",
    ),
    "observations": (),
    "actions": (),
    "controls": ("aileron", "elevator", "rudder", "throttle"),
    "setpoints": ("altitude", "airspeed", "heading", "roll", "pitch", "p", "q", "r"),
    "rewards": ("reward",),
    "timing": ("receive", "infer", "send"),
    "guard": ("mode", "trips"),
}  # fmt: skip
"""Columns per dataset; those of observations and actions come from the contract."""

UNITS: dict[str, tuple[str, ...]] = {
    "time_s": ("s",),
    "states": ("s", "m", "m", "m", *("m/s",) * 3, *("rad",) * 3, *("rad/s",) * 3, "m/s", "m", ""),
    "controls": ("1",) * 4,
    "setpoints": ("m", "m/s", "rad", "rad", "rad", *("rad/s",) * 3),
    "rewards": ("1",),
    "timing": ("ns",) * 3,
    "guard": ("enum", "bits"),
}
TYPES: dict[str, Any] = {"observations": np.float32, "actions": np.float32, "timing": np.int64, "guard": np.int64}
ONE_DIMENSIONAL = ("time_s", "rewards")
REQUIRED = ("time_s", "states", "observations", "actions", "controls")


@dataclass(frozen=True, slots=True)
class LogMetadata:
    """What `/metadata` says about all episodes of a log.

    Attributes:
        source: where the flights took place.
        agent, bundle_digest, contract_hash: what flew; empty where no agent did.
        rate_hz: control rate.
        start_time: ISO 8601, given by the caller.
        config: JSON-compatible settings of the run.
    """

    source: Source
    agent: str = ""
    bundle_digest: str = ""
    contract_hash: str = ""
    rate_hz: float = 0.0
    start_time: str = ""
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeData:
    """One finished episode, ready to be written.

    Attributes:
        arrays: by dataset name; first axis are ticks. `time_s`, `states` (n, 15 or 16), `observations`, `actions` and
            `controls` are required.
        columns, units: for observations and actions, where they are not those of the contract.
        success, termination, seed, total_reward: attributes of the episode.
        extra: further attributes, JSON-compatible scalars.
        events: what happened, in order (guard trips), JSON-compatible; the dataset `events`, one line of JSON each.
    """

    arrays: Mapping[str, NDArray[Any]]
    success: bool
    termination: str
    seed: int
    total_reward: float = 0.0
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    units: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    extra: Mapping[str, str | float | int | bool] = field(default_factory=dict[str, Any])
    events: Sequence[Mapping[str, Any]] = ()


def import_h5py() -> Any:
    """h5py, or a plain error that names the package to install."""
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", "all") from error
    return h5py
