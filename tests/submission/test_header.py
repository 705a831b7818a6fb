"""The header of a dropped file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.submission.header import MAX_HEADER, MAX_RECEIVED, Header, read_header
from relayd.submission.refusal import Refused


def header_of(octets: bytes) -> Header:
    header = read_header(octets, whole=True)
    assert header is not None
    return header


def kept(octets: bytes) -> bytes:
    for start, end in reversed(header_of(octets).cuts):
        octets = octets[:start] + octets[end:]
    return octets


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_the_header_ends_at_the_empty_line_whatever_ends_a_line(line_end: bytes) -> None:
    octets = line_end.join([b"From: a@b", b"Subject: x", b" y", b"", b"To: not a field", b""])

    header = header_of(octets)

    assert octets[header.end :] == b"To: not a field" + line_end
    assert header.plain
    assert [field.name for field in header.fields] == ["from"]


@pytest.mark.parametrize(
    ("octets", "rest"),
    [
        (b"X-Sender: <a@b>\nX-Receiver: <c@d>\nSubject: x\n\nb", b"Subject: x\n\nb"),
        (b"x-sender: a@b\r\nX-RECEIVER: c@d\r\n\r\nb", b"\r\nb"),
        (
            b"X-Sender: a@b\nX-CreatedBy: me\nX-HeloDomain: h\nX-EndOfInjectedXHeaders: 9\nX-Source: mine\n\n",
            b"X-Source: mine\n\n",
        ),
        (b"X-Source: mine\nFrom: a@b\n\n", b"X-Source: mine\nFrom: a@b\n\n"),
        (b"Subject: x\nX-Sender: roundcube@b\n\n", b"Subject: x\nX-Sender: roundcube@b\n\n"),
        (b"Bcc: c@d,\n e@f\nSubject: x\nBcc : g@h\nresent-BCC: i@j\n\nBcc: body\n", b"Subject: x\n\nBcc: body\n"),
        (b"Return-Path: <a@b>\nTo: c\n\n", b"To: c\n\n"),
        (b"From ann Mon Nov 22 07:00:00 2026\nTo: c\n\nFrom here\n", b"To: c\n\nFrom here\n"),
        (b"\xef\xbb\xbfX-Sender: a@b\nTo: c\n\n", b"To: c\n\n"),
        (b"To: c\nBcc: secret@d", b"To: c\n"),
        (b"X-Sender: a@b\nX-Relayd-Deadline: 2h\nX-Receiver: c@d\nTo: c\n\n", b"To: c\n\n"),
        (b"x-relayd-deadline: 2h\nX-Sender: a@b\nTo: c\n\n", b"To: c\n\n"),
        (b"X-Relayd-Deadline: 2h\nX-Source: mine\nTo: c\n\n", b"X-Source: mine\nTo: c\n\n"),
        (
            b"To: c\nX-RELAYD-Deadline:\n 2h\nX-Relayd-Deadline: 1h\nCc: d\n\nX-Relayd-Deadline: body\n",
            b"To: c\nCc: d\n\nX-Relayd-Deadline: body\n",
        ),
    ],
)
def test_what_is_never_sent_is_cut(octets: bytes, rest: bytes) -> None:
    assert kept(octets) == rest


def test_cuts_are_apart_from_one_another() -> None:
    assert header_of(b"X-Sender: a@b\nBcc: c@d\nReturn-Path: <>\nTo: x\nBcc: y\n\n").cuts == ((0, 39), (45, 52))


def test_a_line_that_is_no_field_ends_the_header() -> None:
    header = header_of(b"From: a@b\nHello Bob\nTo: c@d\n")

    assert (header.end, header.plain) == (10, False)


def test_a_header_without_a_body_is_whole() -> None:
    for octets in (b"From: a@b\n", b"From: a@b"):
        assert header_of(octets).plain
        assert header_of(octets).end == len(octets)


def test_a_cut_that_would_join_a_cr_and_an_lf_is_noticed() -> None:
    assert not header_of(b"From: a@b\rBcc: c@d\r\n\nbody").plain


def test_a_continuation_line_cannot_be_the_first() -> None:
    with pytest.raises(Refused, match="continuation"):
        header_of(b" folded: x\nFrom: a@b\n\n")


def test_a_loop_is_seen_by_its_received_fields() -> None:
    header_of(b"Received: x\n" * (MAX_RECEIVED - 1) + b"\n")
    with pytest.raises(Refused, match="mail loop: 100 Received"):
        header_of(b"Received: x\n" * MAX_RECEIVED + b"\n")


def test_a_large_header_is_refused_but_many_recipients_are_not() -> None:
    many = b"X-Receiver: <someone@example.org>\n" * 100_000 + b"From: a@b\n\n"
    assert len(header_of(many).leading) == 100_000
    with pytest.raises(Refused, match="larger than"):
        header_of(b"X-Filler: " + b"x" * MAX_HEADER + b"\n\n")
    with pytest.raises(Refused, match="larger than"):
        header_of(b"X-Filler: x\n y\n" * 100_000 + b"\n")


_PIECES = st.sampled_from(
    [
        b"From: a@b",
        b"Bcc: c@d",
        b"X-Sender: <a@b>",
        b"X-Receiver: c@d",
        b" more",
        b"plain",
        b"",
        b"\n",
        b"\r\n",
        b"\r",
        b":",
        b"\xff\x00",
    ]
)


@given(st.lists(_PIECES, max_size=20).map(b"".join))
def test_a_longer_file_never_changes_what_was_decided(octets: bytes) -> None:
    try:
        full = read_header(octets + b"\nFrom: tail\n\nbody", whole=True)
        early = read_header(octets, whole=False)
    except Refused:
        return
    assert early is None or early == full


@given(st.binary(max_size=300) | st.lists(_PIECES, max_size=20).map(b"".join))
def test_no_octets_crash_it_and_cuts_are_whole_lines(octets: bytes) -> None:
    try:
        header = header_of(octets)
    except Refused:
        return
    for start, end in header.cuts:
        assert start == 0 or octets[start - 1 : start] in (b"\r", b"\n")
        assert end == len(octets) or octets[end - 1 : end] in (b"\r", b"\n")
    assert 0 <= header.end <= len(octets)
