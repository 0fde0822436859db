"""Bytes to and from one peer: a UDP or TCP socket, or a serial port (termios, no other package needed).

No call blocks longer than it was told to, sending included: what a full buffer does not take is dropped whole, and
counted, because in flight a late message is worth less than the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import termios
from typing import Any, Protocol

from sim2sky.errors import ConfigError, LinkError
from sim2sky.runtime.clock import Clock

__all__ = ["BAUD_RATES", "Channel", "SerialChannel", "TcpChannel", "UdpChannel", "open_serial"]

MAX_DATAGRAM = 65536
RETRY_S = 0.05
BAUD_RATES = {
    int(name[1:]): int(getattr(termios, name)) for name in dir(termios) if name[:1] == "B" and name[1:].isdigit()
}
"""Line speeds this machine's termios knows, bit/s, and their codes."""


class Channel(Protocol):
    """Bytes to and from one peer.

    Attributes:
        whole: what is received begins and ends with a message (datagrams), or may be cut anywhere (a stream).
        foreign: datagrams refused because another peer sent them.
        dropped: messages not sent because the buffer was full.
    """

    whole: bool
    foreign: int
    dropped: int

    def send(self, data: bytes) -> bool:
        """Send a message or drop it; False where it was dropped, or where there is no peer yet.

        Raises:
            OSError: the medium is broken.
        """
        ...

    def receive(self, timeout_s: float) -> bytes:
        """Wait for bytes; empty after `timeout_s`.

        Raises:
            OSError: the medium is broken.
            EOFError: the other side ended the connection.
        """
        ...

    def accept(self) -> None:
        """What came last was sound: its sender is the peer from now on."""
        ...

    def close(self) -> None:
        """Release the medium."""
        ...


class UdpChannel:
    """A UDP socket. One that listens (`connected` false) talks to the first peer that is accepted, and to no other."""

    whole = True

    def __init__(self, sock: socket.socket, clock: Clock, *, connected: bool) -> None:
        self._socket = sock
        self._clock = clock
        self._connected = connected
        self._peer: Any = None
        self._last: Any = None
        self._timeout: float | None = None
        self.foreign = 0
        self.dropped = 0

    def send(self, data: bytes) -> bool:
        """See `Channel`."""
        try:
            if self._connected:
                self._socket.send(data)
            elif self._peer is not None:
                self._socket.sendto(data, self._peer)
            else:
                return False
        except ConnectionRefusedError:
            return True  # the peer is not there (yet, or any more); silence is judged by whoever waits for an answer
        except (TimeoutError, BlockingIOError):
            self.dropped += 1
            return False
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            self.dropped += 1
            return False
        return True

    def receive(self, timeout_s: float) -> bytes:
        """See `Channel`."""
        if timeout_s != self._timeout:
            self._socket.settimeout(max(timeout_s, 0.0))
            self._timeout = timeout_s
        try:
            data, peer = self._socket.recvfrom(MAX_DATAGRAM)
        except (TimeoutError, BlockingIOError):
            return b""
        except ConnectionRefusedError:
            # The kernel reports at once that nobody listens: wait a little, or a caller that retries would spin.
            self._clock.sleep_until(self._clock.now_ns() + int(min(timeout_s, RETRY_S) * 1e9))
            return b""
        if not self._connected and self._peer is not None and peer != self._peer:
            self.foreign += 1
            return b""
        self._last = peer
        return data

    def accept(self) -> None:
        """See `Channel`."""
        if self._peer is None:
            self._peer = self._last

    def close(self) -> None:
        """See `Channel`."""
        self._socket.close()


_PASSING = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENOBUFS, errno.EHOSTDOWN}
"""Errors of a datagram that the next one may not meet: a radio or a cable that is out for a moment."""


class _StreamChannel:
    """What TCP and serial share: a descriptor that never blocks, and the rest of a message that was cut short."""

    whole = False
    foreign = 0

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._rest = b""
        self.dropped = 0

    def send(self, data: bytes) -> bool:
        """See `Channel`. A message that was begun is finished before the next one."""
        try:
            if self._rest:
                self._rest = self._rest[os.write(self._fd, self._rest) :]
            if not self._rest:
                self._rest = data[os.write(self._fd, data) :]
                return True
        except BlockingIOError:
            pass
        self.dropped += 1
        return False

    def receive(self, timeout_s: float) -> bytes:
        """See `Channel`."""
        if not select.select([self._fd], [], [], max(timeout_s, 0.0))[0]:
            return b""
        try:
            data = os.read(self._fd, MAX_DATAGRAM)
        except BlockingIOError:
            return b""
        if not data:
            raise EOFError
        return data

    def accept(self) -> None:
        """See `Channel`."""


class TcpChannel(_StreamChannel):
    """A TCP connection: one that was called, or the first that calls a listener."""

    def __init__(self, sock: socket.socket, *, listening: bool) -> None:
        super().__init__(sock.fileno())
        self._socket = sock
        self._listener: socket.socket | None = sock if listening else None
        self._connected = not listening
        sock.setblocking(False)
        if not listening:
            _no_delay(sock)

    def send(self, data: bytes) -> bool:
        """See `Channel`."""
        return self._connected and super().send(data)

    def receive(self, timeout_s: float) -> bytes:
        """See `Channel`."""
        if not self._connected and not self._take_call(timeout_s):
            return b""
        return super().receive(timeout_s)

    def _take_call(self, timeout_s: float) -> bool:
        listener = self._listener
        if listener is None or not select.select([listener], [], [], max(timeout_s, 0.0))[0]:
            return False
        try:
            self._socket, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # who called has hung up again
            return False
        self._socket.setblocking(False)
        _no_delay(self._socket)
        self._fd = self._socket.fileno()
        self._connected = True
        return True

    def close(self) -> None:
        """See `Channel`."""
        self._socket.close()
        if self._listener is not None:
            self._listener.close()


def _no_delay(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class SerialChannel(_StreamChannel):
    """A serial port opened by `open_serial`."""

    def close(self) -> None:
        """See `Channel`. What the port has not sent yet is thrown away: a dead line must not hold us up."""
        if self._fd < 0:
            return
        with contextlib.suppress(termios.error, OSError):
            termios.tcflush(self._fd, termios.TCIOFLUSH)
        os.close(self._fd)
        self._fd = -1


def open_serial(device: str, baud: int) -> SerialChannel:
    """Open a serial port for us alone: raw, 8 data bits, no parity, one stop bit, no flow control.

    Raises:
        ConfigError: a baud rate this machine does not know.
        LinkError: no such device, no permission, not a serial port, or somebody else has it.
    """
    if baud not in BAUD_RATES or baud == 0:
        raise ConfigError(
            f"serial port {device}: the baud rate {baud} does not exist",
            hint="usual ones: 57600, 115200, 230400, 460800, 921600",
        )
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LinkError(f"serial port {device}: {error.strerror}", hint=_remedy(device, error)) from error
    try:
        _lock(descriptor, device)
        _make_raw(descriptor, BAUD_RATES[baud])
    except (OSError, termios.error) as error:
        os.close(descriptor)
        raise LinkError(f"{device} is not a serial port", hint="plug it in, and see: ls /dev/serial/by-id") from error
    except LinkError:
        os.close(descriptor)
        raise
    return SerialChannel(descriptor)


def _lock(descriptor: int, device: str) -> None:
    if not stat.S_ISCHR(os.fstat(descriptor).st_mode):
        raise OSError(errno.ENOTTY, "not a character device")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LinkError(
            f"serial port {device}: another program has it", hint=f"end it; this names it: fuser {device}"
        ) from None


def _make_raw(descriptor: int, speed: int) -> None:
    """POSIX.1-2017, chapter 11: no translation of any byte, reads return what is there."""
    control = list(termios.tcgetattr(descriptor)[6])
    control[termios.VMIN], control[termios.VTIME] = 1, 0
    flags = termios.CS8 | termios.CREAD | termios.CLOCAL
    termios.tcsetattr(descriptor, termios.TCSANOW, [0, 0, flags, 0, speed, speed, control])
    termios.tcflush(descriptor, termios.TCIOFLUSH)


def _remedy(device: str, error: OSError) -> str:
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "add yourself to the port's group, then log in again: sudo usermod -aG dialout $USER"
    if error.errno == errno.EBUSY:
        return f"another program has it; this names it: fuser {device}"
    return "plug it in, and see: ls /dev/serial/by-id"
