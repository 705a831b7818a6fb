"""Where a message comes from: standard input, to its end or to a line with a dot alone; or the DATA of SMTP.

Octets pass through in chunks: memory stays within one, and a line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator

from relayd.sendmail.failure import EX_PROTOCOL, EX_TEMPFAIL, Failure

CHUNK = 64 * 1024  # octets read at once
_DOT = re.compile(rb"\n\.\r?\n")
_DOT_BEGUN = re.compile(rb"\n(?:\.\r?)?\Z")


def octets_of(descriptor: int) -> Iterator[bytes]:
    """Yield all octets of a descriptor."""
    while True:
        try:
            octets = os.read(descriptor, CHUNK)
        except OSError as error:
            raise Failure(EX_TEMPFAIL, f"the message cannot be read: {error.strerror}") from None
        if not octets:
            return
        yield octets


def until_dot(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what comes before the first line that has a dot alone."""
    tail = b"\n"  # an octet that is yielded already, or was before the first; and what may become such a line
    for chunk in chunks:
        text = tail + chunk
        if end := _DOT.search(text):
            yield text[1 : end.start() + 1]
            return
        begun = _DOT_BEGUN.search(text)
        kept = begun.start() if begun else len(text) - 1
        yield text[1 : kept + 1]
        tail = text[kept:]
    yield tail[1:]


def data_of(read_line: Callable[[int], bytes], *, line_end: bytes) -> Iterator[bytes]:
    """Yield the message that follows DATA, without the dots that were put before dots.

    `line_end` is the client's own, as its commands have it: only a dot between two of these ends the message, so that
    no line end of another kind in it can (SMTP smuggling).

    Raises:
        Failure: the input ended before the message.
    """
    beginning, last = True, b""  # of a line; the last octets, since a line may come in pieces
    while True:
        piece = read_line(CHUNK)
        if not piece:
            raise Failure(EX_PROTOCOL, "the input ended within the message")
        if beginning and piece == b"." + line_end:
            return
        yield piece[1:] if beginning and piece.startswith(b".") else piece
        last = (last + piece)[-2:]
        beginning = last.endswith(line_end)
