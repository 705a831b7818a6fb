"""Group commit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import pytest

from relayd.mail.errors import QueueError
from relayd.mail.events import Committed, Event
from relayd.spool.database import Database, Job
from relayd.spool.writer import MAX_BATCH, Writer


class Slow:
    """Commits a batch when it is let go, and keeps the sizes of batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = asyncio.Event()

    async def commit(self, jobs: Sequence[Job[Any]]) -> Sequence[object]:
        self.batches.append(len(jobs))
        await self.go.wait()
        results: list[object] = []
        for job in jobs:
            try:
                results.append(job(cast(Database, None)))
            except ValueError as error:
                results.append(error)
        return results


def number(n: int, db: Database) -> int:
    return n


async def test_what_gathers_during_a_commit_goes_into_the_next_together() -> None:
    slow = Slow()
    writer = Writer(slow, lambda event: None)
    first = asyncio.ensure_future(writer.run(lambda db: 0))
    while not slow.batches:
        await asyncio.sleep(0)
    others = [asyncio.ensure_future(writer.run(partial(number, n))) for n in range(1, 50)]
    await asyncio.sleep(0)

    slow.go.set()

    assert await asyncio.gather(first, *others) == list(range(50))
    assert slow.batches == [1, 49]
    await writer.close()


async def test_each_batch_is_told_with_what_was_done_of_it() -> None:
    slow = Slow()
    slow.go.set()
    told: list[Event] = []
    writer = Writer(slow, told.append)

    def wrong(db: Database) -> None:
        raise ValueError("wrong")

    await asyncio.gather(writer.run(lambda db: 1), writer.run(wrong), return_exceptions=True)
    await writer.close()

    (committed,) = told
    assert isinstance(committed, Committed)
    assert committed.jobs == 1
    assert 0 <= committed.seconds < 10


async def test_a_listener_that_raises_takes_nothing_from_the_waiters() -> None:
    slow = Slow()
    slow.go.set()

    def listen(event: Event) -> None:
        raise RuntimeError(event)

    writer = Writer(slow, listen)

    assert [await writer.run(lambda db: 1), await writer.run(lambda db: 2)] == [1, 2]
    await writer.close()


async def test_a_batch_is_bounded() -> None:
    slow = Slow()
    slow.go.set()
    writer = Writer(slow, lambda event: None)

    await asyncio.gather(*(writer.run(lambda db: None) for _ in range(MAX_BATCH + 7)))

    assert slow.batches == [MAX_BATCH, 7]
    await writer.close()


async def test_an_exception_goes_to_its_own_waiter() -> None:
    slow = Slow()
    slow.go.set()
    writer = Writer(slow, lambda event: None)

    def wrong(db: Database) -> None:
        raise ValueError("wrong")

    results = await asyncio.gather(writer.run(lambda db: 1), writer.run(wrong), return_exceptions=True)

    assert results[0] == 1
    assert isinstance(results[1], ValueError)
    await writer.close()


async def test_a_job_whose_caller_left_before_its_batch_is_not_run() -> None:
    slow = Slow()
    writer = Writer(slow, lambda event: None)
    ran: list[int] = []
    first = asyncio.ensure_future(writer.run(lambda db: ran.append(1)))
    while not slow.batches:
        await asyncio.sleep(0)
    second = asyncio.ensure_future(writer.run(lambda db: ran.append(2)))
    await asyncio.sleep(0)

    second.cancel()
    slow.go.set()
    await first
    await writer.close()

    assert ran == [1]


async def test_closing_writes_what_has_gathered_and_refuses_more() -> None:
    slow = Slow()
    slow.go.set()
    writer = Writer(slow, lambda event: None)
    last = asyncio.ensure_future(writer.run(lambda db: "done"))
    await asyncio.sleep(0)

    await writer.close()

    assert await last == "done"
    with pytest.raises(QueueError):
        await writer.run(lambda db: None)
