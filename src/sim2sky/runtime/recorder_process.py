"""The recorder process: takes frames from the flight loop's pipe, appends them to journals, makes the flight log.

It outlives the flight process, however that ends, and brings the log to its end. Whatever the disk does, it goes on
reading, so that the pipe has room. Started by `runtime.recorder`; needs numpy, and h5py to turn journals into HDF5.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from sim2sky.errors import EXIT_FAIL, EXIT_PASS, FlightLogError, MissingExtraError
from sim2sky.telemetry.journal import JournalEpisode, Kind, TickLayout, frame, json_frame, scan
from sim2sky.telemetry.log_files import episode_number, episode_path, journals_of, lock_parts, parts_of
from sim2sky.telemetry.log_writer import FlightLogWriter, write_journal

__all__ = ["JournalKeeper", "main", "serve"]

SEGMENT_BYTES = 8 << 20
"""A flight is cut into episodes of this size (7 minutes at 50 Hz), which bounds memory and what one bad file costs."""

SYNC_S = 1.0  # what a power cut may cost
ROOM_BYTES = 1 << 18  # after a full disk: so much must be free before anything is written again
GATHER_S = 0.005  # between two reads, so that a fast simulation does not wake this process at every tick
CHUNK = 1 << 16
NICE = 5


class JournalKeeper:
    """Turns a stream of frames into journals, and journals into episodes of the log.

    Args:
        path: the log; its parts exist.
        say: told once of each problem.
        segment_bytes: size at which a running episode is cut.
    """

    def __init__(self, path: Path, say: Callable[[str], None], *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._parts = parts_of(path)
        self._path = path
        self._say = say
        self._said = ""
        self._segment_bytes = segment_bytes
        self._rest = b""
        self._batch = bytearray()
        self._begin: dict[str, Any] = {}
        self._last = -1  # index of the newest tick
        self._lost = 0  # ticks, since the disk has failed
        self._retry_s = 0.0
        self._handle = -1
        self._number, self._size = -1, 0
        self._open = False  # between BEGIN and END, whether or not there is a file
        self._over: list[tuple[int, int]] = []  # number and file of episodes to be settled
        self._tails: dict[int, bytes] = {}  # ends that found no room yet
        self._writer: FlightLogWriter | None = None
        try:
            self._writer = FlightLogWriter.resume(path)
        except MissingExtraError:
            say(f"h5py is missing here: the log stays in {self._parts}; make it elsewhere with: sim2sky log recover")
        except FlightLogError as error:
            self._complain(error.message)
        self._resume()

    def feed(self, data: bytes) -> None:
        """Take in what came through the pipe; frames may be torn anywhere."""
        frames, used, _ = scan(self._rest + data)
        self._rest = (self._rest + data)[used:]
        for kind, payload in frames:
            if kind is Kind.TICK:
                self._tick(payload)
            elif kind is Kind.BEGIN:
                self._started(json.loads(payload))
            elif self._open:
                self._batch += frame(kind, payload)
                if kind is Kind.END:
                    self._end()
        self._append()
        # Only now: what a kill can cost is what was read and not yet appended.
        while self._over:
            self._settle(*self._over.pop(0))

    def sync(self) -> None:
        """Bring what was written to the disk, and try again what found no room."""
        if self._handle >= 0:
            with self._trying():
                os.fdatasync(self._handle)
                folder = os.open(self._parts, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        self._retry_tails()

    def close(self) -> bool:
        """End the open episode and make one file of the log; False where that failed and the parts remain."""
        if self._open:
            self._batch += json_frame(Kind.END, {"termination": "flight process ended", "ticks": self._last + 1})
            self._end()
        self.feed(b"")
        self._retry_tails()
        try:
            writer = self._writer or FlightLogWriter.resume(self._path)
            for number, journal in journals_of(self._parts).items():
                write_journal(writer, number, journal)
            writer.close()
        except MissingExtraError:
            return True  # it was said at the start
        except FlightLogError as error:
            self._complain(f"{error.message}; it is in {self._parts}: sim2sky log recover {self._path}")
            return False
        return True

    def _resume(self) -> None:
        """Take over from a recorder process that died."""
        journals = journals_of(self._parts)
        found = [n for n in (episode_number(p.name) for p in self._parts.iterdir()) if n is not None]
        self._number = max(found, default=-1)
        for number, journal in journals.items():
            with self._trying():
                episode = JournalEpisode.read(journal.read_bytes())
                if number == self._number and not episode.end:
                    self._begin, self._open = episode.begin, True
                    self._last = TickLayout.place(episode.ticks[-1])[0] if episode.ticks else -1
                    self._handle = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
                    self._size = os.fstat(self._handle).st_size
                else:
                    self._convert(number)

    def _tick(self, payload: bytes) -> None:
        index, flight = TickLayout.place(payload)
        if not self._open or flight != self._begin["flight"]:  # its BEGIN died with another recorder process
            self._finish()
            self._start({"segment": 0, "first_tick": 0, "flight": flight})
        if self._size + len(self._batch) >= self._segment_bytes:
            following = {**self._begin, "segment": self._begin["segment"] + 1, "first_tick": self._last + 1}
            self._batch += json_frame(Kind.END, {"termination": "continued", "ticks": self._last + 1})
            self._end()
            self._start(following)
        self._batch += frame(Kind.TICK, payload)
        self._last = index

    def _started(self, begin: dict[str, Any]) -> None:
        if self._open and begin["flight"] == self._begin["flight"]:  # said again to a process that took over
            self._begin |= begin
            self._batch += json_frame(Kind.BEGIN, begin)
            return
        self._finish()
        self._start({"segment": 0, "first_tick": 0, **begin})

    def _start(self, begin: dict[str, Any]) -> None:
        self._begin, self._open = begin, True
        self._last = int(begin["first_tick"]) - 1
        self._number += 1
        self._size = 0

    def _end(self) -> None:
        """The last frame of the open episode is in the batch."""
        frames, _, _ = scan(bytes(self._batch))
        if not self._append() and self._handle >= 0:
            self._tails[self._number] = b"".join(frame(k, p) for k, p in frames if k is not Kind.TICK)
        self._finish()

    def _finish(self) -> None:
        """Leave the open episode as it is."""
        self._append()
        self._open = False
        if self._handle < 0:
            return
        self._over.append((self._number, self._handle))
        self._handle = -1

    def _settle(self, number: int, handle: int) -> None:
        """An episode that is over becomes one of the log."""
        with self._trying():
            os.fsync(handle)
        os.close(handle)
        if number not in self._tails:
            self._convert(number)

    def _convert(self, number: int) -> None:
        if self._writer is not None:
            try:
                if not write_journal(self._writer, number, episode_path(self._parts, number, ".journal")):
                    self._number -= number == self._number  # an episode without a tick leaves no gap
            except FlightLogError as error:
                self._complain(error.message)

    def _append(self) -> bool:
        """Write the batch; where there is no room, forget it and leave the journal whole."""
        if not self._batch:
            return True
        data, self._batch = bytes(self._batch), bytearray()
        if self._lost and not self._room():
            self._lost += _ticks_in(data)
            return False
        try:
            if self._handle < 0:
                self._create()
            done = 0
            while done < len(data):
                done += os.write(self._handle, data[done:])
        except OSError as error:
            if self._handle >= 0:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._handle, self._size)
            self._lost += _ticks_in(data)
            self._failed(error)
            return False
        self._size += len(data)
        if self._lost:
            self._say(f"recording again: {self._lost} ticks are missing in the log {self._path}")
            self._lost, self._said = 0, ""
        return True

    def _room(self) -> bool:
        """Whether it is worth trying again: a second after the last time, and not into the last free pages."""
        if time.monotonic() < self._retry_s:
            return False
        self._retry_s = time.monotonic() + SYNC_S
        with contextlib.suppress(OSError):
            found = os.statvfs(self._parts)
            return found.f_bavail * found.f_frsize >= ROOM_BYTES
        return False

    def _create(self) -> None:
        path = episode_path(self._parts, self._number, ".journal")
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            head = json_frame(Kind.BEGIN, self._begin)
            if os.write(handle, head) != len(head):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._size = len(head)
        except OSError:
            os.close(handle)
            raise
        self._handle = handle

    def _retry_tails(self) -> None:
        for number, tail in list(self._tails.items()):
            path = episode_path(self._parts, number, ".journal")
            with self._trying():
                with path.open("r+b") as file:
                    size = file.seek(0, os.SEEK_END)
                    try:
                        file.write(tail)
                        file.flush()
                    except OSError:
                        file.truncate(size)
                        raise
                del self._tails[number]
                self._convert(number)

    @contextlib.contextmanager
    def _trying(self) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        self._complain(f"cannot write the flight log {self._path}: {error.strerror}; flying on without it")

    def _complain(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._say(text)


def _ticks_in(data: bytes) -> int:
    return sum(kind is Kind.TICK for kind, _ in scan(data)[0])


def serve(reading: int, keeper: JournalKeeper, parent: int) -> None:
    """Feed the keeper until the flight process has closed the pipe or has died, and what it sent is written."""
    synced = time.monotonic()
    while True:
        if select.select([reading], [], [], SYNC_S)[0]:
            data = os.read(reading, CHUNK)
            if not data:
                return
            keeper.feed(data)
            if len(data) < CHUNK:
                time.sleep(GATHER_S)
        elif os.getppid() != parent:  # a child it left behind may hold the pipe open
            return
        if time.monotonic() - synced >= SYNC_S:
            keeper.sync()
            synced = time.monotonic()


def main(arguments: Sequence[str]) -> int:
    """Entry point: path of the log, file descriptors to read from and to complain to, process id of the flight."""
    path, (reading, saying, parent) = Path(arguments[0]), map(int, arguments[1:])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the flight has ended
    _step_back()
    os.set_blocking(saying, False)

    def tell(text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(saying, json.dumps({"problem": text}).encode() + b"\n")

    def say(text: str) -> None:
        tell(text)
        with contextlib.suppress(OSError):
            sys.stderr.write(f"recorder: {text}\n")
            sys.stderr.flush()

    try:
        with lock_parts(parts_of(path)):
            keeper = JournalKeeper(path, say)
            tell("")  # ready
            serve(reading, keeper, parent)
            return EXIT_PASS if keeper.close() else EXIT_FAIL
    except (FlightLogError, OSError) as error:
        say(f"flying without a log: {error}")
        return EXIT_FAIL


def _step_back() -> None:
    """Leave the processor to the flight: no real-time class (inherited, perhaps), and a lower priority."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with contextlib.suppress(OSError):
        os.nice(NICE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
