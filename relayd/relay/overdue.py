"""Ends what waits in a relayer's stock when its deadline passes, whatever the server does to those before it.

A message that is under way then is not broken off; one that an operator took back is left to be given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime

from relayd.mail.delivery import Delivery
from relayd.relay.reporter import Reporter
from relayd.relay.requirements import missed
from relayd.relay.stock import Stock


@asynccontextmanager
async def ending_overdue(
    deliveries: Iterable[Delivery], stock: Stock, reporter: Reporter, withdrawn: Callable[[str], bool]
) -> AsyncIterator[None]:
    """Do so within the context."""
    times = sorted({each.deadline.at for each in deliveries if each.deadline is not None and each.deadline.ends})
    watch = asyncio.create_task(_watch(times, stock, reporter, withdrawn)) if times else None
    try:
        yield
    finally:
        if watch is not None:
            watch.cancel()
            await asyncio.wait([watch])
            if not watch.cancelled():
                watch.result()


async def _watch(times: list[datetime], stock: Stock, reporter: Reporter, withdrawn: Callable[[str], bool]) -> None:
    def over(delivery: Delivery) -> bool:
        late = delivery.deadline is not None and delivery.deadline.over(reporter.clock())
        return late and not withdrawn(delivery.id)

    for at in times:
        await _reached(at, reporter.clock)
        for load in stock.take_out(over):
            assert load.delivery.deadline is not None
            load.settle_rest(missed(load.delivery.deadline))
            reporter.report(load, 0.0)


async def _reached(at: datetime, clock: Callable[[], datetime]) -> None:
    """Wait until the clock, which may be set meanwhile, shows that time."""
    while True:
        left = (at - clock()).total_seconds()
        if left <= 0:
            return
        await asyncio.sleep(left)
