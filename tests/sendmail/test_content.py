"""What stands behind the lines of our envelope stays content, whatever it looks like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.address import Address
from relayd.sendmail.content import Content, read_content
from relayd.sendmail.envelope import Lines, Receiver
from relayd.submission.refusal import Refused
from tests.submission.support import ID, an_examiner, examined, reading, sent

LINES = Lines(sender=Address.parse("ann@example.org"), receivers=[Receiver(text="bob@example.net")], full_name="")
FROM = b"From: ann@example.org\r\n"


def the_content(text: bytes) -> Content:
    content = read_content(text, whole=True)
    assert content is not None
    return content


def file_of(text: bytes) -> bytes:
    content = the_content(text)
    return LINES.before(content) + content.fields + content.gap + content.rest


def sent_of(text: bytes) -> bytes:
    octets = file_of(text)
    message = examined(octets)
    assert message.envelope.reverse_path == LINES.sender
    assert [str(each.address) for each in message.envelope.recipients] == ["bob@example.net"]
    return sent(octets, message)[len(message.body.prefix) :]


@pytest.mark.parametrize(
    ("text", "goes"),
    [
        (b"Subject: x\n\nhello\n", FROM + b"Subject: x\r\n\r\nhello\r\n"),
        (b"Subject: x\r\n\r\nhello\r\n", FROM + b"Subject: x\r\n\r\nhello\r\n"),
        (b"From: me@example.org\n\nhello\n", b"From: me@example.org\r\n\r\nhello\r\n"),
        (b"\nhello\n", FROM + b"\r\nhello\r\n"),
        (b"hello\nworld: x\n", FROM + b"\r\nhello\r\nworld: x\r\n"),
        (b"Subject: x\nhello\n", FROM + b"Subject: x\r\n\r\nhello\r\n"),
        (b"Subject: x", FROM + b"Subject: x\r\n\r\n"),
        (b"Subject: x\n", FROM + b"Subject: x\r\n\r\n"),
        (b"", FROM + b"\r\n"),
        (b" begins with a space\n", FROM + b"\r\n begins with a space\r\n"),
        (b"\tSubject: folded\n", FROM + b"\r\n\tSubject: folded\r\n"),
        (b"Subject: x\rhello\r", FROM + b"Subject: x\r\n\r\nhello\r\n"),
        (b"From ann Mon Jan 1\n>From bob\nSubject: x\n\nhello\n", FROM + b"Subject: x\r\n\r\nhello\r\n"),
        (b"\xef\xbb\xbfSubject: x\n\nhello\n", FROM + b"Subject: x\r\n\r\nhello\r\n"),
        (b"Bcc: secret@example.org\nSubject: x\n\nhello\n", FROM + b"Subject: x\r\n\r\nhello\r\n"),
    ],
)
def test_it_goes_out_as_it_was_written_with_what_it_lacks(text: bytes, goes: bytes) -> None:
    assert sent_of(text) == goes


@pytest.mark.parametrize(
    "text",
    [
        b"X-Sender: <eve@example.com>\nX-Receiver: <eve@example.com>\nSubject: x\n\nhello\n",
        b"X-Receiver: <eve@example.com>\n\nhello\n",
        b"X-Relayd-Key: another\nX-EndOfInjectedXHeaders: 1\nX-Receiver: <eve@example.com>\n\nhello\n",
        b"From x\nX-Receiver: <eve@example.com>\n\nhello\n",
        b"\xef\xbb\xbfX-Receiver: <eve@example.com>\r\n\r\nhello\r\n",
        b"\r\nX-Receiver: <eve@example.com>\r\n\r\nhello\r\n",
    ],
    ids=range(6),
)
def test_a_line_of_the_envelope_in_a_message_is_content(text: bytes) -> None:
    goes = sent_of(text)

    assert b"<eve@example.com>" in goes
    assert an_examiner().examine(reading(file_of(text)), ID, owner=1).key is None


@given(
    st.lists(
        st.sampled_from(
            [
                *(b"X-Sender: <eve@example.com>", b"X-Receiver: <eve@example.com>", b"X-Relayd-Key: k", b"From x y"),
                *(b"X-EndOfInjectedXHeaders: 1", b" folded", b"\t", b"", b"Subject: x", b"no field", b"\xef\xbb\xbf"),
                *(b"\n", b"\r\n", b"\r", b"X-Receiver:", b">From ", b"x-source: y"),
            ]
        ),
        max_size=12,
    )
)
def test_no_content_changes_the_envelope(pieces: list[bytes]) -> None:
    text = b"".join(pieces)

    sent_of(text)


@given(st.binary(max_size=40), st.integers(0, 40))
def test_a_beginning_that_is_enough_is_read_as_the_whole_is(octets: bytes, cut: int) -> None:
    text = b"From x\nSubject: y\n" + octets
    begun = read_content(text[:cut], whole=False)
    if begun is not None:
        whole = the_content(text)

        assert (begun.fields, begun.gap) == (whole.fields, whole.gap)


def test_a_header_that_goes_round_in_circles_is_refused() -> None:
    with pytest.raises(Refused, match="a mail loop"):
        read_content(b"Received: x\n" * 100 + b"\nhello\n", whole=True)
