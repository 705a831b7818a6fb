"""What was said on a connection, as it is kept for people: one attempt's part of it.

Pure.  No body and no header of a message is ever in it, and no secret (relay/transcript.py makes it).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, TypeAlias


class Speaker(Enum):
    """Whose words a line has."""

    WE = ">"
    SERVER = "<"
    NOBODY = "*"  # what happened


class Line(NamedTuple):
    """Something said, `after` so many seconds since the first line.  A server's may have several lines of its own."""

    after: float
    speaker: Speaker
    text: str


Transcript: TypeAlias = tuple[Line, ...]  # in order
