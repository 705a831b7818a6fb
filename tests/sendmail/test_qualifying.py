"""Addresses of a header get their domain where there can be no doubt, and nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.sendmail.qualifying import qualified


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        (b" root", b" root@x.example"),
        (b"root", b"root@x.example"),
        (b' "(Cron Daemon)" <root>', b' "(Cron Daemon)" <root@x.example>'),
        (b" root (Cron Daemon)", b" root@x.example (Cron Daemon)"),
        (b" Cron Daemon <root>", b" Cron Daemon <root@x.example>"),
        (b" a.b, c+d ,\n\te <f>,g@y.example", b" a.b@x.example, c+d@x.example ,\n\te <f@x.example>,g@y.example"),
        (b' "a, b" <root>', b' "a, b" <root@x.example>'),
        (b" =?utf-8?q?J=C3=B6rg?= <joerg>", b" =?utf-8?q?J=C3=B6rg?= <joerg@x.example>"),
        (b" J\xc3\xb6rg <joerg>", b" J\xc3\xb6rg <joerg@x.example>"),
        (b" a@y.example", None),
        (b" <a@y.example>", None),
        (b" <>", None),
        (b"", None),
        (b" two words", None),
        (b" undisclosed-recipients:;", None),
        (b" team: root, ann;", None),
        (b' "quoted"', None),
        (b" <a> <b>", None),
        (b" root (open", None),
        (b' root "open', None),
        (b" r\xf6\xf6t", None),
        (b" ..", None),
    ],
)
def test_what_can_mean_one_thing_is_completed(value: bytes, becomes: bytes | None) -> None:
    fields = b"Subject: root\nFROM :" + value + b"\nX-To: root\n"

    assert qualified(fields, "x.example") == (
        fields if becomes is None else fields.replace(value + b"\nX", becomes + b"\nX")
    )


@pytest.mark.parametrize("name", ["From", "sender", "Reply-To", "TO", "Cc", "Resent-From", "resent-to"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_in_each_field_that_has_addresses(name: str, end: bytes) -> None:
    assert qualified(name.encode() + b": root" + end, "x.example") == name.encode() + b": root@x.example" + end


@given(st.lists(st.sampled_from([b"a", b"@", b"<", b">", b",", b'"', b"(", b")", b"\\", b" ", b"\n ", b":", b"."])))
def test_nothing_is_taken_away_and_it_is_done_once(pieces: list[bytes]) -> None:
    fields = b"To: " + b"".join(pieces) + b"\n"

    once = qualified(fields, "x.example")

    assert once.replace(b"@x.example", b"") == fields
    assert qualified(once, "x.example") == once
