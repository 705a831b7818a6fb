"""How a message ends: a row of history, and its body after it.

Each function is a job or a look-up on a `Database`.  The order that keeps promise 1: the history row in the same
commit as the last change, then the body unlinked, then that recorded, and only then may the row be dropped.
A failed message from `<>` has nobody to tell of it, so its body is kept as long as its row.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from relayd.mail.attempt import Tried
from relayd.mail.recipient import CHANGES, Recipient, Status
from relayd.spool import attempts
from relayd.spool.database import AMONG, Database, as_set, in_one_row, insert, rows_in
from relayd.spool.queue import Finished, HistoryRow
from relayd.spool.rows import (
    HISTORY,
    MESSAGE,
    RECIPIENT,
    compact,
    compacted,
    history_of,
    message_of,
    microseconds,
    recipient_of,
    sender_text,
)

STATUS = 5  # where it is in what `compact` makes of a recipient
COUNT_ENDS = f"""
    SELECT json_extract(one.value, '$[{STATUS}]'), count(*) FROM history, json_each(history.recipients) AS one
    WHERE finished >= ? GROUP BY 1
"""
DELIVERED_SINCE = """WHERE finished >= ? AND instr(recipients, ',"delivered",') > 0"""
BODY_GONE, BODY_FINISHED, BODY_KEPT = 0, 1, 2  # history.body

SELECT_OLD = "SELECT id, body FROM history WHERE finished < ? AND body <> 1 ORDER BY finished LIMIT ?"
SELECT_FINISHED = in_one_row(
    "finished, id", "(SELECT finished, id FROM history WHERE body = 1 ORDER BY finished LIMIT ?)"
)
INTO_HISTORY = f"INSERT OR REPLACE INTO history ({HISTORY}, body, tried)"
DELETE_RECIPIENTS = f"DELETE FROM recipients WHERE message {AMONG}"
DELETE_MESSAGES = f"DELETE FROM messages WHERE id {AMONG}"
COUNT_CLOSED = """
    UPDATE messages SET open = open - json_extract(closed.value, '$[1]') FROM json_each(?) AS closed
    WHERE messages.id = json_extract(closed.value, '$[0]')
"""


def history_values(
    message_id: str,
    sender: str,
    size: int,
    arrived: datetime,
    recipients: Collection[Recipient],
    now: datetime | None,
    tried: Tried | None = None,
) -> tuple[Any, ...]:
    """Return a row for INTO_HISTORY.  Without `now` the message finished with its last attempt; `tried` is one that is
    remembered here and nowhere else."""
    failed = any(recipient.status is Status.FAILED for recipient in recipients)
    finished = now or max((r.attempted for r in recipients if r.attempted), default=arrived)
    return (
        message_id,
        microseconds(arrived),
        microseconds(finished),
        sender,
        size,
        compact(recipients),
        BODY_KEPT if failed and not sender else BODY_FINISHED,
        attempts.only(tried),
    )


def forget_messages(db: Database, message_ids: Collection[str]) -> None:
    """Delete the rows of messages that have their history row."""
    ids = as_set(message_ids)
    db.execute(DELETE_RECIPIENTS, (ids,))
    db.execute(DELETE_MESSAGES, (ids,))


def count_closed(db: Database, closed: Mapping[str, int], now: datetime | None) -> None:
    """Record how many recipients of messages became final, and finish the messages that have no others."""
    db.execute(COUNT_CLOSED, (as_set(closed.items()),))
    finish(db, closed, now)


def finish(db: Database, message_ids: Iterable[str], now: datetime | None) -> None:
    """Move to the history those of the messages that have all their recipients final and owe no notice."""
    rows = db.execute(
        f"SELECT {MESSAGE} FROM messages WHERE id {AMONG} AND open = 0"
        " AND NOT EXISTS (SELECT 1 FROM notices WHERE notices.message = messages.id)",
        (as_set(message_ids),),
    ).fetchall()
    finished = []
    for row in rows:
        recipients = [
            recipient_of(each)
            for each in db.execute(f"SELECT {RECIPIENT} FROM recipients WHERE message = ? ORDER BY number", (row[0],))
        ]
        message = message_of(row, recipients)
        sender = sender_text(message.envelope.reverse_path)
        finished.append(history_values(message.id, sender, message.body.size, message.arrived, recipients, now))
    insert(db, INTO_HISTORY, finished)
    forget_messages(db, [row[0] for row in rows])


def record_late_delivery(db: Database, message_id: str, delivered: Recipient, tried: Tried | None) -> None:
    """Correct the history of a message whose end we had recorded otherwise before its server's answer came."""
    row = db.execute("SELECT recipients FROM history WHERE id = ?", (message_id,)).fetchone()
    if row is None:
        return
    recipients = tuple(
        replace(delivered, possible_duplicate=delivered.possible_duplicate or known.possible_duplicate)
        if known.number == delivered.number and Status.DELIVERED in CHANGES[known.status]
        else known
        for known in compacted(row[0])
    )
    db.execute("UPDATE history SET recipients = ? WHERE id = ?", (compact(recipients), message_id))
    if tried is not None:
        attempts.remember(db, [attempts.Remembered(message_id, tried, [delivered])])


def find(db: Database, message_id: str) -> HistoryRow | None:
    """Return the row of one finished message."""
    row = db.execute(f"SELECT {HISTORY} FROM history WHERE id = ?", (message_id,)).fetchone()
    return None if row is None else history_of(row)


def finished(db: Database, since: datetime) -> Finished:
    """See the contract.  SQLite counts by itself, so that the interpreter is free meanwhile."""
    at = microseconds(since)
    (messages,) = db.execute("SELECT count(*) FROM history WHERE finished >= ?", (at,)).fetchone()
    recipients = {Status(status): count for status, count in db.execute(COUNT_ENDS, (at,))}
    (delivered,) = db.execute(f"SELECT count(*) FROM history {DELIVERED_SINCE}", (at,)).fetchone()

    def took(share: float) -> timedelta | None:
        if not delivered:
            return None
        nth = math.ceil(share * delivered) - 1
        (took,) = db.execute(
            f"SELECT finished - arrived FROM history {DELIVERED_SINCE} ORDER BY 1 LIMIT 1 OFFSET ?", (at, nth)
        ).fetchone()
        return timedelta(microseconds=took)

    return Finished(messages=messages, recipients=recipients, median=took(0.5), slow=took(0.95))


def finished_bodies(db: Database, limit: int) -> list[str]:
    """Return ids of messages whose bodies are to be unlinked, the longest finished first."""
    return [message for _, message in sorted(rows_in(db.execute(SELECT_FINISHED, (limit,))))]


def bodies_gone(db: Database, message_ids: Collection[str]) -> None:
    """Record that bodies are unlinked."""
    db.execute(f"UPDATE history SET body = {BODY_GONE} WHERE id {AMONG}", (as_set(message_ids),))


def any_old(db: Database, finished_before: datetime) -> bool:
    """Whether `forget` would find something."""
    return db.execute(SELECT_OLD, (microseconds(finished_before), 1)).fetchone() is not None


def forget(db: Database, finished_before: datetime, limit: int) -> int:
    """Drop old rows whose bodies are gone, give up the bodies that were kept; return how many rows were dropped."""
    before = microseconds(finished_before)
    old = db.execute(SELECT_OLD, (before, limit)).fetchall()
    kept = [message for message, body in old if body == BODY_KEPT]
    db.execute(f"UPDATE history SET body = {BODY_FINISHED} WHERE id {AMONG}", (as_set(kept),))
    gone = [message for message, body in old if body == BODY_GONE]
    db.execute(f"DELETE FROM history WHERE id {AMONG}", (as_set(gone),))
    attempts.forget(db, gone)
    return len(gone)
