"""The one clock: wall time, and what is known of its leaps.

Whoever asks for the time has it looked at, so that a leap is known before anything is decided by the new time.  What
comes of that (docs/decisions/0013):

    The wall clock was set, seen beside one that only counts: what waits for a time waits as long as it would have.
    Time was lost: much passed on the wall clock between two looks, since it was set forward, the machine slept or the
        process was stopped; or nobody ran.  Nothing could be tried in it, so it does not count as a message's age.

The loop looks every few seconds, whatever there is to do.  Cost: two clocks read.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

TOLERANCE = timedelta(seconds=10)  # a clock that is set by less (a leap second, NTP) is followed without a word
AWAKE = timedelta(minutes=1)  # between two looks: less is a loop that had much to do
MOST = 1_000  # losses that are remembered: more than a laptop sleeps in a lifetime

NOTHING = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leap:
    """What happened to the time: how far the clock was set, and how much of it was lost."""

    set_by: timedelta = NOTHING
    lost: timedelta = NOTHING

    def __bool__(self) -> bool:
        return bool(self.set_by or self.lost)


def _wall() -> datetime:
    return datetime.now(UTC)


def _counted() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # goes on while the machine sleeps


class Clock:
    """See the module.  `wall` is a clock that can be set, `counted` returns seconds of one that cannot."""

    def __init__(self, *, wall: Callable[[], datetime] = _wall, counted: Callable[[], float] = _counted) -> None:
        self._wall = wall
        self._counted = counted
        self._seen = wall(), counted()
        self._losses: deque[tuple[datetime, timedelta]] = deque(maxlen=MOST)
        self._leap = Leap()

    def __call__(self) -> datetime:
        """Return the time."""
        now, counted = self._wall(), self._counted()
        before, counted_before = self._seen
        self._seen = now, counted
        passed = now - before
        set_by = passed - timedelta(seconds=counted - counted_before)
        if passed > AWAKE or abs(set_by) > TOLERANCE:
            self._note(passed, set_by if abs(set_by) > TOLERANCE else NOTHING)
        return now

    def begin(self, away: timedelta) -> None:
        """Nobody ran for so long before now; if that is less than nothing, the clock was set back meanwhile."""
        if away > AWAKE:
            self._losses.append((self._seen[0], away))
            self._leap = Leap(set_by=self._leap.set_by, lost=self._leap.lost + away)
        elif away < -TOLERANCE:
            self._leap = Leap(set_by=self._leap.set_by + away, lost=self._leap.lost)

    def lost_within(self, span: timedelta) -> timedelta:
        """Return how much was lost at instants less than `span` ago.

        So much older than `span` may be what is to be `span` old: what arrived before a loss was not awake in it, and
        what arrived after it cannot be as old as `span` yet.
        """
        now = self._seen[0]
        return sum((lost for at, lost in self._losses if now - at < span), NOTHING)

    def take_leap(self) -> Leap:
        """Return what has happened since this was asked last."""
        leap, self._leap = self._leap, Leap()
        return leap

    def _note(self, passed: timedelta, set_by: timedelta) -> None:
        lost = passed if passed > AWAKE else NOTHING
        if lost:
            self._losses.append((self._seen[0], lost))
        elif set_by < NOTHING:
            self._find_again(-set_by)
        self._leap = Leap(set_by=self._leap.set_by + set_by, lost=self._leap.lost + lost)

    def _find_again(self, time_found: timedelta) -> None:
        """The clock was set back: what it was set forward by before was not lost; the losses are of the new time."""
        losses = list(self._losses)
        self._losses.clear()
        for at, lost in reversed(losses):
            found = min(lost, time_found)
            time_found -= found
            if lost > found:
                self._losses.appendleft((min(at, self._seen[0]), lost - found))
