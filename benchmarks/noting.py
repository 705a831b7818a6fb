"""A sink that notes when each message was taken, by the number in its recipient (benchmarks/load.py).

Times are of CLOCK_MONOTONIC, which all processes share: the end of a message has been read, its reply has not been
written.  The notes go through a pipe to a thread here, so that somebody can wait for one.
"""

from __future__ import annotations

import os
import struct
import threading
from functools import partial
from time import monotonic
from typing import Self

from benchmarks.sink import Counts, Session, Sink
from relayd.relay.plans import Plan

NOTE = struct.Struct("=qd")  # number, time
RECIPIENT = b"TO:<r"
READ = 4096 * NOTE.size  # octets


class _NotingSession(Session):
    """One client, whose messages have one recipient each."""

    __slots__ = ("_notes", "_number")

    def __init__(self, notes: int, counts: Counts, offer: bytes) -> None:
        super().__init__(counts, offer)
        self._notes = notes
        self._number = -1

    def _obey(self, line: bytes, replies: list[bytes]) -> None:
        if line[:4].upper() == b"RCPT":
            self._number = number_of(line)
        super()._obey(line, replies)

    def _took(self, replies: list[bytes]) -> None:
        os.write(self._notes, NOTE.pack(self._number, monotonic()))
        super()._took(replies)


def number_of(line: bytes) -> int:
    """Return the number of a message by a RCPT command; -1 if it is none of ours."""
    _, found, rest = line.partition(RECIPIENT)
    digits = rest.partition(b"@")[0]
    return int(digits) if found and digits.isdigit() else -1


class NotingSink(Sink):
    """See the module.  `times` is when each message was first taken, `doubles` are the numbers that came again."""

    def __init__(self, plan: Plan = Plan.CHUNKED) -> None:
        super().__init__(plan)
        self.times: dict[int, float] = {}
        self.doubles: list[int] = []
        self._more = threading.Condition()

    def __enter__(self) -> Self:
        self._notes, theirs = os.pipe()
        self._session = partial(_NotingSession, theirs)
        super().__enter__()
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._reader.join()
        os.close(self._notes)

    def wait_for(self, number: int, patience: float) -> float | None:
        """Wait until a message was taken; return when, None if patience ended before."""
        with self._more:
            self._more.wait_for(lambda: number in self.times, patience)
            return self.times.get(number)

    def wait_for_count(self, count: int, patience: float) -> bool:
        """Wait until so many were taken; return whether they were before patience ended."""
        with self._more:
            return self._more.wait_for(lambda: len(self.times) >= count, patience)

    def _read(self) -> None:
        left = b""
        while octets := os.read(self._notes, READ):
            left += octets
            whole = len(left) // NOTE.size * NOTE.size
            with self._more:
                for number, at in NOTE.iter_unpack(left[:whole]):
                    if number in self.times:
                        self.doubles.append(number)
                    else:
                        self.times[number] = at
                self._more.notify_all()
            left = left[whole:]
