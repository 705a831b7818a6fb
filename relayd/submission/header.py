"""The header of a dropped file: where its fields are, where it ends, what of it is never sent.

Pure.  Offsets are octets from the start of the file.  CRLF, LF and CR each end a line, mixed at will.  A line that
is neither a field nor empty ends the header where it begins (RFC 5322 section 2.2).  Not sent (`cuts`):

    the lines of the envelope convention (X-Sender, X-Receiver, X-Relayd-Key, and what Exchange's replay puts among
    them) where they stand before all other fields; a byte order mark and an mbox `From ` line before those;
    X-Relayd-Deadline, among those lines or elsewhere;
    Bcc, Resent-Bcc (RFC 5322 section 3.6.3) and Return-Path (RFC 5321 section 4.4), wherever they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from relayd.submission.refusal import Refused

MAX_HEADER = 1024 * 1024  # octets, without the lines that name recipients (100,000 of them are a header of 4 MB)
MAX_WINDOW = 16 * 1024 * 1024  # octets of a header with the lines that name recipients
MAX_FIELDS = 200_000  # that matter, those of the envelope among them: 100,000 recipients may have a line each
MAX_CUTS = 1_000  # each is kept with the message
MAX_RECEIVED = 100  # from so many on it is a loop, RFC 5321 section 6.3

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:([^\r\n]*(?:(?:\r\n|\r|\n)[ \t][^\r\n]*)*)(?:\r\n|\r|\n|\Z)")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_ENVELOPE = frozenset({b"x-sender", b"x-receiver", b"x-relayd-key"})
_DEADLINE = b"x-relayd-deadline"
_REPLAY = frozenset(
    {
        b"x-createdby",
        b"x-endofinjectedxheaders",
        b"x-extendedmessageprops",
        b"x-extendedprops",
        b"x-helodomain",
        b"x-source",
    }
)
_RECIPIENTS = frozenset({b"to", b"cc", b"bcc", b"resent-to", b"resent-cc", b"resent-bcc"})
_KEPT = _RECIPIENTS | {
    b"return-path",
    b"sender",
    b"from",
    b"date",
    b"message-id",
    b"received",
    b"resent-sender",
    b"resent-from",
    b"resent-date",
    b"resent-message-id",
    b"resent-reply-to",
    b"tls-required",
    _DEADLINE,
}
_CUT = frozenset({b"bcc", b"resent-bcc", b"return-path", _DEADLINE})


class Field(NamedTuple):
    """A field that matters here: its name in lower case, and the raw octets after its colon, still folded."""

    name: str
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What was found.  `leading` are X-Sender, X-Receiver and X-Relayd-Key in order, and X-Relayd-Deadline among them;
    `fields` the others that matter, in order.

    `end` is the offset of the first octet of the body.  `cuts` are sorted, apart from one another, and each made of
    whole lines.  `plain` tells that the file less its cuts is the message.  It is not where no empty line stands
    before the body, and where a cut between a line that ends in CR and one that is only LF would make one line end
    of two: there the header is to be written anew.  `parted`: an empty line ends it.
    """

    leading: tuple[Field, ...]
    fields: tuple[Field, ...]
    end: int
    parted: bool
    plain: bool
    cuts: tuple[tuple[int, int], ...]

    def has(self, name: str) -> bool:
        """Whether there is a field of that name (lower case)."""
        return any(field.name == name for field in self.fields)


def read_header(head: bytes, *, whole: bool) -> Header | None:
    """Read the header at the start of a file; `whole` tells that `head` is the whole file.

    Returns None where `head` is too short to tell.

    Raises:
        Refused: a header that starts with a continuation line, is too large, or has gone round in circles.
    """
    start = _before_fields(head)
    if head[start : start + 1] in (b" ", b"\t"):
        raise Refused("the header begins with a continuation line", "begin it with a field, such as From")
    leading, start_of_fields = _leading_block(head, start)
    cuts = [(0, start_of_fields)] if start_of_fields else []
    fields, end = _read_fields(head, start_of_fields, cuts)
    if not whole and _undecided(head, end):
        if len(head) >= MAX_WINDOW:
            raise Refused(f"the header is larger than {MAX_WINDOW} octets", "make it smaller")
        return None
    blank = _LINE_END.match(head, end)
    return Header(
        leading=tuple(leading),
        fields=tuple(fields),
        end=blank.end() if blank else end,
        parted=blank is not None,
        plain=(blank is not None or end == len(head)) and not _joined(head, cuts),
        cuts=tuple(cuts),
    )


def _undecided(head: bytes, end: int) -> bool:
    """Whether octets after `head` could change what stands at `end`, where the last field found ends."""
    line_end = _LINE_END.search(head, end)
    return line_end is None or line_end.end() == len(head)


def _before_fields(head: bytes) -> int:
    """Return how many octets of a byte order mark and an mbox line stand before the first field."""
    start = len(_BYTE_ORDER_MARK) if head.startswith(_BYTE_ORDER_MARK) else 0
    if head.startswith(b"From ", start):
        line_end = _LINE_END.search(head, start)
        return line_end.end() if line_end else len(head)
    return start


def _leading_block(head: bytes, start: int) -> tuple[list[Field], int]:
    """Return the envelope lines and where they end: `start` if there are none.

    The other fields belong to them only if one of the envelope's does: elsewhere they are the message's own.
    """
    leading: list[Field] = []
    position = start
    declared = False
    while match := _FIELD.match(head, position):
        name = match[1].lower()
        if name in _ENVELOPE or name == _DEADLINE:
            leading.append(Field(name.decode("ascii"), match[2]))
            _bound(leading, cuts=())
            declared = declared or name != _DEADLINE
        elif name not in _REPLAY:
            break
        position = match.end()
        if name == b"x-endofinjectedxheaders":
            break
    return (leading, position) if declared else ([], start)


def _read_fields(head: bytes, start: int, cuts: list[tuple[int, int]]) -> tuple[list[Field], int]:
    """Return the fields that matter and where the last field ends; add to `cuts` what is not sent."""
    fields: list[Field] = []
    counted = received = 0
    position = start
    while match := _FIELD.match(head, position):
        name, end = match[1].lower(), match.end()
        if name in _KEPT:
            fields.append(Field(name.decode("ascii"), match[2]))
            received += name == b"received"
        if name in _CUT:
            _cut(cuts, position, end)
        _bound(fields, cuts)
        if name not in _RECIPIENTS:
            counted += end - position
        position = end
    if counted > MAX_HEADER:
        raise Refused(f"the header is larger than {MAX_HEADER} octets", "make it smaller")
    if received >= MAX_RECEIVED:
        raise Refused(f"a mail loop: {received} Received fields", "find out which hosts send it round")
    return fields, position


def _bound(fields: Sequence[Field], cuts: Sequence[tuple[int, int]]) -> None:
    """Refuse at once what would take memory and time without end."""
    if len(fields) > MAX_FIELDS:
        raise Refused(f"the header has more than {MAX_FIELDS} fields that matter", "send several messages")
    if len(cuts) > MAX_CUTS:
        raise Refused(f"Bcc and its like stand in more than {MAX_CUTS} places", "put them together")


def _cut(cuts: list[tuple[int, int]], start: int, end: int) -> None:
    if cuts and cuts[-1][1] == start:
        start = cuts.pop()[0]
    cuts.append((start, end))


def _joined(head: bytes, cuts: list[tuple[int, int]]) -> bool:
    """Whether a cut brings a CR and an LF together that were two line ends."""
    return any(start and head[start - 1] == 0x0D and head[end : end + 1] == b"\n" for start, end in cuts)
