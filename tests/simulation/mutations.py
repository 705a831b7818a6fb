"""Shows that the simulation can fail: known bugs are put into relayd one at a time, and each must be found.

`python -m tests.simulation.mutations` tries them all, seed by seed, on scenarios with few messages and many
faults, and prints after how many each was found.  One that survives all seeds fails the run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.simulation.bugs import MUTATIONS
from tests.simulation.command import run_on_sqlite
from tests.simulation.drawing import draw
from tests.simulation.mutating import Mutation, mutated
from tests.simulation.runner import run
from tests.simulation.scenario import Scenario

SEEDS = 400  # tried for each
SMALL = 12  # messages, of those scenarios where faults are dense


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What became of a mutation: after how many seeds it was found, and what was seen; 0: it survived."""

    name: str
    seeds: int
    breach: str
    seconds: float


def hunted(mutation: Mutation, seeds: Iterable[int]) -> Found:
    """Look for a bug until it is found: a promise is broken with it, and kept without it."""
    began = time.process_time()
    for tried, seed in enumerate(seeds, 1):
        scenario = mutation.provoked(draw(seed, messages=1 + seed % SMALL))
        with mutated(mutation):
            broken = _broken(scenario, sqlite=mutation.sqlite)
        if broken and not _broken(scenario, sqlite=mutation.sqlite):
            return Found(name=mutation.name, seeds=tried, breach=broken, seconds=time.process_time() - began)
    return Found(name=mutation.name, seeds=0, breach="", seconds=time.process_time() - began)


def _broken(scenario: Scenario, *, sqlite: bool) -> str:
    """Run it; return the first promise that was broken, empty if none was."""
    try:
        return next(iter((run_on_sqlite if sqlite else run)(scenario).broken), "")
    except Exception as error:  # nothing is too good for a bug to raise
        return repr(error)


def _hunted(work: tuple[int, int]) -> Found:
    number, seeds = work
    return hunted(MUTATIONS[number], range(seeds))


def all_hunted(numbers: Iterable[int], seeds: int, jobs: int) -> Iterator[Found]:
    """Yield what became of each, as it comes."""
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(_hunted, [(number, seeds) for number in numbers])


def main(arguments: list[str]) -> int:
    """Try those whose names contain the words, all without any."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutations", description=main.__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    chosen = [n for n, each in enumerate(MUTATIONS) if all(word in each.name for word in options.words)]
    survived = 0
    for found in all_hunted(chosen, options.seeds, options.jobs):
        survived += not found.seeds
        after = f"{found.seeds:6}" if found.seeds else "SURVIVED"
        print(f"| {found.name} | {after} | {found.seconds:.1f} s | {found.breach[:100]} |", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} found within {options.seeds} seeds")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
