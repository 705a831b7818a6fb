"""How messages come into relayd: into the queue beforehand, through its contract, or as dropped files.

`fill` does what a daemon does that took them in: bodies at `queue/ab/<id>`, synced, then `Queue.add` in batches.  It
holds the spool's lock meanwhile.  Their ids say that they came a millisecond apart, the last one now.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.load import HEAD, SENDER, Load
from relayd.mail.address import Address
from relayd.mail.envelope import Envelope
from relayd.mail.events import Event
from relayd.mail.message import Body, Message, arrival_of, new_id
from relayd.mail.recipient import Recipient
from relayd.spool.bodies import Bodies
from relayd.spool.directories import make_directories
from relayd.spool.ground import BodyFiles
from relayd.spool.spool import Spool

BATCH = 5000  # messages in one commit
APART = timedelta(milliseconds=1)
ENDINGS = 1024  # of ids, each with a directory
RECEIVED = "Received: by relay.example.org (relayd) id {};\r\n\tSun, 22 Nov 2026 08:00:00 +0000\r\n"


def fill(root: Path, *loads: Load) -> None:
    """Put loads into the queue of a spool that no daemon has, one after the other."""
    asyncio.run(filled(root, loads))


async def filled(root: Path, loads: Sequence[Load]) -> None:
    """Do what `fill` does, in a loop that runs."""
    now = datetime.now(UTC)
    prepare(root)
    spool = await Spool.open(root, now=now, history=timedelta(days=3), events=_ignore)
    try:
        for load in loads:
            first = now - APART * load.messages
            for start in range(0, load.messages, BATCH):
                numbers = load.numbers[start : start + BATCH]
                messages = _messages(load, numbers, first + APART * start)
                await asyncio.to_thread(_write, spool.bodies, messages, load.content)
                await spool.queue.add(messages)
    finally:
        await spool.close()


def _messages(load: Load, numbers: Sequence[int], first: datetime) -> list[Message]:
    sender, content = Address.parse(SENDER), load.content
    body = Body(size=len(content), wire_size=len(content), header_end=len(HEAD), canonical=True)
    messages = []
    for place, number in enumerate(numbers):
        queue_id = new_id(first + APART * place)
        prefix = RECEIVED.format(queue_id).encode()
        recipient = Recipient(number=0, address=Address(f"r{number}", load.domain(number)))
        messages.append(
            Message(
                id=queue_id,
                envelope=Envelope(reverse_path=sender, recipients=(recipient,)),
                body=replace(body, prefix=prefix, wire_size=body.wire_size + len(prefix)),
                arrived=arrival_of(queue_id),
            )
        )
    return messages


def _write(bodies: BodyFiles, messages: Sequence[Message], content: bytes) -> None:
    for message in messages:
        _create(bodies.path(message.id), content)
    bodies.sync([message.id for message in messages], [])


def _create(path: str | Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def prepare(root: Path) -> None:
    """Make the directories of a spool, those of bodies too, as in one that has been used: to make one takes longer than
    to take a message in."""
    make_directories(root)
    bodies, now = Bodies(root / "queue"), datetime.now(UTC)
    for ending in range(ENDINGS):
        bodies.path(new_id(now, ending)).parent.mkdir(mode=0o700, exist_ok=True)


class Drop:
    """An application that drops the messages of a load, as `<number>.eml`: in tmp/, then renamed into new/."""

    def __init__(self, root: Path, load: Load) -> None:
        self._load = load
        self._content = load.content
        self._tmp, self._new = f"{root}/tmp", f"{root}/new"

    def write(self, number: int) -> None:
        """Write a message in tmp/."""
        head = f"X-Sender: <{SENDER}>\r\nX-Receiver: <{self._load.recipient(number)}>\r\n".encode()
        _create(f"{self._tmp}/{number}.eml", head + self._content)

    def commit(self, number: int) -> None:
        """Rename a message that was written into new/."""
        os.rename(f"{self._tmp}/{number}.eml", f"{self._new}/{number}.eml")


def drop(root: Path, load: Load) -> None:
    """Drop all messages of a load."""
    prepare(root)
    dropping = Drop(root, load)
    for number in load.numbers:
        dropping.write(number)
        dropping.commit(number)


def waiting(root: Path) -> int:
    """Return how many messages are in the queue, whether or not a daemon runs."""
    queue = sqlite3.connect(f"file:{root}/queue.db?mode=ro", uri=True)
    try:
        return int(queue.execute("SELECT count(*) FROM messages").fetchone()[0])
    finally:
        queue.close()


def _ignore(event: Event) -> None:
    """For what nobody needs to hear."""
