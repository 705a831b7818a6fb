"""A drop directory for tests, and a pickup on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from relayd.mail.events import Event, FileLeft, FileRejected
from relayd.mail.message import Message, new_id
from relayd.mail.submission import Submission
from relayd.submission.envelope import Domains
from relayd.submission.examine import Examiner
from relayd.submission.pickup import Pickup
from relayd.submission.refusal import Refused
from relayd.submission.settings import SubmissionSettings

NOW = datetime(2026, 11, 22, 7, 0, 0, tzinfo=UTC)
ID = new_id(NOW, random=42)
HOSTNAME = "relay.example.org"
SIMPLE = b"From: ann@example.org\nTo: bob@example.net\nSubject: hello\n\nHello Bob.\n"


def an_examiner(*, aliases: Mapping[str, tuple[str, ...]] | None = None, limit: int = 50 * 1024 * 1024) -> Examiner:
    domains = Domains(origin="origin.example", aliases=aliases or {})
    return Examiner(hostname=HOSTNAME, domains=domains, max_message_size=limit)


def reading(octets: bytes) -> Callable[[int], bytes]:
    """Return a `read` over `octets`."""
    position = 0

    def read(size: int) -> bytes:
        nonlocal position
        piece = octets[position : position + size]
        position += len(piece)
        return piece

    return read


def refusal_of(read: Callable[[], object]) -> str:
    """Return why `read` refused, "" if it did not."""
    try:
        read()
    except Refused as refusal:
        return str(refusal)
    return ""


def examined(
    octets: bytes, *, expected: int = 1024 * 1024, aliases: Mapping[str, tuple[str, ...]] | None = None
) -> Message:
    return an_examiner(aliases=aliases).examine(reading(octets), ID, expected=expected)


def sent(octets: bytes, message: Message) -> bytes:
    """Return what goes out for a file, before dot-stuffing: every line end as CRLF, the last line complete."""
    kept = octets
    for start, end in reversed(message.body.cuts):
        kept = kept[:start] + kept[end:]
    return message.body.prefix + b"".join(line + b"\r\n" for line in kept.splitlines())


@dataclass
class Drop:
    """A spool in a directory of the test, and what the pickup told."""

    spool: Path
    pickup: Pickup
    events: list[Event] = field(default_factory=list)
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def new(self) -> Path:
        return self.spool / "new"

    @property
    def rejected(self) -> Path:
        return self.spool / "rejected"

    def left(self) -> list[FileLeft]:
        return [event for event in self.events if isinstance(event, FileLeft)]

    def refused(self) -> list[FileRejected]:
        return [event for event in self.events if isinstance(event, FileRejected)]

    async def taken(self, count: int = 1, *, seconds: float = 20) -> list[Submission]:
        """Take as the manager does until `count` messages are there; each goes into `queue/`."""
        found: list[Submission] = []
        deadline = time.monotonic() + seconds
        while len(found) < count and time.monotonic() < deadline:
            found += await self.take_once()
            if len(found) < count:
                await self.pause()
        return found

    async def take_once(self, limit: int = 100) -> list[Submission]:
        submissions = await self.pickup.take(limit)
        for submission in submissions:
            submission.path.rename(self.spool / "queue" / submission.message.id)
            if submission.original is not None:
                submission.original.unlink()
        return submissions

    async def at_rest(self, *, seconds: float = 20) -> list[Submission]:
        """Take until nothing waits."""
        found: list[Submission] = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found += await self.take_once()
            if not self.pickup.waiting():
                return found
            await self.pause()
        raise AssertionError("still waiting")

    async def pause(self) -> None:
        """Wait until something was heard or it is time to look again, at most 50 ms."""
        self.woken.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await self.woken.wait()

    def body(self, submission: Submission) -> bytes:
        return (self.spool / "queue" / submission.message.id).read_bytes()


def make_spool(spool: Path) -> None:
    for name in ("new", "tmp", "cur", "queue"):
        (spool / name).mkdir(parents=True, exist_ok=True)


def a_drop(
    spool: Path,
    *,
    settle: float = 0.3,
    limit: int = 1024 * 1024,
    trust: bool = False,
    monotonic: Callable[[], float] = time.monotonic,
) -> Drop:
    make_spool(spool)
    settings = SubmissionSettings(
        hostname=HOSTNAME,
        origin="origin.example",
        spool=spool,
        max_message_size=limit,
        trust_producers=trust,
        settle_time=timedelta(seconds=settle),
    )
    events: list[Event] = []
    pickup = Pickup(settings, clock=lambda: datetime.now(UTC), events=events.append, monotonic=monotonic)
    return Drop(spool, pickup, events)


@asynccontextmanager
async def watched(drop: Drop) -> AsyncIterator[Drop]:
    """Run the watch of a drop; it is in place on entry."""
    task = asyncio.create_task(drop.pickup.watch(drop.woken.set))
    await drop.woken.wait()
    await drop.at_rest()
    try:
        yield drop
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        drop.pickup.close()
