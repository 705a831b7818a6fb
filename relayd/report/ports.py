"""What the reports need of others.  The daemon fills these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Protocol, TypeAlias

from relayd.mail.https import Response
from relayd.mail.message import Message
from relayd.mail.report import Counted, Owed

Merge: TypeAlias = Callable[[str | None], str]  # what is kept, None if nothing is; returns what is to be kept
Key: TypeAlias = tuple[date, str]  # a day and a domain


class Store(Protocol):
    """Keeps what was counted, and the reports that are owed, durably.  Its loss costs reports, and nothing else.

    All but `close` raise QueueError if it cannot be read or written now: then nothing was changed.
    """

    async def add(self, changes: Mapping[Key, Merge]) -> None:
        """Change what was counted.  What there is no room for, and what comes after its report was made, is dropped."""

    async def plan(self, before: date, due: Callable[[date], datetime]) -> None:
        """Let reports be made of the days before, when `due` says: it is asked once for each."""

    async def forget(self, before: date) -> int:
        """Forget the days before; return how many reports were not made, or not handed over."""

    async def next_due(self) -> datetime | None:
        """Return when there is something to be made or handed over."""

    async def to_make(self, now: datetime, limit: int) -> list[Counted]:
        """Return what reports are to be made of now, the oldest first."""

    async def make_later(self, counted: Counted, due: datetime) -> None:
        """It was tried in vain: try again then."""

    async def made(self, counted: Counted, owed: Sequence[Owed]) -> None:
        """In one step: its report was made, and is owed to these; or nobody wants one."""

    async def to_hand_over(self, now: datetime, limit: int) -> list[Owed]:
        """Return the reports to be handed over now, the oldest first."""

    async def hand_over_later(self, owed: Owed, due: datetime) -> None:
        """It was tried in vain: try again then."""

    async def handed_over(self, owed: Owed) -> None:
        """It was, or is given up."""

    async def close(self) -> None:
        """Let go of it."""


class Texts(Protocol):
    """The DNS, as far as TXT records go."""

    async def texts(self, name: str) -> Sequence[str] | None:
        """Return the TXT records of `name`, each of one piece; none if there are none; None if nobody can say now."""


class Post(Protocol):
    """The queue."""

    async def queue(self, message: Message, content: bytes) -> None:
        """Queue a message that we made ourselves; one whose id is, or lately was, in the queue is there already.

        Raises:
            QueueError: not now.
        """


class Https(Protocol):
    """Others' HTTPS servers: see relayd/https.py."""

    async def post(self, url: str, body: bytes, *, content_type: str, timeout: timedelta, limit: int) -> Response:
        """Send `body` to a URL of a stranger's choice; `limit` is in octets of the answer.

        Raises:
            HttpsError: there is no answer.
        """


StsLines: TypeAlias = Callable[
    [str], Sequence[str]
]  # of the MTA-STS policy of a domain that is in force; none if none is
