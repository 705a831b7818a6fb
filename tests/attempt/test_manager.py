"""relayd.attempt.manager, and with it the notifier: reports in, settlements and notifications out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from relayd.attempt.manager import AttemptManager
from relayd.attempt.retry import MARGIN, SPREAD
from relayd.attempt.settings import Bounds, RetrySettings
from relayd.mail.address import Address
from relayd.mail.back_off import BackOff
from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.errors import QueueError
from relayd.mail.events import (
    Attempted,
    Degraded,
    Event,
    Notified,
    Restored,
    SiteBackedOff,
    SiteRecovered,
    Trouble,
    Warned,
)
from relayd.mail.message import Body
from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.recipient import Status
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.settlement import Action
from relayd.mail.tls import Evidence, Proof
from tests.attempt.situations import (
    GREYLISTED,
    HOSTNAME,
    MINUTE,
    NO_SUCH_USER,
    NOT_NOW,
    NOW,
    QUEUED,
    REFUSED,
    MemoryLedger,
    MemoryNotifications,
    a_delivery,
    a_notice,
    a_recipient,
    an_attempt,
    until,
)

VERIFIED = Evidence(version="1.3", cipher="TLS_AES_256_GCM_SHA384", proof=Proof.PKIX)

SITE = "mx1.example.net:25"
QUICK = Bounds(offer_again=timedelta(milliseconds=2), offer_again_max=timedelta(milliseconds=10), sweep=2)


class Bench:
    """A manager over a ledger and a store in memory, with a clock that stands still until moved."""

    def __init__(
        self,
        ledger: MemoryLedger | None = None,
        lost_within: Callable[[timedelta], timedelta] = lambda span: timedelta(0),
        bounds: Bounds = QUICK,
    ) -> None:
        self.ledger = ledger or MemoryLedger()
        self.store = MemoryNotifications(self.ledger)
        self.events: list[Event] = []
        self.now = NOW
        self.retries: list[datetime] = []
        self.forgotten: list[str] = []
        self.manager = AttemptManager(
            RetrySettings(),
            HOSTNAME,
            ledger=self.ledger,
            notifications=self.store,
            clock=lambda: self.now,
            jitter=lambda: 1.0,
            events=self.events.append,
            retry_due=self.retries.append,
            site_forgotten=self.forgotten.append,
            lost_within=lost_within,
            bounds=bounds,
        )

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    async def idle(self) -> None:
        await until(lambda: not self.manager.busy)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    bench.manager.start()
    yield bench
    bench.ledger.trouble = bench.store.trouble = None
    await bench.manager.close()


async def test_a_report_resolves_when_it_is_durable(bench: Bench) -> None:
    await bench.manager.report(an_attempt(a_delivery(), QUEUED, tls=VERIFIED, seconds=0.5))

    assert bench.ledger.settled[0].recipients[0].status is Status.DELIVERED
    (event,) = bench.told(Attempted)
    assert isinstance(event, Attempted)
    assert (event.tls, event.seconds, event.age) == (VERIFIED, 0.5, 0.0)


async def test_a_refused_recipient_comes_back_as_one_bounce(bench: Bench) -> None:
    delivery = a_delivery(a_recipient(0), a_recipient(1), a_recipient(2))

    await bench.manager.report(an_attempt(delivery, QUEUED, NO_SUCH_USER, NO_SUCH_USER))
    await bench.idle()

    ((message, content),) = bench.store.added
    assert message.notification
    assert b"r1@example.net" in content
    assert b"r0@example.net" not in content
    assert bench.told(Notified) == [Notified(id=message.id, action=Action.FAILED, message_id=delivery.id, recipients=2)]


async def test_a_bounce_returns_the_originals_header(bench: Bench) -> None:
    original = b"Subject: hello\r\n\r\nbody\r\n"
    body = Body(size=len(original), wire_size=len(original), header_end=18)
    delivery = replace(a_delivery(), body=body)
    bench.store.originals[delivery.id] = original

    await bench.manager.report(an_attempt(delivery, NO_SUCH_USER))
    await bench.idle()

    ((_, content),) = bench.store.added
    assert b"\r\n\r\nSubject: hello\r\n" in content
    assert b"body\r\n" not in content


async def test_recipients_that_fail_while_a_bounce_is_made_get_one_of_their_own(bench: Bench) -> None:
    delivery = a_delivery(a_recipient(0))
    bench.store.gate.clear()
    await bench.manager.report(an_attempt(delivery, NO_SUCH_USER))
    await until(lambda: bench.store.waiting == 1)

    await bench.manager.report(an_attempt(replace(delivery, recipients=(a_recipient(1),)), NO_SUCH_USER))
    bench.store.gate.set()
    await bench.idle()

    assert [content.count(b"Final-Recipient") for _, content in bench.store.added] == [1, 1]
    assert b"r1@example.net" in bench.store.added[1][1]


async def test_debts_of_an_earlier_start_are_paid_at_the_start() -> None:
    ledger = MemoryLedger()
    notices = [replace(a_notice(), id=f"{number:020}") for number in range(120)]
    ledger.debts = {notice.id: notice for notice in notices}
    bench = Bench(ledger)

    bench.manager.start()
    await bench.idle()
    await bench.manager.close()

    assert [message.id for message, _ in bench.store.added] == [notice.id for notice in notices]
    assert ledger.debts == {}


async def test_a_notification_that_cannot_be_stored_is_made_again(bench: Bench) -> None:
    bench.store.trouble = OSError(28, "No space left on device")
    await bench.manager.report(an_attempt(a_delivery(), NO_SUCH_USER))
    await until(lambda: bool(bench.told(Degraded)))
    assert bench.manager.busy

    bench.store.trouble = None
    await bench.idle()

    assert len(bench.store.added) == 1
    assert len(bench.told(Degraded)) == len(bench.told(Restored)) == 1


async def test_an_original_that_stays_unreadable_does_not_keep_its_bounce(bench: Bench) -> None:
    bench.store.unreadable = OSError(5, "Input/output error")

    await bench.manager.report(an_attempt(a_delivery(), NO_SUCH_USER))
    await bench.idle()

    assert len(bench.store.added) == 1
    assert bench.store.reads == QUICK.unreadable


async def test_one_notification_that_cannot_be_made_does_not_keep_the_others() -> None:
    ledger = MemoryLedger()
    bad, good = replace(a_notice(), id="-not-an-id"), a_notice()
    ledger.debts = {bad.id: bad, good.id: good}
    bench = Bench(ledger)

    bench.manager.start()
    await until(lambda: len(bench.store.added) == 1)
    await bench.manager.close()

    assert bench.told(Trouble)
    assert list(ledger.debts) == [bad.id]


async def test_a_warning_is_not_sent_of_what_has_gone_through_meanwhile(bench: Bench) -> None:
    done = a_recipient(status=Status.DELIVERED)
    untrue = a_notice(action=Action.DELAYED, recipients=(done,))
    partly = replace(a_notice(action=Action.DELAYED, recipients=(done, a_recipient(1))), id=f"{0:020}")
    bench.ledger.to_warn = [[untrue, partly]]

    await bench.manager.sweep(NOW)
    await bench.idle()

    ((message, content),) = bench.store.added
    assert message.id == partly.id
    assert content.count(b"Final-Recipient") == 1
    assert bench.ledger.debts == {}


async def test_a_dead_site_backs_off_and_what_was_tried_waits_for_it(bench: Bench) -> None:
    undone = [a_delivery(), a_delivery(a_recipient(0), a_recipient(1))]

    retry_at = await bench.manager.site_failed(SITE, REFUSED, undone, peer="")

    assert retry_at == NOW + MINUTE
    assert bench.ledger.sites == {
        SITE: BackOff(
            site=SITE,
            failures=1,
            retry_at=retry_at,
            since=NOW,
            reply="mx1.example.net: connection refused",
            dsn="4.4.1",
        )
    }
    assert bench.retries == [retry_at]
    recipients = [recipient for settlement in bench.ledger.settled for recipient in settlement.recipients]
    assert [(r.status, r.due, r.attempts) for r in recipients] == [(Status.DEFERRED, retry_at, 0)] * 3
    assert bench.told(SiteBackedOff) == [
        SiteBackedOff(site=SITE, failures=1, retry_at=retry_at, reason="mx1.example.net: connection refused")
    ]


async def failed(bench: Bench, failure: Deferred = REFUSED, site: str = SITE) -> datetime:
    retry_at = await bench.manager.site_failed(site, failure, [])
    assert retry_at is not None
    return retry_at


async def test_so_many_sites_back_off_and_the_mail_of_others_waits_one_by_one() -> None:
    bench = Bench(bounds=replace(QUICK, sites=4))
    bench.manager.start()
    for number in range(4):
        await failed(bench, site=f"mx{number}")

    assert await bench.manager.site_failed(SITE, REFUSED, [a_delivery()]) is None
    assert await bench.manager.site_failed("another", REFUSED, []) is None

    assert SITE not in bench.ledger.sites
    (recipient,) = bench.ledger.settled[0].recipients
    assert (recipient.status, recipient.attempts) == (Status.DEFERRED, 1)
    assert [event.about for event in bench.events if isinstance(event, Warned)] == ["sites"]
    assert await bench.manager.site_failed("mx1", REFUSED, []) is not None
    for number in range(3):
        await bench.manager.site_recovered(f"mx{number}")
    assert await bench.manager.site_failed(SITE, REFUSED, []) is not None
    await bench.manager.close()


async def test_a_site_that_stays_dead_backs_off_longer_each_time(bench: Bench) -> None:
    delays = []
    for _ in range(4):
        retry_at = await failed(bench)
        delays.append((retry_at - bench.now) / MINUTE)
        bench.now = retry_at

    assert delays == [1, 2, 4, 8]
    assert bench.ledger.sites[SITE].since == NOW


async def test_a_site_that_greylists_whoever_connects_gets_the_time_that_it_asks_for(bench: Bench) -> None:
    reply = Reply(421, "greylisted, come back in 10 minutes")

    retry_at = await bench.manager.site_failed(SITE, Deferred(reply, Scope.HOST), [a_delivery()])

    assert retry_at == NOW + 10 * MINUTE + MARGIN + SPREAD
    assert bench.ledger.settled[0].recipients[0].due == retry_at


async def test_relayers_that_fail_together_count_as_one_failure(bench: Bench) -> None:
    times = await asyncio.gather(*(bench.manager.site_failed(SITE, REFUSED, [a_delivery()]) for _ in range(20)))

    assert set(times) == {NOW + MINUTE}
    assert len(bench.told(SiteBackedOff)) == 1
    assert len(bench.ledger.settled) == 20


async def test_a_site_that_recovers_starts_anew(bench: Bench) -> None:
    bench.now = await failed(bench)

    await bench.manager.site_recovered(SITE)
    await bench.manager.site_recovered(SITE)

    assert bench.ledger.sites == {}
    assert bench.told(SiteRecovered) == [SiteRecovered(site=SITE)]
    assert await bench.manager.site_failed(SITE, REFUSED, []) == bench.now + MINUTE


async def test_failures_of_an_earlier_start_go_on_counting(bench: Bench) -> None:
    bench.manager.restore(BackOff(site=SITE, failures=3, retry_at=NOW - MINUTE, since=NOW - 10 * MINUTE))

    assert await bench.manager.site_failed(SITE, REFUSED, []) == NOW + 8 * MINUTE


async def test_a_back_off_that_cannot_be_recorded_holds_all_the_same(bench: Bench) -> None:
    bench.ledger.trouble = QueueError("disk full")

    retry_at = await bench.manager.site_failed(SITE, REFUSED, [])

    assert retry_at == NOW + MINUTE
    assert bench.told(Degraded)


async def test_a_site_that_nobody_has_tried_for_a_lifetime_is_forgotten(bench: Bench) -> None:
    await bench.manager.site_failed(SITE, REFUSED, [])

    await bench.manager.sweep(NOW + timedelta(days=6))

    assert bench.ledger.sites == {}
    assert bench.forgotten == [SITE]


async def test_a_site_that_recovers_while_another_is_forgotten_stops_nothing() -> None:
    """Found by simulation, seed 7409470428."""

    class Recovering(MemoryLedger):
        async def back_off(self, back_off: BackOff) -> None:
            await super().back_off(back_off)
            if back_off.site == SITE and not back_off.failures:
                await sweeping.manager.site_recovered("other")

    sweeping = Bench(Recovering())
    for site in (SITE, "other", "third"):
        await sweeping.manager.site_failed(site, REFUSED, [])

    await sweeping.manager.sweep(NOW + timedelta(days=6))

    assert sweeping.ledger.sites == {}
    assert sweeping.forgotten == [SITE, "third"]
    await sweeping.manager.close()


async def test_what_has_no_route_bounces_or_waits(bench: Bench) -> None:
    nowhere = Failed(reason="no such domain: example.net", status=EnhancedStatus(5, 1, 2))

    await bench.manager.unroutable([a_delivery()], nowhere)
    await bench.manager.unroutable([a_delivery()], REFUSED)

    failed, deferred = (settlement.recipients[0] for settlement in bench.ledger.settled)
    assert (failed.status, failed.reply, failed.dsn) == (Status.FAILED, "no such domain: example.net", "5.1.2")
    assert (deferred.status, deferred.due) == (Status.DEFERRED, NOW + MINUTE)


async def test_a_sweep_fails_all_that_is_too_old_and_tells_its_senders(bench: Bench) -> None:
    old = NOW - timedelta(days=5)
    bench.ledger.old = [a_delivery(arrived=old) for _ in range(5)] + [a_delivery(arrived=old + MINUTE)]

    await bench.manager.sweep(NOW)
    await bench.idle()

    assert [settlement.recipients[0].dsn for settlement in bench.ledger.settled] == ["5.4.7"] * 5
    assert len(bench.store.added) == 5
    assert len(bench.ledger.old) == 1
    assert len(bench.told(Attempted)) == 5


async def test_a_sweep_fails_what_is_past_its_deadline_with_what_was_said_last(bench: Bench) -> None:
    tried = a_recipient(status=Status.DEFERRED, attempts=4, reply="451 4.3.0 not now", dsn="4.3.0")
    deadline = Deadline(at=NOW, mode=DeadlineMode.OWN)
    bench.ledger.old = [replace(a_delivery(tried, arrived=NOW - timedelta(days=6)), deadline=deadline)]

    await bench.manager.sweep(NOW)
    await bench.idle()

    (recipient,) = bench.ledger.settled[0].recipients
    assert (recipient.status, recipient.dsn, recipient.attempts) == (Status.FAILED, "5.4.7", 4)
    assert recipient.reply == "the deadline, 2026-11-22 07:20:00 UTC, passed; last reply: 451 4.3.0 not now"
    assert b"Status: 5.4.7\r\n" in bench.store.added[0][1]


async def test_a_sweep_warns_of_what_has_waited_four_hours(bench: Bench) -> None:
    waiting = a_recipient(status=Status.DEFERRED, reply="450 later", dsn="4.0.0")
    notices = [a_notice(action=Action.DELAYED, recipients=(waiting,), id=f"{n:020}") for n in range(3)]
    bench.ledger.to_warn = [notices[:1], notices[1:]]

    await bench.manager.sweep(NOW)
    await bench.idle()

    assert ("warn", NOW - timedelta(hours=4)) in bench.ledger.asked
    assert all(b"Action: delayed\r\n" in content for _, content in bench.store.added)
    assert len(bench.store.added) == 3


async def test_a_warning_promises_no_try_past_the_deadline(bench: Bench) -> None:
    deadline = Deadline(at=NOW + timedelta(hours=1), mode=DeadlineMode.RETURN)
    waiting = a_recipient(status=Status.DEFERRED, reply="450 later", dsn="4.0.0")
    bench.ledger.to_warn = [[a_notice(action=Action.DELAYED, recipients=(waiting,), deadline=deadline)]]

    await bench.manager.sweep(NOW)
    await bench.idle()

    ((_, content),) = bench.store.added
    assert b"Will-Retry-Until: Sun, 22 Nov 2026 08:20:00 +0000\r\n" in content


async def test_without_warn_after_nobody_is_warned_but_of_deadlines(bench: Bench) -> None:
    bench.manager.reload(replace(RetrySettings(), warn_after=timedelta()), HOSTNAME)

    await bench.manager.sweep(NOW)

    assert bench.ledger.asked == [("expire", NOW - timedelta(days=5)), ("warn", None)]


async def test_a_sweep_over_a_broken_queue_ends_and_the_next_one_works(bench: Bench) -> None:
    bench.ledger.old = [a_delivery(arrived=NOW - timedelta(days=6))]
    bench.ledger.trouble = QueueError("disk full")
    await bench.manager.sweep(NOW)
    assert bench.told(Degraded)

    bench.ledger.trouble = None
    await bench.manager.sweep(NOW)

    assert len(bench.ledger.settled) == 1
    assert bench.told(Restored)


async def test_after_a_reload_the_new_settings_decide(bench: Bench) -> None:
    bench.manager.reload(RetrySettings(first=timedelta(seconds=10)), "other.example.org")

    await bench.manager.report(an_attempt(a_delivery(), NOT_NOW))
    await bench.manager.report(an_attempt(a_delivery(), NO_SUCH_USER))
    await bench.idle()

    assert bench.ledger.settled[0].recipients[0].due == NOW + timedelta(seconds=10)
    assert b"Reporting-MTA: dns; other.example.org" in bench.store.added[0][1]


async def test_notifications_share_the_waits_for_the_disk() -> None:
    """P17: ten thousand bounces are not made one by one, each with syncs of its own; nor are all made at once."""
    ledger = MemoryLedger()
    notices = [replace(a_notice(), id=f"{number:020}") for number in range(3 * QUICK.notices_at_once)]
    ledger.debts = {notice.id: notice for notice in notices}
    bench = Bench(ledger)
    bench.store.gate.clear()

    bench.manager.start()
    await until(lambda: bench.store.waiting == QUICK.notices_at_once)
    for _ in range(10):
        await asyncio.sleep(0)
    most = bench.store.waiting
    bench.store.gate.set()
    await bench.idle()
    await bench.manager.close()

    assert most == QUICK.notices_at_once
    assert [message.id for message, _ in bench.store.added] == [notice.id for notice in notices]


async def test_closing_finishes_the_notification_in_hand(bench: Bench) -> None:
    bench.store.gate.clear()
    await bench.manager.report(an_attempt(a_delivery(), NO_SUCH_USER))
    await until(lambda: bench.store.waiting == 1)

    closing = asyncio.create_task(bench.manager.close())
    await asyncio.sleep(0)
    bench.store.gate.set()
    await closing

    assert len(bench.store.added) == 1


async def test_greylisting_for_ever_ends_in_one_bounce_at_the_end_of_the_lifetime(bench: Bench) -> None:
    """H15: 4yz for ever; retries along the schedule, then the end of the lifetime."""
    delivery = a_delivery(a_recipient(address=Address.parse("ann@example.net")))
    times: list[datetime] = []
    while True:
        await bench.manager.report(an_attempt(delivery, GREYLISTED, ended=bench.now))
        (recipient,) = bench.ledger.settled[-1].recipients
        if recipient.status is Status.FAILED:
            break
        assert recipient.due
        times.append(recipient.due)
        bench.now = recipient.due
        delivery = replace(delivery, recipients=(recipient,))
    await bench.idle()

    assert times[-1] == NOW + timedelta(days=5)
    assert 120 < len(times) < 130
    ((_, content),) = bench.store.added
    assert b"Diagnostic-Code: smtp; 450 4.2.0 greylisted" in content


class TestTimeThatWasLost:
    def bench(self, lost: timedelta) -> Bench:
        return Bench(lost_within=lambda span: lost)

    async def test_it_is_no_age(self) -> None:
        """P7: neither for what was tried, nor for the sweep, nor for warnings."""
        bench = self.bench(timedelta(days=30))
        bench.manager.start()
        bench.now = NOW + timedelta(days=31)

        await bench.manager.report(an_attempt(a_delivery(), GREYLISTED))
        await bench.manager.sweep(bench.now)

        assert bench.ledger.settled[0].recipients[0].status is Status.DEFERRED
        assert dict(bench.ledger.asked) == {
            "expire": NOW + timedelta(days=31 - 5 - 30),
            "warn": NOW + timedelta(days=31 - 30) - timedelta(hours=4),
        }
        assert bench.manager.stretch == timedelta(days=30)
        await bench.manager.close()

    async def test_a_back_off_is_as_long_as_before_when_the_clock_was_set(self) -> None:
        """P7: in core as in the queue; nothing waits for longer than the schedule, or a server, can have meant."""
        bench = self.bench(timedelta(0))
        bench.manager.start()
        retry_at = await failed(bench, NOT_NOW)
        bench.now = NOW - timedelta(days=1)

        await bench.manager.clock_was_set(-timedelta(days=1))

        assert await bench.manager.site_failed(SITE, NOT_NOW, []) == retry_at - timedelta(days=1)
        ((by, latest),) = bench.ledger.clock_set
        assert by == -timedelta(days=1)
        assert timedelta(hours=24) < latest < timedelta(hours=25)
        await bench.manager.close()
