"""PX4's ULog through pyulog, which is kept from what a damaged file makes it do: print, recurse, read on for hours."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sim2sky.errors import FlightLogError, MissingExtraError
from sim2sky.runtime.link import mavlink
from sim2sky.telemetry.importers.topics import ForeignLog, Topic
from sim2sky.telemetry.importers.ulog_repair import repaired

__all__ = ["MAGIC", "read_ulog"]

VTOL_TYPES = range(19, 26)  # MAV_TYPE
MAGIC = b"ULog\x01\x12\x35"
MAX_FIELDS = 10_000  # of one topic; PX4's largest has some hundred
MAX_STEPS_BACK = 20_000
MAX_DEPTH = 4  # of nested message types; PX4 has 2
_VERSION_TYPES = ((255, ""), (192, " rc"), (128, " beta"), (64, " alpha"), (0, " dev"))


class _BoundedFile(io.BytesIO):
    """A file that ends early rather than being read forever, should pyulog step back too often."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._steps_back = MAX_STEPS_BACK
        self.exhausted = False

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """As `io.BytesIO`."""
        self._steps_back -= 1
        if self._steps_back < 0:
            self.exhausted = True
            return super().seek(0, io.SEEK_END)
        return super().seek(offset, whence)


def _parser() -> Any:
    try:
        from pyulog.core import ULog
    except ImportError as error:
        raise MissingExtraError("pyulog", "logs") from error

    class BoundedULog(ULog):  # type: ignore[misc]
        """Refuses message types that would unfold into millions of fields, or contain themselves."""

        class _MessageAddLogged(ULog._MessageAddLogged):  # type: ignore[misc,name-defined]
            def _parse_nested_type(self, prefix_str: str, type_name: str, message_formats: Any) -> None:
                size = sum(max(f[1], 1) for f in message_formats[type_name].fields)
                if len(self.field_data) + size > MAX_FIELDS or prefix_str.count(".") > MAX_DEPTH:
                    raise ValueError(f"message type {type_name} is too large")
                super()._parse_nested_type(prefix_str, type_name, message_formats)

    return BoundedULog


def read_ulog(path: Path, data: bytes) -> ForeignLog:
    """Read a ULog, also one that was cut off or is damaged in places: what can be read is.

    Args:
        path: for messages.
        data: the file's content.

    Raises:
        FlightLogError: not a ULog, or of a kind that cannot be read.
        MissingExtraError: pyulog is not installed.
    """
    clean, lost = repaired(data)
    parser, file = _parser(), _BoundedFile(clean)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            log = parser(file)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FlightLogError(f"{path} is not a readable ULog: {reason}") from error
    topics = []
    for d in log.data_list:
        fields = {name: values for name, values in d.data.items() if name != "timestamp"}
        if "timestamp" in d.data:
            topics.append(Topic.of(d.name, int(d.multi_id), d.data["timestamp"] * 1e-6, fields))
    damage = [f"{lost} bytes are damaged and were skipped"] if lost else []
    if log.file_corruption:
        damage.append("messages are damaged and were skipped")
    if file.exhausted:
        damage.append("the rest of the file is too damaged to be searched")
    info: dict[str, Any] = log.msg_info_dict
    parameters = {str(k): float(v) for k, v in log.initial_parameters.items() if isinstance(v, (int, float))}
    messages = [*log.logged_messages, *(m for group in log.logged_messages_tagged.values() for m in group)]
    read = ForeignLog(
        path,
        "PX4 ULog",
        topics,
        autopilot="PX4",
        parameters=parameters,
        firmware=_firmware(info),
        texts=sorted((m.timestamp * 1e-6, str(m.message).strip()) for m in messages),
        dropouts=[(d.timestamp * 1e-6, d.duration * 1e-3) for d in log.dropouts],
        damage=damage,
    )
    return replace(read, vehicle=_vehicle(read), simulated=_simulated(read, info), start_time=_start_time(read))


def _firmware(info: dict[str, Any]) -> str:
    parts = [str(info.get("sys_name", "PX4"))]
    release = info.get("ver_sw_release")
    if isinstance(release, int):
        kind = next(text for least, text in _VERSION_TYPES if release & 0xFF >= least)
        parts.append(f"{release >> 24 & 0xFF}.{release >> 16 & 0xFF}.{release >> 8 & 0xFF}{kind}")
    if isinstance(info.get("ver_sw"), str):
        parts.append(info["ver_sw"][:8])
    if isinstance(info.get("ver_hw"), str):
        parts.append(f"on {info['ver_hw']}")
    return " ".join(parts)


def _vehicle(log: ForeignLog) -> str:
    number = log.parameters.get("MAV_TYPE")
    status = log.find("vehicle_status")
    if number is None and status is not None and "system_type" in status:
        number = float(status["system_type"][-1])
    if number is not None and number in VTOL_TYPES:
        return "vtol"
    entry = mavlink.enums["MAV_TYPE"].get(int(number)) if number is not None and np.isfinite(number) else None
    return "" if entry is None else entry.name.removeprefix("MAV_TYPE_").lower().replace("_", " ")


def _simulated(log: ForeignLog, info: dict[str, Any]) -> str:
    hardware = str(info.get("ver_hw", ""))
    if "SITL" in hardware.upper():
        return f"its hardware is {hardware}"
    if log.parameters.get("SYS_HITL", 0) > 0:
        return "its parameter SYS_HITL is set"
    status = log.find("vehicle_status")
    if status is not None and "hil_state" in status and (status["hil_state"] != 0).any():
        return "its vehicle_status has hil_state on"
    for topic in log.topics:
        if topic.name.endswith("_groundtruth"):
            return f"it has the topic {topic.name}"
    return ""


def _start_time(log: ForeignLog) -> str:
    """From a GPS message that has a fix; ULog's own start is in time since boot."""
    for name in ("vehicle_gps_position", "sensor_gps"):
        gps = log.find(name)
        if gps is None or "time_utc_usec" not in gps:
            continue
        utc, fix = gps["time_utc_usec"] * 1e-6, gps.first("fix_type")
        good = np.flatnonzero((utc > 1e9) & (utc < 4e9) & (True if fix is None else fix >= 2))
        if len(good):
            start = utc[good[0]] - gps.time_s[good[0]]
            start = max(start, 0.0) if gps.time_s[good[0]] < 1e9 else utc[good[0]]
            moment = datetime.fromtimestamp(float(start), UTC)
            return moment.isoformat(timespec="seconds")
    return ""
