"""The journal: a running flight as small, self-checking frames, the same on a pipe and in a file.

A file of frames needs no orderly end: whatever was appended before a kill is read back, and what was torn is skipped.
numpy only.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.errors import FlightLogError
from sim2sky.telemetry.log_schema import COLUMNS, EpisodeData

__all__ = ["MAX_FRAME", "JournalEpisode", "Kind", "TickLayout", "frame", "json_frame", "scan"]

MAGIC = b"\xa5S"
_HEAD = struct.Struct("<2sBHI")  # magic, kind, bytes of payload, CRC-32 of kind, length and payload
_PLACE = struct.Struct("<II")
MAX_FRAME = 4096
"""A pipe takes or refuses so many bytes as a whole (POSIX PIPE_BUF on Linux), so a frame is never larger."""

UNFINISHED = "recording ended"


class Kind(IntEnum):
    """What a frame says."""

    BEGIN = 1
    TICK = 2
    EVENT = 3
    EXTRA = 4
    END = 5


def frame(kind: Kind, payload: bytes) -> bytes:
    """One frame.

    Raises:
        FlightLogError: larger than `MAX_FRAME`.
    """
    size = len(payload)
    if size + _HEAD.size > MAX_FRAME:
        raise FlightLogError(f"a log entry of {size} bytes is larger than the {MAX_FRAME - _HEAD.size} a frame holds")
    crc = zlib.crc32(payload, kind << 16 | size)
    return _HEAD.pack(MAGIC, kind, size, crc) + payload


def json_frame(kind: Kind, data: Mapping[str, Any]) -> bytes:
    """A frame with a JSON object in it."""
    return frame(kind, json.dumps(data, separators=(",", ":")).encode())


def scan(data: bytes, *, complete: bool = False) -> tuple[list[tuple[Kind, bytes]], int, int]:
    """The whole frames in `data`.

    Args:
        data: of a file or a pipe.
        complete: nothing will follow, so half a frame is damage.

    Returns:
        Kind and payload of each; how many bytes are done with (the rest may be the start of a frame that is still to
        come); how many bytes were damaged and skipped.
    """
    found: list[tuple[Kind, bytes]] = []
    position, damaged, size = 0, 0, len(data)
    while size - position >= _HEAD.size:
        magic, kind, length, crc = _HEAD.unpack_from(data, position)
        start = position + _HEAD.size
        if magic == MAGIC and length + _HEAD.size <= MAX_FRAME and kind in Kind.__members__.values():
            if start + length > size and not complete:
                break
            payload = data[start : start + length]
            if len(payload) == length and zlib.crc32(payload, kind << 16 | length) == crc:
                found.append((Kind(kind), payload))
                position = start + length
                continue
        following = data.find(MAGIC, position + 1)
        following = size - 1 if following < 0 else following  # the last byte may be half a magic number
        damaged += following - position
        position = following
    if complete:
        damaged, position = damaged + size - position, size
    return found, position, damaged


class TickLayout:
    """How one tick is packed, for a contract with so many observations and actions.

    Args:
        observations, actions: numbers of columns.
    """

    def __init__(self, observations: int, actions: int) -> None:
        self._head = struct.Struct("<IIq16d8d3q2qd4d")
        self.dtype = np.dtype(
            [
                ("index", "<u4"),
                ("flight", "<u4"),
                ("seed", "<i8"),
                ("states", "<f8", (16,)),
                ("setpoints", "<f8", (8,)),
                ("timing", "<i8", (3,)),
                ("guard", "<i8", (2,)),
                ("rewards", "<f8"),
                ("controls", "<f8", (4,)),
                ("observations", "<f4", (observations,)),
                ("actions", "<f4", (actions,)),
            ]
        )
        self._size = self.dtype.itemsize

    def pack(self, head: tuple[float, ...], observation: NDArray[Any], action: NDArray[Any]) -> bytes:
        """One tick as a frame.

        Args:
            head: index, number of the flight, its seed, 16 states, 8 setpoints, 3 times in ns, guard mode and trips,
                reward, 4 controls.
            observation, action: as the policy saw and gave them.

        Raises:
            FlightLogError: a width is not that of the layout.
        """
        try:
            payload = (
                self._head.pack(*head)
                + np.asarray(observation, np.float32).tobytes()
                + np.asarray(action, np.float32).tobytes()
            )
        except struct.error as error:
            raise FlightLogError(f"a tick does not fit the flight log: {error}") from error
        if len(payload) != self._size:
            raise FlightLogError(f"a tick of {len(payload)} bytes does not fit the contract: {self._size} expected")
        return frame(Kind.TICK, payload)

    @staticmethod
    def place(payload: bytes) -> tuple[int, int]:
        """Index and flight of a packed tick."""
        return _PLACE.unpack_from(payload)

    def unpack(self, payloads: list[bytes]) -> NDArray[Any]:
        """Ticks as a structured array, those of another size left out."""
        return np.frombuffer(b"".join(p for p in payloads if len(p) == self._size), self.dtype)


@dataclass(eq=False)
class JournalEpisode:
    """What a journal says of one episode, gathered frame by frame.

    Attributes:
        begin: number of the flight, segment and seed.
        ticks: payloads.
        events: trips and the like, as they were given.
        extra: further attributes.
        ended: the last frame was read.
    """

    begin: dict[str, Any] = field(default_factory=dict[str, Any])
    ticks: list[bytes] = field(default_factory=list[bytes])
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    extra: dict[str, Any] = field(default_factory=dict[str, Any])
    end: dict[str, Any] = field(default_factory=dict[str, Any])
    damaged: int = 0

    @classmethod
    def read(cls, data: bytes) -> JournalEpisode:
        """From the bytes of a journal; never fails, whatever they are."""
        frames, _, damaged = scan(data, complete=True)
        episode = cls(damaged=damaged)
        for kind, payload in frames:
            if kind is Kind.TICK:
                episode.ticks.append(payload)
                continue
            try:
                entry = json.loads(payload)
            except ValueError:
                continue
            if kind is Kind.BEGIN:
                episode.begin |= entry
            elif kind is Kind.EVENT:
                episode.events.append(entry)
            elif kind is Kind.EXTRA:
                episode.extra |= entry
            else:
                episode.end = entry
        return episode

    def to_data(self, layout: TickLayout) -> EpisodeData | None:
        """As an episode of a flight log; None where it has no ticks.

        The attribute `dropped_ticks` counts those that the recorder could not take, `segment` is 0 for a flight that
        fits into one episode and counts on where a long one was cut, `recovered` tells that its end was never written.
        """
        rows = layout.unpack(self.ticks)
        if not len(rows):
            return None
        arrays = {
            name: np.ascontiguousarray(rows[name])
            for name in rows.dtype.names or ()
            if name not in {"index", "flight", "seed"}
        }
        arrays["time_s"] = arrays["states"][:, COLUMNS["states"].index("time")]
        total = float(arrays["rewards"].sum())
        if math.isnan(total):
            del arrays["rewards"]
        first, last = int(self.begin.get("first_tick", rows["index"][0])), int(rows["index"][-1]) + 1
        flown = max(int(self.end.get("ticks", last)), last) - first
        extra: dict[str, Any] = {
            "segment": int(self.begin.get("segment", 0)),
            "flight": int(self.begin.get("flight", 0)),
            "dropped_ticks": max(flown - len(rows), 0),
            "recovered": not self.end,
            **self.extra,
        }
        return EpisodeData(
            arrays,
            bool(self.end.get("success", False)),
            str(self.end.get("termination", UNFINISHED)),
            int(self.begin.get("seed", rows["seed"][0])),  # its BEGIN may have died with a recorder process
            total,
            extra=extra,
            events=self.events,
        )
