"""REQUIRETLS and `TLS-Required: No` (RFC 8689), with real handshakes."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from relayd.mail.outcome import Deferred, Delivered, Failed, Scope
from relayd.mail.reply import EnhancedStatus
from relayd.mail.tls import Demand, Source, TlsPolicy, TlsWish
from tests.relay.kit import Bench, a_delivery, a_site, trusting
from tests.support.smtp import ScriptedServer

PLAIN = "250-mx.test\n250-PIPELINING\n250 STARTTLS"
ABLE = "250-mx.test\n250-PIPELINING\n250-REQUIRETLS\n250 STARTTLS"
MAY = TlsPolicy.OPPORTUNISTIC
BY_STS = Demand(level=TlsPolicy.VERIFY, source=Source.MTA_STS)
REFUSED = Deferred(scope=Scope.HOST, reason="DANE for mx1.test: bogus", status=EnhancedStatus(4, 7, 10))


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bench(ca: trustme.CA, tmp_path: Path) -> Bench:
    return Bench(contexts=trusting(ca.cert_pem.bytes(), tmp_path))


@asynccontextmanager
async def serving(ca: trustme.CA, ehlo: str = ABLE, name: str = "mx1.test") -> AsyncIterator[ScriptedServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)
    async with ScriptedServer({"EHLO": ehlo}, tls=context) as server:
        yield server


def mails(server: ScriptedServer) -> list[str]:
    return [line for line in server.connections[-1].commands if line.startswith("MAIL")]


async def test_requiretls_goes_to_a_server_that_proves_its_name_and_offers_it(bench: Bench, ca: trustme.CA) -> None:
    async with serving(ca) as server:
        batch = [a_delivery(name="M1"), a_delivery(name="M2", tls=TlsWish.REQUIRED), a_delivery(name="M3")]
        ended = await bench.run(a_site(server.port, tls=MAY), batch)

        assert (ended.delivered, ended.failure, ended.undone) == (3, None, ())
        assert str(bench.reports.of("M1").tls) == "1.3/encrypted"
        assert str(bench.reports.of("M2").tls) == "1.3/verified"
        assert len(server.connections) == 2
        assert mails(server) == ["MAIL FROM:<sender@example.com> REQUIRETLS"]
        assert len(bench.sessions) == 1


@pytest.mark.parametrize(
    ("ehlo", "name", "status"),
    [
        (PLAIN, "mx1.test", EnhancedStatus(5, 7, 30)),
        (ABLE, "other.test", EnhancedStatus(5, 7, 10)),
        ("250-mx.test\n250 REQUIRETLS", "mx1.test", EnhancedStatus(5, 7, 10)),
    ],
    ids=["not offered", "another name", "no TLS"],
)
async def test_requiretls_fails_where_no_server_can_have_it_and_the_rest_goes_on(
    bench: Bench, ca: trustme.CA, ehlo: str, name: str, status: EnhancedStatus
) -> None:
    async with serving(ca, ehlo, name) as server:
        batch = [a_delivery(name="M1", tls=TlsWish.REQUIRED), a_delivery(name="M2")]
        ended = await bench.run(a_site(server.port, tls=MAY), batch)

        assert (ended.delivered, ended.failure, ended.undone) == (1, None, ())
        outcome = bench.reports.outcome("M1")
        assert isinstance(outcome, Failed)
        assert (outcome.status, outcome.scope) == (status, Scope.MESSAGE)
        assert isinstance(bench.reports.outcome("M2"), Delivered)
        assert [message.content for message in server.taken] == [bench.files.default]


@pytest.mark.parametrize("first", [(PLAIN, "mx1.test"), (ABLE, "other.test")], ids=["not offered", "another name"])
async def test_requiretls_tries_the_next_host(bench: Bench, ca: trustme.CA, first: tuple[str, str]) -> None:
    async with serving(ca, *first) as unable, serving(ca, ABLE, "mx2.test") as able:
        site = a_site(unable.port, able.port, tls=MAY)
        ended = await bench.run(site, [a_delivery(tls=TlsWish.REQUIRED)])

        assert ended.delivered == 1
        assert len(able.taken) == 1
        assert unable.taken == []


async def test_requiretls_waits_for_a_host_that_is_out_of_reach(bench: Bench, ca: trustme.CA) -> None:
    """Alone it is the site that could not be used; beside others that went through it is the message."""
    async with serving(ca, ABLE, "other.test") as wrong:
        site = a_site(wrong.port, 1, tls=MAY)
        ended = await bench.run(site, [a_delivery(tls=TlsWish.REQUIRED)])
        assert isinstance(ended.failure, Deferred)
        assert [one.id for one in ended.undone] == ["M1"]

        ended = await bench.run(site, [a_delivery(name="M2"), a_delivery(name="M3", tls=TlsWish.REQUIRED)])
        assert (ended.delivered, ended.failure, ended.undone) == (1, None, ())
        outcome = bench.reports.outcome("M3")
        assert isinstance(outcome, Deferred)
        assert outcome.scope is Scope.MESSAGE


async def test_a_notification_with_requiretls_is_not_lost_for_want_of_it(bench: Bench, ca: trustme.CA) -> None:
    """RFC 8689 section 5."""
    for ehlo, said in ((PLAIN, "MAIL FROM:<>"), (ABLE, "MAIL FROM:<> REQUIRETLS")):
        async with serving(ca, ehlo) as server:
            notification = a_delivery(sender=None, tls=TlsWish.REQUIRED)
            assert (await bench.run(a_site(server.port, tls=MAY), [notification])).delivered == 1
            assert mails(server) == [said]


async def test_in_clear_text_an_offer_of_requiretls_means_nothing(bench: Bench) -> None:
    async with ScriptedServer({"EHLO": "250-mx.test\n250 REQUIRETLS"}) as server:
        await bench.run(a_site(server.port, tls=MAY), [a_delivery(sender=None, tls=TlsWish.REQUIRED)])

        assert mails(server) == ["MAIL FROM:<>"]


# TLS-Required: No


async def test_what_would_rather_go_in_clear_text_than_not_at_all_does(bench: Bench, ca: trustme.CA) -> None:
    bench.book.demand = BY_STS
    bench.book.relaxed = Demand()
    async with serving(ca, name="other.test") as server:
        batch = [a_delivery(name="M1"), a_delivery(name="M2", tls=TlsWish.OPTIONAL)]
        ended = await bench.run(a_site(server.port, tls=MAY), batch)

        assert ended.delivered == 1
        assert isinstance(ended.failure, Deferred)
        assert [one.id for one in ended.undone] == ["M1"]
        assert str(bench.reports.of("M2").tls) == "1.3/encrypted"


async def test_it_goes_even_where_the_policy_cannot_be_looked_up(bench: Bench, ca: trustme.CA) -> None:
    bench.book.known["mx1.test"] = REFUSED
    bench.book.relaxed = Demand()
    async with serving(ca) as server:
        ended = await bench.run(a_site(server.port, tls=MAY), [a_delivery(tls=TlsWish.OPTIONAL)])

        assert (ended.delivered, ended.failure, ended.undone) == (1, None, ())


async def test_what_is_configured_counts_even_then(bench: Bench, ca: trustme.CA) -> None:
    async with serving(ca, name="other.test") as server:
        site = a_site(server.port, tls=TlsPolicy.VERIFY)
        ended = await bench.run(site, [a_delivery(tls=TlsWish.OPTIONAL)])

        assert ended.failure is not None
        assert server.taken == []


async def test_a_policy_that_is_met_is_not_given_up(bench: Bench, ca: trustme.CA) -> None:
    bench.book.demand = BY_STS
    async with serving(ca) as server:
        assert (await bench.run(a_site(server.port, tls=MAY), [a_delivery(tls=TlsWish.OPTIONAL)])).delivered == 1
        assert str(bench.reports.of("M1").tls) == "1.3/verified"
        assert len(server.connections) == 1
