"""Cuts out of a ULog what is not a message, so that pyulog need not search: it does so byte by byte, for minutes.

Format: docs.px4.io, "ULog File Format".
"""

from __future__ import annotations

import re
import struct

__all__ = ["repaired"]

HEADER_SIZE = 16
FLAGS_SIZE = 3 + 40
TYPES = frozenset(b"ABCDFILMOPQRS")
DATA, FLAGS = ord("D"), ord("B")
LONGEST_UNKNOWN = 10_000  # a message of a later version of the format
MAX_UNKNOWN = 8  # of them in a row
MAX_SEARCHES = 2_000_000
# Shortest and longest of the types that are not data, beyond which a message is not believed after damage.
_SIZES = {
    "A": (4, 200), "B": (40, 99), "C": (11, 999), "F": (4, 10_000), "I": (4, 10_000), "L": (9, 999), "M": (5, 10_000),
    "O": (2, 2), "P": (4, 200), "Q": (5, 200), "R": (2, 2), "S": (8, 8),
}  # fmt: skip
_LIMITS = {ord(kind): limits for kind, limits in _SIZES.items()}
_TYPE_AHEAD = re.compile(rb"(?s)(?=..[ABCDFILMOPQRS])")


def repaired(data: bytes) -> tuple[bytes, int]:
    """A ULog without what is not a message, and how many bytes that was.

    A message counts if its type is one of ULog's and another follows it, and after damage only if three in a row have
    sizes that such messages have; data messages those that they had before. Types of later versions are kept where
    known ones follow.
    """
    end, start, i, lost, searches = len(data), HEADER_SIZE, HEADER_SIZE, 0, 0
    sizes: dict[int, int] = {}
    pieces: list[bytes] = []
    while i + 3 <= end:
        size, kind = data[i] | data[i + 1] << 8, data[i + 2]
        after = i + 3 + size
        if size and kind in TYPES and (after == end or (after + 3 <= end and data[after + 2] in TYPES)):
            if kind == DATA and size > 2:
                sizes.setdefault(data[i + 3] | data[i + 4] << 8, size)
            i = after
            continue
        if 0 < size <= LONGEST_UNKNOWN and chr(kind).isalpha() and _known_ahead(data, after):
            i = after
            continue
        found = None
        for match in _TYPE_AHEAD.finditer(data, i + 1):
            searches += 1
            if searches > MAX_SEARCHES:
                break
            if _believable(data, match.start(), sizes):
                found = match.start()
                break
        if found is None:
            break
        pieces.append(data[start:i])
        lost += found - i
        start = i = found
    if not lost:
        return data, 0
    body = bytearray(b"".join([*pieces, data[start:]]))
    if len(body) >= FLAGS_SIZE and body[2] == FLAGS:
        # Appended data has moved: it is read in one go with the rest.
        body[11] &= 0xFE
        struct.pack_into("<QQQ", body, 19, 0, 0, 0)
    return data[:HEADER_SIZE] + bytes(body), lost


def _known_ahead(data: bytes, i: int) -> bool:
    """Whether two messages of known types, or the end, follow after at most `MAX_UNKNOWN` of unknown ones."""
    end, known = len(data), 0
    for _ in range(MAX_UNKNOWN + 2):
        if i == end or known == 2:
            return True
        if i + 3 > end:
            return False
        size, kind = data[i] | data[i + 1] << 8, data[i + 2]
        known += kind in TYPES
        if not size or not (kind in TYPES or (chr(kind).isalpha() and size <= LONGEST_UNKNOWN)):
            return False
        i += 3 + size
    return known == 2


def _believable(data: bytes, i: int, sizes: dict[int, int]) -> bool:
    """Whether three messages of right sizes begin here, or as many as there is room for."""
    end = len(data)
    for _ in range(3):
        if i == end:
            return True
        if i + 5 > end:
            return False
        size, kind = data[i] | data[i + 1] << 8, data[i + 2]
        if kind == DATA:
            if sizes.get(data[i + 3] | data[i + 4] << 8) != size:
                return False
        else:
            low, high = _LIMITS.get(kind, (1, 0))
            if not low <= size <= high:
                return False
        i += 3 + size
        if i > end:
            return False
    return True
