"""Where the router needs no exchangers: address literals and configured routes; and the addresses of one host."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.route import AddressFamily, Host, Site, Target
from relayd.mail.tls import TlsPolicy
from relayd.route.settings import RouteRule
from relayd.route.smart_host import parse_host
from tests.route.world import SETTINGS, World, failed, key_of

# Address literals and odd names (D14).


@pytest.mark.parametrize(
    ("destination", "address"), [("[192.0.2.1]", "192.0.2.1"), ("[IPv6:2001:db8::1]", "2001:db8::1")]
)
async def test_an_address_literal_is_connected_to_without_asking(world: World, destination: str, address: str) -> None:
    site = await world.router.route(destination)

    assert key_of(site) == destination
    assert isinstance(site, Site)
    assert await world.router.addresses(site.hosts[0][0], site, ()) == [
        Target(host=Host(name=address), address=address)
    ]
    assert world.dns.queries == []


@pytest.mark.parametrize("destination", ["[127.0.0.1]", "[IPv6:::1]", "[198.51.100.7]", "[224.0.0.1]"])
async def test_address_literals_obey_the_same_rules(world: World, destination: str) -> None:
    assert failed(await world.router.route(destination), "5.4.6")


@pytest.mark.parametrize("name", ["localhost", "com", "intranet"])
async def test_single_labels_are_asked_for_as_they_are(world: World, name: str) -> None:
    assert failed(await world.router.route(name), "5.1.2")
    assert world.dns.queries == [(name, "MX")]


async def test_another_port_is_used_and_named(world: World) -> None:
    world.dns.a("example.org", "192.0.2.1")
    router = world.routed(replace(SETTINGS, port=2525, tls=TlsPolicy.REQUIRE, source_addresses=("192.0.2.9",)))

    implicit, literal = await router.route("example.org"), await router.route("[192.0.2.1]")

    assert key_of(implicit) == "example.org:2525"
    assert key_of(literal) == "[192.0.2.1]:2525"
    assert isinstance(implicit, Site)
    assert implicit.hosts == ((Host(name="example.org", port=2525),),)
    assert (implicit.tls, implicit.source_addresses) == (TlsPolicy.REQUIRE, ("192.0.2.9",))


# Configured routes.


async def test_a_configured_route_goes_before_the_exchangers_and_asks_for_none(world: World) -> None:
    rule = RouteRule(name="provider", match=("*.example.net", "[192.0.2.1]"), hosts=(parse_host("127.0.0.1:2525"),))
    router = world.routed(replace(SETTINGS, rules=(rule,)))

    sites = [await router.route(destination) for destination in ("a.example.net", "[192.0.2.1]")]

    assert [key_of(site) for site in sites] == ["route:provider"] * 2
    assert world.dns.queries == []


@pytest.mark.parametrize("address", ["127.0.0.1", "198.51.100.7", "10.0.0.1"])
async def test_a_configured_route_may_go_anywhere(world: World, address: str) -> None:
    rule = RouteRule(name="provider", match=("*",), hosts=(parse_host("smart.example.net:587"), parse_host(address)))
    router = world.routed(replace(SETTINGS, rules=(rule,), allow_private=False))
    world.dns.a("smart.example.net", address)
    site = await router.route("example.org")
    assert isinstance(site, Site)

    named, literal = [await router.addresses(group[0], site, ()) for group in site.hosts]

    assert named == [Target(host=Host(name="smart.example.net", port=587), address=address)]
    assert literal == [Target(host=Host(name=address), address=address)]


@pytest.mark.parametrize(
    ("family", "addresses"),
    [
        (AddressFamily.ANY, ["127.0.0.1", "::1"]),
        (AddressFamily.PREFER_IPV6, ["::1", "127.0.0.1"]),
        (AddressFamily.IPV4, ["127.0.0.1"]),
        (AddressFamily.IPV6, ["::1"]),
    ],
)
async def test_localhost_as_a_smart_host_needs_no_dns(
    world: World, family: AddressFamily, addresses: list[str]
) -> None:
    rule = RouteRule(name="local", match=("*",), hosts=(parse_host("localhost:1025"),), address_family=family)
    router = world.routed(replace(SETTINGS, rules=(rule,)))
    site = await router.route("example.org")
    assert isinstance(site, Site)

    targets = await router.addresses(site.hosts[0][0], site, ())

    assert isinstance(targets, list)
    assert [target.address for target in targets] == addresses
    assert world.dns.queries == []


async def test_other_settings_hold_from_the_next_call_on(world: World) -> None:
    world.dns.a("example.org", "192.0.2.1")
    before = await world.router.route("example.org")

    world.router.reload(
        replace(SETTINGS, rules=(RouteRule(name="all", match=("*",), hosts=(parse_host("192.0.2.2"),)),))
    )

    assert key_of(before) == "example.org"
    assert key_of(await world.router.route("example.org")) == "route:all"


# The addresses of one host.


async def addresses_of(world: World, family: AddressFamily) -> list[Target] | Deferred | Failed:
    site = Site(key="mx.example.org", hosts=((Host(name="mx.example.org"),),), address_family=family)
    return await world.router.addresses(site.hosts[0][0], site, ())


def told(targets: list[Target] | Deferred | Failed) -> list[str]:
    assert isinstance(targets, list), targets
    return [target.address for target in targets]


async def test_at_most_five_addresses_of_a_thousand_are_tried(world: World) -> None:
    world.dns.a("mx.example.org", *(f"203.0.{number // 250}.{number % 250}" for number in range(1000)))
    world.dns.aaaa("mx.example.org", "2001:db8::1")

    assert told(await addresses_of(world, AddressFamily.ANY)) == [
        "203.0.0.0",
        "2001:db8::1",
        "203.0.0.1",
        "203.0.0.2",
        "203.0.0.3",
    ]


async def test_one_family_that_cannot_be_looked_up_does_not_lose_the_other(world: World) -> None:
    world.dns.a("mx.example.org", "192.0.2.1")
    world.dns.servfail("mx.example.org", "AAAA")

    assert told(await addresses_of(world, AddressFamily.ANY)) == ["192.0.2.1"]


async def test_a_host_without_an_address_of_a_wanted_family_defers(world: World) -> None:
    world.dns.a("mx.example.org", "192.0.2.1")

    outcome = await addresses_of(world, AddressFamily.IPV6)

    assert isinstance(outcome, Deferred)
    assert (str(outcome.dsn), outcome.scope) == ("4.4.4", Scope.HOST)
    assert "family" in str(outcome)


async def test_a_host_that_does_not_exist_defers(world: World) -> None:
    outcome = await addresses_of(world, AddressFamily.ANY)

    assert isinstance(outcome, Deferred)
    assert (str(outcome.dsn), outcome.scope) == ("4.4.4", Scope.HOST)


async def test_a_host_that_nobody_knows_of_defers(world: World) -> None:
    world.dns.servfail("mx.example.org")

    outcome = await addresses_of(world, AddressFamily.ANY)

    assert isinstance(outcome, Deferred)
    assert (str(outcome.dsn), outcome.scope) == ("4.4.3", Scope.HOST)
