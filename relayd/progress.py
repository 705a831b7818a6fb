"""Whether mail moves: what each look for due mail shows of promise 2.

Mail that is due waits for a reason: its site backs off, has a rate, or as many relayers as it may; there is no room;
or it is being looked up.  What waits for none of these, look after look, is stuck.

Costs: a look at the gates for each destination that has been due for longer than LATE, at most MOST of them, those
that are due longest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import islice

from relayd.ports import DueLike
from relayd.routes import Routes, unresolved
from relayd.schedule.gates import active_limit, max_connections, verdict
from relayd.schedule.scheduler import Scheduler

LATE = timedelta(seconds=30)  # what is due for less has had no turn yet
MOST = 2_000  # destinations


class Progress:
    """See the module."""

    def __init__(self, scheduler: Scheduler, routes: Routes, monotonic: Callable[[], float]) -> None:
        self._scheduler = scheduler
        self._routes = routes
        self._monotonic = monotonic
        self._round_ended = monotonic()
        self._since: datetime | None = None
        self._stuck: dict[str, datetime] = {}  # since when it was seen so

    def round_ended(self) -> None:
        """A round of check_state has ended."""
        self._round_ended = self._monotonic()

    @property
    def since_round(self) -> timedelta:
        """How long ago the last round ended; before the first one, this was built."""
        return timedelta(seconds=self._monotonic() - self._round_ended)

    @property
    def look_ups(self) -> int:
        """How many destinations are being looked up, or are dealt with because they lead nowhere."""
        return self._routes.look_ups

    def looked(self, due: Sequence[DueLike], now: datetime) -> None:
        """A look has found this to be due, the longest waiting first; what is new in it was not looked up yet."""
        self._since = due[0].since if due else None
        late = islice((each.destination for each in due if now - each.since > LATE), MOST)
        self._stuck = {each: self._stuck.get(each, now) for each in late if self._is_free(each, now)}

    def waiting(self, now: datetime) -> timedelta:
        """Return for how long that has waited, as of the last look, that has been due longest, whatever for."""
        return timedelta(0) if self._since is None else max(now - self._since, timedelta(0))

    def stuck(self, now: datetime) -> tuple[str, timedelta] | None:
        """Return the destination that was seen stuck longest, and for how long; None if there is none."""
        if not self._stuck:
            return None
        destination, since = min(self._stuck.items(), key=lambda item: item[1])
        return destination, max(now - since, timedelta(0))

    def _is_free(self, destination: str, now: datetime) -> bool:
        """Whether nothing that is known keeps its mail waiting, and nobody is at it."""
        site = self._routes.known(destination)
        if self._routes.is_looking_up(destination) or (site is None and self.look_ups):
            return False
        state = self._scheduler.state_of(unresolved(destination) if site is None else site)
        if state.running or verdict(state, now):
            return False
        room = self._scheduler.room
        return not (active_limit(state, room) or max_connections(state, room))
