"""From the octets of a file to a message."""

from __future__ import annotations

import email
import email.policy
import re
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.mail.message import arrival_of
from relayd.submission.examine import MAX_RECAST
from relayd.submission.refusal import Refused
from tests.submission.support import HOSTNAME, ID, SIMPLE, an_examiner, examined, reading, refusal_of, sent


def test_a_plain_message_is_described_exactly() -> None:
    message = examined(SIMPLE)

    assert message.id == ID
    assert message.arrived == arrival_of(ID)
    assert message.body.size == len(SIMPLE)
    assert message.body.header_end == SIMPLE.index(b"Hello")
    assert message.body.wire_size == len(sent(SIMPLE, message))
    assert not message.body.canonical
    assert not message.body.eight_bit


def test_the_generated_fields_complete_the_header() -> None:
    """R18: from the queue id, so that they are equal on each attempt."""
    message = examined(b"X-Sender: <a@b>\nX-Receiver: <c@d>\n\nbody\n")

    assert message.body.prefix.decode() == (
        f"Received: by {HOSTNAME} (relayd) id {ID};\r\n\tSun, 22 Nov 2026 07:00:00 +0000\r\n"
        "Date: Sun, 22 Nov 2026 07:00:00 +0000\r\n"
        "From: a@b\r\n"
        f"Message-ID: <{ID}@{HOSTNAME}>\r\n"
    )


def test_what_is_there_is_not_added_again() -> None:
    message = examined(b"DATE: x\nFrom : a@b\nmessage-id: <1@x>\nTo: c@d\n\nbody\n")

    assert message.body.prefix.count(b"\r\n") == 2
    assert message.body.prefix.startswith(b"Received:")


def test_a_null_sender_writes_from_mailer_daemon() -> None:
    assert f"From: MAILER-DAEMON@{HOSTNAME}\r\n".encode() in examined(b"X-Sender: <>\nTo: c@d\n\n").body.prefix


def test_a_second_examination_gives_the_same_message() -> None:
    assert examined(SIMPLE) == examined(SIMPLE, expected=3)


@pytest.mark.parametrize(
    "octets", [b"From: a@b\nTo: c@d\nBcc: x@y\nHello Bob\nBye", b"X-Sender: a@b\nX-Receiver: c@d\nHello Bob\nBye"]
)
def test_a_missing_empty_line_is_put_on_the_wire(octets: bytes) -> None:
    message = examined(octets)

    header, _, text = sent(octets, message).partition(b"\r\n\r\n")

    assert text == b"Hello Bob\r\nBye\r\n"
    assert b"Bcc" not in header
    assert message.body.wire_size == len(sent(octets, message))
    assert message.body.header_end == octets.index(b"Hello")


def test_a_missing_empty_line_after_a_large_header_is_refused() -> None:
    with pytest.raises(Refused, match="no empty line"):
        examined(b"From: a@b\nTo: c@d\nX: " + b"x" * MAX_RECAST + b"\nHello\n")


def test_a_cut_never_swallows_the_empty_line() -> None:
    octets = b"From: a@b\rTo: c@d\rBcc: x@y\r\n\nbody"

    assert sent(octets, examined(octets)).endswith(b"To: c@d\r\n\r\nbody\r\n")


@pytest.mark.parametrize(
    ("octets", "flags"),
    [
        (b"From: a@b\r\nTo: c@d\r\n\r\nbody\r\n", {"canonical"}),
        (b"From: a@b\r\nTo: c@d\r\n\r\nbody", set()),
        ("From: a@b\nTo: c@d\n\nü\n".encode(), {"eight_bit"}),
        ("From: ü <a@b>\r\nTo: c@d\r\n".encode(), {"eight_bit", "eight_bit_header", "canonical"}),
        ("From: a@b\nTo: c@d\nBcc: ü <x@y>\n\n".encode(), set()),
        (b"From: a@b\nTo: c@d\n\n\0\n", {"nul"}),
        (b"From: a@b\nTo: c@d\n\n" + b"x" * 999, {"long_lines"}),
        ("X-Sender: ü@b\nX-Receiver: c@d\n\nx\n".encode(), {"eight_bit", "eight_bit_header"}),
    ],
)
def test_the_facts_are_those_of_what_is_sent(octets: bytes, flags: set[str]) -> None:
    body = examined(octets).body

    assert {
        name for name in ("canonical", "eight_bit", "eight_bit_header", "nul", "long_lines") if getattr(body, name)
    } == flags


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "empty"),
        (b"\n", "no sender"),
        (b"just text\n", "no sender"),
        (b"\xff\xfeF\0r\0o\0m\0", "no sender"),
        (b" x", "continuation"),
    ],
)
def test_what_is_no_message_is_refused(octets: bytes, why: str) -> None:
    with pytest.raises(Refused, match=why):
        examined(octets)


def test_a_file_that_grows_beyond_the_limit_while_it_is_read_is_refused() -> None:
    with pytest.raises(Refused, match="limit is 1000000"):
        an_examiner(limit=1_000_000).examine(reading(SIMPLE + b"x" * 3_000_000), ID)


def test_a_large_body_is_described_like_a_small_one() -> None:
    octets = SIMPLE + b"0123456789\r\n" * 300_000 + b"tail\r"

    body = examined(octets).body

    assert body.size == len(octets)
    assert body.wire_size == len(body.prefix) + len(octets) + SIMPLE.count(b"\n") + 1


def test_a_hundred_thousand_recipients_are_all_kept() -> None:
    to = b",\r\n ".join(b"r%d@example.net" % number for number in range(100_000))

    message = examined(b"From: a@b\r\nTo: " + to + b"\r\n\r\nbody\r\n")

    assert len(message.envelope.recipients) == 100_000
    assert message.body.header_end == message.body.size - 6


_LINES = st.lists(
    st.sampled_from(
        [
            b"From: a@b",
            b"To: c@d",
            b"Bcc: e@f",
            b"X-Sender: <a@b>",
            b"X-Receiver: g@h",
            b" more",
            b"text",
            b"",
            b".",
            b"Date: x",
            b"\xc3\xbc",
        ]
    ),
    max_size=12,
)


@settings(max_examples=300)
@given(_LINES, st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=12, max_size=12), st.integers(1, 50))
def test_what_is_described_is_what_is_sent(lines: list[bytes], ends: list[bytes], expected: int) -> None:
    octets = b"X-Receiver: x@y\nFrom: z@z\n" + b"".join(line + end for line, end in zip(lines, ends, strict=False))
    try:
        message = examined(octets, expected=expected)
    except Refused:
        return
    wire = sent(octets, message)

    assert message.body.wire_size == len(wire)
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", wire)
    assert b"Bcc:" not in wire.partition(b"\r\n\r\n")[0]
    assert b"X-Receiver: x@y" not in wire
    parsed = email.message_from_bytes(wire, policy=email.policy.compat32)
    assert all(parsed[name] for name in ("Received", "Date", "From", "Message-ID"))


@given(st.binary(max_size=400))
def test_no_octets_crash_it(octets: bytes) -> None:
    for start in (b"From: a@b\nTo: c@d\n", b"X-Sender: a@b\nX-Receiver: c@d\n", b""):
        assert refusal_of(partial(examined, start + octets)).isprintable()


MANY = 15 * 1024 * 1024  # octets: just under what a header may have


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"To: a@b.cc\n" + b"Bcc:\nTo:\n" * (MANY // 9), "Bcc and its like stand in more than 1000 places"),
        (b"X-Receiver: <a@b.cc>\n" * (MANY // 21), "the header has more than 200000 fields that matter"),
        (b"To: " + b"a@b.cc,\n " * (MANY // 9) + b"z@b.cc\n", "there are more than 100000 recipients"),
        (b"To: <%b@>\n" % (b"a" * 1000), "To has an address that cannot be used, '" + "a" * 120 + "'"),
    ],
    ids=["places", "lines", "recipients", "quoted"],
)
def test_of_nothing_can_a_header_have_without_end(file: bytes, reason: str) -> None:
    """F6: what 16 MiB of header can hold of each."""
    found = refusal_of(lambda: examined(b"X-Sender: <>\n" + file + b"\nHello.\n"))

    assert found.startswith(reason)
    assert len(found) < 400
