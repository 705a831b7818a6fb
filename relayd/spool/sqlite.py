"""The queue on SQLite: each method of the contract as a job or a look-up on a connection.

All changes go through one connection and the group commit of writer.py; look-ups have a connection of their own, and a
listing neither waits for a commit nor makes one wait.  The command line opens the same file beside a running daemon:
`BEGIN IMMEDIATE` and the busy timeout keep them apart.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from relayd.mail.address import Address
from relayd.mail.attempt import PastAttempt
from relayd.mail.back_off import BackOff
from relayd.mail.delivery import Delivery
from relayd.mail.errors import QueueError
from relayd.mail.events import Events
from relayd.mail.key import SubmissionKey
from relayd.mail.message import Message, new_id
from relayd.mail.settlement import Notice, Settlement
from relayd.spool import (
    arrivals,
    attempts,
    claims,
    examination,
    expiry,
    history,
    keys,
    leaps,
    leases,
    notices,
    operators,
    settling,
    sites,
    takeover,
    waiting,
)
from relayd.spool.arrivals import Strays
from relayd.spool.connection import Connect, Link, check, migrate
from relayd.spool.database import Database, Job
from relayd.spool.examination import Examination
from relayd.spool.notes import Claimed, Noted
from relayd.spool.queue import Bounced, Census, Due, Finished, HistoryRow, Lease, Listed, Shape
from relayd.spool.selection import ALL, Chosen, Selection
from relayd.spool.takeover import TakenOver
from relayd.spool.writer import Writer

T = TypeVar("T")


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
        over: Callable[[Iterable[Claimed]], None],
        new_notice_id: Callable[[], str],
        connect: Connect | None,
    ) -> None:
        self._owner = owner
        self._over = over
        self._new_id = new_notice_id
        self._changes = Link(path, read_only=False, events=events, connect=connect)
        self._looks = Link(path, read_only=True, events=_ignore, connect=connect)
        self._census = Link(path, read_only=True, events=_ignore, connect=connect)
        self._writer: Writer | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        owner: str | None,
        events: Events = _ignore,
        over: Callable[[Iterable[Claimed]], None] = _ignore,
        new_notice_id: Callable[[], str] = lambda: new_id(datetime.now(UTC)),
        connect: Connect | None = None,
    ) -> Self:
        """Open the queue at `path`; a daemon creates it where there is none, and migrates it.

        `over` is told of claims that were durably settled or given back.  `connect` opens other connections than those
        with a thread.

        Raises:
            QueueError: none there, of a newer version (it is left alone), or corrupt.
        """
        queue = cls(path, owner, events, over, new_notice_id, connect)
        try:
            if owner is not None:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            elif not path.exists():
                raise QueueError("there is no queue")
            await queue._changes.run(check if owner is None else migrate)
        except BaseException as error:
            await queue._changes.close()
            if isinstance(error, OSError) or (isinstance(error, QueueError) and error.__cause__ is None):
                raise QueueError(f"{path}: {error}") from error
            raise
        queue._writer = Writer(queue._changes, events)
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
        await self._census.close()
        await self._looks.close()
        await self._changes.close()

    @property
    def degraded(self) -> str | None:
        """Why the last change could not be written, None if it was."""
        return self._changes.degraded

    async def make_room(self) -> None:
        """Copy the write-ahead log into the database, so that it is begun anew: on a full disk it cannot grow, and
        only a commit would else have done that.

        Raises:
            QueueError: SQLite failed.
        """
        await self._changes.run(lambda db: db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall())

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

    async def add(self, messages: Sequence[Message]) -> dict[str, str]:
        return await self._change(lambda db: arrivals.add(db, messages)) if messages else {}

    async def keyed(self, key: SubmissionKey, now: datetime) -> str | None:
        return await self._look(lambda db: keys.keyed(db, key, now))

    async def forget_keys(self, arrived_before: datetime, limit: int) -> int:
        if not await self._look(lambda db: keys.any_old(db, arrived_before)):
            return 0
        return await self._change(lambda db: keys.forget(db, arrived_before, limit))

    async def known(self, message_ids: Collection[str]) -> set[str]:
        """Return those of the ids that are in the queue or in the history."""
        return await self._look(lambda db: arrivals.known(db, message_ids))

    async def strays(self, message_ids: Collection[str]) -> Strays:
        """Return which of these bodies should not be there."""
        return await self._look(lambda db: arrivals.strays(db, message_ids))

    async def unmade(self) -> list[str]:
        """Return the ids of the notifications that are owed and not in the queue."""
        return await self._look(arrivals.unmade)

    async def take_over(self, now: datetime, noted: Noted | None) -> TakenOver:
        """End what older owners left in flight: see takeover.py.  Only under the spool's lock."""
        owner = self._owner
        if owner is None:
            raise QueueError("only a daemon takes over")
        return await self._change(lambda db: takeover.take_over(db, owner, now, noted))

    async def bury(self, noted: Noted, now: datetime) -> TakenOver:
        """Mark and count what a worker of ours left in flight when it died: see takeover.py."""
        taken = await self._change(lambda db: takeover.bury(db, noted, now))
        self._over(noted.ending)
        return taken

    # claims

    async def due(self, now: datetime, limit: int) -> list[Due]:
        if await self._look(lambda db: leases.any_ended(db, now)):
            await self._change(lambda db: leases.end_leases(db, now))
        return await self._look(lambda db: claims.due(db, now, limit))

    async def claim(
        self, destinations: Collection[str], limit: int, now: datetime, *, until: datetime
    ) -> list[Delivery]:
        return await self._claim(lambda db, owner: claims.claim(db, owner, destinations, limit, now, until))

    async def expire(self, arrived_before: datetime, limit: int, now: datetime, *, until: datetime) -> list[Delivery]:
        if self._owner is not None and not await self._look(lambda db: expiry.any_old(db, arrived_before, now)):
            return []
        return await self._claim(lambda db, owner: expiry.expire(db, owner, arrived_before, limit, now, until))

    async def renew(self, leases_: Collection[int], until: datetime) -> None:
        if (owner := self._owner) is not None:
            await self._change(lambda db: leases.renew(db, owner, leases_, until))

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            await self._change(lambda db: leases.give_back(db, deliveries))
            self._over((each.lease, each.id) for each in deliveries)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        if settlements:
            await self._change(lambda db: settling.settle(db, settlements, self._new_id))
            self._over((each.delivery.lease, each.delivery.id) for each in settlements)

    async def clock_was_set(self, by: timedelta, now: datetime, latest: datetime) -> None:
        to_come = await self._look(lambda db: leaps.any_to_come(db, now, latest))
        if by or to_come:
            await self._change(lambda db: leaps.clock_was_set(db, by, now, latest))

    async def next_due(self, now: datetime) -> datetime | None:
        return await self._look(lambda db: claims.next_due(db, now))

    async def withdrawn(self) -> frozenset[str]:
        return await self._look(leases.withdrawn)

    # notices

    async def warn(self, arrived_before: datetime | None, limit: int, now: datetime) -> int:
        if not await self._look(lambda db: notices.any_late(db, arrived_before, now)):
            return 0
        return await self._change(lambda db: notices.warn(db, arrived_before, limit, now, self._new_id))

    async def notices(self, limit: int) -> list[Notice]:
        if not await self._look(notices.any_owed):
            return []
        return await self._change(lambda db: notices.hand_out(db, limit))

    async def drop_notice(self, notice_id: str) -> None:
        await self._change(lambda db: notices.settle_debts(db, [notice_id]))

    # sites

    async def sites(self) -> list[BackOff]:
        return await self._look(sites.sites)

    async def back_off(self, back_off: BackOff) -> None:
        await self._change(lambda db: sites.back_off(db, back_off))

    async def routed(self, sites_: Mapping[str, str], now: datetime) -> None:
        await self._change(lambda db: sites.routed(db, sites_, now))

    async def sites_of(self, destinations: Collection[str]) -> dict[str, str]:
        return await self._look(lambda db: sites.sites_of(db, destinations))

    # operators

    async def messages(self, *, selection: Selection = ALL, limit: int | None = None) -> AsyncIterator[Listed]:
        after, left = "", limit
        while left is None or left > 0:
            count = operators.PAGE if left is None else min(left, operators.PAGE)
            last, found = await self._look(partial(operators.page, selection=selection, after=after, limit=count))
            if last is None:
                return
            for listed in found:
                yield listed
            after, left = last, None if left is None else left - len(found)

    async def ids(self, selection: Selection, after: str, limit: int) -> list[str]:
        return await self._look(lambda db: operators.ids(db, selection, after, limit))

    async def chosen(self, selection: Selection) -> Chosen:
        return await self._look(lambda db: operators.chosen(db, selection))

    async def show(self, message_id: str) -> Listed | HistoryRow | None:
        return await self._look(lambda db: operators.show(db, message_id))

    async def shape(self, now: datetime) -> list[Shape]:
        return await self._look(lambda db: waiting.shape(db, now))

    async def census(self, now: datetime) -> Census:
        if self._writer is None:
            raise QueueError("the queue is closed")
        try:
            return await self._census.run(lambda db: waiting.census(db, now))
        finally:
            await self._census.close()  # it is seldom wanted, and takes memory

    async def finished(self, since: datetime) -> Finished:
        return await self._look(lambda db: history.finished(db, since))

    async def waiting_for(self, address: Address, limit: int) -> list[str]:
        return await self._look(lambda db: waiting.waiting_for(db, address, limit))

    async def foremost(self, destination: str) -> str | None:
        return await self._look(lambda db: waiting.foremost(db, destination))

    async def messages_to(self, address: Address, limit: int) -> list[str]:
        return await self._look(lambda db: attempts.messages_to(db, address, limit))

    async def attempts(self, message_id: str) -> list[PastAttempt]:
        return await self._look(lambda db: attempts.of_message(db, message_id))

    async def leases(self) -> list[Lease]:
        return await self._look(leases.leases)

    async def leased(self, message_id: str) -> dict[int, Lease]:
        return await self._look(lambda db: leases.leased(db, message_id))

    async def examine(self, now: datetime, lifetime: timedelta, patience: timedelta) -> Examination:
        """Return what is wrong in the queue: see examination.py."""
        return await self._look(lambda db: examination.examine(db, now, lifetime, patience))

    async def sizes(self, after: str, limit: int) -> list[tuple[str, int]]:
        """Return messages whose ids come after `after`, with the sizes of their bodies."""
        return await self._look(lambda db: examination.sizes(db, after, limit))

    async def hold(self, message_ids: Collection[str]) -> int:
        return await self._change(lambda db: operators.hold(db, message_ids))

    async def release(self, message_ids: Collection[str]) -> int:
        return await self._change(lambda db: operators.release(db, message_ids))

    async def retry(self, message_ids: Collection[str], now: datetime) -> int:
        return await self._change(lambda db: operators.retry(db, message_ids, now))

    async def remove(self, message_ids: Collection[str], now: datetime) -> int:
        return await self._change(lambda db: operators.remove(db, message_ids, now))

    async def redirect(self, message_ids: Collection[str], route: str, now: datetime) -> int:
        return await self._change(lambda db: operators.redirect(db, message_ids, route, now))

    async def bounce(self, message_ids: Collection[str], reason: str) -> Bounced:
        return await self._change(lambda db: operators.bounce(db, message_ids, reason, self._new_id))

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
