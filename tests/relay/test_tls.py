"""TLS with real handshakes, on both event loops (RFC 3207; RFC.md R19, R20; FAULTS.md H19 to H21)."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from relayd.mail.outcome import Delivered
from relayd.mail.route import Credentials, Host, Site
from relayd.mail.tls import TlsPolicy
from tests.relay.kit import HELLO, QUICK, Bench, a_delivery, a_site, deliveries, on, trusting
from tests.support.smtp import Answer, Authority, ScriptedServer

EHLO = "250-mx.test\n250-PIPELINING\n250-SIZE 10240000\n250-8BITMIME\n250-DSN\n250 STARTTLS"
LARGE = b"Subject: large\r\n\r\n" + b"a line of a large message\r\n" * 30_000
OPTIONAL = TlsPolicy.OPPORTUNISTIC
ENFORCED = [TlsPolicy.REQUIRE, TlsPolicy.VERIFY]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def a_bench(authority: Authority, directory: Path, **fields: Any) -> Bench:
    return Bench(contexts=trusting(authority.pem, directory), **fields)


@asynccontextmanager
async def a_server(authority: Authority, *names: str, **replies: Any) -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer({"EHLO": EHLO, **replies}, tls=authority.server(*(names or ("mx1.test",)))) as server:
        yield server


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("policy", [TlsPolicy.NONE, OPTIONAL, *ENFORCED])
@pytest.mark.parametrize("implicit", [False, True])
def test_mail_goes_through_whatever_the_transport(
    loop: str, policy: TlsPolicy, implicit: bool, authority: Authority, tmp_path: Path
) -> None:
    async def story() -> None:
        bench = a_bench(authority, tmp_path)
        bench.files.files["M3"] = LARGE
        batch = [*deliveries(3), a_delivery(name="M3", file=LARGE), a_delivery(name="M4")]
        context = authority.server("mx1.test")
        async with ScriptedServer({"EHLO": EHLO}, tls=context, implicit_tls=implicit) as server:
            host = Host(name="mx1.test", port=server.port, implicit_tls=implicit)
            ended = await bench.run(Site(key="test", hosts=((host,),), tls=policy), batch)
            assert (ended.delivered, ended.failure) == (5, None)
            assert [message.content for message in server.taken] == [HELLO, HELLO, HELLO, LARGE, HELLO]
            encrypted = implicit or policy is not TlsPolicy.NONE
            assert server.connections[0].encrypted is encrypted
            proven = "verified" if policy is TlsPolicy.VERIFY else "encrypted"
            assert str(bench.reports.of("M0").tls or "") == (f"1.3/{proven}" if encrypted else "")

    on(loop, story())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_reset_takes_back_what_was_not_sent(loop: str, authority: Authority, tmp_path: Path) -> None:
    async def story() -> None:
        bench = a_bench(authority, tmp_path, timeouts=replace(QUICK, final=timedelta(seconds=0.2)))
        async with a_server(authority, final=Answer(then="stall")) as server:
            await bench.run(a_site(server.port, tls=TlsPolicy.VERIFY), deliveries(2))
            outcome = bench.reports.outcome("M0")
            assert getattr(outcome, "possible_duplicate", False)

    on(loop, story())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("policy", [OPTIONAL, *ENFORCED])
@pytest.mark.parametrize(
    "starttls",
    [
        Answer("220 go", then="close"),
        Answer("220 go", then="reset"),
        Answer("220 go", then="stall"),
        Answer(b"220 go\r\nthis is no handshake\r\n", then="stall"),
        Answer(b"220 go\r\n250-SIZE 1\r\n250 AUTH PLAIN\r\n"),
        Answer("354 what"),
        Answer("250 what"),
        Answer("454 no"),
        Answer("502 no"),
    ],
    ids=str,
)
def test_a_handshake_that_fails_means_clear_text_only_where_that_is_allowed(
    loop: str, policy: TlsPolicy, starttls: Answer, authority: Authority, tmp_path: Path
) -> None:
    """A10, H19, H20, H21."""

    async def story() -> None:
        bench = a_bench(authority, tmp_path, timeouts=replace(QUICK, starttls=timedelta(seconds=0.25)))
        async with a_server(authority, STARTTLS=starttls) as server:
            ended = await bench.run(a_site(server.port, tls=policy), [a_delivery()])
            if policy is not OPTIONAL:
                assert ended.failure is not None
                assert [one.id for one in ended.undone] == ["M1"]
                assert all("MAIL" not in connection.verbs for connection in server.connections)
                return
            assert ended.delivered == 1
            assert not any("MAIL" in one.verbs for one in server.connections[:-1])
            before = len(server.connections)
            await bench.run(a_site(server.port, tls=policy), [a_delivery(name="M2")])
            assert isinstance(bench.reports.outcome("M2"), Delivered)
            assert len(server.connections) == before + 1

    on(loop, story())


async def test_clear_text_after_a_handshake_that_failed_is_a_connection_of_its_own(
    authority: Authority, tmp_path: Path
) -> None:
    """connection_rate counts connections: a permit is awaited before each."""
    asked: list[int] = []
    bench = a_bench(authority, tmp_path)
    async with a_server(authority, STARTTLS=Answer("220 go", then="close")) as server:

        async def permit() -> None:
            asked.append(len(server.connections))

        ended = await bench.relayer(a_site(server.port, tls=OPTIONAL), permit).run([a_delivery()])
        await bench.partings.over()

    assert ended.delivered == 1
    assert asked == [0, 1]


@pytest.mark.parametrize("policy", ENFORCED)
async def test_where_tls_is_required_and_not_offered_the_next_host_is_tried(
    policy: TlsPolicy, authority: Authority, tmp_path: Path
) -> None:
    bench = a_bench(authority, tmp_path)
    async with ScriptedServer() as first, a_server(authority, "mx2.test") as second:
        assert (await bench.run(a_site(first.port, second.port, tls=policy), [a_delivery()])).delivered == 1
        assert "MAIL" not in first.connections[0].verbs
        assert first.connections[0].verbs[-1] == "QUIT"


@pytest.mark.parametrize("implicit", [False, True])
async def test_verify_needs_the_right_name_and_the_others_do_not(
    implicit: bool, authority: Authority, tmp_path: Path
) -> None:
    """H22."""
    context = authority.server("other.test")
    async with ScriptedServer({"EHLO": EHLO}, tls=context, implicit_tls=implicit) as server:
        host = Host(name="mx1.test", port=server.port, implicit_tls=implicit)
        site = Site(key="test", hosts=((host,),), tls=TlsPolicy.VERIFY)
        bench = a_bench(authority, tmp_path)
        ended = await bench.run(site, [a_delivery()])
        assert "certificate" in str(ended.failure)
        assert server.messages == []
        for policy in (TlsPolicy.REQUIRE, OPTIONAL):
            ended = await a_bench(authority, tmp_path).run(replace(site, tls=policy), [a_delivery()])
            assert ended.delivered == 1
        assert all(connection.encrypted for connection in server.connections if connection.messages)


async def test_verify_needs_an_authority_that_is_trusted(authority: Authority, tmp_path: Path) -> None:
    bench = a_bench(Authority(), tmp_path)
    async with a_server(authority) as server:
        ended = await bench.run(a_site(server.port, tls=TlsPolicy.VERIFY), [a_delivery()])
        assert (ended.delivered, server.messages) == (0, [])


async def test_verify_matches_an_address(authority: Authority, tmp_path: Path) -> None:
    bench = a_bench(authority, tmp_path)
    async with a_server(authority, "127.0.0.1") as server:
        site = a_site(server.port, tls=TlsPolicy.VERIFY, host="127.0.0.1")
        assert (await bench.run(site, [a_delivery()])).delivered == 1


async def test_a_failed_handshake_is_forgotten_after_an_hour(authority: Authority, tmp_path: Path) -> None:
    bench = a_bench(authority, tmp_path)
    replies = [Answer("220 go", then="close"), Answer("220 go"), Answer("220 go")]
    async with a_server(authority, STARTTLS=replies) as server:
        await bench.run(a_site(server.port, tls=OPTIONAL), [a_delivery()])
        await bench.run(a_site(server.port, tls=OPTIONAL), [a_delivery(name="M2")])
        assert [connection.encrypted for connection in server.connections] == [False, False, False]
        bench.now += timedelta(hours=1)
        await bench.run(a_site(server.port, tls=OPTIONAL), [a_delivery(name="M3")])
        assert server.connections[-1].encrypted


async def test_an_old_server_gets_it_in_clear_where_that_is_allowed(authority: Authority, tmp_path: Path) -> None:
    old = authority.server("mx1.test")
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.set_ciphers("NULL-SHA256:@SECLEVEL=0")
    bench = a_bench(authority, tmp_path)
    async with ScriptedServer({"EHLO": EHLO}, tls=old) as server:
        assert (await bench.run(a_site(server.port, tls=OPTIONAL), [a_delivery()])).delivered == 1
        assert [connection.encrypted for connection in server.connections] == [False, False]


async def test_a_password_goes_over_tls(authority: Authority, tmp_path: Path) -> None:
    bench = a_bench(authority, tmp_path)
    ehlo = EHLO.replace("250-DSN", "250-AUTH PLAIN LOGIN")
    async with a_server(authority, EHLO=ehlo) as server:
        site = a_site(
            server.port,
            tls=TlsPolicy.VERIFY,
            configured=True,
            credentials=Credentials(username="relay", password="hunter2"),
        )
        assert (await bench.run(site, [a_delivery()])).delivered == 1
        assert server.connections[0].verbs[:4] == ["EHLO", "STARTTLS", "EHLO", "AUTH"]


async def test_a_handshake_that_failed_once_does_not_keep_a_password_from_the_next_try(
    authority: Authority, tmp_path: Path
) -> None:
    bench = a_bench(authority, tmp_path)
    ehlo = EHLO.replace("250-DSN", "250-AUTH PLAIN")
    async with a_server(authority, EHLO=ehlo, STARTTLS=[Answer("220 go", then="close")]) as server:
        secret = Credentials(username="relay", password="hunter2")
        site = a_site(server.port, tls=OPTIONAL, configured=True, credentials=secret)
        ended = await bench.run(site, [a_delivery()])
        assert "TLS" in str(ended.failure)
        assert len(server.connections) == 1
        assert (await bench.run(site, [a_delivery()])).delivered == 1
        assert server.connections[-1].encrypted


async def test_implicit_tls_that_stalls_is_left_in_time(authority: Authority, tmp_path: Path) -> None:
    bench = a_bench(authority, tmp_path, timeouts=replace(QUICK, starttls=timedelta(seconds=0.2)))
    async with ScriptedServer({"greeting": Answer(then="stall")}) as server:
        host = Host(name="mx1.test", port=server.port, implicit_tls=True)
        ended = await bench.run(Site(key="test", hosts=((host,),), tls=OPTIONAL), [a_delivery()])
        assert "TLS handshake" in str(ended.failure)
