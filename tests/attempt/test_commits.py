"""relayd.attempt.commits: group commits that lose nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from relayd.attempt.commits import Commits, Report
from relayd.attempt.settings import Bounds, RetrySettings
from relayd.attempt.settle import settle
from relayd.mail.errors import QueueError
from relayd.mail.events import Attempted, Degraded, Event, NotificationDropped, Restored, Trouble
from relayd.mail.outcome import Outcome
from relayd.mail.settlement import Settlement
from relayd.mail.tls import Evidence, Proof
from tests.attempt.situations import NO_SUCH_USER, NOW, QUEUED, MemoryLedger, a_delivery, a_recipient, an_attempt, until

VERIFIED = Evidence(version="1.3", cipher="TLS_AES_256_GCM_SHA384", proof=Proof.PKIX)

QUICK = Bounds(offer_again=timedelta(milliseconds=2), offer_again_max=timedelta(milliseconds=10))


class Bench:
    """Commits over a ledger in memory, and all that they tell."""

    def __init__(self, bounds: Bounds = QUICK) -> None:
        self.ledger = MemoryLedger()
        self.events: list[Event] = []
        self.owed = 0
        self.retries: list[datetime] = []
        self.commits = Commits(self.ledger, self.events.append, self._owe, self.retries.append, bounds)

    def _owe(self) -> None:
        self.owed += 1

    def report(self, outcome: Outcome = QUEUED, settlement: Settlement | None = None) -> asyncio.Future[None]:
        durable = asyncio.get_running_loop().create_future()
        settlement = settlement or a_settlement(outcome)
        self.commits.add(Report(settlement=settlement, durable=durable, age=timedelta(seconds=3), tls=VERIFIED))
        return durable

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def a_settlement(outcome: Outcome = QUEUED, **delivery: object) -> Settlement:
    attempt = an_attempt(a_delivery(**delivery), outcome)  # type: ignore[arg-type]
    return settle(attempt, RetrySettings(), NOW, jitter=0.5)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    bench.commits.start()
    yield bench
    bench.ledger.trouble = None
    bench.ledger.gate.set()
    await bench.commits.close(timedelta(seconds=5))


async def test_what_is_reported_during_a_commit_shares_the_next_one(bench: Bench) -> None:
    bench.ledger.gate.clear()
    first = bench.report()
    await until(lambda: bench.ledger.waiting == 1)
    others = [bench.report() for _ in range(50)]
    bench.ledger.gate.set()

    await asyncio.gather(first, *others)

    assert [len(commit) for commit in bench.ledger.commits] == [1, 50]


async def test_a_commit_has_a_bound() -> None:
    bench = Bench(Bounds(commit=20))
    reports = [bench.report() for _ in range(50)]
    bench.commits.start()

    await asyncio.gather(*reports)

    assert [len(commit) for commit in bench.ledger.commits] == [20, 20, 10]
    await bench.commits.close(timedelta(seconds=5))


async def test_nobody_hears_of_an_outcome_before_it_is_durable(bench: Bench) -> None:
    bench.ledger.gate.clear()
    report = bench.report()
    await until(lambda: bench.ledger.waiting == 1)

    assert not report.done()
    assert bench.events == []
    assert bench.commits.busy

    bench.ledger.gate.set()
    await report
    assert not bench.commits.busy


async def test_each_recipient_of_an_attempt_is_told_once(bench: Bench) -> None:
    delivery = a_delivery(a_recipient(0), a_recipient(1))
    settlement = settle(an_attempt(delivery, QUEUED, NO_SUCH_USER), RetrySettings(), NOW, jitter=0.5)

    await bench.report(settlement=settlement)

    assert bench.events == [
        Attempted(id=delivery.id, recipient=recipient, tls=VERIFIED, seconds=0.0, age=3.0)
        for recipient in settlement.recipients
    ]
    assert bench.owed == 1


async def test_a_full_queue_is_offered_the_same_again_until_it_takes_it(bench: Bench) -> None:
    bench.ledger.trouble = QueueError("disk full")
    reports = [bench.report() for _ in range(3)]
    await until(lambda: bool(bench.told(Degraded)))
    later = bench.report()
    assert not any(report.done() for report in reports)

    bench.ledger.trouble = None
    await asyncio.gather(*reports, later)

    assert len(bench.ledger.settled) == 4
    assert len(bench.told(Attempted)) == 4
    assert bench.told(Degraded) == [Degraded(part="queue", reason="disk full")]
    assert bench.told(Restored) == [Restored(part="queue")]


async def test_a_waiter_that_gives_up_does_not_take_its_outcome_along(bench: Bench) -> None:
    bench.ledger.trouble = QueueError("disk full")
    report = bench.report()
    report.cancel()
    await until(lambda: bool(bench.told(Degraded)))

    bench.ledger.trouble = None

    await until(lambda: len(bench.ledger.settled) == 1)


async def test_one_that_cannot_be_recorded_does_not_keep_the_others(bench: Bench) -> None:
    bad = a_settlement()
    bench.ledger.poison = bad.delivery.id
    stuck = bench.report(settlement=bad)
    others = [bench.report() for _ in range(5)]

    await asyncio.gather(*others)

    assert len(bench.ledger.settled) == 5
    assert not stuck.done()
    assert bench.told(Trouble)

    bench.ledger.poison = ""
    await stuck
    assert bad in bench.ledger.settled


async def test_a_failure_of_a_message_from_nobody_is_told_to_the_log_alone(bench: Bench) -> None:
    settlement = a_settlement(NO_SUCH_USER, sender=None)

    await bench.report(settlement=settlement)

    (dropped,) = bench.told(NotificationDropped)
    assert isinstance(dropped, NotificationDropped)
    assert dropped.message_id == settlement.delivery.id
    assert bench.owed == 0


async def test_a_listener_that_fails_changes_nothing() -> None:
    def fail(_: Event) -> None:
        raise RuntimeError("a broken pipe, say")

    ledger = MemoryLedger()
    commits = Commits(ledger, fail, lambda: None, lambda at: None, QUICK)
    commits.start()
    durable = asyncio.get_running_loop().create_future()

    commits.add(Report(settlement=a_settlement(), durable=durable, age=timedelta()))

    await durable
    await commits.close(timedelta(seconds=5))
    assert len(ledger.settled) == 1


async def test_closing_commits_what_was_reported(bench: Bench) -> None:
    reports = [bench.report() for _ in range(10)]

    await bench.commits.close(timedelta(seconds=5))

    assert all(report.done() for report in reports)
    assert len(bench.ledger.settled) == 10


async def test_closing_over_a_broken_queue_ends_and_says_what_was_not_recorded(bench: Bench) -> None:
    bench.ledger.trouble = QueueError("disk full")
    report = bench.report()

    await bench.commits.close(timedelta(milliseconds=30))

    with pytest.raises(QueueError, match="disk full"):
        await report
    assert bench.told(Trouble)


async def test_what_is_reported_after_the_end_is_refused(bench: Bench) -> None:
    await bench.commits.close(timedelta(seconds=5))

    with pytest.raises(QueueError, match="stopped"):
        await bench.report()


async def test_closing_over_a_commit_that_hangs_ends_too(bench: Bench) -> None:
    bench.ledger.gate.clear()
    report = bench.report()
    await until(lambda: bench.ledger.waiting == 1)

    await bench.commits.close(timedelta(milliseconds=30))

    with pytest.raises(QueueError):
        await report


async def test_closing_offers_at_once_what_was_to_be_offered_much_later() -> None:
    bench = Bench(Bounds(offer_again=timedelta(seconds=20)))
    bench.ledger.trouble = QueueError("database or disk is full")
    bench.commits.start()
    report = bench.report()
    await until(lambda: bool(bench.told(Degraded)))
    bench.ledger.trouble = None

    await bench.commits.close(timedelta(seconds=5))

    assert report.done()
    assert report.exception() is None
