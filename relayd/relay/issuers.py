"""From a server's certificate up to those that vouch for it (RFC 5280 section 6), at a bounded cost.

Pure.  A path is the server's certificate, who signed it, who signed that, and so on.  Each certificate is reached once,
by the shortest path; at most MAX_SIGNATURES are looked at for one server.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TypeAlias

from cryptography import x509

from relayd.mail.tls import TlsResult
from relayd.relay.certificate import Certificate

MAX_SIGNATURES = 32
Path: TypeAlias = tuple[Certificate, ...]
SignedBy: TypeAlias = Callable[[Certificate, bytes], bool]
Flaw: TypeAlias = tuple[TlsResult, str]


def counted() -> SignedBy:
    """Return what checks signatures, and finds none good once it has looked at MAX_SIGNATURES."""
    left = MAX_SIGNATURES

    def signed_by(certificate: Certificate, key: bytes) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and certificate.signed_by(key)

    return signed_by


def flaw(certificate: Certificate, now: datetime, *, issuing: bool) -> Flaw | None:
    """Return what is wrong with a certificate in itself, None if nothing is."""
    if now > certificate.ends:
        return TlsResult.CERTIFICATE_EXPIRED, f"expired at {certificate.ends:%Y-%m-%dT%H:%M:%SZ}"
    if now < certificate.begins:
        return TlsResult.CERTIFICATE_EXPIRED, f"not valid before {certificate.begins:%Y-%m-%dT%H:%M:%SZ}"
    if certificate.odd:
        return TlsResult.CERTIFICATE_NOT_TRUSTED, f"has the critical extension {certificate.odd}, unknown here"
    if not certificate.for_servers:
        return TlsResult.CERTIFICATE_NOT_TRUSTED, "is not for servers"
    if issuing and not certificate.authority:
        return TlsResult.CERTIFICATE_NOT_TRUSTED, "may not issue others"
    return None


def paths(leaf: Certificate, issuers: Sequence[Certificate], signed_by: SignedBy) -> Iterator[Path]:
    """Yield the paths from `leaf` through `issuers`, shortest first, beginning with the one that is `leaf` alone."""
    reached = {leaf.der}
    found: deque[Path] = deque([(leaf,)])
    while found:
        path = found.popleft()
        yield path
        for issuer in issuers:
            named = issuer.der not in reached and issuer.subject == path[-1].issuer
            if named and signed_by(path[-1], issuer.key):
                reached.add(issuer.der)
                found.append((*path, issuer))


def keeps_its_limits(path: Path) -> bool:
    """Whether nobody on a path issued deeper, or for other names, than he may (RFC 5280 sections 4.2.1.9, 4.2.1.10)."""
    for height, issuer in enumerate(path[1:], start=1):
        below = path[:height]
        between = sum(1 for certificate in below[1:] if not _self_issued(certificate))
        if issuer.path_length is not None and between > issuer.path_length:
            return False
        bound = [certificate for certificate in below if certificate is path[0] or not _self_issued(certificate)]
        if issuer.constraints and not all(_permitted(certificate, issuer.constraints) for certificate in bound):
            return False
    return True


def _self_issued(certificate: Certificate) -> bool:
    return certificate.subject == certificate.issuer


def _permitted(certificate: Certificate, constraints: x509.NameConstraints) -> bool:
    """Whether all of its names are within the permitted, and none in the excluded, of their kind."""
    names = [*certificate.names, *(x509.DNSName(name) for name in certificate.host_names if name.isascii())]
    for name in names:
        permitted = [limit for limit in constraints.permitted_subtrees or () if type(limit) is type(name)]
        excluded = [limit for limit in constraints.excluded_subtrees or () if type(limit) is type(name)]
        if permitted and not any(_within(name, limit, otherwise=False) for limit in permitted):
            return False
        if any(_within(name, limit, otherwise=True) for limit in excluded):
            return False
    return True


def _within(name: x509.GeneralName, limit: x509.GeneralName, *, otherwise: bool) -> bool:
    """Whether `name` is in the subtree `limit`; `otherwise` where nobody here can tell."""
    match name, limit:
        case x509.DNSName(), x509.DNSName():
            text, parent = name.value.lower(), limit.value.lower()
            return not parent or text == parent or text.endswith(parent if parent[0] == "." else f".{parent}")
        case x509.DirectoryName(), x509.DirectoryName():
            upper = list(limit.value.rdns)
            return list(name.value.rdns)[: len(upper)] == upper
        case x509.IPAddress(), x509.IPAddress():
            network = limit.value
            return isinstance(network, ipaddress.IPv4Network | ipaddress.IPv6Network) and name.value in network
        case _:
            return otherwise
