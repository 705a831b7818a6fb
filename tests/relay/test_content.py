"""What DATA and BDAT send: CRLF only, long lines folded, dots stuffed for DATA, exactly once (RFC 5321)."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.message import Body
from relayd.relay.content import Encoder, transmitted, whole, without
from tests.relay.kit import a_body

BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_PIECES = [b"\r", b"\n", b"\r\n", b".", b"..", b"a", b"\x00", b"\xff", b"MAIL FROM:<x>"]
_MAIL = st.lists(st.sampled_from(_PIECES)).map(b"".join)
_LONG = st.lists(st.sampled_from([*_PIECES, b"x" * 500, b"y" * 997, b" ", "ü".encode() * 300, b"z" * 2500])).map(
    b"".join
)


def a_plain(file: bytes) -> Body:
    return Body(size=len(file), wire_size=len(file), header_end=0)


def encoded(body: Body, *chunks: bytes, stuffed: bool = True) -> bytes:
    encoder = Encoder(body, stuffed=stuffed)
    return b"".join(encoder.feed(chunk) for chunk in chunks) + encoder.finish()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (b"a\r\n", b"a\r\n"),
        (b"a", b"a\r\n"),
        (b"a\nb\rc\r\n", b"a\r\nb\r\nc\r\n"),
        (b"a\r.\r\nMAIL", b"a\r\n..\r\nMAIL\r\n"),
        (b".", b"..\r\n"),
        (b".\r\n.\r\n", b"..\r\n..\r\n"),
        (b"\n.\n", b"\r\n..\r\n"),
        (b"\r\n.\r", b"\r\n..\r\n"),
        (b"\n\n.\r\r\n", b"\r\n\r\n..\r\n\r\n"),
        (b"\r\n\x00.\r\n", b"\r\n\x00.\r\n"),
        (b"a\r\n\r", b"a\r\n\r\n"),
        (b"", b""),
        (b"\r", b"\r\n"),
    ],
)
def test_lines_end_in_crlf_and_dots_are_stuffed(file: bytes, content: bytes) -> None:
    assert whole(a_plain(file), file) == content
    assert encoded(a_plain(file), file) == content
    assert encoded(a_plain(file), *(file[n : n + 1] for n in range(len(file)))) == content


def test_the_prefix_goes_first_and_the_cuts_are_left_out() -> None:
    file = b"X-Sender: a@b\r\nSubject: x\r\nBcc: c@d\r\n\r\n.body\r\n"
    body = a_body(file, cuts=((0, 15), (27, 37)), prefix=b"Received: here\r\n")
    assert whole(body, file) == b"Received: here\r\nSubject: x\r\n\r\n..body\r\n"
    assert encoded(body, file[:20], file[20:30], file[30:]) == whole(body, file)


def test_the_last_line_end_is_held_back_for_the_dot() -> None:
    encoder = Encoder(a_plain(b"a\r\nb\r\n"))
    assert encoder.feed(b"a\r\nb\r\n") == b"a\r\nb"
    assert encoder.finish() == b"\r\n"


def test_a_message_of_nothing_but_its_prefix_is_sent() -> None:
    body = Body(size=0, wire_size=5, header_end=0, prefix=b"A: b\r\n")
    assert whole(body, b"") == encoded(body) == b"A: b\r\n"


def test_what_was_noted_of_a_body_is_not_trusted() -> None:
    file = b"x\n.\nMAIL FROM:<evil@example.org>\r\n"
    assert not BARE.search(whole(a_body(file, canonical=True), file))


@given(_MAIL | _LONG, st.booleans(), st.booleans(), st.data())
def test_the_octets_do_not_depend_on_the_chunks(
    file: bytes, stuffed: bool, long_lines: bool, data: st.DataObject
) -> None:
    body = replace(a_plain(file), long_lines=long_lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(file)), max_size=6)))
    chunks = [file[a:b] for a, b in zip([0, *cuts], [*cuts, len(file)], strict=True)]
    assert encoded(body, *chunks, stuffed=stuffed) == whole(body, file, stuffed=stuffed)


@given(_LONG, st.booleans())
def test_no_line_is_too_long_and_nothing_is_lost_of_it(file: bytes, stuffed: bool) -> None:
    body = replace(a_plain(file), long_lines=True)
    content = whole(body, file, stuffed=stuffed)
    assert not BARE.search(content)
    assert max(map(len, content.split(b"\r\n"))) <= 998 + stuffed
    assert len(whole(body, file, stuffed=False)) <= transmitted(
        replace(body, wire_size=len(whole(a_plain(file), file)))
    )
    if stuffed:
        assert b"\r\n.\r\n" not in b"\r\n" + content
    else:
        spaces = re.compile(rb"[ \r\n]")
        assert spaces.sub(b"", content) == spaces.sub(b"", file)


def test_a_body_that_is_not_stuffed_is_the_file() -> None:
    file = b"Subject: x\r\n\r\n.\r\n..\r\n.dot\r\n"
    assert whole(a_plain(file), file, stuffed=False) == file
    assert encoded(a_plain(file), file, stuffed=False) == file


VECTORS = [
    b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n.\n",
    b"\n\n.\r\r\n", b"\r\n\x00.\r\n", b"\x00.\r\n", b"\r\n.\r\n",
]  # fmt: skip
ENDS = [rb"\r\n\.\r\n", rb"\r?\n\.\r?\n", rb"(?:\r\n|\r|\n)\.(?:\r\n|\r|\n)"]  # strict, LF-lenient, CR-lenient


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("at", ["header", "preamble", "body"])
def test_no_server_sees_an_end_of_data_in_a_message(vector: bytes, at: str) -> None:
    """S1: in header, preamble and body, and across the edge of a chunk at each of its octets."""
    attack = b"x" + vector + b"MAIL FROM:<evil@example.org>\r\n"
    parts = {"header": b"Subject: a\r\n", "preamble": b"\r\npreamble\r\n", "body": b"--b\r\n\r\n" + b"y" * 70000}
    parts[at] += attack
    file = b"".join(parts.values())
    start = file.index(attack)
    for edge in range(start, start + len(attack) + 1):
        sent = encoded(a_plain(file), file[:edge], file[edge:]) + b".\r\n"
        for end in ENDS:
            assert len(re.findall(end, b"\r\n" + sent)) == 1


@given(_MAIL)
def test_no_bare_line_end_and_no_end_of_data_is_ever_sent(file: bytes) -> None:
    content = whole(a_plain(file), file)
    assert not BARE.search(content)
    assert b"\r\n.\r\n" not in b"\r\n" + content
    assert content == b"" or content.endswith(b"\r\n")
    unstuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n")[2:]
    lines = file.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert unstuffed == b"" if not file else unstuffed == (lines.removesuffix(b"\n") + b"\n").replace(b"\n", b"\r\n")


@given(st.binary(max_size=60), st.data())
def test_cuts_do_not_depend_on_the_chunks(file: bytes, data: st.DataObject) -> None:
    edges = sorted(data.draw(st.sets(st.integers(0, len(file)), max_size=6)))
    cuts = tuple(zip(edges[::2], edges[1::2], strict=False))
    step = data.draw(st.integers(1, 10))
    pieces = b"".join(without(file[n : n + step], cuts, n) for n in range(0, len(file), step))
    kept = bytes(octet for n, octet in enumerate(file) if not any(a <= n < b for a, b in cuts))
    assert pieces == without(file, cuts) == kept
