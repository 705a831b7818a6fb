"""Rebuilding the queue from the bodies, when queue.db is lost or damaged: what `relayd recover` does.

Statuses and holds are gone with the rows, so every body is queued again, with all its recipients, marked possible
duplicate.  Invariants, whatever the instant at which it is killed; then it is run again, from the beginning:

    A sound queue is left as it is.
    The new one is built beside, as `queue.db.recovering`, and takes its name when it is whole, durable and closed.
    Until then there is none, or the damaged one, and the daemon starts with neither.
    No body is removed: what is no message goes to `rejected/`, what cannot be read stays where it is.
    Nothing of a damaged queue is removed either, and its write-ahead log never comes to lie beside the new one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path

from relayd.mail.errors import QueueError
from relayd.mail.message import Message, new_id
from relayd.spool.bodies import Bodies, sync_file_system
from relayd.spool.connection import CORRUPT, Link
from relayd.spool.database import Database
from relayd.spool.lock import Lock
from relayd.spool.schema import VERSION
from relayd.spool.sqlite import SqliteQueue

Examine = Callable[[Path, str], Awaitable[Message | str]]  # a body and its id: the message, or why it is none

NAME = "queue.db"
BATCH = 500  # messages added in one commit
REPLY = "recovered from its body: it may have been delivered before"
BESIDE = ("", "-wal", "-shm")  # what SQLite keeps beside a database
# The file cannot be read where it is damaged: SQLITE_IOERR_READ, _SHORT_READ, _CORRUPTFS.
UNREADABLE = frozenset({266, 522, 8458})


class Found(Enum):
    """What there was to do."""

    SOUND = "sound"  # nothing: the queue is
    EMPTY = "empty"  # nothing: there is no queue, and nothing that it could have held
    REBUILT = "rebuilt"


@dataclass(slots=True, kw_only=True)
class Recovery:
    """What was found and done.  `aside` is where the damaged queue is now; `unreadable` has ids and reasons."""

    found: Found
    damage: str = ""
    aside: Path | None = None
    queued: int = 0
    rejected: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def lost(root: Path) -> bool:
    """Whether the spool at `root` has bodies and no queue that could know them."""
    return _is_missing(root / NAME) and _has_bodies(root)


def set_aside(root: Path, message_id: str, reason: str) -> Path:
    """Move a body that cannot be read as a message to `rejected/`, with the reason beside it."""
    place = root / "rejected" / message_id
    place.parent.mkdir(mode=0o700, exist_ok=True)
    _write_reason(place.with_name(f"{message_id}.reason.txt"), reason)
    Bodies(root / "queue").path(message_id).rename(place)
    return place


def _write_reason(path: Path, reason: str) -> None:
    path.unlink(missing_ok=True)  # of a run that was killed here; and what else has that name is not to be written to
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8", errors="replace") as file:
        file.write(f"{reason}\n")


async def recover(root: Path, examine: Examine, *, now: datetime) -> Recovery:
    """Rebuild the queue of the spool at `root`, unless it is sound.

    Raises:
        SpoolLocked: a daemon has it.
        QueueError: there is no spool, or its queue cannot be used for a reason that a new one does not remove.
        OSError: the disk is full, or cannot be written.
    """
    if not root.is_dir():
        raise QueueError(f"there is no spool at {root}")
    lock = Lock.acquire(root / "lock")
    try:
        _belongs_to_the_spool(root / "lock")
        damage = await damage_of(root / NAME)
        if damage is None:
            return Recovery(found=Found.SOUND)
        if _is_missing(root / NAME) and not _has_bodies(root):
            return Recovery(found=Found.EMPTY)
        recovery = Recovery(found=Found.REBUILT, damage=damage)
        fresh = await _built(root, examine, now, recovery)
        recovery.aside = _move_aside(root, now)
        _belongs_to_the_spool(fresh)
        fresh.rename(root / NAME)
        sync_file_system(root)
        return recovery
    finally:
        lock.release()


async def damage_of(path: Path, most: int = 1) -> str | None:
    """Return what is wrong with the queue at `path`, None if it is sound; at most so many complaints.

    Raises:
        QueueError: it is of a newer version, or cannot be opened although it may be sound.
    """
    if _is_missing(path):
        return "it is missing"
    link = Link(path, read_only=True, events=lambda event: None)
    try:
        return await link.run(partial(_complaint, most=most))
    except QueueError as error:
        code = getattr(error.__cause__, "sqlite_errorcode", None)
        if code is None or not (code & 0xFF in CORRUPT or code in UNREADABLE):
            raise
        return str(error.__cause__)
    finally:
        await link.close()


def _complaint(db: Database, *, most: int) -> str | None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise QueueError(f"it is of version {version}, written by a newer relayd; this one knows up to {VERSION}")
    verdicts = [str(row[0]) for row in db.execute(f"PRAGMA integrity_check({most})")]
    if verdicts != ["ok"]:
        return "; ".join(verdicts)
    return None if version else "it has no tables"


def _is_missing(path: Path) -> bool:
    """Whether there is no file, or one without an octet: SQLite would take that for a new database."""
    try:
        return path.stat().st_size == 0
    except FileNotFoundError:
        return True


def _has_bodies(root: Path) -> bool:
    return (root / "queue").is_dir() and any(Bodies(root / "queue").listed())


async def _built(root: Path, examine: Examine, now: datetime, recovery: Recovery) -> Path:
    """Build the new queue beside, anew; return its path."""
    fresh = root / f"{NAME}.recovering"
    for suffix in BESIDE:
        fresh.with_name(f"{fresh.name}{suffix}").unlink(missing_ok=True)
    queue = await SqliteQueue.open(fresh, owner=new_id(now))
    try:
        batch: list[Message] = []
        async for message in _messages(root, examine, recovery):
            batch.append(message)
            if len(batch) == BATCH:
                await queue.add(batch)
                batch = []
        await queue.add(batch)
    finally:
        await queue.close()
    if fresh.with_name(f"{fresh.name}-wal").exists():
        raise QueueError(f"{fresh}: it could not be closed")
    sync_file_system(root)
    return fresh


async def _messages(root: Path, examine: Examine, recovery: Recovery) -> AsyncIterator[Message]:
    """Yield what the bodies are, all recipients marked."""
    bodies = Bodies(root / "queue")
    scan = bodies.scan() if (root / "queue").is_dir() else iter([])
    while (ids := await asyncio.to_thread(next, scan, None)) is not None:
        for message_id in ids:
            try:
                found = await examine(bodies.path(message_id), message_id)
            except Exception as error:  # one body must not keep the others from being sent
                recovery.unreadable.append((message_id, str(error) or repr(error)))
                continue
            if isinstance(found, Message):
                recovery.queued += 1
                yield _marked(found)
            else:
                _belongs_to_the_spool(set_aside(root, message_id, found).with_name(f"{message_id}.reason.txt"))
                recovery.rejected += 1


def _marked(message: Message) -> Message:
    recipients = tuple(replace(each, possible_duplicate=True, reply=REPLY) for each in message.envelope.recipients)
    return replace(message, envelope=replace(message.envelope, recipients=recipients))


def _move_aside(root: Path, now: datetime) -> Path | None:
    """Rename what there is of the old queue; return its new name if there was more than its log.

    The database first: without it, a killed run that is repeated finds that the queue is missing, and never takes
    an old state, without its log, for a sound queue.
    """
    aside = root / f"{NAME}.damaged-{now:%Y%m%dT%H%M%S.%fZ}"
    moved = None
    for suffix in BESIDE:
        path = root / f"{NAME}{suffix}"
        if path.exists():
            path.rename(aside.with_name(f"{aside.name}{suffix}"))
            moved = moved or (None if suffix else aside)
    return moved


def _belongs_to_the_spool(path: Path) -> None:
    """Give a file that root made to the spool's owner: the daemon must be able to open it."""
    owner = path.parent.stat()
    if os.geteuid() == 0 and path.lstat().st_uid != owner.st_uid:
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
