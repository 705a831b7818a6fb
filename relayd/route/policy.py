"""What a connection to a host demands of TLS: the strictest of what is configured, DANE and MTA-STS.

Pure.  In this order:

    DANE says nothing trustworthy (bogus, no answer): this host is not to be used now (RFC 7672 section 2.1.2).
    DANE has records: TLS, and one of them has to match.  MTA-STS is not asked then (RFC 8461 section 2).  Has it only
        such that cannot be used: TLS at least.
    MTA-STS, enforced: the host is one of the policy's, and proves its name by the web's authorities.
    MTA-STS, in testing mode: that is tried, and reported; mail goes by the configured level if it fails.
    The configured level is the least in any case.  Under VERIFY a record of DANE proves the name as well as an
    authority does, unless the operator named the authorities (`ca_file`): then both have to.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

from relayd.mail.outcome import Deferred, Scope
from relayd.mail.pattern import matches
from relayd.mail.tls import UNKNOWN_DEMAND, UNTRUSTED, Dane, Demand, Source, Sts, TlsPolicy
from relayd.route.settings import RouteSettings, TlsRule


@dataclass(frozen=True, slots=True)
class NoDane:
    """There is none: not asked for, no validating resolver, an insecure zone, or no records.  `why` in words."""

    why: str


@dataclass(frozen=True, slots=True)
class BrokenDane:
    """Whether there are records cannot be said: bogus, refused, or no answer.  `why` in words."""

    why: str


DaneVerdict: TypeAlias = Dane | NoDane | BrokenDane


def rule_for(destination: str, settings: RouteSettings) -> TlsRule:
    """Return what the operator demands of the mail exchangers of `destination`: the first rule that matches says."""
    for rule in settings.tls_rules:
        if any(matches(pattern, destination) for pattern in rule.match):
            return rule
    return TlsRule(match=("*",), level=settings.tls, setup=settings.tls_setup, mta_sts=settings.mta_sts)


def label(rule: TlsRule, settings: RouteSettings) -> str:
    """Return what a site's key has behind its hosts where this is not what is configured for all: `#verify`, with a
    digest of a setup of its own, and `#no-dane`.  Domains with the same exchangers and other demands must not share
    connections."""
    level = "" if rule.level is settings.tls else f"#{rule.level.value}"
    if rule.setup != settings.tls_setup:
        level = f"#{rule.level.value}+{hashlib.sha256(repr(rule.setup).encode()).hexdigest()[:8]}"
    return level if rule.dane else f"{level}#no-dane"


def fold(
    host: str, *, level: TlsPolicy, dane: DaneVerdict, sts: Sts | None = None, pinned: bool = False
) -> Demand | Deferred:
    """Return what a connection to `host` demands, or why it is not to be used, of scope HOST.

    `level` is the configured one, `pinned` tells of authorities of the operator's own.
    """
    if isinstance(dane, BrokenDane):
        return Deferred(scope=Scope.HOST, reason=f"DANE for {host}: {dane.why}", status=UNKNOWN_DEMAND)
    encrypting = dane if isinstance(dane, Dane) else None
    if encrypting is not None and encrypting.records:
        if pinned and level is TlsPolicy.VERIFY:
            return Demand(level=level, dane=encrypting)
        return Demand(level=TlsPolicy.REQUIRE, source=Source.DANE, dane=encrypting)
    enforced = sts is not None and sts.enforce
    if sts is not None and enforced and host not in sts.hosts:
        reason = f"MTA-STS: {host} is not a mail exchanger of the domain's policy"
        return Deferred(scope=Scope.HOST, reason=reason, status=UNTRUSTED)
    if level is TlsPolicy.VERIFY:
        return Demand(level=level, dane=encrypting)
    if enforced:
        return Demand(level=TlsPolicy.VERIFY, source=Source.MTA_STS, dane=encrypting)
    trial = sts is not None and host in sts.hosts
    if encrypting is not None and level < TlsPolicy.REQUIRE:
        return Demand(level=TlsPolicy.REQUIRE, source=Source.DANE, dane=encrypting, trial=trial)
    return Demand(level=level, trial=trial)
