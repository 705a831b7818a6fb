"""Connections that were told QUIT and have not closed yet.

Nobody waits for them but the daemon when it stops: a relayer's place goes to the next site at once.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from relayd.relay.commands import QUIT
from relayd.relay.wire import Wire


class Partings:
    """At most `limit` of them, each for at most `patience`; beyond that a connection is just reset."""

    def __init__(self, patience: timedelta, limit: int = 1000) -> None:
        self._patience = patience
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()

    def part(self, wire: Wire) -> None:
        """Say QUIT, and close once the server has."""
        if len(self._tasks) >= self._limit:
            wire.reset()
            return
        task = asyncio.get_running_loop().create_task(wire.part(QUIT, self._patience))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def over(self) -> None:
        """Wait until all have closed."""
        while self._tasks:
            await asyncio.wait(self._tasks)
