"""The attempt manager: what relayers report becomes changes of the queue.

It alone settles.  It holds no rule of its own: settle.py decides what an outcome means, retry.py when to try again,
notification.py what the sender is told; commits.py and notifier.py see to it that this reaches the disk, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from relayd.attempt.commits import Commits, Report
from relayd.attempt.health import Health, tell
from relayd.attempt.notifier import Notifier
from relayd.attempt.ports import Ledger, Notifications
from relayd.attempt.retry import longest, site_retry
from relayd.attempt.settings import Bounds, RetrySettings
from relayd.attempt.settle import settle, settle_expired, single_line
from relayd.mail.attempt import Attempt
from relayd.mail.back_off import BackOff
from relayd.mail.delivery import Delivery
from relayd.mail.errors import QueueError
from relayd.mail.events import Events, SiteBackedOff, SiteRecovered, Warned
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.settlement import Settlement
from relayd.mail.tls import Evidence
from relayd.mail.transcript import Transcript


class AttemptManager:
    """See the module.

    Args:
        settings: when to try again and when to give up; `reload` replaces them.
        hostname: our own name, as notifications tell it.
        ledger, notifications: see ports.py.
        clock: returns the time, aware.
        jitter: returns a number from 0.0 to 1.0.
        events: is told of each recipient's attempt after its commit, of notifications, and of sites' back-off.
        retry_due: is told when something that was deferred falls due, after the commit.
        site_forgotten: is told of a site whose back-off is forgotten, since nobody has tried it for a lifetime.
        lost_within: returns how much time, of a span up to now, nothing could be tried in.
    """

    def __init__(
        self,
        settings: RetrySettings,
        hostname: str,
        *,
        ledger: Ledger,
        notifications: Notifications,
        clock: Callable[[], datetime],
        jitter: Callable[[], float],
        events: Events,
        retry_due: Callable[[datetime], None],
        site_forgotten: Callable[[str], None] = lambda site: None,
        lost_within: Callable[[timedelta], timedelta] = lambda span: timedelta(0),
        bounds: Bounds | None = None,
    ) -> None:
        self._settings = settings
        self._site_forgotten = site_forgotten
        self._bounds = bounds or Bounds()
        self._ledger = ledger
        self._clock = clock
        self._jitter = jitter
        self._events = events
        self._lost_within = lost_within
        self._health = Health("sweep", events)
        self._sites: dict[str, BackOff] = {}
        self._sweeping = False
        self._crowded = False  # and that was told
        self._notifier = Notifier(
            ledger, notifications, hostname=hostname, retry=settings, events=events, bounds=self._bounds
        )
        self._commits = Commits(ledger, events, self._notifier.wake, retry_due, self._bounds)

    @property
    def busy(self) -> bool:
        """Whether an outcome is not durable yet, or a notification may still be owed."""
        return self._commits.busy or self._notifier.busy

    def start(self) -> None:
        """Begin to commit, and to make the notifications that an earlier start left owed."""
        self._commits.start()
        self._notifier.start()

    def reload(self, settings: RetrySettings, hostname: str) -> None:
        """Decide by these from now on."""
        self._settings = settings
        self._notifier.retry = settings
        self._notifier.hostname = hostname

    async def close(self, grace: timedelta = timedelta(seconds=10)) -> None:
        """Commit what was reported and finish the notifications in hand, each for at most `grace`.

        What is not durable then is marked at the next start; notifications still owed are made then.
        """
        await self._notifier.close(grace)
        await self._commits.close(grace)

    def report(self, attempt: Attempt) -> Awaitable[None]:
        """Settle an attempt.  It is on its way when this returns; the awaitable resolves when it is durable.

        Raises:
            KeyError: at once, if the attempt lacks a recipient's outcome.
            QueueError: from the awaitable, if `close` gave up before the queue took it.
        """
        now = self._clock()
        settlement = settle(attempt, self._stretched(), now, jitter=self._jitter())
        return self._commit(
            settlement, attempt.ended, tls=attempt.tls, seconds=attempt.seconds, altered=attempt.altered
        )

    async def unroutable(self, deliveries: Sequence[Delivery], outcome: Failed | Deferred) -> None:
        """Settle what has no route, now or ever; returns when that is durable."""
        await self._settle_alike(deliveries, outcome)

    async def site_failed(
        self,
        site_key: str,
        failure: Deferred,
        undone: Sequence[Delivery],
        *,
        peer: str = "",
        transcript: Transcript = (),
    ) -> datetime | None:
        """Let a site back off as a whole, and defer `undone`, which was tried.

        Relayers that fail together count as one failure: one that ends while the site backs off already moves
        nothing.  Returns, when that is durable, when the site is to be tried again; None if too many back off as it
        is: then each of its messages has to wait by itself, as `undone` does.
        """
        now = self._clock()
        known = self._sites.get(site_key)
        if known is None and len(self._sites) >= self._bounds.sites:
            self._tell_crowded()
            await self._settle_alike(undone, failure, peer=peer, transcript=transcript)
            return None
        if known is None or known.retry_at <= now:
            known = self._sites[site_key] = self._next_back_off(site_key, known, failure, peer, now)
            await self._remember(known)
            event = SiteBackedOff(site=site_key, failures=known.failures, retry_at=known.retry_at, reason=str(failure))
            tell(self._events, event)
        await self._settle_alike(undone, failure, peer=peer, retry_at=known.retry_at, transcript=transcript)
        return known.retry_at

    def _tell_crowded(self) -> None:
        if not self._crowded:
            detail = f"more than {self._bounds.sites} sites are out of reach; the mail of further ones waits one by one"
            tell(self._events, Warned(about="sites", detail=detail))
        self._crowded = True

    def _next_back_off(
        self, site_key: str, known: BackOff | None, failure: Deferred, peer: str, now: datetime
    ) -> BackOff:
        failures = known.failures + 1 if known else 1
        return BackOff(
            site=site_key,
            failures=failures,
            retry_at=site_retry(self._settings, failures, now, jitter=self._jitter(), reply=failure.reply),
            since=known.since if known else now,
            reply=single_line(str(failure)),
            dsn=str(failure.dsn),
            peer=single_line(peer),
        )

    async def site_recovered(self, site_key: str) -> None:
        """Forget that a site backed off."""
        known = self._sites.pop(site_key, None)
        self._crowded = self._crowded and len(self._sites) > self._bounds.sites // 2
        if known:
            await self._remember(replace(known, failures=0))
            tell(self._events, SiteRecovered(site=site_key))

    def restore(self, known: BackOff) -> None:
        """Take up a back-off that an earlier start recorded."""
        self._sites[known.site] = known

    async def clock_was_set(self, by: timedelta) -> None:
        """Let what waits for a time wait as long as before the wall clock was set `by` so much; with 0, as at a start,
        see only to what waits for a time that nobody can have meant.

        Raises:
            QueueError: it is not recorded, and nothing is done.
        """
        now = self._clock()
        await self._ledger.clock_was_set(by, now, now + longest(self._settings))
        for key, known in self._sites.items():
            self._sites[key] = replace(known, retry_at=known.retry_at + by, since=min(known.since + by, now))

    @property
    def stretch(self) -> timedelta:
        """How much longer than its lifetime a message is kept now, since nothing could be tried for so long."""
        return self._lost_within(self._settings.lifetime)

    async def sweep(self, now: datetime) -> None:
        """Fail what is past its lifetime or its deadline, and owe warnings for what waits long; returns when that is
        durable.

        Driven by the clock alone: nothing gets stuck because nothing is tried.  A sweep that finds another one at
        work leaves it to that.
        """
        if self._sweeping:
            return
        self._sweeping = True
        try:
            await self._expire(now)
            await self._warn(now)
            await self._forget_sites(now)
        except QueueError as error:
            self._health.failed(error)
        else:
            self._health.works()
        finally:
            self._sweeping = False

    def _stretched(self) -> RetrySettings:
        """A message's lifetime is time in which it could be tried."""
        return (
            replace(self._settings, lifetime=self._settings.lifetime + self.stretch) if self.stretch else self._settings
        )

    async def _expire(self, now: datetime) -> None:
        before = now - self._stretched().lifetime
        until = now + self._bounds.expiry_lease
        while deliveries := await self._ledger.expire(before, self._bounds.sweep, now, until=until):
            await _all(self._commit(settle_expired(delivery, now), now) for delivery in deliveries)

    async def _warn(self, now: datetime) -> None:
        after = self._settings.warn_after
        before = now - after - self._lost_within(after) if after else None
        while await self._ledger.warn(before, self._bounds.sweep, now):
            self._notifier.wake()

    async def _forget_sites(self, now: datetime) -> None:
        """A site that nobody has tried for a lifetime has no mail any more; its row would stay for ever."""
        before = now - self._stretched().lifetime
        stale = [key for key, known in self._sites.items() if known.retry_at < before]
        for key in stale:
            known = self._sites.get(key)
            if known is None or known.retry_at >= before:  # while another was written down it recovered, or failed
                continue
            del self._sites[key]
            self._site_forgotten(key)  # first: it may fail again while this is written down
            await self._remember(replace(known, failures=0))

    async def _settle_alike(
        self,
        deliveries: Iterable[Delivery],
        outcome: Failed | Deferred,
        *,
        peer: str = "",
        retry_at: datetime | None = None,
        transcript: Transcript = (),
    ) -> None:
        now = self._clock()
        await _all(
            self.report(
                Attempt(
                    delivery=delivery,
                    outcomes=dict.fromkeys((recipient.number for recipient in delivery.recipients), outcome),
                    ended=now,
                    peer=peer,
                    retry_at=retry_at,
                    transcript=transcript,
                )
            )
            for delivery in deliveries
        )

    async def _remember(self, back_off: BackOff) -> None:
        """A back-off that cannot be recorded is kept in memory only: after a restart the site is tried at once."""
        try:
            await self._ledger.back_off(back_off)
        except QueueError as error:
            self._health.failed(error)

    def _commit(
        self,
        settlement: Settlement,
        ended: datetime,
        *,
        tls: Evidence | None = None,
        seconds: float = 0.0,
        altered: str = "",
    ) -> Awaitable[None]:
        durable = asyncio.get_running_loop().create_future()
        age = ended - settlement.delivery.arrived
        report = Report(settlement=settlement, durable=durable, age=age, tls=tls, seconds=seconds, altered=altered)
        self._commits.add(report)
        return durable


async def _all(reports: Iterable[Awaitable[None]]) -> None:
    """Wait for all of them: each is on its way already, so one that fails must not leave the others unwaited for."""
    waiting = [asyncio.ensure_future(report) for report in reports]
    if waiting:
        await asyncio.wait(waiting)
        for report in waiting:
            report.result()
