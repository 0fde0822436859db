"""`sim2sky log import`: a foreign log, whatever its format, as a flight log of schema 1, or one sentence why not."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim2sky.errors import FlightLogError, NotSupportedError, Sim2SkyError
from sim2sky.telemetry.flight_log import FlightLogWriter
from sim2sky.telemetry.importers import dataflash, mcap_import, ulog
from sim2sky.telemetry.importers.ardupilot import PLANE_MODES, ardupilot_recording
from sim2sky.telemetry.importers.channels import Recording
from sim2sky.telemetry.importers.csv_folder import csv_recording, mapping_of, read_csv_folder
from sim2sky.telemetry.importers.episodes import clock_rate, episode_of, flight_intervals
from sim2sky.telemetry.importers.gap_needs import channels_of, missing_for_gap
from sim2sky.telemetry.importers.mavlink_channels import mavlink_modes, mavlink_recording
from sim2sky.telemetry.importers.px4 import NAV_STATES, px4_recording
from sim2sky.telemetry.importers.resample import DESCRIPTION
from sim2sky.telemetry.importers.tlog import looks_like_tlog, read_tlog
from sim2sky.telemetry.importers.topics import ForeignLog
from sim2sky.telemetry.log_files import parts_of, replacing, writing
from sim2sky.telemetry.log_schema import EpisodeData, LogMetadata

__all__ = ["ImportResult", "import_log", "is_mcap", "read_foreign", "record"]

MAX_BYTES = 2**32
FORMATS = "PX4 ULog (.ulg), ArduPilot dataflash (.bin), MAVLink .tlog, MCAP of ours and folders of CSV files are"


@dataclass(frozen=True)
class ImportResult:
    """What an import gave.

    Attributes:
        metadata: as written.
        episodes: as written.
        missing: what the log lacks for a gap analysis.
        notes: what a reader should know about how its channels were found, and what was damaged.
    """

    metadata: LogMetadata
    episodes: tuple[EpisodeData, ...]
    missing: Sequence[str]
    notes: Sequence[str]


def read_foreign(path: Path, mapping: Path | None = None) -> ForeignLog:
    """Read a foreign log.

    Args:
        path: a file, or a folder of CSV files.
        mapping: of the folder; `mapping.yaml` in it by default.

    Raises:
        FlightLogError: there is none, or it is too damaged to be read.
        ConfigError: the mapping is wrong or missing.
        NotSupportedError: a format we do not read.
    """
    if path.is_dir():
        with _contained(path):
            return read_csv_folder(path, mapping_of(path, mapping))
    data, suffix = _content(path), path.suffix.lower()
    with _contained(path):
        if data.startswith(ulog.MAGIC) or suffix == ".ulg":
            return ulog.read_ulog(path, data)
        if data.startswith(dataflash.MAGIC) or suffix == ".bin":
            return dataflash.read_dataflash(path, data)
        if looks_like_tlog(data) or suffix == ".tlog":
            return read_tlog(path, data)
    raise NotSupportedError(f"the format of {path}", hint=FORMATS)


def record(log: ForeignLog, mapping: Path | None = None) -> tuple[Recording, dict[int, str]]:
    """The channels of a foreign log in our units and frames, and the names of its modes."""
    with _contained(log.path):
        if log.format == "ArduPilot dataflash":
            return ardupilot_recording(log), PLANE_MODES
        if log.format == "MAVLink tlog":
            return mavlink_recording(log), mavlink_modes(log)
        if log.format == "CSV folder":
            return csv_recording(log, mapping_of(log.path, mapping)), {}
        return px4_recording(log), NAV_STATES


def is_mcap(path: Path) -> bool:
    """Whether a file is, or should be, MCAP."""
    if path.suffix.lower() == ".mcap":
        return True
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(len(mcap_import.MAGIC)) == mcap_import.MAGIC
    return False


def import_log(
    path: Path, out: Path, *, mapping: Path | None = None, progress: Callable[[str], None] = lambda _: None
) -> ImportResult:
    """Turn a foreign log into a flight log.

    Args:
        path: the foreign log.
        out: the file to write; put in place whole, or not at all.
        mapping: of a folder of CSV files.
        progress: told what is being done.

    Raises:
        FlightLogError: the log is unreadable or holds no flight, or `out` exists or cannot be written.
        ConfigError: the mapping is wrong or missing.
        NotSupportedError: a format we do not read.
    """
    if out.exists():
        raise FlightLogError(f"{out} already exists", hint="choose another file with -o, or remove it", misuse=True)
    progress("reading")
    result = _read_own(path) if is_mcap(path) else _read_other(path, mapping, progress)
    progress("writing")
    _write(out, result)
    return result


def _read_own(path: Path) -> ImportResult:
    data = _content(path)
    with _contained(path):
        metadata, episodes, damage = mcap_import.read_mcap(path, data)
    if not episodes:
        raise FlightLogError(f"{path} holds no flight" + (f": {damage[0]}" if damage else ""))
    return ImportResult(metadata, episodes, missing_for_gap(channels_of(episodes[0].arrays), success=True), damage)


def _read_other(path: Path, mapping: Path | None, progress: Callable[[str], None]) -> ImportResult:
    log = read_foreign(path, mapping)
    progress("resampling")
    recording, modes = record(log, mapping)
    intervals, reason = flight_intervals(recording)
    if not intervals:
        raise FlightLogError(f"{path} holds no flight: {reason}", hint=f"sim2sky log info {path}")
    rate_hz = clock_rate(recording)
    with _contained(path):
        episodes = tuple(episode_of(log, recording, i, rate_hz, modes) for i in intervals)
    source = "sim" if log.simulated else "real"
    metadata = LogMetadata(source, rate_hz=rate_hz, start_time=log.start_time, config=_config(log, recording))
    return ImportResult(
        metadata, episodes, missing_for_gap(recording.channels, success=False), [*recording.notes, *log.damage]
    )


def _config(log: ForeignLog, recording: Recording) -> dict[str, Any]:
    return {
        "vehicle": log.vehicle,
        "imported": {
            "file": log.path.name,
            "sha256": _digest(log.path),
            "format": log.format,
            "firmware": log.firmware,
            "simulated": log.simulated,
            "resampling": DESCRIPTION,
            "notes": list(recording.notes),
            "damage": list(log.damage),
        },
    }


def _digest(path: Path) -> str:
    """SHA-256 of the file; of a folder, of its files' names and digests in order."""
    if path.is_file():
        return hashlib.sha256(_content(path)).hexdigest()
    files = sorted(p for p in path.iterdir() if p.is_file())
    lines = "".join(f"{_digest(p)}  {p.name}\n" for p in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _write(out: Path, result: ImportResult) -> None:
    with writing(out), replacing(out) as temporary:
        try:
            with FlightLogWriter(temporary, result.metadata) as writer:
                for episode in result.episodes:
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


@contextlib.contextmanager
def _contained(path: Path) -> Generator[None, None, None]:
    """Whatever a damaged file makes a parser raise becomes one sentence about that file."""
    try:
        with np.errstate(all="ignore"):  # damaged floats overflow; what comes of it is marked
            yield
    except Sim2SkyError:
        raise
    except Exception as error:
        what = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise FlightLogError(f"{path} is too damaged to be read: {what}") from error
