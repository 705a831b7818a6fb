"""One run of a relayer in a worker, as the daemon knows it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from relayd.mail.attempt import Attempt
from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Delivered
from relayd.relay.ports import Permit
from relayd.relay.relayer import Ended
from relayd.spool.notes import Claimed


class RelayerFailed(Exception):
    """A relayer raised in its worker; what it had not reported is undone."""


class Run:
    """`reported` has the ids of deliveries whose outcomes came; `over` is done when there is nothing more to come.

    `permit` is awaited before each of its connections, if there is one.
    `silent` is for how many seconds it had not stirred when its worker was asked last.
    """

    def __init__(self, deliveries: Sequence[Delivery], permit: Permit | None = None) -> None:
        self.permit = permit
        self.deliveries = tuple(deliveries)
        self.reported: set[str] = set()
        self.over: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self.silent = 0.0
        self._delivered = 0
        self._unrecorded: set[asyncio.Future[None]] = set()

    def report(self, attempt: Attempt) -> None:
        """Note that a delivery's outcomes came."""
        self.reported.add(attempt.delivery.id)
        self._delivered += any(isinstance(outcome, Delivered) for outcome in attempt.outcomes.values())

    def until_recorded(self, recorded: asyncio.Future[None]) -> None:
        """A report counts as recorded when `recorded` is done."""
        self._unrecorded.add(recorded)
        recorded.add_done_callback(self._unrecorded.discard)

    async def recorded(self) -> None:
        """Wait until all reports are durable, or were given up."""
        while self._unrecorded:
            await asyncio.wait(self._unrecorded)

    @property
    def left(self) -> list[Delivery]:
        """What has not been reported."""
        return [each for each in self.deliveries if each.id not in self.reported]

    def died(self, marked: Collection[Claimed]) -> Ended:
        """Return what a run left whose worker died: all but what was reported or has been marked is undone."""
        return Ended(
            undone=tuple(each for each in self.left if (each.lease, each.id) not in marked),
            settled=len(self.reported),
            delivered=self._delivered,
        )
