"""relayd.census: whoever asks how much waits gets what is known, and a long queue is counted seldom."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from relayd.census import LastCensus
from relayd.mail.errors import QueueError
from relayd.spool.queue import Census
from relayd.spool.selection import Waiting
from tests.support.virtual import on_virtual_time

NOW = datetime(2026, 11, 27, tzinfo=UTC)


class Slow:
    """A queue that takes so long to count."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.counts = 0
        self.broken = False

    async def census(self, now: datetime) -> Census:
        self.counts += 1
        await asyncio.sleep(self.seconds)
        if self.broken:
            raise QueueError("closed")
        return {Waiting.QUEUED: (self.counts, *[0] * 9)}


def seen(census: LastCensus) -> tuple[int, float] | None:
    reading = census.reading()
    return None if reading is None else (reading.counts["queued"][0], round(reading.age, 1))


def test_a_short_queue_is_counted_for_who_asks_but_not_at_every_breath() -> None:
    async def story() -> None:
        queue = Slow()
        census = LastCensus(queue, lambda: NOW)
        await census.look()
        assert seen(census) == (1, 0.0)

        await asyncio.sleep(4.0)
        await census.look()
        assert seen(census) == (1, 4.0)

        await asyncio.sleep(2.0)
        await census.look()
        assert seen(census) == (2, 0.0)

    on_virtual_time(story())


def test_nobody_waits_for_a_long_queue_and_it_is_counted_seldom() -> None:
    async def story() -> None:
        queue = Slow(3.0)
        census = LastCensus(queue, lambda: NOW)
        loop = asyncio.get_running_loop()

        began = loop.time()
        await asyncio.gather(census.look(), census.look())
        assert round(loop.time() - began, 1) == 0.5
        assert seen(census) is None

        await asyncio.sleep(3.0)
        assert seen(census) == (1, 3.5)
        for _ in range(14):
            await asyncio.sleep(10.0)
            await census.look()
        assert queue.counts == 1
        await asyncio.sleep(15.0)
        await census.look()
        assert queue.counts == 2
        await census.close()

    on_virtual_time(story())


def test_a_queue_that_cannot_be_counted_leaves_what_is_known() -> None:
    async def story() -> None:
        queue = Slow()
        census = LastCensus(queue, lambda: NOW)
        await census.look()
        queue.broken = True
        await asyncio.sleep(10.0)

        await census.look()

        assert queue.counts == 2
        assert seen(census) == (1, 10.0)

    on_virtual_time(story())
