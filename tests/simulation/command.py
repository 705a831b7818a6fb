"""`python -m tests.simulation`: runs many seeds, or one; a seed that fails is told, replayed and shrunk."""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.simulation.drawing import MANY, draw
from tests.simulation.runner import Verdict, run
from tests.simulation.scenario import Scenario
from tests.simulation.shrinking import complaint, shrink, told

REPORT = 50_000  # messages
EVERY = 4  # of so many seeds one is a burst, where a number of messages is asked for


@dataclass(slots=True)
class Totals:
    """What many runs came to."""

    seeds: int = 0
    messages: int = 0
    recipients: int = 0
    starts: int = 0
    hours: float = 0.0
    cpu: float = 0.0
    injected: Counter[str] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)

    def add(self, seed: int, scenario: Scenario, verdict: Verdict, cpu: float) -> None:
        """Add a run."""
        self.seeds += 1
        self.messages += len(scenario.drops)
        self.recipients += scenario.recipients
        self.starts += verdict.starts
        self.hours += verdict.seconds / 3600
        self.cpu += cpu
        self.injected.update(verdict.injected)
        self.counted.update(verdict.counted)
        if verdict.broken:
            self.failed.append((seed, verdict.broken))


def scenario_of(seed: int, *, bursts: bool = False) -> Scenario:
    """Return the scenario of a seed; with `bursts` some are large."""
    if bursts and seed % EVERY == 0:
        low, high = MANY
        return draw(seed, messages=low + seed * 7919 % (high - low))
    return draw(seed)


def run_on_sqlite(scenario: Scenario, *, trace: bool = False) -> Verdict:
    """Run a scenario with the real queue, in a file of its own."""
    with TemporaryDirectory(prefix="relayd-simulation-") as directory:
        return run(scenario, trace=trace, database=Path(directory) / "queue.db")


def _one(seed: int, bursts: bool, sqlite: bool) -> tuple[int, Scenario, Verdict, float]:
    began = time.process_time()
    scenario = scenario_of(seed, bursts=bursts)
    verdict = run_on_sqlite(scenario) if sqlite else run(scenario)
    return seed, scenario, verdict, time.process_time() - began


def run_all(seeds: Iterator[int], *, messages: int | None, jobs: int, sqlite: bool = False) -> Totals:
    """Run seeds until there are no more, so many messages were simulated, or somebody interrupts it."""
    totals = Totals()
    bursts = messages is not None
    one = partial(_one, bursts=bursts, sqlite=sqlite)
    with multiprocessing.get_context("spawn").Pool(jobs, _ignore_interrupts) as pool:
        try:
            for done in pool.imap_unordered(one, seeds, chunksize=4):
                before = totals.messages
                totals.add(*done)
                _report(totals, done[0], before, bursts=bursts, sqlite=sqlite)
                if messages is not None and totals.messages >= messages:
                    break
        except KeyboardInterrupt:
            _ignore_interrupts()  # the pool ends in its own time
    return totals


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _report(totals: Totals, seed: int, before: int, *, bursts: bool, sqlite: bool) -> None:
    """Say what is to be said of the seed that was run last."""
    if totals.failed and totals.failed[-1][0] == seed:
        print(f"seed {seed} fails: {totals.failed[-1][1][0]}\n    {_command(seed, bursts, sqlite)}", flush=True)
    if totals.messages // REPORT > before // REPORT:
        print(f"{totals.messages} messages, {totals.seeds} seeds, {totals.cpu:.0f} s of CPU time", flush=True)


def _command(seed: int, bursts: bool, sqlite: bool) -> str:
    return f"python -m tests.simulation --seed {seed}" + " --bursts" * bursts + " --sqlite" * sqlite


def show(totals: Totals, seconds: float) -> None:
    """Print what many runs came to."""
    print(
        f"{totals.seeds} seeds, {totals.messages} messages, {totals.recipients} recipients, {totals.starts} starts of"
        f" the daemon, {totals.hours:.0f} simulated hours"
    )
    print(f"{totals.cpu:.0f} s of CPU time, {seconds:.0f} s: {totals.messages / seconds * 60:.0f} messages a minute")
    print("faults: " + ", ".join(f"{name} {number}" for name, number in sorted(totals.injected.items())))
    print("told: " + ", ".join(f"{name} {number}" for name, number in totals.counted.items() if number))
    print(f"{len(totals.failed)} seeds fail")


def replay(seed: int, *, bursts: bool, trace: bool, sqlite: bool = False) -> int:
    """Run one seed; if it fails, say how, and shrink it."""
    runs = run_on_sqlite if sqlite else run
    scenario = scenario_of(seed, bursts=bursts)
    verdict = runs(scenario, trace=trace)
    print("\n".join(verdict.trace))
    for broken in verdict.broken[:10]:
        print(broken)
    print(f"seed {seed}: {len(verdict.broken)} promises broken, digest {verdict.digest:08x}")
    if not verdict.broken:
        return 0
    first = complaint(verdict.broken)
    smallest = shrink(scenario, lambda each: complaint(runs(each).broken) == first)
    print(f"smallest:\n{told(smallest)}\n{runs(smallest).broken[0]}")
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--messages", type=int, help="go on until so many messages, in bursts and in small seeds")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, help="run this one, and shrink it if it fails")
    parser.add_argument("--bursts", action="store_true", help="draw it as --messages does")
    parser.add_argument("--sqlite", action="store_true", help="with the real queue, on a disk")
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return replay(options.seed, bursts=options.bursts, trace=options.trace, sqlite=options.sqlite)
    began = time.monotonic()
    seeds = iter(range(options.first, options.first + (options.messages or options.seeds)))
    totals = run_all(seeds, messages=options.messages, jobs=options.jobs, sqlite=options.sqlite)
    show(totals, time.monotonic() - began)
    return 1 if totals.failed else 0


if __name__ == "__main__":
    sys.exit(main())
