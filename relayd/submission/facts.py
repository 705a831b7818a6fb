"""What sending needs to know of a body's octets, counted in one pass.

Pure.  CRLF, a CR alone and an LF alone each end a line, also where chunks meet: the facts are the same for every way
to cut the octets into chunks.
"""

from __future__ import annotations

MAX_LINE = 998  # octets without CRLF, RFC 5321 section 4.5.3.1.6


class Facts:
    """The facts of the octets fed so far.  Cost: a few passes at C speed over each chunk."""

    __slots__ = ("_after_cr", "_bare", "_line", "_octets", "eight_bit", "long_lines", "nul")

    def __init__(self) -> None:
        self.eight_bit = False
        self.nul = False
        self.long_lines = False
        self._octets = 0
        self._bare = 0  # CR or LF that is no part of a pair
        self._line = 0  # octets of the line that has begun
        self._after_cr = False

    def feed(self, chunk: bytes) -> None:
        """Count the next octets."""
        if not chunk:
            return
        lines = chunk.splitlines()
        ends = len(lines) - (not chunk.endswith((b"\r", b"\n")))
        marks = chunk.count(b"\r") + chunk.count(b"\n")
        across = self._after_cr and chunk.startswith(b"\n")
        # Each end has one mark or, if it is a pair, two; a pair across the edge has one here, and one was counted.
        self._bare += 2 * ends - marks - 2 * across
        self._octets += len(chunk)
        self.eight_bit = self.eight_bit or not chunk.isascii()
        self.nul = self.nul or b"\0" in chunk
        self._measure(lines, finished=ends == len(lines))
        self._after_cr = chunk.endswith(b"\r")

    def _measure(self, lines: list[bytes], *, finished: bool) -> None:
        first = self._line + len(lines[0])
        if len(lines) == 1:
            longest = self._line = first
        else:
            self._line = len(lines[-1])
            longest = max(first, max(map(len, lines)))
        self.long_lines = self.long_lines or longest > MAX_LINE
        if finished:
            self._line = 0

    @property
    def canonical(self) -> bool:
        """Whether every line, the last too, ends in CRLF, and there is no other CR or LF."""
        return not self._bare and not self._unfinished

    @property
    def wire_size(self) -> int:
        """The octets on the wire: each line end as CRLF, and one more where the last line has none."""
        return self._octets + self._bare + 2 * self._unfinished

    @property
    def _unfinished(self) -> bool:
        return self._line > 0
