"""Telemetry logs (`.tlog`): MAVLink frames as a ground station received them, a whole message type at a time.

pymavlink's dialect says how messages are laid out; frames are cut, checked (CRC) and unpacked with numpy, some 30 times
faster than one by one. Format: eight bytes of microseconds since 1970, big-endian, before each frame.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("MAVLINK20", "1")

import numpy as np
from numpy.typing import NDArray
from pymavlink.dialects.v20 import ardupilotmega as mavlink

from sim2sky.errors import FlightLogError
from sim2sky.telemetry.importers.topics import EMPTY, FloatArray, ForeignLog, Topic, running_median

__all__ = ["looks_like_tlog", "read_tlog"]

V1, V2 = 0xFE, 0xFD
STAMP = 8
SIGNED, SIGNATURE = 1, 13
MAX_SEARCHES = 2_000_000
EARLIEST_US, LATEST_US = 10**15, 4 * 10**15  # 2001 to 2096
REBOOT_S = 2.0
_VTOL_TYPES = range(19, 26)
_AUTOPILOTS = {mavlink.MAV_AUTOPILOT_ARDUPILOTMEGA: "ArduPilot", mavlink.MAV_AUTOPILOT_PX4: "PX4"}
_SIMULATION = ("SIMSTATE", "SIM_STATE", "HIL_STATE_QUATERNION", "HIL_ACTUATOR_CONTROLS", "HIL_SENSOR", "HIL_STATE")
_FIRMWARE = re.compile(r"(Ardu\w+|PX4)\b.*\d")


def looks_like_tlog(data: bytes) -> bool:
    """Whether a file begins with a time stamp and a frame."""
    stamp = int.from_bytes(data[:STAMP], "big")
    return len(data) > STAMP and data[STAMP] in {V1, V2} and EARLIEST_US < stamp < LATEST_US


@dataclass(frozen=True)
class _Frames:
    """Frames of one message type from one sender: (n,) receipt in s, (n, size) payloads filled up with zeros."""

    layout: _Layout
    system: int
    component: int
    receipt_s: FloatArray
    table: NDArray[Any]


@dataclass(frozen=True)
class _Layout:
    name: str
    dtype: np.dtype[Any]
    crc_extra: int

    @classmethod
    def of(cls, number: int) -> _Layout | None:
        """Of a message number; None where the dialect does not know it."""
        message = mavlink.mavlink_map.get(number)
        if message is None:
            return None
        letters = re.findall(r"\d*[a-zA-Z]", message.unpacker.format.lstrip("<"))
        kinds = {"s": "S", "c": "S1", "d": "<f8", "f": "<f4", "q": "<i8", "Q": "<u8", "i": "<i4", "I": "<u4",
                 "h": "<i2", "H": "<u2", "b": "i1", "B": "u1"}  # fmt: skip
        fields: list[tuple[Any, ...]] = []
        for name, letter in zip(message.ordered_fieldnames, letters, strict=True):
            count, kind = letter[:-1], letter[-1]
            if kind == "s":
                fields.append((name, f"S{count or 1}"))
            elif count and int(count) > 1:
                fields.append((name, kinds[kind], (int(count),)))
            else:
                fields.append((name, kinds[kind]))
        return cls(message.msgname, np.dtype(fields), message.crc_extra)


def read_tlog(path: Path, data: bytes) -> ForeignLog:
    """Read a telemetry log, also one that was cut off or is damaged in places.

    The clock is the autopilot's (`time_boot_ms`) where messages carry it, and the receipt's, turned into it, elsewhere.

    Args:
        path: for messages.
        data: the file's content.

    Raises:
        FlightLogError: there is no frame of an autopilot in it.
    """
    groups, lost = _walk(data)
    frames: list[_Frames] = []
    broken = 0
    for (number, system, component), where in groups.items():
        layout = _Layout.of(number)
        if layout is not None:
            found, bad = _unpack(data, layout, system, component, np.array(where, np.int64))
            broken += bad
            if len(found.receipt_s):
                frames.append(found)
    beats = [f for f in frames if f.layout.name == "HEARTBEAT" and _is_autopilot(f.table)]
    if not beats:
        raise FlightLogError(f"{path} is not a readable tlog: no heartbeat of an autopilot in it")
    beat = max(beats, key=lambda f: len(f.receipt_s))
    clock = _clock([f for f in frames if f.system == beat.system])
    topics = [_topic(f, clock, beat) for f in frames if f.layout.name not in {"STATUSTEXT", "PARAM_VALUE"}]
    own = [f for f in frames if f.system == beat.system]
    texts = sorted(
        (float(t), _string(text))
        for f in own
        if f.layout.name == "STATUSTEXT"
        for t, text in zip(clock(f.receipt_s, None), f.table["text"], strict=True)
    )
    damage = [f"{lost} bytes are damaged and were skipped"] if lost else []
    damage += [f"{broken} frames with a wrong checksum were left out"] if broken else []
    kind = int(beat.table["type"][-1])
    log = ForeignLog(
        path,
        "MAVLink tlog",
        topics,
        autopilot=_AUTOPILOTS.get(int(beat.table["autopilot"][-1]), ""),
        vehicle="vtol" if kind in _VTOL_TYPES else _enum("MAV_TYPE", kind),
        parameters=_parameters(own),
        texts=texts,
        damage=damage,
    )
    start = float(beat.receipt_s[0] - clock(beat.receipt_s[:1], None)[0])
    return replace(
        log,
        firmware=_firmware(log, own),
        simulated=_simulated(log, beat),
        start_time=datetime.fromtimestamp(start, UTC).isoformat(timespec="seconds"),
    )


def _walk(data: bytes) -> tuple[dict[tuple[int, int, int], list[int]], int]:
    """Offsets of time stamps by message number, system and component, and how many bytes belong to no frame.

    After damage a frame counts only if another one, or the end, follows it.
    """
    groups: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    end, i, lost, searches, sure = len(data), 0, 0, 0, True
    while i + STAMP + 8 <= end:
        at = i + STAMP
        magic = data[at]
        size = 0
        if magic == V2 and at + 12 <= end:
            size = data[at + 1] + 12 + (SIGNATURE if data[at + 2] & SIGNED else 0)
        elif magic == V1:
            size = data[at + 1] + 8
        after = at + size
        follows = sure or after == end or (after + STAMP < end and data[after + STAMP] in {V1, V2})
        if size and after <= end and follows:
            if magic == V2:
                number = data[at + 7] | data[at + 8] << 8 | data[at + 9] << 16
                groups[number, data[at + 5], data[at + 6]].append(i)
            else:
                groups[data[at + 5], data[at + 3], data[at + 4]].append(i)
            sure = after == end or (after + STAMP < end and data[after + STAMP] in {V1, V2})
            i = after
            continue
        searches += 1
        if searches > MAX_SEARCHES:
            break
        following = [p for p in (data.find(b"\xfd", at + 1), data.find(b"\xfe", at + 1)) if p >= 0]
        nearest = min(following) - STAMP if following else end
        lost += nearest - i
        i, sure = nearest, False
    return groups, lost + max(end - i, 0)


def _unpack(
    data: bytes, layout: _Layout, system: int, component: int, starts: NDArray[np.int64]
) -> tuple[_Frames, int]:
    """Frames with a right checksum, and how many had a wrong one."""
    raw = np.frombuffer(data, np.uint8)
    version1 = raw[starts + STAMP] == V1
    lengths = raw[starts + STAMP + 1].astype(np.int64)
    size = layout.dtype.itemsize
    stamps: list[NDArray[Any]] = []
    payloads: list[NDArray[np.uint8]] = []
    bad = 0
    for old in (False, True):
        head = 6 if old else 10
        for length in np.unique(lengths[version1 == old]).tolist():
            at = starts[(version1 == old) & (lengths == length)]
            rows = raw[at[:, None] + np.arange(STAMP + head + length + 2)]
            good = _crc(rows[:, STAMP + 1 : STAMP + head + length], layout.crc_extra) == (
                rows[:, -2].astype(np.uint16) | rows[:, -1].astype(np.uint16) << 8
            )
            bad += int((~good).sum())
            payload = np.zeros((int(good.sum()), size), np.uint8)
            kept = min(length, size)
            payload[:, :kept] = rows[good, STAMP + head : STAMP + head + kept]
            payloads.append(payload)
            stamps.append(np.ascontiguousarray(rows[good, :STAMP]).view(">u8").reshape(-1))
    receipt = np.concatenate(stamps).astype(np.float64) * 1e-6
    table = np.ascontiguousarray(np.concatenate(payloads)).view(layout.dtype).reshape(-1)
    plausible = (receipt > EARLIEST_US * 1e-6) & (receipt < LATEST_US * 1e-6)
    order = np.flatnonzero(plausible)[np.argsort(receipt[plausible], kind="stable")]
    return _Frames(layout, system, component, receipt[order], table[order]), bad


def _crc_table() -> NDArray[np.uint16]:
    table = np.arange(256, dtype=np.uint16)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ 0x8408, table >> 1).astype(np.uint16)
    return table


_CRC = _crc_table()


def _crc(rows: NDArray[np.uint8], extra: int) -> NDArray[np.uint16]:
    """CRC-16/MCRF4XX of each row and the message's extra byte."""
    crc = np.full(len(rows), 0xFFFF, np.uint16)
    for column in [*rows.T, np.full(len(rows), extra, np.uint8)]:
        crc = (crc >> np.uint16(8)) ^ _CRC[(crc ^ column) & np.uint16(0xFF)]
    return crc


def _is_autopilot(table: NDArray[Any]) -> bool:
    speaks = table["autopilot"] != mavlink.MAV_AUTOPILOT_INVALID
    return bool((speaks & (table["type"] != mavlink.MAV_TYPE_GCS)).any())


Clock = Callable[[FloatArray, FloatArray | None], FloatArray]


def _clock(frames: Sequence[_Frames]) -> Clock:
    """The autopilot's clock, restarts counted on: of receipts (s), or of `time_boot_ms` with their receipts.

    Between two restarts the clock's offset is the smallest difference seen: the message that was least delayed.
    """
    stamped = [f for f in frames if "time_boot_ms" in (f.table.dtype.names or ())]
    receipt = np.concatenate([f.receipt_s for f in stamped]) if stamped else EMPTY
    boot = np.concatenate([f.table["time_boot_ms"] * 1e-3 for f in stamped]) if stamped else EMPTY
    if not len(receipt):
        first = min(float(f.receipt_s[0]) for f in frames)
        return lambda received, _: received - first
    order = np.argsort(receipt, kind="stable")
    receipt, offset = receipt[order], receipt[order] - boot[order]
    # A restart lifts the offset for good; a single odd stamp does not.
    smooth = running_median(offset, 9)
    restarts = [0, *(np.flatnonzero(np.diff(smooth) > REBOOT_S) + 1).tolist(), len(receipt)]
    sessions = [(lo, hi) for lo, hi in pairwise(restarts) if hi > lo]
    begins = np.array([receipt[lo] for lo, _ in sessions])
    typical = [float(np.median(offset[lo:hi])) for lo, hi in sessions]
    offsets = np.array(
        [
            float(np.min(offset[lo:hi][np.abs(offset[lo:hi] - m) < REBOOT_S], initial=m))
            for (lo, hi), m in zip(sessions, typical, strict=True)
        ]
    )

    def at(received: FloatArray, stamps: FloatArray | None) -> FloatArray:
        session = np.maximum(np.searchsorted(begins, received + 1e-9, side="right") - 1, 0)
        if stamps is None:
            return received - offsets[0]
        return stamps + (offsets[session] - offsets[0])

    return at


def _topic(frames: _Frames, clock: Clock, beat: _Frames) -> Topic:
    """Instance 0 is the autopilot; others are 256 times the system plus the component."""
    ours = (frames.system, frames.component) == (beat.system, beat.component)
    table = frames.table
    names = table.dtype.names or ()
    stamps = table["time_boot_ms"] * 1e-3 if ours and "time_boot_ms" in names else None
    time = clock(frames.receipt_s, stamps)
    order = np.argsort(time, kind="stable")
    fields: dict[str, NDArray[Any]] = {}
    for name in names:
        if table[name].ndim == 1:
            fields[name] = table[name][order]
        else:
            fields |= {f"{name}[{i}]": table[name][order, i] for i in range(table[name].shape[1])}
    instance = 0 if ours else frames.system * 256 + frames.component
    return Topic.of(frames.layout.name, instance, time[order], fields)


def _string(value: Any) -> str:
    return bytes(value).split(b"\0")[0].decode("utf-8", "replace").strip()


def _enum(name: str, value: int) -> str:
    entry = mavlink.enums[name].get(value)
    return "" if entry is None else entry.name.removeprefix(name + "_").lower().replace("_", " ")


def _parameters(frames: Sequence[_Frames]) -> dict[str, float]:
    """First value of each. PX4 puts the bytes of an integer into the float; those are not needed here."""
    values: dict[str, float] = {}
    for f in frames:
        if f.layout.name == "PARAM_VALUE":
            for name, value in zip(f.table["param_id"], f.table["param_value"].tolist(), strict=True):
                values.setdefault(_string(name), float(value))
    return values


def _firmware(log: ForeignLog, frames: Sequence[_Frames]) -> str:
    said = next((text for _, text in log.texts if _FIRMWARE.match(text)), "")
    version = next((f.table["flight_sw_version"] for f in frames if f.layout.name == "AUTOPILOT_VERSION"), None)
    if said or version is None:
        return said
    number = int(version[-1])
    return f"{log.autopilot} {number >> 24 & 0xFF}.{number >> 16 & 0xFF}.{number >> 8 & 0xFF}".strip()


def _simulated(log: ForeignLog, beat: _Frames) -> str:
    if (beat.table["base_mode"] & mavlink.MAV_MODE_FLAG_HIL_ENABLED).any():
        return "its heartbeats have the HIL flag"
    for topic in log.topics:
        if topic.name in _SIMULATION:
            return f"it has {topic.name} messages"
    parameter = next((name for name in log.parameters if name.startswith("SIM_")), None)
    return f"it has the parameter {parameter}" if parameter else ""
