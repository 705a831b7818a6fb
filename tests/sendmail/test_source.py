"""Where a message ends, however its octets come in pieces."""

from __future__ import annotations

import io

import pytest

from relayd.sendmail.failure import EX_PROTOCOL, Failure
from relayd.sendmail.source import CHUNK, data_of, until_dot


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\n.\nb\n", b"a\n"),
        (b"a\r\n.\r\nb\r\n", b"a\r\n"),
        (b".\nb\n", b""),
        (b"\n.\n", b"\n"),
        (b"a\n..\n.x\n .\n", b"a\n..\n.x\n .\n"),
        (b"a\n.", b"a\n."),
        (b"a\n.\r", b"a\n.\r"),
        (b"a.\n.\n", b"a.\n"),
        (b"a\r.\r\n", b"a\r.\r\n"),
        (b"", b""),
        (b".", b"."),
        (b"\n\n.\n.\n", b"\n\n"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_line_with_a_dot_alone_ends_it(text: bytes, message: bytes, size: int) -> None:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]

    assert b"".join(until_dot(pieces)) == message


@pytest.mark.parametrize(
    ("line_end", "text", "message"),
    [
        (b"\r\n", b"a\r\n..b\r\n.c\r\n.\r\n", b"a\r\n.b\r\nc\r\n"),
        (b"\r\n", b".\r\n", b""),
        (b"\r\n", b"a\n.\r\nb\r\n.\nc\r.\r\n\r\n.\r\n", b"a\n.\r\nb\r\n\nc\r.\r\n\r\n"),
        (b"\n", b"a\n..b\n.\n", b"a\n.b\n"),
        (b"\n", b"a\r\n.\nb", b"a\r\n"),
        (b"\r\n", b"x" * (CHUNK - 1) + b"\r\n.\r\n", b"x" * (CHUNK - 1) + b"\r\n"),
        (b"\r\n", b"x" * CHUNK + b".\r\n.\r\n", b"x" * CHUNK + b".\r\n"),
    ],
    ids=range(7),
)
def test_the_data_of_smtp_ends_by_the_clients_own_line_ends_alone(line_end: bytes, text: bytes, message: bytes) -> None:
    assert b"".join(data_of(io.BytesIO(text).readline, line_end=line_end)) == message


@pytest.mark.parametrize("text", [b"", b"a\r\n", b"a\r\n.", b"a\r\n.\r", b"a\r\n.\n"])
def test_data_that_breaks_off_is_no_message(text: bytes) -> None:
    with pytest.raises(Failure) as failure:
        list(data_of(io.BytesIO(text).readline, line_end=b"\r\n"))

    assert failure.value.code == EX_PROTOCOL
