"""What the manager asks of the stages: narrow Protocols, which `daemon.py` fills.

The promises behind each method are with those who keep them; here is what the manager relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Protocol

from relayd.mail.delivery import Delivery
from relayd.mail.message import Message
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.route import Site
from relayd.mail.submission import Submission


class Pickup(Protocol):
    """The drop directory."""

    async def take(self, limit: int) -> list[Submission]:
        """Return up to `limit` messages that are ready."""

    async def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` when something arrives, until cancelled; return early if the system has no file events."""

    def waiting(self) -> bool:
        """Whether a file is left that may become ready."""

    def look_again_in(self) -> float | None:
        """Return the seconds until a file that settles may be ready, None if none does."""


class DueLike(Protocol):
    """A destination with due mail."""

    @property
    def destination(self) -> str: ...

    @property
    def recipients(self) -> int: ...


class SiteRowLike(Protocol):
    """A site that backed off before the restart."""

    @property
    def key(self) -> str: ...

    @property
    def failures(self) -> int: ...

    @property
    def retry_at(self) -> datetime: ...

    @property
    def reply(self) -> str: ...


class Queue(Protocol):
    """What the manager needs of the queue: see relayd/spool/queue.py."""

    async def due(self, now: datetime, limit: int) -> Sequence[DueLike]: ...

    async def claim(
        self, destinations: Collection[str], limit: int, now: datetime, *, until: datetime
    ) -> list[Delivery]: ...

    async def renew(self, leases: Collection[int], until: datetime) -> None: ...

    async def give_back(self, deliveries: Sequence[Delivery]) -> None: ...

    async def next_due(self, now: datetime) -> datetime | None: ...

    async def sites(self) -> Sequence[SiteRowLike]: ...

    async def withdrawn(self) -> frozenset[str]: ...


class Spool(Protocol):
    """The spool: the order of operations around the queue."""

    async def accept(self, submissions: Sequence[Submission]) -> list[Message]:
        """Make messages durable; return those that were."""

    async def sweep(self, now: datetime) -> None:
        """Clean up after finished messages."""


class Router(Protocol):
    """Where mail goes."""

    async def route(self, destination: str) -> Site | Deferred | Failed: ...


class Ended(Protocol):
    """What a relayer leaves: see relayd/relay/relayer.py."""

    @property
    def undone(self) -> Sequence[Delivery]: ...

    @property
    def failure(self) -> Deferred | None: ...

    @property
    def peer(self) -> str: ...


class Relayer(Protocol):
    """One connection to one host of a site."""

    async def run(self, deliveries: Sequence[Delivery]) -> Ended: ...

    def finish(self) -> None: ...


class Attempts(Protocol):
    """The attempt manager."""

    async def settle_all(self, deliveries: Sequence[Delivery], outcome: Deferred | Failed) -> None:
        """Settle deliveries that no relayer was started for."""

    async def site_failed(
        self, site: str, failures: int, failure: Deferred, undone: Sequence[Delivery], peer: str
    ) -> datetime:
        """Record that a site could not be used, now for the `failures`th time in a row; return when to try again."""

    async def site_recovered(self, site: str) -> None:
        """Forget the back-off of a site."""

    async def sweep(self, now: datetime) -> None:
        """Expire what is too old, warn of what is late, make the notifications that are owed."""
