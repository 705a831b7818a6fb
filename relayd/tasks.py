"""What runs beside: tasks that are held until they end, whose exceptions are told and go no further."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

from relayd.health import Health


class Tasks:
    """See the module."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._all: set[asyncio.Task[None]] = set()

    def start(
        self,
        part: str,
        work: Coroutine[Any, Any, None],
        among: set[asyncio.Task[None]] | None = None,
        about: str = "",
    ) -> None:
        """Start `work`; until it ends, its task is also in `among`."""
        task = asyncio.create_task(self._health.guarded(part, work, about))
        for tasks in (self._all, self._all if among is None else among):
            tasks.add(task)  # a task that nobody holds may vanish
            task.add_done_callback(tasks.discard)

    def every(self, period: Callable[[], timedelta], part: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` again and again; `period` is asked for the time between, since a reload may change it."""
        self.start(part, self._repeat(period, part, work))

    async def cancel(self, patience: timedelta) -> int:
        """Cancel all and wait for their ends; return how many had not ended after `patience`."""
        while self._all:
            for task in self._all:
                task.cancel()
            _, pending = await asyncio.wait(self._all, timeout=patience.total_seconds())
            if pending:
                return len(pending)
        return 0

    async def _repeat(self, period: Callable[[], timedelta], part: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(period().total_seconds())
            await self._health.guarded(part, work())
