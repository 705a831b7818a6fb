"""Which sites may start a relayer now.

Pure: time is an argument, there is no I/O.  Invariants, checked by tests/schedule/test_scheduler.py:

    A site is in the turn order if and only if it has due mail, room and no back-off.
    At most `max_connections_per_site` relayers run for one site; one while it has not recovered.
    Deliveries in core never exceed `active_limit`.
    No site waits for more than one full turn of the others.

Costs: O(1) for each relayer started or ended and for each destination that falls due, O(log n) for each back-off.
How many relayers run altogether is the manager's semaphore.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from relayd.schedule.gates import SiteState, Verdict, verdict
from relayd.schedule.settings import ScheduleSettings

SMALLEST_BATCH = 10  # fewer deliveries are not worth a connection of their own
MOST_DESTINATIONS = 200  # of one site in one turn; the others have the next one


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A site's turn: a relayer may be started for it and claim up to `batch` deliveries at `destinations`."""

    site: str
    destinations: tuple[str, ...]
    batch: int


class Scheduler:
    """The turn order of sites.  See the module."""

    def __init__(self, settings: ScheduleSettings) -> None:
        self.settings = settings
        self._sites: dict[str, SiteState] = {}
        self._turns: OrderedDict[str, None] = OrderedDict()
        self._retries: list[tuple[datetime, str]] = []
        self._in_core = 0

    # what is known

    def mail_due(self, site: str, destination: str, recipients: int, now: datetime) -> None:
        """There is mail for `destination`, at `site`, that may be tried now: about `recipients` of it."""
        state = self._sites.setdefault(site, SiteState())
        state.due[destination] = max(recipients, state.due.get(destination, 0), 1)
        state.fresh.add(destination)
        self._place(site, now)

    def taken(self, turn: Turn, deliveries: int, now: datetime) -> None:
        """A relayer claimed this many in its turn; fewer than its batch means that its destinations have no more,
        but for mail that fell due while it claimed."""
        self._in_core += deliveries - turn.batch
        state = self._sites[turn.site]
        if deliveries < turn.batch:
            for destination in turn.destinations:
                if destination not in state.fresh:
                    state.due.pop(destination, None)
        self._place(turn.site, now)

    def ended(self, turn: Turn, deliveries: int, now: datetime) -> None:
        """The relayer of a turn that had claimed this many deliveries is gone."""
        self._in_core -= deliveries
        state = self._sites[turn.site]
        state.running -= 1
        self._place(turn.site, now)
        self._forget_if_idle(turn.site)

    def failed(self, site: str, retry_at: datetime, reason: str, now: datetime, *, failures: int | None = None) -> None:
        """The site could not be used; nothing starts for it before `retry_at`.

        `failures` is how often in a row that was so; None: once more than known.  Relayers that fail together, and
        so have the same `retry_at`, count once.
        """
        state = self._sites.setdefault(site, SiteState())
        if failures is None:
            failures = state.failures + (state.retry_at != retry_at)
        state.failures, state.retry_at, state.reason = failures, retry_at, reason
        heapq.heappush(self._retries, (retry_at, site))
        self._place(site, now)

    def recovered(self, site: str, now: datetime) -> None:
        """The site took mail, or an operator asked for another try."""
        if state := self._sites.get(site):
            state.failures, state.retry_at, state.reason = 0, None, ""
            self._place(site, now)
            self._forget_if_idle(site)

    # what to do

    def next(self, now: datetime) -> Turn | None:
        """Return the next site's turn and count its relayer as started; None if no site may start one now.

        The site goes to the end of the order.  `taken` and `ended` must follow.
        """
        self._end_back_offs(now)
        room = self.settings.active_limit - self._in_core
        if not self._turns or room <= 0:
            return None
        site, _ = self._turns.popitem(last=False)
        state = self._sites[site]
        destinations = tuple(state.due)[:MOST_DESTINATIONS]
        batch = min(self._batch(state), room)
        for destination in destinations:  # to the end of the site's own order
            state.due[destination] = max(1, state.due.pop(destination) - batch)
        state.fresh.difference_update(destinations)
        state.running += 1
        self._in_core += batch
        self._place(site, now)
        return Turn(site=site, destinations=destinations, batch=batch)

    def verdict(self, site: str, now: datetime) -> Verdict | None:
        """Return why the site has to wait at `now`, None if it need not."""
        return verdict(self._sites.get(site, SiteState()), self.settings, now)

    def failures(self, site: str) -> int:
        """Return how many attempts in a row could not use the site."""
        return self._sites[site].failures if site in self._sites else 0

    def knows(self, site: str) -> bool:
        """Return whether the site has due mail, a relayer, or a back-off."""
        return site in self._sites

    def wake_at(self) -> datetime | None:
        """Return when the next back-off ends, None if there is none."""
        return self._retries[0][0] if self._retries else None

    @property
    def idle(self) -> bool:
        """Whether no site may start a relayer and none runs."""
        return not self._turns and not any(state.running for state in self._sites.values())

    def failing(self) -> Collection[str]:
        """Return the sites that have not recovered."""
        return [key for key, state in self._sites.items() if state.failures]

    # within

    def _batch(self, state: SiteState) -> int:
        """Share what is due among the connections that the site may still have, within the bounds of a batch."""
        if state.failures:
            return 1  # the probe
        room = self.settings.max_connections_per_site - state.running
        share = -(-sum(state.due.values()) // room)
        return min(max(share, SMALLEST_BATCH), self.settings.max_messages_per_connection)

    def _place(self, site: str, now: datetime) -> None:
        """Put the site into the turn order, or take it out, as the first invariant says."""
        state = self._sites[site]
        if state.due and verdict(state, self.settings, now) is None:
            self._turns.setdefault(site)
        else:
            self._turns.pop(site, None)

    def _end_back_offs(self, now: datetime) -> None:
        while self._retries and self._retries[0][0] <= now:
            _, site = heapq.heappop(self._retries)
            if site in self._sites:
                self._place(site, now)

    def _forget_if_idle(self, site: str) -> None:
        state = self._sites[site]
        if not (state.due or state.running or state.failures):
            del self._sites[site]
            self._turns.pop(site, None)
