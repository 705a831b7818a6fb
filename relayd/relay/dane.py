"""DANE: whether what a server has shown matches the TLSA records of its name (RFC 7672, RFC 7671).

Pure; nothing that a server shows raises, or takes long: of its certificates MAX_CHAIN are looked at.

    Usage 3 (DANE-EE): its own certificate is the one, or has the key.  Its names and its dates say nothing (RFC 7672
    section 3.1.1).
    Usage 2 (DANE-TA): an authority vouches for it, by signatures, and it has the name (sections 3.1.2, 3.2.2).  The
    authority's certificate is among those that the server has shown, or is the record itself (`2 0 0`); of its bare
    key (`2 1 0`) it is enough to have signed the topmost (RFC 7671 section 5.2.3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from relayd.mail.tls import Dane, Tlsa, TlsResult
from relayd.relay import issuers
from relayd.relay.certificate import Certificate, public_key, read

MAX_CHAIN = 10  # certificates of a server; OpenSSL takes some more
_DIGESTS = {1: hashlib.sha256, 2: hashlib.sha512}


@dataclass(frozen=True, slots=True, kw_only=True)
class DaneMismatch:
    """Nothing that the server has shown matches; `reason` in words that follow its name, `result` for reports."""

    reason: str
    result: TlsResult = TlsResult.CERTIFICATE_NOT_TRUSTED


def authenticate(dane: Dane, chain: Sequence[bytes], now: datetime) -> str | DaneMismatch:
    """Return the record that a server's certificates match, as `3 1 1`, or why they match none.

    `chain` has them in DER, the server's own first.  A Dane without records demands none: nothing matches it.
    """
    if not chain:
        return DaneMismatch(reason="has shown no certificate")
    for record in dane.records:
        if record.usage == 3 and _matches(record, chain[0]):
            return str(record)
    anchors = [record for record in dane.records if record.usage == 2]
    if not anchors:
        return DaneMismatch(reason=f"has a certificate that matches none of its TLSA records: {_shown(chain[0])}")
    return _by_authority(anchors, dane, chain[:MAX_CHAIN], now)


def _by_authority(anchors: Sequence[Tlsa], dane: Dane, chain: Sequence[bytes], now: datetime) -> str | DaneMismatch:
    leaf = read(chain[0])
    if leaf is None:
        return DaneMismatch(reason="has a certificate that cannot be read")
    others = [found for der in (*chain[1:], *_given(anchors)) if (found := read(der)) is not None]
    flaws = {other.der: issuers.flaw(other, now, issuing=True) for other in others}
    record = _vouching(anchors, leaf, [other for other in others if flaws[other.der] is None])
    if record is None:
        flaw = next((flaw for flaw in flaws.values() if flaw is not None), None)
        reason = "has a certificate that no authority of its TLSA records vouches for"
        return DaneMismatch(reason=f"{reason}; one that it has shown {flaw[1]}" if flaw else reason)
    if flaw := issuers.flaw(leaf, now, issuing=False):
        return DaneMismatch(reason=f"has a certificate that {flaw[1]}", result=flaw[0])
    if not _is_named(leaf, dane.names) and not _speaks_for_all(leaf, dane.next_hops):
        reason = f"has a certificate for another name than {' or '.join(dane.names)}"
        return DaneMismatch(reason=reason, result=TlsResult.CERTIFICATE_HOST_MISMATCH)
    return str(record)


def _vouching(anchors: Sequence[Tlsa], leaf: Certificate, others: Sequence[Certificate]) -> Tlsa | None:
    """Return the record of the authority that vouches for `leaf`, None if there is none."""
    keys = [anchor for anchor in anchors if (anchor.selector, anchor.matching) == (1, 0)]
    signed_by = issuers.counted()
    for path in issuers.paths(leaf, others, signed_by):
        if not issuers.keeps_its_limits(path):
            continue
        if len(path) > 1:
            for anchor in anchors:
                if _matches(anchor, path[-1].der):
                    return anchor
        for anchor in keys:
            if signed_by(path[-1], anchor.content):
                return anchor
    return None


def _given(anchors: Sequence[Tlsa]) -> list[bytes]:
    """Return the certificates that the records themselves are."""
    return [anchor.content for anchor in anchors if (anchor.selector, anchor.matching) == (0, 0)]


def _matches(record: Tlsa, der: bytes) -> bool:
    """Whether a certificate is what a record says (RFC 6698 section 2.1)."""
    selected = der if record.selector == 0 else public_key(der)
    if selected is None:
        return False
    digest = _DIGESTS.get(record.matching)
    return record.content == (digest(selected).digest() if digest else selected)


def _is_named(leaf: Certificate, names: Sequence[str]) -> bool:
    return any(names_host(pattern, name) for pattern in leaf.host_names for name in names)


def _speaks_for_all(leaf: Certificate, next_hops: Sequence[Sequence[str]]) -> bool:
    return bool(next_hops) and all(_is_named(leaf, names) for names in next_hops)


def names_host(pattern: str, name: str) -> bool:
    """Whether a certificate's name covers a host's: `*` stands for the whole first label, before two others at least
    (RFC 7672 section 3.2.3)."""
    pattern, name = pattern.lower(), name.lower()
    star, _, parent = pattern.partition(".")
    label, _, rest = name.partition(".")
    return pattern == name or (star == "*" and "." in parent and bool(label) and rest == parent)


def _shown(der: bytes) -> str:
    """Return what the record for a certificate would be, for the operator of its server to compare."""
    key = public_key(der)
    return f"3 1 1 {hashlib.sha256(key).hexdigest()}" if key else "it cannot be read"
