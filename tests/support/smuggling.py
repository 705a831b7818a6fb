"""What some receiver took, or takes, for the end of data, and how receivers of each kind read what a client sent."""

from __future__ import annotations

import re
from collections.abc import Iterator

BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")  # a CR or LF alone
EVIL = b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<evil@example.net>\r\nDATA\r\n"
# FAULTS.md S1: what some receiver took, or takes, for the end of data.
ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\n.\n",
    b"\r\n.\r\n",
    b"\n\n.\r\r\n",
    b"\r\n\x00.\r\n",
    b"\x00.\r\n",
    b"\r\r\n.\r\r\n",
    b"\n.\r",
]
# What is the end of data to a server that is strict, to one that takes a bare LF for a line's end, to one that takes a
# bare CR for it, and to one that takes both.
PARSERS = {
    "strict": (rb"\r\n\.\r\n", rb"\r\n"),
    "LF": (rb"\r?\n\.\r?\n", rb"\r?\n"),
    "CR": (rb"\r\n?\.\r\n?", rb"\r\n?"),
    "any": (rb"(?:\r\n|\r|\n)\.(?:\r\n|\r|\n)", rb"\r\n|\r|\n"),
}


def dialogue(octets: bytes, parser: str) -> Iterator[str]:
    """Yield the verbs of what a client sent, as a server with this parser reads it; `content` for a message."""
    end, line_end = (re.compile(pattern) for pattern in PARSERS[parser])
    position = 0
    while found := line_end.search(octets, position):
        line, position = octets[position : found.start()], found.end()
        verb = line.split(b" ")[0].split(b":")[0].decode("latin-1").upper()
        yield verb
        if verb == "DATA":
            found = end.search(octets, position - 2)
            assert found is not None
            position = found.end()
            yield "content"
        elif verb == "BDAT":
            position += int(line.split()[1])
            yield "content"


def canonical(file: bytes) -> bytes:
    """Return `file` as it is to arrive: the same lines, each ended by CRLF."""
    content = re.sub(rb"\r\n|\r|\n", b"\r\n", file)
    return content if content.endswith(b"\r\n") else content + b"\r\n"
