"""What is done to relayd itself, and when: drawn from the seed.

Pure.  All that ends a process is in the first half, so that the second is one life of the daemon and of its worker.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from enum import Enum

KILLS, STOPS, WORKERS = 4, 1, 10  # in an hour; one of each in a shorter time
HOUR = 3600.0
RELOADS, OPERATOR = 150.0, 30.0  # seconds between two
LOOK, HISTORY = 5.0, 60.0


class Happening(Enum):
    """What is done."""

    KILL = "the daemon is killed"
    STOP = "the daemon is stopped in order"
    KILL_WORKER = "the worker is killed"
    RELOAD = "the configuration is reloaded"
    OPERATE = "an operator does something"
    LOOK = "a sample is taken"
    READ_HISTORY = "the history is read"


def happenings(seed: int, seconds: float) -> list[tuple[float, Happening]]:
    """Return what is done in so many seconds, in order."""
    chance = random.Random(seed)
    found = [
        *((at, Happening.LOOK) for at in _every(LOOK, seconds)),
        *((at, Happening.READ_HISTORY) for at in _every(HISTORY, seconds)),
        *((at, Happening.RELOAD) for at in _every(RELOADS, seconds)),
        *((at, Happening.OPERATE) for at in _every(OPERATOR, seconds)),
    ]
    for what, count in ((Happening.KILL, KILLS), (Happening.STOP, STOPS), (Happening.KILL_WORKER, WORKERS)):
        times = max(round(count * min(seconds / HOUR, 1)), 1)
        found += [(chance.uniform(0.02, 0.45) * seconds, what) for _ in range(times)]
    return sorted(found, key=lambda each: each[0])


def _every(period: float, seconds: float) -> Iterator[float]:
    at = period
    while at < seconds:
        yield at
        at += period
