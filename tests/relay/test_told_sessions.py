"""What is told of connections for reports on TLS (RFC 8460): of whose mail, under whose policy, and not of reports."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from relayd.mail.outcome import Deferred, Scope
from relayd.mail.reply import EnhancedStatus
from relayd.mail.tls import Dane, Demand, Source, Tlsa, TlsPolicy, TlsResult, TlsWish
from tests.relay.kit import Bench, a_delivery, a_site, trusting
from tests.support.smtp import ScriptedServer

MAY = TlsPolicy.OPPORTUNISTIC
EHLO = "250-mx.test\n250 STARTTLS"
TLSA = Tlsa(usage=3, selector=1, matching=1, content=bytes(32))


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bench(ca: trustme.CA, tmp_path: Path) -> Bench:
    return Bench(contexts=trusting(ca.cert_pem.bytes(), tmp_path))


@asynccontextmanager
async def serving(ca: trustme.CA) -> AsyncIterator[ScriptedServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("mx1.test").configure_cert(context)
    async with ScriptedServer({"EHLO": EHLO}, tls=context) as server:
        yield server


async def test_a_connection_for_reports_alone_is_not_told_of(bench: Bench, ca: trustme.CA) -> None:
    """RFC 8460 section 3: the session of a report is not to be in the next one."""
    async with serving(ca) as server:
        batch = [a_delivery(tls=TlsWish.OPTIONAL)]
        assert (await bench.run(a_site(server.port, tls=MAY), batch)).delivered == 1

        assert bench.sessions == []


async def test_of_a_connection_for_other_mail_too_only_its_domains_are_told(bench: Bench, ca: trustme.CA) -> None:
    async with serving(ca) as server:
        batch = [
            a_delivery(["tls@reports.example"], name="M1", tls=TlsWish.OPTIONAL),
            a_delivery(["ann@one.example", "bob@two.example"], name="M2"),
        ]
        assert (await bench.run(a_site(server.port, tls=MAY), batch)).delivered == 2

        assert [set(session.domains) for session in bench.sessions] == [{"one.example", "two.example"}]


async def test_a_policy_of_dane_is_told_with_its_records_and_the_base_of_their_name(
    bench: Bench, ca: trustme.CA
) -> None:
    dane = Dane(records=(TLSA,), names=("base.test", "mx1.test"))
    bench.book.demand = Demand(level=TlsPolicy.REQUIRE, source=Source.DANE, dane=dane)
    async with serving(ca) as server:
        await bench.run(a_site(server.port, tls=MAY), [a_delivery()])

        (session,) = bench.sessions
        assert (session.source, session.base, session.records) == (Source.DANE, "base.test", (f"3 1 1 {'00' * 32}",))


@pytest.mark.parametrize(
    ("status", "source", "result"),
    [
        (EnhancedStatus(4, 7, 10), Source.DANE, TlsResult.DNSSEC_INVALID),
        (EnhancedStatus(4, 7, 5), Source.MTA_STS, TlsResult.VALIDATION_FAILURE),
    ],
)
async def test_a_host_that_its_policy_forbids_is_told_of(
    bench: Bench, status: EnhancedStatus, source: Source, result: TlsResult
) -> None:
    bench.book.known["mx1.test"] = Deferred(scope=Scope.HOST, reason="forbidden", status=status)
    await bench.run(a_site(1, tls=MAY), [a_delivery()])

    (session,) = bench.sessions
    assert (session.host, session.address, session.result, session.source) == ("mx1.test", "", result, source)
    assert session.detail == "forbidden"


async def test_a_host_that_cannot_be_looked_up_is_no_matter_of_tls(bench: Bench) -> None:
    bench.book.known["mx1.test"] = Deferred(scope=Scope.HOST, reason="no", status=EnhancedStatus(4, 4, 3))
    await bench.run(a_site(1, tls=MAY), [a_delivery()])

    assert bench.sessions == []


async def test_a_configured_route_is_none_of_their_concern(bench: Bench, ca: trustme.CA) -> None:
    bench.book.known["mx2.test"] = Deferred(scope=Scope.HOST, reason="no", status=EnhancedStatus(4, 7, 10))
    async with serving(ca) as server:
        await bench.run(replace(a_site(1, server.port, tls=MAY), configured=True), [a_delivery()])

        assert bench.sessions == []
