"""What the manager asks of the stages: narrow Protocols, which `daemon.py` fills.

The promises behind each method are with those who keep them; here is what the manager relies on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from relayd.mail.back_off import BackOff
from relayd.mail.delivery import Delivery
from relayd.mail.message import Message
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.reply import Reply
from relayd.mail.route import Site
from relayd.mail.submission import Submission
from relayd.mail.transcript import Transcript


class Pickup(Protocol):
    """The drop directory."""

    async def take(self, limit: int) -> list[Submission]:
        """Return up to `limit` messages that are ready; their files are held open until the next call, or `release`."""

    def release(self) -> None:
        """Close what `take` holds open: whatever was not placed by now is to be taken anew."""

    async def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` when something arrives, until cancelled; return early if the system has no file events."""

    def waiting(self) -> bool:
        """Whether a file is left that may become ready."""

    def next_look(self) -> float | None:
        """Return the monotonic time at which to `take` again, None if only an event or the period calls."""

    async def give_back(self, submissions: Sequence[Submission], *, reason: str = "") -> None:
        """Leave files alone that cannot be taken, for `reason`."""

    async def examine_body(self, path: Path, queue_id: str) -> Message | str:
        """Read a body that is ours already as the message `queue_id`; return why not if it is none."""


class DueLike(Protocol):
    """A destination with due mail."""

    @property
    def destination(self) -> str: ...

    @property
    def recipients(self) -> int: ...

    @property
    def since(self) -> datetime: ...


class Queue(Protocol):
    """What the manager needs of the queue: see relayd/spool/queue.py."""

    async def due(self, now: datetime, limit: int) -> Sequence[DueLike]: ...

    async def claim(
        self, destinations: Collection[str], limit: int, now: datetime, *, until: datetime
    ) -> list[Delivery]: ...

    async def renew(self, leases: Collection[int], until: datetime) -> None: ...

    async def give_back(self, deliveries: Sequence[Delivery]) -> None: ...

    async def next_due(self, now: datetime) -> datetime | None: ...

    async def sites(self) -> Sequence[BackOff]: ...

    async def withdrawn(self) -> frozenset[str]: ...

    async def routed(self, sites: Mapping[str, str], now: datetime) -> None: ...


class Spool(Protocol):
    """The spool: the order of operations around the queue."""

    @property
    def owner(self) -> str:
        """The name of this start of the daemon, in leases."""

    @property
    def unfinished(self) -> bool:
        """Whether files are left that could not be made durable; the next `accept` tries again."""

    async def accept(self, submissions: Sequence[Submission]) -> list[Submission]:
        """Make messages durable; return those that are ours from now on, or repeat one that is, with what an earlier
        call could not."""

    async def sweep(self, now: datetime) -> None:
        """Clean up after finished messages."""

    def orphans(self) -> AsyncIterator[list[tuple[str, Path]]]:
        """Yield bodies without a row, some at a time."""

    async def adopt(self, message: Message) -> str | None:
        """Queue a message whose body is in its place already; return the id of the one that it repeats, if it does."""

    async def reject(self, message_id: str, reason: str) -> Path:
        """Move a body that is no message to `rejected/`."""


class Router(Protocol):
    """Where mail goes."""

    async def route(self, destination: str) -> Site | Deferred | Failed: ...


class Ended(Protocol):
    """What a relayer leaves: see relayd/relay/relayer.py."""

    @property
    def undone(self) -> Sequence[Delivery]: ...

    @property
    def settled(self) -> int: ...

    @property
    def delivered(self) -> int: ...

    @property
    def failure(self) -> Deferred | Failed | None: ...

    @property
    def peer(self) -> str: ...

    @property
    def throttled(self) -> Reply | None: ...

    @property
    def transcript(self) -> Transcript: ...


class Relayer(Protocol):
    """One connection to one host of a site."""

    @property
    def stirred(self) -> float:
        """When it last showed a sign of life, monotonic."""

    async def run(self, deliveries: Sequence[Delivery]) -> Ended: ...

    def reported(self, delivery: Delivery) -> bool:
        """Whether this one's outcomes were reported; of interest when `run` has raised."""

    def finish(self) -> None: ...


class NewRelayer(Protocol):
    """Makes relayers."""

    def __call__(self, site: Site, permit: Callable[[], Awaitable[None]] | None = None) -> Relayer:
        """Return a relayer for `site`, not running yet; it awaits `permit` before each connection, if there is one."""


class Attempts(Protocol):
    """The attempt manager: see relayd/attempt/manager.py."""

    def restore(self, known: BackOff) -> None:
        """Take up a back-off that an earlier start recorded."""

    async def unroutable(self, deliveries: Sequence[Delivery], outcome: Failed | Deferred) -> None:
        """Settle deliveries that no relayer was started for."""

    async def site_failed(
        self,
        site_key: str,
        failure: Deferred,
        undone: Sequence[Delivery],
        *,
        peer: str = "",
        transcript: Transcript = (),
    ) -> datetime | None:
        """Record that a site could not be used; return when to try again, None if its mail has to wait one by one."""

    async def site_recovered(self, site_key: str) -> None:
        """Forget the back-off of a site."""

    async def sweep(self, now: datetime) -> None:
        """Expire what is too old, warn of what is late."""

    async def clock_was_set(self, by: timedelta) -> None:
        """Let what waits for a time wait as long as before; by 0, look for what waits for no possible time."""

    @property
    def stretch(self) -> timedelta:
        """How much longer than its lifetime a message is kept now, since nothing could be tried for so long."""

    @property
    def busy(self) -> bool:
        """Whether an outcome is not durable yet, or a notification may still be owed."""
