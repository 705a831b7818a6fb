"""The drop directory in memory, what is dropped into it, and the pickup that takes it.

What is in it is complete.  Reading a file as a message is relayd's own work.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path

from relayd.mail.message import Message, new_id
from relayd.mail.submission import Submission
from relayd.submission.envelope import Domains
from relayd.submission.examine import Examiner
from relayd.submission.refusal import Refused
from tests.simulation.disk import INCOMING, NEW, Disk
from tests.simulation.sabotage import Faults
from tests.simulation.scenario import Drop

HOSTNAME = "relay.test"
STUCK_PAUSE = 10.0  # seconds before a file is tried again that could not be taken
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


class MemoryPickup:
    """The pickup of one start of the daemon; see relayd/ports.py.  A file of another user is copied before it is read,
    as relayd/submission/incoming.py does."""

    def __init__(
        self,
        disk: Disk,
        *,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        chance: random.Random,
        faults: Faults,
    ) -> None:
        self._disk = disk
        self._clock = clock
        self._monotonic = monotonic
        self._chance = chance
        self._faults = faults
        self._left: dict[str, float] = {}  # until when
        self._examiner = Examiner(
            hostname=HOSTNAME, domains=Domains(origin=HOSTNAME, aliases={}), max_message_size=1 << 30
        )

    async def take(self, limit: int) -> list[Submission]:
        await asyncio.sleep(0)
        taken: list[Submission] = []
        now = self._monotonic()
        for name in list(islice(self._disk.dropped, limit + len(self._left))):
            if self._left.get(name, 0.0) > now or len(taken) == limit:
                continue
            try:
                self._faults.files("take")
                taken.append(self._submission(name))
            except OSError:
                self._left[name] = now + STUCK_PAUSE
        await asyncio.sleep(0)
        return taken

    def _submission(self, name: str) -> Submission:
        queue_id = new_id(self._clock(), self._chance.getrandbits(50))
        files, path, original = self._disk.files, f"{NEW}/{name}", None
        file = files.find(path)
        assert file is not None
        message = self._examine(file.content, queue_id)
        if file.foreign:
            original, path = f"{INCOMING}/{queue_id}.orig", f"{INCOMING}/{queue_id}"
            files.rename(f"{NEW}/{name}", original)
            files.write(path, file.content)
        copy = files.find(path)
        assert copy is not None
        return Submission(
            message=message,
            path=Path(path),
            identity=copy.identity,
            original=Path(original) if original else None,
            file=name,
        )

    def _examine(self, content: bytes, queue_id: str) -> Message:
        left = [content]
        return self._examiner.examine(lambda size: left.pop() if left else b"", queue_id, expected=len(content))

    async def watch(self, wake: Callable[[], None]) -> None:
        self._disk.heard = wake

    def waiting(self) -> bool:
        return bool(self._disk.dropped)

    def next_look(self) -> float | None:
        self._left = {name: until for name, until in self._left.items() if name in self._disk.dropped}
        return min(self._left.values(), default=None)

    def release(self) -> None:
        """Nothing is open: no number of a file comes again here."""

    async def give_back(self, submissions: Sequence[Submission], *, reason: str = "") -> None:
        for each in submissions:
            self._left[each.file] = self._monotonic() + STUCK_PAUSE

    async def examine_body(self, path: Path, queue_id: str) -> Message | str:
        await asyncio.sleep(0)
        try:
            return self._examine(self._disk.files.read(str(path)), queue_id)
        except Refused as refusal:
            return str(refusal)

    async def restore_incoming(self, known: Callable[[str], bool]) -> None:
        """Put back what a crash left half taken in, originals first."""
        files = self._disk.files
        for name in sorted(files.names(INCOMING), key=lambda name: not name.endswith(".orig")):
            await asyncio.sleep(0)
            stem = name.removesuffix(".orig")
            if name != stem and not known(stem):
                files.rename(f"{INCOMING}/{name}", f"{NEW}/{stem}")
            elif name != stem or not known(stem):
                files.unlink(f"{INCOMING}/{name}")
