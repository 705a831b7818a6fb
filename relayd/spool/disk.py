"""The ground that a spool stands on in earnest: a directory on a disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from relayd.mail.errors import QueueError, SpoolLocked
from relayd.mail.events import Events
from relayd.spool import notes as noting
from relayd.spool.bodies import Bodies, sync_directories, sync_file_system
from relayd.spool.lock import Lock
from relayd.spool.notes import Claimed, Noted, Notes
from relayd.spool.recovery import NAME, lost, set_aside
from relayd.spool.sqlite import SqliteQueue

LOCK_PATIENCE = 1.0  # seconds that the workers of a daemon that was killed may need to end
LOCK_LOOK = 0.02  # seconds between two tries


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """The notes of earlier starts, and where they are."""

    noted: Noted | None
    paths: Sequence[Path]

    def forget(self) -> None:
        """See ground.py."""
        for path in self.paths:
            path.unlink()


class Disk:
    """See ground.py, whose `Ground` it is."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bodies = Bodies(root / "queue")

    async def lock(self) -> Lock:
        loop = asyncio.get_running_loop()
        until = loop.time() + LOCK_PATIENCE
        while True:
            try:
                return Lock.acquire(self.root / "lock")
            except SpoolLocked:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(LOCK_LOOK)

    def require_queue(self) -> None:
        if lost(self.root):
            raise QueueError(
                f"{self.root / NAME}: it is missing, although there are bodies in queue/;"
                " `relayd recover` rebuilds it from them"
            )

    def earlier_notes(self) -> Earlier:
        paths = noting.earlier(self.root / "queue")
        return Earlier(noted=noting.noted_by(paths, noting.boot_id()), paths=paths)

    def begin_notes(self, owner: str) -> Notes:
        return Notes.open(self.root / "queue", owner)

    async def open_queue(self, owner: str, events: Events, over: Callable[[Iterable[Claimed]], None]) -> SqliteQueue:
        return await SqliteQueue.open(self.root / NAME, owner=owner, events=events, over=over)

    def sync_all(self) -> None:
        sync_file_system(self.root)

    def sync_directories(self, directories: Iterable[Path]) -> None:
        sync_directories(directories)

    def incoming(self) -> list[str]:
        return [*os.listdir(self.root / "queue" / "incoming"), *_claimed_far(self.root)]

    def remove(self, files: Sequence[Path]) -> None:
        for path in files:
            with suppress(OSError):  # the next start finds that its message is known, and unlinks it
                path.unlink(missing_ok=True)

    def set_aside(self, message_id: str, reason: str) -> Path:
        return set_aside(self.root, message_id, reason)


def _claimed_far(root: Path) -> Iterator[str]:
    """Yield the names of files that were claimed where they are, on another file system, without their dots."""
    for name in [name for each in (root, root / "new") for name in os.listdir(each)]:
        if name.startswith(".") and name.endswith(".orig"):
            yield name[1:]
