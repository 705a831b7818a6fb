"""From the drop directory into the queue: batch by batch, and, where the spool takes nothing, a file now and then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from relayd.health import Health
from relayd.mail.events import Accepted, Events, Repeated
from relayd.mail.message import Message
from relayd.mail.submission import Submission
from relayd.ports import Pickup, Spool

BATCH = 500  # files taken in one commit
LONGEST = 1.0  # seconds of one round's intake
PAUSE = 1.0  # seconds between two tries to take a file in while the spool takes none
PART = "spool"  # in events


class Intake:
    """See the module.  `arrived` is told of messages that are ours from now on."""

    def __init__(
        self,
        pickup: Pickup,
        spool: Spool,
        *,
        arrived: Callable[[Iterable[Message]], None],
        health: Health,
        events: Events,
        monotonic: Callable[[], float],
    ) -> None:
        self._pickup = pickup
        self._spool = spool
        self._arrived = arrived
        self._health = health
        self._events = events
        self._monotonic = monotonic
        self._not_before = 0.0  # monotonic: nothing is taken before
        self.closed = False

    @property
    def waiting(self) -> bool:
        """Whether a file is left that may become ready."""
        return self._pickup.waiting()

    def next_look(self) -> float | None:
        """Return in how many seconds to `take_in` again, None if only an event or the period calls."""
        look = self._not_before if self._health.is_degraded(PART) else self._pickup.next_look()
        return None if look is None else max(look, self._not_before) - self._monotonic()

    async def take_in(self, after_each: Callable[[], Awaitable[None]]) -> None:
        """Take what was dropped; `after_each` batch something else has its turn.

        Not for longer than `LONGEST`: files that never cease must not keep the round from what follows it.  What is
        left then is taken in the next round, for which `next_look` asks at once.
        """
        if self._monotonic() < self._not_before or (self._spool.unfinished and not await self._accept([])):
            return
        limit = 1 if self._health.is_degraded(PART) else BATCH
        end = self._monotonic() + LONGEST
        while not self.closed and (submissions := await self._pickup.take(limit)):
            if not await self._accept(submissions):
                return
            limit = BATCH
            await after_each()
            if self._monotonic() > end:
                return

    async def _accept(self, submissions: Sequence[Submission]) -> bool:
        """Make files messages, with what the spool could not make so before; whether it takes any."""
        try:
            accepted = await self._spool.accept(submissions)
        except Exception as error:
            self._pickup.release()  # where descriptors are what lacks, the next try needs some
            self._not_before = self._monotonic() + PAUSE
            self._health.failed(PART, error)
            return False
        self._health.works(PART)
        for each in accepted:
            self._events(_told(each))
        self._arrived(each.message for each in accepted if not each.repeats)
        ours = {each.message.id for each in accepted}
        if stuck := [each for each in submissions if each.original is None and each.message.id not in ours]:
            await self._pickup.give_back(stuck, reason="it may not be moved into the queue; lsattr and ls -ld tell why")
        return True


def _told(submission: Submission) -> Accepted | Repeated:
    if submission.repeats:
        return Repeated(id=submission.repeats, key=submission.message.key, file=submission.file)
    return Accepted(message=submission.message, file=submission.file)
