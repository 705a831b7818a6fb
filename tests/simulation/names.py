"""The simulated DNS: what a scenario's names lead to, and how it fails."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

from relayd.mail.tls import Tlsa
from relayd.route.answers import Exchanger, Found, Kind, LookUp, NoData, NoName, Unavailable
from tests.simulation.facts import Facts
from tests.simulation.loop import Agenda
from tests.simulation.scenario import Domain, HostPlan, Scenario

PATIENCE = 10.0  # seconds until nobody has answered


class Names:
    """A Resolver (relayd/route/answers.py)."""

    def __init__(self, scenario: Scenario, agenda: Agenda, facts: Facts) -> None:
        self._agenda = agenda
        self._facts = facts
        self._chance = random.Random(f"{scenario.seed}/dns")
        self._trouble = scenario.dns_faults
        self._calm_at = scenario.calm_at
        self._sites = scenario.sites
        self._domains = {domain.name: domain for domain in scenario.domains}
        self._hosts = {host.name: host for site in scenario.sites for host in site}
        self.dark_until = 0.0  # nobody answers before

    async def exchangers(self, name: str) -> LookUp[Exchanger]:
        """See Resolver."""
        return await self._delayed() or self._mx(self._domains.get(name))

    async def addresses(self, name: str, kind: Kind) -> LookUp[str]:
        """See Resolver."""
        if failed := await self._delayed():
            return failed
        if host := self._hosts.get(name):
            return self._found(host.addresses, kind)
        domain = self._domains.get(name)
        if domain is None or domain.nature == "nxdomain":
            return NoName(self._ttl())
        return NoData(self._ttl())

    async def alias(self, name: str) -> LookUp[str]:
        """See Resolver."""
        return await self._delayed() or NoData(self._ttl())

    async def associations(self, name: str) -> LookUp[Tlsa]:
        """See Resolver."""
        return await self._delayed() or NoData(self._ttl())

    async def texts(self, name: str) -> LookUp[str]:
        """See Resolver."""
        return await self._delayed() or NoData(self._ttl())

    def _mx(self, domain: Domain | None) -> LookUp[Exchanger]:
        if domain is None or domain.nature == "nxdomain":
            return NoName(self._ttl())
        match domain.nature:
            case "servfail":
                return Unavailable("SERVFAIL")
            case "null":
                return Found((Exchanger(0, ""),), self._ttl())
            case "mx":
                return Found(_records(self._sites[domain.site]), self._ttl())
            case _:
                return NoData(self._ttl())

    def _found(self, addresses: tuple[str, ...], kind: Kind) -> LookUp[str]:
        version = ":" if kind is Kind.AAAA else "."
        found = tuple(each for each in addresses if version in each)
        return Found(found, self._ttl()) if found else NoData(self._ttl())

    def _ttl(self) -> timedelta:
        return timedelta(seconds=self._chance.choice((0, 1, 60, 3600, 2**31)))

    async def _delayed(self) -> Unavailable | None:
        if self._agenda.now < self.dark_until:
            self._facts.injected["dns dark"] += 1
            await asyncio.sleep(PATIENCE)
            return Unavailable("the resolver does not answer")
        if self._agenda.now >= self._calm_at or self._chance.random() >= self._trouble:
            await asyncio.sleep(0.002)
            return None
        kind = self._chance.choice(("SERVFAIL", "REFUSED", "timeout", "slow"))
        self._facts.injected[f"dns {kind}"] += 1
        await asyncio.sleep({"timeout": PATIENCE, "slow": PATIENCE * 0.9}.get(kind, 0.01))
        return None if kind == "slow" else Unavailable(kind)


def _records(site: tuple[HostPlan, ...]) -> tuple[Exchanger, ...]:
    return tuple(sorted(Exchanger(host.preference, host.name) for host in site))
