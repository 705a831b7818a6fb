"""Which message came first under a key: jobs and look-ups on a `Database`.

A key is recorded in the commit that adds its message, so that both are there, or neither, whatever happens.  It
outlives the message, and its history: only its age counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from relayd.mail.key import KEPT, SubmissionKey
from relayd.mail.message import Message
from relayd.spool.database import Database
from relayd.spool.rows import microseconds

SELECT_FIRST = "SELECT message FROM keys WHERE owner = ? AND key = ? AND arrived > ?"
INTO_KEYS = "INSERT OR REPLACE INTO keys (owner, key, message, arrived) VALUES (?, ?, ?, ?)"
SELECT_OLD = "SELECT owner, key FROM keys WHERE arrived < ? ORDER BY arrived LIMIT ?"
DELETE_OLD = f"DELETE FROM keys WHERE (owner, key) IN ({SELECT_OLD})"


def repeated(db: Database, messages: Sequence[Message]) -> dict[str, str]:
    """Record the keys of these messages, in order; return those that repeat, with what each repeats."""
    repeats: dict[str, str] = {}
    for message in messages:
        if (key := message.key) is None:
            continue
        since = microseconds(message.arrived - KEPT)
        first = db.execute(SELECT_FIRST, (key.owner, key.text, since)).fetchone()
        if first is None:
            db.execute(INTO_KEYS, (key.owner, key.text, message.id, microseconds(message.arrived)))
        elif first[0] != message.id:
            repeats[message.id] = first[0]
    return repeats


def keyed(db: Database, key: SubmissionKey, now: datetime) -> str | None:
    """See the contract."""
    row = db.execute(SELECT_FIRST, (key.owner, key.text, microseconds(now - KEPT))).fetchone()
    return None if row is None else str(row[0])


def any_old(db: Database, arrived_before: datetime) -> bool:
    """Whether `forget` would find something."""
    return db.execute(SELECT_OLD, (microseconds(arrived_before), 1)).fetchone() is not None


def forget(db: Database, arrived_before: datetime, limit: int) -> int:
    """See the contract."""
    return db.execute(DELETE_OLD, (microseconds(arrived_before), limit)).rowcount
