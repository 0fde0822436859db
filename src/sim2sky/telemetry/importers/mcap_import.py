"""MCAP files that `sim2sky log export --mcap` wrote, as flight logs again. Others are not supported."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from sim2sky.errors import FlightLogError, MissingExtraError, NotSupportedError
from sim2sky.telemetry.log_schema import COLUMNS, ONE_DIMENSIONAL, TYPES, EpisodeData, LogMetadata, Source

__all__ = ["MAGIC", "read_mcap"]

MAGIC = b"\x89MCAP0\r\n"
LIMIT = 2**30  # of one record or chunk, bytes
_ABOUT = ("agent", "bundle_digest", "contract_hash", "start_time")


@dataclass
class _Flight:
    """Rows of each table since the last `/episode`."""

    about: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])


def read_mcap(path: Path, data: bytes) -> tuple[LogMetadata, tuple[EpisodeData, ...], list[str]]:
    """Read an MCAP file of ours; from a damaged one what stands before the damage.

    What the export leaves out is not there: further attributes of episodes, and events.

    Returns:
        Metadata, episodes, and what could not be read, in sentences.

    Raises:
        FlightLogError: nothing can be read.
        NotSupportedError: not one of ours.
        MissingExtraError: the package mcap is missing.
    """
    try:
        from mcap.records import Channel, Message, Metadata, Schema
        from mcap.stream_reader import StreamReader
    except ImportError as error:
        raise MissingExtraError("mcap", "logs") from error
    metadata: LogMetadata | None = None
    topics: dict[int, str] = {}
    encodings: set[str] = set()
    columns: dict[str, dict[str, str]] = {}
    schemas: dict[int, Schema] = {}
    flights: list[_Flight] = []
    damage: list[str] = []
    try:
        for record in StreamReader(io.BytesIO(data), validate_crcs=True, record_size_limit=LIMIT).records:
            if isinstance(record, Metadata) and record.name == "sim2sky":
                metadata = _metadata(record.metadata)
            elif isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                encodings.add(record.message_encoding)
                topics[record.id] = record.topic
                name = record.topic.removeprefix("/")
                if name in COLUMNS and record.schema_id in schemas:
                    columns[name] = _columns(schemas[record.schema_id].data)
            elif isinstance(record, Message):
                if metadata is None:
                    break
                _take(flights, topics.get(record.channel_id, ""), record.data)
    except Exception as error:  # whatever a damaged file makes it raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        damage.append(f"what follows {len(flights)} episodes is damaged: {reason}")
    if metadata is None:
        if damage and not encodings:
            raise FlightLogError(f"{path} is not a readable MCAP file: {damage[0]}")
        raise NotSupportedError(
            f"the MCAP file {path}: `sim2sky log export` did not write it",
            hint=f"its messages are {', '.join(sorted(encodings)) or 'none'}; export them as CSV and import the folder",
        )
    ends = [*[False] * (len(flights) - 1), bool(damage)]
    episodes = tuple(
        _episode(f, columns, cut=cut) for f, cut in zip(flights, ends, strict=False) if f.rows.get("states")
    )
    return metadata, episodes, damage


def _metadata(about: dict[str, str]) -> LogMetadata:
    source = about["source"]
    if source not in get_args(Source):
        raise ValueError(f"log source '{source}'")
    return LogMetadata(
        source,  # type: ignore[arg-type]
        **{name: about[name] for name in _ABOUT},
        rate_hz=float(about["rate_hz"]),
        config=json.loads(about["config"]),
    )


def _columns(schema: bytes) -> dict[str, str]:
    properties: dict[str, Any] = json.loads(schema)["properties"]
    return {name: str(p.get("description", "")) for name, p in properties.items() if name != "timestamp"}


def _take(flights: list[_Flight], topic: str, data: bytes) -> None:
    if topic == "/episode":
        flights.append(_Flight(json.loads(data)))
    elif flights and topic.removeprefix("/") in COLUMNS:
        flights[-1].rows.setdefault(topic.removeprefix("/"), []).append(json.loads(data))


def _episode(flight: _Flight, columns: dict[str, dict[str, str]], *, cut: bool) -> EpisodeData:
    count = min(len(rows) for rows in flight.rows.values())
    arrays = {name: _table(name, [*columns.get(name, {})], rows[:count]) for name, rows in flight.rows.items()}
    for name in ("observations", "actions"):
        arrays.setdefault(name, np.empty((count, 0)))
    about = flight.about
    return EpisodeData(
        arrays,
        success=bool(about["success"]) and not cut,
        termination="cut off" if cut else str(about["termination"]),
        seed=int(about["seed"]),
        columns={name: tuple(columns[name]) for name in arrays if name in columns},
        units={name: tuple(columns[name].values()) for name in arrays if name in columns},
        extra={"dropped_ticks": int(about.get("dropped", 0)), "recovered": cut},
    )


def _table(dataset: str, names: Sequence[str], rows: Sequence[dict[str, Any]]) -> NDArray[Any]:
    """(n, columns), or (n,); what JSON has no number for was not finite."""
    kind = TYPES.get(dataset, np.float64)
    blank = 0 if np.issubdtype(kind, np.integer) else np.nan
    table = np.array([[row.get(name, blank) for name in names] for row in rows], kind).reshape(len(rows), len(names))
    return table[:, 0] if dataset in ONE_DIMENSIONAL else table
