"""MAVLink 2 message signing: a shared key, and timestamps that only grow, also across restarts.

Source: mavlink.io, "Message Signing (Authentication)". Stricter than it in one point: the newest timestamp seen is kept
beside the key file, so that what was recorded before a restart is refused after it, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import stat
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

from sim2sky.errors import ConfigError

__all__ = ["SIGNATURE_SIZE", "SIGNED", "Signer", "TimestampFile", "open_signer", "read_key"]

SIGNED = 1  # incompatibility flag of a signed frame
SIGNATURE_SIZE = 13  # link id, 48 bits of timestamp, 48 bits of SHA-256
TICKS_PER_S = 100_000  # a timestamp counts 10 microseconds
EPOCH_S = 1_420_070_400  # 2015-01-01
NEW_STREAM_TICKS = 60 * TICKS_PER_S  # a stream not heard before may be so far behind our own time
RESERVE_TICKS = 3 * TICKS_PER_S  # kept on disk ahead of what was seen, so that it need not be written at every frame
SAVE_S = 1.0
MAX_STREAMS = 32
_MASK = (1 << 48) - 1


def read_key(path: Path) -> bytes:
    """The 32-byte key in a file of 64 hexadecimal digits, readable by its owner only.

    Raises:
        ConfigError: no such file, readable by others, or something else in it.
    """
    make = f"make one: (umask 077; openssl rand -hex 32 > {path})"
    try:
        text = path.read_text(encoding="ascii").strip()
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"signing key {path}: {error.strerror}", hint=make) from error
    except UnicodeDecodeError:
        text, mode = "", 0o600
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"signing key {path}: others can read it", hint=f"chmod 600 {path}, and change the key")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError(f"signing key {path}: not 64 hexadecimal digits", hint=make)
    return key


def wall_ticks() -> int:
    """The wall clock in a signature's units."""
    return max(int((time.time() - EPOCH_S) * TICKS_PER_S), 0)


class Signer:
    """Stamps outgoing frames and judges incoming ones.

    Args:
        key: 32 bytes, shared with the other side.
        floor: timestamps up to here are spent: refused from others, never used ourselves.
        link_id: of the frames we send.
        now_ticks: wall clock in units of 10 microseconds; it may stand still or jump back.
    """

    def __init__(
        self, key: bytes, *, floor: int = 0, link_id: int = 0, now_ticks: Callable[[], int] = wall_ticks
    ) -> None:
        self.key = key
        self.link_id = link_id
        self.floor = floor
        self.newest = floor
        self._now = now_ticks
        self._streams: dict[tuple[int, int, int], int] = {}

    def stamp(self) -> int:
        """Timestamp for the next frame: the wall clock, but after everything sent and seen."""
        self.newest = max(self.newest + 1, self._now()) & _MASK
        return self.newest

    def accepts(self, frame: bytes | bytearray) -> bool:
        """Whether a MAVLink 2 frame (whole, checksum right) is signed with our key and newer than all of its stream."""
        if not frame[2] & SIGNED:
            return False
        digest = hashlib.sha256(self.key + bytes(frame[:-6])).digest()[:6]
        if not hmac.compare_digest(digest, bytes(frame[-6:])):
            return False
        stamp = int.from_bytes(frame[-12:-6], "little")
        stream = (frame[-13], frame[5], frame[6])
        last = self._streams.get(stream)
        if last is None:
            # A stream not heard before must be newer than all that was seen before we started, and not far behind.
            oldest = max(self.floor, max(self.newest, self._now()) - NEW_STREAM_TICKS)
            if stamp <= oldest or len(self._streams) >= MAX_STREAMS:
                return False
        elif stamp <= last:
            return False
        self._streams[stream] = stamp
        self.newest = max(self.newest, stamp)
        return True


class TimestampFile:
    """Keeps a signer's newest timestamp on disk, from a thread of its own, a little ahead while running.

    Args:
        path: of the file.

    Raises:
        ConfigError: (`load`, and the first `save`) the file is damaged or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._saved = 0

    def load(self) -> int:
        """What was saved last; 0 where nothing was."""
        try:
            text = self._path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return 0
        except (OSError, UnicodeDecodeError):
            text = ""
        if not text.isdigit():
            raise ConfigError(
                f"{self._path}: damaged; it says which signed messages are spent",
                hint="change the signing key on both sides, and remove this file",
            )
        return int(text) & _MASK

    def save(self, value: int) -> None:
        """Replace the file's content, durably."""
        temporary = self._path.with_name(self._path.name + ".new")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{value}\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            raise ConfigError(
                f"{self._path}: cannot be written: {error.strerror}",
                hint="signing must remember which messages are spent: put the key in a folder you can write to",
            ) from error
        self._saved = value

    def follow(self, signer: Signer) -> None:
        """Save now, and go on saving until `finish`."""
        self.save(signer.stamp() + RESERVE_TICKS)

        def work() -> None:
            while not self._stop.wait(SAVE_S):
                if signer.newest + RESERVE_TICKS // 2 > self._saved:
                    with contextlib.suppress(ConfigError):  # a full disk must not end the flight; it is tried again
                        self.save(signer.newest + RESERVE_TICKS)

        self._thread = threading.Thread(target=work, name="signing timestamps", daemon=True)
        self._thread.start()

    def finish(self, signer: Signer) -> None:
        """Stop, and save exactly what was seen."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(ConfigError):
            self.save(signer.newest)


@contextlib.contextmanager
def open_signer(key_file: Path) -> Generator[Signer, None, None]:
    """A signer for the key in a file, whose newest timestamp is kept in `KEY_FILE.timestamp`.

    Raises:
        ConfigError: the key is unusable, or the timestamp cannot be kept.
    """
    key = read_key(key_file)
    file = TimestampFile(key_file.with_name(key_file.name + ".timestamp"))
    signer = Signer(key, floor=file.load())
    file.follow(signer)
    try:
        yield signer
    finally:
        file.finish(signer)
