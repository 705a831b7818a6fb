"""Routes: a destination becomes a site, a host of a site becomes addresses to connect to.

A thin shell: it asks the resolver, and smart_host, mx and targets decide.  In this order: a [[route]] that matches, an
address literal, the mail exchangers.  Look-ups of one destination run concurrently; answers are cached and shared
(cache.py).  Nothing here raises for what a name server says.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.route import AddressFamily, Host, Site, Target
from relayd.mail.tls import Demand, TlsPolicy
from relayd.route import mx, smart_host, sts, targets
from relayd.route.answers import Resolver
from relayd.route.associations import Associations
from relayd.route.cache import CachingResolver
from relayd.route.mx import Candidates
from relayd.route.policy import DaneVerdict, NoDane, fold, label, rule_for
from relayd.route.settings import RouteSettings
from relayd.route.sts import StsPolicy
from relayd.route.targets import Sifted, TargetRules

OWN_ADDRESSES_TTL = timedelta(minutes=1)


class StsSource(Protocol):
    """Where policies of MTA-STS come from."""

    async def policy(self, domain: str) -> StsPolicy | None:
        """Return the policy of a domain that is in force, None if there is none.  Never raises, and ends in bounded
        time."""


async def _no_dane() -> bool:
    return False


class Router:
    """See the module.  `own_addresses` tells this machine's addresses other than loopback (own.py); without
    `policies` there are none; `has_dane` tells whether the resolver's word on DNSSEC counts (validation.py)."""

    def __init__(
        self,
        settings: RouteSettings,
        resolver: Resolver,
        *,
        clock: Callable[[], datetime],
        own_addresses: Callable[[], frozenset[str]],
        policies: StsSource | None = None,
        has_dane: Callable[[], Awaitable[bool]] = _no_dane,
    ) -> None:
        self._settings = settings
        self._resolver = CachingResolver(resolver, clock)
        self._associations = Associations(self._resolver)
        self._has_dane = has_dane
        self._clock = clock
        self._own_addresses = own_addresses
        self._policies = policies
        self._own: tuple[datetime, frozenset[str]] | None = None

    def reload(self, settings: RouteSettings) -> None:
        """Use other settings from the next call on, and ask the DNS anew."""
        self._settings = settings
        self.forget()

    def forget(self) -> None:
        """Ask the DNS anew from the next call on."""
        self._resolver.clear()

    async def route(self, destination: str) -> Site | Deferred | Failed:
        """Return the site that mail for `destination` goes to: a lower-case A-label or an address literal, behind the
        name of a route and a slash if it was redirected.

        Destinations with the same exchangers, of which the same is demanded, get equal sites.  Failed (5.1.2, 5.1.10,
        5.4.4, 5.4.6) and Deferred (4.4.3, 4.4.4) have scope MESSAGE: there is no site yet that could back off.
        """
        settings = self._settings
        via, _, destination = destination.rpartition("/")
        rule = smart_host.named(settings.rules, via) if via else smart_host.matching(settings.rules, destination)
        if rule is not None:
            return smart_host.site_of(rule, settings)
        if via:
            reason = f"redirected to the route {via}, which the configuration does not have"
            return Deferred(reason=reason, status=mx.UNROUTABLE)
        if destination.startswith("["):
            return self._literal(destination, settings)
        found = mx.candidates(destination, await self._resolver.exchangers(destination))
        if isinstance(found, Candidates):
            found = mx.without_self(destination, found, lambda host: host == settings.hostname)
        site = await self._site(destination, found, settings) if isinstance(found, Candidates) else found
        return await self._under_policy(destination, site) if isinstance(site, Site) else site

    async def policy(self, destination: str) -> StsPolicy | None:
        """Return the policy of MTA-STS (RFC 8461) that is heeded for `destination`, None if there is none."""
        settings = self._settings
        routed = "/" in destination or smart_host.matching(settings.rules, destination) is not None
        if self._policies is None or routed or destination.startswith("["):
            return None
        if not rule_for(destination, settings).mta_sts:
            return None
        return await self._policies.policy(destination)

    async def addresses(
        self, host: Host, site: Site, destinations: Collection[str]
    ) -> list[Target] | Deferred | Failed:
        """Return the addresses of a host of a site, for connections with mail for `destinations`, in the order to try
        them: at least one, at most MAX_ADDRESSES.

        Judged anew for every connection, because a name may lead elsewhere by now; the hosts of a configured route are
        exempt.  Deferred (4.4.3, 4.4.4) and Failed (5.4.6) have scope HOST: ask the next one.
        """
        _, demand = await self.demand(host, site, destinations)
        if isinstance(demand, Deferred):
            return demand
        judged = await self._judge_host(host.name, site.address_family, configured=site.configured)
        if judged.permitted:
            return [Target(host=host, address=address, demand=demand) for address in judged.permitted]
        return _no_target(host.name, judged)

    async def reach(self, name: str, *, configured: bool) -> tuple[str, ...] | Deferred | Failed:
        """Return the addresses of a server that is no mail exchanger, as `addresses` does those of a host."""
        judged = await self._judge_host(name, self._settings.address_family, configured=configured)
        return judged.permitted or _no_target(name, judged)

    async def _judge_host(self, name: str, family: AddressFamily, *, configured: bool) -> Sifted:
        rules = None if configured else self._rules(self._settings)
        if _is_address(name):
            return _judge_address(name, rules)
        if configured and name == "localhost":
            return _localhost(family)
        return (await self._judge([name], family, rules))[name]

    async def demand(
        self, host: Host, site: Site, destinations: Collection[str]
    ) -> tuple[DaneVerdict, Demand | Deferred]:
        """Return what DANE says of a host of a site, and what is demanded of a connection to it, all in all."""
        dane = await self._dane(host, site, destinations)
        return dane, fold(host.name, level=site.tls, dane=dane, sts=site.sts, pinned=bool(site.setup.ca_file))

    async def _dane(self, host: Host, site: Site, destinations: Collection[str]) -> DaneVerdict:
        if not site.dane or site.tls is TlsPolicy.NONE:
            return NoDane("not asked")
        if not await self._has_dane():
            return NoDane("it is off")
        return await self._associations.verdict(host, () if site.configured else destinations)

    async def _site(self, destination: str, found: Candidates, settings: RouteSettings) -> Site | Deferred | Failed:
        rules = self._rules(settings)
        foremost = mx.foremost(found)
        names = [exchanger.host for exchanger in foremost.exchangers]
        judged = await self._judge(names, settings.address_family, rules)
        those = mx.without_self(destination, foremost, lambda host: targets.is_own(judged[host].found, rules.own))
        if isinstance(those, Failed):
            return those
        unreachable = mx.unreachable(destination, those, judged)
        if unreachable is not None:
            return unreachable
        hosts = mx.groups(those, settings.port)
        return _exchanger_site(mx.site_key(hosts), hosts, destination, settings)

    async def _under_policy(self, destination: str, site: Site) -> Site:
        """Return the site as the domain's own policy has it."""
        hosts = [host.name for group in site.hosts for host in group]
        applied = sts.applied(await self.policy(destination), hosts)
        return replace(site, key=site.key + sts.label(applied, hosts), sts=applied)

    def _literal(self, destination: str, settings: RouteSettings) -> Site | Failed:
        address = destination[1:-1].removeprefix("IPv6:")
        refusal = targets.refusal(address, self._rules(settings))
        if refusal:
            return Failed(reason=f"{destination} may not be connected to: {address} is {refusal}", status=mx.LOOP)
        key = destination if settings.port == mx.SMTP_PORT else f"{destination}:{settings.port}"
        return _exchanger_site(key, ((Host(name=address, port=settings.port),),), destination, settings)

    async def _judge(self, names: Sequence[str], family: AddressFamily, rules: TargetRules | None) -> dict[str, Sifted]:
        answers = await self._resolver.all_addresses(names)
        return {name: targets.sift(a, aaaa, family, rules) for name, (a, aaaa) in answers.items()}

    def _rules(self, settings: RouteSettings) -> TargetRules:
        now = self._clock()
        if self._own is None or not timedelta(0) <= now - self._own[0] < OWN_ADDRESSES_TTL:
            self._own = now, self._own_addresses()
        return TargetRules(
            allow_loopback=settings.allow_loopback, allow_private=settings.allow_private, own=self._own[1]
        )


def _exchanger_site(key: str, hosts: tuple[tuple[Host, ...], ...], destination: str, settings: RouteSettings) -> Site:
    rule = rule_for(destination, settings)
    return Site(
        key=key + label(rule, settings),
        hosts=hosts,
        tls=rule.level,
        dane=rule.dane,
        setup=rule.setup,
        source_addresses=settings.source_addresses,
        address_family=settings.address_family,
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _localhost(family: AddressFamily) -> Sifted:
    """Loopback, without asking: resolvers need not know its name (RFC 6761 section 6.3)."""
    return Sifted(permitted=targets.arranged(("127.0.0.1",), ("::1",), family), found=("127.0.0.1", "::1"))


def _judge_address(address: str, rules: TargetRules | None) -> Sifted:
    """Judge a host that is an address itself: what was written so is used, of whatever family."""
    refusal = targets.refusal(address, rules) if rules else ""
    if refusal:
        return Sifted(found=(address,), refusals=(f"{address} is {refusal}",))
    return Sifted(permitted=(address,), found=(address,))


def _no_target(name: str, judged: Sifted) -> Deferred | Failed:
    if judged.trouble:
        reason = f"cannot look up {name}: {judged.trouble}"
        return Deferred(scope=Scope.HOST, reason=reason, status=mx.DNS_TROUBLE)
    if judged.refusals:
        reason = f"{name} may not be connected to: {judged.refusals[0]}"
        return Failed(scope=Scope.HOST, reason=reason, status=mx.LOOP)
    reason = f"{name} has no address" + (" of a family that we use" if judged.found else "")
    return Deferred(scope=Scope.HOST, reason=reason, status=mx.UNROUTABLE)
