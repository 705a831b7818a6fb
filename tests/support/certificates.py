"""Certificates for tests, with whatever flaw: what trustme, which makes good ones, does not make."""

from __future__ import annotations

import hashlib
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import NameOID

from relayd.mail.tls import Tlsa

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
AnyKey = Key | dsa.DSAPrivateKey
YEAR = timedelta(days=365)


def a_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Certified:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: AnyKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def public(self) -> bytes:
        """Its SubjectPublicKeyInfo."""
        return self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def tlsa(self, fields: str = "3 1 1") -> Tlsa:
        """Return the record that it matches."""
        usage, selector, matching = map(int, fields.split())
        content = self.public if selector else self.der
        if matching:
            content = (hashlib.sha256, hashlib.sha512)[matching - 1](content).digest()
        return Tlsa(usage=usage, selector=selector, matching=matching, content=content)


def certify(
    *names: str,
    by: Certified | None = None,
    subject: str = "",
    key: AnyKey | None = None,
    ca: bool = False,
    path_length: int | None = None,
    begins: datetime | None = None,
    ends: datetime | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    alternatives: Sequence[x509.GeneralName] | None = None,
) -> Certified:
    """Return a certificate for `names`, issued `by` another one, else by itself; `extensions` with whether they are
    critical replace those that are made otherwise."""
    key = key or a_key()
    now = datetime.now(UTC).replace(microsecond=0)
    called = _name(subject or (names[0] if names else ""))
    builder = x509.CertificateBuilder(
        issuer_name=by.certificate.subject if by else called,
        subject_name=called,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=begins or now - YEAR,
        not_valid_after=ends or now + YEAR,
    )
    made: list[tuple[x509.ExtensionType, bool]] = list(extensions)
    kinds = {type(extension) for extension, _ in made}
    listed = alternatives if alternatives is not None else [x509.DNSName(name) for name in names]
    if listed:
        made.append((x509.SubjectAlternativeName(listed), False))
    if ca and x509.BasicConstraints not in kinds:
        made.append((x509.BasicConstraints(ca=True, path_length=path_length), True))
    for extension, critical in made:
        builder = builder.add_extension(extension, critical)
    signer = by.key if by else key
    edwards = isinstance(signer, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return Certified(builder.sign(signer, None if edwards else hashes.SHA256()), key)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def signed_with_sha1(good: Certified, by: Certified) -> Certified:
    """Return a certificate that was signed with RSA and SHA-256 as it would be with SHA-1, which no library makes."""
    sha256, sha1 = (bytes.fromhex("2a864886f70d0101" + last) for last in ("0b", "05"))
    old = good.certificate
    signed = old.tbs_certificate_bytes.replace(sha256, sha1)
    assert isinstance(by.key, rsa.RSAPrivateKey)
    signature = by.key.sign(signed, padding.PKCS1v15(), hashes.SHA1())
    der = good.der.replace(old.tbs_certificate_bytes, signed).replace(sha256, sha1).replace(old.signature, signature)
    return Certified(x509.load_der_x509_certificate(der), good.key)


def authority(subject: str = "An Authority", **fields: Any) -> Certified:
    """Return an authority, self-signed unless it is issued `by` another."""
    return certify(subject=subject, ca=True, **fields)


def server_context(*chain: Certified) -> ssl.SSLContext:
    """Return a context for a server that shows these certificates, its own first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # whatever it is signed with
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(chain[0].key_pem + b"".join(certified.pem for certified in chain))
        file.flush()
        context.load_cert_chain(file.name)
    return context
