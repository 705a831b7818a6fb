"""How the nouns are written in rows, and read back.

Pure.  An address is stored in two columns, since what is claimed is looked for by destination; times are
microseconds, exact both ways; what a peer said is stored as valid UTF-8 whatever it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from relayd.mail.address import Address
from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.delivery import Delivery
from relayd.mail.envelope import Envelope
from relayd.mail.message import Body, Message
from relayd.mail.recipient import Notify, Recipient, Status
from relayd.mail.tls import TlsWish
from relayd.spool.database import Row
from relayd.spool.queue import HistoryRow

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FACTS = ("eight_bit", "eight_bit_header", "long_lines", "nul", "canonical")  # bits 0, 1, ... of messages.facts

MESSAGE = (
    "id, arrived, sender, ret, envid, size, wire_size, header_end, cuts, prefix, facts, notification, held, "
    "deadline, deadline_mode, deadline_trace, tls"
)
RECIPIENT = (
    "number, local_part, destination, notify, orcpt, status, attempts, due, reply, dsn, peer, attempted, "
    "possible_duplicate"
)
HISTORY = "id, arrived, finished, sender, size, recipients"

WARNED_OF_DELAY, NOTHING_TO_WARN_OF = 1, 2  # messages.warned

INTO_MESSAGES = f"INSERT INTO messages ({MESSAGE}, total, open, warned)"
INTO_RECIPIENTS = f"INSERT INTO recipients ({RECIPIENT}, message, arrived, held, urgent)"
UPDATE_RECIPIENT = """
    UPDATE recipients SET status = ?, attempts = ?, due = ?, reply = ?, dsn = ?, peer = ?, attempted = ?,
        possible_duplicate = ?, lease = NULL, removing = 0
    WHERE message = ? AND number = ?
"""
RELEASE = """
    UPDATE recipients SET lease = NULL FROM json_each(?) AS free
    WHERE message = json_extract(free.value, '$[0]') AND number = json_extract(free.value, '$[1]')
        AND lease = json_extract(free.value, '$[2]')
"""

_STATUS = {status.value: status for status in Status}


def microseconds(time: datetime) -> int:
    """Return the time as it is stored."""
    return round(time.timestamp() * 1_000_000)


def time_of(stored: int) -> datetime:
    """Return the time that is stored."""
    return EPOCH + timedelta(microseconds=stored)


def _stored(time: datetime | None) -> int | None:
    return None if time is None else microseconds(time)


def _time(stored: int | None) -> datetime | None:
    return None if stored is None else time_of(stored)


def storable(text: str) -> str:
    """Return the text without lone surrogates, which SQLite would refuse."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def sender_text(reverse_path: Address | None) -> str:
    """Return a reverse-path as it is stored: empty for `<>`."""
    return "" if reverse_path is None else str(reverse_path)


def address_of(text: str) -> Address:
    """Return the address that `str()` made this text of."""
    local_part, _, domain = text.rpartition("@")
    return Address(local_part, domain)


def message_values(message: Message) -> tuple[Any, ...]:
    """Return a row for INTO_MESSAGES."""
    body, envelope, deadline = message.body, message.envelope, message.envelope.deadline
    waiting = sum(not recipient.status.final for recipient in envelope.recipients)
    return (
        message.id,
        microseconds(message.arrived),
        sender_text(envelope.reverse_path),
        envelope.ret,
        envelope.envid,
        body.size,
        body.wire_size,
        body.header_end,
        json.dumps(body.cuts),
        body.prefix,
        sum(getattr(body, fact) << bit for bit, fact in enumerate(FACTS)),
        message.notification,
        message.held,
        None if deadline is None else microseconds(deadline.at),
        None if deadline is None else deadline.mode.value,
        deadline is not None and deadline.trace,
        envelope.tls.value,
        len(envelope.recipients),
        waiting,
        NOTHING_TO_WARN_OF if envelope.reverse_path is None else 0,
    )


def recipient_values(message: Message, recipient: Recipient) -> tuple[Any, ...]:
    """Return a row for INTO_RECIPIENTS."""
    arrived = microseconds(message.arrived)
    due = arrived if recipient.due is None else microseconds(recipient.due)
    return (
        recipient.number,
        recipient.address.local_part,
        recipient.destination,
        None if recipient.notify is None else recipient.notify.value,
        recipient.orcpt,
        recipient.status.value,
        recipient.attempts,
        None if recipient.status.final else due,
        storable(recipient.reply),
        recipient.dsn,
        storable(recipient.peer),
        _stored(recipient.attempted),
        recipient.possible_duplicate,
        message.id,
        arrived,
        message.held,
        message.urgent,
    )


def changed_values(message_id: str, recipient: Recipient, arrived: datetime) -> tuple[Any, ...]:
    """Return what UPDATE_RECIPIENT takes."""
    due = recipient.due or recipient.attempted or arrived
    return (
        recipient.status.value,
        recipient.attempts,
        None if recipient.status.final else microseconds(due),
        storable(recipient.reply),
        recipient.dsn,
        storable(recipient.peer),
        _stored(recipient.attempted),
        recipient.possible_duplicate,
        message_id,
        recipient.number,
    )


def recipient_of(row: Row) -> Recipient:
    """Return the recipient of a row of the columns RECIPIENT."""
    number, local_part, destination, notify, orcpt, status, attempts, due, reply, dsn, peer, attempted, marked = row
    via, _, domain = destination.rpartition("/")
    return Recipient(
        number=number,
        address=Address(local_part, domain),
        notify=None if notify is None else Notify(notify),
        orcpt=orcpt,
        status=_STATUS[status],
        attempts=attempts,
        due=_time(due),
        reply=reply,
        dsn=dsn,
        peer=peer,
        attempted=_time(attempted),
        possible_duplicate=bool(marked),
        via=via,
    )


def body_of(row: Row) -> Body:
    """Return the body of a row of the columns MESSAGE."""
    size, wire_size, header_end, cuts, prefix, facts = row[5:11]
    return Body(
        size=size,
        wire_size=wire_size,
        header_end=header_end,
        cuts=() if cuts == "[]" else tuple((start, end) for start, end in json.loads(cuts)),
        prefix=prefix,
        **{fact: bool(facts >> bit & 1) for bit, fact in enumerate(FACTS)},
    )


def reverse_path_of(row: Row) -> Address | None:
    """Return the reverse-path of a row of the columns MESSAGE."""
    return address_of(row[2]) if row[2] else None


def deadline_of(row: Row) -> Deadline | None:
    """Return the deadline of a row of the columns MESSAGE."""
    at, mode, trace = row[13:16]
    return None if at is None else Deadline(at=time_of(at), mode=DeadlineMode(mode), trace=bool(trace))


def wish_of(row: Row) -> TlsWish:
    """Return what the sender of a row of the columns MESSAGE wishes of TLS."""
    return TlsWish(row[16])


def message_of(row: Row, recipients: Iterable[Recipient]) -> Message:
    """Return the message of a row of the columns MESSAGE."""
    envelope = Envelope(
        reverse_path=reverse_path_of(row),
        recipients=tuple(recipients),
        ret=row[3],
        envid=row[4],
        deadline=deadline_of(row),
        tls=wish_of(row),
    )
    return Message(
        id=row[0],
        envelope=envelope,
        body=body_of(row),
        arrived=time_of(row[1]),
        notification=bool(row[11]),
        held=bool(row[12]),
    )


def delivery_of(row: Row, recipients: Iterable[Recipient], lease: int) -> Delivery:
    """Return a delivery of the message of a row of the columns MESSAGE."""
    return Delivery(
        id=row[0],
        reverse_path=reverse_path_of(row),
        recipients=tuple(recipients),
        body=body_of(row),
        arrived=time_of(row[1]),
        lease=lease,
        ret=row[3],
        envid=row[4],
        notification=bool(row[11]),
        deadline=deadline_of(row),
        tls=wish_of(row),
    )


def compact(recipients: Iterable[Recipient]) -> str:
    """Return recipients as history keeps them."""
    return json.dumps(
        [
            [
                recipient.number,
                recipient.address.local_part,
                recipient.address.domain,
                None if recipient.notify is None else recipient.notify.value,
                recipient.orcpt,
                recipient.status.value,
                recipient.attempts,
                None,
                storable(recipient.reply),
                recipient.dsn,
                storable(recipient.peer),
                _stored(recipient.attempted),
                recipient.possible_duplicate,
            ]
            for recipient in recipients
        ],
        separators=(",", ":"),
        ensure_ascii=False,
    )


def compacted(text: str) -> tuple[Recipient, ...]:
    """Return the recipients that `compact` made this text of."""
    return tuple(recipient_of(row) for row in json.loads(text))


def history_of(row: Row) -> HistoryRow:
    """Return the history row of the columns HISTORY."""
    return HistoryRow(
        id=row[0],
        arrived=time_of(row[1]),
        finished=time_of(row[2]),
        sender=row[3],
        size=row[4],
        recipients=compacted(row[5]),
    )
