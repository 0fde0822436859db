"""Packets between flight process and policy process: what is packed comes back, and nothing else is believed."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky.errors import BundleError, GoldenMismatchError, MissingExtraError, NotSupportedError, Sim2SkyError
from sim2sky.runtime.policy_wire import (
    MAX_PACKET,
    Kind,
    Packet,
    error_from,
    pack,
    pack_error,
    pack_values,
    unpack,
    values_of,
)

sequences = st.integers(0, 2**64 - 1)
doubles = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=80)


@given(st.sampled_from(Kind), sequences, st.booleans(), st.binary(max_size=2000))
def test_every_packet_comes_back_as_it_went(kind: Kind, sequence: int, fresh: bool, payload: bytes) -> None:
    packet = Packet(kind, sequence, fresh, payload)
    assert unpack(pack(packet)) == packet


@given(st.sampled_from(Kind), sequences, doubles, st.booleans())
def test_numbers_come_back_bit_for_bit(kind: Kind, sequence: int, values: list[float], fresh: bool) -> None:
    packet = unpack(pack_values(kind, sequence, values, fresh=fresh))
    assert packet is not None and packet[:3] == (kind, sequence, fresh)
    got = values_of(packet, len(values))
    assert got is not None and got.tobytes() == np.array(values, "<f8").tobytes()
    assert values_of(packet, len(values) + 1) is None and values_of(packet, abs(len(values) - 1)) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_float32_and_categories_survive_the_wire_exactly(dtype: type) -> None:
    values = np.array([0.1, -3.0, 2.0**24 + 1, 1e-30], dtype)
    packet = unpack(pack_values(Kind.OBSERVATION, 1, values))
    assert packet is not None
    got = values_of(packet, 4)
    assert got is not None and np.array_equal(got.astype(dtype), values)


@given(st.binary(max_size=300))
def test_random_bytes_are_no_packet(data: bytes) -> None:
    assert unpack(data) is None


@given(sequences, doubles, st.data())
def test_a_packet_with_any_bit_flipped_is_no_packet(sequence: int, values: list[float], data: st.DataObject) -> None:
    packed = bytearray(pack_values(Kind.ACTION, sequence, values))
    position = data.draw(st.integers(0, len(packed) * 8 - 1))
    packed[position // 8] ^= 1 << position % 8
    assert unpack(bytes(packed)) is None


@given(sequences, doubles, st.integers(0, 700), st.binary(max_size=40))
def test_a_packet_cut_short_or_with_more_behind_it_is_no_packet(
    sequence: int, values: list[float], cut: int, more: bytes
) -> None:
    packed = pack_values(Kind.ACTION, sequence, values)
    if cut < len(packed):
        assert unpack(packed[:cut]) is None
    if more:
        assert unpack(packed + more) is None


@pytest.mark.parametrize(
    ("field", "value"), [("magic", b"S2SQ"), ("kind", 0), ("kind", 5), ("flags", 2), ("reserved", 1), ("size", 7)]
)
def test_a_wrong_header_is_refused_even_with_a_right_checksum(field: str, value: object) -> None:
    header = {"magic": b"S2SP", "kind": 4, "flags": 0, "reserved": 0, "size": 8, "sequence": 3}
    assert header.keys() >= {field}

    def build(fields: dict[str, object]) -> bytes:
        data = struct.pack("<4sBBHIQ", *fields.values()) + struct.pack("<d", 1.0)
        return data + struct.pack("<I", zlib.crc32(data))

    assert unpack(build(header)) is not None
    assert unpack(build({**header, field: value})) is None


def test_what_does_not_fit_is_refused_when_packed() -> None:
    for values, sequence in (([0.0] * (MAX_PACKET // 8), 1), ([0.0], -1), ([0.0], 2**64)):
        with pytest.raises(ValueError, match="no packet holds"):
            pack_values(Kind.OBSERVATION, sequence, values)


@pytest.mark.parametrize(
    "error",
    [
        BundleError("one byte differs", hint="install it again"),
        GoldenMismatchError("differs by 0.1"),
        NotSupportedError("a policy in the file 'p.tflite'", hint="formats"),
        MissingExtraError("torch", "train"),
    ],
)
def test_an_error_comes_back_as_itself(error: Sim2SkyError) -> None:
    packet = unpack(pack_error(error))
    assert packet is not None and packet.kind is Kind.REFUSED
    got = error_from(packet)
    assert (type(got), str(got), got.exit_code) == (type(error), str(error), error.exit_code)


@given(st.one_of(st.binary(max_size=200), st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["class", "message", "hint", "x"]), inner, max_size=4),
).map(lambda v: repr(v).encode())))  # fmt: skip
def test_an_error_packet_of_any_content_becomes_some_plain_error(payload: bytes) -> None:
    assert isinstance(error_from(Packet(Kind.REFUSED, 0, False, payload)), Sim2SkyError)


def test_an_error_of_an_unknown_class_is_a_bundle_error() -> None:
    for name in ("SystemExit", "EXIT_PASS", "__all__", "Nothing"):
        payload = f'{{"class": "{name}", "message": "m", "hint": "h"}}'.encode()
        error = error_from(Packet(Kind.REFUSED, 0, False, payload))
        assert type(error) is BundleError and str(error) == "m\n  -> h"
