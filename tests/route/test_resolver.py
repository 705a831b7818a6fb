"""dnspython's resolver against a server that misbehaves (FAULTS.md, "Hostile DNS")."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import dns.flags
import dns.message
import pytest

from relayd.demo.dns import DnsServer
from relayd.mail.tls import Tlsa
from relayd.route.answers import Exchanger, Found, Kind, NoData, NoName, Unavailable
from relayd.route.own import own_addresses
from relayd.route.resolver import DnsResolver
from relayd.route.settings import DnsSettings
from relayd.route.trust import Unfit, Unknown, Validates
from tests.support.dns import FaultyDns

TIMEOUT = timedelta(seconds=1)


@pytest.fixture
async def server() -> AsyncIterator[FaultyDns]:
    async with FaultyDns() as server:
        yield server


def resolver_at(*addresses: str, timeout: timedelta = TIMEOUT) -> DnsResolver:
    return DnsResolver(DnsSettings(nameservers=addresses, timeout=timeout))


def write_resolv_conf(path: Path, text: str, *, mtime: int) -> None:
    path.write_text(text)
    os.utime(path, (mtime, mtime))


@pytest.mark.parametrize("code", ["SERVFAIL", "REFUSED", "FORMERR", "NOTIMP", "YXDOMAIN", "NOTAUTH"])
async def test_a_server_that_says_neither_yes_nor_no_is_nobodys_answer(server: FaultyDns, code: str) -> None:
    server.rcode("example.org", code)

    answer = await resolver_at(server.address).exchangers("example.org")

    assert isinstance(answer, Unavailable)
    assert "example.org" in answer.reason


async def test_a_lame_server_has_not_said_that_there_is_no_data(server: FaultyDns) -> None:
    server.lame("example.org")

    answer = await resolver_at(server.address).exchangers("example.org")

    assert isinstance(answer, Unavailable)
    assert "lame" in answer.reason


async def test_a_look_up_that_nobody_answered_leaves_nothing_to_the_garbage_collector(server: FaultyDns) -> None:
    """What lives as long as a time-out is found by full collections alone, and these are hours apart."""
    server.silent("example.org")
    resolver = resolver_at(server.address, timeout=timedelta(seconds=0.2))
    gc.collect()
    gc.disable()
    try:
        answers = [await resolver.exchangers("example.org") for _ in range(5)]
        left = [each for each in gc.get_objects() if isinstance(each, TracebackType | FrameType) and is_of_dns(each)]
    finally:
        gc.enable()

    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert left == []


def is_of_dns(left: TracebackType | FrameType) -> bool:
    frame = left.tb_frame if isinstance(left, TracebackType) else left
    return "/dns/" in frame.f_code.co_filename


async def test_a_silent_server_is_given_up_in_time(server: FaultyDns) -> None:
    server.silent("example.org")
    started = time.monotonic()

    answer = await resolver_at(server.address).exchangers("example.org")

    assert answer == Unavailable("no answer for example.org MX within 1 s")
    assert 0.9 < time.monotonic() - started < 5


async def test_a_server_that_is_not_there_is_nobodys_answer() -> None:
    async with DnsServer() as gone:
        address = gone.address

    assert isinstance(await resolver_at(address).exchangers("example.org"), Unavailable)


async def test_the_next_server_is_asked_in_time() -> None:
    async with FaultyDns() as silent, FaultyDns() as broken, FaultyDns() as good:
        silent.silent("example.org")
        broken.servfail("example.org")
        good.a("example.org", "192.0.2.1")

        answer = await resolver_at(silent.address, broken.address, good.address).addresses("example.org", Kind.A)

    assert isinstance(answer, Found)


async def test_a_lost_datagram_is_sent_again(server: FaultyDns) -> None:
    server.a("example.org", "192.0.2.1")
    server.lose("example.org", 1)

    assert isinstance(await resolver_at(server.address).addresses("example.org", Kind.A), Found)


async def test_a_late_answer_counts_if_it_is_in_time(server: FaultyDns) -> None:
    server.a("example.org", "192.0.2.1")
    server.delay("example.org", 0.2)

    assert isinstance(await resolver_at(server.address).addresses("example.org", Kind.A), Found)


async def test_forged_answers_are_passed_over(server: FaultyDns) -> None:
    server.a("example.org", "192.0.2.1")
    server.forge("example.org", "203.0.113.66")

    answer = await resolver_at(server.address).addresses("example.org", Kind.A)

    assert isinstance(answer, Found)
    assert answer.records == ("192.0.2.1",)


async def test_repeated_answers_do_not_disturb_the_next_question(server: FaultyDns) -> None:
    server.a("one.example.org", "192.0.2.1")
    server.a("two.example.org", "192.0.2.2")
    server.repeat("one.example.org")
    resolver = resolver_at(server.address)

    answers = [await resolver.addresses(f"{name}.example.org", Kind.A) for name in ("one", "two", "one")]

    assert [answer.records[0] for answer in answers if isinstance(answer, Found)] == [
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.1",
    ]


async def test_a_mangled_answer_is_nobodys_answer(server: FaultyDns) -> None:
    server.a("example.org", "192.0.2.1")
    server.mangle("example.org")

    assert isinstance(await resolver_at(server.address).addresses("example.org", Kind.A), Unavailable)


async def test_an_answer_too_big_for_udp_comes_by_tcp(server: FaultyDns) -> None:
    server.mx("example.org", *((number, f"a-rather-long-name-{number}.example.org") for number in range(100)))

    answer = await resolver_at(server.address).exchangers("example.org")

    assert isinstance(answer, Found)
    assert len(answer.records) == 100
    assert server.asked("example.org", "MX") == 2


async def test_an_answer_too_big_for_udp_without_tcp_is_nobodys_answer(server: FaultyDns) -> None:
    server.mx("example.org", *((number, f"a-rather-long-name-{number}.example.org") for number in range(100)))
    await server.refuse_tcp()

    assert isinstance(await resolver_at(server.address).exchangers("example.org"), Unavailable)


async def test_an_answer_too_big_for_tcp_is_nobodys_answer(server: FaultyDns) -> None:
    """D10: nothing of it comes, but for the mark that something is missing; the domain's address must not be used."""
    server.mx("example.org", *((number, f"a-long-name-of-a-host-{number}.example.org") for number in range(5000)))
    server.a("example.org", "192.0.2.1")

    answer = await resolver_at(server.address).exchangers("example.org")

    assert isinstance(answer, Unavailable)
    assert "truncated" in answer.reason


@pytest.mark.parametrize("ttl", [0, 2**31 - 1, 2**31])
async def test_any_ttl_is_read(ttl: int) -> None:
    async with DnsServer(ttl=ttl) as server:
        server.a("example.org", "192.0.2.1")

        answer = await resolver_at(server.address).addresses("example.org", Kind.A)

    assert isinstance(answer, Found)
    assert answer.records == ("192.0.2.1",)


async def test_negative_answers_tell_how_long_they_hold() -> None:
    async with DnsServer(negative_ttl=300) as server:
        server.a("example.org", "192.0.2.1")
        resolver = resolver_at(server.address)

        nodata = await resolver.exchangers("example.org")
        nxdomain = await resolver.exchangers("nowhere.example")

    assert nodata == NoData(timedelta(seconds=300))
    assert nxdomain == NoName(timedelta(seconds=300))


async def test_an_exchanger_may_have_any_octets_in_its_name(server: FaultyDns) -> None:
    server.mx("example.org", (10, "a\\032b\\000.example.org"), (20, "10.0.0.1."))

    answer = await resolver_at(server.address).exchangers("example.org")

    assert isinstance(answer, Found)
    assert answer.records == (Exchanger(10, "a\\032b\\000.example.org"), Exchanger(20, "10.0.0.1"))


async def test_a_name_is_never_completed_from_a_search_list(server: FaultyDns, tmp_path: Path) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\nsearch corp.example\noptions ndots:5\n")
    server.a("host.corp.example", "192.0.2.1")
    resolver = DnsResolver(DnsSettings(timeout=TIMEOUT), resolv_conf=resolv_conf)
    system = resolver._servers().plain
    system.port = server.port
    system.nameservers = ["127.0.0.1"]

    assert isinstance(await resolver.addresses("host", Kind.A), NoName)
    assert [name for name, _ in server.queries] == ["host"]


@pytest.mark.parametrize("text", [None, "", "# nothing\n", "nameserver nonsense\n", "nameserver\n", "\x00\xff\n"])
async def test_without_name_servers_nobody_can_say(tmp_path: Path, text: str | None) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    if text is not None:
        resolv_conf.write_text(text, encoding="latin-1")

    answer = await DnsResolver(DnsSettings(), resolv_conf=resolv_conf).exchangers("example.org")

    assert isinstance(answer, Unavailable)
    assert str(resolv_conf) in answer.reason


async def test_a_changed_resolv_conf_is_read_again(tmp_path: Path) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    resolver = DnsResolver(DnsSettings(), resolv_conf=resolv_conf)
    seen = []

    for number, text in enumerate(["nameserver 192.0.2.1\n", "nameserver 192.0.2.2\n", "", "nameserver 192.0.2.3\n"]):
        write_resolv_conf(resolv_conf, text, mtime=1_000_000 + number)
        if text:
            seen += [str(server) for server in resolver._servers().plain.nameservers]
        else:
            assert isinstance(await resolver.exchangers("example.org"), Unavailable)

    assert seen == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


async def test_other_settings_hold_from_the_next_look_up_on() -> None:
    async with DnsServer() as first, DnsServer() as second:
        second.a("example.org", "192.0.2.1")
        resolver = resolver_at(first.address)
        before = await resolver.addresses("example.org", Kind.A)

        resolver.reload(DnsSettings(nameservers=(second.address,), timeout=TIMEOUT))
        after = await resolver.addresses("example.org", Kind.A)

    assert isinstance(before, NoName)
    assert isinstance(after, Found)


async def test_silent_domains_do_not_delay_the_others(server: FaultyDns) -> None:
    resolver = resolver_at(server.address, timeout=timedelta(seconds=3))
    for number in range(50):
        server.silent(f"mute{number}.example")
    server.a("example.org", "192.0.2.1")
    silent = [asyncio.create_task(resolver.exchangers(f"mute{number}.example")) for number in range(50)]
    while len(server.queries) < 50:
        await asyncio.sleep(0.01)

    answer = await resolver.addresses("example.org", Kind.A)

    assert isinstance(answer, Found)
    assert not any(task.done() for task in silent)
    for task in silent:
        task.cancel()
    await asyncio.wait(silent)


async def test_more_questions_than_sockets_wait_for_their_turn(server: FaultyDns) -> None:
    resolver = DnsResolver(DnsSettings(nameservers=(server.address,)), max_queries=4)
    names = [f"d{number}.example" for number in range(50)]
    for name in names:
        server.a(name, "192.0.2.1")

    answers = await asyncio.gather(*(resolver.addresses(name, Kind.A) for name in names))

    assert all(isinstance(answer, Found) for answer in answers)


async def test_a_server_on_ipv6_is_asked_too() -> None:
    try:
        server = DnsServer("::1")
        await server.start()
    except OSError:
        pytest.skip("no IPv6 on this machine's loopback")
    server.a("example.org", "192.0.2.1")

    answer = await resolver_at(server.address).addresses("example.org", Kind.A)

    await server.stop()
    assert isinstance(answer, Found)


def believing(server: FaultyDns, **settings: Any) -> DnsResolver:
    resolver = DnsResolver(DnsSettings(nameservers=(server.address,), timeout=TIMEOUT, **settings))
    resolver.ask_for_security(True)
    return resolver


async def test_until_it_is_asked_for_no_answer_is_secure_and_no_question_is_larger(server: FaultyDns) -> None:
    """Whatever the server says: nobody has found out yet whether it is to be believed."""
    server.a("example.org", "192.0.2.1")
    server.forges_ad = True
    asked: list[dns.message.Message] = []
    server.watch(asked.append)
    resolver = resolver_at(server.address)

    answers = []
    for careful in (False, True, False):
        resolver.ask_for_security(careful)
        answers.append(await resolver.addresses("example.org", Kind.A))

    assert [getattr(answer, "secure", None) for answer in answers] == [False, True, False]
    assert [query.edns for query in asked] == [-1, 0, -1]
    assert [bool(query.ednsflags & dns.flags.DO) for query in asked] == [False, True, False]
    assert [bool(query.flags & dns.flags.AD) for query in asked] == [False, True, False]


class TestWhoIsBelieved:
    """FAULTS.md D16: an AD bit counts only from a name server that is on this machine, or is said to be safe."""

    @pytest.fixture
    async def elsewhere(self) -> AsyncIterator[FaultyDns]:
        """A server at an address that is not loopback: one of this machine's own, if it has any."""
        for address in sorted(own_addresses()):
            if ":" not in address:
                async with FaultyDns(address) as server:
                    server.forges_ad = True
                    server.a("example.org", "192.0.2.1")
                    server.exists("empty.example")
                    yield server
                return
        pytest.skip("this machine has no address but loopback")

    async def test_what_another_machine_says_is_not(self, elsewhere: FaultyDns) -> None:
        resolver = believing(elsewhere)

        answers = [
            await resolver.addresses("example.org", Kind.A),
            await resolver.addresses("empty.example", Kind.A),
            await resolver.addresses("nowhere.example", Kind.A),
        ]

        assert [type(answer) for answer in answers] == [Found, NoData, NoName]
        assert not any(getattr(answer, "secure", None) for answer in answers)
        assert isinstance(found := await resolver.validation(), Unfit)
        assert elsewhere.host in found.why

    async def test_nor_is_one_of_this_machine_beside_it(self, elsewhere: FaultyDns, server: FaultyDns) -> None:
        server.validates()
        resolver = DnsResolver(DnsSettings(nameservers=(server.address, elsewhere.address), timeout=TIMEOUT))

        assert isinstance(await resolver.validation(), Unfit)

    async def test_it_is_if_the_operator_says_so(self, elsewhere: FaultyDns) -> None:
        elsewhere.validates()
        resolver = believing(elsewhere, trust_ad=True)

        assert getattr(await resolver.addresses("example.org", Kind.A), "secure", None)
        assert isinstance(await resolver.validation(), Validates)

    @pytest.mark.parametrize(("options", "believed"), [("options edns0 trust-ad", True), ("options edns0", False)])
    async def test_or_if_the_systems_configuration_does(
        self, elsewhere: FaultyDns, tmp_path: Path, options: str, believed: bool
    ) -> None:
        resolv_conf = tmp_path / "resolv.conf"
        resolv_conf.write_text(f"nameserver {elsewhere.host}\n{options}\n")
        resolver = DnsResolver(DnsSettings(timeout=TIMEOUT), resolv_conf=resolv_conf)
        resolver.ask_for_security(True)
        servers = resolver._servers()
        servers.plain.port = servers.careful.port = elsewhere.port

        assert getattr(await resolver.addresses("example.org", Kind.A), "secure", None) is believed


class TestValidation:
    """Whether name servers validate is found out by a question of the root."""

    async def test_one_that_proves_the_root_does(self, server: FaultyDns) -> None:
        server.validates()

        assert await resolver_at(server.address).validation() == Validates()

    async def test_one_that_says_nothing_of_it_does_not(self, server: FaultyDns) -> None:
        found = await resolver_at(server.address).validation()

        assert found == Unfit("127.0.0.1 does not validate DNSSEC")

    async def test_one_that_does_not_understand_the_question_does_not(self, server: FaultyDns) -> None:
        """It would answer no question for security, and all mail would wait."""
        server.validates()
        server.old(".")

        assert isinstance(await resolver_at(server.address).validation(), Unfit)

    async def test_one_that_is_silent_is_not_known(self, server: FaultyDns) -> None:
        server.silent(".")

        assert isinstance(await resolver_at(server.address, timeout=timedelta(seconds=0.2)).validation(), Unknown)

    async def test_without_any_it_is_not_known(self, tmp_path: Path) -> None:
        assert isinstance(await DnsResolver(DnsSettings(), resolv_conf=tmp_path / "none").validation(), Unknown)


async def test_tlsa_records_of_enormous_size_are_kept_without_their_content(server: FaultyDns) -> None:
    records = [Tlsa(usage=3, selector=0, matching=0, content=bytes([n]) * 6000) for n in range(5)]
    server.tlsa("_25._tcp.mx.example.org", *records)

    answer = await resolver_at(server.address).associations("_25._tcp.mx.example.org")

    assert isinstance(answer, Found)
    assert [len(record.content) for record in answer.records] == [6000, 6000, 0, 0, 0]
