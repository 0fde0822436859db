"""MAVLink 2 over UDP or TCP: frames in, frames out, one peer.

pymavlink's generated dialect packs and decodes; its connection classes are not used, because they poll, sleep and
print. A damaged frame is counted and dropped, never raised.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol, Self

os.environ.setdefault("MAVLINK20", "1")

from pymavlink.dialects.v20 import common as mavlink

from sim2sky.errors import ConfigError, LinkError
from sim2sky.runtime.clock import Clock, RealClock

__all__ = ["Address", "Link", "LinkStatistics", "MavlinkLink", "mavlink", "open_link", "parse_address"]

MAGIC = 0xFD
HEADER = 10
SIGNATURE = 13
MAX_DATAGRAM = 65536
RETRY_S = 0.05


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
    """Where a link goes: `udp:HOST:PORT`, `tcp:HOST:PORT` (call), `udpin:HOST:PORT`, `tcpin:HOST:PORT` (be called)."""

    kind: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        ConfigError: not of the form KIND:HOST:PORT.
    """
    hint = "for example udp:127.0.0.1:14560, tcp:192.168.1.10:5760, udpin:0.0.0.0:14560"
    kind, _, rest = text.partition(":")
    host, _, port = rest.rpartition(":")
    kind = {"udpout": "udp", "tcpout": "tcp"}.get(kind, kind)
    if kind not in {"udp", "udpin", "tcp", "tcpin"}:
        raise ConfigError(f"link '{text}': unknown kind '{kind}'", hint=hint)
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"link '{text}' is not KIND:HOST:PORT", hint=hint)
    if int(port) == 0 and not kind.endswith("in"):
        raise ConfigError(f"link '{text}': port 0 can only be listened on", hint=hint)
    return Address(kind, host, int(port))


@dataclass(slots=True)
class LinkStatistics:
    """Counters since the link was opened."""

    frames_in: int = 0
    frames_out: int = 0
    damaged: int = 0
    unknown: int = 0
    foreign: int = 0


class MavlinkLink:
    """One MAVLink 2 peer over a socket.

    Args:
        sock: a UDP socket, or a listening or connected TCP socket.
        address: what it was opened as.
        system, component: who we are.
        wanted: message numbers to decode; others are skipped without cost. None means all.
        clock: for time-outs while connecting.
    """

    def __init__(
        self,
        sock: socket.socket,
        address: Address,
        *,
        system: int,
        component: int,
        wanted: Collection[int] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._socket = sock
        self._listener: socket.socket | None = sock if address.kind == "tcpin" else None
        self._peer: Any = None
        self._connected = address.kind in {"udp", "tcp"}
        self._udp = address.kind.startswith("udp")
        self._timeout: float | None = None
        self._mav = mavlink.MAVLink(None, srcSystem=system, srcComponent=component)
        self._wanted = None if wanted is None else frozenset(wanted)
        self._pending = bytearray()
        self._in_step = True
        self._clock = clock or RealClock()
        self.address = Address(address.kind, address.host, sock.getsockname()[1])
        self.statistics = LinkStatistics()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """See `Link`."""
        self._socket.close()
        if self._listener is not None:
            self._listener.close()

    @property
    def port(self) -> int:
        """The local port, also where 0 was asked for."""
        return self.address.port

    def send(self, *messages: Any) -> None:
        """See `Link`. Before a peer is known nothing is sent."""
        mav = self._mav
        parts = []
        for message in messages:
            parts.append(message.pack(mav))
            mav.seq = (mav.seq + 1) & 0xFF
        data = b"".join(parts)
        try:
            if self._connected:
                self._socket.sendall(data)
            elif self._peer is not None:
                self._socket.sendto(data, self._peer)
            else:
                return
        except ConnectionRefusedError:
            return  # UDP: the peer is not there (yet, or any more); silence is judged by whoever waits for an answer
        except OSError as error:
            raise LinkError(f"{self.address}: cannot send: {error.strerror or error}") from error
        self.statistics.frames_out += len(messages)

    def receive(self, timeout_s: float) -> list[Any]:
        """See `Link`. Frames that are not wanted count as nothing: the list may be empty before the time is up."""
        if self._listener is not None and not self._connected and not self._accept(timeout_s):
            return []
        if timeout_s != self._timeout:
            self._socket.settimeout(max(timeout_s, 0.0))
            self._timeout = timeout_s
        try:
            if self._udp:
                data, peer = self._socket.recvfrom(MAX_DATAGRAM)
                return self._datagram(data, peer)
            data = self._socket.recv(MAX_DATAGRAM)
        except (TimeoutError, BlockingIOError):
            return []
        except ConnectionRefusedError:
            # The kernel reports at once that nobody listens: wait a little, or a caller that retries would spin.
            self._clock.sleep_until(self._clock.now_ns() + int(min(timeout_s, RETRY_S) * 1e9))
            return []
        except OSError as error:
            raise LinkError(f"{self.address}: the connection broke: {error.strerror or error}") from error
        if not data:
            raise LinkError(f"{self.address}: the other side closed the connection")
        pending = self._pending
        pending += data
        messages, used = self._frames(pending, complete=False)
        del pending[:used]
        return messages

    def _accept(self, timeout_s: float) -> bool:
        listener = self._listener
        if listener is None or not select.select([listener], [], [], max(timeout_s, 0.0))[0]:
            return False
        self._socket, _ = listener.accept()
        _no_delay(self._socket)
        self._connected = True
        return True

    def _datagram(self, data: bytes, peer: Any) -> list[Any]:
        if not self._connected and self._peer is not None and peer != self._peer:
            self.statistics.foreign += 1
            return []
        before = self.statistics.frames_in
        messages, _ = self._frames(data, complete=True)
        if not self._connected and self._peer is None and self.statistics.frames_in > before:
            self._peer = peer  # the first that speaks MAVLink is the one we talk to
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
                start = data.find(MAGIC, position)
                position = size if start < 0 else start
                self.statistics.damaged += 1
                self._in_step = False
                continue
            if size - position < HEADER:
                break
            length = HEADER + data[position + 1] + 2 + (SIGNATURE if data[position + 2] & 1 else 0)
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
                if frame[2] & ~1:
                    raise mavlink.MAVError("unknown incompatibility flag")
                known = mavlink.mavlink_map.get(number)
                if known is None:
                    if not self._in_step:
                        raise mavlink.MAVError("unknown message while searching")
                    self.statistics.unknown += 1
                elif self._wanted is None or number in self._wanted:
                    messages.append(self._mav.decode(frame))
                    self.statistics.frames_in += 1
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


def _no_delay(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def open_link(
    address: str | Address,
    *,
    system: int,
    component: int,
    wanted: Collection[int] | None = None,
    connect_timeout_s: float = 10.0,
    clock: Clock | None = None,
) -> MavlinkLink:
    """Open a link. A TCP caller retries until somebody listens; the others are ready at once.

    Raises:
        ConfigError: the address is malformed.
        LinkError: the host is unknown, the port is taken, or nobody listens within `connect_timeout_s`.
    """
    where = parse_address(address) if isinstance(address, str) else address
    clock = clock or RealClock()
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
    return MavlinkLink(sock, where, system=system, component=component, wanted=wanted, clock=clock)


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
        with contextlib.suppress(OSError):
            _no_delay(sock)
        return sock
