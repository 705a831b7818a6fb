"""What a running daemon tells the command line that asks it over the control socket: what only it knows.

Nothing is changed by a question; at most a destination is looked up, through the router's cache.  An answer is as of
one instant of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from relayd.claims import Claims
from relayd.explanation import Standing, of_policy, of_route, of_site, written
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.route import Site
from relayd.orphans import Orphans
from relayd.ports import Attempts, Router
from relayd.routes import Routes, unresolved
from relayd.schedule.scheduler import Scheduler

LOOK_UP = 3.0  # seconds for a destination that nobody has looked up; who asks waits for five


class Answers:
    """See the module.  `owner` names this start of the daemon in its leases; `degraded` returns which parts cannot do
    their work, and why."""

    def __init__(
        self,
        *,
        owner: str,
        scheduler: Scheduler,
        routes: Routes,
        router: Router,
        claims: Claims,
        orphans: Orphans,
        attempts: Attempts,
        degraded: Callable[[], Mapping[str, str]],
        clock: Callable[[], datetime],
    ) -> None:
        self._owner = owner
        self._scheduler = scheduler
        self._routes = routes
        self._router = router
        self._claims = claims
        self._orphans = orphans
        self._attempts = attempts
        self._degraded = degraded
        self._clock = clock

    async def answer(self, question: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the answer, None if the question is not understood."""
        match question:
            case {"ask": "state"}:
                return self._state()
            case {"ask": "gates", "destination": str(destination), "leases": list(leases)}:
                return self._state() | await self._gates(destination) | {"begun": self._begun(leases)}
            case _:
                return None

    def _state(self) -> dict[str, Any]:
        return {
            "owner": self._owner,
            "degraded": sorted(self._degraded()),
            "reasons": dict(self._degraded()),
            "adopting": self._orphans.sweeping,
            "stretch": self._attempts.stretch.total_seconds(),
        }

    def _begun(self, leases: Sequence[Any]) -> dict[str, str]:
        """Return since when leases are in hand, of those that are."""
        begun = {lease: self._claims.begun(lease) for lease in leases if isinstance(lease, int)}
        return {str(lease): at.isoformat() for lease, at in begun.items() if at}

    async def _gates(self, destination: str) -> dict[str, Any]:
        where, until = await self._where(destination)
        gates: list[Standing] = [of_route(where, until)]
        site, running, room = self._routes.known(destination), 0, self._scheduler.room
        if isinstance(where, Site):
            site = where.key
            names = (destination, *(host.name for group in where.hosts for host in group))
            state = self._scheduler.state_of(site, names)
            running = state.running
            gates.append(of_policy(where))
            gates += of_site(state, room, self._clock())
        return {
            "site": site,
            "gates": [written(gate) for gate in gates],
            "relayers": running,
            "in_turn": room.running > 0 and site is not None and self._scheduler.in_turn(site),
        }

    async def _where(self, destination: str) -> tuple[Site | Deferred | Failed | None, datetime | None]:
        """Return where mail goes, None if that is being looked up; and when it is looked up again if it failed."""
        if self._routes.is_looking_up(destination):
            return None, None
        if closed := self._scheduler.verdict(unresolved(destination), self._clock()):
            return Deferred(reason=closed.why), closed.until
        if site := self._routes.last(destination):
            return site, None
        try:
            async with asyncio.timeout(LOOK_UP):
                return await self._router.route(destination), None
        except TimeoutError:
            return None, None
