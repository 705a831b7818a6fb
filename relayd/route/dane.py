"""What DANE demands of a host: which names to look for its TLSA records at, and what to make of them.

Pure: DNS answers go in.  The rules are RFC 7672 section 2.2 and RFC 7671:

    Insecure addresses: there is no DANE; but where the first alias is secure, the host's own name still may have
        records (section 2.2.2).
    Secure addresses: records are looked for at the name that aliases lead to, then at the host's own (section 2.2.3).
    The first secure records count, and no answer, or a bogus one, bars the host: records may be there (section 2.1.2).
    Of the records those count that can be used: usages 2 and 3, known selectors and digests, whole contents.  Of one
        usage and selector the best digest alone (RFC 7671 section 9).  If none is left, TLS is demanded, and no proof.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from relayd.mail.tls import Dane, Tlsa
from relayd.route.answers import Exchanger, Found, LookUp, Unavailable
from relayd.route.policy import BrokenDane, DaneVerdict, NoDane

MAX_USABLE = 20  # records kept; some sites publish eight while they change keys
_OCTETS = {1: 32, 2: 64}  # of digests: SHA-256, SHA-512
_READERS: dict[int, Callable[[bytes], object]] = {
    0: x509.load_der_x509_certificate,
    1: serialization.load_der_public_key,
}


def secure_names(host: str, a: LookUp[str], aaaa: LookUp[str]) -> tuple[str, ...] | None:
    """Return the names that records may be at, in their order; none if there is no DANE, None if the alias decides.

    `a` and `aaaa` are the addresses that were found of `host`.  If nobody could tell of one kind, the other decides:
    they are of one zone.
    """
    found = [answer for answer in (a, aaaa) if isinstance(answer, Found)]
    if found and all(answer.secure for answer in found):
        return tuple(dict.fromkeys((found[0].canonical or host, host)))
    return None if any(answer.canonical for answer in found) else ()


def own_name(host: str, alias: LookUp[str]) -> tuple[str, ...] | BrokenDane:
    """Return the names that records may be at, if the addresses of an alias are insecure."""
    if isinstance(alias, Unavailable):
        return BrokenDane(alias.reason)
    return (host,) if isinstance(alias, Found) and alias.secure else ()


def owner(base: str, port: int) -> str:
    """Return the name that TLSA records for a server are at (RFC 6698 section 3)."""
    return f"_{port}._tcp.{base}"


def judge(base: str, answer: LookUp[Tlsa]) -> DaneVerdict:
    """Return what the records at one of the names say; NoDane: look at the next one."""
    if isinstance(answer, Unavailable):
        return BrokenDane(answer.reason)
    if not isinstance(answer, Found):
        return NoDane("it has no TLSA records")
    if not answer.secure:
        return NoDane("its TLSA records are not secure")
    return Dane(records=usable(answer.records), names=(base,))


def usable(records: Sequence[Tlsa]) -> tuple[Tlsa, ...]:
    """Return the records that can be used, at most MAX_USABLE; digests first, which cost less to match."""
    able = [record for record in dict.fromkeys(records) if _is_usable(record)]
    best: dict[tuple[int, int], int] = {}
    for record in able:
        kind = record.usage, record.selector
        best[kind] = max(record.matching, best.get(kind, 0))
    kept = [record for record in able if record.matching in (0, best[record.usage, record.selector])]
    return tuple(sorted(kept, key=lambda record: record.matching == 0)[:MAX_USABLE])


def _is_usable(record: Tlsa) -> bool:
    if record.usage not in (2, 3) or record.selector not in (0, 1) or not record.content:
        return False
    if record.matching in _OCTETS:
        return len(record.content) == _OCTETS[record.matching]
    return record.matching == 0 and _is_whole(record)


def _is_whole(record: Tlsa) -> bool:
    """Whether the content is a certificate, or a key, of a kind that is known here."""
    try:
        with warnings.catch_warnings(action="ignore"):
            _READERS[record.selector](record.content)
    except Exception:  # whatever a library says of octets that anybody may publish
        return False
    return True


def next_hop_names(destination: str, answer: LookUp[Exchanger]) -> tuple[str, ...]:
    """Return the names by which a server may prove, under usage 2, that it is a mail exchanger of `destination`, beside
    that under which its records are (RFC 7672 section 3.2.2).

    Its own name came from no resolver, and so counts even if its MX records are not secure, as it does for Postfix;
    what that is an alias of counts only if all is.
    """
    if isinstance(answer, Found) and answer.secure and answer.canonical:
        return (destination, answer.canonical)
    return (destination,)
