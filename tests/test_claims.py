"""Claims: what is in hand stays in hand, whatever the clock does."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import cast

from relayd.claims import LEASE, Claims
from relayd.health import Health
from relayd.mail.delivery import Delivery
from relayd.ports import Queue
from tests.support.managed import a_delivery

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class SlowQueue:
    """A queue whose claims take until `gate` is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.calls: list[str] = []

    async def claim(
        self, destinations: Collection[str], limit: int, now: datetime, *, until: datetime
    ) -> list[Delivery]:
        self.calls.append(f"claim until {until:%H:%M}")
        await self.gate.wait()
        return [a_delivery(len(self.calls), "one.test", lease=len(self.calls))]

    async def renew(self, leases: Collection[int], until: datetime) -> None:
        self.calls.append(f"renew {sorted(leases)} until {until:%H:%M}")


async def test_a_claim_during_which_the_clock_is_set_forward_is_renewed_before_the_queue_could_end_it() -> None:
    clock = [NOW]
    queue = SlowQueue()
    claims = Claims(cast(Queue, queue), lambda: clock[0], Health(lambda event: None))
    first = asyncio.create_task(claims.claim(["one.test"], 1))
    await asyncio.sleep(0)
    clock[0] += timedelta(hours=1)

    second = asyncio.create_task(claims.claim(["one.test"], 1))
    await asyncio.sleep(0)
    queue.gate.set()
    await asyncio.gather(first, second)

    assert queue.calls == ["claim until 12:10", "renew [1] until 13:10", "claim until 13:10"]


async def test_claims_at_the_same_time_do_not_wait_for_each_other() -> None:
    queue = SlowQueue()
    claims = Claims(cast(Queue, queue), lambda: NOW, Health(lambda event: None))
    tasks = [asyncio.create_task(claims.claim(["one.test"], 1)) for _ in range(3)]
    for _ in range(3):
        await asyncio.sleep(0)

    assert queue.calls == [f"claim until {NOW + LEASE:%H:%M}"] * 3
    queue.gate.set()
    await asyncio.gather(*tasks)
