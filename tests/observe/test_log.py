"""relayd.observe.log: what a line looks like, whatever it is about."""

from __future__ import annotations

import logging
import os
import pty
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.observe.log import LibraryLog, Style, make_log, open_log, pairs_of, style_of, value_of

NOW = datetime(2026, 11, 22, 7, 20, 1, 500_000, tzinfo=UTC)


class Lines:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("mx1.example.org", "mx1.example.org"),
        (3, "3"),
        ("", '""'),
        ("450 4.2.0 greylisted", '"450 4.2.0 greylisted"'),
        ('say "no"', '"say \\"no\\""'),
        ("a=b", '"a=b"'),
        ("a\\b", '"a\\\\b"'),
        ("a\r\nb\tc", '"a\\r\\nb\\tc"'),
        ("\x1b[2J", '"\\x1b[2J"'),
        ("\udcff.eml", '"\\xff.eml"'),
        ("\u202egpj.exe", '"\\u202egpj.exe"'),
        ("\U000e0001", '"\\U000e0001"'),
        ("été", '"été"'),
        ("x" * 3000, "x" * 2000 + "..."),
    ],
)
def test_a_value_is_bare_or_quoted_and_escaped(value: object, written: str) -> None:
    assert value_of(value) == written


@given(st.text(max_size=300))
def test_any_value_stays_on_one_line_of_printable_text(value: str) -> None:
    assert value_of(value).isprintable()


@given(st.text(max_size=100), st.text(max_size=100))
def test_a_value_cannot_pretend_to_be_another_pair(first: str, second: str) -> None:
    line = pairs_of({"a": first, "b": second})

    assert line == f"a={value_of(first)} b={value_of(second)}"
    outside = "".join(line.replace("\\\\", "").replace('\\"', "").split('"')[::2])
    assert outside.count("=") == 2


def test_none_leaves_a_pair_out() -> None:
    assert pairs_of({"a": 1, "b": None, "c": 0}) == "a=1 c=0"


@pytest.mark.parametrize(
    ("style", "line"),
    [
        (Style.JOURNAL, '<4>event=rejected file="a b" n=1'),
        (Style.PLAIN, 'time=2026-11-22T07:20:01.500Z level=warning event=rejected file="a b" n=1'),
        (Style.TERMINAL, f'{NOW.astimezone():%H:%M:%S} event=rejected file="a b" n=1'),
    ],
)
def test_a_line_begins_as_its_reader_wants_it(style: Style, line: str) -> None:
    lines = Lines()

    make_log(lines, style, lambda: NOW).warning("rejected", file="a b", n=1)

    assert lines.lines == [line]


def test_an_event_without_a_name_is_its_pairs_alone() -> None:
    lines = Lines()

    make_log(lines, Style.JOURNAL, lambda: NOW).info("", q="01", status="delivered")

    assert lines.lines == ["<6>q=01 status=delivered"]


def test_the_journal_is_known_by_its_stream(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("wb") as file:
        status = os.fstat(file.fileno())

        assert style_of(file.fileno(), f"{status.st_dev}:{status.st_ino}") is Style.JOURNAL
        assert style_of(file.fileno(), f"{status.st_dev}:{status.st_ino + 1}") is Style.PLAIN
        assert style_of(file.fileno(), None) is Style.PLAIN


def test_a_terminal_is_known() -> None:
    controller, terminal = pty.openpty()

    assert style_of(terminal, None) is Style.TERMINAL

    os.close(controller)
    os.close(terminal)


def test_a_descriptor_that_is_closed_is_no_mistake() -> None:
    assert style_of(1_000_000, None) is Style.PLAIN


def test_an_open_log_writes_to_its_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        log, writer = open_log(file.fileno(), style=Style.JOURNAL)
        log.info("started")
        writer.close()

    assert path.read_text() == "<6>event=started\n"


def test_what_a_library_logs_is_one_line_that_names_the_exception() -> None:
    lines = Lines()
    logger = logging.Logger("asyncio")
    logger.addHandler(LibraryLog(make_log(lines, Style.JOURNAL, lambda: NOW)))

    try:
        raise ValueError("of\nours")
    except ValueError:
        logger.exception("Task exception was never %s", "retrieved")
    logger.info("chatter")

    assert lines.lines == [
        '<3>event=library logger=asyncio text="Task exception was never retrieved" error="ValueError(\'of\\\\nours\')"'
    ]
