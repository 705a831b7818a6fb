"""What DANE demands of a connection, found out by real questions (RFC 7672 sections 2.1.2, 2.2, 2.2.3; RFC.md R30)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.route import Host, Site
from relayd.mail.tls import Dane, Demand, Source, Tlsa, TlsPolicy, TlsSetup
from relayd.route.resolver import DnsResolver
from relayd.route.router import Router
from relayd.route.settings import DnsSettings, RouteRule, TlsRule
from tests.route.world import OWN, SETTINGS, World
from tests.support.certificates import certify
from tests.support.dns import FaultyDns

MX = "mx.example.org"
RECORD = certify(MX).tlsa("3 1 1")
ANCHOR = replace(RECORD, usage=2)
TLSA = f"_25._tcp.{MX}"
PLAIN = Demand()


class DaneWorld(World):
    """A world whose resolver validates."""

    has_dane = True

    def routed(self, settings: Any = SETTINGS) -> Router:
        resolver = DnsResolver(DnsSettings(nameservers=(self.dns.address,), timeout=timedelta(seconds=0.5)))
        resolver.ask_for_security(True)

        async def has_dane() -> bool:
            return self.has_dane

        return Router(settings, resolver, clock=lambda: self.now, own_addresses=lambda: OWN, has_dane=has_dane)

    def publish(self, *records: Tlsa, at: str = TLSA) -> None:
        self.dns.tlsa(at, *records)

    async def demand(self, *destinations: str, host: Host | None = None, **site: Any) -> Demand | Deferred:
        """What is demanded of the best host for mail to `destinations`, as its targets have it."""
        where = await self.router.route(destinations[0])
        assert isinstance(where, Site)
        where = replace(where, **site)
        found = await self.router.addresses(host or where.hosts[0][0], where, destinations)
        assert not isinstance(found, Failed)
        return found if isinstance(found, Deferred) else found[0].demand

    def asked_for_records(self) -> list[str]:
        return [name for name, kind in self.dns.queries if kind == "TLSA"]


@pytest.fixture
async def world() -> AsyncIterator[DaneWorld]:
    async with FaultyDns() as dns:
        dns.validates()
        dns.sign("example.org")
        dns.mx("example.org", (10, MX))
        dns.a(MX, "192.0.2.1")
        yield DaneWorld(dns)


def demanded(*records: Tlsa, names: tuple[str, ...] = (MX,), next_hops: tuple[tuple[str, ...], ...] = ()) -> Demand:
    dane = Dane(records=records, names=names, next_hops=next_hops)
    return Demand(level=TlsPolicy.REQUIRE, source=Source.DANE, dane=dane)


def barred(demand: Demand | Deferred) -> bool:
    return isinstance(demand, Deferred) and demand.scope is Scope.HOST and str(demand.dsn) == "4.7.10"


async def test_secure_records_have_to_be_met(world: DaneWorld) -> None:
    world.publish(RECORD)

    assert await world.demand("example.org") == demanded(RECORD)


async def test_secure_records_of_no_use_demand_encryption_and_no_proof(world: DaneWorld) -> None:
    world.publish(replace(RECORD, usage=1))

    assert await world.demand("example.org") == demanded()


@pytest.mark.parametrize("exists", [True, False])
async def test_without_records_it_is_as_if_there_were_no_dane(world: DaneWorld, exists: bool) -> None:
    if exists:
        world.dns.exists(TLSA)

    assert await world.demand("example.org") == PLAIN
    assert world.asked_for_records() == [TLSA]


async def test_where_the_operator_says_so_no_records_are_asked_for_and_the_key_tells_it(world: DaneWorld) -> None:
    world.publish(RECORD)
    rule = TlsRule(match=("example.org",), level=TlsPolicy.OPPORTUNISTIC, setup=TlsSetup(), dane=False)
    world.router = world.routed(replace(SETTINGS, tls_rules=(rule,)))

    assert await world.demand("example.org") == PLAIN
    assert world.asked_for_records() == []
    where = await world.router.route("example.org")
    assert isinstance(where, Site)
    assert where.key.endswith("#no-dane")


async def test_of_insecure_addresses_no_records_are_asked_for(world: DaneWorld) -> None:
    world.dns.mx("example.net", (10, "mx.example.net"))
    world.dns.a("mx.example.net", "192.0.2.1")
    world.dns.servfail("_25._tcp.mx.example.net")

    assert await world.demand("example.net") == PLAIN
    assert world.asked_for_records() == []


@pytest.mark.parametrize("how", ["servfail", "silent"])
async def test_where_nobody_can_say_whether_there_are_records_the_host_is_barred(world: DaneWorld, how: str) -> None:
    getattr(world.dns, how)(TLSA)

    assert barred(await world.demand("example.org"))


@pytest.mark.parametrize("how", ["servfail", "silent"])
async def test_where_nobody_can_say_its_addresses_it_is_out_of_reach(world: DaneWorld, how: str) -> None:
    site = await world.router.route("example.org")
    assert isinstance(site, Site)
    world.router.forget()
    getattr(world.dns, how)(MX)

    found = await world.router.addresses(site.hosts[0][0], site, ("example.org",))

    assert isinstance(found, Deferred)
    assert (found.scope, str(found.dsn)) == (Scope.HOST, "4.4.3")


async def test_records_that_are_not_secure_do_not_count(world: DaneWorld) -> None:
    """The alias leads into a zone that is not signed."""
    world.dns.cname(TLSA, "_25._tcp.elsewhere.example.net")
    world.publish(RECORD, at="_25._tcp.elsewhere.example.net")

    assert await world.demand("example.org") == PLAIN


async def test_an_alias_of_the_records_is_followed_and_the_servers_name_stays(world: DaneWorld) -> None:
    world.dns.cname(TLSA, "dane.example.org")
    world.publish(RECORD, at="dane.example.org")

    assert await world.demand("example.org") == demanded(RECORD)


async def test_the_insecure_exchangers_of_a_domain_may_be_secure_hosts(world: DaneWorld) -> None:
    world.dns.mx("example.net", (10, MX))
    world.publish(RECORD)

    assert await world.demand("example.net") == demanded(RECORD)


class TestAliases:
    """The exchanger is an alias (RFC 7672 section 2.2.2)."""

    TARGET = "host.example.org"

    @pytest.fixture(autouse=True)
    def alias(self, world: DaneWorld) -> None:
        world.dns.remove(MX)
        world.dns.cname(MX, self.TARGET)
        world.dns.a(self.TARGET, "192.0.2.1")

    async def test_the_name_that_it_leads_to_is_first(self, world: DaneWorld) -> None:
        world.publish(RECORD, at=f"_25._tcp.{self.TARGET}")
        world.publish(replace(RECORD, matching=2, content=bytes(64)))

        assert await world.demand("example.org") == demanded(RECORD, names=(self.TARGET,))

    async def test_its_own_name_is_next(self, world: DaneWorld) -> None:
        world.publish(RECORD)

        assert await world.demand("example.org") == demanded(RECORD)
        assert world.asked_for_records() == [f"_25._tcp.{self.TARGET}", TLSA]

    async def test_records_of_no_use_end_the_search(self, world: DaneWorld) -> None:
        world.publish(replace(RECORD, usage=0), at=f"_25._tcp.{self.TARGET}")
        world.publish(RECORD)

        assert await world.demand("example.org") == demanded(names=(self.TARGET,))

    async def test_so_does_it_that_nobody_can_say(self, world: DaneWorld) -> None:
        world.dns.servfail(f"_25._tcp.{self.TARGET}")
        world.publish(RECORD)

        assert barred(await world.demand("example.org"))

    async def test_a_secure_alias_that_leads_astray_has_records_at_its_own_name(self, world: DaneWorld) -> None:
        world.dns.cname(MX, "host.example.net")
        world.dns.a("host.example.net", "192.0.2.1")
        world.publish(RECORD)
        world.publish(replace(RECORD, usage=2), at="_25._tcp.host.example.net")

        assert await world.demand("example.org") == demanded(RECORD)
        assert world.asked_for_records() == [TLSA]

    async def test_an_insecure_one_has_none_wherever_it_leads(self, world: DaneWorld) -> None:
        world.dns.mx("example.org", (10, "mx.example.net"))
        world.dns.cname("mx.example.net", self.TARGET)
        world.publish(RECORD, at="_25._tcp.mx.example.net")

        assert await world.demand("example.org") == PLAIN
        assert world.asked_for_records() == []

    async def test_one_of_which_nobody_can_say_is_barred(self, world: DaneWorld) -> None:
        world.dns.cname(MX, "host.example.net")
        world.dns.a("host.example.net", "192.0.2.1")
        world.dns.servfail(MX, "CNAME")

        assert barred(await world.demand("example.org"))


class TestNames:
    """By which names a server may prove itself under usage 2 (RFC 7672 section 3.2.2)."""

    @pytest.fixture(autouse=True)
    def anchored(self, world: DaneWorld) -> None:
        world.publish(ANCHOR)

    async def test_its_own_and_that_of_the_domain(self, world: DaneWorld) -> None:
        assert await world.demand("example.org") == demanded(ANCHOR, next_hops=(("example.org",),))

    async def test_and_what_that_is_an_alias_of(self, world: DaneWorld) -> None:
        world.dns.cname("alias.example.org", "example.org")

        found = await world.demand("alias.example.org")

        assert found == demanded(ANCHOR, next_hops=(("alias.example.org", "example.org"),))

    async def test_each_of_several_domains_for_itself(self, world: DaneWorld) -> None:
        """Or one could have its name on a certificate, and get the mail of all."""
        world.dns.sign("other.example")
        world.dns.mx("other.example", (10, MX))

        found = await world.demand("example.org", "other.example")

        assert found == demanded(ANCHOR, next_hops=(("example.org",), ("other.example",)))

    async def test_of_a_domain_whose_exchangers_are_not_secure_only_its_own(self, world: DaneWorld) -> None:
        world.dns.cname("alias.example.net", "example.net")
        world.dns.mx("example.net", (10, MX))

        assert await world.demand("alias.example.net") == demanded(ANCHOR, next_hops=(("alias.example.net",),))

    async def test_a_domain_that_is_its_own_exchanger_has_its_own_name(self, world: DaneWorld) -> None:
        world.dns.cname("bare.example.org", "host.example.org")
        world.dns.a("host.example.org", "192.0.2.1")
        world.publish(ANCHOR, at="_25._tcp.host.example.org")

        found = await world.demand("bare.example.org")

        assert found == demanded(ANCHOR, names=("host.example.org",), next_hops=(("bare.example.org",),))

    async def test_a_smart_host_has_its_own_name_and_what_that_is_an_alias_of(self, world: DaneWorld) -> None:
        world.dns.cname("smart.example.org", "host.example.org")
        world.dns.a("host.example.org", "192.0.2.1")
        world.publish(ANCHOR, at="_587._tcp.host.example.org")
        rule = RouteRule(name="smart", match=("*",), hosts=(Host(name="smart.example.org", port=587),))
        world.router = world.routed(replace(SETTINGS, rules=(rule,)))

        assert await world.demand("anything.test") == demanded(ANCHOR, names=("host.example.org", "smart.example.org"))


class TestNotAsked:
    """Where DANE is not to be asked, it is not."""

    @pytest.fixture(autouse=True)
    def published(self, world: DaneWorld) -> None:
        world.publish(RECORD)

    async def test_not_where_it_is_off(self, world: DaneWorld) -> None:
        world.has_dane = False

        assert await world.demand("example.org") == PLAIN
        assert world.asked_for_records() == []

    async def test_not_for_a_message_that_would_rather_go_in_clear_text(self, world: DaneWorld) -> None:
        assert await world.demand("example.org", dane=False) == PLAIN
        assert world.asked_for_records() == []

    async def test_not_where_the_operator_wants_no_tls(self, world: DaneWorld) -> None:
        assert await world.demand("example.org", tls=TlsPolicy.NONE) == Demand(level=TlsPolicy.NONE)
        assert world.asked_for_records() == []

    async def test_not_of_an_address(self, world: DaneWorld) -> None:
        assert await world.demand("[192.0.2.1]") == PLAIN
        assert world.asked_for_records() == []


async def test_of_another_port_there_are_other_records(world: DaneWorld) -> None:
    world.publish(ANCHOR)
    world.publish(RECORD, at=f"_2525._tcp.{MX}")

    assert await world.demand("example.org", host=Host(name=MX, port=2525)) == demanded(RECORD)
