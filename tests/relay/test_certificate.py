"""Certificates as octets: a key is found where every other reader finds it, or not at all."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st

from relayd.relay.certificate import MAX_OCTETS, public_key, read
from tests.support.certificates import AnyKey, a_key, certify

SERVER = certify("mx.example.org")


@pytest.mark.parametrize(
    "key",
    [
        a_key(),
        rsa.generate_private_key(65537, 2048),
        rsa.generate_private_key(3, 1024),
        ed25519.Ed25519PrivateKey.generate(),
        ed448.Ed448PrivateKey.generate(),
        dsa.generate_private_key(1024),
    ],
    ids=lambda key: type(key).__name__,
)
def test_the_key_of_any_certificate_is_found(key: AnyKey) -> None:
    certified = certify("mx.example.org", key=key)

    assert public_key(certified.der) == certified.public


@given(st.integers(0, len(SERVER.der) - 1), st.integers(1, 255))
def test_where_a_library_finds_a_key_none_other_is_found(at: int, by: int) -> None:
    octets = bytearray(SERVER.der)
    octets[at] ^= by
    try:
        found = x509.load_der_x509_certificate(bytes(octets)).public_key()
    except Exception:  # whatever a library says of garbage
        return

    assert public_key(bytes(octets)) == found.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SERVER.der[:1], b"\x1f\x10"),  # the tag of a sequence in its long form
        (SERVER.der[:4], b"\x30\x80"),  # no length: until its end is told
        (SERVER.der[:1], b"\x31"),
    ],
    ids=["long form of a tag", "no length", "another tag"],
)
def test_an_encoding_that_others_might_read_otherwise_has_no_key(before: bytes, after: bytes) -> None:
    assert public_key(after + SERVER.der.removeprefix(before)) is None


@given(st.integers(0, len(SERVER.der) - 1))
def test_a_part_of_a_certificate_has_no_key(length: int) -> None:
    assert public_key(SERVER.der[:length]) is None
    assert read(SERVER.der[:length]) is None


@given(st.binary(max_size=200))
def test_garbage_is_no_certificate(octets: bytes) -> None:
    assert read(octets) is None


def test_one_of_enormous_size_is_not_read() -> None:
    blown_up = certify(
        "mx.example.org", extensions=[(x509.UnrecognizedExtension(ObjectIdentifier("1.2.3"), bytes(MAX_OCTETS)), False)]
    )

    assert read(blown_up.der) is None
    assert public_key(blown_up.der) == blown_up.public
