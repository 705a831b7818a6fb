"""The sweep: all runs of all series, some at a time; a line of JSON for each, and none twice."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

from tests.kills import failures, runs
from tests.kills.failures import Failure
from tests.kills.ground import Ground
from tests.kills.runs import Kill
from tests.kills.series import ENOUGH, Row, Series


def sweep(ground: Ground, series: Series, done: Collection[Row]) -> Iterator[Row]:
    """Run a series to its end, but for what is `done`; see series.py."""
    known = {row["when"]: row for row in done}
    missed = 0
    for when, case in series.runs():
        row = known.get(when)
        if row is None:
            row = _run(ground, case)
            yield row
        missed = 0 if row["fired"] else missed + 1
        if missed == ENOUGH:
            return


def _run(ground: Ground, case: Kill | Failure) -> Row:
    return runs.run(ground, case) if isinstance(case, Kill) else failures.run(ground, case)


def sweep_all(directory: Path, out: Path, todo: Sequence[Series], *, jobs: int) -> None:
    """Run all series, so many at a time, and add a line to `out` for each run that is not there."""
    done = read(out)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(directory,)) as pool:
        waiting = [pool.submit(_sweep_one, each, [row for row in done if _is_of(each, row)], out) for each in todo]
        for finished in as_completed(waiting):
            print(finished.result(), flush=True)


def _is_of(series: Series, row: Row) -> bool:
    return all(row[name] == value for name, value in asdict(series).items())


_ground: Ground | None = None  # of a process of the pool, for all its life


def _begin(directory: Path) -> None:
    global _ground
    _ground = Ground(directory / str(os.getpid())).__enter__()


def _sweep_one(series: Series, done: Collection[Row], out: Path) -> str:
    assert _ground is not None
    hit = faults = 0
    for row in sweep(_ground, series, done):
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        hit += bool(row["fired"])
        faults += bool(row["faults"])
    return f"{hit} hit, {faults} with faults: {series}"


def read(out: Path) -> list[Row]:
    """Return the runs of a file."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
