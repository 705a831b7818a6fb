"""How messages come into the queue: a job on a `Database`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from relayd.mail.message import Message
from relayd.spool.database import AMONG, Database, as_set, insert
from relayd.spool.history import BODY_GONE, finish
from relayd.spool.keys import repeated
from relayd.spool.notices import settle_debts
from relayd.spool.rows import INTO_MESSAGES, INTO_RECIPIENTS, message_values, recipient_values

SELECT_STRAYS = f"""
    SELECT value, (SELECT body FROM history WHERE id = value) FROM json_each(?)
    WHERE NOT EXISTS (SELECT 1 FROM messages WHERE id = value)
        AND NOT EXISTS (SELECT 1 FROM notices WHERE id = value)
        AND NOT EXISTS (SELECT 1 FROM history WHERE id = value AND body <> {BODY_GONE})
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strays:
    """Bodies that should not be there: `orphans` have no row at all, `revived` were unlinked when they had finished."""

    orphans: tuple[str, ...]
    revived: tuple[str, ...]


def known(db: Database, message_ids: Collection[str]) -> set[str]:
    """Return those of the ids that are in the queue or in the history."""
    ids = as_set(message_ids)
    rows = db.execute(
        f"SELECT id FROM messages WHERE id {AMONG} UNION ALL SELECT id FROM history WHERE id {AMONG}", (ids, ids)
    )
    return {row[0] for row in rows}


def strays(db: Database, message_ids: Collection[str]) -> Strays:
    """Return which of these bodies should not be there.  It is one statement, and so sees one state of the queue: a
    notification that is being made is owed until, in the same commit, it is known."""
    rows = db.execute(SELECT_STRAYS, (as_set(message_ids),)).fetchall()
    return Strays(
        orphans=tuple(message for message, body in rows if body is None),
        revived=tuple(message for message, body in rows if body is not None),
    )


def unmade(db: Database) -> list[str]:
    """Return the ids of the notifications that are owed and not in the queue."""
    ids = [row[0] for row in db.execute("SELECT id FROM notices")]
    there = known(db, ids)
    return [each for each in ids if each not in there]


def add(db: Database, messages: Sequence[Message]) -> dict[str, str]:
    """See the contract."""
    by_id = {message.id: message for message in messages}
    there = known(db, by_id)
    unknown = [message for message in by_id.values() if message.id not in there]
    repeats = repeated(db, unknown)
    new = [message for message in unknown if message.id not in repeats]
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
    return repeats
