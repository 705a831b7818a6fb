"""When a run last stirred: so that whoever watches it can tell a patient relayer from one that is stuck.

An octet that arrives stirs, as does a block that leaves, a step of the way in, and a piece of a file that was read.
What is waited for on our own side (an address, a file, a turn to re-encode, the disk) has deadlines of its own, or
none, and is no silence of the server's: while it lasts, a run counts as stirring.

    Between two stirs a run waits for a server, under one of its timeouts: never longer than `Timeouts.longest_silence`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stirring:
    """One run's, on the loop's clock.  `stir` costs one reading of it."""

    __slots__ = ("_at", "_clock", "_ours")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at = clock()
        self._ours = False

    @property
    def last(self) -> float:
        """When it last stirred; now, while it waits for us."""
        return self._clock() if self._ours else self._at

    def stir(self) -> None:
        """Something happened."""
        self._at = self._clock()

    @contextmanager
    def waiting_for_us(self) -> Iterator[None]:
        """What is waited for meanwhile is not the server's to give."""
        self._ours = True
        try:
            yield
        finally:
            self._ours = False
            self.stir()
