"""An RSA key to sign with, and the TXT record of its public half."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from relayd.report.settings import DkimKey

SELECTOR = "tls2026"


@cache
def _private(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def pem(
    bits: int = 2048, *, form: serialization.PrivateFormat = serialization.PrivateFormat.TraditionalOpenSSL
) -> bytes:
    """Return the private key."""
    return _private(bits).private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def dkim_key() -> DkimKey:
    """Return it as the reporter has it."""
    return DkimKey(pem=pem(), selector=SELECTOR)


def record() -> bytes:
    """Return the TXT record, for reports alone (RFC 8460 section 3)."""
    public = (
        _private(2048)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return b"v=DKIM1; k=rsa; s=tlsrpt; p=" + base64.b64encode(public)


def dns_of(domain: str) -> Callable[..., bytes]:
    """Return a look-up of TXT records that knows the key of `domain`, and nothing else."""
    known = f"{SELECTOR}._domainkey.{domain}.".encode()

    def look_up(name: bytes, timeout: int = 5) -> bytes:
        return record() if name == known else b""

    return look_up
