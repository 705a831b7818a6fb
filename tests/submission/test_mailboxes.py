"""The addresses in a header field."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.submission.mailboxes import addresses_in, text_of
from relayd.submission.refusal import Refused
from tests.submission.support import refusal_of


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a@b", ["a@b"]),
        ("<a@b>", ["a@b"]),
        ("Ann Smith <a@b>", ["a@b"]),
        ('"Smith, Ann" <a@b>, Bob <c@d>', ["a@b", "c@d"]),
        ("=?utf-8?B?SsO8cmdlbg==?= <j@x>", ["j@x"]),
        ("=?utf-8?Q?J=C3=BCrgen?= <j@x>, k@x", ["j@x", "k@x"]),
        ("Jürgen <j@x>", ["j@x"]),
        ("John Q. Public <j@x>", ["j@x"]),
        ("undisclosed-recipients:;", []),
        ("friends: a@b, Bob <c@d>;, e@f", ["a@b", "c@d", "e@f"]),
        ("root@host (Cron Daemon)", ["root@host"]),
        ("(the (nested) boss) a@b", ["a@b"]),
        ("root", ["root"]),
        ("a@b,, c@d,", ["a@b", "c@d"]),
        ('"john smith"@x', ['"john smith"@x']),
        ('<"a>b"@x>', ['"a>b"@x']),
        ("a@[192.0.2.1], b@[IPv6:2001:db8::1]", ["a@[192.0.2.1]", "b@[IPv6:2001:db8::1]"]),
        ("ann@example.org <ann@example.org>", ["ann@example.org"]),
        ("<@relay:u@d>", ["@relay:u@d"]),
        ("<>", [""]),
        ("", []),
    ],
)
def test_every_common_form_is_understood(text: str, found: list[str]) -> None:
    assert addresses_in(text, "To") == found


@pytest.mark.parametrize(
    "text",
    [
        "a(comment)@b",
        "a@b(c@d)",
        "(c@d)a@b",
        "alice@example.org)bob@example.com",
        "alice@example.org(<bob@example.com>",
        "ann@example.org <bob@example.com>",
        "a@b <c@d> e@f",
        "a@b;c@d",
        "a@b c@d",
        "group: a@b",
        "group: inner: a@b;;",
        "a@b: c@d;",
        "<a@b",
        "a@b>",
        '"open <a@b>',
        "a\\@b",
        "a@[b",
        "x y",
    ],
)
def test_what_is_ambiguous_is_refused_by_name(text: str) -> None:
    with pytest.raises(Refused, match="To cannot be read as addresses"):
        addresses_in(text, "To")


def test_folds_are_undone() -> None:
    assert text_of(b" a@b,\r\n c@d,\n\te@f", "To") == "a@b, c@d,\te@f"


@pytest.mark.parametrize("octets", [b"a@b\x00", b"\xff@b", b"a\x1b@b", "a\u2028@b".encode(), "a\x85@b".encode()])
def test_control_characters_and_broken_utf_8_are_refused(octets: bytes) -> None:
    with pytest.raises(Refused):
        text_of(octets, "To")


@pytest.mark.parametrize("piece", ['"', "<", "(", "a ", " ", ",", "\\", "[", "a@b,", "(x)", '"x"', "x:;,", "<a>"])
def test_a_lot_of_anything_takes_linear_time(piece: str) -> None:
    with suppress(Refused):
        addresses_in(piece * (200_000 // len(piece)), "To")


@given(st.text(alphabet='a@b.,:;<>()[]"\\ \t=?é', max_size=40))
def test_no_text_crashes_it(text: str) -> None:
    found: list[str] = []

    assert refusal_of(lambda: found.extend(addresses_in(text, "To"))).isprintable()
    assert all(address in text for address in found)
