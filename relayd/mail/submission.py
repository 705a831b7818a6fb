"""A file of the drop directory that became a message, on its way into the spool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from relayd.mail.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A message and the file that is to become its body.

    `path` is renamed to the body's place if it still is the file `identity` (st_dev, st_ino) that was examined.
    `original` is the producer's own file, where `path` is our copy of it: removed once the message is committed.
    `file` is the name it was dropped under.  `repeats` is the id of the message that has its key already: then this one
    became none.
    """

    message: Message
    path: Path
    identity: tuple[int, int]
    original: Path | None = None
    file: str = ""
    repeats: str = ""
