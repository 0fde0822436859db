"""One made-up flight, written as each of the formats that are imported, byte by byte after their specifications."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sim2sky.runtime.frames import Geodetic

HOME = Geodetic(47.4, 8.5, 500.0)
BOOT_S = 10.0  # the autopilot's clock when logging begins
UTC_S = 1_700_000_000.0  # and the world's when it was switched on
DEGREE = np.pi / 180.0


@dataclass(frozen=True)
class Truth:
    """A fixed-wing aircraft in gentle banks: smooth functions of time, so that every logged rate can be compared.

    On the ground before `takeoff_s` and after `landing_s`, armed from 2 s before to 2 s after.
    """

    duration_s: float = 40.0
    takeoff_s: float = 5.0
    landing_s: float = 35.0

    def at(self, t: np.ndarray) -> dict[str, np.ndarray]:
        """Channels in our units at times since logging began, (n,) each."""
        roll, droll = 0.4 * np.sin(0.5 * t), 0.2 * np.cos(0.5 * t)
        pitch, dpitch = 0.05 + 0.1 * np.sin(0.3 * t), 0.03 * np.cos(0.3 * t)
        yaw, dyaw = 0.25 * t + 1.0, np.full_like(t, 0.25)
        p = droll - np.sin(pitch) * dyaw
        q = np.cos(roll) * dpitch + np.sin(roll) * np.cos(pitch) * dyaw
        r = -np.sin(roll) * dpitch + np.cos(roll) * np.cos(pitch) * dyaw
        speed = 18.0 + np.sin(0.2 * t)
        return {
            "roll": roll, "pitch": pitch, "yaw": wrap(yaw), "p": p, "q": q, "r": r,
            "north": 60.0 * np.sin(0.25 * t), "east": -60.0 * np.cos(0.25 * t),
            "altitude": 100.0 + 5.0 * np.sin(0.4 * t),
            "v_north": 15.0 * np.cos(0.25 * t), "v_east": 15.0 * np.sin(0.25 * t), "v_down": -2.0 * np.cos(0.4 * t),
            "airspeed": speed, "aileron": 0.3 * np.cos(0.5 * t), "elevator": 0.1 * np.sin(0.3 * t) - 0.05,
            "rudder": 0.05 * np.sin(t), "throttle": 0.5 + 0.2 * np.sin(0.2 * t),
            "set_roll": 0.4 * np.sin(0.5 * t + 0.1), "set_pitch": 0.05 + 0.1 * np.sin(0.3 * t + 0.1),
            "set_altitude": np.full_like(t, 102.0), "set_airspeed": np.full_like(t, 18.0),
            "set_heading": wrap(yaw + 0.05),
            "armed": ((t >= self.takeoff_s - 2.0) & (t < self.landing_s + 2.0)).astype(float),
            "airborne": ((t >= self.takeoff_s) & (t < self.landing_s)).astype(float),
        }  # fmt: skip

    def times(self, rate_hz: float, phase: float = 0.0) -> np.ndarray:
        """Sample times of a sensor, since logging began."""
        return np.arange(phase / rate_hz, self.duration_s, 1.0 / rate_hz)


def wrap(angle: np.ndarray) -> np.ndarray:
    """Into (-pi, pi]."""
    return np.pi - np.mod(np.pi - angle, 2 * np.pi)


def quaternion(roll: np.ndarray, pitch: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """(n, 4) w, x, y, z."""
    cr, sr, cp, sp, cy, sy = (f(a / 2) for a in (roll, pitch, yaw) for f in (np.cos, np.sin))
    return np.column_stack(
        [
            cr * cp * cy + sr * sp * sy,
            sr * cp * cy - cr * sp * sy,
            cr * sp * cy + sr * cp * sy,
            cr * cp * sy - sr * sp * cy,
        ]
    )


# --- records of several kinds, merged by time -------------------------------------------------------------------------


def interleave(records: Sequence[tuple[np.ndarray, np.ndarray]]) -> bytes:
    """Bytes of messages in the order of their times; each entry is times (n,) and records (n, size) uint8."""
    times = np.concatenate([t for t, _ in records])
    sizes = np.concatenate([np.full(len(t), r.shape[1]) for t, r in records])
    order = np.argsort(times, kind="stable")
    offsets = np.empty(len(times), np.int64)
    offsets[order] = np.concatenate([[0], np.cumsum(sizes[order])[:-1]])
    out = np.empty(int(sizes.sum()), np.uint8)
    start = 0
    for t, r in records:
        where = offsets[start : start + len(t)]
        out[where[:, None] + np.arange(r.shape[1])] = r
        start += len(t)
    return out.tobytes()


def as_bytes(table: np.ndarray) -> np.ndarray:
    """(n, size) uint8 of a structured array."""
    return np.frombuffer(table.tobytes(), np.uint8).reshape(len(table), table.dtype.itemsize)


# --- ULog -------------------------------------------------------------------------------------------------------------

ULOG_TYPES = {
    "int8_t": "i1", "uint8_t": "u1", "int16_t": "<i2", "uint16_t": "<u2", "int32_t": "<i4", "uint32_t": "<u4",
    "int64_t": "<i8", "uint64_t": "<u8", "float": "<f4", "double": "<f8", "bool": "u1", "char": "u1",
}  # fmt: skip


@dataclass
class UlogTopic:
    """A topic: `fields` are name, ULog type (`float`, `float[4]`) and values (n,) or (n, k)."""

    name: str
    time_s: np.ndarray
    fields: Sequence[tuple[str, str, np.ndarray]]
    instance: int = 0

    def records(self, number: int) -> np.ndarray:
        """(n, size) data messages."""
        types = [("size", "<u2"), ("kind", "u1"), ("id", "<u2"), ("timestamp", "<u8")]
        columns = {}
        for name, kind, values in self.fields:
            base, _, count = kind.rstrip("]").partition("[")
            types.append((name, ULOG_TYPES[base], (int(count),)) if count else (name, ULOG_TYPES[base]))
            columns[name] = values
        table = np.zeros(len(self.time_s), np.dtype(types))
        table["size"], table["kind"], table["id"] = table.dtype.itemsize - 3, ord("D"), number
        table["timestamp"] = np.round((self.time_s + BOOT_S) * 1e6)
        for name, values in columns.items():
            table[name] = values
        return as_bytes(table)


def ulog_message(kind: str, payload: bytes) -> bytes:
    return struct.pack("<HB", len(payload), ord(kind)) + payload


def _keyed(key: str, value: bytes) -> bytes:
    return bytes([len(key)]) + key.encode() + value


def write_ulog(
    path: Path,
    topics: Sequence[UlogTopic],
    *,
    info: Mapping[str, str | int] | None = None,
    parameters: Mapping[str, float | int] | None = None,
    texts: Iterable[tuple[float, str]] = (),
    dropouts: Iterable[tuple[float, int]] = (),
    appended: bytes = b"",
) -> Path:
    """A valid ULog, after docs.px4.io, "ULog File Format"; `appended` messages follow the data as PX4 appends them."""
    head = b"ULog\x01\x12\x35\x01" + struct.pack("<Q", int(BOOT_S * 1e6))
    definitions = b""
    for key, value in (
        {"sys_name": "PX4", "ver_hw": "PX4_FMU_V5", "ver_sw_release": 0x010C03FF} | dict(info or {})
    ).items():
        if isinstance(value, str):
            definitions += ulog_message("I", _keyed(f"char[{len(value)}] {key}", value.encode()))
        else:
            definitions += ulog_message("I", _keyed(f"uint32_t {key}", struct.pack("<I", value)))
    for name in {t.name: None for t in topics}:
        topic = next(t for t in topics if t.name == name)
        text = ";".join(["uint64_t timestamp", *(f"{kind} {field}" for field, kind, _ in topic.fields), ""])
        definitions += ulog_message("F", f"{name}:{text}".encode())
    for key, value in (parameters or {}).items():
        packed = struct.pack("<i", value) if isinstance(value, int) else struct.pack("<f", value)
        definitions += ulog_message("P", _keyed(f"{'int32_t' if isinstance(value, int) else 'float'} {key}", packed))
    subscribed = b"".join(
        ulog_message("A", struct.pack("<BH", t.instance, i) + t.name.encode()) for i, t in enumerate(topics)
    )
    singles = [
        (t, ulog_message("L", b"6" + struct.pack("<Q", int((t + BOOT_S) * 1e6)) + text.encode())) for t, text in texts
    ] + [(t, ulog_message("O", struct.pack("<H", length))) for t, length in dropouts]
    records = [(t.time_s, t.records(i)) for i, t in enumerate(topics) if len(t.time_s)]
    records += [(np.array([t]), np.frombuffer(m, np.uint8)[None, :]) for t, m in singles]
    body = subscribed + (interleave(records) if records else b"")
    flags_size = 3 + 40
    offset = len(head) + flags_size + len(definitions) + len(body) if appended else 0
    flags = bytes(8) + bytes([1 if appended else 0]) + bytes(7) + struct.pack("<QQQ", offset, 0, 0)
    path.write_bytes(head + ulog_message("B", flags) + definitions + body + appended)
    return path


@dataclass
class UlogFlight:
    """`Truth` as PX4 of a release logs it; change `topics` before writing."""

    truth: Truth = field(default_factory=Truth)
    release: int = 12  # the minor version of 1.x
    attitude_hz: float = 100.0
    topics: dict[str, UlogTopic] = field(default_factory=dict)

    def __post_init__(self) -> None:
        new = self.release >= 16
        add = self._add
        c = self._at("vehicle_attitude", self.attitude_hz)
        add("q", "float[4]", quaternion(c["roll"], c["pitch"], c["yaw"]))
        c = self._at("vehicle_angular_velocity", 200.0)
        add("xyz", "float[3]", np.column_stack([c["p"], c["q"], c["r"]]))
        c = self._at("vehicle_local_position", 50.0)
        one = np.ones_like(c["roll"])
        for name, values in (("x", c["north"] + 3.0), ("y", c["east"] - 4.0), ("z", -c["altitude"] + 7.0)):
            add(name, "float", values)
        for name in ("north", "east", "down"):
            add(f"v{'xyz'[('north', 'east', 'down').index(name)]}", "float", c[f"v_{name}"])
        for name in ("xy_valid", "z_valid", "v_xy_valid", "v_z_valid"):
            add(name, "bool", one)
        self._at("home_position", 1.0)
        n = len(self._topic.time_s)
        for name, value in (("lat", HOME.latitude_deg), ("lon", HOME.longitude_deg)):
            add(name, "double", np.full(n, value))
        for name, value in (("alt", HOME.altitude_m), ("x", 3.0), ("y", -4.0), ("z", 7.0)):
            add(name, "float", np.full(n, value))
        add("valid_alt", "bool", np.ones(n))
        c = self._at("airspeed_validated", 10.0)
        add("equivalent_airspeed_m_s" if self.release < 12 else "calibrated_airspeed_m_s", "float", c["airspeed"])
        add("true_airspeed_m_s", "float", 1.05 * c["airspeed"])
        if self.release < 14:
            c = self._at("actuator_controls_0", 100.0)
            controls = [c[name] for name in ("aileron", "elevator", "rudder", "throttle")]
            add("control", "float[8]", np.column_stack([*controls, *[np.zeros_like(controls[0])] * 4]))
        else:
            c = self._at("vehicle_torque_setpoint", 100.0)
            add("xyz", "float[3]", np.column_stack([c["aileron"], c["elevator"], c["rudder"]]))
            c = self._at("vehicle_thrust_setpoint", 100.0)
            add("xyz", "float[3]", np.column_stack([c["throttle"], 0 * c["throttle"], 0 * c["throttle"]]))
        c = self._at("vehicle_attitude_setpoint", 50.0)
        if not new:
            for name in ("roll", "pitch"):
                add(f"{name}_body", "float", c[f"set_{name}"])
        add("q_d", "float[4]", quaternion(c["set_roll"], c["set_pitch"], c["set_heading"]))
        if new:
            c = self._at("fixed_wing_longitudinal_setpoint", 20.0)
            add("altitude", "float", c["set_altitude"] + HOME.altitude_m)
            add("equivalent_airspeed", "float", c["set_airspeed"])
            c = self._at("fixed_wing_lateral_setpoint", 20.0)
            add("course", "float", c["set_heading"])
        else:
            c = self._at("tecs_status", 20.0)
            add("altitude_sp", "float", c["set_altitude"] + HOME.altitude_m)
            if self.release >= 13:
                add("equivalent_airspeed_sp", "float", c["set_airspeed"])
            else:
                add("true_airspeed_sp", "float", 1.05 * c["set_airspeed"])
            c = self._at("position_controller_status", 20.0)
            add("nav_bearing", "float", c["set_heading"])
        c = self._at("vehicle_status", 2.0)
        add("nav_state", "uint8_t", np.where(c["airborne"] > 0, 3, 0))
        add("arming_state", "uint8_t", 1 + c["armed"])
        add("vehicle_type", "uint8_t", np.full_like(c["armed"], 2))
        add("hil_state", "uint8_t", np.zeros_like(c["armed"]))
        c = self._at("actuator_armed", 2.0)
        add("armed", "bool", c["armed"])
        c = self._at("vehicle_land_detected", 2.0)
        add("landed", "bool", 1 - c["airborne"])
        c = self._at("vehicle_gps_position", 5.0)
        add("time_utc_usec", "uint64_t", np.round((UTC_S + BOOT_S + self._topic.time_s) * 1e6))
        add("fix_type", "uint8_t", np.full_like(c["roll"], 3))

    def _at(self, name: str, rate_hz: float) -> dict[str, np.ndarray]:
        """Open a topic; the truth at its times."""
        phase = (sum(map(ord, name)) % 97) / 97.0
        times = self.truth.times(rate_hz, phase if rate_hz > 2.0 else 0.0)
        self._topic = self.topics[name] = UlogTopic(name, times, [])
        return self.truth.at(times)

    def _add(self, name: str, kind: str, values: np.ndarray) -> None:
        self._topic.fields = [*self._topic.fields, (name, kind, values)]

    def write(
        self,
        path: Path,
        *,
        info: Mapping[str, str | int] | None = None,
        parameters: Mapping[str, float | int] | None = None,
        **more: Any,
    ) -> Path:
        """As `write_ulog`."""
        release = {"ver_sw_release": 1 << 24 | self.release << 16 | 0xFF}
        about, given = release | dict(info or {}), {"MAV_TYPE": 1} | dict(parameters or {})
        return write_ulog(path, list(self.topics.values()), info=about, parameters=given, **more)


def small_ulog() -> bytes:
    """A short ULog's content: 40 s at a 50 Hz attitude."""
    with tempfile.TemporaryDirectory() as folder:
        return UlogFlight(attitude_hz=50.0).write(Path(folder) / "a.ulg").read_bytes()
