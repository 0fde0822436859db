"""MAVLink 2 over UDP, TCP or a serial port: frames in, frames out, one peer, signed where there is a key.

pymavlink's generated dialect packs and decodes; its connection classes are not used, because they poll, sleep and
print. A damaged frame is counted and dropped, never raised.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

os.environ.setdefault("MAVLINK20", "1")

from pymavlink.dialects.v20 import common as mavlink

from sim2sky.errors import ConfigError, LinkError
from sim2sky.runtime.channel import RETRY_S, Channel, TcpChannel, UdpChannel, open_serial
from sim2sky.runtime.clock import Clock, RealClock
from sim2sky.runtime.signing import SIGNATURE_SIZE, SIGNED, Signer

__all__ = [
    "Address",
    "Link",
    "LinkStatistics",
    "MavlinkLink",
    "mavlink",
    "open_channel",
    "open_link",
    "parse_address",
]

MAGIC = 0xFD
HEADER = 10
MAGIC_1 = 0xFE  # MAVLink 1
HEADER_1 = 6


class Link(Protocol):
    """Messages to and from one peer."""

    def send(self, *messages: Any) -> None:
        """Send messages, in order, in one piece where the medium allows.

        Raises:
            LinkError: the link is broken.
        """
        ...

    def receive(self, timeout_s: float) -> list[Any]:
        """Wait for messages and return all that came; empty after `timeout_s`.

        Raises:
            LinkError: the link is broken.
        """
        ...

    def close(self) -> None:
        """Release the socket."""
        ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where a link goes: `udp:HOST:PORT`, `tcp:HOST:PORT` (call), `udpin:HOST:PORT`, `tcpin:HOST:PORT` (be called),
    `serial:DEVICE:BAUD`."""

    kind: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        ConfigError: not of one of the forms of `Address`.
    """
    hint = "for example udp:127.0.0.1:14560, tcp:192.168.1.10:5760, udpin:0.0.0.0:14560, serial:/dev/ttyACM0:115200"
    kind, _, rest = text.partition(":")
    host, _, port = rest.rpartition(":")
    kind = {"udpout": "udp", "tcpout": "tcp"}.get(kind, kind)
    if kind not in {"udp", "udpin", "tcp", "tcpin", "serial"}:
        raise ConfigError(f"link '{text}': unknown kind '{kind}'", hint=hint)
    serial = kind == "serial"
    if not host or not port.isascii() or not port.isdigit() or (int(port) > 65535 and not serial):
        raise ConfigError(f"link '{text}' is not {'serial:DEVICE:BAUD' if serial else 'KIND:HOST:PORT'}", hint=hint)
    if int(port) == 0 and not kind.endswith("in") and not serial:
        raise ConfigError(f"link '{text}': port 0 can only be listened on", hint=hint)
    return Address(kind, host, int(port))


@dataclass(slots=True)
class LinkStatistics:
    """Counters since the link was opened.

    Attributes:
        frames_in, frames_out: wanted messages decoded, messages sent.
        damaged: places where bytes were no frame.
        unknown: frames of a message the dialect does not have.
        refused: frames without a good signature, where there must be one.
        version1: MAVLink 1 frames, which are not read.
        bytes_in: everything received.
    """

    frames_in: int = 0
    frames_out: int = 0
    damaged: int = 0
    unknown: int = 0
    refused: int = 0
    version1: int = 0
    bytes_in: int = 0


class MavlinkLink:
    """One MAVLink 2 peer on a channel.

    Args:
        channel: to the peer.
        address: what it was opened as; where it listens, with the port it got.
        system, component: who we are.
        wanted: message numbers to decode; others are skipped without cost. None means all.
        signer: signs what is sent, and refuses everything that is not signed. None: signatures are not looked at.
    """

    def __init__(
        self,
        channel: Channel,
        address: Address,
        *,
        system: int,
        component: int,
        wanted: Collection[int] | None = None,
        signer: Signer | None = None,
    ) -> None:
        self._channel = channel
        self._decoder = mavlink.MAVLink(None)
        self._signer = signer
        self._wanted = None if wanted is None else frozenset(wanted)
        self._pending = bytearray()
        self._in_step = True
        self.address = address
        self.statistics = LinkStatistics()
        self.introduce(system, component)

    def introduce(self, system: int, component: int) -> None:
        """Send as this system and component from now on."""
        packer = mavlink.MAVLink(None, srcSystem=system, srcComponent=component)
        if self._signer is not None:
            packer.signing.secret_key = self._signer.key
            packer.signing.link_id = self._signer.link_id
            packer.signing.sign_outgoing = True
        self._packer = packer

    def __enter__(self) -> MavlinkLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """See `Link`."""
        self._channel.close()

    @property
    def port(self) -> int:
        """Of `address`: where it listens the local one, also where 0 was asked for."""
        return self.address.port

    @property
    def foreign(self) -> int:
        """Datagrams refused because another peer sent them."""
        return self._channel.foreign

    def send(self, *messages: Any) -> None:
        """See `Link`. Before a peer is known nothing is sent; what a full buffer does not take is dropped."""
        packer, signer = self._packer, self._signer
        parts = []
        for message in messages:
            if signer is not None:
                packer.signing.timestamp = signer.stamp()
            parts.append(message.pack(packer))
            packer.seq = (packer.seq + 1) & 0xFF
        try:
            if self._channel.send(b"".join(parts)):
                self.statistics.frames_out += len(messages)
        except OSError as error:
            raise LinkError(f"{self.address}: cannot send: {error.strerror or error}") from error

    def receive(self, timeout_s: float) -> list[Any]:
        """See `Link`. Frames that are not wanted count as nothing: the list may be empty before the time is up."""
        try:
            data = self._channel.receive(timeout_s)
        except OSError as error:
            raise LinkError(f"{self.address}: the connection broke: {error.strerror or error}") from error
        except EOFError:
            raise LinkError(f"{self.address}: the other side closed the connection") from None
        if not data:
            return []
        self.statistics.bytes_in += len(data)
        if not self._channel.whole:
            pending = self._pending
            pending += data
            messages, used = self._frames(pending, complete=False)
            del pending[:used]
            return messages
        before = self.statistics.frames_in
        messages, _ = self._frames(data, complete=True)
        if self.statistics.frames_in > before:
            self._channel.accept()  # the first that speaks MAVLink is the one we talk to
        return messages

    def _frames(self, data: bytes | bytearray, *, complete: bool) -> tuple[list[Any], int]:
        """Messages in `data`, and how many bytes are done with; `complete`: nothing will follow.

        A frame with an unknown number cannot be checked, so it is believed (and skipped whole) only right after a good
        one: what looks like a frame while searching after damage may be the inside of another.
        """
        messages: list[Any] = []
        position, size = 0, len(data)
        if complete:
            self._in_step = True
        while position < size:
            if data[position] != MAGIC:
                if length := _version1(data, position):
                    self.statistics.version1 += 1
                    position += length
                    continue
                start = data.find(MAGIC, position)
                position = size if start < 0 else start
                self.statistics.damaged += 1
                self._in_step = False
                continue
            if size - position < HEADER:
                break
            length = HEADER + data[position + 1] + 2 + (SIGNATURE_SIZE if data[position + 2] & SIGNED else 0)
            if position + length > size:
                if not complete:
                    break
                self.statistics.damaged += 1
                position += 1
                self._in_step = False
                continue
            frame = bytearray(data[position : position + length])
            number = frame[7] | frame[8] << 8 | frame[9] << 16
            try:
                if frame[2] & ~SIGNED:
                    raise mavlink.MAVError("unknown incompatibility flag")
                known = mavlink.mavlink_map.get(number)
                if known is None:
                    if not self._in_step:
                        raise mavlink.MAVError("unknown message while searching")
                    self.statistics.unknown += 1
                elif self._wanted is None or number in self._wanted:
                    message = self._decoder.decode(frame)
                    if self._signer is None or self._signer.accepts(frame):
                        messages.append(message)
                        self.statistics.frames_in += 1
                    else:
                        self.statistics.refused += 1
                else:
                    _check(frame, known.crc_extra)
                position += length
                self._in_step = True
            except (mavlink.MAVError, ValueError):
                self._in_step = False
                self.statistics.damaged += 1
                position += 1  # look for the next frame inside: a damaged length must not swallow it
        if complete and position < size:
            self.statistics.damaged += 1
            position = size
        return messages, position


def _check(frame: bytearray, crc_extra: int) -> None:
    """The checksum of a frame that is skipped: its length is believed only if it holds."""
    end = HEADER + frame[1]
    crc = mavlink.x25crc(bytes(frame[1:end]) + bytes((crc_extra,))).crc
    if crc != frame[end] | frame[end + 1] << 8:
        raise mavlink.MAVError("invalid checksum")


def _version1(data: bytes | bytearray, position: int) -> int:
    """Length of a whole MAVLink 1 frame at `position`; 0 where there is none."""
    if data[position] != MAGIC_1 or len(data) - position < HEADER_1 + 2:
        return 0
    end = position + HEADER_1 + data[position + 1]
    known = mavlink.mavlink_map.get(data[position + 5])
    if end + 2 > len(data) or known is None:
        return 0
    crc = mavlink.x25crc(bytes(data[position + 1 : end]) + bytes((known.crc_extra,))).crc
    return end + 2 - position if crc == data[end] | data[end + 1] << 8 else 0


def open_link(
    address: str | Address,
    *,
    system: int,
    component: int,
    wanted: Collection[int] | None = None,
    connect_timeout_s: float = 10.0,
    clock: Clock | None = None,
    signer: Signer | None = None,
) -> MavlinkLink:
    """Open a link. A TCP caller retries until somebody listens; the others are ready at once.

    Raises:
        ConfigError: the address is malformed.
        LinkError: the host is unknown, the port is taken, nobody listens within `connect_timeout_s`, or the serial
            port cannot be had.
    """
    where = parse_address(address) if isinstance(address, str) else address
    channel, where = open_channel(where, connect_timeout_s=connect_timeout_s, clock=clock or RealClock())
    return MavlinkLink(channel, where, system=system, component=component, wanted=wanted, signer=signer)


def open_channel(where: Address, *, connect_timeout_s: float, clock: Clock) -> tuple[Channel, Address]:
    """A channel to an address, and the address with the local port in it.

    Raises:
        ConfigError, LinkError: as `open_link`.
    """
    if where.kind == "serial":
        return open_serial(where.host, where.port), where
    try:
        family, _, _, _, target = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise LinkError(f"{where}: unknown host '{where.host}'", hint="check the host name or address") from error
    if where.kind == "tcp":
        sock = _call(family, target, where, connect_timeout_s, clock)
    else:
        sock = socket.socket(family, socket.SOCK_STREAM if where.kind == "tcpin" else socket.SOCK_DGRAM)
        try:
            if where.kind == "udp":
                sock.connect(target)
            else:
                if where.kind == "tcpin":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(target)
                if where.kind == "tcpin":
                    sock.listen(1)
        except OSError as error:
            sock.close()
            raise LinkError(
                f"{where}: cannot open: {error.strerror or error}", hint="is the port in use? choose another"
            ) from error
    heard_on = sock.getsockname()[1] if where.kind.endswith("in") else where.port
    local = Address(where.kind, where.host, heard_on)
    if where.kind.startswith("udp"):
        return UdpChannel(sock, clock, connected=where.kind == "udp"), local
    return TcpChannel(sock, listening=where.kind == "tcpin"), local


def _call(family: int, target: Any, where: Address, timeout_s: float, clock: Clock) -> socket.socket:
    deadline = clock.now_ns() + int(timeout_s * 1e9)
    while True:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(max((deadline - clock.now_ns()) * 1e-9, 0.01))
        try:
            sock.connect(target)
        except OSError as error:
            sock.close()
            if clock.now_ns() >= deadline:
                raise LinkError(
                    f"{where}: nobody answers: {error.strerror or error}", hint="start the other side first"
                ) from error
            clock.sleep_until(clock.now_ns() + int(RETRY_S * 1e9))
            continue
        return sock
