"""How many recipients wait, as it was known last: nobody who asks waits for a long queue, nor does the queue suffer.

A count that took a second is not repeated for SHARE of them; who asks waits for a new one for at most PATIENCE.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Protocol

from relayd.mail.errors import QueueError
from relayd.observe.readings import QueueReading
from relayd.spool.queue import AGES, Census

PATIENCE = 0.5  # seconds
FRESH = 5.0  # seconds for which a count is as good as a new one
SHARE = 50
NAMES = (*(str(age // timedelta(minutes=1)) for age in AGES), "older")  # minutes


class Counted(Protocol):
    """The queue."""

    async def census(self, now: datetime) -> Census:
        """See relayd/spool/queue.py."""


class LastCensus:
    """See the module."""

    def __init__(self, queue: Counted, clock: Callable[[], datetime]) -> None:
        self._queue = queue
        self._clock = clock
        self._known: tuple[Census, float] | None = None  # and when it was counted
        self._not_before = 0.0
        self._counting: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """Have it counted anew if that is due, and wait for it, but not for long."""
        now = asyncio.get_running_loop().time()
        if self._counting is None and now >= self._not_before:
            self._counting = asyncio.create_task(self._count())
        if self._counting is not None:
            await asyncio.wait([self._counting], timeout=PATIENCE)

    def reading(self) -> QueueReading | None:
        """Return what is known; None if it was never counted."""
        if self._known is None:
            return None
        census, at = self._known
        counts = {how.value: ages for how, ages in census.items()}
        return QueueReading(counts=counts, ages=NAMES, age=asyncio.get_running_loop().time() - at)

    async def close(self) -> None:
        """Ask the queue no more."""
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.wait([self._counting])

    async def _count(self) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        with suppress(QueueError):  # a trouble that the queue tells of where it matters
            self._known = await self._queue.census(self._clock()), began
        self._not_before = clock() + max(FRESH, SHARE * (clock() - began))
        self._counting = None
