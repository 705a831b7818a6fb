"""Destinations against a real DNS server: the tables of FAULTS.md ("Hostile DNS") and RFC.md R15, R16, R29."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from relayd.mail.outcome import Failed, Scope
from relayd.mail.route import Host, Site, Target
from relayd.route.router import Router
from tests.route.world import SETTINGS, World, deferred, failed, key_of
from tests.support.dns import MemoryResolver, fill


async def test_a_domain_goes_to_its_exchangers_best_first(world: World) -> None:
    world.dns.mx("example.org", (20, "mx3.example.org"), (10, "MX2.example.org"), (10, "mx1.example.org"))
    fill(world.dns, ["mx1.example.org", "mx2.example.org", "mx3.example.org"], "192.0.2.1")

    site = await world.router.route("example.org")

    assert site == Site(
        key="mx1.example.org,mx2.example.org;mx3.example.org",
        hosts=((Host(name="mx1.example.org"), Host(name="mx2.example.org")), (Host(name="mx3.example.org"),)),
    )


async def test_domains_with_the_same_exchangers_are_one_site(world: World) -> None:
    world.dns.mx("example.org", (10, "mx1.example.net"), (20, "mx2.example.net"))
    world.dns.mx("example.com", (7, "mx2.example.net"), (5, "mx1.example.net"))
    fill(world.dns, ["mx1.example.net", "mx2.example.net"], "192.0.2.1")

    assert await world.router.route("example.org") == await world.router.route("example.com")


async def test_a_name_that_does_not_exist_fails_at_once(world: World) -> None:
    outcome = await world.router.route("nowhere.example")

    assert failed(outcome, "5.1.2")
    assert str(outcome) == "Domain not found: nowhere.example"


async def test_a_domain_without_exchangers_is_its_own(world: World) -> None:
    world.dns.a("four.example", "192.0.2.1")
    world.dns.aaaa("six.example", "2001:db8::1")

    assert key_of(await world.router.route("four.example")) == "four.example"
    assert key_of(await world.router.route("six.example")) == "six.example"


async def test_a_domain_with_neither_exchanger_nor_address_fails(world: World) -> None:
    world.dns.exists("example.org")

    assert failed(await world.router.route("example.org"), "5.4.4")


@pytest.mark.parametrize("code", ["SERVFAIL", "REFUSED", "FORMERR", "NOTIMP"])
async def test_a_domain_whose_exchangers_nobody_can_tell_waits_and_its_address_is_not_used(
    world: World, code: str
) -> None:
    world.dns.a("example.org", "192.0.2.1")
    world.dns.rcode("example.org", code)

    assert deferred(await world.router.route("example.org"), "4.4.3")
    assert world.dns.asked("example.org", "A") == 0


async def test_a_silent_server_defers_in_time(world: World) -> None:
    world.dns.a("example.org", "192.0.2.1")
    world.dns.silent("example.org", "MX")
    started = time.monotonic()

    assert deferred(await world.router.route("example.org"), "4.4.3")
    assert time.monotonic() - started < 5


async def test_a_lame_server_defers(world: World) -> None:
    world.dns.lame("example.org")

    assert deferred(await world.router.route("example.org"), "4.4.3")


async def test_a_domain_without_exchangers_whose_address_nobody_can_tell_waits(world: World) -> None:
    world.dns.exists("example.org")
    world.dns.servfail("example.org", "AAAA")

    assert deferred(await world.router.route("example.org"), "4.4.3")


async def test_exchangers_whose_addresses_nobody_can_tell_defer(world: World) -> None:
    world.dns.mx("example.org", (10, "mx1.example.org"), (20, "mx2.example.org"))
    world.dns.a("example.org", "192.0.2.1")
    world.dns.servfail("mx1.example.org")
    world.dns.servfail("mx2.example.org")

    assert deferred(await world.router.route("example.org"), "4.4.3")


async def test_exchangers_that_do_not_exist_defer_and_the_domains_address_is_not_used(world: World) -> None:
    world.dns.mx("example.org", (10, "mx1.example.org"), (20, "mx2.example.org"))
    world.dns.a("example.org", "192.0.2.1")
    world.dns.exists("mx2.example.org")

    assert deferred(await world.router.route("example.org"), "4.4.4")


async def test_an_exchanger_that_is_an_address_is_unusable(world: World) -> None:
    world.dns.mx("example.org", (10, "10.0.0.1."))
    world.dns.a("example.org", "192.0.2.1")

    assert deferred(await world.router.route("example.org"), "4.4.4")


async def test_one_exchanger_that_exists_is_enough(world: World) -> None:
    world.dns.mx("example.org", (10, "nowhere.example"), (20, "broken.example"), (30, "mx.example.org"))
    world.dns.servfail("broken.example")
    world.dns.a("mx.example.org", "192.0.2.1")

    assert key_of(await world.router.route("example.org")) == "nowhere.example;broken.example;mx.example.org"


async def test_a_null_mx_fails_at_once_and_no_host_is_asked_for(world: World) -> None:
    world.dns.null_mx("example.org")
    world.dns.a("example.org", "192.0.2.1")

    assert failed(await world.router.route("example.org"), "5.1.10")
    assert world.dns.queries == [("example.org", "MX")]


async def test_a_null_mx_beside_others_is_ignored(world: World) -> None:
    world.dns.mx("example.org", (0, "."), (10, "mx.example.org"))
    world.dns.a("mx.example.org", "192.0.2.1")

    assert key_of(await world.router.route("example.org")) == "mx.example.org"


async def test_aliases_are_followed_and_the_hosts_keep_their_names(world: World) -> None:
    world.dns.cname("www.example.org", "example.org")
    world.dns.mx("example.org", (10, "mx.example.org"))
    world.dns.cname("mx.example.org", "host.example.net")
    world.dns.a("host.example.net", "192.0.2.1")

    site = await world.router.route("www.example.org")

    assert key_of(site) == "mx.example.org"
    assert isinstance(site, Site)
    assert await world.router.addresses(site.hosts[0][0], site, ()) == [
        Target(host=Host(name="mx.example.org"), address="192.0.2.1")
    ]


async def test_aliases_in_a_circle_defer(world: World) -> None:
    world.dns.cname("a.example.org", "b.example.org")
    world.dns.cname("b.example.org", "a.example.org")

    assert deferred(await world.router.route("a.example.org"), "4.4.3")


async def test_of_a_thousand_exchangers_ten_are_asked_for(world: World) -> None:
    world.dns.mx("example.org", *((number, f"mx{number}.example.org") for number in range(1000)))
    fill(world.dns, [f"mx{number}.example.org" for number in range(1000)], "192.0.2.1")

    site = await world.router.route("example.org")

    assert isinstance(site, Site)
    assert [group[0].name for group in site.hosts] == [f"mx{number}.example.org" for number in range(10)]
    assert len({name for name, kind in world.dns.queries if kind == "A"}) == 10


# Loops (RFC.md R16).


async def test_the_exchanger_of_our_name_and_those_no_better_are_left_out(world: World) -> None:
    world.dns.mx("example.org", (10, "a.example.org"), (20, "relay.example.net"), (20, "b.example.org"), (30, "c.org"))
    fill(world.dns, ["a.example.org", "b.example.org", "relay.example.net", "c.org"], "192.0.2.1")

    assert key_of(await world.router.route("example.org")) == "a.example.org"


@pytest.mark.parametrize("address", ["198.51.100.7", "2001:db8::7", "::ffff:198.51.100.7"])
async def test_the_exchanger_on_our_address_and_those_no_better_are_left_out(world: World, address: str) -> None:
    world.dns.mx("example.org", (10, "a.example.org"), (20, "us.example.org"), (30, "c.example.org"))
    fill(world.dns, ["a.example.org", "c.example.org"], "192.0.2.1")
    (world.dns.aaaa if ":" in address else world.dns.a)("us.example.org", address)

    assert key_of(await world.router.route("example.org")) == "a.example.org"


async def test_mail_that_would_come_back_fails(world: World) -> None:
    world.dns.mx("named.example", (10, "relay.example.net"), (20, "c.example.org"))
    world.dns.mx("addressed.example", (10, "us.example.org"))
    world.dns.a("us.example.org", "192.0.2.1", "198.51.100.7")
    world.dns.a("implicit.example", "198.51.100.7")

    for domain in ("named.example", "addressed.example", "implicit.example"):
        outcome = await world.router.route(domain)

        assert failed(outcome, "5.4.6")
        assert str(outcome) == f"mail for {domain} loops back to myself"


async def test_a_loop_is_found_even_where_loopback_is_allowed(world: World) -> None:
    world.dns.a("example.org", "198.51.100.7")

    outcome = await world.routed(replace(SETTINGS, allow_loopback=True)).route("example.org")

    assert failed(outcome, "5.4.6")


# Addresses that are not to be connected to (D11).


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1"])
async def test_exchangers_on_loopback_and_its_like_fail_unless_allowed(world: World, address: str) -> None:
    world.dns.mx("example.org", (10, "mx.example.org"))
    (world.dns.aaaa if ":" in address else world.dns.a)("mx.example.org", address)

    refused = await world.router.route("example.org")
    allowed = await world.routed(replace(SETTINGS, allow_loopback=True)).route("example.org")

    assert failed(refused, "5.4.6")
    assert f"{ipaddress.ip_address(address)} is " in str(refused)
    assert "relay.allow_loopback" in str(refused)
    assert key_of(allowed) == "mx.example.org"


async def test_exchangers_on_private_addresses_fail_where_they_are_not_allowed(world: World) -> None:
    world.dns.a("example.org", "10.0.0.1")

    outcome = await world.routed(replace(SETTINGS, allow_private=False)).route("example.org")

    assert failed(outcome, "5.4.6")
    assert "relay.allow_private" in str(outcome)
    assert key_of(await world.router.route("example.org")) == "example.org"


async def test_nothing_allows_multicast(world: World) -> None:
    world.dns.a("example.org", "224.0.0.1")

    assert failed(await world.routed(replace(SETTINGS, allow_loopback=True)).route("example.org"), "5.4.6")


async def test_a_name_that_leads_elsewhere_by_now_is_judged_anew(world: World) -> None:
    world.dns.ttl = 5
    world.dns.mx("example.org", (10, "mx.example.org"))
    world.dns.a("mx.example.org", "192.0.2.1")
    site = await world.router.route("example.org")
    assert isinstance(site, Site)

    world.dns.a("mx.example.org", "127.0.0.1")
    world.now += timedelta(seconds=5)
    outcome = await world.router.addresses(site.hosts[0][0], site, ())

    assert isinstance(outcome, Failed)
    assert outcome.scope is Scope.HOST
    assert str(outcome.dsn) == "5.4.6"


# What the DNS is asked.


async def test_a_hundred_messages_to_one_domain_ask_once(world: World) -> None:
    world.dns.mx("example.org", (10, "mx.example.org"))
    world.dns.a("mx.example.org", "192.0.2.1")

    sites = await asyncio.gather(*(world.router.route("example.org") for _ in range(100)))

    assert len({key_of(site) for site in sites}) == 1
    assert sorted(world.dns.queries) == [("example.org", "MX"), ("mx.example.org", "A"), ("mx.example.org", "AAAA")]


async def test_our_own_addresses_are_read_again_after_a_while() -> None:
    now = datetime(2026, 11, 1, tzinfo=UTC)
    own: frozenset[str] = frozenset()
    resolver = MemoryResolver()
    resolver.a("example.org", "192.0.2.1")
    router = Router(SETTINGS, resolver, clock=lambda: now, own_addresses=lambda: own)
    before = await router.route("example.org")

    own = frozenset({"192.0.2.1"})
    now += timedelta(minutes=2)

    assert key_of(before) == "example.org"
    assert failed(await router.route("example.org"), "5.4.6")
