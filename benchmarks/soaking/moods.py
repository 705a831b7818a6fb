"""How sites and name servers fare at a time, by the seed: nobody has to be told.

Pure.  Time goes in slots, longer ones for some sites than for others; in each a site is in one mood.  Times are
seconds since the beginning.
"""

from __future__ import annotations

from enum import Enum

from benchmarks.soaking.plan import draw

SHORTEST, LONGEST = 20, 120  # seconds of a slot
NAME_SLOT = 45  # seconds


class Mood(Enum):
    """What a site does to whoever connects."""

    WELL = "well"  # but for what befalls a connection or a transaction now and then
    SLOW = "slow"  # seconds for each message
    DEAD = "dead"  # resets each connection
    SILENT = "silent"  # accepts, and says nothing
    GREYLISTING = "greylisting"  # each recipient comes twice
    CROWDED = "crowded"  # takes few connections
    BUSY = "busy"  # 451 to each recipient
    REFUSING = "refusing"  # 550 to each recipient


WEIGHTS = {
    Mood.WELL: 680,
    Mood.SLOW: 60,
    Mood.DEAD: 60,
    Mood.SILENT: 30,
    Mood.GREYLISTING: 80,
    Mood.CROWDED: 50,
    Mood.BUSY: 30,
    Mood.REFUSING: 10,
}
_MOODS = [mood for mood, weight in WEIGHTS.items() for _ in range(weight)]
_DEAD_FOR_GOOD = 0  # the host that is, to the end


class NameTrouble(Enum):
    """What becomes of a question for a domain's mail exchangers."""

    NONE = "none"
    SERVFAIL = "servfail"
    SILENCE = "silence"


def mood(seed: int, host: int, at: float) -> Mood:
    """Return how a host fares."""
    if host == _DEAD_FOR_GOOD:
        return Mood.DEAD
    length = SHORTEST + draw(seed, 10, host) % (LONGEST - SHORTEST)
    return _MOODS[draw(seed, 11, host * 100_000 + int(at / length)) % len(_MOODS)]


def name_trouble(seed: int, name: int, at: float) -> NameTrouble:
    """Return how a name is answered for; `name` is a number for it."""
    chance = draw(seed, 12, name * 100_000 + int(at / NAME_SLOT)) % 100
    return NameTrouble.SERVFAIL if chance < 4 else NameTrouble.SILENCE if chance < 6 else NameTrouble.NONE
