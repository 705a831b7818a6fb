"""The files that TLS needs, looked at when the configuration is read: a mistake in them is told then, with its key."""

from __future__ import annotations

import ssl
from pathlib import Path

MIN_DKIM_KEY = 1024  # bits


def check_authorities(path: Path) -> None:
    """See that `path` holds certificates of authorities, in PEM.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds none; in words.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise ValueError(f"{path} holds no certificates in PEM") from None


def check_certificate(certificate: Path, key: Path) -> None:
    """See that these are a certificate, with its chain, and its key, in PEM and not encrypted.

    Raises:
        OSError: one of them cannot be read.
        ValueError: they are not; in words.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=_nobody)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"the key in {key} is not that of the certificate in {certificate}") from None
        raise ValueError(f"no certificate and key, in PEM and not encrypted, in {certificate} and {key}") from None


def read_dkim_key(path: Path) -> bytes:
    """Return an RSA key to sign mail with (RFC 6376), in PEM as dkimpy reads it, of PKCS #1.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none, is encrypted, or too short to count (RFC 8301 section 3.2); in words.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(f"no key, in PEM and not encrypted, in {path}") from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < MIN_DKIM_KEY:
        raise ValueError(f"the key in {path} is not an RSA key of at least {MIN_DKIM_KEY} bits")
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _nobody() -> str:
    return ""  # asked for by an encrypted key only, and never right
