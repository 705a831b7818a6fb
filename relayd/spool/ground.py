"""What a spool stands on, as spool.py wants it: files, notes, a lock and a queue.  The real one is disk.py's.

Whatever blocks is not a coroutine, and is called in a thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from relayd.mail.delivery import Delivery
from relayd.mail.events import Events
from relayd.spool.arrivals import Strays
from relayd.spool.notes import Claimed, Noted
from relayd.spool.queue import Queue
from relayd.spool.takeover import TakenOver


class SpoolQueue(Queue, Protocol):
    """The queue, with what only its spool asks of it, and the daemon for its workers."""

    @property
    def degraded(self) -> str | None:
        """Why the last change could not be written, None if it was."""

    async def make_room(self) -> None:
        """Make what room can be made on a full disk."""

    async def known(self, message_ids: Collection[str]) -> set[str]:
        """Return those of the ids that are in the queue or in the history."""

    async def strays(self, message_ids: Collection[str]) -> Strays:
        """Return which of these bodies should not be there, as of one state of the queue."""

    async def unmade(self) -> list[str]:
        """Return the ids of the notifications that are owed and not in the queue."""

    async def take_over(self, now: datetime, noted: Noted | None) -> TakenOver:
        """End what older owners left in flight: see takeover.py.  Only under the spool's lock."""

    async def bury(self, noted: Noted, now: datetime) -> TakenOver:
        """Mark and count what a worker of ours left in flight when it died: see takeover.py."""

    async def any_to_forget(self, finished_before: datetime) -> bool:
        """Whether `forget` would find something."""

    async def close(self) -> None:
        """Write what has gathered, and record that what stays in flight was left in order."""


class BodyFiles(Protocol):
    """The bodies: see bodies.py, where each of these has its contract."""

    def path(self, message_id: str) -> Path: ...

    def exists(self, message_id: str) -> bool: ...

    async def read(self, deliveries: Sequence[Delivery]) -> list[bytes]: ...

    def chunks(self, message_id: str) -> AsyncIterator[bytes]: ...

    async def head(self, message_id: str, limit: int) -> bytes: ...

    def scratch(self) -> BinaryIO: ...

    def place(self, path: Path, identity: tuple[int, int], message_id: str) -> bool: ...

    def write(self, message_id: str, content: bytes) -> None: ...

    def rewrite(self, message_id: str) -> None: ...

    def sync(self, message_ids: Sequence[str], sources: Iterable[Path]) -> None: ...

    def unlink(self, message_ids: Iterable[str]) -> list[str]: ...

    def scan(self, at_once: int = 1) -> Iterator[list[str]]: ...


class NoteBook(Protocol):
    """The notes of this start: see notes.py."""

    @property
    def boot(self) -> str: ...

    def of_worker(self, number: int) -> Path: ...

    def beginning(self, lease: int, message_id: str) -> None: ...

    def ending(self, lease: int, message_id: str) -> None: ...

    def over(self, claimed: Iterable[Claimed]) -> None: ...

    def close(self) -> None: ...


class EarlierNotes(Protocol):
    """The notes of earlier starts."""

    @property
    def noted(self) -> Noted | None:
        """What they say, None if that cannot be known."""

    def forget(self) -> None:
        """Remove them: what they say is taken over."""


class Held(Protocol):
    """The lock: see lock.py."""

    @property
    def descriptor(self) -> int: ...

    @property
    def last_held(self) -> datetime | None: ...

    def touch(self) -> None: ...

    def release(self) -> None: ...


class Ground(Protocol):
    """See the module.  `root` is the spool's directory."""

    @property
    def root(self) -> Path: ...

    @property
    def bodies(self) -> BodyFiles: ...

    async def lock(self) -> Held:
        """Take the lock.

        Raises:
            SpoolLocked: another daemon has it.
        """

    def require_queue(self) -> None:
        """Make sure that the queue is not lost.

        Raises:
            QueueError: it is missing although there are bodies.
        """

    def earlier_notes(self) -> EarlierNotes:
        """Read what earlier starts noted."""

    def begin_notes(self, owner: str) -> NoteBook:
        """Begin the notes of a start of the daemon."""

    async def open_queue(self, owner: str, events: Events, over: Callable[[Iterable[Claimed]], None]) -> SpoolQueue:
        """Open the queue; `over` is told of claims that were durably settled or given back.

        Raises:
            QueueError: it is corrupt, or of a newer version.
        """

    def sync_all(self) -> None:
        """Write out all that is dirty."""

    def sync_directories(self, directories: Iterable[Path]) -> None:
        """Make durable which names are in directories.

        Raises:
            OSError: nobody knows which are on the disk.
        """

    def incoming(self) -> list[str]:
        """Return the names of the files that were being taken in by way of a copy, and of the copies."""

    def remove(self, files: Sequence[Path]) -> None:
        """Unlink files; one that cannot be is found at the next start."""

    def set_aside(self, message_id: str, reason: str) -> Path:
        """Move a body that cannot be read as a message to `rejected/`, with the reason beside it."""
