"""Frames of the C core against those of `runtime/teensy.py`: the same bytes, payloads and damage, cut anywhere."""

from __future__ import annotations

import ctypes
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.c_support import build_shared

from sim2sky.deployment.toolchain import firmware_folder
from sim2sky.runtime.teensy import FrameReader, crc16, encode_frame


class Reader(ctypes.Structure):
    """`s2s_frame_reader`."""

    _fields_ = (
        ("buffer", ctypes.c_uint8 * 260),
        ("size", ctypes.c_uint16),
        ("frames", ctypes.c_uint32),
        ("damaged", ctypes.c_uint32),
    )


class CFrames:
    """The C reader with `FrameReader`'s interface."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._reader = Reader()
        library.s2s_frame_reader_init(ctypes.byref(self._reader))

    def feed(self, data: bytes) -> list[bytes]:
        buffer = ctypes.create_string_buffer(data, len(data))
        at = ctypes.c_void_p(ctypes.addressof(buffer))
        left, payload = ctypes.c_size_t(len(data)), ctypes.create_string_buffer(255)
        payloads: list[bytes] = []
        reader, read = ctypes.byref(self._reader), self._library.s2s_frame_read
        while (size := read(reader, ctypes.byref(at), ctypes.byref(left), payload)) >= 0:
            payloads.append(payload.raw[:size])
        assert left.value == 0
        return payloads

    @property
    def counts(self) -> tuple[int, int]:
        return self._reader.frames, self._reader.damaged


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    loaded = build_shared([firmware_folder() / "core/frame.c"], tmp_path_factory.mktemp("frame"))
    loaded.s2s_crc16.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    loaded.s2s_crc16.restype = ctypes.c_uint16
    loaded.s2s_frame_encode.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p)
    loaded.s2s_frame_encode.restype = ctypes.c_size_t
    return loaded


def encoded(library: ctypes.CDLL, payload: bytes) -> bytes:
    out = ctypes.create_string_buffer(len(payload) + 6)
    size = library.s2s_frame_encode(payload, len(payload), out)
    assert out.raw[size:] == b"\0" * (len(payload) + 6 - size)  # not a byte too far
    return out.raw[:size]


def agree(library: ctypes.CDLL, chunks: list[bytes]) -> None:
    """Both readers say the same after every single chunk."""
    ours, theirs = CFrames(library), FrameReader()
    for chunk in chunks:
        assert ours.feed(chunk) == theirs.feed(chunk)
        assert ours.counts == (theirs.frames, theirs.damaged)


def cut(data: bytes, rng: random.Random, longest: int) -> list[bytes]:
    chunks: list[bytes] = []
    while data:
        size = rng.randint(0, longest)
        chunks.append(data[:size])
        data = data[size:]
    return chunks


def test_checksum_and_frame_are_those_of_python(library: ctypes.CDLL) -> None:
    assert library.s2s_crc16(b"123456789", 9) == 0x4B37  # CRC-16/MODBUS, catalogue of parametrised CRC algorithms
    rng = random.Random(1)
    for size in range(256):
        payload = rng.randbytes(size)
        assert library.s2s_crc16(payload, size) == crc16(payload)
        assert encoded(library, payload) == encode_frame(payload)


@settings(max_examples=200, deadline=None)
@given(chunks=st.lists(st.binary(max_size=600), max_size=8))
def test_any_bytes_are_read_alike(library: ctypes.CDLL, chunks: list[bytes]) -> None:
    agree(library, chunks)


@settings(max_examples=300, deadline=None)
@given(chunks=st.lists(st.lists(st.sampled_from([0xAA, 0x55, 0, 1, 5, 0xFF]), max_size=600).map(bytes), max_size=6))
def test_bytes_that_look_like_headers_are_read_alike(library: ctypes.CDLL, chunks: list[bytes]) -> None:
    agree(library, chunks)


@pytest.mark.parametrize("longest", [1, 7, 61, 300, 5000])
def test_damaged_streams_are_read_alike_however_they_are_cut(library: ctypes.CDLL, longest: int) -> None:
    rng = random.Random(longest)
    found = spoilt = 0
    for _ in range(30):
        stream = bytearray()
        for _ in range(40):
            frame = bytearray(encode_frame(rng.randbytes(rng.choice([0, 1, 16, 52, 255, rng.randrange(256)]))))
            kind = rng.randrange(6)
            if kind == 0:
                frame[rng.randrange(len(frame))] ^= rng.randrange(1, 256)
            elif kind == 1:
                del frame[rng.randrange(len(frame)) :]
            elif kind == 2:
                frame += rng.randbytes(rng.randrange(300))
            elif kind == 3:
                frame = bytearray(b"\xaa" * rng.randrange(1, 4)) + frame
            stream += frame
        reader = FrameReader()
        reader.feed(bytes(stream))
        found, spoilt = found + reader.frames, spoilt + reader.damaged
        agree(library, cut(bytes(stream), rng, longest))
    assert found > 600 and spoilt > 300


def test_a_stream_cut_at_every_byte(library: ctypes.CDLL) -> None:
    stream = b"\xaa" + encode_frame(bytes(range(52))) + b"\x00\xaa\x55\xff" + encode_frame(b"") + encode_frame(b"end")
    for at in range(len(stream) + 1):
        agree(library, [stream[:at], stream[at:], encode_frame(b"x" * 255)])


def test_a_wrong_checksum_is_no_frame_and_the_next_one_is_found(library: ctypes.CDLL) -> None:
    bad = bytearray(encode_frame(bytes(52)))
    bad[-1] ^= 1
    reader = CFrames(library)
    assert reader.feed(bytes(bad) + encode_frame(b"good")) == [b"good"]
    assert reader.counts == (1, 2)  # the frame, and the bytes of it that were searched
