"""A connection to SQLite, through aiosqlite: the one file that imports them.

WAL with synchronous=FULL, so that a commit is on the disk when it returns.  A batch of jobs takes one hop to the
connection's thread.  After an I/O error nothing more is asked of that connection, because a sync that failed once may
claim success when it is tried again: it is closed, and the next who needs one opens another and reads from the disk.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import quote

import aiosqlite

from relayd.mail.errors import QueueError
from relayd.mail.events import Degraded, Events, Restored
from relayd.spool.database import Database, Job
from relayd.spool.schema import MIGRATIONS, Migrations

T = TypeVar("T")

BUSY_TIMEOUT = 10.0  # seconds; the longest transaction is a batch of jobs, a fraction of one
CACHE = 16 * 1024  # KiB of pages, for each connection
CHECKPOINT = 4_000  # pages of 4 KiB in the log before they are copied into the file
RECOVER = "; `relayd recover` rebuilds it from the bodies"  # of a queue that is damaged
CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# A mistake in one job; whatever else SQLite says is a trouble of the connection.
MISTAKES = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)


class Connection(Protocol):
    """Where work on a database is done, one piece after the other."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do it, away from the loop; what it raises is raised."""

    async def close(self) -> None:
        """Let go of the database."""


Connect = Callable[[Path], Awaitable[Connection]]


class _Threaded(aiosqlite.Connection):
    """A connection whose thread runs whole functions: one hop for a batch, not one for each statement."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return cast(T, await self._execute(work, self._conn))  # type: ignore[no-untyped-call]
        except ValueError as error:
            if self._connection is None:
                raise sqlite3.OperationalError("the connection was given up") from error
            raise


class Link:
    """A connection that is given up after a trouble and opened again by the next who needs it."""

    def __init__(
        self, path: Path, *, read_only: bool, events: Events, connect: Connect | None = None, advice: str = RECOVER
    ) -> None:
        self._path = path
        self._advice = advice
        self._read_only = read_only
        self._events = events
        self._connect = connect or threaded
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self.degraded: str | None = None

    async def run(self, work: Callable[[Database], T]) -> T:
        """Run `work` in the connection's thread.

        Raises:
            QueueError: SQLite failed.
        """
        connection: Connection | None = None
        try:
            connection = await self._opened()
            return await connection.run(work)
        except sqlite3.Error as error:
            await self.give_up(connection, error)
            raise trouble(self._path, error, self._advice) from error

    async def commit(self, jobs: Sequence[Job[Any]]) -> Sequence[object]:
        """See `writer.Committer`."""
        results = await self.run(partial(_commit, jobs=jobs))
        failed = next((r for r in results if isinstance(r, sqlite3.Error) and not isinstance(r, MISTAKES)), None)
        if failed is not None:
            await self.give_up(self._connection, failed)
        elif self.degraded:
            self.degraded = None
            self._events(Restored(part="queue"))
        return [trouble(self._path, r, self._advice) if isinstance(r, sqlite3.Error) else r for r in results]

    async def give_up(self, connection: Connection | None, error: Exception) -> None:
        """Close a connection after a trouble, unless that is done."""
        if not self.degraded:
            self._events(Degraded(part="queue", reason=str(error)))
        self.degraded = str(error)
        if connection is self._connection:
            await self.close()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                await connection.close()

    async def _opened(self) -> Connection:
        async with self._opening:
            if self._connection is None:
                self._connection = await self._open()
            return self._connection

    async def _open(self) -> Connection:
        connection = await self._connect(self._path)
        try:
            await connection.run(partial(_configure, read_only=self._read_only))
        except BaseException:
            await connection.close()
            raise
        return connection


def at(path: Path) -> sqlite3.Connection:
    """Connect to the database at `path`, which is there; transactions are begun and ended by hand."""
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode=rw", uri=True, timeout=BUSY_TIMEOUT, isolation_level=None
    )


async def threaded(path: Path) -> Connection:
    """Return a connection to the database at `path` with a thread of its own."""
    # After a failed connect aiosqlite's thread outlives the error, and perhaps the loop; so this connect cannot fail.
    failed: list[sqlite3.Error] = []

    def connect() -> sqlite3.Connection:
        try:
            return at(path)
        except sqlite3.Error as error:
            failed.append(error)
            return sqlite3.connect(":memory:")

    connection = _Threaded(connect, 64)
    await connection
    if failed:
        await connection.close()
        raise failed[0]
    return connection


def trouble(path: Path, error: sqlite3.Error, advice: str = RECOVER) -> QueueError:
    """Return our words for what SQLite said; `advice` is for a file that is damaged."""
    return QueueError(f"{path}: {error}{advice if _is_corrupt(error) else ''}")


def damaged(error: QueueError) -> bool:
    """Whether `Link.run` raised this because the file is damaged."""
    return isinstance(error.__cause__, sqlite3.Error) and _is_corrupt(error.__cause__)


def _is_corrupt(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in CORRUPT


def _configure(db: Database, *, read_only: bool) -> None:
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA cache_size = -{CACHE}")
    db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
    db.execute("PRAGMA temp_store = MEMORY")
    if read_only:
        db.execute("PRAGMA query_only = ON")


def _commit(db: Database, jobs: Sequence[Job[Any]]) -> list[object]:
    try:
        return transact(db, jobs)
    except MISTAKES as error:
        failed: Exception = error
    except sqlite3.Error as error:
        return [error] * len(jobs)
    except Exception as error:
        failed = error
    return [failed] if len(jobs) == 1 else [result for job in jobs for result in _commit(db, [job])]


def transact(db: Database, jobs: Sequence[Job[Any]]) -> list[object]:
    """Run jobs in one transaction; what one raises is raised, and none of them was done."""
    db.execute("BEGIN IMMEDIATE")
    try:
        results = [job(db) for job in jobs]
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # some errors have rolled back already
            db.execute("ROLLBACK")
        raise
    return results


def migrate(db: Database, migrations: Migrations = MIGRATIONS) -> None:
    """Bring the file to our version.  Nothing is written to one that is newer."""
    version, ours = _version(db), len(migrations)
    if version > ours:
        raise QueueError(f"it is of version {version}, written by a newer relayd; this one knows up to {ours}")
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    for number in range(version, ours):
        transact(db, [partial(_apply, statements=migrations[number], number=number)])


def _apply(db: Database, *, statements: Sequence[str], number: int) -> None:
    for statement in statements:
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {number + 1}")


def check(db: Database, migrations: Migrations = MIGRATIONS) -> None:
    """What a command-line process asks before it uses the file of a daemon."""
    version, ours = _version(db), len(migrations)
    if version != ours:
        raise QueueError(f"it is of version {version}, this relayd knows {ours}; the daemon migrates it at its start")


def _version(db: Database) -> int:
    # A file that is damaged at its root is noticed here, not in the middle of the first delivery.
    db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)
