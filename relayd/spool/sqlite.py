"""The queue on SQLite, through aiosqlite: the one file that imports them.

WAL with synchronous=FULL, so that a commit is on the disk when it returns.  All changes go through one connection and
the group commit of writer.py, one hop to its thread for each batch; look-ups have a connection of their own, and a
listing neither waits for a commit nor makes one wait.  After an I/O error nothing more is asked of that connection,
because a sync that failed once may claim success when it is tried again: it is closed, another opened, and the queue
read from the disk.

The command line opens the same file beside a running daemon: `BEGIN IMMEDIATE` and the busy timeout keep them apart.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, cast
from urllib.parse import quote

import aiosqlite

from relayd.mail.delivery import Delivery
from relayd.mail.errors import QueueError
from relayd.mail.events import Degraded, Events, Restored
from relayd.mail.message import Message, new_id
from relayd.mail.settlement import Notice, Settlement
from relayd.spool import arrivals, history, leases, notices, operators, settling, takeover
from relayd.spool.database import Database, Job
from relayd.spool.queue import Due, HistoryRow, Listed, SiteRow
from relayd.spool.schema import MIGRATIONS, VERSION
from relayd.spool.takeover import TakenOver
from relayd.spool.writer import Writer

T = TypeVar("T")

BUSY_TIMEOUT = 10.0  # seconds; the longest transaction is a batch of jobs, a fraction of one
CACHE = 16 * 1024  # KiB of pages, for each connection
CHECKPOINT = 4_000  # pages of 4 KiB in the log before they are copied into the file
CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# A mistake in one job; whatever else SQLite says is a trouble of the connection.
MISTAKES = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)


class _Connection(aiosqlite.Connection):
    """A connection whose thread runs whole functions: one hop for a batch, not one for each statement."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return cast(T, await self._execute(work, self._conn))  # type: ignore[no-untyped-call]
        except ValueError as error:
            if self._connection is None:
                raise sqlite3.OperationalError("the connection was given up") from error
            raise


class _Link:
    """A connection that is given up after a trouble and opened again by the next who needs it."""

    def __init__(self, path: Path, *, read_only: bool, events: Events) -> None:
        self._path = path
        self._read_only = read_only
        self._events = events
        self._connection: _Connection | None = None
        self._opening = asyncio.Lock()
        self.degraded: str | None = None

    async def run(self, work: Callable[[Database], T]) -> T:
        """Run `work` in the connection's thread.

        Raises:
            QueueError: SQLite failed.
        """
        connection: _Connection | None = None
        try:
            connection = await self._opened()
            return await connection.run(work)
        except sqlite3.Error as error:
            await self.give_up(connection, error)
            raise trouble(self._path, error) from error

    async def commit(self, jobs: Sequence[Job[Any]]) -> Sequence[object]:
        """See `writer.Committer`."""
        results = await self.run(partial(_commit, jobs=jobs))
        failed = next((r for r in results if isinstance(r, sqlite3.Error) and not isinstance(r, MISTAKES)), None)
        if failed is not None:
            await self.give_up(self._connection, failed)
        elif self.degraded:
            self.degraded = None
            self._events(Restored(part="queue"))
        return [trouble(self._path, r) if isinstance(r, sqlite3.Error) else r for r in results]

    async def give_up(self, connection: _Connection | None, error: Exception) -> None:
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

    async def _opened(self) -> _Connection:
        async with self._opening:
            if self._connection is None:
                connection = _Connection(lambda: _connect(self._path, read_only=self._read_only), 64)
                await connection
                self._connection = connection
            return self._connection


def trouble(path: Path, error: sqlite3.Error) -> QueueError:
    """Return our words for what SQLite said."""
    advice = "; `relayd recover` rebuilds it from the bodies" if _is_corrupt(error) else ""
    return QueueError(f"{path}: {error}{advice}")


def _is_corrupt(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in CORRUPT


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode=rw", uri=True, timeout=BUSY_TIMEOUT, isolation_level=None
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{CACHE}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
        connection.execute("PRAGMA temp_store = MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _commit(db: Database, jobs: Sequence[Job[Any]]) -> list[object]:
    try:
        return _transact(db, jobs)
    except MISTAKES as error:
        failed: Exception = error
    except sqlite3.Error as error:
        return [error] * len(jobs)
    except Exception as error:
        failed = error
    return [failed] if len(jobs) == 1 else [result for job in jobs for result in _commit(db, [job])]


def _transact(db: Database, jobs: Sequence[Job[Any]]) -> list[object]:
    db.execute("BEGIN IMMEDIATE")
    try:
        results = [job(db) for job in jobs]
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # some errors have rolled back already
            db.execute("ROLLBACK")
        raise
    return results


def _migrate(db: Database) -> None:
    """Bring the file to our version.  Nothing is written to one that is newer."""
    version = _version(db)
    if version > VERSION:
        raise QueueError(f"it is of version {version}, written by a newer relayd; this one knows up to {VERSION}")
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    for number in range(version, VERSION):
        _transact(db, [partial(_apply, number=number)])


def _apply(db: Database, *, number: int) -> None:
    for statement in MIGRATIONS[number]:
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {number + 1}")


def _check(db: Database) -> None:
    """What a command-line process asks before it uses the file of a daemon."""
    version = _version(db)
    if version != VERSION:
        raise QueueError(
            f"it is of version {version}, this relayd knows {VERSION}; the daemon migrates it at its start"
        )


def _version(db: Database) -> int:
    # A file that is damaged at its root is noticed here, not in the middle of the first delivery.
    db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def _ignore(told: object) -> None:
    """For those who do not listen."""


class SqliteQueue:
    """The `Queue` of queue.py.

    `owner` names this start of the daemon in its leases; a command-line process has none and claims nothing.
    """

    def __init__(
        self,
        path: Path,
        owner: str | None,
        events: Events,
        settled: Callable[[Sequence[Settlement]], None],
        new_notice_id: Callable[[], str],
    ) -> None:
        self._owner = owner
        self._settled = settled
        self._new_id = new_notice_id
        self._changes = _Link(path, read_only=False, events=events)
        self._looks = _Link(path, read_only=True, events=_ignore)
        self._writer: Writer | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        owner: str | None,
        events: Events = _ignore,
        settled: Callable[[Sequence[Settlement]], None] = _ignore,
        new_notice_id: Callable[[], str] = lambda: new_id(datetime.now(UTC)),
    ) -> Self:
        """Open the queue at `path`; a daemon creates it where there is none, and migrates it.

        `settled` is told of settlements once they are durable.

        Raises:
            QueueError: none there, of a newer version (it is left alone), or corrupt.
        """
        queue = cls(path, owner, events, settled, new_notice_id)
        try:
            if owner is not None:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            elif not path.exists():
                raise QueueError("there is no queue")
            await queue._changes.run(_check if owner is None else _migrate)
        except BaseException as error:
            await queue._changes.close()
            if isinstance(error, OSError) or (isinstance(error, QueueError) and error.__cause__ is None):
                raise QueueError(f"{path}: {error}") from error
            raise
        queue._writer = Writer(queue._changes)
        return queue

    async def close(self) -> None:
        """Write what has gathered, and record that what stays in flight was left in order."""
        if self._writer is None:
            return
        if (owner := self._owner) is not None:
            with suppress(QueueError):
                await self._change(lambda db: leases.leave(db, owner))
        writer, self._writer = self._writer, None
        await writer.close()
        await self._looks.close()
        await self._changes.close()

    @property
    def degraded(self) -> str | None:
        """Why the last change could not be written, None if it was."""
        return self._changes.degraded

    async def _change(self, job: Job[T]) -> T:
        if self._writer is None:
            raise QueueError("the queue is closed")
        return await self._writer.run(job)

    async def _look(self, look: Job[T]) -> T:
        if self._writer is None:
            raise QueueError("the queue is closed")
        return await self._looks.run(look)

    async def _claim(self, job: Callable[[Database, str], list[Delivery]]) -> list[Delivery]:
        owner = self._owner
        if owner is None:
            raise QueueError("only a daemon claims mail")
        task = asyncio.ensure_future(self._change(lambda db: job(db, owner)))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            with suppress(QueueError):
                await self.give_back(await task)  # nobody is left who would
            raise

    # messages

    async def add(self, messages: Sequence[Message]) -> None:
        if messages:
            await self._change(lambda db: arrivals.add(db, messages))

    async def known(self, message_ids: Collection[str]) -> set[str]:
        """Return those of the ids that are in the queue or in the history."""
        return await self._look(lambda db: arrivals.known(db, message_ids))

    async def unlinked(self, message_ids: Collection[str]) -> set[str]:
        """Return those of the ids that are finished and whose bodies were unlinked."""
        return await self._look(lambda db: history.unlinked(db, message_ids))

    async def owed(self, message_ids: Collection[str]) -> set[str]:
        """Return those of the ids that a notification will have."""
        return await self._look(lambda db: arrivals.owed(db, message_ids))

    async def take_over(self, now: datetime, noted: Callable[[int, str], bool] | None) -> TakenOver:
        """End what older owners left in flight: see takeover.py.  Only under the spool's lock."""
        owner = self._owner
        if owner is None:
            raise QueueError("only a daemon takes over")
        return await self._change(lambda db: takeover.take_over(db, owner, now, noted))

    # claims

    async def due(self, now: datetime, limit: int) -> list[Due]:
        if await self._look(lambda db: leases.any_ended(db, now)):
            await self._change(lambda db: leases.end_leases(db, now))
        return await self._look(lambda db: leases.due(db, now, limit))

    async def claim(
        self, destinations: Collection[str], limit: int, now: datetime, *, until: datetime
    ) -> list[Delivery]:
        return await self._claim(lambda db, owner: leases.claim(db, owner, destinations, limit, now, until))

    async def expire(self, arrived_before: datetime, limit: int, now: datetime, *, until: datetime) -> list[Delivery]:
        if self._owner is not None and not await self._look(lambda db: leases.any_old(db, arrived_before, now)):
            return []
        return await self._claim(lambda db, owner: leases.expire(db, owner, arrived_before, limit, now, until))

    async def renew(self, leases_: Collection[int], until: datetime) -> None:
        if (owner := self._owner) is not None:
            await self._change(lambda db: leases.renew(db, owner, leases_, until))

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            await self._change(lambda db: leases.give_back(db, deliveries))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        if settlements:
            await self._change(lambda db: settling.settle(db, settlements, self._new_id))
            self._settled(settlements)

    async def next_due(self, now: datetime) -> datetime | None:
        return await self._look(lambda db: leases.next_due(db, now))

    async def withdrawn(self) -> frozenset[str]:
        return await self._look(leases.withdrawn)

    # notices

    async def warn(self, arrived_before: datetime, limit: int) -> int:
        if not await self._look(lambda db: notices.any_late(db, arrived_before)):
            return 0
        return await self._change(lambda db: notices.warn(db, arrived_before, limit, self._new_id))

    async def notices(self, limit: int) -> list[Notice]:
        if not await self._look(notices.any_owed):
            return []
        return await self._change(lambda db: notices.hand_out(db, limit))

    async def drop_notice(self, notice_id: str) -> None:
        await self._change(lambda db: notices.settle_debts(db, [notice_id]))

    # sites

    async def sites(self) -> list[SiteRow]:
        return await self._look(operators.sites)

    async def back_off(self, site: SiteRow) -> None:
        await self._change(lambda db: operators.back_off(db, site))

    # operators

    async def messages(self, *, limit: int | None = None) -> AsyncIterator[Listed]:
        after, left = "", limit
        while left is None or left > 0:
            count = operators.PAGE if left is None else min(left, operators.PAGE)
            last, found = await self._look(partial(operators.page, after=after, limit=count))
            if last is None:
                return
            for listed in found:
                yield listed
            after, left = last, None if left is None else left - len(found)

    async def show(self, message_id: str) -> Listed | HistoryRow | None:
        return await self._look(lambda db: operators.show(db, message_id))

    async def hold(self, message_ids: Collection[str]) -> int:
        return await self._change(lambda db: operators.hold(db, message_ids))

    async def release(self, message_ids: Collection[str]) -> int:
        return await self._change(lambda db: operators.release(db, message_ids))

    async def retry(self, message_ids: Collection[str], now: datetime) -> int:
        return await self._change(lambda db: operators.retry(db, message_ids, now))

    async def remove(self, message_ids: Collection[str], now: datetime) -> int:
        return await self._change(lambda db: operators.remove(db, message_ids, now))

    # history

    async def finished_bodies(self, now: datetime, limit: int) -> list[str]:
        return await self._look(lambda db: history.finished_bodies(db, limit))

    async def bodies_gone(self, message_ids: Collection[str]) -> None:
        if message_ids:
            await self._change(lambda db: history.bodies_gone(db, message_ids))

    async def any_to_forget(self, finished_before: datetime) -> bool:
        """Whether `forget` would find something."""
        return await self._look(lambda db: history.any_old(db, finished_before))

    async def forget(self, finished_before: datetime, limit: int) -> int:
        return await self._change(lambda db: history.forget(db, finished_before, limit))
