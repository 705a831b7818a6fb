"""What the kernel told of names."""

from __future__ import annotations

from pathlib import Path

from relayd.submission.heard import MAX_NAMES, Change, Heard

X = Path("new/x")


def test_a_closed_file_is_complete_once() -> None:
    heard = Heard()
    for change in (Change.CREATED, Change.OPENED, Change.COMPLETED):
        heard.note(X, change)

    assert not heard.is_writing(X)
    assert heard.next_complete() == X
    assert heard.next_complete() is None


def test_a_file_that_its_creator_has_open_is_being_written() -> None:
    heard = Heard()
    heard.note(X, Change.CREATED)
    heard.note(X, Change.OPENED)

    assert heard.is_writing(X)


def test_a_new_file_of_a_complete_name_is_not_complete() -> None:
    heard = Heard()
    heard.note(X, Change.COMPLETED)
    heard.note(X, Change.CREATED)

    assert heard.next_complete() is None


def test_a_hard_link_that_somebody_reads_is_not_being_written() -> None:
    heard = Heard()
    for change in (Change.CREATED, Change.OPENED, Change.CLOSED_UNWRITTEN):
        heard.note(X, change)

    assert not heard.is_writing(X)


def test_our_own_rename_is_no_news_once() -> None:
    heard = Heard()
    heard.expect_ours(X)

    assert not heard.note(X, Change.COMPLETED)
    assert heard.next_complete() is None
    assert heard.note(X, Change.COMPLETED)


def test_doubt_forgets_everything_and_memory_is_bounded() -> None:
    heard = Heard()
    for number in range(MAX_NAMES + 5):
        heard.note(Path(str(number)), Change.COMPLETED)
    assert len(heard) == MAX_NAMES

    heard.doubt()

    assert len(heard) == 0
