"""Connections that were told QUIT and have not closed yet.

A relayer waits for its own, while its last reports become durable: else the server would see more connections than
`max_connections_per_site`, and may have a limit of its own.  The daemon waits for all when it stops.
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

    def part(self, wire: Wire) -> asyncio.Task[None] | None:
        """Say QUIT, and close once the server has; return what is done then, None if it is closed already."""
        if len(self._tasks) >= self._limit:
            wire.reset()
            return None
        task = asyncio.get_running_loop().create_task(wire.part(QUIT, self._patience))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def over(self) -> None:
        """Wait until all have closed."""
        while self._tasks:
            await asyncio.wait(self._tasks)
