"""The writer of notifications, with hostile replies, parameters, addresses and originals, read back by `email`.

Exactly three parts, one block for each recipient, in each block each field once and only those that we know, ASCII
where it has to be, and every line ended by CRLF.  And the file is read again, after a loss of the queue, as the
notification that it is.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import default

from relayd.attempt.notification import build, octets_needed, recognised
from relayd.attempt.parts import printable
from relayd.mail.address import Address
from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.errors import InvalidAddress
from relayd.mail.message import Body
from relayd.mail.recipient import Recipient, Status
from relayd.mail.settlement import Action, Notice
from relayd.submission.facts import Facts
from relayd.submission.refusal import Refused
from tests.attempt.situations import HOSTNAME, NOW, a_notice, a_recipient
from tests.fuzz.choices import Choices
from tests.submission.support import an_examiner, reading

WORDS = (
    *(b"550 5.1.1 no such user", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"Final-Recipient: rfc822; x@y\r\n", b"--", b"=_"),
    *(b"Action: delivered\r\n", b"250 ok", b"; last reply: 550 x", b"\0", b"\xff", "ü".encode(), "\u2028".encode()),
    *(
        b"Content-Type: text/html\r\n\r\n",
        b"+2B",
        b"+0D+0A",
        b"rfc822;",
        b"[",
        b"]:25",
        b"a" * 990,
        b" " * 200,
        b"\x85",
    ),
    *(b"ann@example.org", b'"a b"@example.org', "ü@example.org".encode(), b"a@[192.0.2.1]", b"From: x\n\n", b"=?q?"),
    *(b"Message-ID: <", b">", b"\x1b[31m", b"\x0b", b"\x0c", b"\x1c"),
)
MESSAGE_FIELDS = {"original-envelope-id", "reporting-mta", "arrival-date", "deliver-by-date"}
RECIPIENT_FIELDS = {
    *("original-recipient", "final-recipient", "action", "status", "remote-mta", "diagnostic-code"),
    *("last-attempt-date", "will-retry-until"),
}


def one(octets: bytes) -> None:
    """See the module."""
    choices = Choices(octets)
    recipients = tuple(a_hostile_recipient(number, choices) for number in range(1 + choices.number(4)))
    original = choices.mixed(WORDS, 30)
    notice = a_notice(
        original,
        choices.pick(tuple(Action)),
        recipients=recipients,
        reverse_path=an_address(choices),
        envid=text(choices) if choices.chance() else None,
        ret=choices.pick((None, "FULL", "HDRS")),
        deadline=Deadline(at=NOW, mode=choices.pick(tuple(DeadlineMode))) if choices.chance() else None,
    )
    check(replace(notice, body=a_body(original, notice.body)), original)


def text(choices: Choices) -> str:
    """Return words of somebody's."""
    return choices.mixed(WORDS, choices.number(6)).decode("utf-8", "surrogateescape")


def an_address(choices: Choices) -> Address:
    """Return an address that a dropped file may have, whatever can be one."""
    written = choices.mixed(WORDS[-12:], 2).decode("utf-8", "replace")
    try:
        return Address.parse("ann@example.org" if "=?" in written else written)
    except InvalidAddress:
        return Address.parse("ann@example.org")


def a_hostile_recipient(number: int, choices: Choices) -> Recipient:
    """Return a recipient of whom foreign words are told."""
    return replace(
        a_recipient(number),
        address=an_address(choices),
        orcpt=text(choices) if choices.chance() else None,
        status=choices.pick((Status.FAILED, Status.DEFERRED, Status.DELIVERED)),
        reply=text(choices),
        dsn=choices.pick(("", "5.1.1", "4.2.0", text(choices))),
        peer=text(choices),
        attempted=NOW if choices.chance() else None,
        possible_duplicate=choices.chance(),
    )


def a_body(original: bytes, unread: Body) -> Body:
    """Return what submission finds, `unread` if it refuses."""
    try:
        return an_examiner().examine(reading(original), a_notice().message_id).body
    except Refused:
        return unread


def check(notice: Notice, original: bytes) -> None:
    """Claim it of one notification."""
    until = NOW + timedelta(days=5)
    message, content = build(notice, original[: octets_needed(notice)], hostname=HOSTNAME, retried_until=until)
    again, _ = build(notice, original[: octets_needed(notice)], hostname=HOSTNAME, retried_until=until)
    assert again == message
    going = content[message.body.cuts[0][1] :]
    assert going.replace(b"\r\n", b"").count(b"\r") == going.replace(b"\r\n", b"").count(b"\n") == 0
    parsed = message_from_bytes(going, policy=default)
    assert isinstance(parsed, EmailMessage)
    assert parsed.get_content_type() == "multipart/report"
    assert parsed.get_all("To") is not None
    assert len(parsed.keys()) == len({name.lower() for name in parsed})
    parts = list(parsed.iter_parts())
    assert len(parts) == 3, len(parts)
    assert parts[0].get_content_type() == "text/plain"
    assert parts[1].get_content_type() == "message/delivery-status"
    assert parts[2].get_content_type() in ("message/rfc822", "message/global", "text/rfc822-headers")
    claim_status(parts[1], notice)
    if parts[2].get_content_type() == "text/rfc822-headers" and str(notice.reverse_path).isascii():
        assert going.isascii()
    claim_facts(message.body, content, going)
    read_again = an_examiner().examine(reading(content), notice.id)
    assert recognised(read_again, content) == message


def claim_status(part: Message, notice: Notice) -> None:
    """Claim that the part for programs has one block for each recipient, and nothing that we did not put there."""
    blocks = part.get_payload()
    assert isinstance(blocks, list)
    assert len(blocks) == 1 + len(notice.recipients), len(blocks)
    for block in blocks:
        assert isinstance(block, Message)
        names = [name.lower() for name in block]
        assert len(names) == len(set(names)), names
        assert set(names) <= (MESSAGE_FIELDS if block is blocks[0] else RECIPIENT_FIELDS), names
        assert not block.get_payload(), block.get_payload()
        assert all(str(value).replace("\r\n", "").isascii() for value in block.values())
    for block, recipient in zip(blocks[1:], notice.recipients, strict=True):
        kind, _, address = str(block["Final-Recipient"]).partition("; ")
        assert kind in ("rfc822", "utf-8")
        if kind == "rfc822":
            assert address == printable(str(recipient.address))
        assert block["Action"] == notice.action.value


def claim_facts(body: Body, content: bytes, going: bytes) -> None:
    """Claim that what is said of the body is what submission would find."""
    facts = Facts()
    facts.feed(going)
    assert (body.size, body.wire_size) == (len(content), facts.wire_size)
    assert body.eight_bit == facts.eight_bit
    assert body.long_lines == facts.long_lines
    assert body.nul == facts.nul
    assert body.canonical == facts.canonical
