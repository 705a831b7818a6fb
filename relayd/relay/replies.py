"""Replies out of octets as they arrive: strict, incremental and bounded.

Pure.  Invariants, checked by tests/relay/test_replies.py:

    The replies do not depend on how the octets were cut.
    A reply is only what RFC 5321 section 4.2 calls one: three digits, the first of them 2 to 5; then the end of the
    line, or a space or hyphen and a text; every line of one reply with the same code.
    A line is at most 8 KiB, a reply 64 KiB of text; what is kept never exceeds that and one read.

A line may end in a bare LF: what a reply says does not depend on it, and some servers do so.
"""

from __future__ import annotations

import re
from functools import lru_cache

from relayd.mail.errors import SessionError
from relayd.mail.reply import Reply

MAX_LINE = 8 * 1024  # octets; RFC 5321 section 4.5.3.1.5 has 512, and asks to be liberal
MAX_REPLY = 64 * 1024  # octets of text, one more for each line

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([^\n]*?))?\r?\n")


class ProtocolError(SessionError):
    """The server does not speak SMTP, or not with us: the connection is of no use any more."""


class ReplyParser:
    """Feed it octets, then ask for replies until there is none.  O(octets) in all."""

    __slots__ = ("_buffer", "_code", "_lines", "_size")

    def __init__(self) -> None:
        self._buffer = b""
        self._code = b""  # of the reply that has begun
        self._lines: list[bytes] = []
        self._size = 0

    @property
    def pending(self) -> bool:
        """Whether octets are left over that no reply was made of."""
        return bool(self._buffer or self._lines)

    def feed(self, octets: bytes) -> None:
        """Take what arrived."""
        self._buffer = self._buffer + octets if self._buffer else octets

    def next(self) -> Reply | None:
        """Return the next complete reply, None if it has not arrived yet.

        Raises:
            ProtocolError: these octets are no reply.
        """
        position = 0
        try:
            while end := self._buffer.find(b"\n", position) + 1:
                line = self._buffer[position:end]
                position = end
                if not self._lines and line[3:4] != b"-":
                    _check_length(line)
                    return _single(line)
                if self._continue(line):
                    return self._take()
            if len(self._buffer) - position > MAX_LINE:
                raise ProtocolError(f"a reply line of more than {MAX_LINE} octets")
            return None
        finally:
            self._buffer = self._buffer[position:]

    def _continue(self, line: bytes) -> bool:
        """Add a line to a reply of several; return whether it is the last."""
        _check_length(line)
        code, mark, text = _split(line)
        if self._lines and code != self._code:
            raise ProtocolError(f"codes {self._code.decode()} and {code.decode()} in one reply")
        self._code = code
        self._lines.append(text)
        self._size += len(text) + 1
        if self._size > MAX_REPLY:
            raise ProtocolError(f"a reply of more than {MAX_REPLY} octets")
        return mark != b"-"

    def _take(self) -> Reply:
        reply = Reply.parse(int(self._code), _decoded(b"\n".join(self._lines)))
        self._lines, self._size = [], 0
        return reply


@lru_cache(maxsize=512)
def _single(line: bytes) -> Reply:
    """Parse a reply of one line.  Most replies of a connection are the same few, hence the cache."""
    code, _, text = _split(line)
    return Reply.parse(int(code), _decoded(text))


def _split(line: bytes) -> tuple[bytes, bytes, bytes]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ProtocolError(f"not a reply: {line[:80]!r}")
    return match[1], match[2] or b" ", match[3] or b""


def _check_length(line: bytes) -> None:
    if len(line) > MAX_LINE:
        raise ProtocolError(f"a reply line of more than {MAX_LINE} octets")


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "replace")
