"""The notes: cheap, whole after a kill, not believed after a power cut."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from relayd.mail.errors import QueueError
from relayd.spool.notes import Noted, Notes, boot_id, earlier, noted_by, read


def test_what_was_noted_is_read_back(tmp_path: Path) -> None:
    notes = Notes.open(tmp_path, "owner")
    notes.beginning(7, "A")
    notes.beginning(8, "B")
    notes.ending(7, "A")
    notes.close()

    assert read(tmp_path / "notes.owner", boot_id()) == Noted(
        begun=frozenset({(7, "A"), (8, "B")}), ending=frozenset({(7, "A")})
    )


def test_notes_survive_a_kill(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        notes = Notes.open(tmp_path, "owner")
        notes.beginning(7, "A")
        notes.ending(7, "A")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)

    assert noted_by(earlier(tmp_path), boot_id()) == Noted(begun=frozenset({(7, "A")}), ending=frozenset({(7, "A")}))


def test_notes_that_only_the_disk_has_are_not_believed(tmp_path: Path) -> None:
    """It may have an older version: see tests/faults/test_disk_turned_read_only.py."""
    notes = Notes.open(tmp_path, "owner")
    notes.ending(7, "A")
    notes.close()
    descriptor = os.open(tmp_path / "notes.owner", os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)

    assert [read(tmp_path / "notes.owner", boot_id()) for _ in range(2)] == [None, None]


def test_the_notes_of_workers_are_read_with_those_of_their_daemon(tmp_path: Path) -> None:
    notes = Notes.open(tmp_path, "owner")
    notes.beginning(7, "A")
    for number, message_id in ((1, "B"), (2, "C")):
        of_worker = Notes(notes.of_worker(number), notes.boot)
        of_worker.ending(8, message_id)
        of_worker.close()
    notes.close()

    found = earlier(tmp_path)

    assert len(found) == 3
    assert noted_by(found, boot_id()) == Noted(
        begun=frozenset({(7, "A"), (8, "B"), (8, "C")}), ending=frozenset({(8, "B"), (8, "C")})
    )


def test_notes_of_another_boot_are_not_believed(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes.owner", "another boot")
    notes.ending(7, "A")
    notes.close()

    assert noted_by(earlier(tmp_path), boot_id()) is None


def test_where_there_are_no_notes_nobody_knows(tmp_path: Path) -> None:
    assert noted_by(earlier(tmp_path), boot_id()) is None


def test_a_full_file_is_begun_anew_with_what_is_in_hand(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes.owner", "boot", size=1_000)
    notes.beginning(1, "in-hand")
    notes.ending(1, "in-hand")
    for lease in range(2, 2_000):
        notes.beginning(lease, "over")
        notes.over([(lease, "over")])

    noted = read(tmp_path / "notes.owner", "boot")
    notes.close()

    assert noted is not None
    assert (1, "in-hand") in noted.ending
    assert len(noted.begun) < 200
    assert (tmp_path / "notes.owner").stat().st_size == 1_000
    assert earlier(tmp_path) == [tmp_path / "notes.owner"]


def test_all_that_is_in_hand_survives_a_new_beginning(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes.owner", "boot", size=100)
    for lease in range(500):
        notes.beginning(lease, "A")
    notes.close()

    noted = read(tmp_path / "notes.owner", "boot")
    assert noted is not None
    assert noted.begun == frozenset((lease, "A") for lease in range(500))
    assert not noted.ending


def test_a_torn_last_line_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "notes.owner").write_bytes(b"boot\nending 1 A\nending 12\0\0\0")

    noted = noted_by(earlier(tmp_path), "boot")

    assert noted == Noted(begun=frozenset({(1, "A")}), ending=frozenset({(1, "A")}))


def test_where_there_is_no_room_the_end_must_not_leave(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes.owner", "boot", size=24)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        notes.ending(1, "A")
        with pytest.raises(QueueError):
            notes.ending(2, "A" * 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    notes.close()


def test_what_could_not_be_noted_is_not_noted_later_as_if_it_had_left(tmp_path: Path) -> None:
    spool = tmp_path / "queue"
    spool.mkdir()
    notes = Notes(spool / "notes.owner", "boot", size=20)
    notes.beginning(1, "A")
    moved = spool.rename(tmp_path / "elsewhere")
    for _ in range(3):
        with pytest.raises(QueueError):
            notes.ending(1, "A" * 20)
    moved.rename(spool)
    notes.beginning(2, "B" * 20)

    noted = read(spool / "notes.owner", "boot")

    assert noted is not None
    assert noted.ending == frozenset()
    notes.close()


@pytest.mark.parametrize(
    "line", [b"begun x A", b"ended 1 A", b"begun 1", b"begun 99999999999999999999 A", b"", b"\xff"]
)
def test_damaged_notes_are_not_believed_and_stop_nothing(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "notes.owner").write_bytes(b"boot\nending 1 A\n" + line + b"\nending 2 B\n")

    assert read(tmp_path / "notes.owner", "boot") is None
    assert noted_by(earlier(tmp_path), "boot") is None
