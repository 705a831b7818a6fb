"""What DANE says of a host: the look-ups that dane.py decides about."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import replace

from relayd.mail.route import Host
from relayd.mail.tls import Dane
from relayd.route import dane
from relayd.route.answers import Found
from relayd.route.cache import CachingResolver
from relayd.route.policy import BrokenDane, DaneVerdict, NoDane

ANCHOR = 2  # the usage under which names count


class Associations:
    """See the module.  Answers are asked for through a cache; nothing raises."""

    def __init__(self, resolver: CachingResolver) -> None:
        self._resolver = resolver

    async def verdict(self, host: Host, destinations: Collection[str]) -> DaneVerdict:
        """Return what the TLSA records of a host say of connections with mail for `destinations`, whose mail exchanger
        it is; none: it was configured, so that its own name is as good as what that leads to (RFC 7672 section
        3.2.2)."""
        bases = await self._bases(host.name)
        if isinstance(bases, NoDane | BrokenDane):
            return bases
        verdict: DaneVerdict = NoDane("it has no TLSA records")
        for base in bases:
            verdict = dane.judge(base, await self._resolver.associations(dane.owner(base, host.port)))
            if not isinstance(verdict, NoDane):
                break
        if isinstance(verdict, Dane) and any(record.usage == ANCHOR for record in verdict.records):
            return await self._with_names(verdict, host.name, destinations)
        return verdict

    async def _bases(self, host: str) -> tuple[str, ...] | NoDane | BrokenDane:
        """Return the names to look for records at."""
        if _is_address(host):
            return NoDane("it is an address")
        a, aaaa = (await self._resolver.all_addresses([host]))[host]
        if not (isinstance(a, Found) or isinstance(aaaa, Found)):
            return NoDane("it has no address")  # the router says what is the matter
        bases = dane.secure_names(host, a, aaaa)
        if bases is None:
            found = dane.own_name(host, await self._resolver.alias(host))
            if isinstance(found, BrokenDane):
                return found
            bases = found
        return bases or NoDane("its addresses are not secure")

    async def _with_names(self, verdict: Dane, host: str, destinations: Collection[str]) -> Dane:
        if not destinations:
            return replace(verdict, names=tuple(dict.fromkeys((*verdict.names, host))))
        next_hops = [
            dane.next_hop_names(destination, await self._resolver.exchangers(destination))
            for destination in destinations
        ]
        return replace(verdict, next_hops=tuple(next_hops))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
