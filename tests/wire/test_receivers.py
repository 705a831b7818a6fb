"""The receiving servers that the wire tests compare with, each tried with the standard library's client."""

from __future__ import annotations

import smtplib
import ssl

import pytest

from tests.support.mta import HOSTNAME, Exim, Postfix, Receiver, SmtpSink

BODY = (
    b"From: ann@example.org\r\nTo: bob@example.net\r\nSubject: bytes\r\nMessage-ID: <1@example.org>\r\n"
    b"Date: Sun, 22 Nov 2026 08:00:00 +0000\r\nReceived: by here id 1; Sun, 22 Nov 2026 08:00:00 +0000\r\n"
    b"\r\n.\r\n..two dots\r\n\r\nFrom the line of an mbox\r\n\tcaf\xc3\xa9\r\n\r\n"
)


@pytest.fixture(params=[SmtpSink, Postfix, Exim], ids=lambda kind: str(kind.__name__))
def receiver(request: pytest.FixtureRequest) -> Receiver:
    kind: type[Receiver] = request.param
    return kind()


def test_what_arrives_is_what_was_sent(receiver: Receiver) -> None:
    with receiver, smtplib.SMTP("127.0.0.1", receiver.port, local_hostname="client.test") as client:
        client.sendmail("ann@example.org", ["bob@example.net"], BODY, ["BODY=8BITMIME"])

        assert receiver.wait_for(1) == [("ann@example.org", ("bob@example.net",), BODY)]


def test_the_null_path_and_several_recipients_are_told(receiver: Receiver) -> None:
    with receiver, smtplib.SMTP("127.0.0.1", receiver.port, local_hostname="client.test") as client:
        client.sendmail("", ["bob@example.net", "cy@example.net"], BODY)
        copies = receiver.wait_for(1 if isinstance(receiver, SmtpSink) else 2)

    assert {copy.sender for copy in copies} == {""}
    assert {address for copy in copies for address in copy.recipients} == {"bob@example.net", "cy@example.net"}


@pytest.mark.parametrize("kind", [Postfix, Exim])
def test_starttls_shows_a_certificate_of_its_authority(kind: type[Postfix] | type[Exim]) -> None:
    with kind() as receiver, smtplib.SMTP(local_hostname="client.test") as client:
        context = ssl.create_default_context()
        receiver.ca.configure_trust(context)
        client.connect("127.0.0.1", receiver.port)
        client._host = HOSTNAME  # type: ignore[attr-defined]  # the name that it checks
        client.starttls(context=context)
        client.sendmail("ann@example.org", ["bob@example.net"], BODY)

        assert len(receiver.wait_for(1)) == 1


def test_a_transaction_that_was_broken_off_has_not_arrived() -> None:
    with SmtpSink() as sink:
        with smtplib.SMTP("127.0.0.1", sink.port, local_hostname="client.test") as client:
            client.mail("ann@example.org")
            client.rcpt("bob@example.net")
            client.putcmd("data")
            client.getreply()
            client.send(b"Subject: never ended\r\n\r\n" + b"and more\r\n\r\n" * 10_000)

            assert sink.messages() == []
            client.close()
        with smtplib.SMTP("127.0.0.1", sink.port, local_hostname="client.test") as client:
            client.sendmail("ann@example.org", ["bob@example.net"], BODY)

        assert [message.raw for message in sink.wait_for(1)] == [BODY]
