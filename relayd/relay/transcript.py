"""What is remembered of the conversations of a run, and what becomes of it for one attempt.

Invariants, checked by tests/relay/test_transcript.py:

    No octet of a message is in a transcript, and no secret of ours: AUTH is masked as a whole, what a server says as
        everywhere (secrecy.py).
    A transcript has at most `MOST_LINES` lines of `MOST_TEXT` characters; of more its middle is left out, and told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import Enum
from operator import itemgetter

from relayd.mail.reply import Reply
from relayd.mail.transcript import Line, Speaker, Transcript
from relayd.relay.secrecy import Secrecy
from relayd.relay.transaction import MOST_REMARKS, Remark

MOST_LINES = 80
MOST_TEXT = 1000  # characters


class Transcripts(Enum):
    """Of which attempts a transcript is kept."""

    NONE = "none"
    FAILURES = "failures"  # those of which something was not delivered
    ALL = "all"


class Remarks:
    """What was said and happened on connections of a run before the first MAIL; of too much, the last."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.kept: list[Remark] = []
        self._clock = clock

    def note(self, what: bytes | Reply | str) -> None:
        """Keep what we said, the server did, or happened."""
        self.kept.append((self._clock(), what))
        if len(self.kept) > MOST_REMARKS:
            del self.kept[: MOST_REMARKS // 2]


def transcript(remarks: Sequence[Remark], secrecy: Secrecy) -> Transcript:
    """Return what was said, in order."""
    ordered = sorted(remarks, key=itemgetter(0))
    lines = [_line(ordered[0][0], remark, secrecy) for remark in ordered]
    if len(lines) > MOST_LINES:
        first, left_out = MOST_LINES // 4, len(lines) - MOST_LINES + 1
        gap = Line(lines[first].after, Speaker.NOBODY, f"{left_out} lines are left out")
        lines[first : first + left_out] = [gap]
    return tuple(lines)


def _line(begun: datetime, remark: Remark, secrecy: Secrecy) -> Line:
    at, what = remark
    after = (at - begun).total_seconds()
    if isinstance(what, bytes):
        return Line(after, Speaker.WE, what.decode("utf-8", "surrogateescape").rstrip("\r\n")[:MOST_TEXT])
    if isinstance(what, Reply):
        return Line(after, Speaker.SERVER, secrecy.of_text(_said(what))[:MOST_TEXT])
    return Line(after, Speaker.NOBODY, secrecy.of_text(what)[:MOST_TEXT])


def _said(reply: Reply) -> str:
    """Return a reply as it came, a line each."""
    mark = f"{reply.status} " if reply.status else ""
    *first, last = (f"{mark}{line}" for line in reply.text.split("\n"))
    return "\n".join([*(f"{reply.code}-{line}" for line in first), f"{reply.code} {last}".rstrip()])
