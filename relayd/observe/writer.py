"""Writes lines to a file descriptor from a thread of its own.

Invariants, checked by tests/observe/test_writer.py:

    `write` never blocks and never fails, whatever becomes of the other end (FAULTS.md P10).
    At most `bound` lines wait; what does not fit or cannot be written is dropped and counted, and the count is told
        on a line of its own as soon as something can be written again.

Cost: one system call for all lines that gathered within `_LINGER`.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable

BOUND = 10_000  # lines: about 2 MiB
_LINGER = 0.005  # seconds that lines gather after the first one
_CHUNK = 64 * 1024  # octets in one write: what a pipe takes
_LOOK = 100  # milliseconds between two looks at whether we are to stop


def dropped_line(count: int) -> str:
    """Say in plain words that lines are missing."""
    return f"event=log-lines-dropped lines={count}"


class LineWriter:
    """See the module.  `apology` makes the line that tells how many were dropped."""

    def __init__(self, fd: int, *, bound: int = BOUND, apology: Callable[[int], str] = dropped_line) -> None:
        self._fd = fd
        self._bound = bound
        self._apology = apology
        self._lines: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._dropped = 0
        self._told = 0  # of the dropped
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many lines were lost so far."""
        return self._dropped

    def write(self, line: str) -> None:
        """Have `line` (without its end) written; surrogates and what UTF-8 lacks come out escaped."""
        octets = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            if len(self._lines) >= self._bound or self._closing:
                self._dropped += 1
                return
            self._lines.append(octets)
            if len(self._lines) == 1:
                self._changed.notify()

    def close(self, timeout: float = 2.0) -> None:
        """Write what waits, for at most `timeout` seconds.  The descriptor stays open; lines after this are dropped."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        with self._changed:
            self._lines.clear()

    def _run(self) -> None:
        while lines := self._gathered():
            untold = self._dropped - self._told
            apology = f"{self._apology(untold)}\n".encode() if untold else b""
            if self._written(apology + b"".join(lines)):
                self._told += untold
            else:
                with self._changed:
                    self._dropped += len(lines)

    def _gathered(self) -> list[bytes]:
        """Wait for lines; none when closing.  At most `_CHUNK` octets of them, or one line."""
        with self._changed:
            while not self._lines and not self._closing:
                self._changed.wait()
            if not self._closing:
                self._changed.wait(_LINGER)
            lines: list[bytes] = []
            size = 0
            while self._lines and (not size or size + len(self._lines[0]) <= _CHUNK):
                size += len(self._lines[0])
                lines.append(self._lines.popleft())
            return lines

    def _written(self, octets: bytes) -> bool:
        while octets:
            try:
                octets = octets[os.write(self._fd, octets) :]
            except BlockingIOError:
                if not self._writable():
                    return False
            except (OSError, ValueError):
                return False
        return True

    def _writable(self) -> bool:
        """Wait until a non-blocking descriptor takes more; False if we are to stop first."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not self._closing:
            if poll.poll(_LOOK):
                return True
        return bool(poll.poll(_LOOK))
