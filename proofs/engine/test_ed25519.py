"""Keys and signatures that no honest signer makes (R8), against published lists and against a library."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from engine.base.ed25519 import signature_weakness, weakness

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493

SMALL_ORDER = [
    ("0100000000000000000000000000000000000000000000000000000000000000", "small order"),
    ("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "small order"),
    ("0000000000000000000000000000000000000000000000000000000000000080", "small order"),
    ("0000000000000000000000000000000000000000000000000000000000000000", "small order"),
    ("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", "small order"),
    ("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa", "small order"),
    ("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", "small order"),
    ("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85", "small order"),
    ("0100000000000000000000000000000000000000000000000000000000000080", "second encoding"),
    ("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "second encoding"),
    ("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "second encoding"),
    ("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "second encoding"),
    ("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "second encoding"),
    ("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "second encoding"),
]
"""The eight points of small order in all fourteen encodings: "Taming the many EdDSAs", table 6; libsodium's
`ge25519_has_small_order` has the same seven y."""

RFC_8032 = [
    # (public key, message, signature) of section 7.1.
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]

SPECCHECK = [
    # (public key, signature) of github.com/novifinancial/ed25519-speccheck, cases.json, in its order.
    (
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a00000000000000000000000000000000"
        "00000000000000000000000000000000",
    ),
    (
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43a5bb704786be79fc476f91d3f3f89b03"
        "984d8068dcf1bb7dfc6637b45450ac04",
    ),
    (
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa8c4bd45aecaca5b24fb97bc10ac27ac8"
        "751a7dfe1baff8b953ec9f5833ca260e",
    ),
    (
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "9046a64750444938de19f227bb80485e92b83fdb4b6506c160484c016cc1852f87909e14428a7a1d62e9f22f3d3ad780"
        "2db02eb2e688b6c52fcd6648a98bd009",
    ),
    (
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "160a1cb0dc9c0258cd0a7d23e94d8fa878bcb1925f2c64246b2dee1796bed5125ec6bc982a269b723e0668e540911a9a"
        "6a58921d6925e434ab10aa7940551a09",
    ),
    (
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "21122a84e0b5fca4052f5b1235c80a537878b38f3142356b2c2384ebad4668b7e40bc836dac0f71076f9abe3a53f9c03"
        "c1ceeeddb658d0030494ace586687405",
    ),
    (
        "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
        "e96f66be976d82e60150baecff9906684aebb1ef181f67a7189ac78ea23b6c0e547f7690a0e2ddcd04d87dbc3490dc19"
        "b3b3052f7ff0538cb68afb369ba3a514",
    ),
    (
        "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
        "8ce5b96c8f26d0ab6c47958c9e68b937104cd36e13c33566acd2fe8d38aa19427e71f98a473474f2f13f06f97c20d58c"
        "c3f54b8bd0d272f42b695dd7e89a8c22",
    ),
    (
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f454d370c8d9fc323a41450f8d513eafe"
        "b5b0697390c1e505a0d4ddc71f566607",
    ),
    (
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f084d5b99c2a9463d9c8bd5026916996984"
        "eeec87ddf1d3be329006ace1b37b09",
    ),
]


@pytest.mark.claim("R8")
@pytest.mark.parametrize(("encoded", "says"), SMALL_ORDER, ids=range(len(SMALL_ORDER)))
def test_no_point_of_small_order_is_trusted(encoded: str, says: str) -> None:
    assert says in (weakness(bytes.fromhex(encoded)) or "nothing")
    assert says in (signature_weakness(bytes.fromhex(encoded) + bytes(32)) or "nothing")


@pytest.mark.claim("R8")
def test_keys_and_signatures_of_the_standard_are_fine() -> None:
    for key, message, signature in RFC_8032:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
        public.verify(bytes.fromhex(signature), bytes.fromhex(message))
        assert weakness(bytes.fromhex(key)) is None
        assert signature_weakness(bytes.fromhex(signature)) is None


@pytest.mark.claim("R8")
@pytest.mark.parametrize(("key", "signature"), SPECCHECK, ids=range(len(SPECCHECK)))
def test_no_case_on_which_verifiers_differ_is_accepted(key: str, signature: str) -> None:
    weak_key, weak_signature = weakness(bytes.fromhex(key)), signature_weakness(bytes.fromhex(signature))
    # Cases 6 and 7 have a key of prime order, and an S of the group's order or above.
    assert weak_key or "S that is not below" in (weak_signature or "nothing")


@pytest.mark.claim("R8")
@pytest.mark.parametrize(("above", "weak"), [(-1, None), (0, "S"), (1, "S"), (2**253, "S")])
def test_an_s_is_below_the_order_of_the_group(above: int, weak: str | None) -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    first = bytes.fromhex(RFC_8032[0][2])[:32]
    found = signature_weakness(first + (order + above).to_bytes(32, "little"))
    assert found == (weak and "has an S that is not below the order of the group")


@pytest.mark.claim("R8")
@pytest.mark.parametrize("length", [0, 31, 33, 63, 65])
def test_what_has_another_length_is_neither(length: int) -> None:
    assert weakness(bytes(length)) == f"has {length} bytes instead of 32"
    assert signature_weakness(bytes(length)) == f"has {length} bytes instead of 64"


@pytest.mark.claim("R8")
def test_no_y_of_p_or_above_is_an_encoding() -> None:
    for y in range(P, 2**255):
        for sign in (0, 1):
            encoded = (y | sign << 255).to_bytes(32, "little")
            assert "second encoding" in (weakness(encoded) or "nothing"), encoded.hex()


D = -121665 * pow(121666, -1, P) % P


def decoded(encoded: bytes) -> tuple[int, int]:
    """Affine coordinates, by trying both square roots: code of the test's own."""
    number = int.from_bytes(encoded, "little")
    y = number & (2**255 - 1)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    for root in (pow(square, (P + 3) // 8, P), pow(square, (P + 3) // 8, P) * pow(2, (P - 1) // 4, P) % P):
        if root * root % P == square:
            return (root if root & 1 == number >> 255 else -root % P), y
    raise ValueError(f"{encoded.hex()} is not on the curve")


def added(a: bytes, b: bytes) -> bytes:
    (x1, y1), (x2, y2) = decoded(a), decoded(b)
    product = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def torsion() -> Iterator[bytes]:
    for encoded, says in SMALL_ORDER[1:]:
        if says == "small order":
            yield bytes.fromhex(encoded)


@pytest.mark.slow
@pytest.mark.claim("R8")
@given(st.binary(min_size=32, max_size=32))
def test_an_honest_key_is_fine_and_is_not_with_a_small_component(seed: bytes) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    key = private.public_key().public_bytes_raw()
    signature = private.sign(seed)
    assert weakness(key) is None
    assert signature_weakness(signature) is None
    for point in torsion():
        mixed = added(key, point)
        assert "component of small order" in (weakness(mixed) or "nothing")
        assert "component of small order" in (signature_weakness(mixed + bytes(32)) or "nothing")
    larger = int.from_bytes(signature[32:], "little") + L
    assert "S that" in (signature_weakness(signature[:32] + larger.to_bytes(32, "little")) or "nothing")


@pytest.mark.claim("R8")
@given(st.binary(max_size=70))
def test_any_bytes_are_judged_in_words(raw: bytes) -> None:
    """Whatever is called a fine key is one point with one encoding."""
    if len(raw) != 32:
        assert "instead of 32" in (weakness(raw) or "nothing")
    elif weakness(raw) is None:
        assert added(raw, bytes.fromhex(SMALL_ORDER[0][0])) == raw
    if len(raw) != 64:
        assert "instead of 64" in (signature_weakness(raw) or "nothing")


@pytest.mark.claim("R8")
@given(st.binary(min_size=31, max_size=31), st.integers(0, 255))
def test_half_of_all_y_are_on_no_point(rest: bytes, last: int) -> None:
    encoded = rest + bytes([last])
    said = weakness(encoded) or ""
    try:
        decoded(encoded)
    except ValueError:
        assert "not a point" in said or "second encoding" in said
    else:
        assert "not a point" not in said


@pytest.mark.claim("R8")
def test_R8_a_forged_signature_of_a_weak_key_is_what_the_library_alone_takes() -> None:
    """Why this module is there: for the identity as the key, R = identity and S = 0 sign everything."""
    identity = bytes.fromhex(SMALL_ORDER[0][0])
    Ed25519PublicKey.from_public_bytes(identity).verify(identity + bytes(32), b"whatever")
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(RFC_8032[0][0])).verify(identity + bytes(32), b"whatever")
