"""The whole daemon on virtual time, by seeds: nothing is lost, nothing is stuck, what comes twice is marked.

Some seeds are the same each time, the others begin at RELAYD_SEED, else at a number that changes each day; the first is
printed, and whatever fails is replayed by the command that is told.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.simulation.command import replay, run_on_sqlite, scenario_of
from tests.simulation.drawing import draw
from tests.simulation.exchanger import Exchanger
from tests.simulation.runner import run
from tests.simulation.scenario import Domain, Drop, HostPlan, Rules, Strike, To
from tests.simulation.shrinking import complaint, shrink
from tests.simulation.temper import Temper

ROOT = Path(__file__).parents[2]
PARTS = 8  # tests that may run at once
FIXED, DAILY = 120, 180  # seeds of each part
SQLITE_PARTS, ON_SQLITE = 2, 40
BURSTS = (8, 24)
KILLED_WHILE_STARTING = (2, 3, 45, 54)
WITH_A_RATE = 695  # 3 connections in a minute are allowed, and STARTTLS fails
A_HOST = HostPlan(name="mx.test", addresses=("10.0.0.1",), preference=10, temper=Temper(final=1.0, cuts=0.1))
A_DOMAIN = Domain(name="d.test", site=0)
TEN = tuple(Drop(at=1.0, number=n, sender="s@d.test", to=(To(address=f"r0.m{n}@d.test"),)) for n in range(10))


def todays_seed() -> int:
    """Return the first of the seeds that are tried today."""
    given = os.environ.get("RELAYD_SEED")
    return int(given) if given else 10_000_000 + datetime.now(UTC).toordinal() * 10_000


def broken(first: int, count: int) -> list[str]:
    """Run seeds; return what broke, with the command that replays it."""
    found = []
    for seed in range(first, first + count):
        if breaches := run(draw(seed)).broken:
            found.append(f"python -m tests.simulation --seed {seed}\n    {breaches[0]}")
    return found


@pytest.mark.parametrize("part", range(PARTS))
def test_no_promise_is_broken_whatever_fails(part: int) -> None:
    assert broken(part * FIXED, FIXED) == []


@pytest.mark.parametrize("part", range(PARTS))
def test_no_promise_is_broken_by_the_seeds_of_today(part: int) -> None:
    first = todays_seed() + part * DAILY
    print(f"seeds from {first}")

    assert broken(first, DAILY) == []


@pytest.mark.parametrize("part", range(SQLITE_PARTS))
def test_no_promise_is_broken_with_the_real_queue(part: int) -> None:
    first = todays_seed() + part * ON_SQLITE
    print(f"seeds from {first}")
    found = {seed: run_on_sqlite(draw(seed)).broken for seed in range(first, first + ON_SQLITE)}

    assert {seed: broken for seed, broken in found.items() if broken} == {}


@pytest.mark.parametrize("seed", BURSTS)
def test_no_promise_is_broken_by_a_burst(seed: int) -> None:
    assert run(scenario_of(seed, bursts=True)).broken == ()


def test_no_rate_is_exceeded_by_runs_that_connect_twice() -> None:
    """A run was counted as one connection, also where STARTTLS failed and it went on in clear text by another."""
    assert run(draw(WITH_A_RATE)).broken == ()


def test_the_daemon_may_be_killed_at_any_step() -> None:
    """P1: two messages to three recipients, killed at one step after the other; each seventh, from a different one each
    day."""
    scenario = replace(draw(24), kills=(), strikes=(), queue_faults=0.0, dns_faults=0.0)
    steps = run(scenario).steps
    first = datetime.now(UTC).toordinal() % 7 + 1
    failed = [step for step in range(first, min(steps, 1000), 7) if run(replace(scenario, kills=(step,))).broken]

    assert failed == []


def test_a_scenario_is_replayed_exactly() -> None:
    one, other = run(draw(5)), run(draw(5))

    assert one == other
    assert one.digest != run(draw(6)).digest


def test_a_daemon_that_is_killed_leaves_no_coroutine_behind_that_was_never_awaited() -> None:
    told: list[str] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: told.append(repr(unraisable.exc_value))
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            starts = sum(run(draw(seed)).starts for seed in KILLED_WHILE_STARTING)
            gc.collect()
    finally:
        sys.unraisablehook = hook

    assert starts > 2 * len(KILLED_WHILE_STARTING)
    assert told + [str(each.message) for each in warned] == []


def test_it_is_replayed_exactly_by_another_process() -> None:
    seeds = (5, 33, 71)
    program = (
        "from tests.simulation.drawing import draw; from tests.simulation.runner import run;"
        f" print([run(draw(seed)).digest for seed in {seeds}])"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
    ).stdout

    assert told.strip() == str([run(draw(seed)).digest for seed in seeds])


def test_a_scenario_that_fails_tells_how_it_is_replayed_and_is_shrunk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lying(self: Exchanger, stage: str) -> str | None:
        """Refuse each message, and take it all the same: the daemon cannot know."""
        return "554 5.7.1 no|taken" if stage == "final" else None

    monkeypatch.setattr(Exchanger, "fault", lying)
    drawn = draw(9, messages=10)
    scenario = replace(
        drawn, strikes=(Strike(at=90.0, what="stop"),), kills=(700,), sites=((A_HOST,),), domains=(A_DOMAIN,), drops=TEN
    )
    first = complaint(run(scenario).broken)

    smallest = shrink(scenario, lambda each: complaint(run(each).broken) == first, most_runs=200)

    assert "has it" in first
    assert complaint(run(smallest).broken) == first
    assert len(smallest.drops) == 1
    assert smallest.strikes == ()
    assert smallest.kills == ()
    assert smallest.rules == Rules()
    assert smallest.sites[0][0].temper == Temper()
    monkeypatch.setattr("tests.simulation.command.scenario_of", lambda seed, bursts: smallest)
    assert replay(9, bursts=False, trace=False) == 1
    assert "Scenario(seed=9" in capsys.readouterr().out
