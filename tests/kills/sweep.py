"""The sweep: for each story, thread and call, one run for each time that it is made; a line of JSON for each run.

A series (one story, one thread, one call) ends when ENOUGH runs in a row were not killed.  Work falls to the threads
of a pool as it happens, so one run may have fewer calls than another: what changes names or syncs there is swept in
ROUNDS.  What is in the file already is not run again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.kills.ground import Ground
from tests.kills.runs import Kill, profile, run
from tests.kills.stories import STORIES

ENOUGH = 2
ROUNDS = 3
DECISIVE = {"rename", "unlink", "fsync", "fdatasync", "syncfs"}
LATER = "later"  # threads that were born while strace was there: they are of the pool, whose first ones are followed

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """All runs of one story, thread and call."""

    story: str
    processes: int
    role: str
    call: str
    round: int

    def kill(self, when: int) -> Kill:
        """Return the run that is killed the `when`-th time."""
        return Kill(when=when, **asdict(self))

    def has(self, row: Row) -> bool:
        """Whether a run is of this series."""
        return all(row[name] == getattr(self, name) for name in self.__slots__)


def series_of(ground: Ground, processes: int, calls: Collection[str] = ()) -> list[Series]:
    """Return what there is to sweep: of each story the calls that its threads make."""
    return [
        Series(story=story, processes=processes, role=role, call=call, round=number)
        for story in STORIES
        for role, call in sorted(profile(ground, story, processes))
        if role != LATER and (not calls or call in calls)
        for number in range(1, 1 + (ROUNDS if role.startswith("pool") and call in DECISIVE else 1))
    ]


def sweep(ground: Ground, series: Series, done: Collection[Row]) -> Iterator[Row]:
    """Run a series to its end, but for what is `done`."""
    known = {row["when"]: row for row in done if series.has(row)}
    unfired, when = 0, 0
    while unfired < ENOUGH:
        when += 1
        row = known.get(when)
        if row is None:
            row = run(ground, series.kill(when))
            yield row
        unfired = 0 if row["fired"] else unfired + 1


def sweep_all(directory: Path, out: Path, *, processes: Collection[int], calls: Collection[str], jobs: int) -> None:
    """Run all series, so many at a time, and add a line to `out` for each run."""
    done = read(out)
    with Ground(directory / "profile") as ground:
        todo = [each for count in processes for each in series_of(ground, count, calls)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(directory,)) as pool:
        waiting = [pool.submit(_sweep_one, each, [row for row in done if each.has(row)], out) for each in todo]
        for finished in as_completed(waiting):
            print(finished.result(), flush=True)


_ground: Ground | None = None  # of a process of the pool, for all its life


def _begin(directory: Path) -> None:
    global _ground
    _ground = Ground(directory / str(os.getpid())).__enter__()


def _sweep_one(series: Series, done: Collection[Row], out: Path) -> str:
    assert _ground is not None
    faults = fired = 0
    for row in sweep(_ground, series, done):
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        fired += row["fired"]
        faults += bool(row["faults"])
    return f"{series.story} {series.processes} {series.role} {series.call}: {fired} killed, {faults} with faults"


def read(out: Path) -> list[Row]:
    """Return the runs of a file."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
