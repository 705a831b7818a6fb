"""EHLO replies, however odd (FAULTS.md H13)."""

from __future__ import annotations

import pytest

from relayd.mail.reply import Reply
from relayd.relay.capabilities import Capabilities


def offered(*lines: str) -> Capabilities:
    return Capabilities.parse(Reply(250, "\n".join(["mx.test", *lines])))


def test_what_is_offered_is_seen() -> None:
    found = offered(
        "PIPELINING", "SIZE 1000", "8BITMIME", "SMTPUTF8", "DSN", "STARTTLS", "CHUNKING", "AUTH PLAIN LOGIN"
    )
    assert found == Capabilities(
        pipelining=True,
        chunking=True,
        size_declared=True,
        size=1000,
        eight_bit_mime=True,
        smtputf8=True,
        dsn=True,
        starttls=True,
        auth=frozenset({"PLAIN", "LOGIN"}),
    )


@pytest.mark.parametrize("line", ["SIZE", "SIZE 0", "SIZE -1", "SIZE abc", "SIZE 1_0", "SIZE " + "9" * 30, "SIZE ٣"])
def test_a_size_that_is_none_is_no_limit(line: str) -> None:
    assert offered(line) == Capabilities(size_declared=True)


@pytest.mark.parametrize(
    ("line", "least"),
    [
        ("DELIVERBY", 0),
        ("DELIVERBY 240", 240),
        ("deliverby 0", 0),
        ("DELIVERBY 240,X-MORE", 240),
        ("DELIVERBY ,X-MORE", 0),
        ("DELIVERBY -5", 0),
        ("DELIVERBY soon", 0),
        ("DELIVERBY 1000000000", 0),
        ("DELIVERBY ٣", 0),
    ],
)
def test_deliverby_is_offered_whatever_it_says_of_a_least_time(line: str, least: int) -> None:
    assert offered(line) == Capabilities(deliver_by=True, deliver_by_min=least)


def test_an_enormous_size_is_a_size() -> None:
    assert offered("SIZE 99999999999999999999").size == 99999999999999999999


def test_case_spaces_tabs_and_doubles_do_not_matter() -> None:
    found = offered("pipelining  ", "\tsize\t1000", "SIZE 5", "Auth=login", "AUTH plain")
    assert found == Capabilities(pipelining=True, size_declared=True, size=1000, auth=frozenset({"LOGIN", "PLAIN"}))


def test_the_name_of_the_server_is_no_keyword() -> None:
    assert Capabilities.parse(Reply(250, "PIPELINING")) == Capabilities()
