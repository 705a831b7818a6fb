"""What a policy of MTA-STS makes of a site: its key, and what a connection to its hosts demands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from relayd.https import Https
from relayd.mail.outcome import Deferred, Scope
from relayd.mail.route import Host, Site
from relayd.mail.tls import Demand, Source, Sts, TlsPolicy, TlsSetup
from relayd.plugs import NamesPort
from relayd.route.cache import CachingResolver
from relayd.route.resolver import DnsResolver
from relayd.route.router import Router
from relayd.route.settings import DnsSettings, RouteRule, RouteSettings, TlsRule
from relayd.route.sts import Mode, StsPolicy
from relayd.route.sts_cache import StsCache
from relayd.route.sts_source import StsPolicies
from tests.route.world import OWN, World, key_of
from tests.support.dns import FaultyDns

D = "example.org"
HOSTS = ("mx1.example.org", "mx2.example.org")


class Policed(World):
    """A world whose router asks for policies; they are in the cache, as an earlier fetch left them."""

    def __init__(self, dns: FaultyDns, cache: StsCache) -> None:
        self.cache = cache
        super().__init__(dns)
        dns.mx(D, *((10 * number, host) for number, host in enumerate(HOSTS, 1)))
        for host in HOSTS:
            dns.a(host, "192.0.2.1")

    def routed(self, settings: RouteSettings | None = None) -> Router:
        resolver = DnsResolver(DnsSettings(nameservers=(self.dns.address,), timeout=timedelta(seconds=3)))
        policies = StsPolicies(
            self.cache,
            CachingResolver(resolver, lambda: self.now),
            Https(NamesPort(lambda: self.router)),
            clock=lambda: self.now,
            events=lambda event: None,
            sessions=lambda session: None,
        )
        return Router(
            settings or RouteSettings(hostname="relay.example.net"),
            resolver,
            clock=lambda: self.now,
            own_addresses=lambda: OWN,
            policies=policies,
        )

    async def know(self, mode: Mode, *mx: str, domain: str = D) -> None:
        policy = StsPolicy(domain=domain, id="1", mode=mode, mx=mx, max_age=timedelta(days=7), fetched=self.now)
        await self.cache.put(policy)

    async def site(self, destination: str = D) -> Site:
        found = await self.router.route(destination)
        assert isinstance(found, Site), found
        return found

    async def demand(self, site: Site, host: str) -> Demand | Deferred:
        found = await self.router.addresses(Host(name=host), site, (D,))
        if isinstance(found, Deferred):
            return found
        assert isinstance(found, list)
        return found[0].demand


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Policed]:
    async with FaultyDns() as dns:
        yield Policed(dns, StsCache(tmp_path, jitter=lambda: 1.0, events=lambda event: None))


async def test_an_enforced_policy_is_in_the_sites_key_and_in_the_demand(world: Policed) -> None:
    await world.know(Mode.ENFORCE, "*.example.org")
    site = await world.site()

    assert site.key == "mx1.example.org;mx2.example.org#mta-sts"
    assert site.sts == Sts(enforce=True, hosts=frozenset(HOSTS))
    assert await world.demand(site, HOSTS[0]) == Demand(level=TlsPolicy.VERIFY, source=Source.MTA_STS)


async def test_a_host_that_is_not_meant_is_refused_by_itself(world: Policed) -> None:
    await world.know(Mode.ENFORCE, HOSTS[1])
    site = await world.site()

    assert site.key == "mx1.example.org;mx2.example.org#mta-sts:mx2.example.org"
    refused = await world.demand(site, HOSTS[0])
    assert isinstance(refused, Deferred)
    assert (refused.scope, str(refused.status)) == (Scope.HOST, "4.7.5")
    assert isinstance(await world.demand(site, HOSTS[1]), Demand)


async def test_a_policy_in_testing_mode_demands_nothing(world: Policed) -> None:
    await world.know(Mode.TESTING, HOSTS[0])
    site = await world.site()

    assert site.key == "mx1.example.org;mx2.example.org#mta-sts-testing:mx1.example.org"
    assert await world.demand(site, HOSTS[0]) == Demand(trial=True)
    assert await world.demand(site, HOSTS[1]) == Demand()


@pytest.mark.parametrize("mode", [None, Mode.NONE])
async def test_without_a_policy_the_site_is_as_ever(world: Policed, mode: Mode | None) -> None:
    if mode:
        await world.know(mode)
    site = await world.site()
    assert (site.key, site.sts) == ("mx1.example.org;mx2.example.org", None)


async def test_domains_with_the_same_exchangers_share_a_site_only_under_the_same_policy(world: Policed) -> None:
    for domain in ("a.test", "b.test", "c.test"):
        world.dns.mx(domain, *((10 * number, host) for number, host in enumerate(HOSTS, 1)))
    await world.know(Mode.ENFORCE, *HOSTS, domain="a.test")
    await world.know(Mode.ENFORCE, "*.example.org", domain="b.test")

    a, b, c = [await world.site(f"{name}.test") for name in "abc"]

    assert a == b != c


async def test_what_is_configured_for_some_domains_goes_with_it(world: Policed) -> None:
    await world.know(Mode.ENFORCE, *HOSTS)
    rule = TlsRule(match=(D,), level=TlsPolicy.NONE, setup=TlsSetup())
    world.router = world.routed(RouteSettings(hostname="relay.example.net", tls_rules=(rule,)))
    site = await world.site()

    assert site.key == "mx1.example.org;mx2.example.org#none#mta-sts"
    assert await world.demand(site, HOSTS[0]) == Demand(level=TlsPolicy.VERIFY, source=Source.MTA_STS)


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, True),
        ({"mta_sts": False}, False),
        ({"tls_rules": (TlsRule(match=(D,), level=TlsPolicy.REQUIRE, setup=TlsSetup(), mta_sts=False),)}, False),
        ({"tls_rules": (TlsRule(match=("x.org",), level=TlsPolicy.REQUIRE, setup=TlsSetup(), mta_sts=False),)}, True),
        ({"mta_sts": False, "tls_rules": (TlsRule(match=(D,), level=TlsPolicy.REQUIRE, setup=TlsSetup()),)}, True),
        ({"rules": (RouteRule(name="r", match=("*",), hosts=(Host(name="192.0.2.9"),)),)}, False),
    ],
    ids=range(6),
)
async def test_it_is_asked_for_where_it_is_wanted(world: Policed, settings: dict[str, Any], asked: bool) -> None:
    await world.know(Mode.ENFORCE, *HOSTS)
    world.router = world.routed(RouteSettings(hostname="relay.example.net", **settings))
    assert ("#mta-sts" in key_of(await world.router.route(D))) is asked
    assert bool(world.dns.asked(f"_mta-sts.{D}", "TXT")) is asked


@pytest.mark.parametrize("destination", ["[192.0.2.1]", "nowhere.example", "null.example"])
async def test_where_there_are_no_exchangers_nobody_is_asked(world: Policed, destination: str) -> None:
    world.dns.null_mx("null.example")
    await world.router.route(destination)
    assert not [name for name, _ in world.dns.queries if name.startswith("_mta-sts")]


async def test_a_domain_that_is_its_own_exchanger_may_have_one(world: Policed) -> None:
    world.dns.a("bare.test", "192.0.2.1")
    await world.know(Mode.ENFORCE, "bare.test", domain="bare.test")
    assert (await world.site("bare.test")).key == "bare.test#mta-sts"
