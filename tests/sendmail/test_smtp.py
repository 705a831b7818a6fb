"""SMTP on standard input and output: smtplib and hands speak it; each 250 to a message is a file that was dropped."""

from __future__ import annotations

import io
import signal
import smtplib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.mail.recipient import Notify
from relayd.sendmail.settings import read_settings
from relayd.sendmail.smtp import MAX_ERRORS, MAX_RECIPIENTS, SmtpSession
from relayd.sendmail.submission import drop
from tests.sendmail.support import Sendmail


def talk(sendmail: Sendmail, said: bytes | str) -> list[str]:
    """Return the answers to what a client says, without the greeting; in this process, which ignores no signal."""
    writing = io.BytesIO()
    reading = io.BytesIO(said.encode() if isinstance(said, str) else said)
    SmtpSession(read_settings(sendmail.config), reading, writing, drop).run()
    greeting, *answers = writing.getvalue().decode().split("\r\n")[:-1]
    assert greeting == "220 relay.example.org ESMTP relayd"
    return answers


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A message that is dropped has signals ignored from then on: not here."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(each) for each in numbers]
    yield
    for each, handler in zip(numbers, before, strict=True):
        signal.signal(each, handler)


BEGIN = "EHLO me\r\nMAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.net>\r\nDATA\r\n"


def codes(answers: list[str]) -> str:
    return " ".join(each[:3] for each in answers if each[3:4] != "-")


def test_smtplib_sends_by_it(sendmail: Sendmail) -> None:
    ours, theirs = socket.socketpair()
    with (
        subprocess.Popen(
            sendmail.command("-bs"), stdin=theirs.fileno(), stdout=theirs.fileno(), env=sendmail.environment()
        ) as process,
        ours,
    ):
        theirs.close()

        class OverPair(smtplib.SMTP):
            def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
                ours.settimeout(60)
                return ours

        with OverPair("pair", 25) as client:
            refused = client.sendmail(
                "ann@example.org",
                ["bob@example.net", "root", "eve@-"],
                "Subject: x\r\n\r\nhello\r\n..dots\r\n.\r\nmore\r\n",
                ["BODY=8BITMIME", "RET=HDRS", "ENVID=e1", f"SIZE={100}"],
                ["NOTIFY=FAILURE"],
            )
        assert process.wait(60) == 0

    assert list(refused) == ["eve@-"]
    message, sent = sendmail.message()
    assert (message.envelope.ret, message.envelope.envid) == ("HDRS", "e1")
    assert {each.notify for each in message.envelope.recipients} == {Notify.FAILURE}
    assert sendmail.recipients() == ["bob@example.net", "ops@example.org", "d@example.org"]
    assert sent == b"Subject: x\r\n\r\nhello\r\n..dots\r\n.\r\nmore\r\n"


def test_a_pipelined_session_is_answered_in_order(sendmail: Sendmail) -> None:
    message = "Subject: x\r\n\r\nhello\r\n.\r\n"
    again = "MAIL FROM:<>\r\nRCPT TO:<eve@example.net>\r\nDATA\r\n"

    answers = talk(sendmail, f"{BEGIN}{message}{again}{message}NOOP\r\nQUIT\r\n")

    assert codes(answers) == "250 250 250 354 250 250 250 354 250 250 221"
    assert len(sendmail.files) == 2


def test_by_hand_with_bare_line_feeds(sendmail: Sendmail) -> None:
    answers = talk(sendmail, "HELO me\nMAIL FROM:<ann@example.org>\nRCPT TO:<bob>\nDATA\n\nhello\n..\n.\nQUIT\n")

    assert codes(answers) == "250 250 250 354 250 221"
    assert sendmail.message()[1] == b"\r\nhello\r\n.\r\n"
    assert sendmail.recipients() == ["bob@origin.example"]


def test_it_offers_what_it_does(sendmail: Sendmail) -> None:
    assert talk(sendmail, "EHLO me\r\n") == [
        "250-relay.example.org",
        "250-PIPELINING",
        "250-SIZE 52428800",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250-DSN",
        "250 ENHANCEDSTATUSCODES",
    ]


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        ("MAIL FROM:<a@x.example>", "503"),
        ("EHLO", "501"),
        ("NONSENSE", "500"),
        ("", "500"),
        ("VRFY root\r\nHELP\r\nRSET\r\nNOOP x", "252 214 250 250"),
        ("HELO me\r\nRCPT TO:<a@x.example>", "250 503"),
        ("HELO me\r\nDATA", "250 503"),
        ("HELO me\r\nMAIL FROM:<a@x.example>\r\nDATA", "250 250 503"),
        ("HELO me\r\nMAIL FROM:<a@x.example>\r\nMAIL FROM:<a@x.example>", "250 250 503"),
        ("HELO me\r\nMAIL FROM:<a@x.example>\r\nRSET\r\nMAIL FROM:<a@x.example>", "250 250 250 250"),
        ("HELO me\r\nMAIL FROM:a@x.example", "250 501"),
        ("HELO me\r\nMAIL FROM:<a@@x.example>", "250 553"),
        ("HELO me\r\nMAIL TO:<a@x.example>", "250 501"),
        ("HELO me\r\nMAIL FROM:<a@x.example> WHAT=1", "250 555"),
        ("HELO me\r\nMAIL FROM:<a@x.example> SIZE=99999999999", "250 552"),
        ("HELO me\r\nMAIL FROM:<a@x.example> SIZE=x", "250 501"),
        ("HELO me\r\nMAIL FROM:<a@x.example> BODY=BINARYMIME", "250 501"),
        ("HELO me\r\nMAIL FROM:<a@x.example> RET=SOME", "250 501"),
        ("HELO me\r\nMAIL FROM:<a@x.example>\x0bX", "250 501"),
        ('HELO me\r\nmail from:<a@x.example> ret=full\r\nrcpt to: <"b>c"@x.example>', "250 250 250"),
        ("HELO me\r\nMAIL FROM:<>\r\nRCPT TO:<>", "250 250 553"),
        ("HELO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@x.example> NOTIFY=NEVER,DELAY", "250 250 501"),
        ("HELO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@x.example> RET=FULL", "250 250 555"),
        ("HELO me\r\nMAIL FROM:<j\u00f6rg@x.example> SMTPUTF8\r\nRCPT TO:<a@b\u00fccher.example>", "250 250 250"),
        ("NOOP " + "x" * 10_000, "500"),
    ],
    ids=range(25),
)
def test_each_command_has_its_place_and_its_grammar(sendmail: Sendmail, said: str, answered: str) -> None:
    assert codes(talk(sendmail, f"{said}\r\n")) == answered
    assert sendmail.files == []


@pytest.mark.parametrize("inner", [b"\n.\r\n", b"\n.\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r"], ids=range(6))
def test_no_other_line_end_ends_a_message(sendmail: Sendmail, inner: bytes) -> None:
    smuggled = b"MAIL FROM:<eve@example.com>\r\nRCPT TO:<mal@example.com>\r\nDATA\r\n\r\nsmuggled"

    answers = talk(sendmail, BEGIN.encode() + b"\r\nhello" + inner + smuggled + b"\r\n.\r\nQUIT\r\n")

    assert codes(answers) == "250 250 250 354 250 221"
    assert sendmail.recipients() == ["bob@example.net"]


def test_a_refused_message_is_read_to_its_end(tmp_path: Path) -> None:
    sendmail = Sendmail(tmp_path, {"max_message_size": 1000})
    large = ("x" * 70 + "\r\nQUIT\r\n") * 100

    small = "MAIL FROM:<>\r\nRCPT TO:<bob>\r\nDATA\r\nSubject: x\r\n.\r\n"

    answers = talk(sendmail, f"{BEGIN}{large}.\r\n{small}QUIT\r\n")

    assert codes(answers) == "250 250 250 354 552 250 250 354 250 221"


def test_a_message_that_is_none_is_refused(sendmail: Sendmail) -> None:
    answers = talk(sendmail, f"{BEGIN}X-Relayd-Deadline: soon\r\n\r\n.\r\nQUIT\r\n")

    assert codes(answers) == "250 250 250 354 554 221"
    assert sendmail.files == []


@pytest.mark.parametrize("rest", ["", "\r\nhello\r\n", "\r\nhello\r\n.", "\r\nhello\r\n.\n"])
def test_a_session_that_breaks_off_within_a_message_drops_nothing(sendmail: Sendmail, rest: str) -> None:
    done = sendmail("-bs", content=(BEGIN + rest).encode())

    assert (done.returncode, sendmail.files) == (76, [])


def test_who_errs_too_often_is_left(sendmail: Sendmail) -> None:
    answers = talk(sendmail, "WHAT\r\n" * 100)

    assert codes(answers) == " ".join(["500"] * (MAX_ERRORS - 1) + ["421"])


def test_recipients_are_bounded(sendmail: Sendmail) -> None:
    said = "HELO me\r\nMAIL FROM:<>\r\n" + "RCPT TO:<bob>\r\n" * (MAX_RECIPIENTS + 1)

    assert codes(talk(sendmail, said)).endswith("250 452")


def test_what_the_spool_does_not_take_is_to_be_tried_later(sendmail: Sendmail) -> None:
    (sendmail.spool / "tmp").rmdir()

    assert codes(talk(sendmail, f"{BEGIN}\r\nhello\r\n.\r\nQUIT\r\n")) == "250 250 250 354 451 221"
