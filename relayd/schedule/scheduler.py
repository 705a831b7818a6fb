"""Which sites may start a relayer now.

Pure: time is an argument, there is no I/O.  Invariants, checked by tests/schedule/test_scheduler.py:

    A site is in the turn order if and only if it has due mail and all its gates are open.
    At most as many relayers run for one site as its window allows; one while it has not recovered.
    No site is connected to more often than its rate says, whatever its relayers are.
    At most `max_connections` relayers run; of those at most `unreserved` for sites that are not quick, or have one.
    Deliveries in core never exceed `active_limit`.
    No site waits for more than one full turn of the others.

The reserve is what keeps slow sites from harming others: a server that takes its time holds its connections for
minutes, and a few such sites, or a thousand with one message each, would hold all there are.  So the last quarter of
the connections is for the first relayer of a site that was quick when it was served last.

Costs: O(1) for each relayer started or ended and for each destination that falls due, O(log n) for each gate that
opens by the clock.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice

from relayd.schedule.gates import Room, SiteState, Verdict, allowed, verdict
from relayd.schedule.rate import Meter
from relayd.schedule.remembered import RememberedSites
from relayd.schedule.settings import ScheduleSettings
from relayd.schedule.window import Window

SMALLEST_BATCH = 10  # fewer deliveries are not worth a connection of their own
MOST_DESTINATIONS = 200  # of one site in one turn; the others have the next one
MANY = 500  # recipients: an estimate that says "at least so many", since the queue counts no further
QUICK = timedelta(seconds=2)  # for each message, connecting included


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A site's turn: a relayer may be started for it and claim up to `batch` deliveries at `destinations`.

    `limited`: the site has a connection_rate, so the relayer wants to connect and has to ask before it does.
    """

    site: str
    destinations: tuple[str, ...]
    batch: int
    limited: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """What a server said of how much we send: too many connections (`crowded`; `stated` is the limit that it named),
    else too much in a time."""

    crowded: bool
    why: str
    stated: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a relayer's connection went: so many messages settled in that time, and what the server complained of."""

    settled: int = 0
    took: timedelta = timedelta(0)
    complaint: Complaint | None = None


NOTHING = Course()


class Scheduler:
    """The turn order of sites.  See the module."""

    def __init__(self, settings: ScheduleSettings) -> None:
        self._settings = settings
        self._sites: dict[str, SiteState] = {}
        self._remembered = RememberedSites()
        self._turns: OrderedDict[str, None] = OrderedDict()
        self._reserved: OrderedDict[str, None] = OrderedDict()  # of `_turns`, who may have a reserved connection
        self._openings: list[tuple[datetime, str]] = []  # when a gate opens by the clock
        self._running = 0
        self._in_core = 0

    @property
    def settings(self) -> ScheduleSettings:
        """The limits in force."""
        return self._settings

    def reload(self, settings: ScheduleSettings, now: datetime) -> None:
        """Use other limits from now on; relayers that run are not disturbed."""
        self._settings = settings
        self._remembered.forget_rules()
        for site, state in self._sites.items():
            state.rule = settings.rule_for(state.due, None)
            state.limits = settings.limits_of(state.rule)
            self._place(site, now)

    # what is known

    def mail_due(self, site: str, destination: str, recipients: int, now: datetime, hosts: Iterable[str] = ()) -> None:
        """There is mail for `destination`, at `site`, that may be tried now: about `recipients` of it.

        `hosts` are the names of the site's mail exchangers.  Of more destinations than there may be deliveries in core
        the rest is left to the next look for due mail.
        """
        state = self._known(site, now)
        if len(state.due) >= self._settings.active_limit and destination not in state.due:
            return
        if self._settings.rules:
            state.rule = self._settings.rule_for((destination, *hosts), state.rule)
        state.limits = self._settings.limits_of(state.rule)
        state.due[destination] = max(recipients, state.due.get(destination, 0), 1)
        state.fresh.add(destination)
        self._place(site, now)

    def taken(self, turn: Turn, deliveries: int, now: datetime) -> None:
        """A relayer claimed this many in its turn.

        Fewer than its batch means that its destinations have no more, but for mail that fell due while it claimed; a
        whole batch means that there is probably more than was thought.
        """
        self._in_core += deliveries - turn.batch
        state = self._sites[turn.site]
        state.messages = _given_back(state, turn.batch - deliveries, now)
        if deliveries < turn.batch:
            for destination in turn.destinations:
                if destination not in state.fresh:
                    state.due.pop(destination, None)
        else:
            for destination in turn.destinations:
                state.due[destination] = max(2 * turn.batch // len(turn.destinations), state.due.get(destination, 1))
        self._place(turn.site, now)

    def ended(self, turn: Turn, deliveries: int, now: datetime, course: Course = NOTHING) -> None:
        """The relayer of a turn that had claimed this many deliveries is gone."""
        state = self._sites[turn.site]
        self._learn(state, deliveries, course, now)
        self._in_core -= deliveries
        self._running -= 1
        state.running -= 1
        self._place(turn.site, now)
        self._forget_if_idle(turn.site, now)

    def refused(self, site: str, complaint: Complaint, now: datetime) -> bool:
        """A relayer that still counts could not use the site: whether that is a limit of connections, since others
        are open.  If not, the site is out of reach, and `failed` must follow.

        Of a site that is down all relayers end so; then it is the last of them that says so.
        """
        state = self._sites[site]
        others = state.running - 1
        if others < 1:
            return False
        state.window = state.window.refused(others, complaint.stated, complaint.why, now)
        self._place(site, now)
        return True

    def failed(self, site: str, retry_at: datetime, reason: str, now: datetime, *, failures: int | None = None) -> None:
        """The site could not be used; nothing starts for it before `retry_at`.

        `failures` is how often in a row that was so; None: once more than known.  Relayers that fail together, and
        so have the same `retry_at`, count once.
        """
        state = self._known(site, now)
        if failures is None:
            failures = state.failures + (state.retry_at != retry_at)
        state.failures, state.retry_at, state.reason = failures, retry_at, reason
        self._place(site, now)

    def recovered(self, site: str, now: datetime) -> None:
        """The site took mail, or an operator asked for another try."""
        if state := self._sites.get(site):
            if state.failures:
                state.window = Window(size=state.limits.initial, why=state.window.why)
            state.failures, state.retry_at, state.reason = 0, None, ""
            self._place(site, now)
            self._forget_if_idle(site, now)

    def clock_was_set(self, by: timedelta, now: datetime) -> None:
        """The wall clock was set `by` so much: a site that backs off does so as long as before."""
        self._openings.clear()
        for site, state in self._sites.items():
            state.opens_at = None
            if state.retry_at is not None:
                state.retry_at += by
            self._place(site, now)

    # who connects

    def wants_to_connect(self, site: str, now: datetime) -> None:
        """A relayer of a limited turn is to connect once more."""
        self._sites[site].connecting += 1
        self._place(site, now)

    def connects(self, site: str, now: datetime) -> datetime | None:
        """A relayer that wants to connect is about to: None if it may, which is counted; else when to ask again."""
        state = self._sites[site]
        if rate := state.limits.connection_rate:
            if not state.connections.room(rate, now):
                return state.connections.open_at(rate, now)
            state.connections = state.connections.taken(rate, 1, now)
        self.wants_no_more(site, now)
        return None

    def wants_no_more(self, site: str, now: datetime) -> None:
        """A relayer that wanted to connect has connected, or will not; that must be told before it has `ended`."""
        self._sites[site].connecting -= 1
        self._place(site, now)

    # what to do

    def next(self, now: datetime) -> Turn | None:
        """Return the next site's turn and count its relayer as started; None if no site may start one now.

        The site goes to the end of the order.  `taken` and `ended` must follow.
        """
        self._open(now)
        room = self._settings.active_limit - self._in_core
        order = self._turns if self._running < self._settings.unreserved else self._reserved
        if not order or room <= 0 or self._running >= self._settings.max_connections:
            return None
        site = next(iter(order))
        del self._turns[site]
        self._reserved.pop(site, None)
        state = self._sites[site]
        batch = min(self._batch(state, now), room)
        limited = state.limits.connection_rate is not None
        turn = Turn(site=site, destinations=_chosen(state, batch), batch=batch, limited=limited)
        state.fresh.difference_update(turn.destinations)
        state.messages = _given_back(state, -batch, now)
        state.connecting += limited
        state.running += 1
        self._running += 1
        self._in_core += batch
        self._place(site, now)
        return turn

    def wake_at(self) -> datetime | None:
        """Return when the next gate opens by the clock, None if none does."""
        return self._openings[0][0] if self._openings else None

    # what it knows

    def verdict(self, site: str, now: datetime) -> Verdict | None:
        """Return why the site has to wait at `now`, None if it need not."""
        return verdict(self.state_of(site), now)

    def state_of(self, site: str, names: Iterable[str] = ()) -> SiteState:
        """Return what is known of a site; it is not to be changed.

        One that has no mail has the limits of the rule that applies to `names`, of its destinations and hosts.
        """
        if known := self._sites.get(site):
            return known
        known = self._remembered.look(site) or SiteState.of(self._settings.limits)
        return replace(known, limits=self._settings.limits_of(self._settings.rule_for(names, known.rule)))

    @property
    def room(self) -> Room:
        """What is in use of what all sites share."""
        return Room(
            running=self._running,
            max_connections=self._settings.max_connections,
            unreserved=self._settings.unreserved,
            in_core=self._in_core,
            active_limit=self._settings.active_limit,
        )

    @property
    def sites(self) -> Mapping[str, SiteState]:
        """The sites that have due mail, a relayer or a back-off; they are not to be changed."""
        return self._sites

    def in_turn(self, site: str) -> bool:
        """Whether the site is in the turn order: it has due mail, and may start a relayer when there is room."""
        return site in self._turns

    def failures(self, site: str) -> int:
        """Return how many attempts in a row could not use the site."""
        return self._sites[site].failures if site in self._sites else 0

    def knows(self, site: str) -> bool:
        """Return whether the site has due mail, a relayer, or a back-off."""
        return site in self._sites

    @property
    def idle(self) -> bool:
        """Whether no site may start a relayer and none runs."""
        return not self._turns and not self._running

    def failing(self) -> Collection[str]:
        """Return the sites that have not recovered."""
        return [key for key, state in self._sites.items() if state.failures]

    # within

    def _known(self, site: str, now: datetime) -> SiteState:
        state = self._sites.get(site)
        if state is None:
            state = self._remembered.take(site, now) or SiteState.of(self._settings.limits)
            self._sites[site] = state
        return state

    def _learn(self, state: SiteState, deliveries: int, course: Course, now: datetime) -> None:
        complaint = course.complaint
        if complaint and complaint.crowded:
            state.window = state.window.refused(max(1, state.running - 1), complaint.stated, complaint.why, now)
        elif complaint:
            state.window = state.window.throttled(complaint.why, now)
        elif course.settled:
            state.window = state.window.served(course.settled, state.running, state.limits, now)
        if deliveries:
            state.quick = course.settled > 0 and course.took <= QUICK * course.settled

    def _batch(self, state: SiteState, now: datetime) -> int:
        """Share what is due among the connections that the site may still have, within the bounds of a batch."""
        if state.failures:
            return 1  # the probe
        room = allowed(state, now) - state.running
        waiting = sum(islice(state.due.values(), MOST_DESTINATIONS))
        share = waiting if waiting >= MANY else -(-waiting // room)
        batch = min(max(share, SMALLEST_BATCH), state.limits.max_messages_per_connection)
        rate = state.limits.message_rate
        return min(batch, state.messages.room(rate, now)) if rate else batch

    def _place(self, site: str, now: datetime) -> None:
        """Put the site into the turn order, or take it out, as the first invariant says."""
        state = self._sites[site]
        closed = verdict(state, now)
        if closed and closed.until and state.due and closed.until != state.opens_at:
            state.opens_at = closed.until
            heapq.heappush(self._openings, (closed.until, site))
        if closed or not state.due:
            self._turns.pop(site, None)
            self._reserved.pop(site, None)
            return
        self._turns.setdefault(site)
        if state.quick and not state.running:
            self._reserved.setdefault(site)
        else:
            self._reserved.pop(site, None)

    def _open(self, now: datetime) -> None:
        while self._openings and self._openings[0][0] <= now:
            _, site = heapq.heappop(self._openings)
            if state := self._sites.get(site):
                state.opens_at = None
                self._place(site, now)

    def _forget_if_idle(self, site: str, now: datetime) -> None:
        state = self._sites[site]
        if not (state.due or state.running or state.failures):
            del self._sites[site]
            self._turns.pop(site, None)
            self._reserved.pop(site, None)
            self._remembered.keep(site, state, now)


def _chosen(state: SiteState, batch: int) -> tuple[str, ...]:
    """Choose destinations that are thought to fill a batch; they go to the end of the site's own order."""
    chosen: list[str] = []
    wanted = batch
    for destination, waiting in islice(state.due.items(), MOST_DESTINATIONS):
        if wanted <= 0:
            break
        chosen.append(destination)
        wanted -= waiting
    for destination in chosen:
        waiting = state.due.pop(destination)
        state.due[destination] = waiting if waiting >= MANY else max(1, waiting - batch)
    return tuple(chosen)


def _given_back(state: SiteState, messages: int, now: datetime) -> Meter:
    """Return the site's meter of messages with so many given back; a negative number takes them."""
    rate = state.limits.message_rate
    return state.messages.taken(rate, -messages, now) if rate and messages else state.messages
