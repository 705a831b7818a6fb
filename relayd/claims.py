"""What the manager has claimed and not settled: leases, renewed in time, and deliveries on their way back.

What the reader must not break: what is in hand is not handed out again, so leases are renewed before the queue is
asked anything that would end them.  On a full disk no renewal is recorded, a machine that slept is late, and a clock
may be set, in the middle of a claim as at any other time; an outcome that waits in core to be recorded must not find
its delivery in another's hands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from relayd.health import Health
from relayd.mail.delivery import Delivery
from relayd.mail.errors import QueueError
from relayd.ports import Queue

LEASE = timedelta(minutes=10)  # renewed three times in its life; only a daemon that hangs loses it
PART = "leases"  # in events


class Claims:
    """See the module."""

    def __init__(self, queue: Queue, clock: Callable[[], datetime], health: Health) -> None:
        self._queue = queue
        self._clock = clock
        self._health = health
        self._ends: dict[int, datetime] = {}  # of the leases in hand
        self._begun: dict[int, datetime] = {}  # when each of them was
        self._coming: dict[object, datetime] = {}  # of claims that are being made
        self._came = asyncio.Event()
        self._unwanted: list[Delivery] = []  # to be given back when the queue takes them

    async def claim(self, destinations: Collection[str], limit: int) -> list[Delivery]:
        """Claim up to `limit` deliveries; `over` must follow."""
        now = self._clock()
        await self.keep(now)
        claiming = object()
        self._coming[claiming] = now + LEASE
        try:
            deliveries = await self._queue.claim(destinations, limit, now, until=now + LEASE)
        finally:
            del self._coming[claiming]
            self._came.set()
        if deliveries:
            self._ends[deliveries[0].lease] = now + LEASE
            self._begun[deliveries[0].lease] = now
        return deliveries

    def begun(self, lease: int) -> datetime | None:
        """Return since when a lease is in hand, None if it is not."""
        return self._begun.get(lease)

    def over(self, deliveries: Sequence[Delivery]) -> None:
        """Everything of this claim is settled or given back, or is on its way back."""
        if deliveries and not any(each.lease == deliveries[0].lease for each in self._unwanted):
            self._forget(deliveries[0].lease)

    def _forget(self, lease: int) -> None:
        self._ends.pop(lease, None)
        self._begun.pop(lease, None)

    async def give_back(self, deliveries: Sequence[Delivery]) -> bool:
        """Give back what was not tried; whether it is done.  If not, its lease is kept, so that it is not taken for
        an attempt that hangs, and it is offered again."""
        try:
            await self._queue.give_back(deliveries)
        except QueueError as error:
            self._unwanted += deliveries
            self._health.failed(PART, error)
            return False
        self._health.works(PART)
        return True

    async def offer_again(self) -> None:
        """Offer the queue what it did not take back."""
        unwanted, self._unwanted = self._unwanted, []
        if unwanted and await self.give_back(unwanted):
            for each in unwanted:
                self._forget(each.lease)

    async def keep(self, now: datetime) -> None:
        """Renew what would have ended by now, or soon; what is being claimed, too, once it is there."""
        while self._coming and min(self._coming.values()) <= now + LEASE / 3:
            self._came.clear()
            await self._came.wait()
        if self._ends and min(self._ends.values()) <= now + LEASE / 3:
            await self.renew()

    async def renew(self) -> None:
        """Renew all."""
        if leases := tuple(self._ends):
            until = self._clock() + LEASE
            await self._queue.renew(leases, until)
            self._ends.update((lease, until) for lease in leases if lease in self._ends)
