"""The target's own ed25519: the vectors of RFC 8032, agreement with `cryptography`, and what strictness refuses."""

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from sim2sky.deployment.ed25519 import L, P, is_valid_key, verify

# RFC 8032, section 7.1: public key, message, signature.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
]
SMALL_ORDER = [  # the canonical encodings of the eight points of order 1, 2, 4 and 8
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
]


@pytest.mark.parametrize("vector", VECTORS)
def test_the_vectors_of_the_rfc(vector: tuple[str, str, str]) -> None:
    public, message, signature = map(bytes.fromhex, vector)
    assert verify(public, message, signature)
    assert is_valid_key(public)
    assert not verify(public, message + b"x", signature)
    for other, _, _ in VECTORS:
        assert verify(bytes.fromhex(other), message, signature) == (other == vector[0])


@pytest.mark.parametrize("position", range(64))
def test_one_flipped_bit_in_any_byte_of_the_signature(position: int) -> None:
    public, message, signature = map(bytes.fromhex, VECTORS[1])
    flipped = bytearray(signature)
    flipped[position] ^= 1 << position % 8
    assert not verify(public, message, bytes(flipped))


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300), st.integers(0, 96 * 8 - 1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_agrees_with_cryptography(seed: bytes, message: bytes, bit: int, damage: bool) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = private.public_key().public_bytes_raw(), private.sign(message)
    if damage:
        both = bytearray(public + signature)
        both[bit // 8] ^= 1 << bit % 8
        public, signature = bytes(both[:32]), bytes(both[32:])
    assert verify(public, message, signature) is not damage
    assert _cryptography_accepts(public, message, signature) is not damage


def _cryptography_accepts(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def test_a_signature_cannot_be_made_into_another_one() -> None:
    """S + L is the same number to the curve: a second valid signature, unless it is refused."""
    public, message, signature = map(bytes.fromhex, VECTORS[2])
    s = int.from_bytes(signature[32:], "little") + L
    assert not verify(public, message, signature[:32] + s.to_bytes(32, "little"))


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_points_of_small_order_are_refused(point: str) -> None:
    """With such a key, S = 0 and R = the neutral element would sign nearly anything."""
    weak = bytes.fromhex(point)
    assert not is_valid_key(weak)
    for commitment in map(bytes.fromhex, SMALL_ORDER):
        assert not verify(weak, b"anything", commitment + bytes(32))
    public, message, signature = map(bytes.fromhex, VECTORS[0])
    assert not verify(public, message, weak + signature[32:])


@pytest.mark.parametrize("value", [P, P + 1, 2**255 - 1, P + 2**255, 2])
def test_encodings_that_are_no_points_are_refused(value: int) -> None:
    data = (value % 2**256).to_bytes(32, "little")
    assert not is_valid_key(data)
    assert not verify(data, b"", bytes(64))


@pytest.mark.parametrize(("key", "signature"), [(31, 64), (33, 64), (32, 63), (32, 65), (0, 0)])
def test_other_lengths_are_refused(key: int, signature: int) -> None:
    assert not verify(bytes(key), b"", bytes(signature))
    assert not is_valid_key(bytes(31))
