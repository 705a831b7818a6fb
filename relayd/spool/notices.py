"""The notifications that are owed.

Each function is a job or a look-up on a `Database`.  A notice is one row, in the same commit as the change that
caused it.  Until somebody takes it to make the notification it collects recipients of its message and action; from
then on they are fixed, so that none is added that the notification does not tell of.  A message stays in the queue
while a notice is owed for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime

from relayd.mail.recipient import Notify, Recipient, Status
from relayd.mail.settlement import Action, Notice
from relayd.spool.database import AMONG, Database, as_set
from relayd.spool.history import finish
from relayd.spool.rows import (
    MESSAGE,
    NOTHING_TO_WARN_OF,
    RECIPIENT,
    WARNED_OF_DELAY,
    body_of,
    deadline_of,
    microseconds,
    recipient_of,
    reverse_path_of,
    time_of,
    wish_of,
)
from relayd.spool.sites import witnessed

SELECT_LATE = """
    SELECT id FROM messages WHERE held = 0 AND open > 0 AND warned = 0 AND arrived < ? ORDER BY arrived LIMIT ?
"""
SELECT_MISSED = """
    SELECT id FROM messages
    WHERE deadline_mode = 'notify' AND warned < 2 AND held = 0 AND open > 0 AND deadline > arrived AND deadline <= ?
    ORDER BY deadline LIMIT ?
"""
_STILL_TRUE: dict[Action, frozenset[Status]] = {
    Action.FAILED: frozenset({Status.FAILED}),
    Action.DELAYED: frozenset({Status.QUEUED, Status.DEFERRED}),
    Action.RELAYED: frozenset({Status.DELIVERED}),
}


def owe(db: Database, message_id: str, notices: Mapping[int, Action], new_id: Callable[[], str]) -> None:
    """Record of which recipients of a message, by number, its sender must be told what."""
    for action in Action:
        numbers = {number for number, told in notices.items() if told is action}
        if not numbers:
            continue
        row = db.execute(
            "SELECT id, numbers FROM notices WHERE message = ? AND action = ? AND handed = 0",
            (message_id, action.value),
        ).fetchone()
        notice, collected = row or (new_id(), "[]")
        db.execute(
            "INSERT OR REPLACE INTO notices (id, message, action, numbers) VALUES (?, ?, ?, ?)",
            (notice, message_id, action.value, as_set(sorted(numbers.union(json.loads(collected))))),
        )


def prune(db: Database, message_ids: Iterable[str]) -> None:
    """Take out of the notices of these messages what has ceased to be true, unless it is being told already."""
    rows = db.execute(
        f"SELECT id, message, action, numbers FROM notices WHERE message {AMONG} AND handed = 0", (as_set(message_ids),)
    ).fetchall()
    for notice, message, action, numbers in rows:
        told = _recipients(db, message, numbers)
        true = [recipient.number for recipient in told if recipient.status in _STILL_TRUE[Action(action)]]
        if not true:
            db.execute("DELETE FROM notices WHERE id = ?", (notice,))
        elif len(true) < len(told):
            db.execute("UPDATE notices SET numbers = ? WHERE id = ?", (as_set(true), notice))


def _recipients(db: Database, message_id: str, numbers: str) -> list[Recipient]:
    rows = db.execute(
        f"SELECT {RECIPIENT} FROM recipients WHERE message = ? AND number {AMONG} ORDER BY number",
        (message_id, numbers),
    )
    return [recipient_of(row) for row in rows]


def any_owed(db: Database) -> bool:
    """Whether a notice is owed."""
    return db.execute("SELECT 1 FROM notices LIMIT 1").fetchone() is not None


def hand_out(db: Database, limit: int) -> list[Notice]:
    """Return notices that are owed, oldest first; their recipients are fixed from now on."""
    rows = db.execute("SELECT id, message, action, numbers FROM notices ORDER BY id LIMIT ?", (limit,)).fetchall()
    db.execute(f"UPDATE notices SET handed = 1 WHERE handed = 0 AND id {AMONG}", (as_set(row[0] for row in rows),))
    return [_notice(db, *row) for row in rows]


def _notice(db: Database, notice_id: str, message_id: str, action: str, numbers: str) -> Notice:
    row = db.execute(f"SELECT {MESSAGE} FROM messages WHERE id = ?", (message_id,)).fetchone()
    reverse_path = reverse_path_of(row)
    assert reverse_path is not None  # `owe` is not called for a message from <>
    return Notice(
        id=notice_id,
        action=Action(action),
        message_id=message_id,
        reverse_path=reverse_path,
        recipients=witnessed(db, _recipients(db, message_id, numbers)),
        body=body_of(row),
        arrived=time_of(row[1]),
        ret=row[3],
        envid=row[4],
        deadline=deadline_of(row),
        tls=wish_of(row),
    )


def settle_debts(db: Database, notice_ids: Collection[str]) -> None:
    """Forget notices that were made or cannot be; messages that waited for nothing else finish."""
    ids = as_set(notice_ids)
    messages = [row[0] for row in db.execute(f"SELECT DISTINCT message FROM notices WHERE id {AMONG}", (ids,))]
    if messages:
        db.execute(f"DELETE FROM notices WHERE id {AMONG}", (ids,))
        finish(db, messages, None)


def any_late(db: Database, arrived_before: datetime | None, now: datetime) -> bool:
    """Whether `warn` would find something."""
    return any(db.execute(select, (before, 1)).fetchone() for select, before, _ in _late(arrived_before, now))


def warn(db: Database, arrived_before: datetime | None, limit: int, now: datetime, new_id: Callable[[], str]) -> int:
    """See the contract.  A held message is not warned of: it waits for us, not for its recipients."""
    warned = 0
    for select, before, level in _late(arrived_before, now):
        while warned < limit and (late := db.execute(select, (before, limit - warned)).fetchall()):
            warned += sum(_warn(db, message, level, new_id) for (message,) in late)
    return warned


def _late(arrived_before: datetime | None, now: datetime) -> Iterator[tuple[str, int, int]]:
    """Yield what finds late messages, what it takes, and what `warned` becomes: a missed deadline is the last to be
    told, and is not told again as a mere delay."""
    yield SELECT_MISSED, microseconds(now), NOTHING_TO_WARN_OF
    if arrived_before is not None:
        yield SELECT_LATE, microseconds(arrived_before), WARNED_OF_DELAY


def _warn(db: Database, message_id: str, level: int, new_id: Callable[[], str]) -> bool:
    db.execute("UPDATE messages SET warned = ? WHERE id = ?", (level, message_id))
    rows = db.execute(
        "SELECT number FROM recipients WHERE message = ? AND status IN ('queued', 'deferred') AND removing = 0"
        " AND (notify IS NULL OR notify & ?)",
        (message_id, Notify.DELAY.value),
    )
    late = {row[0]: Action.DELAYED for row in rows}
    owe(db, message_id, late, new_id)
    return bool(late)
