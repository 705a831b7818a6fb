"""Which files were seen and are to be looked at again.

Pure: `now` is seconds of a monotonic clock that only we read, so that no change of the wall clock and no old time of
a file (`cp -p`) makes anything look complete.  A file that nothing tells more of counts as complete when two looks,
at least `settle_time` apart, find it equal.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeAlias

MAX_WAITING = 20_000  # files; more are found again when there is room

Identity: TypeAlias = tuple[int, int]  # st_dev, st_ino


def identity_of(status: os.stat_result) -> Identity:
    """Return what names a file, whatever its path is."""
    return status.st_dev, status.st_ino


@dataclass(slots=True)
class _Waiting:
    signature: tuple[int, ...]
    since: float  # when that signature was first seen
    again: float  # when to look again
    scan: int


class Settling:
    """The files that wait, by identity.  Costs: O(1) for a look, O(n) for `next_look` and `forget_unseen`."""

    def __init__(self, settle_time: float) -> None:
        self.settle_time = settle_time
        self._waiting: dict[Identity, _Waiting] = {}
        self._scan = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def settled(self, status: os.stat_result, now: float) -> bool:
        """Look at a file: whether it is as it was `settle_time` ago.  If not, it is to be looked at again."""
        known = self._seen(status, now, self.settle_time)
        return known is not None and now - known.since >= self.settle_time

    def is_early(self, status: os.stat_result, now: float) -> bool:
        """Whether the time to look at that file again has not come; it is remembered as still there."""
        known = self._waiting.get(identity_of(status))
        if known is None:
            return False
        known.scan = self._scan
        return now < known.again

    def wait(self, status: os.stat_result, now: float, seconds: float) -> None:
        """Look at it again in `seconds`."""
        known = self._seen(status, now, seconds)
        if known is not None:
            known.again = now + seconds

    def forget(self, identity: Identity) -> None:
        """It waits no more."""
        self._waiting.pop(identity, None)

    def begin_scan(self) -> None:
        """A scan of the whole directory begins."""
        self._scan += 1

    def forget_unseen(self) -> None:
        """The scan is complete: what it has not seen is gone."""
        gone = [identity for identity, known in self._waiting.items() if known.scan < self._scan]
        for identity in gone:
            del self._waiting[identity]

    def next_look(self) -> float | None:
        """Return when the next of them is to be looked at, None if none waits."""
        return min((known.again for known in self._waiting.values()), default=None)

    def _seen(self, status: os.stat_result, now: float, seconds: float) -> _Waiting | None:
        identity, signature = identity_of(status), _signature(status)
        known = self._waiting.get(identity)
        if known is None:
            if len(self._waiting) >= MAX_WAITING:
                return None
            known = _Waiting(signature, now, now + seconds, self._scan)
            self._waiting[identity] = known
        elif known.signature != signature:
            known.signature, known.since, known.again = signature, now, now + seconds
        elif now >= known.again:
            known.again = now + seconds
        known.scan = self._scan
        return known


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_nlink
