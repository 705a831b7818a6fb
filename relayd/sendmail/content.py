"""What a caller wrote, as the content of a file to drop: where its header is, and what it takes to stand behind ours.

Pure.  The lines of our envelope come first, and end with a line of their own (`END`), so that none of the content is
ever taken for one of them: not an X-Sender line, and not a line that would continue ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from relayd.submission.header import Header, read_header

END = b"X-EndOfInjectedXHeaders: sendmail"  # with its line end; what follows is the message
_BEFORE = b"X-Sender: <>\n" + END + b"\n"
_UUCP = re.compile(rb"(?:\xef\xbb\xbf)?(?:>*From [^\n]*\n)*")  # lines of mailboxes, and a byte order mark
_UUCP_BEGUN = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:>*From [^\n]*\n)*(?:>*(?:F(?:r(?:o(?:m(?: [^\n]*)?)?)?)?)?|\xef\xbb?)\Z"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The beginning of a message.  `header` is as the daemon will read it; `fields` are its octets, up to an empty line
    that has to be put there if `rest` does not begin with one; `line_end` is the content's own."""

    header: Header
    fields: bytes
    gap: bytes
    rest: bytes
    line_end: bytes


def read_content(head: bytes, *, whole: bool) -> Content | None:
    """Read the beginning of a message; None if `head`, which is not the `whole` of it, is too short for that.

    Raises:
        Refused: its header cannot be read.
    """
    if not whole and _UUCP_BEGUN.match(head):
        return None
    start = _UUCP.match(head)
    text = head[start.end() if start else 0 :]
    line_end = _line_end(text)
    if text[:1] in (b" ", b"\t"):  # there is no header
        fields, rest, header = b"", text, read_header(_BEFORE + b"\n", whole=True)
        parted = False
    else:
        header = read_header(_BEFORE + text, whole=whole)
        if header is None:
            return None
        end = header.end - len(_BEFORE)
        fields, rest, parted = text[:end], text[end:], header.parted
    assert header is not None
    gap = b""
    if not parted:
        gap = _gap(fields, line_end)
    return Content(header=header, fields=fields, gap=gap, rest=rest, line_end=line_end)


def _gap(fields: bytes, line_end: bytes) -> bytes:
    """Return what makes an empty line after the fields."""
    if fields.endswith(b"\r"):  # and an LF would be the other half of one line end
        return b"\r"
    return line_end if not fields or fields.endswith(b"\n") else line_end * 2


def _line_end(text: bytes) -> bytes:
    newline = text.find(b"\n")
    return b"\r\n" if newline > 0 and text[newline - 1 : newline] == b"\r" else b"\n"
