"""relayd.report.reporter: from a session to a report in the queue and at an HTTPS server.

The spool, the name server and the HTTPS server are real; the clock and the chance are the test's.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from relayd.https import Https
from relayd.mail.address import Address
from relayd.mail.errors import QueueError
from relayd.mail.events import Event, TlsReported, Trouble, Warned
from relayd.mail.https import Response
from relayd.mail.message import Message
from relayd.mail.recipient import Status
from relayd.mail.report import Counted, Owed
from relayd.mail.tls import Source, TlsResult, TlsSession, TlsWish
from relayd.plugs import NamesPort, PostPort, TextsPort
from relayd.report.counting import Tally
from relayd.report.reporter import WRITE, Reporter
from relayd.report.settings import ReportSettings
from relayd.route.resolver import DnsResolver
from relayd.route.router import Router
from relayd.route.settings import DnsSettings, RouteSettings
from relayd.spool.queue import Listed
from relayd.spool.reports import NAME, ReportsFile
from relayd.spool.spool import Spool
from tests.report.keys import dkim_key
from tests.report.schema import check
from tests.spool.mail import settled
from tests.submission.support import an_examiner, reading
from tests.support.dns import FaultyDns
from tests.support.https import Handler, HttpsServer, answering, hanging_up
from tests.support.smtp import Authority

DAY = date(2026, 11, 26)
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
DOMAIN = "example.test"
SINK = "sink.test"
SETTINGS = ReportSettings(
    hostname="relay.sender.test",
    organization="Sender",
    contact=Address.parse("tls@sender.test"),
    sender=Address.parse("postmaster@sender.test"),
)
GOOD = TlsSession(
    domains=(DOMAIN,), host="mx.example.test", address="192.0.2.1", local="192.0.2.9", result=TlsResult.SUCCESS
)
BAD = replace(GOOD, result=TlsResult.CERTIFICATE_EXPIRED, detail="expired")
STS = ("version: STSv1", "mode: testing", "mx: mx.example.test", "max_age: 86400")


class Died(Exception):
    """The process is no more."""


class MortalFile(ReportsFile):
    """A file whose process may be killed just before, or just after, a step, and that may be slow."""

    _step, _done = "", False
    gate: asyncio.Event | None = None  # what is written is not told of before it opens

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.added = asyncio.Event()

    def dies(self, step: str, *, done: bool) -> None:
        """Let it be killed at that step; empty: at none."""
        self._step, self._done = step, done

    async def add(self, changes: Mapping[tuple[date, str], Callable[[str | None], str]]) -> None:
        await super().add(changes)
        if self.gate is not None:
            self.added.set()
            await self.gate.wait()

    async def made(self, counted: Counted, owed: Sequence[Owed]) -> None:
        self._maybe("made", done=False)
        await super().made(counted, owed)
        self._maybe("made", done=True)

    async def handed_over(self, owed: Owed) -> None:
        self._maybe("handed_over", done=False)
        await super().handed_over(owed)
        self._maybe("handed_over", done=True)

    def _maybe(self, step: str, *, done: bool) -> None:
        if (step, done) == (self._step, self._done):
            raise Died


class Trusting:
    """HTTPS, to the test's own authority."""

    def __init__(self, https: Https, ca_file: Path) -> None:
        self._https = https
        self._ca_file = ca_file

    async def post(self, url: str, body: bytes, *, content_type: str, timeout: timedelta, limit: int) -> Response:
        return await self._https.post(
            url, body, content_type=content_type, timeout=timeout, limit=limit, ca_file=self._ca_file
        )


class World:
    """All that a reporter is plugged into.  `now` and `chance` are the test's."""

    def __init__(self, root: Path, dns: FaultyDns, ca_file: Path) -> None:
        self.root = root
        self.dns = dns
        self.now = NOON
        self.chance = 0.5
        self.told: list[Event] = []
        self.arrived: list[Message] = []
        self.settings: ReportSettings | None = SETTINGS
        resolver = DnsResolver(DnsSettings(nameservers=(dns.address,), timeout=timedelta(seconds=2)))
        router = Router(
            RouteSettings(hostname="relay.sender.test", allow_loopback=True),
            resolver,
            clock=lambda: datetime.now(UTC),
            own_addresses=frozenset,
        )
        self.https = Https(NamesPort(lambda: router))
        self._trusting = Trusting(self.https, ca_file)
        self._texts = TextsPort(resolver)

    async def begin(self) -> None:
        """Start, or start again."""
        self.spool = await Spool.open(self.root, now=self.now, history=timedelta(days=3), events=self.told.append)
        self.store = MortalFile(self.root)
        self.reporter = Reporter(
            self.settings,
            store=self.store,
            texts=self._texts,
            post=PostPort(self.spool, self.arrived.append),
            https=self._trusting,
            sts_lines=lambda domain: STS if domain == DOMAIN else (),
            clock=lambda: self.now,
            jitter=lambda: self.chance,
            events=self.told.append,
        )

    async def end(self) -> None:
        """Stop in order."""
        await self.reporter.close()
        await self.spool.close()

    async def die(self) -> None:
        """Be gone without a word: what is only in memory is lost."""
        await self.store.close()
        await self.spool.close()

    def wanted(self, *places: str, domain: str = DOMAIN) -> None:
        """Let a domain ask for reports."""
        self.dns.txt(f"_smtp._tls.{domain}", f"v=TLSRPTv1; rua={','.join(places)}")

    async def rounds(self) -> None:
        """Do all that is due."""
        await self.reporter.round()
        await self.reporter.sent()

    async def counted(self, *sessions: TlsSession) -> None:
        """Count sessions, durably."""
        for session in sessions:
            self.reporter.session(session)
        self.now += WRITE
        await self.rounds()

    async def next_day(self, *, hours: float = 4) -> None:
        """Let it be so many hours after the end of the day."""
        self.now = datetime(2026, 11, 27, tzinfo=UTC) + timedelta(hours=hours)
        await self.rounds()

    async def queued(self) -> list[tuple[Listed, bytes]]:
        """Return what waits in the queue."""
        listed = [each async for each in self.spool.queue.messages()]
        return [(each, await self.spool.bodies.head(each.message.id, 10**6)) for each in listed]

    @property
    def reported(self) -> list[TlsReported]:
        return [event for event in self.told if isinstance(event, TlsReported)]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def world(tmp_path: Path, authority: Authority) -> AsyncIterator[World]:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.pem)
    async with AsyncExitStack() as stack:
        dns = await stack.enter_async_context(FaultyDns())
        world = World(tmp_path / "spool", dns, ca_file)
        stack.push_async_callback(world.https.close)
        dns.a(SINK, "127.0.0.1")
        await world.begin()
        yield world
        await world.end()


@asynccontextmanager
async def a_sink(authority: Authority, answer: Handler) -> AsyncIterator[HttpsServer]:
    async with HttpsServer(authority.server(SINK)) as server:
        server.answers["/tlsrpt"] = answer
        yield server


def url(server: HttpsServer) -> str:
    return f"https://{SINK}:{server.port}/tlsrpt"


def report_in(file: bytes) -> dict[str, Any]:
    """Return the report in a mail."""
    mail = message_from_bytes(file)
    attached = [part for part in mail.walk() if part.get_content_type() == "application/tlsrpt+gzip"]
    payload = attached[0].get_payload(decode=True)
    assert isinstance(payload, bytes)
    return opened(payload)


def opened(content: bytes) -> dict[str, Any]:
    """Return a report that came by POST."""
    report: dict[str, Any] = json.loads(gzip.decompress(content))
    check(report)
    return report


# counting


async def test_sessions_are_written_down_each_minute(world: World) -> None:
    await world.rounds()
    world.reporter.session(GOOD)
    await world.rounds()
    assert await world.store.counted() == []

    world.now += WRITE
    await world.rounds()
    (kept,) = await world.store.counted()
    assert (kept.day, kept.domain) == (DAY, DOMAIN)


async def test_what_was_counted_last_is_written_down_at_the_end(world: World) -> None:
    world.reporter.session(GOOD)
    await world.end()
    await world.begin()

    assert len(await world.store.counted()) == 1


async def test_counts_of_several_starts_add_up(world: World) -> None:
    world.wanted("mailto:tls@sink.test")
    for _ in range(3):
        await world.counted(GOOD, BAD)
        await world.end()
        await world.begin()
    await world.next_day()

    ((_, file),) = await world.queued()
    (policy,) = report_in(file)["policies"]
    assert policy["summary"] == {"total-successful-session-count": 3, "total-failure-session-count": 3}


async def test_what_is_switched_off_counts_nothing(world: World) -> None:
    world.reporter.reload(None)
    await world.counted(GOOD)

    assert await world.store.counted() == []
    assert not (world.root / NAME).exists()


async def test_while_it_cannot_be_written_it_is_counted_in_memory(world: World) -> None:
    (world.root / NAME).mkdir()
    for _ in range(3):
        with pytest.raises(QueueError):
            await world.counted(GOOD)
    (world.root / NAME).rmdir()
    await world.counted(GOOD)

    world.wanted("mailto:tls@sink.test")
    await world.next_day()
    ((_, file),) = await world.queued()
    assert report_in(file)["policies"][0]["summary"]["total-successful-session-count"] == 4


async def test_what_is_being_written_when_it_stops_counts_once(world: World) -> None:
    world.store.gate = asyncio.Event()
    world.reporter.session(GOOD)
    task = asyncio.create_task(world.reporter.round())
    await world.store.added.wait()
    task.cancel()
    await asyncio.sleep(0)
    world.store.gate.set()
    with suppress(asyncio.CancelledError):
        await task
    await world.end()
    await world.begin()

    (kept,) = await world.store.counted()
    assert Tally.unpacked(kept.tally).sessions == 1


# making


async def test_after_the_day_a_report_goes_by_mail_to_who_asked(world: World) -> None:
    world.wanted("mailto:tls@sink.test")
    await world.counted(GOOD, GOOD, BAD)
    await world.next_day()

    ((listed, file),) = await world.queued()
    assert [str(one.address) for one in listed.message.envelope.recipients] == ["tls@sink.test"]
    assert str(listed.message.envelope.reverse_path) == "postmaster@sender.test"
    assert listed.message.envelope.tls is TlsWish.OPTIONAL
    assert [message.id for message in world.arrived] == [listed.message.id]
    assert report_in(file) == {
        "organization-name": "Sender",
        "date-range": {"start-datetime": "2026-11-26T00:00:00Z", "end-datetime": "2026-11-26T23:59:59Z"},
        "contact-info": "tls@sender.test",
        "report-id": "2026-11-26.example.test@relay.sender.test",
        "policies": [
            {
                "policy": {"policy-type": "no-policy-found", "policy-domain": DOMAIN},
                "summary": {"total-successful-session-count": 2, "total-failure-session-count": 1},
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "192.0.2.9",
                        "receiving-mx-hostname": "mx.example.test",
                        "receiving-ip": "192.0.2.1",
                        "failed-session-count": 1,
                        "failure-reason-code": "expired",
                    }
                ],
            }
        ],
    }
    assert world.reported == [
        TlsReported(domain=DOMAIN, day=DAY, to="mailto:tls@sink.test", sessions=3, failed=1, id=listed.message.id)
    ]


async def test_a_report_goes_by_post_to_who_asked(world: World, authority: Authority) -> None:
    async with a_sink(authority, answering(201)) as sink:
        world.wanted(url(sink))
        await world.counted(replace(BAD, source=Source.MTA_STS))
        await world.next_day()

        (request,) = sink.requests
        assert (request.method, request.headers["Content-Type"]) == ("POST", "application/tlsrpt+gzip")
        (policy,) = opened(request.body)["policies"]
        assert policy["policy"]["policy-string"] == list(STS)
        assert policy["policy"]["mx-host"] == ["mx.example.test"]
        await world.rounds()
        assert len(sink.requests) == 1
        assert [(event.to, event.id) for event in world.reported] == [(url(sink), "")]


async def test_each_place_that_is_named_gets_it(world: World, authority: Authority) -> None:
    async with a_sink(authority, answering(200)) as sink:
        world.wanted("mailto:a@sink.test", url(sink), "mailto:b@sink.test")
        await world.counted(GOOD)
        await world.next_day()

        queued = await world.queued()
        assert {str(listed.message.envelope.recipients[0].address) for listed, _ in queued} == {
            "a@sink.test",
            "b@sink.test",
        }
        assert {report_in(file)["report-id"] for _, file in queued} == {opened(sink.requests[0].body)["report-id"]}


@pytest.mark.parametrize(("chance", "hours"), [(0.0, 0), (0.5, 2), (1.0, 4)])
async def test_it_waits_for_a_while_that_is_drawn(world: World, chance: float, hours: int) -> None:
    world.wanted("mailto:tls@sink.test")
    world.chance = chance
    await world.counted(GOOD)
    await world.next_day(hours=0)
    world.chance = 0.99  # drawn once
    if hours:
        await world.next_day(hours=hours - 0.01)
        assert await world.queued() == []
    await world.next_day(hours=hours)

    assert len(await world.queued()) == 1


@pytest.mark.parametrize("records", [(), ("v=spf1 -all",), ("v=TLSRPTv1; rua=mailto:a@b.test",) * 2])
async def test_who_does_not_ask_gets_nothing_and_is_not_asked_again(world: World, records: tuple[str, ...]) -> None:
    if records:
        world.dns.txt(f"_smtp._tls.{DOMAIN}", *(f"{text}{'' if n else ' '}" for n, text in enumerate(records)))
    await world.counted(GOOD)
    await world.next_day()
    world.wanted("mailto:tls@sink.test")
    await world.next_day(hours=20)

    assert await world.queued() == []
    assert await world.store.counted() == []


async def test_where_nobody_can_say_it_is_asked_again_for_a_day(world: World) -> None:
    world.dns.servfail(f"_smtp._tls.{DOMAIN}")
    await world.counted(GOOD)
    await world.next_day()
    assert len(await world.store.counted()) == 1

    world.dns.faults.clear()
    world.wanted("mailto:tls@sink.test")
    await world.next_day(hours=4.2)
    assert len(await world.queued()) == 1


async def test_after_a_day_of_that_it_is_given_up(world: World) -> None:
    world.dns.servfail(f"_smtp._tls.{DOMAIN}")
    await world.counted(GOOD)
    for hours in range(4, 40):
        await world.next_day(hours=hours)

    assert await world.store.counted() == []
    assert await world.store.next_due() is None


async def test_reports_are_signed_with_the_key_and_else_the_operator_is_told_once(world: World) -> None:
    world.wanted("mailto:tls@sink.test")
    world.wanted("mailto:tls@sink.test", domain="other.test")
    await world.counted(GOOD, replace(GOOD, domains=("other.test",)))
    await world.next_day()
    assert [event.about for event in world.told if isinstance(event, Warned)] == ["tls.report.dkim_key_file"]
    assert not any(b"DKIM-Signature" in file for _, file in await world.queued())

    world.reporter.reload(replace(SETTINGS, dkim=dkim_key()))
    await world.counted(GOOD)
    world.now += timedelta(days=1)
    await world.rounds()
    assert sum(b"\r\nDKIM-Signature: v=1;" in file for _, file in await world.queued()) == 1


async def test_a_report_that_cannot_be_made_stops_no_other(world: World) -> None:
    world.wanted("mailto:tls@sink.test")
    world.wanted("mailto:tls@sink.test", domain="other.test")
    await world.counted(GOOD, replace(GOOD, domains=("other.test",)))
    await world.store.add({(DAY, DOMAIN): lambda kept: "nonsense"})
    await world.next_day()

    assert len(await world.queued()) == 1
    assert [event.part for event in world.told if isinstance(event, Trouble)] == ["tls-reports"]
    assert await world.store.next_due() is None


async def test_days_that_were_missed_are_reported_for_three_days(world: World) -> None:
    world.wanted("mailto:tls@sink.test")
    world.wanted("mailto:tls@sink.test", domain="other.test")
    await world.counted(GOOD)
    world.now += timedelta(days=1)
    world.reporter.session(replace(GOOD, domains=("other.test",)))
    await world.end()
    world.now = datetime(2026, 11, 30, 4, tzinfo=UTC)  # the 26th ended three days and four hours ago
    await world.begin()
    await world.rounds()

    ((_, file),) = await world.queued()
    assert report_in(file)["report-id"] == "2026-11-27.other.test@relay.sender.test"
    (warned,) = [event for event in world.told if isinstance(event, Warned) and event.about == "tls.report"]
    assert warned.detail.startswith("1 reports on TLS were not sent")


# handing over


@pytest.mark.parametrize("answer", [answering(500), answering(404), answering(302, Location="/x"), hanging_up])
async def test_a_post_that_fails_is_tried_again_later_with_the_same_octets(
    world: World, authority: Authority, answer: Handler
) -> None:
    async with a_sink(authority, answer) as sink:
        world.wanted(url(sink))
        await world.counted(GOOD)
        await world.next_day()
        assert (len(sink.requests), world.reported) == (1, [])

        await world.next_day(hours=4.05)
        assert len(sink.requests) == 1, "not at once"
        sink.answers["/tlsrpt"] = answering(200)
        await world.next_day(hours=4.1)
        first, second = sink.requests
        assert first.body == second.body
        assert [event.trouble for event in world.reported] == [""]


async def test_after_a_day_a_post_is_given_up_and_told_of(world: World, authority: Authority) -> None:
    async with a_sink(authority, answering(503)) as sink:
        world.wanted(url(sink))
        await world.counted(GOOD)
        for hours in range(4, 30):
            await world.next_day(hours=hours)

        assert 6 <= len(sink.requests) <= 14
        assert [event.trouble for event in world.reported] == ["the answer was 503"]
        assert await world.store.next_due() is None


async def test_a_server_that_does_not_prove_its_name_gets_nothing(world: World, authority: Authority) -> None:
    async with HttpsServer(authority.server("other.test")) as sink:
        world.wanted(url(sink))
        await world.counted(GOOD)
        await world.next_day()

        assert sink.requests == []
        assert len(await world.store.owed()) == 1


async def test_a_queue_that_takes_nothing_now_gets_it_later(world: World) -> None:
    world.wanted("mailto:tls@sink.test")
    await world.counted(GOOD)
    queue = world.root / "queue"
    queue.rename(world.root / "elsewhere")
    queue.write_bytes(b"")
    with pytest.raises(QueueError):
        await world.next_day()
    queue.unlink()
    (world.root / "elsewhere").rename(queue)
    await world.next_day()

    assert len(await world.queued()) == 1
    assert len(world.reported) == 1


async def test_a_report_that_was_damaged_since_stops_no_other(world: World) -> None:
    world.wanted("mailto:tls@sink.test")
    world.wanted("mailto:tls@sink.test", domain="other.test")
    await world.counted(GOOD, replace(GOOD, domains=("other.test",)))
    world.store.dies("made", done=True)
    with suppress(Died):
        await world.next_day()
    world.store.dies("", done=False)
    with closing(sqlite3.connect(world.root / NAME)) as connection, connection:
        connection.execute("UPDATE owed SET content = x'00' WHERE domain = 'other.test'")
    await world.rounds()

    assert len(await world.queued()) == 1
    assert {event.domain: event.trouble for event in world.reported} == {
        DOMAIN: "",
        "other.test": "not the mail of a report",
    }


# crashes


@pytest.mark.parametrize("last", ["", "made", "handed_over"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
async def test_a_crash_at_any_step_sends_one_mail_and_at_most_one_more_post(
    world: World, authority: Authority, last: str, done: bool
) -> None:
    async with a_sink(authority, answering(200)) as sink:
        world.wanted("mailto:tls@sink.test", url(sink))
        await world.counted(GOOD, BAD)
        world.store.dies(last, done=done)
        with suppress(Died):
            await world.next_day()
        await world.die()
        await world.begin()
        await world.rounds()
        await world.rounds()

        ((_, file),) = await world.queued()
        posted = [request.body for request in sink.requests]
        assert len(posted) == (2 if (last, done) == ("handed_over", False) else 1)
        assert len(set(posted)) == 1
        assert report_in(file) == opened(posted[0])
        assert await world.store.next_due() is None


async def test_a_mail_that_has_left_already_is_not_queued_again(world: World) -> None:
    world.wanted("mailto:tls@sink.test")
    await world.counted(GOOD)
    world.store.dies("handed_over", done=False)
    with suppress(Died):
        await world.next_day()
    claimed = await world.spool.queue.claim(["sink.test"], 10, world.now, until=world.now + timedelta(minutes=1))
    await world.spool.queue.settle([settled(each, Status.DELIVERED, at=world.now) for each in claimed])
    await world.spool.sweep(world.now)
    await world.die()
    await world.begin()
    await world.rounds()

    assert await world.queued() == []
    assert len(world.arrived) == 1
    assert not world.spool.bodies.exists(world.arrived[0].id)
    assert await world.store.owed() == []
    assert len(world.reported) == 1


async def test_a_mail_whose_body_only_was_written_is_queued_once(world: World) -> None:
    """Its orphan is found at the start, too: the same octets, by the same id."""
    world.wanted("mailto:tls@sink.test")
    await world.counted(GOOD)
    world.store.dies("made", done=True)
    with suppress(Died):
        await world.next_day()
    (owed,) = await world.store.owed()
    world.spool.bodies.write(owed.id, owed.content)
    await world.die()
    await world.begin()
    ((orphan, path),) = [each async for found in world.spool.orphans() for each in found]
    await world.spool.adopt(an_examiner().examine(reading(path.read_bytes()), orphan))
    await world.rounds()

    ((listed, file),) = await world.queued()
    assert (listed.message.id, file) == (owed.id, owed.content)
    assert await world.store.owed() == []


async def test_a_clock_that_is_set_back_makes_no_second_report(world: World) -> None:
    world.wanted("mailto:tls@sink.test")
    await world.counted(GOOD)
    await world.next_day()
    world.now = NOON
    await world.counted(GOOD)
    await world.next_day(hours=5)

    assert len(await world.queued()) == 1
