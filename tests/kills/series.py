"""What there is to run: series of runs that differ only in which call of a thread is hit.

A series ends when ENOUGH runs in a row hit none.  Work falls to the threads of a pool as it happens, so one run may
have fewer calls than another: kills at what changes names or syncs there are swept in ROUNDS, for each thread and for
whichever of them comes first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any, TypeAlias

from tests.kills.failures import TROUBLES, Failure
from tests.kills.ground import Ground
from tests.kills.runs import Kill, profile
from tests.kills.stories import STORIES
from tests.kills.strace import POOL, WORKER

ENOUGH = 2
ROUNDS = 3
DECISIVE = {"rename", "unlink", "fsync", "fdatasync", "syncfs"}
WITH_WORKERS = {WORKER, "main", "commits"}  # what is otherwise with workers; their bodies and rows are the daemon's
LATER = "later"  # threads that were born while strace was there: they are of the pool, whose first ones are followed
ONCE = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 130, 160, 200)  # which calls fail
LASTING = (1, 4, 12, 30)  # from which call on they fail

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kills:
    """Kills at one call of one thread in one story."""

    story: str
    processes: int
    role: str
    call: str
    round: int

    def runs(self) -> Iterable[tuple[int, Kill]]:
        """Yield what may be run, in order, each with its number among the calls."""
        return ((when, Kill(when=when, **asdict(self))) for when in count(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """One error of one call of one thread in one story."""

    story: str
    role: str
    call: str
    error: str
    lasting: bool

    def runs(self) -> Iterable[tuple[int, Failure]]:
        """Yield what may be run, in order, each with its number among the calls."""
        return ((when, Failure(when=when, **asdict(self))) for when in (LASTING if self.lasting else ONCE))


Series: TypeAlias = Kills | Failures  # its fields are in each row of it


def kills(ground: Ground, processes: int, calls: Collection[str]) -> Iterator[Kills]:
    """Yield what there is to sweep: of each story the calls that its threads make."""
    for story in STORIES:
        made = {(role, call) for role, call in profile(ground, story, processes) if not calls or call in calls}
        if processes:
            made = {each for each in made if each[0] in WITH_WORKERS and each[1] != "pwrite64"}
        made |= {(POOL, call) for role, call in made if role.startswith(POOL)}
        for role, call in sorted(made):
            if role != LATER:
                rounds = ROUNDS if role.startswith(POOL) and call in DECISIVE else 1
                for number in range(1, 1 + rounds):
                    yield Kills(story=story, processes=processes, role=role, call=call, round=number)


def troubles(calls: Collection[str]) -> Iterator[Failures]:
    """Yield what there is to fail in each story."""
    for story in STORIES:
        for (role, call), errors in TROUBLES.items():
            if not calls or call in calls:
                for error in errors:
                    for lasting in (False, True):
                        yield Failures(story=story, role=role, call=call, error=error, lasting=lasting)
