"""What the attempt stage needs of the others; the daemon plugs it in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from relayd.mail.back_off import BackOff
from relayd.mail.delivery import Delivery
from relayd.mail.message import Message
from relayd.mail.settlement import Notice, Settlement


class Ledger(Protocol):
    """The queue, as this stage sees it.  What changes it is durable when it returns, or raises QueueError and has
    changed nothing."""

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Record how recipients stand and the notices owed, in one commit; their claim ends."""

    async def back_off(self, back_off: BackOff) -> None:
        """Remember that a site backs off; `failures` 0 forgets it."""

    async def clock_was_set(self, by: timedelta, now: datetime, latest: datetime) -> None:
        """Let what waits for a time wait as long as before; what waits until after `latest` even so is due now, and
        what seems to have arrived after `now` arrived then."""

    async def notices(self, limit: int) -> Sequence[Notice]:
        """Return notices that are owed, oldest first; each stays owed until its notification is added.

        Their recipients are fixed from now on: one that fails later is a debt of its own, else the notification
        would settle what it does not tell of.
        """

    async def drop_notice(self, notice_id: str) -> None:
        """Forget a notice that has become untrue."""

    async def warn(self, arrived_before: datetime | None, limit: int, now: datetime) -> int:
        """Owe a delay notice, once per message, for what arrived before (None: for nothing) and still waits, and once
        for what waits past a deadline of which only to tell.  Return how many."""

    async def expire(
        self, arrived_before: datetime, limit: int, now: datetime, *, until: datetime
    ) -> Sequence[Delivery]:
        """Claim what arrived before, or is past a deadline that ends it, and is neither final, held nor in flight."""


class Notifications(Protocol):
    """Where originals are read and notifications go."""

    async def read_original(self, message_id: str, limit: int) -> bytes:
        """Return the first `limit` octets of a message's file.

        Raises:
            OSError: FileNotFoundError if there is no such file any more.
        """

    async def add_notification(self, message: Message, content: bytes) -> None:
        """Add a notification with its body, durably; the notice of the same id is owed no more, in the same commit.
        One that is there already is left as it is.

        Raises:
            QueueError, OSError: nothing was added.
        """
