"""From destinations with mail to sites with a place in the scheduler.

What the reader must not break:

    A destination is looked up once at a time; mail that is found for it meanwhile counts.
    At most `LOOK_UPS` run at a time, and at most `active_limit` destinations wait for one: what finds no place is
    found again by the next look for due mail.
    A destination that fails fails all its mail; one that cannot be looked up backs off like a site, as `dns:NAME`.
    Where mail goes is written down in pieces, for operators and for what is said of mail that could never be tried;
    nothing is decided by it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from datetime import date, datetime

from relayd.claims import Claims
from relayd.health import Health
from relayd.mail.message import Message
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.route import Site
from relayd.ports import Attempts, Queue, Router
from relayd.schedule.scheduler import Scheduler
from relayd.tasks import Tasks

LOOK_UPS = 100  # destinations looked up at the same time
KNOWN = 20_000  # destinations whose site need not be written down again


class Routes:
    """See the module.  `ready` is called when a site has got mail; `changed` when a look-up has ended."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        queue: Queue,
        router: Router,
        claims: Claims,
        attempts: Attempts,
        tasks: Tasks,
        health: Health,
        clock: Callable[[], datetime],
        ready: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._queue = queue
        self._router = router
        self._claims = claims
        self._attempts = attempts
        self._tasks = tasks
        self._clock = clock
        self._ready = ready
        self._changed = changed
        self._health = health
        self._pending: deque[str] = deque()  # not begun
        self._waiting: dict[str, int] = {}  # recipients of those that are pending or being looked up
        self._looking_up: set[asyncio.Task[None]] = set()
        self._sites: dict[str, Site] = {}
        self._written: OrderedDict[str, tuple[str, date]] = OrderedDict()  # the site, and on which day
        self._unwritten: dict[str, str] = {}

    @property
    def look_ups(self) -> int:
        """How many destinations are being looked up, or wait for it, or are dealt with because they lead nowhere."""
        return len(self._looking_up)

    async def settled(self) -> None:
        """Wait until nothing is being looked up."""
        while self._looking_up:
            await asyncio.wait(self._looking_up)

    def site(self, key: str) -> Site:
        """Return a site that has mail or a relayer."""
        return self._sites[key]

    def known(self, destination: str) -> str | None:
        """Return the key of the site where the destination's mail was found to go, of those found lately."""
        written = self._written.get(destination)
        return written[0] if written else None

    def last(self, destination: str) -> Site | None:
        """Return where the destination's mail was found to go, if that site has mail or a relayer."""
        return self._sites.get(self.known(destination) or "")

    def is_looking_up(self, destination: str) -> bool:
        """Whether the destination is being looked up, or waits for it."""
        return destination in self._waiting

    def forget_unknown(self, key: str) -> None:
        """Forget a site that the scheduler knows no more."""
        if not self._scheduler.knows(key):
            self._sites.pop(key, None)

    def arrived(self, messages: Iterable[Message]) -> None:
        """Messages were added to the queue: find out where they go."""
        waiting = Counter(r.destination for m in messages for r in m.envelope.recipients)
        for destination, recipients in waiting.items():
            self.mail_for(destination, recipients)

    def mail_for(self, destination: str, recipients: int) -> None:
        """There is due mail for a destination: about so many recipients."""
        if destination in self._waiting:
            self._waiting[destination] += recipients
        elif len(self._waiting) < self._scheduler.settings.active_limit:
            self._waiting[destination] = recipients
            self._pending.append(destination)
            if len(self._looking_up) < LOOK_UPS:
                self._tasks.start("routes", self._look_up(), among=self._looking_up)

    async def write_down(self) -> None:
        """Record where mail goes, of what was looked up since the last call."""
        unwritten, self._unwritten = self._unwritten, {}
        if unwritten:
            await self._queue.routed(unwritten, self._clock())

    async def _look_up(self) -> None:
        """Look up one after the other until none is pending."""
        while self._pending:
            destination = self._pending.popleft()
            await self._health.guarded("routes", self._route(destination), destination)
            await asyncio.sleep(0)  # an answer that is remembered keeps nobody waiting, and ten thousand must not

    async def _route(self, destination: str) -> None:
        try:
            if self._scheduler.verdict(unresolved(destination), self._clock()):
                return
            where = await self._router.route(destination)
        finally:
            recipients = self._waiting.pop(destination)
            self._changed()
        if isinstance(where, Site):
            await self._routed(destination, where, recipients)
        else:
            await self._unroutable(destination, where)

    async def _routed(self, destination: str, site: Site, recipients: int) -> None:
        now = self._clock()
        self._note(destination, site.key)
        self._sites[site.key] = site
        hosts = (host.name for group in site.hosts for host in group)
        self._scheduler.mail_due(site.key, destination, recipients, now, hosts)
        self._ready()
        if self._scheduler.failures(unresolved(destination)):
            self._scheduler.recovered(unresolved(destination), now)
            await self._attempts.site_recovered(unresolved(destination))

    async def _unroutable(self, destination: str, outcome: Deferred | Failed) -> None:
        if isinstance(outcome, Deferred):
            self._note(destination, unresolved(destination))
            await self._back_off(destination, outcome)
        else:
            await self._settle(destination, outcome)

    async def _settle(self, destination: str, outcome: Deferred | Failed) -> None:
        """Settle all that is due there."""
        batch = self._scheduler.settings.limits.max_messages_per_connection
        while deliveries := await self._claims.claim((destination,), batch):
            try:
                await self._attempts.unroutable(deliveries, outcome)
            finally:
                self._claims.over(deliveries)

    async def _back_off(self, destination: str, outcome: Deferred) -> None:
        """Leave a destination alone for a while; of its mail only what was due longest is deferred itself."""
        deliveries = await self._claims.claim((destination,), 1)
        if not deliveries:
            return
        try:
            key = unresolved(destination)
            retry_at = await self._attempts.site_failed(key, outcome, deliveries)
        finally:
            self._claims.over(deliveries)
        if retry_at is None:
            await self._settle(destination, outcome)
        else:
            self._scheduler.failed(key, retry_at, str(outcome), self._clock())

    def _note(self, destination: str, site: str) -> None:
        noted = site, self._clock().date()  # once a day again: what is in use is not to be forgotten
        if self._written.get(destination) != noted:
            self._unwritten[destination] = site
        self._written[destination] = noted
        self._written.move_to_end(destination)
        if len(self._written) > KNOWN:
            self._written.popitem(last=False)


def unresolved(destination: str) -> str:
    """Return the key under which a destination backs off that cannot be looked up."""
    return f"dns:{destination}"
