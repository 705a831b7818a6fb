"""Mail exchangers: which hosts a domain's mail may go to, in which order, or why to none.

Pure: DNS answers go in, groups of hosts come out.  The rules are RFC 5321 section 5.1 and RFC 7505:

    No such name: fails.  Nobody could say: waits; its A record is never used instead.
    No MX record: the domain is its own exchanger, if it has an address.  A null MX: fails, and no host is asked.
    Lower preferences first; equal ones form a group, whose order each connection chooses anew.
    We are one of them: those that are no better than we are would only send it back.
    Exchangers, but none that can be used: waits, until the message's lifetime ends; the A record is not used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from relayd.mail.address import parse_domain
from relayd.mail.errors import InvalidAddress
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.reply import EnhancedStatus
from relayd.mail.route import Host
from relayd.route.answers import Exchanger, Found, LookUp, NoData, NoName, Unavailable
from relayd.route.targets import Sifted

MAX_HOSTS = 10  # exchangers of one domain that are ever tried; a domain may publish a thousand
MAX_KEY = 120  # characters of a site's key
SMTP_PORT = 25

NO_DOMAIN = EnhancedStatus(5, 1, 2)
NULL_MX = EnhancedStatus(5, 1, 10)  # RFC 7505 section 4.2
NO_ADDRESS = EnhancedStatus(5, 4, 4)
LOOP = EnhancedStatus(5, 4, 6)
DNS_TROUBLE = EnhancedStatus(4, 4, 3)
UNROUTABLE = EnhancedStatus(4, 4, 4)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Exchangers that may be used, best first, each host once.  `implicit`: the domain stands in for its own."""

    exchangers: tuple[Exchanger, ...]
    implicit: bool = False


def candidates(domain: str, answer: LookUp[Exchanger]) -> Candidates | Deferred | Failed:
    """Read the answer to the MX question for `domain`."""
    match answer:
        case NoName():
            return Failed(reason=f"Domain not found: {domain}", status=NO_DOMAIN)
        case Unavailable(reason):
            return Deferred(reason=f"cannot look up the MX of {domain}: {reason}", status=DNS_TROUBLE)
        case NoData():
            return Candidates((Exchanger(0, domain),), implicit=True)
        case Found(records):
            return _published(domain, records)


def _published(domain: str, records: Sequence[Exchanger]) -> Candidates | Deferred | Failed:
    named = [record for record in records if record.host]
    if not named:
        return Failed(reason=f"{domain} does not accept mail (null MX)", status=NULL_MX)
    best: dict[str, Exchanger] = {}
    for record in sorted(named):
        host = host_name(record.host)
        if host:
            best.setdefault(host, Exchanger(record.preference, host))
    if not best:
        return Deferred(reason=f"no mail exchanger of {domain} is a host name: {named[0].host}", status=UNROUTABLE)
    return Candidates(tuple(best.values()))


def host_name(text: str) -> str:
    """Return a host name as a lower-case A-label, empty if it is none: `10.0.0.1.` is a name of an exchanger that
    does not exist, never an address (RFC 5321 section 5.1)."""
    try:
        return "" if text.startswith("[") else parse_domain(text)
    except InvalidAddress:
        return ""


def without_self(domain: str, those: Candidates, is_self: Callable[[str], bool]) -> Candidates | Failed:
    """Leave out the host that we are, and every one that is not better (RFC 5321 section 5.1)."""
    ours = [exchanger.preference for exchanger in those.exchangers if is_self(exchanger.host)]
    if not ours:
        return those
    better = tuple(exchanger for exchanger in those.exchangers if exchanger.preference < min(ours))
    if not better:
        return Failed(reason=f"mail for {domain} loops back to myself", status=LOOP)
    return Candidates(better, those.implicit)


def foremost(those: Candidates) -> Candidates:
    """Keep the best MAX_HOSTS."""
    return Candidates(those.exchangers[:MAX_HOSTS], those.implicit)


def unreachable(domain: str, those: Candidates, judged: Mapping[str, Sifted]) -> Deferred | Failed | None:
    """Return why no host can be connected to, None if one can.  `judged` has the addresses of every host."""
    hosts = [judged[exchanger.host] for exchanger in those.exchangers]
    if any(host.permitted for host in hosts):
        return None
    if trouble := next((host.trouble for host in hosts if host.trouble), ""):
        return Deferred(reason=f"cannot look up the mail exchangers of {domain}: {trouble}", status=DNS_TROUBLE)
    if refusal := next((reason for host in hosts for reason in host.refusals), ""):
        return Failed(reason=f"no mail exchanger of {domain} may be connected to: {refusal}", status=LOOP)
    if any(host.found for host in hosts):
        reason = f"no mail exchanger of {domain} has an address of a family that we use"
        return Deferred(reason=reason, status=UNROUTABLE)
    if those.implicit:
        return Failed(reason=f"{domain} has neither a mail exchanger nor an address", status=NO_ADDRESS)
    names = ", ".join(exchanger.host for exchanger in those.exchangers[:3])
    return Deferred(reason=f"no mail exchanger of {domain} has an address: {names}", status=UNROUTABLE)


def groups(those: Candidates, port: int) -> tuple[tuple[Host, ...], ...]:
    """Return the hosts in groups of equal preference, best first; within a group by name, so that domains with the
    same exchangers get the same groups, whatever the numbers are."""
    return tuple(
        tuple(Host(name=exchanger.host, port=port) for exchanger in sorted(group))
        for _, group in groupby(those.exchangers, key=lambda exchanger: exchanger.preference)
    )


def site_key(hosts: Sequence[Sequence[Host]]) -> str:
    """Return the key of a site of mail exchangers: `mx1.example.org,mx2.example.org;backup.example.org`.

    Commas are between equals, a semicolon before the next preference; a port follows if it is not 25.  A long key is
    cut after two hosts and goes on with a digest of the whole.
    """
    key = ";".join(",".join(_label(host) for host in group) for group in hosts)
    if len(key) <= MAX_KEY:
        return key
    first = [_label(host) for group in hosts for host in group][:2]
    return f"{','.join(first)},+{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _label(host: Host) -> str:
    return host.name if host.port == SMTP_PORT else str(host)
