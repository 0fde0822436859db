"""The serial protocol of a small flight controller (Teensy): fixed frames of float32, a checksum, nothing else.

A frame is AA 55 (in this order), the payload's length (one byte), the payload, and a CRC-16 of length and payload, low
byte first. Payloads are little-endian float32.
In: time (s), roll, pitch, yaw (rad), p, q, r (rad/s), ax, ay, az (m/s^2), latitude, longitude (deg), altitude (m).
Out: aileron, elevator, rudder (-1..1, as `Command`), throttle (0..1).
"""

from __future__ import annotations

import math
import struct
from dataclasses import astuple, dataclass

from sim2sky.agent.contract import Contract
from sim2sky.errors import LinkError, NotSupportedError
from sim2sky.runtime.channel import Channel
from sim2sky.runtime.clock import Clock
from sim2sky.runtime.frames import Geodetic
from sim2sky.runtime.sender_clock import SenderClock
from sim2sky.runtime.state import Command, Sample
from sim2sky.runtime.vehicle import Asked, Control, Reading, Status

__all__ = [
    "FrameReader",
    "TeensyState",
    "TeensyVehicle",
    "command_frame",
    "crc16",
    "decode_command",
    "decode_state",
    "encode_frame",
    "state_frame",
]

HEADER = b"\xaa\x55"
OVERHEAD = 5
MAX_PAYLOAD = 255
_STATE = struct.Struct("<13f")
_COMMAND = struct.Struct("<4f")
_S = 1_000_000_000
CLIMB_FILTER_S = 0.5


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0xA001 if byte & 1 else 0)  # noqa: PLW2901
        table.append(byte)
    return tuple(table)


_CRC = _crc_table()


def crc16(data: bytes | bytearray) -> int:
    """CRC-16 with the reflected polynomial 0xA001 and the initial value 0xFFFF (known as CRC-16/MODBUS)."""
    crc = 0xFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc


def encode_frame(payload: bytes) -> bytes:
    """A frame around a payload of up to 255 bytes."""
    body = bytes((len(payload),)) + payload
    return HEADER + body + crc16(body).to_bytes(2, "little")


def command_frame(command: Command) -> bytes:
    """The frame that commands the actuators."""
    return encode_frame(_COMMAND.pack(*command))


@dataclass(frozen=True, slots=True)
class TeensyState:
    """The 13 values of an incoming frame, in order and in their own units."""

    time_s: float
    roll_rad: float
    pitch_rad: float
    yaw_rad: float
    p_radps: float
    q_radps: float
    r_radps: float
    ax_mps2: float
    ay_mps2: float
    az_mps2: float
    latitude_deg: float
    longitude_deg: float
    altitude_m: float

    @property
    def usable(self) -> bool:
        """All finite, and angles, rates and position within what an aircraft can have."""
        s = self
        return (
            all(map(math.isfinite, astuple(s)))
            and 0.0 <= s.time_s < 1e6
            and max(abs(s.roll_rad), abs(s.yaw_rad) / 2.0) <= math.pi + 1e-3
            and abs(s.pitch_rad) <= math.pi / 2.0 + 1e-3
            and max(abs(s.p_radps), abs(s.q_radps), abs(s.r_radps)) <= 100.0
            and abs(s.latitude_deg) <= 90.0
            and abs(s.longitude_deg) <= 180.0
            and abs(s.altitude_m) <= 20_000.0
        )


def state_frame(state: TeensyState) -> bytes:
    """The frame a flight controller sends."""
    return encode_frame(_STATE.pack(*astuple(state)))


class FrameReader:
    """Finds frames in a stream of bytes.

    Attributes:
        damaged: places where bytes were no frame.
        frames: good ones, of any length.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self.damaged = 0
        self.frames = 0

    @property
    def pending(self) -> int:
        """Bytes that may be the beginning of a frame."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[bytes]:
        """Payloads of the frames that are complete now."""
        pending = self._pending
        pending += data
        payloads: list[bytes] = []
        position = 0
        while len(pending) - position >= OVERHEAD:
            start = pending.find(HEADER, position)
            if start != position:
                self.damaged += 1
                position = start if start >= 0 else len(pending) - pending.endswith(HEADER[:1])
                continue
            end = position + OVERHEAD + pending[position + 2]
            if end > len(pending):
                break
            body = pending[position + 2 : end - 2]
            if crc16(body) == int.from_bytes(pending[end - 2 : end], "little"):
                self.frames += 1
                payloads.append(bytes(body[1:]))
                position = end
            else:
                self.damaged += 1
                position += 1  # look for the next frame inside: a damaged length must not swallow it
        del pending[:position]
        return payloads


def decode_state(payload: bytes) -> TeensyState | None:
    """The state in a payload; None where it is none."""
    return TeensyState(*_STATE.unpack(payload)) if len(payload) == _STATE.size else None


def decode_command(payload: bytes) -> Command | None:
    """The command in a payload, as the flight controller reads it; None where it is none, or impossible."""
    if len(payload) != _COMMAND.size:
        return None
    command = Command(*_COMMAND.unpack(payload))
    possible = all(-1.0 <= value <= 1.0 for value in command) and command.throttle >= 0.0  # False for NaN
    return command if possible else None


UNMEASURED = ("airspeed_mps", "airspeed_error_mps", "climb_rate_mps", "climb_rate_error_mps")


class TeensyVehicle:
    """An aircraft behind a Teensy. It has no flight modes: commands rule while they come.

    Home is where the aircraft was when it was first heard. Nobody measures airspeed or climb rate: the sample holds
    `airspeed_mps` throughout, and the climb rate is the altitude's, filtered.

    Args:
        channel: to the Teensy.
        clock: of the flight.
        contract: of the agent that is to fly.
        airspeed_mps: what the fallback law takes for the airspeed: its trim speed.

    Raises:
        NotSupportedError: the agent observes what is not measured.
    """

    name = "Teensy flight controller"
    virtual = False

    def __init__(self, channel: Channel, clock: Clock, contract: Contract, *, airspeed_mps: float) -> None:
        missing = [name for name in contract.observation_names if name in UNMEASURED]
        if missing:
            raise NotSupportedError(
                f"flying this agent with a Teensy: it observes {', '.join(missing)}, which the 13 values do not hold",
                hint="fly it with a MAVLink autopilot that has an airspeed sensor, or train an agent without them",
            )
        self._channel = channel
        self._clock = clock
        self._airspeed_mps = airspeed_mps
        self.reader = FrameReader()
        self._sender = SenderClock()
        self._home: Geodetic | None = None
        self._climb_mps = 0.0
        self._last: tuple[float, float] | None = None  # time and altitude of the last state
        self._bytes = 0
        self.reading = Reading()

    def connect(self, timeout_s: float) -> None:
        """See `Vehicle`."""
        deadline = self._clock.now_ns() + int(timeout_s * _S)
        while self.reading.sample is None:
            remaining = (deadline - self._clock.now_ns()) / _S
            if remaining <= 0.0:
                raise self._silence(timeout_s)
            self.receive(min(remaining, 0.1))

    def _silence(self, timeout_s: float) -> LinkError:
        if self.reader.frames:
            return LinkError(
                f"the Teensy sends frames, but no state of {_STATE.size} bytes with possible values in {timeout_s:g} s",
                hint="it must send 13 little-endian float32; angles in radians, position in degrees",
            )
        if self._bytes:
            return LinkError(
                f"{self._bytes} bytes came from the Teensy in {timeout_s:g} s, but no whole frame",
                hint="is the baud rate right on both sides, and the CRC over length and payload?",
            )
        return LinkError(f"nothing came from the Teensy in {timeout_s:g} s", hint="is it powered, and the cable right?")

    def receive(self, timeout_s: float) -> None:
        """See `Vehicle`."""
        self.reading.problem = ""
        try:
            data = self._channel.receive(timeout_s)
        except (OSError, EOFError) as error:
            raise LinkError("the connection to the Teensy broke", hint="was it unplugged?") from error
        self._bytes += len(data)
        for payload in self.reader.feed(data) if data else ():
            state = decode_state(payload)
            if state is not None and state.usable:
                self._take(state, self._clock.now_ns())

    def _take(self, s: TeensyState, now_ns: int) -> None:
        stamp, restarts = round(s.time_s * 1e9), self._sender.restarts
        if not self._sender.receipt(stamp, now_ns):
            return
        if self._sender.restarts > restarts:
            self._last, self._climb_mps = None, 0.0
            self.reading.problem = "the Teensy was restarted: its clock went back"
        if self._home is None:
            self._home = Geodetic(s.latitude_deg, s.longitude_deg, s.altitude_m)
        if self._last is not None and s.time_s > self._last[0]:
            step = s.time_s - self._last[0]
            rate = (s.altitude_m - self._last[1]) / step
            self._climb_mps += (rate - self._climb_mps) * min(step / CLIMB_FILTER_S, 1.0)
        self._last = (s.time_s, s.altitude_m)
        north, east = self._home.to_metres(round(s.latitude_deg * 1e7), round(s.longitude_deg * 1e7))
        self.reading.sample = Sample(
            self._sender.to_ours(stamp, now_ns), s.roll_rad, s.pitch_rad, s.yaw_rad, s.p_radps, s.q_radps, s.r_radps,
            self._airspeed_mps, s.altitude_m - self._home.altitude_m, self._climb_mps, north, east,
        )  # fmt: skip

    def requests(self) -> list[Asked]:
        """See `Vehicle`: there is no ground station."""
        return []

    def answer(self, asked: Asked, *, accepted: bool) -> None:
        """See `Vehicle`: nobody asks."""

    def take_over(self) -> None:
        """See `Vehicle`."""
        self.reading.control = Control.OURS

    def send(self, command: Command) -> None:
        """See `Vehicle`."""
        try:
            self._channel.send(command_frame(command))
        except OSError as error:
            raise LinkError("the connection to the Teensy broke", hint="was it unplugged?") from error

    def hand_back(self) -> None:
        """See `Vehicle`: commands stop coming, which the Teensy must take as its sign."""
        self.reading.control = Control.THEIRS

    def let_go(self) -> None:
        """See `Vehicle`."""
        self.hand_back()

    def announce(self, status: Status, text: str = "") -> None:
        """See `Vehicle`: there is nobody to tell."""

    def close(self) -> None:
        """See `Vehicle`."""
        self._channel.close()
