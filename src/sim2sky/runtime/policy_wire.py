"""Packets between the flight process and its policy process, over one SOCK_SEQPACKET pair: one packet, one message.

Whatever arrives is checked before it is believed: magic, kind, length, checksum. numpy and the standard library only.
"""

from __future__ import annotations

import json
import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim2sky import errors
from sim2sky.errors import BundleError, Sim2SkyError

__all__ = ["MAX_PACKET", "Kind", "Packet", "error_from", "pack", "pack_error", "pack_values", "unpack", "values_of"]

MAGIC = b"S2SP"
MAX_PACKET = 65536
_HEADER = struct.Struct("<4sBBHIQ")  # magic, kind, flags, reserved (0), payload bytes, sequence number
_CHECKSUM = struct.Struct("<I")  # CRC-32 of everything before it
_OVERHEAD = _HEADER.size + _CHECKSUM.size
_FRESH = 1


class Kind(IntEnum):
    """What a packet says."""

    READY = 1
    """Worker: loaded. One value: the error on the golden vectors."""
    REFUSED = 2
    """Worker: cannot fly this bundle. JSON: class, message and hint of the error."""
    OBSERVATION = 3
    """Flight process: what the policy sees."""
    ACTION = 4
    """Worker: the policy's answer to the observation of the same sequence number."""


class Packet(NamedTuple):
    """One message.

    Attributes:
        kind: what it says.
        sequence: number of the question; 0 for READY and REFUSED.
        fresh: of an observation: it is the first of an episode.
        payload: float64, little endian, or JSON.
    """

    kind: Kind
    sequence: int
    fresh: bool
    payload: bytes


_KINDS = {int(kind): kind for kind in Kind}


def pack(packet: Packet) -> bytes:
    """A packet's bytes.

    Raises:
        ValueError: it is larger than `MAX_PACKET`, or its sequence number is no unsigned 64-bit integer.
    """
    size = len(packet.payload)
    if size + _OVERHEAD > MAX_PACKET or not 0 <= packet.sequence < 2**64:
        raise ValueError(f"no packet holds {size} bytes with the sequence number {packet.sequence}")
    flags = _FRESH if packet.fresh else 0
    data = _HEADER.pack(MAGIC, packet.kind, flags, 0, size, packet.sequence) + packet.payload
    return data + _CHECKSUM.pack(zlib.crc32(data))


def pack_values(kind: Kind, sequence: int, values: ArrayLike, *, fresh: bool = False) -> bytes:
    """A packet of numbers: float64 holds float32, float64 and categories exactly.

    Raises:
        ValueError: as `pack`.
    """
    return pack(Packet(kind, sequence, fresh, np.asarray(values, "<f8").tobytes()))


def unpack(data: bytes) -> Packet | None:
    """The packet in `data`, or None where it is none: any bytes may come in."""
    if not _OVERHEAD <= len(data) <= MAX_PACKET:
        return None
    magic, number, flags, reserved, size, sequence = _HEADER.unpack_from(data)
    kind = _KINDS.get(number)
    if magic != MAGIC or kind is None or flags & ~_FRESH or reserved or size != len(data) - _OVERHEAD:
        return None
    end = len(data) - _CHECKSUM.size
    if _CHECKSUM.unpack_from(data, end)[0] != zlib.crc32(memoryview(data)[:end]):
        return None
    return Packet(kind, sequence, bool(flags & _FRESH), data[_HEADER.size : end])


def values_of(packet: Packet, count: int) -> NDArray[np.float64] | None:
    """The numbers of a packet, or None where it does not hold `count` of them. They need not be finite."""
    if len(packet.payload) != 8 * count:
        return None
    return np.frombuffer(packet.payload, "<f8")


def pack_error(error: Sim2SkyError) -> bytes:
    """Why a worker cannot fly."""
    words = {"class": type(error).__name__, "message": error.message[:4000], "hint": error.hint[:4000]}
    return pack(Packet(Kind.REFUSED, 0, False, json.dumps(words).encode()))


def error_from(packet: Packet) -> Sim2SkyError:
    """The error that a worker reported; a `BundleError` where its words make no sense."""
    try:
        words = json.loads(packet.payload)
        name, message, hint = (str(words[key]) for key in ("class", "message", "hint"))
    except (ValueError, LookupError, TypeError, RecursionError):
        return BundleError("the policy process refused the bundle without saying why")
    kind = getattr(errors, name, None) if name in errors.__all__ else None
    if not (isinstance(kind, type) and issubclass(kind, Sim2SkyError)):
        kind = BundleError
    error = kind.__new__(kind)  # subclasses build their message from other arguments; this one is already made
    Sim2SkyError.__init__(error, message, hint=hint)
    return error
