"""RelayManager: takes in what was dropped, finds out where it goes, starts relayers while there is room.

`check_state` is the heart.  It runs every `check_interval`, and at once when a file arrives, a relayer ends, a retry
falls due or an operator did something.  It holds no rule of its own: which site may start a relayer is the
scheduler's decision, where mail goes the router's, what an attempt means the attempt manager's.  Beside it, routes.py
brings destinations to sites, relays.py brings a site's turn to its end, claims.py keeps the leases.

What the reader must not break:

    An exception in one relayer, one look-up or one round of check_state is told and stays there: the daemon lives.
    No round follows another at once for a reason that the round cannot remove: what fails is left for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from relayd.answers import Answers
from relayd.claims import LEASE, Claims
from relayd.clock import Leap
from relayd.health import Health
from relayd.intake import Intake
from relayd.mail.errors import QueueError
from relayd.mail.events import ClockLeapt, Events, Trouble
from relayd.mail.message import Message
from relayd.orphans import Orphans
from relayd.ports import Attempts, NewRelayer, Pickup, Queue, Router, Spool
from relayd.progress import Progress
from relayd.relays import Relays
from relayd.routes import Routes
from relayd.schedule.scheduler import Scheduler
from relayd.tasks import Tasks

WATCHES = 10  # looks at the relayers in the time after which one is given up
SHORTEST_SLEEP = 0.01  # seconds between two rounds that nobody asked for
IDLE_SHARE = 20  # a look for due mail that took a second is not repeated for so many, but for an operator
CLEANING = timedelta(seconds=3)  # for the bodies of what was delivered last, when stopping
RECORDING = timedelta(seconds=5)  # for outcomes that the queue has not taken when a stop aborts the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerSettings:
    """The manager's own settings."""

    check_interval: timedelta = timedelta(seconds=5)
    max_connections: int = 100
    watchdog: timedelta = timedelta(minutes=20)  # a relayer that has not stirred for so long is given up


class RelayManager:
    """See the module.  It runs at most `max_connections` relayers at a time, bounded by a semaphore.

    `answers` is what it tells of itself, with what `degraded` knows of the whole daemon's parts; `progress`, whether
    mail moves.
    """

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
        new_relayer: NewRelayer,
        clock: Callable[[], datetime],
        events: Events,
        take_leap: Callable[[], Leap] = Leap,
        degraded: Callable[[], Mapping[str, str]] | None = None,
        tell_withdrawn: Callable[[frozenset[str]], None] = lambda message_ids: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._scheduler = scheduler
        self._pickup = pickup
        self._spool = spool
        self._queue = queue
        self._attempts = attempts
        self._clock = clock
        self._events = events
        self._take_leap = take_leap
        self._set_by = timedelta(0)  # what the queue was not told yet of a clock that was set
        self._queue_is_of_now = False  # what it has from earlier starts was looked at
        self._tell_withdrawn = tell_withdrawn
        self._monotonic = monotonic
        self._health = Health(events)
        self._tasks = Tasks(self._health)
        self._claims = Claims(queue, clock, self._health)
        self._routes = Routes(
            scheduler=scheduler,
            queue=queue,
            router=router,
            claims=self._claims,
            attempts=attempts,
            tasks=self._tasks,
            health=self._health,
            clock=clock,
            ready=self._start_relayers_soon,
            changed=self.wake,
        )
        self.progress = Progress(scheduler, self._routes, monotonic)
        self._relays = Relays(
            scheduler=scheduler,
            routes=self._routes,
            claims=self._claims,
            attempts=attempts,
            new_relayer=new_relayer,
            clock=clock,
            events=events,
            monotonic=monotonic,
            over=self._relayer_ended,
            changed=self.wake,
        )
        self._intake = Intake(
            pickup, spool, arrived=self._routes.arrived, health=self._health, events=events, monotonic=monotonic
        )
        self._orphans = Orphans(
            pickup,
            spool,
            arrived=self._routes.arrived,
            health=self._health,
            events=events,
            over=self.wake,
            busy=lambda: bool(self._relaying),
            monotonic=monotonic,
        )
        self.answers = Answers(
            owner=spool.owner,
            scheduler=scheduler,
            routes=self._routes,
            router=router,
            claims=self._claims,
            orphans=self._orphans,
            attempts=attempts,
            degraded=degraded or (lambda: dict.fromkeys(self._health.parts, "")),
            clock=clock,
        )
        self._slots = asyncio.Semaphore(settings.max_connections)
        self._wake = asyncio.Event()
        self._relaying: set[asyncio.Task[None]] = set()
        self._withdrawn: frozenset[str] = frozenset()
        self._scan_at: datetime | None = None  # None: at once
        self._scan_not_before = clock()
        self._starting = False
        self._stopping = False

    # what others tell it

    def wake(self) -> None:
        """Run check_state soon."""
        self._wake.set()

    def arrived(self, messages: Iterable[Message]) -> None:
        """Messages were added to the queue: find out where they go."""
        self._routes.arrived(messages)

    def retry_due(self, at: datetime) -> None:
        """Something that was deferred falls due then: look for due mail at that time, if not sooner."""
        if self._scan_at is not None and at < self._scan_at:
            self._scan_at = max(at, self._scan_not_before)
            self.wake()

    def site_forgotten(self, site: str) -> None:
        """The back-off of a site is no more: what is kept of it in core can go."""
        self._scheduler.recovered(site, self._clock())
        self._routes.forget_unknown(site)

    def withdrawn(self, message_id: str) -> bool:
        """Whether an operator held or removed a message that is in core."""
        return message_id in self._withdrawn

    async def operator_changed_queue(self) -> None:
        """Take notice of what the command line did; on return nothing that it withdrew will be started here."""
        await self._look_for_withdrawn()
        backing_off = {known.site for known in await self._queue.sites()}
        for site in [key for key in self._scheduler.failing() if key not in backing_off]:
            self.site_forgotten(site)
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
        return f"{len(self._relays)} relayers, {self._routes.look_ups} look-ups"

    # its life

    async def restore(self) -> None:
        """Remember the sites that backed off before the restart."""
        now = self._clock()
        for known in await self._queue.sites():
            self._attempts.restore(known)
            self._scheduler.failed(known.site, known.retry_at, known.reply, now, failures=known.failures)

    async def run(self, *, once: bool = False) -> None:
        """Relay mail until `stop`, or with `once` until nothing is due, in flight or settling, and no orphan left."""
        self._tasks.start("watch", self._pickup.watch(self.wake))
        self._tasks.start("orphans", self._orphans.adopt_all())
        self._tasks.every(lambda: self._settings.check_interval, "clock", self._tell_queue_of_clock)
        self._tasks.every(lambda: LEASE / 3, "leases", self._claims.renew)
        self._tasks.every(lambda: self._settings.check_interval, "sweep", self._sweep)
        self._tasks.every(lambda: self._settings.check_interval, "cleaning", self._clean_up)
        self._tasks.every(lambda: self._settings.check_interval, "routes", self._routes.write_down)
        self._tasks.every(lambda: self._settings.watchdog / WATCHES, "watchdog", self._watch_relayers)
        while not self._stopping:
            self._wake.clear()
            await self._health.guarded("check_state", self.check_state())
            self.progress.round_ended()
            if once and await self._nothing_left():
                return
            await self._sleep()

    async def stop(self, hurry: asyncio.Event, grace: timedelta) -> None:
        """Start nothing new; give what is in flight `grace`, or until `hurry`; then abort the rest.

        What the queue does not record even then is left to the attempt manager's `close`, which gives it up.
        """
        self._stopping = self._intake.closed = True
        self.wake()
        self._relays.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace.total_seconds()):
                while self._relaying and not hurry.is_set():
                    # Their ends, not `_wake`: one that has woken us may be a task still.
                    await _first(asyncio.wait(self._relaying), hurry.wait())
        if pending := await self._tasks.cancel(RECORDING):
            self._events(Trouble(part="stop", detail=f"not waiting for {pending} that the queue holds up"))
        with suppress(TimeoutError):  # the next start goes on with it
            async with asyncio.timeout(CLEANING.total_seconds()):
                await self._claims.offer_again()
                await self._health.guarded("routes", self._routes.write_down())
                await self._health.guarded("cleaning", self._spool.sweep(self._clock()))

    # a round

    async def check_state(self) -> None:
        """Take in new files, look for due mail, start relayers while there is room."""
        self._follow_clock()
        await self._intake.take_in(self._start_relayers)
        if self._scan_at is None or self._clock() >= self._scan_at:
            await self._find_due()
        await self._start_relayers()

    async def _find_due(self) -> None:
        now, began = self._clock(), self._monotonic()
        period = self._scan_at = now + self._settings.check_interval  # also if the queue fails now
        await self._claims.keep(now)
        due = await self._queue.due(now, self._scheduler.settings.active_limit)
        self.progress.looked(due, now)  # before all of it is looked up again
        for each in due:
            self._routes.mail_for(each.destination, each.recipients)
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
            self._tasks.start("relayers", self._relays.relay(turn), among=self._relaying, about=turn.site)

    def _relayer_ended(self) -> None:
        self._slots.release()
        self.wake()

    def _start_relayers_soon(self) -> None:
        """In the loop's next turn: destinations found by then to be of one site share its transactions."""
        if not self._starting:
            self._starting = True
            self._tasks.start("start", self._start_now())

    async def _start_now(self) -> None:
        self._starting = False
        await self._start_relayers()

    # what runs beside

    def _follow_clock(self) -> None:
        """Take notice of a wall clock that was set, or of time that was lost."""
        now, leap = self._clock(), self._take_leap()
        if not leap:
            return
        self._events(ClockLeapt(set_by=leap.set_by, lost=leap.lost))
        self._scan_at, self._scan_not_before = None, now
        if leap.set_by:
            self._scheduler.clock_was_set(leap.set_by, now)
            self._set_by += leap.set_by

    async def _tell_queue_of_clock(self) -> None:
        """Again and again until the queue takes it; at the start without knowing of anything."""
        self._follow_clock()
        by, self._set_by = self._set_by, timedelta(0)
        if not by and self._queue_is_of_now:
            return
        try:
            await self._attempts.clock_was_set(by)
        except QueueError:
            self._set_by += by
            raise
        self._queue_is_of_now = True
        self._scan_at = None
        self.wake()

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
        await self._claims.offer_again()  # first: a body that cannot be unlinked is no reason to keep mail waiting
        await self._spool.sweep(self._clock())

    async def _watch_relayers(self) -> None:
        self._relays.cancel_hung(self._settings.watchdog)

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
        await self._tell_queue_of_clock()
        await self._sweep()
        await self._find_due()
        await self._routes.settled()
        return self._idle

    @property
    def _idle(self) -> bool:
        coming = self._intake.waiting or self._orphans.sweeping or self._routes.look_ups
        return not (coming or self._relaying or self._attempts.busy) and self._scheduler.idle


async def _first(*work: Coroutine[Any, Any, Any]) -> None:
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
