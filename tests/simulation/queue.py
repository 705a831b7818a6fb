"""The queue in memory: the whole contract of relayd/spool/queue.py, and what the daemon asks of a queue besides.

What is durable is the tables; this is the handle of one start of the daemon.  A crash abandons the handle: another
one, with another owner, is opened on the same tables.  What the reader must not break:

    A job happens in one piece, between two turns of the loop, so that a crash finds it done or not begun.
    Before it and after it the fault source has its turn: a crash may fall there, and it may say that the job failed.
    An abandoned handle changes nothing, whatever its tasks still do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice
from typing import TypeVar

from relayd.mail.address import Address
from relayd.mail.attempt import PastAttempt
from relayd.mail.back_off import BackOff
from relayd.mail.delivery import Delivery
from relayd.mail.errors import QueueError
from relayd.mail.events import Degraded, Events, Restored
from relayd.mail.key import SubmissionKey
from relayd.mail.message import Message
from relayd.mail.settlement import Notice, Settlement
from relayd.spool.arrivals import Strays
from relayd.spool.examination import Examination
from relayd.spool.notes import Claimed, Noted
from relayd.spool.queue import Bounced, Census, Due, Finished, HistoryRow, Lease, Listed, Shape
from relayd.spool.selection import ALL, Chosen, Selection
from relayd.spool.takeover import TakenOver
from tests.simulation import claiming, operating, settling
from tests.simulation.sabotage import Abandoned, Calm, Faults
from tests.simulation.tables import Tables

T = TypeVar("T")

PAGE = 200  # messages listed at once


def _ignore(told: object) -> None:
    """For those who do not listen."""


class MemoryQueue:
    """See the module.  `over` is told of claims that were durably settled or given back."""

    def __init__(
        self,
        tables: Tables,
        *,
        owner: str | None,
        new_notice_id: Callable[[], str],
        over: Callable[[Iterable[Claimed]], None] = _ignore,
        events: Events = _ignore,
        faults: Faults | None = None,
    ) -> None:
        self._tables = tables
        self._owner = owner
        self._new_id = new_notice_id
        self._over = over
        self._events = events
        self._faults = faults or Calm()
        self._abandoned = False
        self._closed = False
        self.degraded: str | None = None

    def abandon(self) -> None:
        """The daemon has crashed: nothing that it still does reaches the tables."""
        self._abandoned = True

    async def close(self) -> None:
        """Record that what stays in flight was left in order."""
        if not self._closed and self._owner is not None:
            with suppress(QueueError):
                await self._change("leave", claiming.leave, self._owner)
        self._closed = True

    async def make_room(self) -> None:
        """Nothing is to be done for room in memory."""
        await self._faults.before("make_room")

    async def _change(self, name: str, job: Callable[..., T], *arguments: object) -> T:
        try:
            await self._faults.before(name)
            result = self._now(job, *arguments)
            await self._faults.after(name)
        except QueueError as error:
            if not self.degraded:
                self._events(Degraded(part="queue", reason=str(error)))
            self.degraded = str(error)
            raise
        if self.degraded:
            self.degraded = None
            self._events(Restored(part="queue"))
        return result

    async def _look(self, name: str, look: Callable[..., T], *arguments: object) -> T:
        await self._faults.before(name)
        result = self._now(look, *arguments)
        await self._faults.after(name)
        return result

    def _now(self, job: Callable[..., T], *arguments: object) -> T:
        if self._abandoned:
            raise Abandoned
        if self._closed:
            raise QueueError("the queue is closed")
        return job(self._tables, *arguments)

    async def _claim(self, name: str, job: Callable[..., list[Delivery]], *arguments: object) -> list[Delivery]:
        if self._owner is None:
            raise QueueError("only a daemon claims mail")
        task = asyncio.ensure_future(self._change(name, job, self._owner, *arguments))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            with suppress(QueueError):
                await self.give_back(await task)  # nobody is left who would
            raise

    # messages

    async def add(self, messages: Sequence[Message]) -> dict[str, str]:
        return await self._change("add", settling.add, messages) if messages else {}

    async def keyed(self, key: SubmissionKey, now: datetime) -> str | None:
        return await self._look("keyed", settling.keyed, key, now)

    async def forget_keys(self, arrived_before: datetime, limit: int) -> int:
        if all(arrived >= arrived_before for _, arrived in self._tables.keys.values()):
            return 0
        return await self._change("forget_keys", settling.forget_keys, arrived_before, limit)

    async def known(self, message_ids: Collection[str]) -> set[str]:
        """Return those of the ids that are in the queue or in the history."""
        return await self._look("known", settling.known, message_ids)

    async def strays(self, message_ids: Collection[str]) -> Strays:
        """Return which of these bodies should not be there."""
        return await self._look("strays", operating.strays, message_ids)

    async def unmade(self) -> list[str]:
        """Return the ids of the notifications that are owed and not in the queue."""
        return await self._look("unmade", operating.unmade)

    async def take_over(self, now: datetime, noted: Noted | None) -> TakenOver:
        """End what older owners left in flight."""
        if self._owner is None:
            raise QueueError("only a daemon takes over")
        return await self._change("take_over", operating.take_over, self._owner, now, noted)

    async def bury(self, noted: Noted, now: datetime) -> TakenOver:
        """Mark and count what a worker of ours left in flight when it died."""
        taken = await self._change("bury", operating.bury, noted, now)
        self._over(noted.ending)
        return taken

    # claims

    async def due(self, now: datetime, limit: int) -> list[Due]:
        return await self._change("due", claiming.due, now, limit)

    async def claim(
        self, destinations: Collection[str], limit: int, now: datetime, *, until: datetime
    ) -> list[Delivery]:
        return await self._claim("claim", claiming.claim, destinations, limit, now, until)

    async def expire(self, arrived_before: datetime, limit: int, now: datetime, *, until: datetime) -> list[Delivery]:
        return await self._claim("expire", claiming.expire, arrived_before, limit, now, until)

    async def renew(self, leases: Collection[int], until: datetime) -> None:
        if self._owner is not None:
            await self._change("renew", claiming.renew, self._owner, leases, until)

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            await self._change("give_back", claiming.give_back, deliveries)
            self._over((each.lease, each.id) for each in deliveries)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        if settlements:
            await self._change("settle", settling.settle, settlements, self._new_id)
            self._over((each.delivery.lease, each.delivery.id) for each in settlements)

    async def clock_was_set(self, by: timedelta, now: datetime, latest: datetime) -> None:
        await self._change("clock_was_set", operating.clock_was_set, by, now, latest)

    async def next_due(self, now: datetime) -> datetime | None:
        return await self._look("next_due", claiming.next_due, now)

    async def withdrawn(self) -> frozenset[str]:
        return await self._look("withdrawn", claiming.withdrawn)

    # notices

    async def warn(self, arrived_before: datetime | None, limit: int, now: datetime) -> int:
        return await self._change("warn", settling.warn, arrived_before, limit, now, self._new_id)

    async def notices(self, limit: int) -> list[Notice]:
        return await self._change("notices", settling.hand_out, limit)

    async def drop_notice(self, notice_id: str) -> None:
        await self._change("drop_notice", settling.settle_debts, [notice_id])

    # sites

    async def sites(self) -> list[BackOff]:
        return await self._look("sites", lambda db: [db.sites[key] for key in sorted(db.sites)])

    async def back_off(self, back_off: BackOff) -> None:
        await self._change("back_off", operating.back_off, back_off)

    async def routed(self, sites: Mapping[str, str], now: datetime) -> None:
        await self._change("routed", operating.routed, sites, now)

    async def sites_of(self, destinations: Collection[str]) -> dict[str, str]:
        return await self._look(
            "sites_of", lambda db: {each: db.destinations[each][0] for each in destinations if each in db.destinations}
        )

    # operators

    async def messages(self, *, selection: Selection = ALL, limit: int | None = None) -> AsyncIterator[Listed]:
        after, left = "", limit
        while left is None or left > 0:
            count = PAGE if left is None else min(left, PAGE)
            last, found = await self._look("messages", operating.page, selection, after, count)
            if last is None:
                return
            for listed in found:
                yield listed
            after, left = last, None if left is None else left - len(found)

    async def ids(self, selection: Selection, after: str, limit: int) -> list[str]:
        return await self._look("ids", operating.ids, selection, after, limit)

    async def chosen(self, selection: Selection) -> Chosen:
        return await self._look("chosen", operating.chosen, selection)

    async def show(self, message_id: str) -> Listed | HistoryRow | None:
        return await self._look("show", operating.show, message_id)

    async def messages_to(self, address: Address, limit: int) -> list[str]:
        return await self._look("messages_to", settling.messages_to, address, limit)

    async def attempts(self, message_id: str) -> list[PastAttempt]:
        return await self._look("attempts", settling.attempts, message_id)

    async def shape(self, now: datetime) -> list[Shape]:
        return await self._look("shape", operating.shape, now)

    async def census(self, now: datetime) -> Census:
        return await self._look("census", operating.census, now)

    async def finished(self, since: datetime) -> Finished:
        return await self._look("finished", settling.finished, since)

    async def waiting_for(self, address: Address, limit: int) -> list[str]:
        return await self._look("waiting_for", operating.waiting_for, address, limit)

    async def foremost(self, destination: str) -> str | None:
        return await self._look("foremost", operating.foremost, destination)

    async def leases(self) -> list[Lease]:
        return await self._look("leases", claiming.leases)

    async def leased(self, message_id: str) -> dict[int, Lease]:
        return await self._look("leased", claiming.leased, message_id)

    async def examine(self, now: datetime, lifetime: timedelta, patience: timedelta) -> Examination:
        """Return what is wrong in the queue."""
        return await self._look("examine", operating.examine, now, lifetime, patience)

    async def hold(self, message_ids: Collection[str]) -> int:
        return await self._change("hold", operating.hold, message_ids)

    async def release(self, message_ids: Collection[str]) -> int:
        return await self._change("release", operating.release, message_ids)

    async def retry(self, message_ids: Collection[str], now: datetime) -> int:
        return await self._change("retry", operating.retry, message_ids, now)

    async def redirect(self, message_ids: Collection[str], route: str, now: datetime) -> int:
        return await self._change("redirect", operating.redirect, message_ids, route, now)

    async def bounce(self, message_ids: Collection[str], reason: str) -> Bounced:
        return await self._change("bounce", operating.bounce, message_ids, reason, self._new_id)

    async def remove(self, message_ids: Collection[str], now: datetime) -> int:
        return await self._change("remove", operating.remove, message_ids, now)

    # history

    async def finished_bodies(self, now: datetime, limit: int) -> list[str]:
        return await self._look("finished_bodies", lambda db: list(islice(db.to_unlink, limit)))

    async def bodies_gone(self, message_ids: Collection[str]) -> None:
        if message_ids:
            await self._change("bodies_gone", settling.bodies_gone, message_ids)

    async def any_to_forget(self, finished_before: datetime) -> bool:
        """Whether `forget` would find something."""
        return await self._look("any_to_forget", settling.any_to_forget, finished_before)

    async def forget(self, finished_before: datetime, limit: int) -> int:
        return await self._change("forget", settling.forget, finished_before, limit)
