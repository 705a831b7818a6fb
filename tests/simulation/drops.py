"""The drop directory in memory, what is dropped into it, and the pickup that takes it.

The directory outlives the daemon; what is in it is complete.  Reading a file as a message is relayd's own work.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from relayd.mail.message import Message, new_id
from relayd.mail.submission import Submission
from relayd.submission.envelope import Domains
from relayd.submission.examine import Examiner
from relayd.submission.refusal import Refused
from tests.simulation.scenario import Drop

HOSTNAME = "relay.test"
_LINE = b"the quick brown fox jumps over the lazy dog, again and again\r\n"


def payload(drop: Drop) -> bytes:
    """Return what is behind the header, as it is to arrive."""
    lines = b"%s\r\n" % drop.identity.encode() + _LINE * (drop.size // len(_LINE))
    match drop.shape:
        case "8bit":
            return lines + "grün ist die Hoffnung\r\n".encode()
        case "long":
            return lines + b"word " * 400 + b"\r\n"
        case "dots":
            return lines + b".\r\n..\r\n.hidden\r\n"
        case _:
            return lines


def file_of(drop: Drop) -> bytes:
    """Return the octets of the file."""
    lines = [f"X-Sender: <{drop.sender}>" + (f" RET={drop.ret} ENVID=e{drop.number}" if drop.ret else "")]
    lines += [f"X-Receiver: <{to.address}>" + (f" NOTIFY={to.notify}" if to.notify else "") for to in drop.to]
    if drop.deadline:
        lines.append(f"X-Relayd-Deadline: {drop.deadline}s")
    lines += [
        "From: <application@relay.test>",
        "To: <everybody@relay.test>",
        "Subject: a message",
        f"Message-ID: <{drop.identity}>",
    ]
    if drop.shape == "8bit":
        lines += ["MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit"]
    return "\r\n".join((*lines, "", "")).encode() + payload(drop)


class Directory:
    """The files that were dropped and not taken, in order: durable."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.heard: Callable[[], None] = lambda: None

    def drop(self, name: str, content: bytes) -> None:
        """A file is renamed into it."""
        self.files[name] = content
        self.heard()


class MemoryPickup:
    """The pickup of one start of the daemon; see relayd/ports.py."""

    def __init__(
        self,
        directory: Directory,
        bodies: Callable[[str], bytes],
        *,
        clock: Callable[[], datetime],
        chance: random.Random,
    ) -> None:
        self._directory = directory
        self._bodies = bodies
        self._clock = clock
        self._chance = chance
        self._examiner = Examiner(
            hostname=HOSTNAME, domains=Domains(origin=HOSTNAME, aliases={}), max_message_size=1 << 30
        )

    async def take(self, limit: int) -> list[Submission]:
        names = [name for name, _ in zip(self._directory.files, range(limit), strict=False)]
        return [self._submission(name) for name in names]

    def _submission(self, name: str) -> Submission:
        queue_id = new_id(self._clock(), self._chance.getrandbits(50))
        message = self._examine(self._directory.files[name], queue_id)
        return Submission(message=message, path=Path(name), identity=(0, 0), file=name)

    def _examine(self, content: bytes, queue_id: str) -> Message:
        left = [content]
        return self._examiner.examine(lambda size: left.pop() if left else b"", queue_id, expected=len(content))

    async def watch(self, wake: Callable[[], None]) -> None:
        self._directory.heard = wake

    def waiting(self) -> bool:
        return bool(self._directory.files)

    def next_look(self) -> float | None:
        return None

    async def give_back(self, submissions: Sequence[Submission], *, reason: str = "") -> None:
        """They are where they were."""

    async def examine_body(self, path: Path, queue_id: str) -> Message | str:
        content = self._bodies(queue_id)
        if content is None:
            raise FileNotFoundError(path)
        try:
            return self._examine(content, queue_id)
        except Refused as refusal:
            return str(refusal)
