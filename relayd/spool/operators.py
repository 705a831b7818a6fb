"""What operators ask of the queue.

Each function is a job or a look-up on a `Database`.  It touches nothing that is in flight but to leave a word: what
is claimed settles first, and `withdrawn` tells the daemon not to start it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter

from relayd.mail.recipient import Recipient
from relayd.spool import history
from relayd.spool.database import AMONG, Database, Row, as_set
from relayd.spool.leases import finish_removals
from relayd.spool.notices import prune
from relayd.spool.queue import HistoryRow, Listed
from relayd.spool.rows import MESSAGE, RECIPIENT, message_of, microseconds, recipient_of
from relayd.spool.sites import witnessed

PAGE = 200  # messages read at once when all are listed

HELD_BY_OPERATOR = "held by an operator"


def page(db: Database, after: str, limit: int) -> tuple[str | None, list[Listed]]:
    """Return the `limit` oldest messages whose ids come after `after`, and where the next page begins if any."""
    rows = db.execute(
        f"SELECT {MESSAGE}, hold_reason FROM messages WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
    ).fetchall()
    return rows[-1][0] if rows else None, _listed(db, rows)


def show(db: Database, message_id: str) -> Listed | HistoryRow | None:
    """See the contract."""
    rows = db.execute(f"SELECT {MESSAGE}, hold_reason FROM messages WHERE id = ?", (message_id,)).fetchall()
    listed = _listed(db, rows)
    return listed[0] if listed else history.find(db, message_id)


def _listed(db: Database, messages: Sequence[Row]) -> list[Listed]:
    recipients: dict[str, list[Recipient]] = {}
    leased: set[str] = set()
    rows = db.execute(
        f"SELECT message, lease, {RECIPIENT} FROM recipients WHERE message {AMONG} ORDER BY message, number",
        (as_set(row[0] for row in messages),),
    )
    for message, group in groupby(rows, key=itemgetter(0)):
        recipients[message] = []
        for row in group:
            recipients[message].append(recipient_of(row[2:]))
            if row[1] is not None:
                leased.add(message)
    return [
        # Between the two look-ups a message may have finished.
        Listed(
            message=message_of(row, witnessed(db, recipients[row[0]])),
            in_flight=row[0] in leased,
            hold_reason=row[-1],
        )
        for row in messages
        if row[0] in recipients
    ]


def hold(db: Database, message_ids: Collection[str], reason: str = HELD_BY_OPERATOR) -> int:
    """See the contract."""
    ids = as_set(message_ids)
    db.execute(f"UPDATE messages SET hold_reason = ? WHERE held = 0 AND id {AMONG}", (reason, ids))
    return _set_held(db, ids, held=True)


def release(db: Database, message_ids: Collection[str]) -> int:
    """See the contract.  The deaths of the daemon are counted anew."""
    ids = as_set(message_ids)
    db.execute(f"UPDATE messages SET hold_reason = '', deaths = 0 WHERE id {AMONG}", (ids,))
    return _set_held(db, ids, held=False)


def _set_held(db: Database, ids: str, *, held: bool) -> int:
    db.execute(f"UPDATE recipients SET held = ? WHERE message {AMONG}", (held, ids))
    return db.execute(f"UPDATE messages SET held = ? WHERE id {AMONG}", (held, ids)).rowcount


def retry(db: Database, message_ids: Collection[str], now: datetime) -> int:
    """See the contract."""
    ids = as_set(message_ids)
    db.execute(
        f"UPDATE recipients SET due = ? WHERE message {AMONG} AND status IN ('queued', 'deferred')",
        (microseconds(now), ids),
    )
    db.execute("DELETE FROM sites")
    return _count(db, ids)


def remove(db: Database, message_ids: Collection[str], now: datetime) -> int:
    """See the contract."""
    ids = as_set(message_ids)
    found = _count(db, ids)
    db.execute(f"UPDATE recipients SET removing = 1 WHERE message {AMONG} AND status IN ('queued', 'deferred')", (ids,))
    finish_removals(db, message_ids, now)
    prune(db, message_ids)
    history.finish(db, message_ids, now)
    return found


def _count(db: Database, ids: str) -> int:
    (found,) = db.execute(f"SELECT count(*) FROM messages WHERE id {AMONG}", (ids,)).fetchone()
    return int(found)
