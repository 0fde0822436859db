"""MAVLink of the C core against pymavlink and `runtime/link.py`: the same bytes, messages and damage counts."""

from __future__ import annotations

import ctypes
import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.c_support import build_program, build_shared

from sim2sky.deployment.toolchain import compile_c, find_compiler, firmware_folder
from sim2sky.runtime.link import Address, MavlinkLink, mavlink
from sim2sky.runtime.teensy import FrameReader, encode_frame

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import mavlink_table  # noqa: E402

HEADER = firmware_folder() / "core/mavlink_table.h"
CODES = {
    "char": "s", "float": "f", "uint8_t": "B", "int8_t": "b", "uint16_t": "H", "int16_t": "h", "uint32_t": "I",
    "int32_t": "i", "uint64_t": "Q", "int64_t": "q",
}  # fmt: skip
PLACES = {name: int(value) for name, value in re.findall(r"S2S_MAV_(\w+) = (\d+)", HEADER.read_text("ascii"))}
PER_MESSAGE = 4000  # 26 messages: more than 1e5


class Message(ctypes.Structure):
    """`s2s_mav_message`."""

    _fields_ = (
        ("id", ctypes.c_uint32),
        ("system", ctypes.c_uint8),
        ("component", ctypes.c_uint8),
        ("sequence", ctypes.c_uint8),
        ("payload", ctypes.c_uint8 * 255),
    )


class Reader(ctypes.Structure):
    """`s2s_mav_reader`."""

    _fields_ = (
        ("buffer", ctypes.c_uint8 * 280),
        ("size", ctypes.c_uint16),
        ("in_step", ctypes.c_bool),
        *((name, ctypes.c_uint32) for name in ("frames", "damaged", "unknown", "version1")),
    )


class CReader:
    """The C reader; gives id, system, component, sequence and payload of each message."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._reader = Reader()
        library.s2s_mav_reader_init(ctypes.byref(self._reader))

    def feed(self, data: bytes, *, whole: bool) -> list[tuple[int, int, int, int, bytes]]:
        buffer = ctypes.create_string_buffer(data, len(data))
        at, left = ctypes.c_void_p(ctypes.addressof(buffer)), ctypes.c_size_t(len(data))
        message, got = Message(), []
        arguments = (ctypes.byref(self._reader), ctypes.byref(at), ctypes.byref(left), whole, ctypes.byref(message))
        while self._library.s2s_mav_read(*arguments):
            got.append((message.id, message.system, message.component, message.sequence, bytes(message.payload)))
        assert left.value == 0
        return got

    @property
    def counts(self) -> tuple[int, int, int, int]:
        r = self._reader
        return r.frames, r.damaged, r.unknown, r.version1


class Pipe:
    """A channel that gives what it is given."""

    foreign = dropped = 0

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole
        self.data = b""

    def receive(self, timeout_s: float) -> bytes:
        return self.data

    def send(self, data: bytes) -> bool:
        return False

    def accept(self) -> None: ...

    def close(self) -> None: ...


class PythonReader:
    """`MavlinkLink` in the same form."""

    def __init__(self, *, whole: bool) -> None:
        self._pipe = Pipe(whole=whole)
        self._link = MavlinkLink(self._pipe, Address("udp", "none", 1), system=1, component=1)

    def feed(self, data: bytes) -> list[tuple[int, int, int, int, bytes]]:
        self._pipe.data = data
        got = []
        for m in self._link.receive(0.0):
            frame = bytes(m.get_msgbuf())
            payload = frame[10 : 10 + frame[1]]
            sender = (m.get_srcSystem(), m.get_srcComponent(), m.get_seq())
            got.append((m.get_msgId(), *sender, payload.ljust(255, b"\0")))
        return got

    @property
    def counts(self) -> tuple[int, int, int, int]:
        s = self._link.statistics
        return s.frames_in, s.damaged, s.unknown, s.version1


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("mavlink")
    loaded = build_shared([firmware_folder() / "core/mavlink.c"], folder)
    loaded.s2s_mav_read.restype = ctypes.c_bool
    loaded.s2s_mav_read.argtypes = (*(ctypes.c_void_p,) * 3, ctypes.c_bool, ctypes.c_void_p)
    loaded.s2s_mav_pack.restype = ctypes.c_size_t
    return loaded


def packer(rng: random.Random) -> mavlink.MAVLink:
    out = mavlink.MAVLink(None, srcSystem=rng.randrange(256), srcComponent=rng.randrange(256))
    out.seq = rng.randrange(256)
    return out


def random_value(kind: str, count: int, rng: random.Random) -> Any:
    if kind == "char":
        return rng.randbytes(rng.randrange(count + 1)) if count > 1 else rng.randbytes(1)
    values = [_random_number(kind, rng) for _ in range(count)]
    return values if count > 1 else values[0]


def _random_number(kind: str, rng: random.Random) -> float:
    code = CODES[kind]
    chance = rng.random()
    if chance < 0.2:
        return 0.0 if code == "f" else 0
    if code == "f" and chance < 0.4:
        return rng.choice([float("nan"), float("inf"), -0.0, 2.0**-149, 3.4028234663852886e38])
    if code == "f":
        return float(struct.unpack("<f", struct.pack("<f", rng.gauss(0.0, 1e3)))[0])
    bits = 8 * struct.calcsize(f"<{code}")
    low, high = (0, 2**bits) if code.isupper() else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return rng.choice([low, high - 1]) if chance < 0.3 else rng.randrange(low, high)


def random_message(name: str, rng: random.Random) -> tuple[Any, bytes]:
    """A message of pymavlink, and the same as payload bytes put together at the places that the C header names."""
    cls = mavlink.mavlink_map[PLACES[name]]
    payload, values = bytearray(255), {}
    for field, kind, _, count in mavlink_table.fields(cls):
        value = random_value(kind, count, rng)
        values[field] = value
        place = PLACES[f"{name}_{field.upper()}"]
        values_in = value if count > 1 else [value]
        packed = value if kind == "char" else struct.pack(f"<{count}{CODES[kind]}", *values_in)
        payload[place : place + len(packed)] = packed
    return cls(**values), bytes(payload)


def test_the_table_is_that_of_pymavlink() -> None:
    assert HEADER.read_text("ascii") == mavlink_table.header(), (
        "run python scripts/mavlink_table.py > firmware/core/mavlink_table.h"
    )
    assert len(mavlink_table.MESSAGES) * PER_MESSAGE >= 100_000


@pytest.mark.parametrize("name", mavlink_table.MESSAGES)
def test_each_field_lies_where_the_header_says(name: str) -> None:
    """By pymavlink's own packing: only the bytes of the field that is set differ from nothing."""
    cls = mavlink.mavlink_map[PLACES[name]]
    listed = list(mavlink_table.fields(cls))
    empty: dict[str, Any] = {}
    for field, kind, _, count in listed:
        empty[field] = b"\0" if kind == "char" else [0] * count if count > 1 else 0
    places = [PLACES[f"{name}_{field.upper()}"] for field, *_ in listed]
    assert places == sorted(places) and PLACES[f"{name}_SIZE"] == cls.unpacker.size
    for (field, kind, _, count), (place, end) in zip(listed, pairwise([*places, PLACES[f"{name}_SIZE"]]), strict=True):
        full = b"\x7f" * count if kind == "char" else [1] * count if count > 1 else 1
        frame = cls(**{**empty, field: full}).pack(mavlink.MAVLink(None))
        touched = [i for i, byte in enumerate(frame[10:-2]) if byte]
        assert touched and place <= touched[0] and touched[-1] < end


@pytest.mark.parametrize("name", mavlink_table.MESSAGES)
def test_random_messages_are_packed_and_read_alike(library: ctypes.CDLL, name: str) -> None:
    rng, reader, decoder = random.Random(name), CReader(library), mavlink.MAVLink(None)
    frame, message = ctypes.create_string_buffer(280), Message()
    for k in range(PER_MESSAGE):
        theirs, payload = random_message(name, rng)
        source = packer(rng)
        expected = theirs.pack(source)
        message.id, message.system, message.component = PLACES[name], source.srcSystem, source.srcComponent
        message.sequence = source.seq
        ctypes.memmove(message.payload, payload, 255)
        size = library.s2s_mav_pack(ctypes.byref(message), frame)
        ours = frame.raw[:size]
        assert ours == expected
        assert reader.feed(expected, whole=k % 2 == 0) == [
            (PLACES[name], source.srcSystem, source.srcComponent, source.seq, payload)
        ]
        if k % 8 == 0:
            back = decoder.decode(bytearray(ours))
            for field in theirs.fieldnames:
                assert repr(getattr(back, field)) == repr(getattr(theirs, field))  # repr: NaN is NaN, -0.0 is not 0.0
    assert reader.counts == (PER_MESSAGE, 0, 0, 0)


def test_a_message_that_is_not_ours_is_not_packed(library: ctypes.CDLL) -> None:
    frame, message = ctypes.create_string_buffer(280), Message()
    for number in (4, 50, 9005, 65535, 65536, 2**24 - 1):
        library.s2s_mav_init(ctypes.byref(message), ctypes.c_uint32(number))
        assert library.s2s_mav_pack(ctypes.byref(message), frame) == 0
    assert frame.raw == bytes(280)


def unknown_frame(rng: random.Random) -> bytes:
    """A message of another dialect: its checksum cannot be checked."""
    size = rng.randrange(40)
    return bytes((0xFD, size, 0, 0, rng.randrange(256), 1, 1)) + struct.pack("<I", 11000)[:3] + rng.randbytes(size + 2)


def random_frame(rng: random.Random) -> bytes:
    kind = rng.randrange(16)
    if kind == 0:
        return unknown_frame(rng)
    message, _ = random_message(rng.choice(mavlink_table.MESSAGES), rng)
    source = packer(rng)
    if kind == 1:
        source.signing.secret_key, source.signing.sign_outgoing = rng.randbytes(32), True
    if kind == 2:
        return bytes(mavlink.MAVLink_heartbeat_message(1, 3, 0, 0, 4, 3).pack(source, force_mavlink1=True))
    frame = bytearray(message.pack(source))
    damage: dict[int, Callable[[], None]] = {
        3: lambda: frame.__setitem__(rng.randrange(len(frame)), rng.randrange(256)),
        4: lambda: frame.__delitem__(slice(rng.randrange(len(frame)), None)),
        5: lambda: frame.extend(rng.randbytes(rng.randrange(1, 60))),
        6: lambda: frame.__setitem__(2, rng.choice([2, 3, 0x80])),
        7: lambda: frame.__setitem__(-1, frame[-1] ^ 0x10),
        8: lambda: frame.__setitem__(1, rng.randrange(256)),
        9: lambda: frame.extend(b"\xfd" * rng.randrange(1, 12)),
    }
    damage.get(kind, lambda: None)()
    return bytes(frame)


def agree(library: ctypes.CDLL, chunks: list[bytes], *, whole: bool) -> tuple[int, int, int, int]:
    ours, theirs = CReader(library), PythonReader(whole=whole)
    for chunk in chunks:
        assert ours.feed(chunk, whole=whole) == (theirs.feed(chunk) if chunk else [])
        assert ours.counts == theirs.counts
    return ours.counts


def cut(data: bytes, rng: random.Random, longest: int) -> list[bytes]:
    chunks: list[bytes] = []
    while data:
        size = rng.randint(1, longest)
        chunks.append(data[:size])
        data = data[size:]
    return chunks


@pytest.mark.parametrize("longest", [1, 5, 40, 400, 8000])
def test_damaged_streams_are_read_alike_however_they_are_cut(library: ctypes.CDLL, longest: int) -> None:
    rng = random.Random(longest)
    totals = [0, 0, 0, 0]
    for _ in range(8):
        stream = b"".join(random_frame(rng) for _ in range(100))
        counts = agree(library, cut(stream, rng, longest), whole=False)
        totals = [a + b for a, b in zip(totals, counts, strict=True)]
    assert totals[0] > 300 and totals[1] > 100 and totals[2] > 5
    assert longest < 40 or totals[3] > 5  # one of version 1 is known only where it comes whole


def test_damaged_datagrams_are_read_alike(library: ctypes.CDLL) -> None:
    rng = random.Random(9)
    datagrams = [b"".join(random_frame(rng) for _ in range(rng.randrange(5))) for _ in range(600)]
    datagrams += [rng.randbytes(rng.randrange(300)) for _ in range(200)]
    datagrams += [bytes(rng.choices([0xFD, 0xFE, 0, 1, 9], k=rng.randrange(300))) for _ in range(200)]
    frames, damaged, unknown, version1 = agree(library, datagrams, whole=True)
    assert min(frames, damaged) > 300 and min(unknown, version1) > 30


def test_a_stream_cut_at_every_byte(library: ctypes.CDLL) -> None:
    rng = random.Random(3)
    stream = b"".join(random_frame(rng) for _ in range(12))
    for at in range(len(stream) + 1):
        agree(library, [stream[:at], stream[at:], random_frame(rng)], whole=False)


def test_a_wrong_checksum_and_a_truncated_frame_lose_themselves_only(library: ctypes.CDLL) -> None:
    link = mavlink.MAVLink(None, srcSystem=1, srcComponent=1)
    good = mavlink.MAVLink_timesync_message(5, 6).pack(link)
    bad = bytearray(good)
    bad[-2] ^= 1
    for spoilt in (bytes(bad), good[:-4]):
        reader = CReader(library)
        got = reader.feed(spoilt + good + good, whole=False)
        got += reader.feed(good * 4, whole=False)
        assert len(got) >= 5 and {m[0] for m in got} == {PLACES["TIMESYNC"]} and reader.counts[1] > 0


def fuzz_program(folder: Path, where: str) -> list[str]:
    """The command that runs tests/c/link_fuzz.c."""
    core = firmware_folder() / "core"
    sources = [ROOT / "tests/c/link_fuzz.c", core / "frame.c", core / "mavlink.c"]
    if where == "aarch64":
        return ["qemu-aarch64", str(build_program(sources, folder, compiler=find_compiler("aarch64")))]
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
    return [str(build_program(sources, folder, compiler=find_compiler("host", "gcc"), optimise="-O1", options=checks))]


@pytest.mark.parametrize("where", ["sanitizers", "aarch64"])
def test_any_bytes_are_read_and_counted_alike(tmp_path: Path, where: str) -> None:
    rng = random.Random(17)
    chunks = [rng.randbytes(rng.randrange(700)) for _ in range(300)]
    chunks += [random_frame(rng) + encode_frame(rng.randbytes(rng.randrange(256))) for _ in range(600)]
    chunks += [bytes(rng.choices([0xFD, 0xFE, 0xAA, 0x55, 0, 1, 9], k=rng.randrange(700))) for _ in range(300)]
    rng.shuffle(chunks)
    given = b"".join(struct.pack("<H", len(chunk)) + chunk for chunk in chunks)
    done = subprocess.run(fuzz_program(tmp_path, where), input=given, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    frames, stream, datagrams = FrameReader(), PythonReader(whole=False), PythonReader(whole=True)
    for chunk in chunks:
        frames.feed(chunk)
        if chunk:
            stream.feed(chunk)
            datagrams.feed(chunk)
    expected = [(frames.frames, frames.damaged), stream.counts, datagrams.counts]
    assert [tuple(map(int, line.split())) for line in done.stdout.splitlines()] == expected
    assert frames.frames > 300 and datagrams.counts[0] > 200


@pytest.mark.parametrize("name", ["frame", "mavlink", "geodetic", "sender_clock", "teensy_state"])
def test_it_compiles_for_every_target_without_a_warning(tmp_path: Path, name: str) -> None:
    core = firmware_folder() / "core"
    for compiler in (find_compiler("host", "clang"), find_compiler("aarch64"), find_compiler("cortex-m7")):
        out = tmp_path / f"{compiler.machine}.o"
        compile_c(compiler, [core / f"{name}.c"], out, product="object", options=["-Werror"])
