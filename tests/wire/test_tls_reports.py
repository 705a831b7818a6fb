"""Reports on TLS (RFC 8460), by the daemon as a process, to a real SMTP server and a real HTTPS server.

Its wall clock is the test's: it runs on a day that is past, so that the day after it has passed as well.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.message import Message
from pathlib import Path
from typing import Any

import dkim
import pytest
from aiohttp import web

from tests.report.keys import SELECTOR, dns_of, pem
from tests.report.schema import check
from tests.support.https import HttpsServer, answering
from tests.support.process import Daemon
from tests.support.smtp import Authority
from tests.support.wall import WallClock, needs_compiler
from tests.support.world import Exchanger, World, octets, wait_until, with_and_without_workers
from tests.wire.test_tls import trusting

pytestmark = needs_compiler

DAY = (datetime.now(UTC) - timedelta(days=5)).date()
DOMAIN, SINK = "example.test", "sink.test"
ID = f"{DAY.isoformat()}.{DOMAIN}@relay.test"


class Sinks:
    """Who is reported on, and who gets the reports."""

    def __init__(self, world: World, https: HttpsServer, environment: dict[str, str], wall: WallClock) -> None:
        self.world = world
        self.https = https
        self.wall = wall
        self.environment = environment | wall.environment
        self.mx: Exchanger = world.exchanger("mx.example.test")
        self.mail: Exchanger = world.exchanger("mx.sink.test")
        world.domain(DOMAIN, self.mx)
        world.domain(SINK, self.mail)
        world.dns.a("www.sink.test", "127.0.0.1")
        self.places = [f"mailto:tls@{SINK}", f"https://www.sink.test:{https.port}/tlsrpt"]
        for domain in (DOMAIN, SINK):
            world.dns.txt(f"_smtp._tls.{domain}", f"v=TLSRPTv1; rua={','.join(self.places)}")
        key = world.directory / "dkim.pem"
        key.write_bytes(pem())
        key.chmod(0o400)
        self.configure(dkim_key_file="dkim.pem", dkim_selector=SELECTOR, organization="Relay, Inc.")

    def configure(self, **report: Any) -> None:
        """Write the configuration, with this [tls.report]."""
        self.world.configure(**{"tls.report": report})

    def turn(self, days: int, hour: float) -> None:
        """Let it be that hour of so many days after DAY."""
        at = datetime.combine(DAY, datetime.min.time(), UTC) + timedelta(days=days, hours=hour)
        self.wall.turn(at - datetime.now(UTC))

    def daemon(self) -> Daemon:
        return self.world.daemon(environment=self.environment)

    def relaying(self) -> Any:
        return self.world.relaying(environment=self.environment)

    def send(self, count: int = 1) -> None:
        """Have mail delivered to the domain, one message after the other, each by a connection of its own."""
        for _ in range(count):
            before = len(self.mx.taken)
            self.world.send(f"bob@{DOMAIN}")
            wait_until(lambda before=before: len(self.mx.taken) > before, "the mail")  # type: ignore[misc]

    @property
    def owed(self) -> list[Any]:
        """What is still to be made or handed over."""
        said = json.loads(self.world.command("tls-report", "--day", DAY.isoformat(), "--json").stdout)
        return [*said["counted"], *said["owed"]]

    @property
    def posted(self) -> list[dict[str, Any]]:
        return [json.loads(gzip.decompress(request.body)) for request in self.https.requests]

    @property
    def mailed(self) -> list[dict[str, Any]]:
        return [report_in(mail) for mail in self.mail.messages]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def sinks(world: World, authority: Authority, tmp_path: Path) -> Iterator[Sinks]:
    with _serving(world, HttpsServer(authority.server("www.sink.test"))) as https:
        https.answers["/tlsrpt"] = answering(200)
        yield Sinks(world, https, trusting(authority.pem, tmp_path), WallClock(tmp_path))


@contextmanager
def _serving(world: World, server: HttpsServer) -> Iterator[HttpsServer]:
    world.run(server.__aenter__())
    try:
        yield server
    finally:
        world.run(server.__aexit__(None, None, None))


def report_in(mail: Message) -> dict[str, Any]:
    (part,) = [part for part in mail.walk() if part.get_content_type() == "application/tlsrpt+gzip"]
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    report: dict[str, Any] = json.loads(gzip.decompress(payload))
    return report


@with_and_without_workers
def test_a_day_of_mail_is_reported_to_all_who_asked(sinks: Sinks) -> None:
    sinks.turn(0, 12)
    with sinks.relaying():
        sinks.send(3)
    sinks.turn(1, 4.5)
    with sinks.relaying() as daemon:
        daemon.logged(rf"event=tls-reported .*domain={DOMAIN} .*to=https:")
        wait_until(lambda: sinks.mail.taken, "the mail")

    (report,) = sinks.posted
    assert sinks.mailed == [report]
    check(report)
    assert (report["report-id"], report["organization-name"]) == (ID, "Relay, Inc.")
    assert report["date-range"] == {
        "start-datetime": f"{DAY.isoformat()}T00:00:00Z",
        "end-datetime": f"{DAY.isoformat()}T23:59:59Z",
    }
    (policy,) = report["policies"]
    assert policy["policy"] == {"policy-type": "no-policy-found", "policy-domain": DOMAIN}
    assert policy["summary"]["total-successful-session-count"] == 0
    (failure,) = policy["failure-details"]
    assert failure["result-type"] == "starttls-not-supported"
    assert failure["receiving-mx-hostname"] == "mx.example.test"
    assert failure["receiving-ip"] == sinks.mx.address
    assert 1 <= failure["failed-session-count"] <= 3

    (envelope,) = sinks.mail.taken
    assert envelope.mail_from == "postmaster@relay.test"
    (mail,) = sinks.mail.messages
    assert mail["TLS-Report-Domain"] == DOMAIN
    assert mail["TLS-Report-Submitter"] == "relay.test"
    content = octets(envelope)
    assert dkim.verify(content[content.index(b"DKIM-Signature:") :], dnsfunc=dns_of("relay.test"), tlsrpt="strict")
    (request,) = sinks.https.requests
    assert request.headers["Content-Type"] == "application/tlsrpt+gzip"
    assert "event=trouble" not in daemon.log


def test_no_report_causes_another(sinks: Sinks) -> None:
    """The domain that a report goes to by mail asks for reports, too: of that mail there is nothing to tell."""
    for day in range(3):
        sinks.turn(day, 5)
        with sinks.relaying():
            sinks.send()
            wait_until(lambda day=day: len(sinks.posted) == len(sinks.mailed) == day, "the reports")  # type: ignore[misc]

    assert {report["policies"][0]["policy"]["policy-domain"] for report in sinks.posted} == {DOMAIN}


def test_a_day_ends_while_the_daemon_runs(sinks: Sinks) -> None:
    sinks.world.dns.txt(f"_smtp._tls.{DOMAIN}", f"v=TLSRPTv1; rua={sinks.places[1]}")
    sinks.turn(0, 12)
    with sinks.relaying() as daemon:
        sinks.send()
        sinks.turn(1, 4.5)
        daemon.logged(r"event=tls-reported .*to=https:")

    assert [report["report-id"] for report in sinks.posted] == [ID]


def test_what_was_counted_survives_a_stop_and_is_reported_after_it(sinks: Sinks) -> None:
    sinks.turn(0, 12)
    with sinks.relaying():
        sinks.send()
    sinks.turn(2, 4.5)  # nobody ran at the time
    with sinks.relaying():
        wait_until(lambda: sinks.posted and sinks.mailed, "the reports")

    assert [report["report-id"] for report in sinks.posted + sinks.mailed] == [ID, ID]


def test_what_is_switched_off_counts_nothing_and_sends_nothing(sinks: Sinks) -> None:
    sinks.configure(enabled=False)
    sinks.turn(0, 12)
    with sinks.relaying() as daemon:
        sinks.send()
        sinks.turn(1, 4.5)
        sinks.send()
    assert not (sinks.world.spool / "tlsrpt.db").exists()
    assert "event=tls-reported" not in daemon.log


def test_a_run_from_cron_reports_too(sinks: Sinks) -> None:
    sinks.turn(0, 12)
    sinks.world.send(f"bob@{DOMAIN}")
    for days, hour in ((0, 12.5), (1, 4.5)):
        sinks.turn(days, hour)
        with sinks.world.daemon("--once", environment=sinks.environment) as daemon:
            assert daemon.wait() == 0, daemon.log

    assert [report["report-id"] for report in sinks.posted + sinks.mailed] == [ID, ID]


def test_the_command_shows_what_is_counted_beside_the_daemon(sinks: Sinks) -> None:
    sinks.turn(0, 12)
    with sinks.relaying():
        sinks.send()
    said = sinks.world.command("tls-report", DOMAIN, "--json")

    assert said.returncode == 0, said.stderr
    (counted,) = json.loads(said.stdout)["counted"]
    check(counted["report"])
    assert counted["report"]["report-id"] == ID


# killed


# How often the same report may be posted: a kill behind the answer, or while the mail leaves, comes before or after the
# note that it was taken.
POSTS = {"look-up": {1}, "post": {2}, "posted": {1, 2}, "mail": {1, 2}}


@pytest.mark.parametrize("when", POSTS)
def test_a_daemon_that_is_killed_on_the_way_sends_one_mail_and_at_most_one_more_post(sinks: Sinks, when: str) -> None:
    sinks.turn(0, 12)
    with sinks.relaying():
        sinks.send()
    sinks.turn(1, 4.5)
    daemon = sinks.daemon()
    kill_at(when, sinks, daemon.kill)
    with daemon:
        wait_until(lambda: not daemon.running, "its death")
    with sinks.relaying() as again:
        wait_until(lambda: sinks.posted and sinks.mailed, "the reports")
        wait_until(lambda: sinks.world.queue() == [] and sinks.owed == [], "nothing left to do")

    copies = Counter(report["report-id"] for report in sinks.posted)
    assert copies.keys() == {ID}
    assert copies[ID] in POSTS[when]
    assert len({request.body for request in sinks.https.requests}) == 1
    # The mail itself is the queue's: one whose end had left may come twice, marked (RFC 1047).
    # It leaves beside the post, so any kill may find it there.
    assert len(sinks.mailed) == 1 or "possible-duplicate" in again.log
    assert {mail["Message-ID"] for mail in sinks.mail.messages} == {sinks.mail.messages[0]["Message-ID"]}


def kill_at(when: str, sinks: Sinks, kill: Callable[[], None]) -> None:
    """Let the daemon be killed once, when it asks for the record, when a report comes, when it was taken."""
    killed: list[str] = []

    def once() -> None:
        if not killed:
            killed.append(when)
            kill()

    async def answer(request: web.Request) -> web.StreamResponse:
        if when == "post":
            once()
        response = web.Response(status=200)
        await response.prepare(request)
        await response.write_eof()
        if when == "posted":
            once()
        return response

    def on_data(envelope: object, _: str) -> str:
        if when == "mail":
            once()
        return "250 2.0.0 taken"

    sinks.https.answers["/tlsrpt"] = answer
    sinks.mail.on_data = on_data
    if when == "look-up":
        sinks.world.dns.flap(f"_smtp._tls.{DOMAIN}", once)
