"""A folder of CSV files, as MAVROS bags are exported to, read by a mapping file that says what the columns are."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from sim2sky.config.loader import line_of, load_settings
from sim2sky.config.log_mapping import CsvFile, LogMapping
from sim2sky.errors import ConfigError, FlightLogError
from sim2sky.telemetry.importers.channels import Recording, euler_angles
from sim2sky.telemetry.importers.topics import FloatArray, ForeignLog, Topic

__all__ = ["MAPPING", "csv_recording", "mapping_of", "read_csv_folder"]

MAPPING = "mapping.yaml"
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_TRUE, _FALSE = {"true", "True", "TRUE"}, {"false", "False", "FALSE"}
_NEGATED = {"pitch", "q", "r", "set_pitch", "set_q", "set_r"}
_FROM_EAST = {"yaw", "set_heading"}


def mapping_of(folder: Path, mapping: Path | None) -> Path:
    """The mapping file: the one given, else `mapping.yaml` in the folder.

    Raises:
        ConfigError: there is none.
    """
    path = mapping or folder / MAPPING
    if not path.is_file():
        raise ConfigError(
            f"no mapping file {path}",
            hint="it says what the columns are: see docs/log-import.md; give it with --mapping",
        )
    return path


def read_csv_folder(folder: Path, mapping_path: Path) -> ForeignLog:
    """Read the columns that the mapping names.

    Rows that are too short, or whose time is no number, are left out and counted.

    Raises:
        ConfigError: the mapping is wrong, or names a file or column that is not there.
        FlightLogError: no row can be read.
    """
    mapping = load_settings(mapping_path, LogMapping)
    topics: list[Topic] = []
    damage: list[str] = []
    for i, entry in enumerate(mapping.files):
        topic, bad = _read(folder, entry, mapping_path, ("files", i))
        topics.append(topic)
        if bad:
            damage.append(f"{entry.file}: {bad} rows could not be read")
    if not any(map(len, topics)):
        raise FlightLogError(f"{folder} holds no readable row")
    simulated = "" if mapping.source == "real" else f"{mapping_path.name} says so"
    return ForeignLog(
        folder,
        "CSV folder",
        topics,
        vehicle=mapping.vehicle,
        firmware=mapping.firmware,
        simulated=simulated,
        damage=damage,
    )


def _read(folder: Path, entry: CsvFile, mapping: Path, location: tuple[str | int, ...]) -> tuple[Topic, int]:
    path = folder / entry.file

    def wrong(key: tuple[str | int, ...], what: str) -> ConfigError:
        return ConfigError(f"{mapping}:{line_of(mapping, (*location, *key))}: {what}")

    if not path.is_file():
        raise wrong(("file",), f"there is no file {path}")
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = csv.reader(line.replace("\0", "") for line in file)
        head = [name.strip() for name in next(rows, [])]
        wanted: dict[str, tuple[str | int, ...]] = {entry.time: ("time",)}
        wanted |= {c.column: ("channels", name) for name, c in entry.channels.items()}
        for key, columns in (("quaternion", entry.quaternion), ("set_quaternion", entry.set_quaternion)):
            wanted |= dict.fromkeys(columns or (), (key,))
        for column, key in wanted.items():
            if column not in head:
                raise wrong(key, f"{entry.file} has no column '{column}'; it has: {', '.join(head)}")
        places = [head.index(column) for column in wanted]
        least = max(places)
        values: list[list[float]] = []
        bad = 0
        for row in rows:
            if len(row) > least:
                values.append([_number(row[p]) for p in places])
            elif row:
                bad += 1
    table = np.array(values, np.float64).reshape(-1, len(places))
    known = np.isfinite(table[:, 0])
    bad += int((~known).sum())
    table = table[known]
    order = np.argsort(table[:, 0], kind="stable")
    fields = {column: table[order, i] for i, column in enumerate(wanted)}
    return Topic.of(entry.file, 0, table[order, 0] * _UNITS[entry.time_unit], fields), bad


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        text = text.strip()
        return 1.0 if text in _TRUE else 0.0 if text in _FALSE else np.nan


def csv_recording(log: ForeignLog, mapping_path: Path) -> Recording:
    """The channels that the mapping names, in our frames."""
    mapping, out = load_settings(mapping_path, LogMapping), Recording()
    for entry in mapping.files:
        topic = log.find(entry.file)
        if topic is None:
            continue
        turned = entry.axes == "enu_flu"
        for columns, names in (
            (entry.quaternion, ("roll", "pitch", "yaw")),
            (entry.set_quaternion, ("set_roll", "set_pitch", "")),
        ):
            if columns is not None:
                angles = euler_angles(*(topic[c] for c in columns))
                for name, angle in zip(names, angles, strict=True):
                    if name:
                        out.add(name, topic, _turned(name, angle) if turned else angle, origin=columns[0])
        for name, column in entry.channels.items():
            values = column.scale * topic[column.column] + column.offset
            out.add(name, topic, _turned(name, values) if turned else values, origin=column.column)
    begin, _ = log.span_s
    always = Topic("mapping", 0, np.array([begin]), {"on": np.ones(1)})
    for name in mapping.always:
        out.add(name, always, always["on"], origin="always")
    return out


def _turned(name: str, values: FloatArray) -> FloatArray:
    """From forward-left-up against east-north-up (REP 103) to forward-right-down against north-east-down."""
    if name in _NEGATED:
        return -values
    return 0.5 * np.pi - values if name in _FROM_EAST else values
