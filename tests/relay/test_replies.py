"""Replies: strict, incremental, bounded (RFC 5321 section 4.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.reply import EnhancedStatus, Reply
from relayd.relay.replies import MAX_LINE, MAX_REPLY, ProtocolError, ReplyParser
from tests.fuzz.replies import check


def replies_of(*pieces: bytes) -> list[Reply]:
    parser = ReplyParser()
    found = []
    for piece in pieces:
        parser.feed(piece)
        while (reply := parser.next()) is not None:
            found.append(reply)
    return found


def test_a_reply_of_several_lines_is_one_reply() -> None:
    assert replies_of(b"250-2.1.0 one\r\n250-2.1.0 two\r\n250 2.1.0 three\r\n") == [
        Reply(250, "one\ntwo\nthree", EnhancedStatus(2, 1, 0))
    ]


@pytest.mark.parametrize("octets", [b"250\r\n", b"250 \r\n", b"250\n"])
def test_a_bare_code_is_a_reply(octets: bytes) -> None:
    assert replies_of(octets) == [Reply(250)]


def test_a_line_may_end_in_a_bare_line_feed() -> None:
    assert replies_of(b"250-a\n250 b\n354 go\n") == [Reply(250, "a\nb"), Reply(354, "go")]


@pytest.mark.parametrize("code", [200, 252, 299, 354, 451, 599])
def test_any_code_from_2_to_5_is_a_reply(code: int) -> None:
    assert replies_of(b"%d ok\r\n" % code) == [Reply(code, "ok")]


@pytest.mark.parametrize(
    "octets",
    [
        b"000 no\r\n",
        b"150 wait\r\n",
        b"650 what\r\n",
        b"999\r\n",
        b"+25 ok\r\n",
        b" 25 ok\r\n",
        b"2_5 ok\r\n",
        b"-25 ok\r\n",
        b"25 ok\r\n",
        b"2505 ok\r\n",
        b"250ok\r\n",
        "２５０ ok\r\n".encode(),
        b"\r\n",
        b"hello\r\n",
        b"250-no\r\n550 yes\r\n",
        b"550-no\r\n250 ok\r\n",
        b"250-a\r\nb\r\n250 c\r\n",
    ],
)
def test_what_is_not_a_reply_is_a_protocol_error(octets: bytes) -> None:
    with pytest.raises(ProtocolError):
        replies_of(octets)


def test_a_good_reply_before_garbage_is_still_handed_out() -> None:
    parser = ReplyParser()
    parser.feed(b"250 ok\r\nrubbish\r\n")
    assert parser.next() == Reply(250, "ok")
    with pytest.raises(ProtocolError):
        parser.next()


def test_a_line_without_an_end_is_given_up_at_the_bound() -> None:
    parser = ReplyParser()
    parser.feed(b"250 " + b"x" * (MAX_LINE + 1))
    with pytest.raises(ProtocolError, match="line"):
        parser.next()


def test_a_long_line_with_an_end_is_refused_too() -> None:
    with pytest.raises(ProtocolError, match="line"):
        replies_of(b"250 " + b"x" * MAX_LINE + b"\r\n")


def test_an_endless_reply_is_given_up_at_the_bound() -> None:
    line = b"250-" + b"x" * 1000 + b"\r\n"
    with pytest.raises(ProtocolError, match="reply of more"):
        replies_of(*[line] * (MAX_REPLY // 1000 + 1))


def test_five_thousand_keywords_are_within_the_bound() -> None:
    (reply,) = replies_of(b"".join(b"250-X%04d\r\n" % n for n in range(5000)) + b"250 SIZE 1000\r\n")
    assert reply.text.endswith("X4999\nSIZE 1000")


def test_text_that_is_not_utf8_is_replaced() -> None:
    (reply,) = replies_of(b"550 \xff\x00\x1b[31m\r\n")
    assert reply.text == "\ufffd\x00\x1b[31m"


def test_pending_tells_of_octets_that_made_no_reply() -> None:
    parser = ReplyParser()
    parser.feed(b"250 ok\r\n25")
    states = [parser.next() == Reply(250, "ok"), parser.pending]
    parser.feed(b"0 ok\r\n")
    states += [parser.next() == Reply(250, "ok"), not parser.pending]
    parser.feed(b"250-ok\r\n")
    states += [parser.next() is None, parser.pending]
    assert states == [True] * 6


_LINES = st.lists(
    st.builds(
        lambda code, texts, end: b"".join(
            b"%d%s%s%s" % (code, b" " if n == len(texts) - 1 else b"-", text, end) for n, text in enumerate(texts)
        ),
        st.integers(200, 599),
        st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b".").replace(b"\r", b".")), min_size=1),
        st.sampled_from([b"\r\n", b"\n"]),
    ),
    max_size=6,
)


@given(_LINES, st.data())
def test_the_replies_do_not_depend_on_the_cuts(lines: list[bytes], data: st.DataObject) -> None:
    octets = b"".join(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=8)))
    pieces = [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    assert replies_of(*pieces) == replies_of(octets)
    assert len(replies_of(octets)) == len(lines)


@given(st.binary(max_size=200))
def test_no_octets_are_too_much_for_the_parser(octets: bytes) -> None:
    try:
        found = replies_of(octets)
    except ProtocolError:
        return
    assert all(2 <= reply.code // 100 <= 5 for reply in found)


_WORDS = [b"250", b"250-", b"421 ", b"\r\n", b"\n", b"\r", b"5.1.1 ", b"2.0.0", b" ", b"x" * 8190]


@given(
    st.lists(st.sampled_from(_WORDS) | st.binary(max_size=6), max_size=40).map(b"".join), st.lists(st.integers(0, 99))
)
def test_the_parser_reads_what_a_plain_reading_of_the_grammar_does(octets: bytes, cuts: list[int]) -> None:
    check(octets, cuts)
