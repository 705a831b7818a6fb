"""How messages come into the queue: a job on a `Database`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from relayd.mail.message import Message
from relayd.spool.database import AMONG, Database, as_set, insert
from relayd.spool.history import finish
from relayd.spool.notices import settle_debts
from relayd.spool.rows import INTO_MESSAGES, INTO_RECIPIENTS, message_values, recipient_values


def known(db: Database, message_ids: Collection[str]) -> set[str]:
    """Return those of the ids that are in the queue or in the history."""
    ids = as_set(message_ids)
    rows = db.execute(
        f"SELECT id FROM messages WHERE id {AMONG} UNION ALL SELECT id FROM history WHERE id {AMONG}", (ids, ids)
    )
    return {row[0] for row in rows}


def owed(db: Database, message_ids: Collection[str]) -> set[str]:
    """Return those of the ids that a notification will have."""
    return {row[0] for row in db.execute(f"SELECT id FROM notices WHERE id {AMONG}", (as_set(message_ids),))}


def add(db: Database, messages: Sequence[Message]) -> None:
    """See the contract."""
    by_id = {message.id: message for message in messages}
    there = known(db, by_id)
    new = [message for message in by_id.values() if message.id not in there]
    insert(db, INTO_MESSAGES, [message_values(message) for message in new])
    insert(
        db,
        INTO_RECIPIENTS,
        [recipient_values(message, recipient) for message in new for recipient in message.envelope.recipients],
    )
    over = [message.id for message in new if all(r.status.final for r in message.envelope.recipients)]
    if over:
        finish(db, over, None)
    if any(message.notification for message in messages):
        settle_debts(db, by_id)
