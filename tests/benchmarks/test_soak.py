"""The soak's own parts: it can fail, it knows what it dropped, and it sees growth where there is some."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.curves import Chart, figure, step
from benchmarks.soaking.drawing import drawn, rate, thinned
from benchmarks.soaking.happenings import Happening, happenings
from benchmarks.soaking.ledger import Ledger
from benchmarks.soaking.moods import Mood, mood
from benchmarks.soaking.plan import MOST, Plan
from benchmarks.soaking.samples import Sample, growth
from benchmarks.soaking.shared import Note

ROOT = Path(__file__).parents[2]
PLAN = Plan(seed=7, domains=600, sites=40)
ONE = next(m for m in range(1000) if len(PLAN.recipients(m)) == 1 and not PLAN.is_null(m))
NULL = next(m for m in range(1000) if len(PLAN.recipients(m)) == 1 and PLAN.is_null(m))


def a_ledger() -> Ledger:
    return Ledger(PLAN, 1000)


def listed(status: str = "deferred", *, held: bool = True, marked: bool = False) -> dict[str, object]:
    recipient = {"address": f"r{MOST * ONE}@d1.test", "status": status, "possible_duplicate": marked}
    return {"held": held, "recipients": [recipient]}


def told(ledger: Ledger) -> None:
    ledger.end(f"r{MOST * ONE}", "failed")
    ledger.note(Note.BOUNCE, ONE)
    ledger.note(Note.TOLD, MOST * ONE)


def taken(ledger: Ledger) -> None:
    ledger.end(f"r{MOST * ONE}", "delivered")
    ledger.note(Note.TAKEN, MOST * ONE)


def again(ledger: Ledger) -> None:
    ledger.note(Note.TAKEN, MOST * ONE)


def told_again(ledger: Ledger) -> None:
    ledger.note(Note.TOLD, MOST * ONE)


def mark(ledger: Ledger) -> None:
    ledger.mark(f"r{MOST * ONE}")


def mark_bounce(ledger: Ledger) -> None:
    ledger.mark(f"s{ONE}")


def remove(ledger: Ledger) -> None:
    ledger.end(f"r{MOST * ONE}", "removed")


def hold(ledger: Ledger) -> None:
    ledger.hold(listed())


def only_says(ledger: Ledger) -> None:
    ledger.end(f"r{MOST * ONE}", "delivered")


def fail_untold(ledger: Ledger) -> None:
    ledger.end(f"r{MOST * ONE}", "failed")


def wait(ledger: Ledger) -> None:
    ledger.hold(listed(held=False))


@pytest.mark.parametrize(
    ("acts", "end", "fault"),
    [
        ((taken,), "delivered", ""),
        ((told,), "bounced", ""),
        ((remove,), "removed", ""),
        ((hold,), "held", ""),
        ((taken, again, mark), "delivered", ""),
        ((told, again, mark), "bounced", ""),
        ((told, told_again, mark_bounce), "bounced", ""),
        ((remove, again, mark), "removed", ""),
        ((), "lost", "no end"),
        ((wait,), "lost", "no end"),
        ((again,), "lost", "no end"),
        ((only_says,), "delivered", "no sink took it"),
        ((fail_untold,), "bounced", "was not told"),
        ((taken, told_again), "delivered", "told as failed, and delivered"),
        ((hold, told_again), "held", "told as failed, and held"),
        ((taken, again), "delivered", "taken 2 times, not marked"),
        ((told, again), "bounced", "bounced, taken 1 times, not marked"),
        ((remove, again), "removed", "not marked"),
        ((hold, again), "held", "not marked"),
        ((told, told_again), "bounced", "told 2 times, not marked"),
    ],
)
def test_each_recipient_has_one_end_and_what_should_not_be_is_said(
    acts: tuple[Callable[[Ledger], None], ...], end: str, fault: str
) -> None:
    ledger = a_ledger()
    for act in acts:
        act(ledger)
    ledger.dropped = ONE + 1

    (verdict,) = (each for each in ledger.verdicts() if each.number == MOST * ONE)

    assert verdict.end == end
    assert bool(verdict.fault) == bool(fault)
    assert fault in verdict.fault


def test_nobody_is_told_of_a_message_of_the_null_sender() -> None:
    ledger = a_ledger()
    ledger.dropped = NULL + 1
    ledger.end(f"r{MOST * NULL}", "failed")

    assert next(each for each in ledger.verdicts() if each.number == MOST * NULL).fault == ""


def test_what_nobody_dropped_is_counted() -> None:
    ledger = a_ledger()
    ledger.dropped = 3
    ledger.note(Note.TAKEN, MOST * 3)  # not yet
    ledger.note(Note.TOLD, MOST * 2 + 3)  # no recipient of that message
    ledger.note(Note.TAKEN, MOST * 1000)  # beyond all

    assert len(PLAN.recipients(2)) < MOST
    assert ledger.outside() == 3


def test_a_message_is_the_same_whenever_it_is_asked_for() -> None:
    other = Plan(seed=7, domains=600, sites=40)

    assert all(PLAN.file(message) == other.file(message) for message in range(200))
    assert PLAN.file(ONE).endswith(b"\r\n\r\n" + PLAN.body(ONE))
    assert PLAN.body(1) != PLAN.body(2)
    assert {len(PLAN.recipients(message)) for message in range(1000)} == {1, 2, 3, 4}
    assert all(PLAN.recipient(MOST * ONE).split("@")[1] in PLAN.names for _ in range(1))


def test_every_mood_comes_about_and_one_host_never_recovers() -> None:
    moods = {mood(7, host, at) for host in range(1, 40) for at in range(0, 3600, 20)}

    assert moods == set(Mood)
    assert {mood(7, 0, at) for at in range(0, 3600, 20)} == {Mood.DEAD}


def test_the_second_half_is_one_life_of_the_daemon() -> None:
    ends = {Happening.KILL, Happening.STOP, Happening.KILL_WORKER}

    times = [at for at, what in happenings(7, 3600) if what in ends]

    assert times
    assert max(times) < 1800
    assert len([at for at, what in happenings(7, 3600) if what is Happening.LOOK and at > 1800]) > 300


def test_growth_is_the_slope_in_an_hour() -> None:
    assert growth([(float(at), 100 + at / 360) for at in range(0, 1800, 5)]) == pytest.approx(10)
    assert growth([(float(at), 50.0) for at in range(0, 1800, 5)]) == pytest.approx(0)
    assert growth([(1.0, 50.0)]) == 0


@pytest.mark.parametrize(("most", "expected"), [(60, 20), (100, 20), (7, 2), (0.4, 0.1), (0, 2e-10)])
def test_the_marks_of_an_axis_are_round_numbers(most: float, expected: float) -> None:
    assert step(most) == pytest.approx(expected)


def test_a_chart_shows_all_its_curves_inside_it() -> None:
    curves = {"daemon": [(0.0, 1.0), (60.0, 3.0)], "a < b": [(0.0, 0.0), (3600.0, 7.0)]}

    drawing = ElementTree.fromstring(
        figure("soak & more", [Chart(title="x", y_label="MiB", curves=curves, events=[9])])
    )

    lines = [each.attrib["points"] for each in drawing.iter() if each.tag.endswith("polyline")]
    places = [tuple(map(float, place.split(","))) for each in lines for place in each.split()]
    assert len(lines) == 2
    assert all(0 < x < 380 and 0 < y < 280 for x, y in places)
    assert places[1][1] < places[0][1]  # more is higher


def test_a_chart_needs_something_to_show() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        Chart(title="empty", y_label="MiB", curves={"daemon": []})


def test_a_short_soak_loses_nothing(tmp_path: Path) -> None:
    """P1, P9: some seconds of what `make soak` does for an hour; the seed is in what is shown."""
    line = [sys.executable, "-m", "benchmarks.soak", "--quick", "--directory", str(tmp_path / "soak")]

    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^faults: 0; ", done.stdout, re.MULTILINE), done.stdout
    assert int(re.findall(r"^480 messages dropped .*: (\d+) delivered", done.stdout, re.MULTILINE)[0]) > 240


def samples(seconds: int, lives: tuple[int, ...]) -> list[Sample]:
    """A sample every 5 seconds, 50 messages in each; the daemon starts anew at `lives`."""
    use = {"rss": 100.0, "descriptors": 25}
    return [
        {
            "t": float(at),
            "pid": sum(at >= life for life in lives),
            "daemon": use,
            "worker": use if at % 10 else None,
            "queue": 7,
            "dropped": 10 * at,
            "taken": 10 * at,
        }
        for at in range(0, seconds, 5)
    ]


def test_a_soak_is_drawn_with_its_restarts_and_thinned_without_losing_them() -> None:
    found = samples(600, (95, 300))

    drawing = ElementTree.fromstring(drawn(found))

    assert len([each for each in drawing.iter() if each.tag.endswith("polyline")]) == 7
    assert len([each for each in drawing.iter() if each.get("stroke-dasharray")]) == 2 * 4
    kept = [each["t"] for each in thinned(found)]
    assert {95, 300} <= set(kept)
    assert len(kept) <= 600 / 30 + 2
    assert {round(each) for _, each in rate(found, "taken")} == {10}
