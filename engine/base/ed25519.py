"""Which Ed25519 public keys and signatures deserve trust: edwards25519, as far as that question needs it (R8). Pure.

Verifiers agree on what honest signers make, and on little else ("Taming the many EdDSAs", eprint.iacr.org/2020/1244).
For a key of small order anybody can sign, without any private key; one point may have two encodings; a key with a
component of small order is accepted by some libraries and refused by others. None of these is what a key generator
makes, so a key must be the one encoding of a point of prime order, and so must the first half of a signature.
"""

from __future__ import annotations

from typing import Final

# RFC 8032, section 5.1.
_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P
_L: Final = 2**252 + 27742317777372353535851937790883648493
_SQRT_OF_MINUS_1: Final = pow(2, (_P - 1) // 4, _P)

# Extended coordinates (X, Y, Z, T): x = X/Z, y = Y/Z, x*y = T/Z.
_Point = tuple[int, int, int, int]
_IDENTITY: Final[_Point] = (0, 1, 1, 0)


def weakness(encoded: bytes) -> str | None:
    """Return why these 32 bytes are not a point to trust, in words that follow "it"; None for the one encoding of a
    point of prime order."""
    if len(encoded) != 32:
        return f"has {len(encoded)} bytes instead of 32"
    number = int.from_bytes(encoded, "little")
    y, sign = number & (2**255 - 1), number >> 255
    if y >= _P:
        return "is a second encoding of its point: y is not below 2^255-19"
    x = _x_of(y)
    if x is None:
        return "is not a point of the curve"
    if x == 0 and sign:
        return "is a second encoding of its point: there is no negative zero"
    # Of the point with the other x, its negative, the order is the same.
    point = (x, y, 1, x * y % _P)
    if _is_identity(_times(8, point)):
        return "is a point of small order"
    if not _is_identity(_times(_L, point)):
        return "is a point with a component of small order"
    return None


def signature_weakness(signature: bytes) -> str | None:
    """Return why no honest signer has made this signature, whatever was signed; None when one may have."""
    if len(signature) != 64:
        return f"has {len(signature)} bytes instead of 64"
    if int.from_bytes(signature[32:], "little") >= _L:
        return "has an S that is not below the order of the group"
    weak = weakness(signature[:32])
    return f"has an R that {weak}" if weak else None


def _x_of(y: int) -> int | None:
    """Return one of the two x of the points with this y (RFC 8032, section 5.1.3); None when there is none."""
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P == u:
        return x
    if v * x * x % _P == -u % _P:
        return x * _SQRT_OF_MINUS_1 % _P
    return None


def _sum(a: _Point, b: _Point) -> _Point:
    """Return RFC 8032, section 5.1.4: complete, so that it doubles too."""
    m = (a[1] - a[0]) * (b[1] - b[0]) % _P
    n = (a[1] + a[0]) * (b[1] + b[0]) % _P
    o = 2 * a[3] * b[3] * _D % _P
    q = 2 * a[2] * b[2] % _P
    e, f, g, h = n - m, q - o, q + o, n + m
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(scalar: int, point: _Point) -> _Point:
    total = _IDENTITY
    for bit in bin(scalar)[2:]:
        total = _sum(total, total)
        if bit == "1":
            total = _sum(total, point)
    return total


def _is_identity(point: _Point) -> bool:
    return point[0] == 0 and point[1] == point[2]
