"""Group commit: what is reported while one commit runs goes into the next one.

Invariants, checked by tests/attempt/test_commits.py:

    What was added is offered to the ledger until it takes it: a Delivered is never dropped.
    A waiter is woken, and an event told, after the commit, never before.
    One that the ledger can never take does not keep the others from being taken.

Memory is bounded by those who wait for their reports.  Cost: one call of the ledger for all that has gathered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from relayd.attempt.health import Health, tell
from relayd.attempt.ports import Ledger
from relayd.attempt.settings import Bounds
from relayd.mail.errors import QueueError
from relayd.mail.events import Attempted, Events, NotificationDropped, Trouble
from relayd.mail.recipient import Status
from relayd.mail.settlement import Settlement
from relayd.mail.tls import Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A settlement on its way to the disk, what the log tells of its attempt, and who waits for it."""

    settlement: Settlement
    durable: asyncio.Future[None]
    age: timedelta  # of the message, when the attempt ended
    tls: Evidence | None = None
    seconds: float = 0.0
    altered: str = ""


class Commits:
    """See the module.  `owed` is called when a commit added notices, `retry_due` when one deferred something, with the
    earliest time at which that falls due."""

    def __init__(
        self,
        ledger: Ledger,
        events: Events,
        owed: Callable[[], None],
        retry_due: Callable[[datetime], None],
        bounds: Bounds,
    ) -> None:
        self._ledger = ledger
        self._events = events
        self._owed = owed
        self._retry_due = retry_due
        self._bounds = bounds
        self._health = Health("queue", events)
        self._backlog: deque[Report] = deque()
        self._offered: list[Report] = []  # in the commit that runs
        self._refused: list[Report] = []  # that the ledger cannot take, each alone; offered again now and then
        self._gathered = asyncio.Event()
        self._closing = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether something is not durable yet."""
        return not self._emptied.is_set()

    def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.create_task(self._run(), name="commits")

    def add(self, report: Report) -> None:
        """Have it committed with what gathers meanwhile; after `close` its waiter gets a QueueError."""
        if self._closed:
            self._give_up(report)
            return
        self._backlog.append(report)
        self._emptied.clear()
        self._gathered.set()

    async def close(self, grace: timedelta) -> None:
        """Commit what is there, for at most `grace`; whoever still waits then gets a QueueError."""
        if self._task is None:
            return
        self._closing.set()
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await self._emptied.wait()
        except TimeoutError:
            reason = self._health.reason or "no answer"
            tell(self._events, Trouble(part="queue", detail=f"stopped with outcomes that it did not take: {reason}"))
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        self._closed = True
        for report in (*self._offered, *self._backlog, *self._refused):
            self._give_up(report)

    def _give_up(self, report: Report) -> None:
        if not report.durable.done():
            report.durable.set_exception(QueueError(f"not recorded: {self._health.reason or 'stopped'}"))
            report.durable.exception()  # retrieved here: the waiter may be gone, and the trouble is told

    async def _run(self) -> None:
        pause = self._bounds.offer_again
        while True:
            await self._gathered.wait()
            self._gathered.clear()
            while (taken := await self._commit_once()) is not None:
                if taken:
                    pause = self._bounds.offer_again
                else:
                    await self._rest(pause)
                    pause = min(pause * 2, self._bounds.offer_again_max)

    async def _rest(self, pause: timedelta) -> None:
        """Rest before the next offer; while closing only for the shortest pause, since this may be the last one."""
        if not self._closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause.total_seconds())
        else:
            await asyncio.sleep(self._bounds.offer_again.total_seconds())

    async def _commit_once(self) -> bool | None:
        """Commit what has gathered.  Return whether the ledger took it; None if nothing had gathered."""
        size = min(len(self._backlog), self._bounds.commit)
        if not size:
            return None
        self._offered = [self._backlog.popleft() for _ in range(size)]
        left = await self._offer(self._offered)
        self._backlog.extendleft(reversed(left))
        self._offered = []
        if not self._backlog and not self._refused:
            self._emptied.set()
        return not left

    async def _offer(self, batch: list[Report]) -> list[Report]:
        """Return what is to be offered again soon."""
        try:
            await self._ledger.settle([report.settlement for report in batch])
        except QueueError as error:
            self._health.failed(error)
            return batch
        except Exception as error:  # not about the disk but about what is in the batch: the others must not suffer
            if len(batch) > 1:
                return [report for one in batch for report in await self._offer([one])]
            self._refuse(batch[0], error)
            return []
        self._health.works()
        self._durable(batch)
        return []

    def _refuse(self, report: Report, error: Exception) -> None:
        queue_id = report.settlement.delivery.id
        tell(self._events, Trouble(part="queue", detail=f"{queue_id} cannot be recorded: {error!r}"))
        self._refused.append(report)
        delay = self._bounds.offer_again_max.total_seconds()
        asyncio.get_running_loop().call_later(delay, self._offer_refused)

    def _offer_refused(self) -> None:
        self._backlog.extend(self._refused)
        self._refused.clear()
        self._gathered.set()

    def _durable(self, batch: list[Report]) -> None:
        for report in batch:
            if not report.durable.done():
                report.durable.set_result(None)
        for report in batch:
            self._tell(report)
        if any(report.settlement.notices for report in batch):
            self._owed()
        deferred = (r.due for report in batch for r in report.settlement.recipients if r.status is Status.DEFERRED)
        if earliest := min((due for due in deferred if due), default=None):
            self._retry_due(earliest)

    def _tell(self, report: Report) -> None:
        delivery = report.settlement.delivery
        age = report.age.total_seconds()
        for recipient in report.settlement.recipients:
            event = Attempted(
                id=delivery.id,
                recipient=recipient,
                tls=report.tls,
                seconds=report.seconds,
                age=age,
                altered=report.altered,
            )
            tell(self._events, event)
        failed = any(recipient.status is Status.FAILED for recipient in report.settlement.recipients)
        if failed and delivery.reverse_path is None:
            reason = "a message from <> is never answered (RFC 5321 section 4.5.5)"
            tell(self._events, NotificationDropped(message_id=delivery.id, reason=reason))
