"""Messages, attempts and submissions for the tests of the queue and the spool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from relayd.mail.address import Address
from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.delivery import Delivery
from relayd.mail.envelope import Envelope
from relayd.mail.message import Body, Message, new_id
from relayd.mail.recipient import Notify, Recipient, Status
from relayd.mail.settlement import Action, Settlement
from relayd.mail.submission import Submission
from relayd.mail.tls import TlsWish

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
SENDER = Address("sender", "origin.example")


def a_message(
    *to: str,
    arrived: datetime = NOW,
    sender: Address | None = SENDER,
    notify: Notify | None = None,
    **fields: Any,
) -> Message:
    """Return a message to addresses (one at one.example if none is named)."""
    message_id = fields.pop("id", None) or new_id(arrived)
    body = fields.pop("body", None) or Body(size=100, wire_size=110, header_end=50)
    recipients = tuple(
        Recipient(number=number, address=Address.parse(address), notify=notify)
        for number, address in enumerate(to or ("ann@one.example",))
    )
    envelope = Envelope(
        reverse_path=sender,
        recipients=recipients,
        ret=fields.pop("ret", None),
        deadline=fields.pop("deadline", None),
        tls=fields.pop("tls", TlsWish.POLICY),
    )
    return Message(id=message_id, envelope=envelope, body=body, arrived=arrived, **fields)


def by(at: datetime, mode: DeadlineMode = DeadlineMode.OWN, *, trace: bool = False) -> Deadline:
    """Return a deadline."""
    return Deadline(at=at, mode=mode, trace=trace)


def settled(
    delivery: Delivery,
    status: Status,
    *,
    due: datetime | None = None,
    notices: Mapping[int, Action] | None = None,
    at: datetime = NOW,
    **fields: Any,
) -> Settlement:
    """Return an attempt at a delivery in which all recipients fared alike."""
    recipients = tuple(
        recipient.changed(status, attempts=recipient.attempts + 1, due=due, attempted=at, **fields)
        for recipient in delivery.recipients
    )
    return Settlement(delivery=delivery, recipients=recipients, notices=notices or {})


def addresses(deliveries: Sequence[Delivery]) -> list[str]:
    """Return who is in deliveries."""
    return [str(recipient.address) for delivery in deliveries for recipient in delivery.recipients]


def a_submission(directory: Path, content: bytes = b"Subject: x\r\n\r\nbody\r\n", **fields: Any) -> Submission:
    """Write a file into `directory` and return it as a submission."""
    body = Body(size=len(content), wire_size=len(content), header_end=14)
    message = a_message(body=body, **fields)
    path = directory / f"file-{message.id}"
    path.write_bytes(content)
    found = path.stat()
    return Submission(message=message, path=path, identity=(found.st_dev, found.st_ino))
