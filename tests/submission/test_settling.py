"""Which files are to be looked at again."""

from __future__ import annotations

import os
from pathlib import Path

from relayd.submission.settling import Settling, identity_of


def test_two_equal_looks_apart_by_our_own_clock_settle_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    os.utime(path, (0, 0))  # its age says nothing
    settling = Settling(2.0)

    assert not settling.settled(path.lstat(), 100.0)
    assert settling.is_early(path.lstat(), 101.9)
    assert not settling.settled(path.lstat(), 101.9)
    assert settling.settled(path.lstat(), 102.0)


def test_a_change_between_two_looks_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    settling = Settling(2.0)
    settling.settled(path.lstat(), 100.0)
    path.write_bytes(b"longer")

    assert not settling.settled(path.lstat(), 102.0)
    assert not settling.settled(path.lstat(), 103.9)
    assert settling.settled(path.lstat(), 104.0)


def test_the_next_look_is_the_earliest(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.touch()
    second.touch()
    settling = Settling(2.0)
    settling.settled(first.lstat(), 100.0)
    settling.wait(second.lstat(), 100.5, 0.1)

    assert settling.next_look() == 100.6
    settling.forget(identity_of(second.lstat()))
    assert settling.next_look() == 102.0


def test_what_a_whole_scan_has_not_seen_is_forgotten(tmp_path: Path) -> None:
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    kept.touch()
    gone.touch()
    settling = Settling(2.0)
    settling.begin_scan()
    settling.settled(kept.lstat(), 100.0)
    settling.settled(gone.lstat(), 100.0)
    settling.begin_scan()
    settling.is_early(kept.lstat(), 101.0)
    settling.forget_unseen()

    assert len(settling) == 1
    assert settling.settled(kept.lstat(), 102.0)
