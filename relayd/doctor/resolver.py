"""The name servers: whether they answer, whether they know us, and whether they validate DNSSEC."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TypeAlias

from relayd.doctor.finding import Finding, error, information, warning
from relayd.route.answers import Kind, LookUp, NoData, NoName, Unavailable
from relayd.route.resolver import DnsResolver
from relayd.route.settings import DnsSettings
from relayd.route.trust import Unfit, Unknown, Validation
from relayd.route.validation import REMEDY

PATIENCE = 5.0  # seconds
ROOT = "."  # a name that every resolver can say something of

Answers: TypeAlias = tuple[LookUp[str], ...]


async def asked(settings: DnsSettings, hostname: str) -> Answers:
    """Look up our own name, or the root where we have none; the answers for IPv4 and IPv6."""
    resolver = DnsResolver(settings)
    name = ROOT if hostname.startswith("[") else hostname
    try:
        async with asyncio.timeout(PATIENCE):
            return tuple(await asyncio.gather(*(resolver.addresses(name, kind) for kind in (Kind.A, Kind.AAAA))))
    except TimeoutError:
        return (Unavailable(f"no answer for {name} within {PATIENCE:g} s"),)


async def validation(settings: DnsSettings) -> Validation:
    """Return whether DANE can be had from them."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await DnsResolver(settings).validation()
    except TimeoutError:
        return Unknown("no answer")


def of_validation(found: Validation) -> Iterator[Finding]:
    """Say that DANE is off where it is wanted.  Pure."""
    if isinstance(found, Unfit):
        yield warning("dane", f"TLSA records are not looked for: {found.why}", REMEDY)


def of_resolver(answers: Answers, hostname: str) -> Iterator[Finding]:
    """Say what is wrong.  Pure."""
    troubles = [answer.reason for answer in answers if isinstance(answer, Unavailable)]
    if len(troubles) == len(answers):
        yield error("resolver", f"the name servers do not answer: {troubles[0]}", "see dns.nameservers, or resolv.conf")
    elif not hostname.startswith("[") and all(isinstance(answer, NoName | NoData) for answer in answers):
        yield information(
            "hostname",
            f"the name that we call ourselves, {hostname}, has no address; some servers refuse mail for that",
            "set relay.hostname to a name that leads to the address from which mail goes out, and back",
        )
