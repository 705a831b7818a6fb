"""A relayer's leave to connect, where its site has a connection_rate.

A run may connect several times: to the next address, in clear text after a handshake that failed, for messages with
REQUIRETLS.  So it is not the start of a relayer that is counted, but each connection as it is begun, and one that would
be too many waits.  What the reader must not break:

    No connection is begun that the scheduler has not counted.
    Relayers that have been started come before new ones; one that is over wants nothing any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from relayd.schedule.scheduler import Scheduler


class Permit:
    """One relayer's, which wants to connect since its turn.  `changed` is called when it has: another relayer of the
    site may be started, or has to wait until another time."""

    def __init__(
        self, scheduler: Scheduler, site: str, clock: Callable[[], datetime], changed: Callable[[], None]
    ) -> None:
        self._scheduler = scheduler
        self._site = site
        self._clock = clock
        self._changed = changed
        self._wants = True
        self._over = False

    async def __call__(self) -> None:
        """Return when the relayer may connect, once."""
        if not self._wants:
            self._wants = True
            self._scheduler.wants_to_connect(self._site, self._clock())
        while not self._over:
            now = self._clock()
            at = self._scheduler.connects(self._site, now)
            if at is None:
                self._wants = False
                self._changed()
                return
            await asyncio.sleep((at - now).total_seconds())

    def over(self) -> None:
        """The relayer is gone."""
        self._over = True
        if self._wants:
            self._scheduler.wants_no_more(self._site, self._clock())
