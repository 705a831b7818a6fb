"""The cheap note before the end of a message."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from relayd.mail.delivery import Delivery
from relayd.mail.errors import QueueError
from relayd.mail.message import Body
from relayd.mail.settlement import Settlement
from relayd.spool.notes import Notes, boot_id, earlier, noted_by, read
from tests.spool.mail import NOW


def a_settlement(lease: int, message_id: str) -> Settlement:
    body = Body(size=1, wire_size=1, header_end=1)
    delivery = Delivery(id=message_id, reverse_path=None, recipients=(), body=body, arrived=NOW, lease=lease)
    return Settlement(delivery=delivery, recipients=())


def test_what_was_noted_is_read_back(tmp_path: Path) -> None:
    notes = Notes.open(tmp_path, "owner")
    notes.ending(7, "A")
    notes.ending(8, "B")
    notes.close()

    assert read(tmp_path / "notes.owner", boot_id()) == frozenset({(7, "A"), (8, "B")})


def test_notes_of_another_boot_are_not_believed(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes.owner", "another boot")
    notes.ending(7, "A")
    notes.close()

    assert noted_by(earlier(tmp_path), boot_id()) is None


def test_where_there_are_no_notes_nobody_knows(tmp_path: Path) -> None:
    assert noted_by(earlier(tmp_path), boot_id()) is None


def test_a_grown_file_is_begun_anew_with_what_is_in_flight(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes.owner", "boot", max_size=1_000)
    notes.ending(1, "in flight")
    for lease in range(2, 2_000):
        notes.ending(lease, "over")
        notes.settled([a_settlement(lease, "over")])

    noted = read(tmp_path / "notes.owner", "boot")
    notes.close()

    assert noted is not None
    assert (1, "in flight") in noted
    assert len(noted) < 200
    assert (tmp_path / "notes.owner").stat().st_size < 1_100
    assert earlier(tmp_path) == [tmp_path / "notes.owner"]


def test_all_that_is_in_flight_survives_a_new_beginning(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes.owner", "boot", max_size=100)
    for lease in range(500):
        notes.ending(lease, "A")
    notes.close()

    assert read(tmp_path / "notes.owner", "boot") == frozenset((lease, "A") for lease in range(500))


def test_a_torn_last_line_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "notes.owner").write_text("boot\n1 A\n12")

    noted = noted_by(earlier(tmp_path), "boot")

    assert noted is not None
    assert noted(1, "A")
    assert not noted(12, "A")


def test_where_it_cannot_be_written_the_end_must_not_leave(tmp_path: Path) -> None:
    notes = Notes.open(tmp_path, "owner")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(QueueError):
            notes.ending(1, "A")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    notes.close()
