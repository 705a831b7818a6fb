"""RelayManager: takes in what was dropped, finds out where it goes, starts relayers while there is room.

`check_state` is the heart.  It runs every `check_interval`, and at once when a file arrives, a relayer ends, a retry
falls due or an operator did something.  It holds no rule of its own: which site may start a relayer is the
scheduler's decision, where mail goes the router's, what an attempt means the attempt manager's.

What the reader must not break:

    An exception in one relayer, one look-up or one round of check_state is told and stays there: the daemon lives.
    Every delivery that was claimed is settled, given back, or left to the end of its lease; never forgotten.
    A relayer's slot is released exactly once.
    No round follows another at once for a reason that the round cannot remove: what fails is left for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from relayd.claims import LEASE, Claims
from relayd.health import Health
from relayd.intake import Intake
from relayd.mail.delivery import Delivery
from relayd.mail.events import Events, Trouble
from relayd.mail.message import Message
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.reply import EnhancedStatus
from relayd.mail.route import Site
from relayd.ports import Attempts, Pickup, Queue, Relayer, Router, Spool
from relayd.schedule.scheduler import Scheduler, Turn
from relayd.tasks import Tasks

LOOK_UPS = 100  # destinations looked up at the same time
SHORTEST_SLEEP = 0.01  # seconds between two rounds that nobody asked for
IDLE_SHARE = 20  # a look for due mail that took a second is not repeated for so many, but for an operator
RECORDING = timedelta(seconds=5)  # for outcomes that the queue has not taken when a stop aborts the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerSettings:
    """The manager's own settings."""

    check_interval: timedelta = timedelta(seconds=5)
    max_connections: int = 100


class RelayManager:
    """See the module.  It runs at most `max_connections` relayers at a time, bounded by a semaphore."""

    def __init__(
        self,
        settings: ManagerSettings,
        *,
        scheduler: Scheduler,
        pickup: Pickup,
        spool: Spool,
        queue: Queue,
        router: Router,
        attempts: Attempts,
        new_relayer: Callable[[Site], Relayer],
        clock: Callable[[], datetime],
        events: Events,
        tell_withdrawn: Callable[[frozenset[str]], None] = lambda message_ids: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._scheduler = scheduler
        self._pickup = pickup
        self._spool = spool
        self._health = Health(events)
        self._claims = Claims(queue, clock, self._health)
        self._intake = Intake(
            pickup, spool, arrived=self.arrived, health=self._health, events=events, monotonic=monotonic
        )
        self._queue = queue
        self._router = router
        self._attempts = attempts
        self._new_relayer = new_relayer
        self._clock = clock
        self._events = events
        self._tell_withdrawn = tell_withdrawn
        self._monotonic = monotonic
        self._slots = asyncio.Semaphore(settings.max_connections)
        self._look_ups = asyncio.Semaphore(LOOK_UPS)
        self._wake = asyncio.Event()
        self._tasks = Tasks(self._health)
        self._relaying: set[asyncio.Task[None]] = set()
        self._looking_up: set[asyncio.Task[None]] = set()
        self._relayers: set[Relayer] = set()
        self._sites: dict[str, Site] = {}
        self._routing: Counter[str] = Counter()
        self._withdrawn: frozenset[str] = frozenset()
        self._scan_at: datetime | None = None  # None: at once
        self._scan_not_before = clock()
        self._retries_changed = False  # something may fall due before `_scan_at`
        self._starting = False
        self._stopping = False

    # what others tell it

    def wake(self) -> None:
        """Run check_state soon."""
        self._wake.set()

    def arrived(self, messages: Iterable[Message]) -> None:
        """Messages were added to the queue: find out where they go."""
        waiting = Counter(r.address.domain for m in messages for r in m.envelope.recipients)
        for destination, recipients in waiting.items():
            self._mail_for(destination, recipients)

    def withdrawn(self, message_id: str) -> bool:
        """Whether an operator held or removed a message that is in core."""
        return message_id in self._withdrawn

    async def operator_changed_queue(self) -> None:
        """Take notice of what the command line did; on return nothing that it withdrew will be started here."""
        await self._look_for_withdrawn()
        backing_off = {row.key for row in await self._queue.sites()}
        for site in [key for key in self._scheduler.failing() if key not in backing_off]:
            self._scheduler.recovered(site, self._clock())
            await self._attempts.site_recovered(site)
        self._scan_at = None
        self.wake()

    def reload(self, settings: ManagerSettings) -> None:
        """Use other settings from now on; relayers that run are not disturbed."""
        more = settings.max_connections - self._settings.max_connections
        for _ in range(more):
            self._slots.release()
        for _ in range(-more):
            self._tasks.start("reload", self._take_slot())
        self._settings = settings
        self.wake()

    @property
    def degraded(self) -> bool:
        """Whether a part could not do its work when it last tried."""
        return self._health.degraded

    @property
    def status(self) -> str:
        """One line for people: how much is in hand."""
        return f"{len(self._relayers)} relayers, {len(self._routing)} look-ups"

    # its life

    async def restore(self) -> None:
        """Remember the sites that backed off before the restart."""
        now = self._clock()
        for row in await self._queue.sites():
            self._attempts.restore(row.key, row.failures, row.retry_at)
            self._scheduler.failed(row.key, row.retry_at, row.reply, now, failures=row.failures)

    async def run(self, *, once: bool = False) -> None:
        """Relay mail until `stop`, or with `once` until nothing is due, in flight or settling."""
        self._tasks.start("watch", self._pickup.watch(self.wake))
        self._tasks.every(lambda: LEASE / 3, "leases", self._claims.renew)
        self._tasks.every(lambda: self._settings.check_interval, "sweep", self._sweep)
        self._tasks.every(lambda: self._settings.check_interval, "cleaning", self._clean_up)
        while not self._stopping:
            self._wake.clear()
            await self._health.guarded("check_state", self.check_state())
            if once and await self._nothing_left():
                return
            await self._sleep()

    async def stop(self, hurry: asyncio.Event, grace: timedelta) -> None:
        """Start nothing new; give what is in flight `grace`, or until `hurry`; then abort the rest.

        What the queue does not record even then is left to the attempt manager's `close`, which gives it up.
        """
        self._stopping = self._intake.closed = True
        self.wake()
        for relayer in self._relayers:
            relayer.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace.total_seconds()):
                while self._relaying and not hurry.is_set():
                    # Their ends, not `_wake`: one that has woken us may be a task still.
                    await _first(asyncio.wait(self._relaying), hurry.wait())
        if pending := await self._tasks.cancel(RECORDING):
            self._events(Trouble(part="stop", detail=f"not waiting for {pending} that the queue holds up"))
        await self._health.guarded("cleaning", self._spool.sweep(self._clock()))

    # a round

    async def check_state(self) -> None:
        """Take in new files, look for due mail, start relayers while there is room."""
        await self._intake.take_in(self._start_relayers)
        if self._retries_changed and self._scan_at is not None:
            self._retries_changed = False
            if (next_due := await self._queue.next_due(self._clock())) and self._scan_at is not None:
                self._scan_at = min(self._scan_at, max(next_due, self._scan_not_before))
        if self._scan_at is None or self._clock() >= self._scan_at:
            await self._find_due()
        await self._start_relayers()

    async def _find_due(self) -> None:
        now, began = self._clock(), self._monotonic()
        period = self._scan_at = now + self._settings.check_interval  # also if the queue fails now
        await self._claims.keep(now)
        for due in await self._queue.due(now, self._scheduler.settings.active_limit):
            self._mail_for(due.destination, due.recipients)
        next_due = await self._queue.next_due(now)
        took = timedelta(seconds=self._monotonic() - began)
        self._scan_not_before = min(now + took * IDLE_SHARE, period)
        if next_due and self._scan_at is not None:  # None: an operator changed the queue meanwhile
            self._scan_at = min(period, max(next_due, self._scan_not_before))

    async def _start_relayers(self) -> None:
        while not (self._stopping or self._slots.locked()):
            turn = self._scheduler.next(self._clock())
            if turn is None:
                return
            await self._slots.acquire()  # at once, since it is not locked
            self._tasks.start("relayers", self._relay(turn), among=self._relaying, about=turn.site)

    def _start_relayers_soon(self) -> None:
        """In the loop's next turn: destinations found by then to be of one site share its transactions."""
        if not self._starting:
            self._starting = True
            self._tasks.start("start", self._start_now())

    async def _start_now(self) -> None:
        self._starting = False
        await self._start_relayers()

    # where mail goes

    def _mail_for(self, destination: str, recipients: int) -> None:
        waiting = destination in self._routing
        self._routing[destination] += recipients
        if not waiting:
            self._tasks.start("routes", self._route(destination), among=self._looking_up, about=destination)

    async def _route(self, destination: str) -> None:
        try:
            if self._scheduler.verdict(_unresolved(destination), self._clock()):
                return
            async with self._look_ups:
                where = await self._router.route(destination)
        finally:
            recipients = self._routing.pop(destination)
            self.wake()
        now = self._clock()
        if isinstance(where, Site):
            self._sites[where.key] = where
            self._scheduler.mail_due(where.key, destination, recipients, now)
            self._start_relayers_soon()
            if self._scheduler.failures(_unresolved(destination)):
                self._scheduler.recovered(_unresolved(destination), now)
                await self._attempts.site_recovered(_unresolved(destination))
        else:
            await self._settle_unroutable(destination, where)

    async def _settle_unroutable(self, destination: str, outcome: Deferred | Failed) -> None:
        """A destination that fails fails all its mail; one that cannot be looked up backs off like a site."""
        batch = self._scheduler.settings.max_messages_per_connection
        while deliveries := await self._claims.claim((destination,), batch):
            try:
                if isinstance(outcome, Deferred):
                    await self._site_failed(_unresolved(destination), outcome, deliveries, "")
                    return
                await self._attempts.unroutable(deliveries, outcome)
            finally:
                self._claims.over(deliveries)

    # one relayer

    async def _relay(self, turn: Turn) -> None:
        deliveries: list[Delivery] = []
        try:
            try:
                deliveries = await self._claims.claim(turn.destinations, turn.batch)
            finally:
                self._scheduler.taken(turn, len(deliveries), self._clock())
            if deliveries:
                await self._send(turn.site, deliveries)
        finally:
            self._claims.over(deliveries)
            self._scheduler.ended(turn, len(deliveries), self._clock())
            if not self._scheduler.knows(turn.site):
                self._sites.pop(turn.site, None)
            self._slots.release()
            self._retries_changed = True
            self.wake()

    async def _send(self, site: str, deliveries: list[Delivery]) -> None:
        if self._stopping:  # since the claim was begun
            await self._claims.give_back(deliveries)
            return
        relayer = self._new_relayer(self._sites[site])
        self._relayers.add(relayer)
        try:
            ended = await relayer.run(deliveries)
        except Exception as error:
            self._events(Trouble(part="relayer", detail=f"{site}: {error!r}"))
            undone = [delivery for delivery in deliveries if not relayer.reported(delivery)]
            await self._attempts.unroutable(undone, _our_fault(error))
            return
        finally:
            self._relayers.discard(relayer)
        match ended.failure:
            case Deferred() as failure:
                await self._site_failed(site, failure, ended.undone, ended.peer)
            case Failed() as failure:
                await self._attempts.unroutable(ended.undone, failure)
            case None:
                await self._site_served(site, ended.undone)

    async def _site_failed(self, site: str, failure: Deferred, undone: Sequence[Delivery], peer: str) -> None:
        retry_at = await self._attempts.site_failed(site, failure, undone, peer=peer)
        self._scheduler.failed(site, retry_at, str(failure), self._clock())

    async def _site_served(self, site: str, undone: Sequence[Delivery]) -> None:
        now = self._clock()
        if self._scheduler.failures(site):
            self._scheduler.recovered(site, now)
            await self._attempts.site_recovered(site)
        if await self._claims.give_back(undone):
            for destination, recipients in Counter(r.address.domain for d in undone for r in d.recipients).items():
                self._scheduler.mail_due(site, destination, recipients, now)

    # what runs beside

    async def _sweep(self) -> None:
        """Promise 2: what ends a message by the clock does not depend on relayers or on check_state."""
        now = self._clock()
        await self._look_for_withdrawn()
        await self._claims.keep(now)
        await self._attempts.sweep(now)

    async def _look_for_withdrawn(self) -> None:
        self._withdrawn = await self._queue.withdrawn()
        self._tell_withdrawn(self._withdrawn)

    async def _clean_up(self) -> None:
        """Apart from `_sweep`, which may wait for room on the disk, while this makes some."""
        await self._spool.sweep(self._clock())
        await self._claims.offer_again()

    async def _take_slot(self) -> None:
        await self._slots.acquire()

    async def _sleep(self) -> None:
        now = self._clock()
        seconds = [self._settings.check_interval.total_seconds()]
        # With all slots in use nobody could start; a relayer that ends wakes us.
        for at in (self._scan_at, None if self._slots.locked() else self._scheduler.wake_at()):
            if at is not None:
                seconds.append((at - now).total_seconds())
        if (look := self._intake.next_look()) is not None:
            seconds.append(look)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(min(seconds), SHORTEST_SLEEP)):
                await self._wake.wait()

    async def _nothing_left(self) -> bool:
        """Whether nothing can be done now: all that waits, waits for a time."""
        if not self._idle:
            return False
        await self._sweep()
        await self._find_due()
        while self._looking_up:
            await asyncio.wait(self._looking_up)
        return self._idle

    @property
    def _idle(self) -> bool:
        busy = self._intake.waiting or self._looking_up or self._relaying or self._attempts.busy
        return not busy and self._scheduler.idle


def _unresolved(destination: str) -> str:
    """The key under which a destination backs off that cannot be looked up."""
    return f"dns:{destination}"


def _our_fault(error: Exception) -> Deferred:
    return Deferred(status=EnhancedStatus(4, 3, 0), reason=f"internal error: {type(error).__name__}")


async def _first(*work: Coroutine[Any, Any, Any]) -> None:
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
