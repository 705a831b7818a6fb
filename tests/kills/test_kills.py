"""P1, P3 to P5: a sample of what `make kill-sweep` does in full, and that its oracle can tell."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest

from tests.kills import failures, runs
from tests.kills.failures import Failure
from tests.kills.ground import Ground, Site
from tests.kills.oracle import judge
from tests.kills.runs import Kill, drain, is_told, play, started
from tests.kills.stories import STORIES, Story, deliver
from tests.kills.strace import Strace
from tests.support.process import wait_until

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop files of other owners"),
    pytest.mark.skipif(not shutil.which("strace"), reason="there is no strace"),
]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with Ground(tmp_path_factory.mktemp("kills")) as ground:
        yield ground


@pytest.mark.parametrize("story", STORIES)
def test_killed_at_a_call_it_loses_nothing_and_marks_what_comes_twice(ground: Ground, story: str) -> None:
    """P1: one kill in each part of the daemon's work; the sweep has them all."""
    fired = 0
    for role, call, when in [("commits", "pwrite64", 13), ("commits", "fdatasync", 2), ("main", "write", 9)]:
        row = runs.run(ground, Kill(story=story, processes=0, role=role, call=call, when=when))
        assert not row["faults"], row
        fired += row["fired"]
    assert fired >= 2


@pytest.mark.parametrize("call", ["rename", "fsync", "unlink"])
def test_killed_where_names_change_it_loses_nothing(ground: Ground, call: str) -> None:
    """P1: in the threads that move bodies."""
    rows = [runs.run(ground, Kill(story="accept", processes=0, role="pool", call=call, when=when)) for when in (1, 2)]

    assert not any(row["faults"] for row in rows), rows
    assert any(row["fired"] for row in rows)


def test_a_worker_killed_at_a_write_costs_nothing_and_its_daemon_goes_on(ground: Ground) -> None:
    """P1: the daemon itself sees the story to its end."""
    row = runs.run(ground, Kill(story="deliver", processes=1, role="worker", call="write", when=14))

    assert row["fired"]
    assert not row["faults"], row


@pytest.mark.parametrize(
    ("role", "call", "error"),
    [
        ("commits", "pwrite64", "ENOSPC"),
        ("commits", "fdatasync", "EIO"),
        ("pool", "rename", "EDQUOT"),
        ("pool", "openat", "EMFILE"),
    ],
)
def test_while_calls_fail_it_lives_and_tells_and_afterwards_recovers_by_itself(
    ground: Ground, role: str, call: str, error: str
) -> None:
    """P3, P4, P5: every call of a kind fails for a time."""
    row = failures.run(ground, Failure(story="accept", role=role, call=call, error=error, when=1, lasting=True))

    assert row["fired"]
    assert row["told"]
    assert not row["faults"], row


def test_a_body_whose_sync_failed_is_written_anew_before_it_is_accepted(ground: Ground) -> None:
    """P4: a second sync of the same pages may claim success without writing them."""
    story = STORIES["accept"]()
    with ground.site() as site:
        daemon, threads = started(site, "pool")
        with daemon:
            inject, calls = "fdatasync:error=EIO:when=1", ["fdatasync", "fsync", "openat", "rename"]
            with Strace(site.directory / "strace", threads, calls, inject=inject) as strace:
                play(site, daemon, story)
        failed = next(number for number, line in enumerate(strace.lines) if "(INJECTED)" in line)
        (body,) = re.findall(r"/queue/../([0-9A-Z]{20})>", strace.lines[failed])
        later = [line for line in strace.lines[failed + 1 :] if body in line and "resumed" not in line]
        drain(site)
        verdict = judge(site, story, Counter())

    assert not verdict.faults
    created = next(number for number, line in enumerate(later) if f"/.{body}" in line and "O_CREAT" in line)
    assert not [line for line in later[:created] if "sync(" in line]
    assert any("fsync(" in line and f"/.{body}>" in line for line in later[created:])
    assert any(line.partition("(")[0].endswith("rename") and f'/.{body}"' in line for line in later[created:])


# that the oracle can tell


@pytest.fixture(scope="module")
def told(ground: Ground) -> Iterator[tuple[Site, Story]]:
    """A story that went well."""
    story = deliver()
    with ground.site() as site:
        with site.daemon() as daemon:
            daemon.ready()
            for letter in story.letters:
                site.drop(letter)
            wait_until(lambda: is_told(site, daemon.log, story), "the end of the story")
            daemon.terminate()
            daemon.wait()
        drain(site)
        yield site, story


@pytest.fixture
def intact(told: tuple[Site, Story], ground: Ground) -> Iterator[tuple[Site, Story]]:
    """The same, of which a test may change what the servers saw."""
    site, story = told
    before = {name: deepcopy(ground.witness.taken[name]) for name in story.names}
    assert judge(site, story, Counter()).faults == []
    yield site, story
    ground.witness.taken.update(before)


def faults(intact: tuple[Site, Story]) -> str:
    site, story = intact
    return "; ".join(judge(site, story, Counter()).faults)


def test_what_was_not_taken_is_lost(intact: tuple[Site, Story], ground: Ground) -> None:
    ground.witness.taken[intact[1].letters[0].name].pop()

    assert "is lost" in faults(intact)


def test_what_was_taken_twice_must_be_marked(intact: tuple[Site, Story], ground: Ground) -> None:
    taken = ground.witness.taken[intact[1].letters[0].name]
    taken.append(taken[0])

    assert "came 2 times and is not marked" in faults(intact)


def test_what_was_changed_on_the_way_is_seen(intact: tuple[Site, Story], ground: Ground) -> None:
    envelope = ground.witness.taken[intact[1].letters[0].name][0]
    assert isinstance(envelope.content, bytes)
    envelope.content = envelope.content[:-4]

    assert "does not say what was dropped" in faults(intact)


def test_a_sender_who_was_not_told_is_seen(intact: tuple[Site, Story], ground: Ground) -> None:
    letter = intact[1].letters[-1]
    ground.witness.taken[letter.name] = [each for each in ground.witness.taken[letter.name] if each.mail_from != "<>"]

    assert "was told {}" in faults(intact)


@pytest.mark.parametrize(
    "name", ["new/stray", "queue/ab/01ARZ3NDEKTSV4RRFFQ6", "queue/incoming/x.orig", "queue/.notes.x"]
)
def test_what_is_left_in_the_spool_is_seen(intact: tuple[Site, Story], name: str) -> None:
    stray: Path = intact[0].spool / name
    stray.parent.mkdir(exist_ok=True)
    stray.touch()

    assert f"{name} is left" in faults(intact)
    stray.unlink()
