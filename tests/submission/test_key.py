"""The key of a dropped file: an envelope line, its owner's, and nothing of the message."""

from __future__ import annotations

import pytest

from relayd.mail.key import MAX_KEY, SubmissionKey
from relayd.submission.refusal import Refused
from tests.submission.support import ID, an_examiner, examined, reading, sent

BODY = b"From: ann@example.org\nTo: bob@example.net\n\nhello\n"


def key_of(octets: bytes) -> SubmissionKey | None:
    return an_examiner().examine(reading(octets), ID, owner=33).key


@pytest.mark.parametrize(
    "lines",
    [
        b"X-Sender: <a@x.example>\nX-Receiver: <b@x.example>\nX-Relayd-Key: order 7\n",
        b"X-Relayd-Key: order 7\n",
        b"x-relayd-key :\torder\r\n 7\r\nX-Receiver: b@x.example\r\n",
    ],
    ids=["beside", "alone", "folded"],
)
def test_it_stands_among_the_lines_of_the_envelope_and_is_not_sent(lines: bytes) -> None:
    message = an_examiner().examine(reading(lines + BODY), ID, owner=33)

    assert message.key == SubmissionKey(33, "order 7")
    assert sent(lines + BODY, message).endswith(b"\r\n" + BODY.replace(b"\n", b"\r\n"))
    assert b"Key" not in sent(lines + BODY, message)


def test_in_the_header_of_the_message_it_is_a_field_as_any_other() -> None:
    """Else who wrote a message that is sent on would say what it repeats."""
    octets = b"Received: by a.example\nX-Relayd-Key: order 7\n" + BODY

    message = an_examiner().examine(reading(octets), ID, owner=33)

    assert message.key is None
    assert b"X-Relayd-Key: order 7" in sent(octets, message)


def test_where_the_owner_is_not_known_there_is_none() -> None:
    assert examined(b"X-Relayd-Key: order 7\n" + BODY).key is None


@pytest.mark.parametrize("text", [b"", b"x" * (MAX_KEY + 1), b"caf\xc3\xa9", b"\xff", b"a\x00b"], ids=range(5))
def test_what_is_no_key_refuses_the_file(text: bytes) -> None:
    with pytest.raises(Refused, match="X-Relayd-Key"):
        key_of(b"X-Relayd-Key: " + text + b"\n" + BODY)


def test_two_keys_refuse_the_file() -> None:
    with pytest.raises(Refused, match="there are 2 X-Relayd-Key lines; leave one"):
        key_of(b"X-Relayd-Key: a\nX-Relayd-Key: a\n" + BODY)


def test_the_longest_key_is_one() -> None:
    assert key_of(b"X-Relayd-Key: " + b"x" * MAX_KEY + b"\n" + BODY) == SubmissionKey(33, "x" * MAX_KEY)
