"""The relayers that run: from a site's turn to the end of its connection.

What the reader must not break:

    Every delivery that was claimed is settled, given back, or left to the end of its lease; never forgotten.
    A turn is ended in the scheduler exactly once, and its slot released.
    A site that is out of reach costs one message's attempt and one row of its own, however much mail waits for it:
    what else was claimed for it is given back as it was.
    A site that throttles us and takes nothing is left alone as well: not every message is sent for the same answer.
    A relayer that shows no sign of life for longer than any wait of its own allows is cancelled, told of, and its
    mail tried again: nothing gets stuck for want of a timeout.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from relayd.claims import Claims
from relayd.mail.delivery import Delivery
from relayd.mail.events import Events, Trouble
from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.refusal import Refusal, refusal, stated_connections
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.permit import Permit
from relayd.ports import Attempts, Ended, NewRelayer, Relayer
from relayd.routes import Routes
from relayd.schedule.scheduler import NOTHING, Complaint, Course, Scheduler, Turn


class Relays:
    """See the module.  `tasks` are those whose end a stop waits for; `over` is called at the end of each,
    `changed` when another may be started."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        routes: Routes,
        claims: Claims,
        attempts: Attempts,
        new_relayer: NewRelayer,
        clock: Callable[[], datetime],
        events: Events,
        monotonic: Callable[[], float],
        over: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._routes = routes
        self._claims = claims
        self._attempts = attempts
        self.new_relayer = new_relayer
        self._clock = clock
        self._events = events
        self._monotonic = monotonic
        self._over = over
        self._changed = changed
        self._running: dict[Relayer, tuple[str, asyncio.Task[None]]] = {}
        self._hung: set[Relayer] = set()
        self.stopping = False

    def __len__(self) -> int:
        return len(self._running)

    def finish(self) -> None:
        """Start nothing more; what is under way settles."""
        self.stopping = True
        for relayer in self._running:
            relayer.finish()

    def cancel_hung(self, patience: timedelta) -> None:
        """Cancel relayers that have not stirred for so long."""
        now = self._monotonic()
        for relayer, (site, task) in self._running.items():
            if relayer not in self._hung and now - relayer.stirred > patience.total_seconds():
                detail = f"{site}: no sign of life for {now - relayer.stirred:.0f} s, so its connection is given up"
                self._events(Trouble(part="watchdog", detail=detail))
                self._hung.add(relayer)
                task.cancel()

    async def relay(self, turn: Turn) -> None:
        """Use a turn."""
        deliveries: list[Delivery] = []
        course = NOTHING
        permit = Permit(self._scheduler, turn.site, self._clock, self._changed) if turn.limited else None
        try:
            try:
                deliveries = await self._claims.claim(turn.destinations, turn.batch)
            finally:
                self._scheduler.taken(turn, len(deliveries), self._clock())
            if deliveries:
                course = await self._send(turn.site, deliveries, permit)
        finally:
            self._claims.over(deliveries)
            if permit is not None:
                permit.over()
            self._scheduler.ended(turn, len(deliveries), self._clock(), course)
            self._routes.forget_unknown(turn.site)
            self._over()

    async def _send(self, site: str, deliveries: list[Delivery], permit: Permit | None) -> Course:
        if self.stopping:  # since the claim was begun
            await self._claims.give_back(deliveries)
            return NOTHING
        relayer = self.new_relayer(self._routes.site(site), permit)
        began = self._monotonic()
        try:
            ended = await self._run(site, relayer, deliveries)
        except Exception as error:
            self._events(Trouble(part="relayer", detail=f"{site}: {error!r}"))
            await self._defer_unreported(relayer, deliveries, type(error).__name__)
            return NOTHING
        course = _course(ended, timedelta(seconds=self._monotonic() - began))
        match ended.failure:
            case Deferred() as failure:
                await self._failed(site, failure, ended, course)
            case Failed() as failure:
                await self._attempts.unroutable(ended.undone, failure)
            case None if ended.throttled and not ended.delivered:
                await self._throttled(site, ended.throttled, ended, course)
            case None:
                await self._served(site, ended)
        return course

    async def _run(self, site: str, relayer: Relayer, deliveries: list[Delivery]) -> Ended:
        """Let a relayer run; one that `cancel_hung` has cancelled ends with TimeoutError."""
        task = asyncio.current_task()
        assert task is not None
        self._running[relayer] = site, task
        try:
            return await relayer.run(deliveries)
        except asyncio.CancelledError:
            if relayer not in self._hung or task.uncancel():
                raise
            raise TimeoutError from None
        finally:
            del self._running[relayer]
            self._hung.discard(relayer)

    async def _defer_unreported(self, relayer: Relayer, deliveries: Sequence[Delivery], what: str) -> None:
        undone = [delivery for delivery in deliveries if not relayer.reported(delivery)]
        reason = f"internal error: {what}"
        await self._attempts.unroutable(undone, Deferred(status=EnhancedStatus(4, 3, 0), reason=reason))

    async def _failed(self, site: str, failure: Deferred, ended: Ended, course: Course) -> None:
        """The site let nobody in, or none further: a limit of connections, or it is out of reach."""
        complaint = course.complaint or Complaint(crowded=True, why=str(failure))
        if self._scheduler.refused(site, complaint, self._clock()):
            await self._return(site, ended.undone)
            return
        retry_at = await self._attempts.site_failed(
            site, failure, ended.undone[:1], peer=ended.peer, transcript=ended.transcript
        )
        if retry_at is None:
            await self._attempts.unroutable(ended.undone[1:], failure)
            return
        self._scheduler.failed(site, retry_at, str(failure), self._clock())
        await self._return(site, ended.undone[1:])

    async def _throttled(self, site: str, reply: Reply, ended: Ended, course: Course) -> None:
        """The site took nothing because we send too much: trying the next message at once would be more of it."""
        failure = Deferred(reply, Scope.HOST)
        if course.complaint and not self._scheduler.refused(site, course.complaint, self._clock()):
            retry_at = await self._attempts.site_failed(site, failure, (), peer=ended.peer)
            if retry_at is None:
                await self._attempts.unroutable(ended.undone, failure)
                return
            self._scheduler.failed(site, retry_at, str(failure), self._clock())
        await self._return(site, ended.undone)

    async def _served(self, site: str, ended: Ended) -> None:
        """The site took mail, or nobody asked it to: an operator took all back, or a worker died."""
        if ended.settled and self._scheduler.failures(site):
            self._scheduler.recovered(site, self._clock())
            await self._attempts.site_recovered(site)
        await self._return(site, ended.undone)

    async def _return(self, site: str, undone: Sequence[Delivery]) -> None:
        """Give back what was not tried; it is due as before."""
        if await self._claims.give_back(undone):
            now = self._clock()
            for destination, recipients in Counter(r.destination for d in undone for r in d.recipients).items():
                self._scheduler.mail_due(site, destination, recipients, now)


def _course(ended: Ended, took: timedelta) -> Course:
    return Course(settled=ended.settled, took=took, complaint=_complaint(ended.throttled))


def _complaint(reply: Reply | None) -> Complaint | None:
    if reply is None:
        return None
    crowded = refusal(reply) is Refusal.CROWDED
    return Complaint(crowded=crowded, why=str(reply), stated=stated_connections(reply))
