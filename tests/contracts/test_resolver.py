"""What every Resolver does, whoever implements it: asked here of real sockets and of memory alike."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from relayd.mail.tls import Tlsa
from relayd.route.answers import MAX_RECORDS, MAX_TEXT, Exchanger, Found, Kind, NoData, NoName, Resolver, Unavailable
from relayd.route.cache import CachingResolver
from relayd.route.resolver import DnsResolver
from relayd.route.settings import DnsSettings
from relayd.route.watched import WatchedResolver
from tests.support.dns import FaultyDns, MemoryResolver, Zone

TIMEOUT = timedelta(seconds=0.5)


@dataclass(frozen=True, slots=True)
class World:
    zone: Zone
    resolver: Resolver


@pytest.fixture(params=["dnspython", "cached", "watched", "memory"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "memory":
        memory = MemoryResolver()
        yield World(memory, memory)
        return
    async with FaultyDns() as server:
        resolver = DnsResolver(DnsSettings(nameservers=(server.address,), timeout=TIMEOUT))
        resolver.ask_for_security(True)
        yield World(server, _around(resolver, request.param))


def _around(resolver: Resolver, kind: str) -> Resolver:
    match kind:
        case "cached":
            return CachingResolver(resolver, lambda: datetime.now(UTC))
        case "watched":
            return WatchedResolver(resolver, lambda kind, result, seconds: None)
        case _:
            return resolver


async def test_exchangers_come_best_first_with_their_ttl(world: World) -> None:
    world.zone.mx("example.org", (20, "MX2.example.org"), (10, "mx1.example.org."))

    answer = await world.resolver.exchangers("example.org")

    records = (Exchanger(10, "mx1.example.org"), Exchanger(20, "mx2.example.org"))
    assert answer == Found(records, timedelta(minutes=1))


async def test_the_null_mx_is_an_exchanger_without_a_name(world: World) -> None:
    world.zone.null_mx("example.org")

    answer = await world.resolver.exchangers("example.org")

    assert isinstance(answer, Found)
    assert answer.records == (Exchanger(0, ""),)


async def test_addresses_come_in_the_order_of_the_answer(world: World) -> None:
    world.zone.a("mx.example.org", "192.0.2.3", "192.0.2.1", "192.0.2.2")
    world.zone.aaaa("mx.example.org", "2001:db8::2", "2001:db8::1")

    a = await world.resolver.addresses("mx.example.org", Kind.A)
    aaaa = await world.resolver.addresses("mx.example.org", Kind.AAAA)

    assert a == Found(("192.0.2.3", "192.0.2.1", "192.0.2.2"), timedelta(minutes=1))
    assert aaaa == Found(("2001:db8::2", "2001:db8::1"), timedelta(minutes=1))


async def test_texts_come_whole_and_in_the_order_of_the_answer(world: World) -> None:
    long = "v=STSv1; " + "x" * 400
    world.zone.txt("_mta-sts.example.org", "v=STSv1; id=1;", long, 'with "quotes" and \\')

    answer = await world.resolver.texts("_mta-sts.example.org")

    assert answer == Found(("v=STSv1; id=1;", long, 'with "quotes" and \\'), timedelta(minutes=1))


async def test_of_a_text_that_is_too_long_the_beginning_is_kept(world: World) -> None:
    world.zone.txt("example.org", "x" * 10_000)

    answer = await world.resolver.texts("example.org")

    assert isinstance(answer, Found)
    assert answer.records == ("x" * MAX_TEXT,)


async def test_octets_of_a_text_that_are_not_ascii_are_no_part_of_it(world: World) -> None:
    world.zone.txt("example.org", "vé")

    answer = await world.resolver.texts("example.org")

    assert isinstance(answer, Found)
    assert answer.records == ("v\ufffd\ufffd",)


async def test_texts_are_found_behind_an_alias(world: World) -> None:
    world.zone.cname("_mta-sts.example.org", "_mta-sts.provider.example")
    world.zone.txt("_mta-sts.provider.example", "v=STSv1; id=1")

    answer = await world.resolver.texts("_mta-sts.example.org")

    assert isinstance(answer, Found)
    assert answer.records == ("v=STSv1; id=1",)


async def test_a_name_that_does_not_exist_is_no_name(world: World) -> None:
    assert isinstance(await world.resolver.exchangers("nowhere.example"), NoName)
    assert isinstance(await world.resolver.addresses("nowhere.example", Kind.A), NoName)
    assert isinstance(await world.resolver.texts("nowhere.example"), NoName)


async def test_a_name_without_such_records_is_no_data(world: World) -> None:
    world.zone.a("example.org", "192.0.2.1")
    world.zone.exists("empty.example")

    assert isinstance(await world.resolver.exchangers("example.org"), NoData)
    assert isinstance(await world.resolver.addresses("example.org", Kind.AAAA), NoData)
    assert isinstance(await world.resolver.addresses("empty.example", Kind.A), NoData)
    assert isinstance(await world.resolver.texts("empty.example"), NoData)


async def test_aliases_are_followed(world: World) -> None:
    world.zone.cname("www.example.org", "alias.example.org")
    world.zone.cname("alias.example.org", "example.org")
    world.zone.mx("example.org", (10, "mx.example.org"))
    world.zone.a("example.org", "192.0.2.1")

    exchangers = await world.resolver.exchangers("www.example.org")
    addresses = await world.resolver.addresses("www.example.org", Kind.A)

    assert exchangers == Found((Exchanger(10, "mx.example.org"),), timedelta(minutes=1), canonical="example.org")
    assert addresses == Found(("192.0.2.1",), timedelta(minutes=1), canonical="example.org")


async def test_an_alias_of_nothing_is_no_name(world: World) -> None:
    world.zone.cname("www.example.org", "nowhere.example")

    assert isinstance(await world.resolver.exchangers("www.example.org"), NoName)


async def test_aliases_in_a_circle_are_nobodys_answer(world: World) -> None:
    world.zone.cname("a.example.org", "b.example.org")
    world.zone.cname("b.example.org", "a.example.org")

    assert isinstance(await world.resolver.addresses("a.example.org", Kind.A), Unavailable)


async def test_a_chain_of_twenty_aliases_is_nobodys_answer(world: World) -> None:
    for number in range(20):
        world.zone.cname(f"a{number}.example.org", f"a{number + 1}.example.org")
    world.zone.a("a20.example.org", "192.0.2.1")

    assert isinstance(await world.resolver.addresses("a0.example.org", Kind.A), Unavailable)


async def test_servfail_and_silence_are_nobodys_answer_and_soon_over(world: World) -> None:
    world.zone.servfail("broken.example")
    world.zone.silent("mute.example", "MX")
    started = time.monotonic()

    answers = [
        await world.resolver.exchangers("broken.example"),
        await world.resolver.addresses("broken.example", Kind.AAAA),
        await world.resolver.exchangers("mute.example"),
        await world.resolver.texts("broken.example"),
    ]

    assert all(isinstance(answer, Unavailable) and answer.reason for answer in answers)
    assert time.monotonic() - started < 5


async def test_of_a_thousand_exchangers_the_best_hundred_are_kept(world: World) -> None:
    world.zone.mx("example.org", *((number, f"mx{number}.example.org") for number in range(1000, 0, -1)))

    answer = await world.resolver.exchangers("example.org")

    assert isinstance(answer, Found)
    assert answer.records == tuple(Exchanger(n, f"mx{n}.example.org") for n in range(1, MAX_RECORDS + 1))


async def test_of_a_thousand_addresses_a_hundred_are_kept(world: World) -> None:
    world.zone.a("mx.example.org", *(f"192.0.{number // 250}.{number % 250}" for number in range(1000)))

    answer = await world.resolver.addresses("mx.example.org", Kind.A)

    assert isinstance(answer, Found)
    assert len(answer.records) == MAX_RECORDS


@pytest.mark.parametrize("name", ["localhost", "org", "a" * 63 + ".example", "under_score.example", "xn--zzz.example"])
async def test_odd_names_are_asked_for_as_they_are(world: World, name: str) -> None:
    answer = await world.resolver.addresses(name, Kind.A)

    assert isinstance(answer, NoName)
    assert world.zone.asked(name, "A") == 1


@pytest.mark.parametrize("name", [".".join(["a" * 60] * 5), "a..b", "b" * 64 + ".example"])
async def test_a_name_that_no_zone_can_have_does_not_exist(world: World, name: str) -> None:
    assert isinstance(await world.resolver.exchangers(name), NoName)


def a_record(usage: int = 3, selector: int = 1, matching: int = 1, content: bytes = bytes(range(32))) -> Tlsa:
    return Tlsa(usage=usage, selector=selector, matching=matching, content=content)


async def test_tlsa_records_come_as_they_are_published_even_those_of_no_use(world: World) -> None:
    useless = (a_record(1, 0, 2, bytes(64)), a_record(255, 255, 255, b"?"), a_record(3, 1, 1, b"too short"))
    records = (a_record(), *useless)
    world.zone.tlsa("_25._tcp.mx.example.org", *records)
    world.zone.cname("_25._tcp.mx2.example.org", "_25._tcp.mx.example.org")
    world.zone.exists("mx3.example.org")

    assert await world.resolver.associations("_25._tcp.mx.example.org") == Found(records, timedelta(minutes=1))
    aliased = await world.resolver.associations("_25._tcp.mx2.example.org")
    assert isinstance(aliased, Found)
    assert (aliased.records, aliased.canonical) == (records, "_25._tcp.mx.example.org")
    assert isinstance(await world.resolver.associations("mx3.example.org"), NoData)
    assert isinstance(await world.resolver.associations("_25._tcp.nowhere.example"), NoName)


async def test_an_alias_is_told_as_it_is_and_not_followed(world: World) -> None:
    world.zone.cname("www.example.org", "alias.example.org")
    world.zone.cname("alias.example.org", "EXAMPLE.org")
    world.zone.a("example.org", "192.0.2.1")

    assert await world.resolver.alias("www.example.org") == Found(("alias.example.org",), timedelta(minutes=1))
    assert isinstance(await world.resolver.alias("example.org"), NoData)
    assert isinstance(await world.resolver.alias("nowhere.example"), NoName)


async def test_what_is_signed_is_secure_and_the_rest_is_not(world: World) -> None:
    world.zone.validates()
    world.zone.sign("example.org")
    for zone in ("example.org", "example.net"):
        world.zone.mx(zone, (10, f"mx.{zone}"))
        world.zone.a(f"mx.{zone}", "192.0.2.1")
        world.zone.tlsa(f"_25._tcp.mx.{zone}", a_record())

        answers = (
            await world.resolver.exchangers(zone),
            await world.resolver.addresses(f"mx.{zone}", Kind.A),
            await world.resolver.addresses(f"mx.{zone}", Kind.AAAA),
            await world.resolver.associations(f"_25._tcp.mx.{zone}"),
            await world.resolver.associations(f"_26._tcp.mx.{zone}"),
        )

        assert [type(answer) for answer in answers] == [Found, Found, NoData, Found, NoName]
        assert {getattr(answer, "secure", None) for answer in answers} == {zone == "example.org"}


async def test_an_alias_that_leads_out_of_what_is_signed_is_insecure_as_a_whole_and_secure_itself(world: World) -> None:
    world.zone.validates()
    world.zone.sign("example.org")
    world.zone.cname("mx.example.org", "mx.example.net")
    world.zone.a("mx.example.net", "192.0.2.1")
    world.zone.cname("inside.example.org", "host.example.org")
    world.zone.a("host.example.org", "192.0.2.1")

    outside = await world.resolver.addresses("mx.example.org", Kind.A)
    inside = await world.resolver.addresses("inside.example.org", Kind.A)
    itself = await world.resolver.alias("mx.example.org")

    assert outside == Found(("192.0.2.1",), timedelta(minutes=1), canonical="mx.example.net")
    assert inside == Found(("192.0.2.1",), timedelta(minutes=1), secure=True, canonical="host.example.org")
    assert itself == Found(("mx.example.net",), timedelta(minutes=1), secure=True)
