"""`sim2sky log import`: a foreign log, whatever its format, as a flight log of schema 1, or one sentence why not."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim2sky.errors import FlightLogError, NotSupportedError, Sim2SkyError
from sim2sky.telemetry.flight_log import FlightLogWriter
from sim2sky.telemetry.importers.ardupilot import PLANE_MODES, ardupilot_recording
from sim2sky.telemetry.importers.channels import Recording
from sim2sky.telemetry.importers.dataflash import MAGIC as DATAFLASH_MAGIC
from sim2sky.telemetry.importers.dataflash import read_dataflash
from sim2sky.telemetry.importers.episodes import clock_rate, episode_of, flight_intervals
from sim2sky.telemetry.importers.gap_needs import missing_for_gap
from sim2sky.telemetry.importers.mavlink_channels import mavlink_modes, mavlink_recording
from sim2sky.telemetry.importers.px4 import NAV_STATES, px4_recording
from sim2sky.telemetry.importers.resample import DESCRIPTION
from sim2sky.telemetry.importers.tlog import looks_like_tlog, read_tlog
from sim2sky.telemetry.importers.topics import ForeignLog
from sim2sky.telemetry.importers.ulog import MAGIC as ULOG_MAGIC
from sim2sky.telemetry.importers.ulog import read_ulog
from sim2sky.telemetry.log_files import parts_of, replacing, writing
from sim2sky.telemetry.log_schema import EpisodeData, LogMetadata

__all__ = ["ImportResult", "import_log", "read_foreign", "record"]

MAX_BYTES = 2**32


@dataclass(frozen=True)
class ImportResult:
    """What an import gave.

    Attributes:
        log: the foreign log.
        recording: its channels.
        source: `real` or `sim`.
        rate_hz: of the one clock.
        episodes: as written.
    """

    log: ForeignLog
    recording: Recording
    source: str
    rate_hz: float
    episodes: tuple[EpisodeData, ...]

    @property
    def missing(self) -> list[str]:
        """What this log lacks for a gap analysis."""
        return missing_for_gap(self.recording.__contains__)


def read_foreign(path: Path) -> ForeignLog:
    """Read a foreign log.

    Raises:
        FlightLogError: there is none, or it is too damaged to be read.
        NotSupportedError: a format we do not read.
    """
    data = _content(path)
    suffix = path.suffix.lower()
    with _contained(path):
        if data.startswith(ULOG_MAGIC) or suffix == ".ulg":
            return read_ulog(path, data)
        if data.startswith(DATAFLASH_MAGIC) or suffix == ".bin":
            return read_dataflash(path, data)
        if looks_like_tlog(data) or suffix == ".tlog":
            return read_tlog(path, data)
    raise NotSupportedError(f"the format of {path}", hint="PX4 ULog, ArduPilot dataflash and MAVLink tlog are")


def record(log: ForeignLog) -> tuple[Recording, dict[int, str]]:
    """The channels of a foreign log in our units and frames, and the names of its modes."""
    with _contained(log.path):
        if log.format == "ArduPilot dataflash":
            return ardupilot_recording(log), PLANE_MODES
        if log.format == "MAVLink tlog":
            return mavlink_recording(log), mavlink_modes(log)
        return px4_recording(log), NAV_STATES


def import_log(path: Path, out: Path, *, progress: Callable[[str], None] = lambda _: None) -> ImportResult:
    """Turn a foreign log into a flight log.

    Args:
        path: the foreign log.
        out: the file to write; put in place whole, or not at all.
        progress: told what is being done.

    Raises:
        FlightLogError: the log is unreadable or holds no flight, or `out` exists or cannot be written.
        NotSupportedError: a format we do not read.
    """
    if out.exists():
        raise FlightLogError(f"{out} already exists", hint="choose another file with -o, or remove it", misuse=True)
    progress("reading")
    log = read_foreign(path)
    progress("resampling")
    recording, modes = record(log)
    intervals, reason = flight_intervals(recording)
    if not intervals:
        raise FlightLogError(f"{path} holds no flight: {reason}", hint=f"sim2sky log info {path}")
    rate_hz = clock_rate(recording)
    with _contained(path):
        episodes = tuple(episode_of(log, recording, i, rate_hz, modes) for i in intervals)
    source = "sim" if log.simulated else "real"
    metadata = LogMetadata(source, rate_hz=rate_hz, start_time=log.start_time, config=_config(log, recording))
    progress("writing")
    _write(out, metadata, episodes)
    return ImportResult(log, recording, source, rate_hz, episodes)


def _config(log: ForeignLog, recording: Recording) -> dict[str, Any]:
    return {
        "vehicle": log.vehicle,
        "imported": {
            "file": log.path.name,
            "sha256": hashlib.sha256(_content(log.path)).hexdigest(),
            "format": log.format,
            "firmware": log.firmware,
            "simulated": log.simulated,
            "resampling": DESCRIPTION,
            "notes": list(recording.notes),
            "damage": list(log.damage),
        },
    }


def _write(out: Path, metadata: LogMetadata, episodes: tuple[EpisodeData, ...]) -> None:
    with writing(out), replacing(out) as temporary:
        try:
            with FlightLogWriter(temporary, metadata) as writer:
                for episode in episodes:
                    writer.write(episode)
        finally:
            shutil.rmtree(parts_of(temporary), ignore_errors=True)


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise NotSupportedError(f"a log of {size / 2**30:.1f} GiB", hint="cut it; up to 4 GiB are read")
        return path.read_bytes()
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "not enough memory"
        raise FlightLogError(f"{path} cannot be read: {reason}", hint="name an existing log", misuse=True) from error


class _contained:  # noqa: N801 - used as a function
    """Whatever a damaged file makes a parser raise is one sentence about that file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, Sim2SkyError):
            what = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise FlightLogError(f"{self._path} is too damaged to be read: {what}") from error
