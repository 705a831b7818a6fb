"""A relayer's leave to connect."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from relayd.permit import Permit
from relayd.schedule.rate import Rate
from relayd.schedule.scheduler import Scheduler, Turn
from relayd.schedule.settings import ScheduleSettings, SiteLimits

PERIOD = timedelta(milliseconds=300)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def clock() -> datetime:
    """As the loop counts: nobody sets it."""
    return NOW + timedelta(seconds=asyncio.get_running_loop().time())


def started(relayers: int) -> tuple[Scheduler, list[Turn]]:
    """Return a scheduler that has started so many relayers of a site."""
    rate = Rate(count=3 * relayers, period=PERIOD)
    scheduler = Scheduler(ScheduleSettings(limits=SiteLimits(connection_rate=rate)))
    scheduler.mail_due("site", "example.org", 10_000, clock())
    turns = [turn for _ in range(relayers) if (turn := scheduler.next(clock()))]
    return scheduler, turns


async def test_no_period_has_more_connections_than_the_rate_says_however_often_one_relayer_connects() -> None:
    scheduler, _ = started(1)
    changes: list[None] = []
    permit = Permit(scheduler, "site", clock, lambda: changes.append(None))
    times = []
    for _ in range(7):
        await permit()
        times.append(clock())

    assert all(end - start >= PERIOD for start, end in zip(times, times[3:], strict=False))
    assert len(changes) == 7


async def test_one_that_is_over_wants_no_more_even_while_it_waits() -> None:
    scheduler, turns = started(1)
    permit = Permit(scheduler, "site", clock, lambda: None)
    await permit()
    waiting = asyncio.create_task(permit())
    await asyncio.sleep(0)
    assert scheduler.state_of("site").connecting == 1

    scheduler.taken(turns[0], 0, clock())
    permit.over()
    scheduler.ended(turns[0], 0, clock())
    await waiting

    assert not scheduler.room.running
    assert scheduler.state_of("site").connecting == 0
