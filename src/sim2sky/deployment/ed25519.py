"""Verifies ed25519 signatures with the standard library alone (RFC 8032), for targets that have nothing else.

Verification only: nothing here is secret, so nothing needs to run in constant time. Strict: encodings must be
canonical, S below the group order, keys and commitments of small order are refused. Runs on Python 3.6.
"""

import hashlib

__all__ = ["is_valid_key", "verify"]

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
D2 = 2 * D % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def _decode(data: bytes) -> "tuple[int, int, int, int] | None":
    """Point of an encoding, in extended coordinates (X, Y, Z, T); RFC 8032, 5.1.3. None where it is not canonical."""
    value = int.from_bytes(data, "little")
    sign, y = value >> 255, value & (2**255 - 1)
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if (v * x * x - u) % P:
        x = x * SQRT_M1 % P
        if (v * x * x - u) % P:
            return None
    if x == 0 and sign:
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def _encode(point: "tuple[int, int, int, int]") -> bytes:
    x, y, z, _ = point
    inverse = pow(z, P - 2, P)
    x, y = x * inverse % P, y * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _add(p: "tuple[int, int, int, int]", q: "tuple[int, int, int, int]") -> "tuple[int, int, int, int]":
    """RFC 8032, 5.1.4: complete, so it also doubles."""
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = p[3] * D2 * q[3] % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _double(p: "tuple[int, int, int, int]") -> "tuple[int, int, int, int]":
    a, b = p[0] * p[0] % P, p[1] * p[1] % P
    h = a + b
    e, g = h - (p[0] + p[1]) ** 2, a - b
    f = 2 * p[2] * p[2] + g
    return e * f % P, g * h % P, f * g % P, e * h % P


def _small_order(point: "tuple[int, int, int, int]") -> bool:
    """True where 8 times the point is the neutral element."""
    for _ in range(3):
        point = _double(point)
    return point[0] % P == 0 and (point[1] - point[2]) % P == 0


BASE = _decode((4 * pow(5, P - 2, P) % P).to_bytes(32, "little")) or (0, 1, 1, 0)


def is_valid_key(public: bytes) -> bool:
    """True for the canonical encoding of a point that is not of small order."""
    point = _decode(public) if len(public) == 32 else None
    return point is not None and not _small_order(point)


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """True where `signature` (64 bytes) is that of `message` under the key `public` (32 bytes).

    Checks [S]B - [k]A == R without the cofactor, as most libraries do, on top of the strict rules above.
    """
    if len(public) != 32 or len(signature) != 64:
        return False
    key, commitment = _decode(public), _decode(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if key is None or commitment is None or s >= L or _small_order(key) or _small_order(commitment):
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    negated = (P - key[0], key[1], key[2], P - key[3])
    both = _add(BASE, negated)
    total = (0, 1, 1, 0)
    for bit in range(252, -1, -1):  # both multiples in one pass (Straus 1964)
        total = _double(total)
        in_s, in_k = s >> bit & 1, k >> bit & 1
        if in_s or in_k:
            total = _add(total, both if in_s and in_k else BASE if in_s else negated)
    return _encode(total) == signature[:32]
