"""ArduPilot's dataflash logs (`.bin`), a whole message type at a time.

pymavlink's DFReader makes an object per message, some 30 times slower; the tests compare the two. Format: ArduPilot
`AP_Logger/LogStructure.h`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.errors import FlightLogError
from sim2sky.telemetry.importers.topics import ForeignLog, Topic

__all__ = ["MAGIC", "read_dataflash"]

HEAD = b"\xa3\x95"
FMT, FMT_SIZE = 0x80, 89
MAGIC = HEAD + bytes([FMT])
MAX_SEARCHES = 2_000_000
GPS_EPOCH_S, LEAP_S, WEEK_S = 315_964_800, 18, 604_800
SITL_BOARD = 3

# Format letter: numpy type, factor.
_LETTERS: dict[str, tuple[str, float]] = {
    "a": ("(32,)<i2", 1.0), "b": ("i1", 1.0), "B": ("u1", 1.0), "h": ("<i2", 1.0), "H": ("<u2", 1.0),
    "i": ("<i4", 1.0), "I": ("<u4", 1.0), "f": ("<f4", 1.0), "d": ("<f8", 1.0), "n": ("S4", 1.0), "N": ("S16", 1.0),
    "Z": ("S64", 1.0), "c": ("<i2", 0.01), "C": ("<u2", 0.01), "e": ("<i4", 0.01), "E": ("<u4", 0.01),
    "L": ("<i4", 1e-7), "M": ("u1", 1.0), "q": ("<i8", 1.0), "Q": ("<u8", 1.0), "g": ("<f2", 1.0),
}  # fmt: skip
_NOT_TOPICS = ("FMT", "FMTU", "UNIT", "MULT", "PARM", "MSG", "FILE")  # tables, not signals
_INSTANCE_UNIT = "#"
_INSTANCES = ("I", "C", "Instance", "Inst", "IMU")  # before FMTU said which column it is


@dataclass(frozen=True)
class _Format:
    name: str
    size: int
    dtype: np.dtype[Any]
    factors: Mapping[str, float]

    @classmethod
    def parse(cls, payload: bytes) -> tuple[int, _Format] | None:
        """Type number and layout in an FMT message; None where its parts contradict each other."""
        number, size, name, letters, columns = struct.unpack("<BB4s16s64s", payload)
        kinds = letters.split(b"\0")[0].decode("ascii", "replace")
        names = [n for n in columns.split(b"\0")[0].decode("ascii", "replace").split(",") if n]
        title = name.split(b"\0")[0].decode("ascii", "replace")
        if len(kinds) != len(names) or len(set(names)) != len(names) or any(k not in _LETTERS for k in kinds):
            return None
        dtype = np.dtype([(n, _LETTERS[k][0]) for n, k in zip(names, kinds, strict=True)])
        if not title.isalnum() or dtype.itemsize + 3 != size or (number == FMT) != (title == "FMT"):
            return None
        factors = {n: _LETTERS[k][1] for n, k in zip(names, kinds, strict=True) if _LETTERS[k][1] != 1.0}
        return number, cls(title, size, dtype, factors)


def read_dataflash(path: Path, data: bytes) -> ForeignLog:
    """Read a dataflash log, also one that was cut off or is damaged in places.

    Args:
        path: for messages.
        data: the file's content.

    Raises:
        FlightLogError: there is no message in it.
    """
    formats, starts, lost, tail = _walk(data)
    tables = {formats[n].name: _table(data, formats[n], at) for n, at in starts.items() if n in formats and len(at)}
    if not any("TimeUS" in (t.dtype.names or ()) or "TimeMS" in (t.dtype.names or ()) for t in tables.values()):
        raise FlightLogError(f"{path} is not a readable dataflash log: no message with a time in it")
    scaled = {f.name: f.factors for f in formats.values()}
    instance_of = _instance_columns(tables, formats)
    topics = [
        topic
        for name, table in tables.items()
        if name not in _NOT_TOPICS
        for topic in _topics(name, table, scaled.get(name, {}), instance_of.get(name))
    ]
    texts = _texts(tables)
    damage = [f"{lost} bytes are damaged and were skipped"] if lost else []
    damage += ["the file ends within a message"] if tail else []
    log = ForeignLog(
        path,
        "ArduPilot dataflash",
        topics,
        autopilot="ArduPilot",
        firmware=next((t for _, t in texts if t.startswith(("Ardu", "APM:"))), ""),
        parameters=_parameters(tables),
        texts=texts,
        damage=damage,
    )
    return replace(
        log,
        vehicle=_vehicle(log),
        simulated=_simulated(log),
        start_time=_start_time(log),
        dropouts=_dropouts(log),
    )


def _walk(data: bytes) -> tuple[dict[int, _Format], dict[int, NDArray[np.int64]], int, int]:
    """Layouts, where messages of each type start, and how many bytes within and at the end belong to none.

    After damage a message counts only if another one, or the end, follows it.
    """
    formats: dict[int, _Format] = {}
    sizes = [0] * 256
    sizes[FMT] = FMT_SIZE
    starts: list[list[int]] = [[] for _ in range(256)]
    end, i, lost, searches, sure = len(data), 0, 0, 0, True
    while i + 3 <= end:
        if data[i] == 0xA3 and data[i + 1] == 0x95:
            kind = data[i + 2]
            after = i + sizes[kind]
            follows = sure or after == end or data[after : after + 2] == HEAD
            if after > i and after <= end and follows:
                if kind == FMT:
                    found = _Format.parse(data[i + 3 : after])
                    if found is not None and found[0] not in formats:
                        formats[found[0]] = found[1]
                        sizes[found[0]] = found[1].size
                starts[kind].append(i)
                i, sure = after, True
                continue
        if sure and data[i : i + 2] == HEAD and end - i < max(sizes[data[i + 2]], 4):
            break
        searches += 1
        nearest = data.find(HEAD, i + 1) if searches < MAX_SEARCHES else -1
        nearest = end if nearest < 0 else nearest
        lost += nearest - i
        i, sure = nearest, False
    return formats, {n: np.array(at, np.int64) for n, at in enumerate(starts)}, lost, max(end - i, 0)


def _table(data: bytes, layout: _Format, starts: NDArray[np.int64]) -> NDArray[Any]:
    size = layout.dtype.itemsize
    rows = np.frombuffer(data, np.uint8)[starts[:, None] + np.arange(3, 3 + size)]
    return np.ascontiguousarray(rows).view(layout.dtype).reshape(-1)


def _instance_columns(tables: Mapping[str, NDArray[Any]], formats: Mapping[int, _Format]) -> dict[str, str]:
    """Which column tells one sensor from another, by message name."""
    found: dict[str, str] = {}
    units = tables.get("FMTU")
    if units is not None and {"FmtType", "UnitIds"} <= set(units.dtype.names or ()):
        for row in units:
            layout = formats.get(int(row["FmtType"]))
            letters = bytes(row["UnitIds"]).decode("ascii", "replace")
            if layout is not None and _INSTANCE_UNIT in letters:
                names = layout.dtype.names or ()
                if letters.index(_INSTANCE_UNIT) < len(names):
                    found[layout.name] = names[letters.index(_INSTANCE_UNIT)]
        return found
    for name, table in tables.items():
        second = (table.dtype.names or ("", ""))[1:2]
        if second and second[0] in _INSTANCES and table.dtype[second[0]].kind in "iu":
            found[name] = second[0]
    return found


def _topics(name: str, table: NDArray[Any], factors: Mapping[str, float], instance: str | None) -> list[Topic]:
    names = table.dtype.names or ()
    clock = next((n for n in ("TimeUS", "TimeMS") if n in names), None)
    if clock is None:
        return []
    scale = 1e-6 if clock == "TimeUS" else 1e-3
    split = [(0, slice(None))]
    if instance is not None and table.dtype[instance].kind in "iu":
        numbers = table[instance]
        split = [(int(n), numbers == n) for n in np.unique(numbers)]
    topics: list[Topic] = []
    for number, rows in split:
        part = table[rows]
        fields = {n: part[n] * factors[n] if n in factors else part[n] for n in names if n != clock}
        topics.append(Topic.of(name, number, part[clock] * scale, fields))
    return topics


def _string(value: Any) -> str:
    return bytes(value).split(b"\0")[0].decode("utf-8", "replace").strip()


def _texts(tables: Mapping[str, NDArray[Any]]) -> list[tuple[float, str]]:
    table = tables.get("MSG")
    if table is None or not {"TimeUS", "Message"} <= set(table.dtype.names or ()):
        return []
    return [(float(row["TimeUS"]) * 1e-6, _string(row["Message"])) for row in table]


def _parameters(tables: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """First value of each."""
    table = tables.get("PARM")
    if table is None or not {"Name", "Value"} <= set(table.dtype.names or ()):
        return {}
    values: dict[str, float] = {}
    for name, value in zip(table["Name"].tolist(), table["Value"].tolist(), strict=True):
        values.setdefault(_string(name), float(value))
    return values


def _vehicle(log: ForeignLog) -> str:
    if "Plane" in log.firmware:
        return "vtol" if log.parameters.get("Q_ENABLE", 0.0) > 0 else "fixed wing"
    for word, vehicle in (("Copter", "multirotor"), ("Heli", "helicopter"), ("Rover", "rover"), ("Sub", "submarine")):
        if word in log.firmware:
            return vehicle
    return ""


def _simulated(log: ForeignLog) -> str:
    for name in ("SIM", "SIM2"):
        if log.find(name) is not None:
            return f"it has {name} messages"
    version = log.find("VER")
    if version is not None and "BT" in version and (version["BT"] == SITL_BOARD).any():
        return "its board type is SITL"
    parameter = next((name for name in log.parameters if name.startswith("SIM_")), None)
    return f"it has the parameter {parameter}" if parameter else ""


def _start_time(log: ForeignLog) -> str:
    gps = log.find("GPS")
    if gps is None or not {"GMS", "GWk"} <= set(gps.fields):
        return ""
    known = np.flatnonzero((gps["GWk"] > 1000) & (gps["GWk"] < 5000))
    if not len(known):
        return ""
    i = known[-1]
    utc = GPS_EPOCH_S + WEEK_S * gps["GWk"][i] + 1e-3 * gps["GMS"][i] - LEAP_S - gps.time_s[i]
    return datetime.fromtimestamp(float(utc), UTC).isoformat(timespec="seconds")


def _dropouts(log: ForeignLog) -> list[tuple[float, float]]:
    """When the logger says that it lost messages; it does not say for how long."""
    statistics = log.find("DSF")
    if statistics is None or "Dp" not in statistics:
        return []
    lost = np.flatnonzero(np.diff(statistics["Dp"]) > 0) + 1
    return [(float(statistics.time_s[i]), 0.0) for i in lost]
