"""Flight logs as MCAP, for Foxglove and PlotJuggler: JSON messages with JSON schemas, and Foxglove's own where it has
one for pose, position and log lines.

Runs on the laptop; needs the package `mcap`. Attitude and position are turned into the axes those tools draw: east,
north, up from home, and a body frame of forward, left, up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.errors import MissingExtraError
from sim2sky.runtime.frames import HOME, euler_to_quaternion
from sim2sky.telemetry.flight_log import Episode, FlightLog
from sim2sky.telemetry.log_files import replacing, writing
from sim2sky.telemetry.log_report import summarise, trips_of

__all__ = ["export_mcap", "pose_enu"]

GAP_NS = 1_000_000_000  # between two episodes, each of which counts its time from 0
FRAME = "home"
_NS = 1_000_000_000
_WARNING, _INFO = 3, 2

_TIME = {
    "type": "object",
    "title": "time",
    "properties": {
        "sec": {"type": "integer", "minimum": 0},
        "nsec": {"type": "integer", "minimum": 0, "maximum": 999_999_999},
    },
}


def _numbers(*names: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "number"} for name in names}}


def _schema(title: str, **properties: Any) -> dict[str, Any]:
    return {"title": title, "type": "object", "properties": {"timestamp": _TIME, **properties}}


_STRING = {"type": "string"}
POSE = _schema(
    "foxglove.PoseInFrame",
    frame_id=_STRING,
    pose={
        "title": "foxglove.Pose",
        "type": "object",
        "properties": {"position": _numbers("x", "y", "z"), "orientation": _numbers("x", "y", "z", "w")},
    },
)
LOCATION = _schema(
    "foxglove.LocationFix",
    frame_id=_STRING,
    latitude={"type": "number"},
    longitude={"type": "number"},
    altitude={"type": "number"},
    position_covariance={"type": "array", "items": {"type": "number"}, "minItems": 9, "maxItems": 9},
    position_covariance_type={"type": "integer"},
)
LOG = _schema(
    "foxglove.Log",
    level={"type": "integer"},
    message=_STRING,
    name=_STRING,
    file=_STRING,
    line={"type": "integer", "minimum": 0},
)
EPISODE = _schema(
    "sim2sky.Episode",
    name=_STRING,
    seed={"type": "integer"},
    success={"type": "boolean"},
    termination=_STRING,
    ticks={"type": "integer"},
    dropped={"type": "integer"},
)


def export_mcap(log: FlightLog, path: Path, *, progress: Callable[[int], None] = lambda _: None) -> int:
    """Write a whole log.

    Topics: `/pose` (foxglove.PoseInFrame), `/location` (foxglove.LocationFix; only of simulated flights, whose home we
    know), `/log` (foxglove.Log: starts, ends, trips), `/episode`, and one per table of the log, `/states`, `/controls`,
    `/guard`, ..., whose messages have the columns as fields. A value that is not finite is left out of its message,
    as JSON has none.

    Times: the start time in the metadata (else 1970) plus the flight's own; the next flight follows a second later.

    Args:
        log: open.
        path: the file; put in place whole.
        progress: told the number of each episode that is done.

    Returns:
        Messages written.

    Raises:
        FlightLogError: the file cannot be written.
        MissingExtraError: the package mcap is missing.
    """
    try:
        from mcap.writer import Writer
    except ImportError as error:
        raise MissingExtraError("mcap", "logs") from error
    with writing(path), replacing(path) as temporary, temporary.open("wb") as file:
        out = Writer(file)
        out.start(profile="", library="sim2sky")
        m = log.metadata
        about = {
            "source": m.source, "agent": m.agent, "bundle_digest": m.bundle_digest, "contract_hash": m.contract_hash,
            "rate_hz": repr(m.rate_hz), "start_time": m.start_time, "config": json.dumps(m.config, sort_keys=True),
        }  # fmt: skip
        out.add_metadata("sim2sky", about)
        count = _messages(log, _Topics(out), progress)
        out.finish()
    return count


class _Topics:
    """Channels by topic, made when first needed."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._channels: dict[str, int] = {}
        self.count = 0

    def write(self, topic: str, schema: Mapping[str, Any], time_ns: int, fields: Mapping[str, Any]) -> None:
        channel = self._channels.get(topic)
        if channel is None:
            number = self._writer.register_schema(str(schema["title"]), "jsonschema", json.dumps(schema).encode())
            channel = self._channels[topic] = self._writer.register_channel(topic, "json", number)
        sec, nsec = divmod(time_ns, _NS)
        message = {"timestamp": {"sec": sec, "nsec": nsec}, **fields}
        data = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
        self._writer.add_message(channel, time_ns, data, time_ns)
        self.count += 1


def _messages(log: FlightLog, topics: _Topics, progress: Callable[[int], None]) -> int:
    start = _start_ns(log.metadata.start_time)
    end = start - GAP_NS
    simulated = log.metadata.source in {"sim", "hil"}
    for number, episode in enumerate(log.episodes):
        if not episode.attrs.get("segment", 0):
            start = end + GAP_NS
        times = [start + round(t * _NS) for t in episode.column("states", "time").tolist()]
        _episode(episode, times, topics, simulated=simulated)
        end = max(times, default=end)
        progress(number + 1)
    return topics.count


def _episode(episode: Episode, times: list[int], topics: _Topics, *, simulated: bool) -> None:
    about = summarise(episode)
    fields = {
        "name": about.name, "seed": about.seed, "success": about.success, "termination": about.termination,
        "ticks": about.ticks, "dropped": about.dropped,
    }  # fmt: skip
    topics.write("/episode", EPISODE, times[0], fields)
    topics.write("/log", LOG, times[0], _line(_INFO, f"{about.name}, seed {about.seed}"))
    trips = {line.row: line for line in trips_of(episode)}
    tables = [(f"/{name}", _table_schema(episode, name), _rows(episode, name)) for name in episode.datasets]
    states = {name: episode.column("states", name).tolist() for name in episode.columns("states")}
    for i, time_ns in enumerate(times):
        place = [states[name][i] for name in ("north", "east", "altitude", "roll", "pitch", "yaw")]
        if all(map(math.isfinite, place)):
            position, orientation = pose_enu(*place)
            pose = {"position": position, "orientation": orientation}
            topics.write("/pose", POSE, time_ns, {"frame_id": FRAME, "pose": pose})
            if simulated:
                topics.write("/location", LOCATION, time_ns, _location(*place[:3]))
        for topic, schema, rows in tables:
            topics.write(topic, schema, time_ns, next(rows))
        if line := trips.get(i):
            what = ", ".join(line.reasons) or "all clear"
            topics.write("/log", LOG, time_ns, _line(_WARNING if line.reasons else _INFO, f"{what} -> {line.mode}"))
    topics.write("/log", LOG, times[-1], _line(_INFO, f"{about.name} ended: {about.termination}"))


def pose_enu(
    north: float, east: float, altitude: float, roll: float, pitch: float, yaw: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Position and attitude in east-north-up axes, the body's being forward, left, up.

    Both changes of axes are half turns: north-east-down to east-north-up about (1, 1, 0) / sqrt 2, and
    forward-right-down to forward-left-up about the body's x; the quaternion in between is the aircraft's.

    Args:
        north, east, altitude: m from home.
        roll, pitch, yaw: 3-2-1 Euler angles of forward-right-down against north-east-down, rad.

    Returns:
        x, y, z in m; quaternion x, y, z, w from body to east-north-up.
    """
    w, x, y, z = euler_to_quaternion(roll, pitch, yaw)
    half = math.sqrt(0.5)
    orientation = {"x": half * (x + y), "y": half * (x - y), "z": half * (w - z), "w": half * (w + z)}
    return {"x": east, "y": north, "z": altitude}, orientation


def _location(north: float, east: float, altitude: float) -> dict[str, Any]:
    latitude, longitude = HOME.to_degrees_e7(north, east)
    return {
        "frame_id": FRAME,
        "latitude": latitude * 1e-7,
        "longitude": longitude * 1e-7,
        "altitude": HOME.altitude_m + altitude,
        "position_covariance": [0.0] * 9,
        "position_covariance_type": 0,  # unknown
    }


def _line(level: int, message: str) -> dict[str, Any]:
    return {"level": level, "message": message, "name": "sim2sky", "file": "", "line": 0}


def _table_schema(episode: Episode, name: str) -> dict[str, Any]:
    columns = zip(episode.columns(name), episode.units(name), strict=True)
    return _schema(f"sim2sky.{name}", **{column: {"type": "number", "description": unit} for column, unit in columns})


def _rows(episode: Episode, name: str) -> Iterator[dict[str, float]]:
    columns = episode.columns(name)
    table: NDArray[Any] = episode[name]
    for row in (table if table.ndim == 2 else table[:, None]).tolist():
        yield {c: v for c, v in zip(columns, row, strict=True) if math.isfinite(v)}


def _start_ns(text: str) -> int:
    """Nanoseconds since 1970 of an ISO 8601 time; 0 where there is none."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))  # noqa: FURB162 - as Python 3.10 needs it
    except ValueError:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)  # noqa: UP017 - runs on Python 3.10 as well
    return max(int(np.datetime64(moment.astimezone(timezone.utc).replace(tzinfo=None), "ns").astype(int)), 0)  # noqa: UP017
