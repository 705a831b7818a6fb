"""Lines of more than 998 octets, cut so that every server takes them (RFC 5321 section 4.5.3.1.6).

Pure.  A long line goes on after CRLF and a space, as Postfix does it; a field of the header is folded before white
space that is there already, if there is some, which keeps its meaning (RFC 5322 section 2.2.3).  No UTF-8 character is
cut in two where it can be helped.  The result does not depend on how the octets were cut into pieces.
"""

from __future__ import annotations

MAX_LINE = 998  # octets without the CRLF
_LONGEST = 3  # octets of a UTF-8 character behind its first


class Folder:
    """Feed it canonical octets, whole line ends.  Holds back less than a line."""

    __slots__ = ("_header", "_rest")

    def __init__(self) -> None:
        self._header = True  # the empty line has not come yet
        self._rest = b""

    def feed(self, octets: bytes) -> bytes:
        """Return what is folded of what came until now."""
        *lines, self._rest = (self._rest + octets).split(b"\r\n")
        folded = []
        for line in lines:
            while len(line) > MAX_LINE:
                first, line = self._cut(line)
                folded.append(first)
            folded.append(line)
            self._header = self._header and bool(line)
        while len(self._rest) > MAX_LINE:
            first, self._rest = self._cut(self._rest)
            folded.append(first)
        return b"".join(line + b"\r\n" for line in folded)

    def finish(self) -> bytes:
        """Return the last line, if it had no end."""
        rest, self._rest = self._rest, b""
        return rest

    def _cut(self, line: bytes) -> tuple[bytes, bytes]:
        """Return the first line to be made of a long one, and the rest, which begins with white space."""
        if self._header:
            at = max(line.rfind(b" ", 0, MAX_LINE + 1), line.rfind(b"\t", 0, MAX_LINE + 1))
            if at > 0 and line[:at].strip():
                return line[:at], line[at:]
        at = MAX_LINE
        while at > MAX_LINE - _LONGEST and line[at] & 0xC0 == 0x80:
            at -= 1
        if line[at] & 0xC0 == 0x80:
            at = MAX_LINE  # no UTF-8
        return line[:at], b" " + line[at:]
