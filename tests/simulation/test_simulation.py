"""The whole daemon on virtual time, by seeds: nothing is lost, nothing is stuck, what comes twice is marked.

Some seeds are the same each time, the others begin at RELAYD_SEED, else at a number that changes each day; the first is
printed, and whatever fails is replayed by the command that is told.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.simulation.command import replay, scenario_of
from tests.simulation.drawing import draw
from tests.simulation.exchanger import Exchanger
from tests.simulation.runner import run
from tests.simulation.shrinking import complaint, shrink

ROOT = Path(__file__).parents[2]
PARTS = 6  # tests that may run at once
FIXED, DAILY = 120, 120  # seeds of each part
BURSTS = (8, 24)


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


@pytest.mark.parametrize("seed", BURSTS)
def test_no_promise_is_broken_by_a_burst(seed: int) -> None:
    assert run(scenario_of(seed, bursts=True)).broken == ()


def test_the_daemon_may_be_killed_at_any_step() -> None:
    """P1: two messages to three recipients, killed at one step after the other; each seventh, from a different one each
    day."""
    scenario = replace(draw(24), kills=(), strikes=(), queue_faults=0.0, dns_faults=0.0)
    steps = run(scenario).steps
    first = datetime.now(UTC).toordinal() % 7 + 1
    failed = [step for step in range(first, min(steps, 1500), 7) if run(replace(scenario, kills=(step,))).broken]

    assert failed == []


def test_a_scenario_is_replayed_exactly() -> None:
    one, other = run(draw(5)), run(draw(5))

    assert one == other
    assert one.digest != run(draw(6)).digest


def test_it_is_replayed_exactly_by_another_process() -> None:
    program = (
        "from tests.simulation.drawing import draw; from tests.simulation.runner import run;"
        " print(run(draw({})).digest)"
    )
    seeds = (5, 33)
    digests = [
        int(
            subprocess.run(
                [sys.executable, "-c", program.format(seed)],
                env={**os.environ, "PYTHONHASHSEED": str(number), "PYTHONPATH": str(ROOT)},
                capture_output=True,
                check=True,
                text=True,
            ).stdout
        )
        for seed in seeds
        for number in (1, 2)
    ]

    assert digests == [run(draw(seed)).digest for seed in seeds for _ in (1, 2)]


def _taking_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers lie: what they refuse they take all the same."""
    fault = Exchanger.fault

    def lying(self: Exchanger, stage: str) -> str | None:
        reply = fault(self, stage)
        return f"{reply}|taken" if reply and stage == "final" and reply.startswith("5") else reply

    monkeypatch.setattr(Exchanger, "fault", lying)


def a_failing_seed() -> int:
    return next(seed for seed in range(2000) if run(draw(seed)).broken)


def test_a_seed_that_fails_tells_the_command_that_replays_it_and_is_shrunk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _taking_without_a_word(monkeypatch)
    seed = a_failing_seed()
    scenario = draw(seed)
    first = complaint(run(scenario).broken)

    smallest = shrink(scenario, lambda each: complaint(run(each).broken) == first, most_runs=150)

    assert complaint(run(smallest).broken) == first
    assert smallest.recipients <= 2 < len(str(first))
    assert not smallest.strikes
    monkeypatch.setattr("tests.simulation.command.shrink", lambda scenario, fails: smallest)
    assert replay(seed, bursts=False, trace=False) == 1
    assert "Scenario(" in capsys.readouterr().out
