"""relayd.observe.log: what a line looks like, whatever it is about."""

from __future__ import annotations

import json
import logging
import os
import pty
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.observe.log import LibraryLog, Log, Style, make_log, style_of
from relayd.observe.settings import LogLevel, LogSettings, LogStyle
from relayd.observe.values import Change, Seconds, WholeSeconds, json_of, pairs_of, value_of

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


JOURNAL = Style(LogStyle.LOGFMT, journal=True)
LOCAL = f"{NOW.astimezone():%H:%M:%S}"


@pytest.mark.parametrize(
    ("style", "line"),
    [
        (JOURNAL, '<4>event=rejected file="a b" n=1'),
        (Style(LogStyle.LOGFMT), 'time=2026-11-22T07:20:01.500Z level=warning event=rejected file="a b" n=1'),
        (Style(LogStyle.CONSOLE), f'{LOCAL} warning rejected file="a b" n=1'),
        (Style(LogStyle.CONSOLE, coloured=True), f'{LOCAL} \x1b[33mwarning\x1b[0m rejected file="a b" n=1'),
        (Style(LogStyle.CONSOLE, journal=True), '<4>rejected file="a b" n=1'),
        (
            Style(LogStyle.JSON),
            '{"time": "2026-11-22T07:20:01.500Z", "level": "warning", "event": "rejected", "file": "a b", "n": 1}',
        ),
        (Style(LogStyle.JSON, journal=True), '<4>{"event": "rejected", "file": "a b", "n": 1}'),
    ],
    ids=["logfmt-journal", "logfmt", "console", "console-coloured", "console-journal", "json", "json-journal"],
)
def test_a_line_is_as_its_reader_wants_it(style: Style, line: str) -> None:
    lines = Lines()

    make_log(lines, style, lambda: NOW).warning("rejected", file="a b", n=1, left_out=None)

    assert lines.lines == [line]


def test_an_event_without_a_name_is_its_pairs_alone() -> None:
    lines = Lines()

    make_log(lines, JOURNAL, lambda: NOW).info("", q="01", status="delivered")

    assert lines.lines == ["<6>q=01 status=delivered"]


@given(st.dictionaries(st.sampled_from("abc"), st.text(max_size=200)))
def test_whatever_is_told_a_line_of_json_is_one_object_of_plain_ascii(values: dict[str, str]) -> None:
    line = json_of(values)

    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line).keys() == values.keys()
    json.dumps(json.loads(line), ensure_ascii=False).encode()  # no lone surrogate comes out


def test_in_json_numbers_are_numbers_and_octets_of_no_text_are_escaped_in_it() -> None:
    line = json_of(
        {"took": Seconds(0.25), "next": WholeSeconds(540), "by": Change(60), "n": 2, "file": "\udcff\n", "x": None}
    )

    assert json.loads(line) == {"took": 0.25, "next": 540, "by": 60, "n": 2, "file": "\\xff\n"}


def test_in_logfmt_a_time_has_its_unit() -> None:
    assert pairs_of({"took": Seconds(0.2504), "next": WholeSeconds(540), "by": Change(60)}) == (
        "took=0.250s next=540s by=+60s"
    )


def test_a_long_value_is_cut_in_json_too() -> None:
    assert json.loads(json_of({"a": "x" * 3000}))["a"] == "x" * 2000 + "..."


def test_the_journal_is_known_by_its_stream(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("wb") as file:
        status = os.fstat(file.fileno())
        journal = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        other = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"}

        assert style_of(LogStyle.AUTO, file.fileno(), journal) == JOURNAL
        assert style_of(LogStyle.JSON, file.fileno(), journal) == Style(LogStyle.JSON, journal=True)
        assert style_of(LogStyle.AUTO, file.fileno(), other) == Style(LogStyle.LOGFMT)
        assert style_of(LogStyle.AUTO, file.fileno(), {}) == Style(LogStyle.LOGFMT)


def test_a_terminal_is_known_and_asked_whether_it_wants_colours() -> None:
    controller, terminal = pty.openpty()

    assert style_of(LogStyle.AUTO, terminal, {}) == Style(LogStyle.CONSOLE, coloured=True)
    assert style_of(LogStyle.AUTO, terminal, {"NO_COLOR": "1"}) == Style(LogStyle.CONSOLE)
    assert style_of(LogStyle.AUTO, terminal, {"TERM": "dumb"}) == Style(LogStyle.CONSOLE)
    assert style_of(LogStyle.LOGFMT, terminal, {}) == Style(LogStyle.LOGFMT)

    os.close(controller)
    os.close(terminal)


def test_a_descriptor_that_is_closed_is_no_mistake() -> None:
    assert style_of(LogStyle.AUTO, 1_000_000, {}) == Style(LogStyle.LOGFMT)


def test_an_open_log_writes_to_its_descriptor_and_as_a_reload_says(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        status = os.fstat(file.fileno())
        log = Log(file.fileno(), LogSettings(), {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        log.logger.info("started")
        log.reload(LogSettings(style=LogStyle.JSON, level=LogLevel.WARNING))
        log.logger.info("chatter")
        log.logger.warning("left", file="x")
        log.close()

    assert path.read_text() == '<6>event=started\n<4>{"event": "left", "file": "x"}\n'


def test_what_a_library_logs_is_one_line_that_names_the_exception() -> None:
    lines = Lines()
    logger = logging.Logger("asyncio")
    logger.addHandler(LibraryLog(make_log(lines, JOURNAL, lambda: NOW)))

    try:
        raise ValueError("of\nours")
    except ValueError:
        logger.exception("Task exception was never %s", "retrieved")
    logger.info("chatter")

    assert lines.lines == [
        '<3>event=library logger=asyncio text="Task exception was never retrieved" error="ValueError(\'of\\\\nours\')"'
    ]
