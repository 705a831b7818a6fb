"""SQLite without threads: the real queue on connections that do their work at once, in the loop.

A crash closes them all; what was not committed is rolled back, as after a kill.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from relayd.mail.errors import QueueError
from relayd.spool.connection import at
from tests.simulation.sabotage import Abandoned, Calm, Faults

T = TypeVar("T")


class InlineConnection:
    """A connection; the fault source has its turn before each piece of work, and after."""

    def __init__(self, database: sqlite3.Connection, faults: Faults) -> None:
        self._database = database
        self._faults = faults
        self.abandoned = False

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """See relayd/spool/connection.py."""
        try:
            await self._faults.before("sqlite")
            self._alive()
            result = work(self._database)
            await self._faults.after("sqlite")
        except QueueError as error:
            raise sqlite3.OperationalError(str(error)) from error
        self._alive()
        return result

    async def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def abandon(self) -> None:
        """The daemon has crashed."""
        self.abandoned = True
        self._database.close()

    def _alive(self) -> None:
        if self.abandoned:
            raise Abandoned


class InlineConnections:
    """Makes the connections of one start of the daemon: `connect` is what `SqliteQueue.open` takes."""

    def __init__(self, faults: Faults | None = None) -> None:
        self._faults = faults or Calm()
        self._made: list[InlineConnection] = []

    async def connect(self, path: Path) -> InlineConnection:
        """Connect to the database at `path`."""
        await self._faults.before("connect")
        connection = InlineConnection(at(path), self._faults)
        self._made.append(connection)
        return connection

    def abandon(self) -> None:
        """The daemon has crashed: its connections end."""
        for each in self._made:
            each.abandon()
