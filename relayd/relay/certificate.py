"""A server's certificate, as far as DANE needs to know it: read once, from octets that anybody may have chosen.

Pure.  What cannot be read is None, or is told apart as something that vouches for nothing; nothing raises.  Of a
certificate's public key only what it is in the certificate is taken, octet by octet (RFC 6698 section 1.1.3), so that a
key that no library knows can still be matched.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

MAX_OCTETS = 64 * 1024  # of a certificate whose signatures are looked at
MAX_RSA_BITS = 8192  # a larger key makes each signature cost tens of milliseconds
_SEQUENCE, _INTEGER, _VERSION = 0x30, 0x02, 0xA0  # ASN.1 tags
_BEFORE_THE_KEY = (_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE)  # number, signature, issuer, validity, subject
_BROKEN_HASHES = ("md5", "sha1")  # of signatures: two certificates can be made that share one
_SERVER = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
_KNOWN: tuple[type[x509.ExtensionType], ...] = (  # RFC 5280 section 4.2; any other that is critical refuses
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.NameConstraints,
    x509.CertificatePolicies,  # we ask for no policy, so that any will do
    x509.PolicyConstraints,
    x509.InhibitAnyPolicy,
)
E = TypeVar("E", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """See the module.

    `key` is its SubjectPublicKeyInfo in DER.  `authority`: it may issue others, `path_length` that many below each
    other.  `names` has what name constraints are about: the subject, and its alternatives.  `odd`: a critical extension
    that we do not know, empty if there is none.
    """

    der: bytes
    key: bytes
    subject: x509.Name
    issuer: x509.Name
    begins: datetime
    ends: datetime
    authority: bool
    path_length: int | None
    for_servers: bool
    names: tuple[x509.GeneralName, ...]
    constraints: x509.NameConstraints | None
    odd: str
    parsed: x509.Certificate

    @property
    def host_names(self) -> tuple[str, ...]:
        """What it may be called: its dNSNames, or without any its common names (RFC 7672 section 3.2.2)."""
        named = tuple(name.value for name in self.names if isinstance(name, x509.DNSName))
        return named or tuple(_common_names(self.subject))

    def signed_by(self, key: bytes) -> bool:
        """Whether its signature is by a public key, a SubjectPublicKeyInfo."""
        return _signed_by(self.parsed, key)


def public_key(der: bytes) -> bytes | None:
    """Return the SubjectPublicKeyInfo of a certificate in DER, its very octets; None if there is none to be found.

    Every tag on the way has to be the one that RFC 5280 section 4.1 wants, in its one-octet form, and every length a
    definite one: whoever else reads these octets, and takes them for a certificate, then finds the same key.
    """
    try:
        at, end = _element(der, 0, len(der), _SEQUENCE)
        at, end = _element(der, at, end, _SEQUENCE)
        if der[at] == _VERSION:
            _, at = _element(der, at, end, _VERSION)
        for tag in _BEFORE_THE_KEY:
            _, at = _element(der, at, end, tag)
        _, end = _element(der, at, end, _SEQUENCE)
    except IndexError:
        return None
    return der[at:end]


def _element(der: bytes, at: int, limit: int, tag: int) -> tuple[int, int]:
    """Return where the content of the ASN.1 element at `at` begins and ends (X.690 section 8.1); IndexError if there is
    none with this tag that ends by `limit`."""
    length, start = der[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        length = int.from_bytes(der[start : start + octets], "big")
        start += octets
        if not octets:
            raise IndexError(at)
    if der[at] != tag or start + length > limit:
        raise IndexError(at)
    return start, start + length


def read(der: bytes) -> Certificate | None:
    """Return a certificate that came in DER; None for what is none, or is too large."""
    key = public_key(der)
    if key is None or len(der) > MAX_OCTETS:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is odd in it: that is the server's business
            return _read(der, key)
    except Exception:  # the library parses as it is asked, and has an exception for each of a dozen flaws
        return None


def _read(der: bytes, key: bytes) -> Certificate:
    parsed = x509.load_der_x509_certificate(der)
    basic = _extension(parsed, x509.BasicConstraints)
    usage = _extension(parsed, x509.KeyUsage)
    purposes = _extension(parsed, x509.ExtendedKeyUsage)
    authority = basic.ca if basic else parsed.version is x509.Version.v1 and parsed.subject == parsed.issuer
    return Certificate(
        der=der,
        key=key,
        subject=parsed.subject,
        issuer=parsed.issuer,
        begins=parsed.not_valid_before_utc,
        ends=parsed.not_valid_after_utc,
        authority=authority and (usage is None or usage.key_cert_sign),
        path_length=basic.path_length if basic else None,
        for_servers=purposes is None or not _SERVER.isdisjoint(purposes),
        names=tuple(_names(parsed)),
        constraints=_extension(parsed, x509.NameConstraints),
        odd=_odd(parsed),
        parsed=parsed,
    )


def _extension(parsed: x509.Certificate, kind: type[E]) -> E | None:
    return next((extension.value for extension in parsed.extensions if isinstance(extension.value, kind)), None)


def _odd(parsed: x509.Certificate) -> str:
    critical = (extension for extension in parsed.extensions if extension.critical)
    return next((found.oid.dotted_string for found in critical if not isinstance(found.value, _KNOWN)), "")


def _names(parsed: x509.Certificate) -> Iterator[x509.GeneralName]:
    if list(parsed.subject):
        yield x509.DirectoryName(parsed.subject)
    yield from _extension(parsed, x509.SubjectAlternativeName) or ()


def _common_names(subject: x509.Name) -> Iterator[str]:
    for attribute in subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        if isinstance(attribute.value, str):
            yield attribute.value


def _signed_by(parsed: x509.Certificate, key: bytes) -> bool:
    try:
        algorithm = parsed.signature_hash_algorithm
        if algorithm is not None and algorithm.name in _BROKEN_HASHES:
            return False
        _verify(serialization.load_der_public_key(key), parsed, algorithm)
    except Exception:  # an unknown algorithm, a key of another kind, a point that is not on its curve
        return False
    return True


def _verify(key: object, parsed: x509.Certificate, algorithm: hashes.HashAlgorithm | None) -> None:
    """Raises InvalidSignature, and whatever else the library finds."""
    signature, signed = parsed.signature, parsed.tbs_certificate_bytes
    match key, parsed.signature_algorithm_parameters:
        case rsa.RSAPublicKey(), (padding.PKCS1v15() | padding.PSS()) as parameters if (
            algorithm is not None and key.key_size <= MAX_RSA_BITS
        ):
            key.verify(signature, signed, parameters, algorithm)
        case ec.EllipticCurvePublicKey(), ec.ECDSA() as parameters:
            key.verify(signature, signed, parameters)
        case ((ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey()), None):
            key.verify(signature, signed)
        case _:
            raise InvalidSignature
