"""The made-up flight of `log_support` as ArduPilot's dataflash log and as a telemetry log."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pymavlink.dialects.v20 import ardupilotmega as mavlink
from tests.log_support import BOOT_S, HOME, UTC_S, Truth, as_bytes, interleave

LETTERS = {
    "b": "i1", "B": "u1", "h": "<i2", "H": "<u2", "i": "<i4", "I": "<u4", "f": "<f4", "d": "<f8", "n": "S4", "N": "S16",
    "Z": "S64", "c": "<i2", "C": "<u2", "e": "<i4", "E": "<u4", "L": "<i4", "M": "u1", "q": "<i8", "Q": "<u8",
}  # fmt: skip
SCALES = {"c": 100.0, "C": 100.0, "e": 100.0, "E": 100.0, "L": 1e7}
PARAMETERS = {
    "AHRS_EKF_TYPE": 3.0, "SERVO1_FUNCTION": 4, "SERVO2_FUNCTION": 19, "SERVO3_FUNCTION": 70, "SERVO4_FUNCTION": 21,
    **{f"SERVO{n}_{k}": v for n in range(1, 5) for k, v in (("MIN", 1100), ("TRIM", 1500), ("MAX", 1900))},
    "SERVO2_REVERSED": 1,
}  # fmt: skip
FBWA, AUTO = 5, 10


@dataclass
class Message:
    """Messages of one type: `letters` without the time's, a column each; `scale` of its own where None is wrong."""

    name: str
    letters: str
    columns: Sequence[str]
    time_s: np.ndarray
    values: Sequence[Any]
    number: int = 0

    def table(self) -> np.ndarray:
        names = ["TimeUS", *self.columns]
        kinds = "Q" + self.letters
        dtype = np.dtype(
            [("h1", "u1"), ("h2", "u1"), ("type", "u1"), *((n, LETTERS[k]) for n, k in zip(names, kinds, strict=True))]
        )
        table = np.zeros(len(self.time_s), dtype)
        table["h1"], table["h2"], table["type"] = 0xA3, 0x95, self.number
        table["TimeUS"] = np.round((self.time_s + BOOT_S) * 1e6)
        for name, kind, values in zip(self.columns, self.letters, self.values, strict=True):
            table[name] = np.round(np.asarray(values) * SCALES[kind]) if kind in SCALES else values
        return table

    def fmt(self) -> bytes:
        size = self.table().dtype.itemsize
        return fmt_message(self.number, size, self.name, "Q" + self.letters, ",".join(["TimeUS", *self.columns]))


def fmt_message(number: int, size: int, name: str, letters: str, columns: str) -> bytes:
    packed = struct.pack("<BB4s16s64s", number, size, name.encode(), letters.encode(), columns.encode())
    return b"\xa3\x95\x80" + packed


def write_dataflash(path: Path, messages: Sequence[Message]) -> Path:
    """A valid dataflash log: all FMT messages, then the rest by time."""
    for i, message in enumerate(messages):
        message.number = i + 1
    head = fmt_message(0x80, 89, "FMT", "BBnNZ", "Type,Length,Name,Format,Columns")
    head += b"".join(m.fmt() for m in messages)
    path.write_bytes(head + interleave([(m.time_s, as_bytes(m.table())) for m in messages if len(m.time_s)]))
    return path


@dataclass
class DataflashFlight:
    """`Truth` as ArduPlane 4.x logs it; change `messages` before writing."""

    truth: Truth = field(default_factory=Truth)
    attitude_hz: float = 50.0
    parameters: Mapping[str, float] = field(default_factory=lambda: dict(PARAMETERS))
    firmware: str = "ArduPlane V4.5.7 (2a3dc4b7)"
    messages: dict[str, Message] = field(default_factory=dict)

    def __post_init__(self) -> None:
        add, at = self._add, self._at
        c = at(self.attitude_hz)
        deg = {n: np.degrees(c[n]) for n in ("set_roll", "roll", "set_pitch", "pitch", "yaw")}
        add("ATT", "ccccCC", "DesRoll,Roll,DesPitch,Pitch,DesYaw,Yaw",
            deg["set_roll"], deg["roll"], deg["set_pitch"], deg["pitch"], 0 * c["yaw"], deg["yaw"] % 360.0)  # fmt: skip
        c = at(100.0)
        rates = (c["p"], c["q"], c["r"])
        both = np.repeat(self._times, 2)
        self._times, which = both, np.tile([0, 1], len(both) // 2)
        second = np.tile([1.0, 0.3], len(both) // 2)  # the other gyroscope is broken
        add("IMU", "Bffffff", "I,GyrX,GyrY,GyrZ,AccX,AccY,AccZ", which, *(np.repeat(x, 2) * second for x in rates),
            *([np.zeros(len(both))] * 3))  # fmt: skip
        c = at(25.0)
        per_north, per_east = (HOME.to_degrees_e7(1000.0, 1000.0)[i] * 1e-10 - d * 1e-3
                               for i, d in enumerate((HOME.latitude_deg, HOME.longitude_deg)))  # fmt: skip
        place = (HOME.latitude_deg + c["north"] * per_north, HOME.longitude_deg + c["east"] * per_east)
        add("POS", "LLfff", "Lat,Lng,Alt,RelHomeAlt,RelOriginAlt",
            *place, c["altitude"] + HOME.altitude_m, c["altitude"], c["altitude"])  # fmt: skip
        add("XKF1", "Bfff", "C,VN,VE,VD", 0 * c["roll"], c["v_north"], c["v_east"], c["v_down"])
        add("AETR", "ffff", "Ail,Elev,Thr,Rudd",
            4500 * c["aileron"], 4500 * c["elevator"], 100 * c["throttle"], 4500 * c["rudder"])  # fmt: skip
        widths = (1500 + 400 * c["aileron"], 1500 - 400 * c["elevator"], 1100 + 800 * c["throttle"],
                  1500 + 400 * c["rudder"])  # fmt: skip
        add("RCOU", "HHHH", "C1,C2,C3,C4", *map(np.round, widths))
        add("NTUN", "ccf", "NavBrg,AltE,TAsp", np.degrees(c["set_heading"]), 0 * c["roll"], c["set_airspeed"])
        c = at(10.0)
        add("ARSP", "BfB", "I,Airspeed,H", 0 * c["roll"], c["airspeed"], 1 + 0 * c["roll"])
        add("TECS", "fff", "h,hin,hdem", c["altitude"], c["set_altitude"], c["set_altitude"] - 3)
        c = at(5.0)
        t = self._times + BOOT_S + UTC_S - 315_964_800 + 18
        week, still = t // 604800, [np.full_like(t, x) for x in (HOME.latitude_deg, HOME.longitude_deg, 500.0, 0, 0, 0)]
        add("GPS", "BBIHLLefff", "I,Status,GMS,GWk,Lat,Lng,Alt,Spd,GCrs,VZ",
            0 * t, 3 + 0 * t, np.round(t % 604800 * 1e3), week, *still)  # fmt: skip
        add("STAT", "BfB", "isFlying,isFlyProb,Armed", c["airborne"], c["airborne"], c["armed"])
        self._times = np.array([0.0])
        add("ORGN", "BLLe", "Type,Lat,Lng,Alt", [1], [HOME.latitude_deg], [HOME.longitude_deg], [HOME.altitude_m])
        self._times = np.array([0.0, self.truth.takeoff_s + 1.0])
        add("MODE", "MBB", "Mode,ModeNum,Rsn", [FBWA, AUTO], [FBWA, AUTO], [0, 0])
        self._times = np.array([0.0])
        add("MSG", "Z", "Message", np.array([self.firmware.encode()]))

    def _at(self, rate_hz: float) -> dict[str, np.ndarray]:
        self._times = self.truth.times(rate_hz, (rate_hz * 0.37) % 1.0 if rate_hz > 5 else 0.0)
        return self.truth.at(self._times)

    def _add(self, name: str, letters: str, columns: str, *values: Any) -> None:
        self.messages[name] = Message(name, letters, columns.split(","), self._times, values)

    def write(self, path: Path) -> Path:
        """As `write_dataflash`, with FMTU for the instance columns and the parameters."""
        names, values = list(self.parameters), list(self.parameters.values())
        self._times = np.zeros(len(names))
        self._add("PARM", "Nf", "Name,Value", np.array([n.encode() for n in names]), values)
        order = list(self.messages)
        units = [("IMU", "s#------"), ("GPS", "s#----------"), ("ARSP", "s#--"), ("XKF1", "s#---")]
        units = [(n, u) for n, u in units if n in order]
        self._times = np.zeros(len(units))
        numbers = [order.index(n) + 1 for n, _ in units]
        self._add("FMTU", "BNN", "FmtType,UnitIds,MultIds", numbers, [u.encode() for _, u in units], [b""] * len(units))
        return write_dataflash(path, list(self.messages.values()))


@dataclass
class TlogFlight:
    """`Truth` as a ground station hears it from ArduPlane; change `frames` (time_s, system, component, message).

    Receipt is 20 to 60 ms after the autopilot's own time.
    """

    truth: Truth = field(default_factory=Truth)
    autopilot: int = mavlink.MAV_AUTOPILOT_ARDUPILOTMEGA
    parameters: Mapping[str, float] = field(default_factory=lambda: dict(PARAMETERS))
    base_mode: int = 1
    frames: list[tuple[float, int, int, Any]] = field(default_factory=list)
    version1: bool = False

    def __post_init__(self) -> None:
        m, add = mavlink, self.add
        for name, value in self.parameters.items():
            add(0.0, m.MAVLink_param_value_message(name.encode(), float(value), 9, 100, 0))
        for t, c in self._rows(25.0):
            ms = round((t + BOOT_S) * 1e3)
            add(t, m.MAVLink_attitude_message(ms, *(c[n] for n in ("roll", "pitch", "yaw", "p", "q", "r"))))
            degrees = HOME.to_degrees_e7(c["north"], c["east"])
            altitude = round(c["altitude"] * 1e3)
            velocity = (round(c[n] * 100) for n in ("v_north", "v_east", "v_down"))
            above_sea = altitude + round(HOME.altitude_m * 1e3)
            add(t, m.MAVLink_global_position_int_message(ms, *degrees, above_sea, altitude, *velocity, 0))
        for t, c in self._rows(10.0):
            add(t, m.MAVLink_vfr_hud_message(c["airspeed"], 15.0, 0, 50, c["altitude"] + HOME.altitude_m, 0.0))
            widths = (1500 + 400 * c["aileron"], 1500 - 400 * c["elevator"], 1100 + 800 * c["throttle"],
                      1500 + 400 * c["rudder"])  # fmt: skip
            add(t, m.MAVLink_servo_output_raw_message(0, 0, *map(round, widths), 0, 0, 0, 0))
            bearing = round(np.degrees(c["set_heading"]))
            errors = (c["set_altitude"] - c["altitude"], 100.0 * (c["set_airspeed"] - c["airspeed"]))
            nav = [np.degrees(c[n]) for n in ("set_roll", "set_pitch")]
            add(t, m.MAVLink_nav_controller_output_message(*nav, bearing, bearing, 0, *errors, 0.0))
        for t, c in self._rows(1.0):
            mode = self.base_mode | (128 if c["armed"] else 0)
            state = 4 if c["airborne"] else 3
            add(t, m.MAVLink_heartbeat_message(1, self.autopilot, mode, AUTO, state, 3))
            add(t, m.MAVLink_heartbeat_message(6, 8, 0, 0, 4, 3), system=255, component=190)
            add(t, m.MAVLink_gps_raw_int_message(0, 3, *HOME.to_degrees_e7(0, 0), 500000, 1, 1, 0, 0, 10))
        add(0.0, m.MAVLink_home_position_message(*HOME.to_degrees_e7(0, 0), 500000, 0, 0, 0, [1, 0, 0, 0], 0, 0, 0))
        add(1.0, m.MAVLink_statustext_message(6, b"ArduPlane V4.5.7 (2a3dc4b7)"))

    def _rows(self, rate_hz: float) -> list[tuple[float, dict[str, float]]]:
        times = self.truth.times(rate_hz)
        channels = self.truth.at(times)
        return [(float(t), {n: float(v[i]) for n, v in channels.items()}) for i, t in enumerate(times)]

    def add(self, time_s: float, message: Any, *, system: int = 1, component: int = 1) -> None:
        self.frames.append((time_s, system, component, message))

    def write(self, path: Path, seed: int = 0) -> Path:
        """A valid tlog."""
        rng = np.random.default_rng(seed)
        packers: dict[tuple[int, int], Any] = {}
        received = sorted((t + rng.uniform(0.02, 0.06), i) for i, (t, *_) in enumerate(self.frames))
        out = bytearray()
        for t, i in received:
            _, system, component, message = self.frames[i]
            packer = packers.setdefault((system, component), mavlink.MAVLink(None, system, component))
            frame = bytes(message.pack(packer, force_mavlink1=self.version1))
            out += struct.pack(">Q", round((UTC_S + BOOT_S + t) * 1e6)) + frame
        path.write_bytes(bytes(out))
        return path
