"""Files that are replaced while they are taken: what was examined is what is sent, and no other file is lost."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from relayd.submission.incoming import Incoming
from tests.submission.support import ID, SIMPLE, Drop, a_drop
from tests.support.fickle import Fickle


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    return a_drop(tmp_path / "spool")


async def test_no_other_file_can_pass_for_one_that_was_examined(drop: Drop) -> None:
    """F8: a file system gives the number of a file that is gone to the next one."""
    (drop.new / "x").write_bytes(SIMPLE)
    [submission] = await drop.pickup.take(10)

    for number in range(50):
        (drop.spool / "tmp" / "x").write_bytes(SIMPLE + b"%d\n" % number)
        (drop.spool / "tmp" / "x").replace(drop.new / "x")
        assert (drop.new / "x").stat().st_ino != submission.identity[1]


async def test_what_replaced_a_file_that_could_not_be_moved_is_taken_at_once(drop: Drop) -> None:
    """F8."""
    (drop.new / "x").write_bytes(SIMPLE)
    submissions = await drop.pickup.take(10)
    (drop.spool / "tmp" / "x").write_bytes(SIMPLE)
    (drop.spool / "tmp" / "x").replace(drop.new / "x")

    await drop.pickup.give_back(submissions, reason="it may not be moved into the queue")

    assert drop.left() == []
    assert len(await drop.take_once()) == 1


async def test_no_more_files_are_held_open_than_a_quarter_of_what_is_allowed(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    try:
        drop = a_drop(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for number in range(60):
        (drop.new / str(number)).write_bytes(SIMPLE)
    before = len(os.listdir("/proc/self/fd"))

    assert len(await drop.take_once(1000)) == 50
    assert len(os.listdir("/proc/self/fd")) - before >= 50
    assert len(await drop.take_once(1000)) == 10
    drop.pickup.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_goes_back_covers_none_that_came_meanwhile(tmp_path: Path) -> None:
    """F8: the name was free at the last look."""
    (tmp_path / "new").mkdir()
    incoming = Incoming(tmp_path, ours=lambda path: None)
    incoming.prepare()
    (tmp_path / "new" / "x").write_bytes(b"claimed")
    original = incoming.claim(tmp_path / "new" / "x", ID)
    (tmp_path / "new" / "x").write_bytes(b"came meanwhile")

    incoming.put_back(original, Fickle.of(tmp_path / "new" / "free", tmp_path / "new" / "x"), ID)

    assert (tmp_path / "new" / "x").read_bytes() == b"came meanwhile"
    assert (tmp_path / "new" / ID).read_bytes() == b"claimed"
