"""The ground on which relayd's own Spool runs in the simulation: relayd/spool/ground.py on a disk in memory.

Of one start of the daemon: once it is abandoned nothing that it still does reaches the disk.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from relayd.mail.delivery import Delivery
from relayd.mail.errors import SpoolLocked
from relayd.mail.events import Events
from relayd.spool.bodies import SMALL, MissingBody
from relayd.spool.ground import SpoolQueue
from relayd.spool.notes import Claimed, Noted
from relayd.spool.sqlite import SqliteQueue
from tests.simulation.disk import INCOMING, REJECTED, SPOOL, Disk, NoteFile
from tests.simulation.inline import InlineConnections
from tests.simulation.queue import MemoryQueue
from tests.simulation.sabotage import Abandoned, Calm, Faults

SCRATCH = 4_096  # noted claims after which the notes are begun anew


class Life:
    """Whether the daemon lives."""

    def __init__(self, disk: Disk, faults: Faults) -> None:
        self._disk = disk
        self._faults = faults
        self.over = False

    def end(self) -> None:
        """The daemon is killed."""
        if not self.over:
            self._disk.kill()
        self.over = True

    def disk(self, operation: str) -> Disk:
        """Return the disk, unless a fault strikes.

        Raises:
            OSError: by the fault source.
            Abandoned: the daemon is dead.
        """
        if self.over:
            raise Abandoned
        self._faults.files(operation)
        return self._disk


class MemoryBodies:
    """The bodies, as relayd/spool/bodies.py has them."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def path(self, message_id: str) -> Path:
        return Path(_body(message_id))

    def exists(self, message_id: str) -> bool:
        return self._life.disk("exists").files.find(_body(message_id)) is not None

    async def read(self, deliveries: Sequence[Delivery]) -> list[bytes]:
        await asyncio.sleep(0)
        files = self._life.disk("read").files
        found = [files.find(_body(each.id)) for each in deliveries]
        missing = [
            delivery.id
            for delivery, file in zip(deliveries, found, strict=True)
            if file is None or len(file.content) != delivery.body.size
        ]
        if missing:
            raise MissingBody(missing)
        return [file.content for file in found if file is not None]

    async def chunks(self, message_id: str) -> AsyncIterator[bytes]:
        await asyncio.sleep(0)
        try:
            content = self._life.disk("read").files.read(_body(message_id))
        except FileNotFoundError:
            raise MissingBody([message_id]) from None
        for start in range(0, len(content), SMALL):
            yield content[start : start + SMALL]
            await asyncio.sleep(0)

    async def head(self, message_id: str, limit: int) -> bytes:
        await asyncio.sleep(0)
        try:
            return self._life.disk("read").files.read(_body(message_id))[:limit]
        except FileNotFoundError:
            return b""

    def scratch(self) -> BinaryIO:
        self._life.disk("scratch")
        return io.BytesIO()

    def place(self, path: Path, identity: tuple[int, int], message_id: str) -> bool:
        files = self._life.disk("place").files
        source = str(path)
        file = files.find(source)
        if file is None or file.identity != identity:
            return False
        files.rename(source, _body(message_id))
        return True

    def write(self, message_id: str, content: bytes) -> None:
        self._life.disk("write").files.write(_body(message_id), content)
        self.sync([message_id], [])

    def rewrite(self, message_id: str) -> None:
        files = self._life.disk("rewrite").files
        files.write(_body(message_id), files.read(_body(message_id)))
        self.sync([message_id], [])

    def sync(self, message_ids: Sequence[str], sources: Iterable[Path]) -> None:
        directories = {f"{SPOOL}/queue/{each[-2:]}" for each in message_ids}
        self._life.disk("sync").files.sync(map(_body, message_ids), directories.union(map(str, sources)))

    def unlink(self, message_ids: Iterable[str]) -> list[str]:
        files, gone = self._life.disk("unlink").files, list(message_ids)
        for each in gone:
            files.unlink(_body(each))
        return gone

    def scan(self, at_once: int = 1) -> Iterator[list[str]]:
        gathered: list[str] = []
        files = self._life.disk("scan").files
        for directory in sorted(each for each in files.directories if len(each) == len(SPOOL) + len("/queue/ab")):
            gathered += sorted(self._life.disk("scan").files.names(directory))
            if len(gathered) >= at_once:
                yield gathered
                gathered = []
        if gathered:
            yield gathered


def _body(message_id: str) -> str:
    return f"{SPOOL}/queue/{message_id[-2:]}/{message_id}"


class MemoryNotes:
    """The notes, as relayd/spool/notes.py has them."""

    def __init__(self, life: Life, owner: str, boot: int) -> None:
        self._life = life
        self._owner = owner
        self._number = boot
        self._in_hand: dict[Claimed, bool] = {}  # whether it is ending
        self._file = self._begin()

    @property
    def boot(self) -> str:
        return str(self._number)

    def of_worker(self, number: int) -> Path:
        return Path(f"{SPOOL}/queue/notes.{self._owner}.{number}")

    def beginning(self, lease: int, message_id: str) -> None:
        self._note((lease, message_id), ending=False)

    def ending(self, lease: int, message_id: str) -> None:
        self._note((lease, message_id), ending=True)

    def over(self, claimed: Iterable[Claimed]) -> None:
        for each in claimed:
            self._in_hand.pop(each, None)

    def close(self) -> None:
        """They stay for the next start, which removes them."""

    def _note(self, claimed: Claimed, *, ending: bool) -> None:
        if len(self._file.begun) >= SCRATCH + 4 * len(self._in_hand):
            self._file = self._begin()
        self._life.disk("note")
        self._file.begun.add(claimed)
        if ending:
            self._file.ending.add(claimed)
        self._in_hand[claimed] = ending

    def _begin(self) -> NoteFile:
        file = NoteFile(self._number, set(self._in_hand), {each for each, ends in self._in_hand.items() if ends})
        self._life.disk("note").notes[self._owner] = file
        return file


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """The notes of earlier starts."""

    noted: Noted | None
    life: Life
    owners: Sequence[str]

    def forget(self) -> None:
        """Remove them."""
        notes = self.life.disk("forget").notes
        for each in self.owners:
            notes.pop(each, None)


class _Lock:
    descriptor = -1  # nobody shares it
    last_held: datetime | None = None  # as if nobody had been away

    def __init__(self, life: Life) -> None:
        self._life = life

    def touch(self) -> None:
        """Nobody reads when."""

    def release(self) -> None:
        self._life.disk("unlock").locked = False


class MemoryGround:
    """See the module."""

    def __init__(self, disk: Disk, *, new_notice_id: Callable[[], str], faults: Faults | None = None) -> None:
        self.root = Path(SPOOL)
        self.faults = faults or Calm()
        self.new_notice_id = new_notice_id
        self._life = Life(disk, self.faults)
        self._queue: MemoryQueue | None = None
        self.bodies = MemoryBodies(self._life)

    def abandon(self) -> None:
        """The daemon is killed."""
        self._life.end()
        if self._queue is not None:
            self._queue.abandon()

    async def lock(self) -> _Lock:
        disk = self._life.disk("lock")
        if disk.locked:
            raise SpoolLocked(f"{SPOOL}: another daemon has this spool")
        disk.locked = True
        return _Lock(self._life)

    def require_queue(self) -> None:
        """The tables are always there."""

    def earlier_notes(self) -> Earlier:
        disk = self._life.disk("notes")
        files = disk.notes.values()
        if not files or any(each.boot != disk.boot for each in files):
            return Earlier(noted=None, life=self._life, owners=tuple(disk.notes))
        noted = Noted(
            begun=frozenset().union(*(each.begun for each in files)),
            ending=frozenset().union(*(each.ending for each in files)),
        )
        return Earlier(noted=noted, life=self._life, owners=tuple(disk.notes))

    def begin_notes(self, owner: str) -> MemoryNotes:
        return MemoryNotes(self._life, owner, self._life.disk("notes").boot)

    async def open_queue(self, owner: str, events: Events, over: Callable[[Iterable[Claimed]], None]) -> SpoolQueue:
        tables = self._life.disk("open").tables
        self._queue = MemoryQueue(
            tables, owner=owner, new_notice_id=self.new_notice_id, over=over, events=events, faults=self.faults
        )
        return self._queue

    def sync_all(self) -> None:
        self._life.disk("sync").files.sync_all()

    def sync_directories(self, directories: Iterable[Path]) -> None:
        self._life.disk("sync").files.sync((), map(str, directories))

    def incoming(self) -> list[str]:
        return list(self._life.disk("incoming").files.names(INCOMING))

    def remove(self, files: Sequence[Path]) -> None:
        for each in files:
            with suppress(OSError):  # the next start finds that its message is known, and unlinks it
                self._life.disk("remove").files.unlink(str(each))

    def set_aside(self, message_id: str, reason: str) -> Path:
        files = self._life.disk("set_aside").files
        place = Path(f"{REJECTED}/{message_id}")
        files.write(f"{place}.reason.txt", reason.encode())
        files.rename(_body(message_id), str(place))
        return place


class SqliteGround(MemoryGround):
    """The same, with the real queue in a file at `path`, which has to outlive the daemon; without threads."""

    def __init__(
        self, disk: Disk, path: Path, *, new_notice_id: Callable[[], str], faults: Faults | None = None
    ) -> None:
        super().__init__(disk, new_notice_id=new_notice_id, faults=faults)
        self._path = path
        self._connections = InlineConnections(self.faults)

    def abandon(self) -> None:
        super().abandon()
        self._connections.abandon()

    async def open_queue(self, owner: str, events: Events, over: Callable[[Iterable[Claimed]], None]) -> SpoolQueue:
        return await SqliteQueue.open(
            self._path,
            owner=owner,
            events=events,
            over=over,
            new_notice_id=self.new_notice_id,
            connect=self._connections.connect,
        )


def ground_on(disk: Disk, *, new_notice_id: Callable[[], str], faults: Faults) -> MemoryGround:
    """Return the ground for a start of the daemon, with the queue where the disk has it."""
    if disk.database is None:
        return MemoryGround(disk, new_notice_id=new_notice_id, faults=faults)
    return SqliteGround(disk, disk.database, new_notice_id=new_notice_id, faults=faults)
