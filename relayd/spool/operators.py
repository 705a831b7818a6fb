"""What operators ask of the queue.

Each function is a job or a look-up on a `Database`.  It touches nothing that is in flight but to leave a word: what
is claimed settles first, and `withdrawn` tells the daemon not to start it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter

from relayd.mail.recipient import Notify, Recipient, Status
from relayd.mail.settlement import Action, Settlement
from relayd.spool import history, settling
from relayd.spool.database import AMONG, Database, Row, as_set
from relayd.spool.leases import finish_removals
from relayd.spool.notices import prune
from relayd.spool.queue import Bounced, HistoryRow, Listed
from relayd.spool.rows import MESSAGE, RECIPIENT, delivery_of, message_of, microseconds, recipient_of
from relayd.spool.selecting import Condition
from relayd.spool.selection import Chosen, Selection
from relayd.spool.sites import witnessed

PAGE = 200  # messages read at once when all are listed

HELD_BY_OPERATOR = "held by an operator"
SELECT_CLAIMED = f"SELECT {RECIPIENT} FROM recipients WHERE message = ? AND lease = ? ORDER BY number"
GIVEN_UP = "5.0.0"  # RFC 3463: a permanent failure of which no more is told


def page(db: Database, selection: Selection, after: str, limit: int) -> tuple[str | None, list[Listed]]:
    """Return the `limit` oldest messages meant whose ids come after `after`, and where the next page begins if any."""
    meant = Condition(selection)
    rows = db.execute(
        f"SELECT {MESSAGE}, hold_reason FROM messages AS m WHERE {meant.of_message} AND id > {meant.given(after)}"
        f" ORDER BY id LIMIT {meant.given(limit)}",
        meant.parameters,
    ).fetchall()
    return rows[-1][0] if rows else None, _listed(db, rows)


def ids(db: Database, selection: Selection, after: str, limit: int) -> list[str]:
    """See the contract."""
    meant = Condition(selection)
    rows = db.execute(
        f"SELECT m.id FROM messages AS m WHERE {meant.of_message} AND m.id > {meant.given(after)}"
        f" ORDER BY m.id LIMIT {meant.given(limit)}",
        meant.parameters,
    )
    return [row[0] for row in rows]


def chosen(db: Database, selection: Selection) -> Chosen:
    """See the contract."""
    (up_to,) = db.execute("SELECT max(id) FROM messages").fetchone()
    meant = Condition(selection)
    messages, recipients, of_them = db.execute(
        f"""
        SELECT count(*), ifnull(sum(m.open), 0),
            ifnull(sum((SELECT count(*) FROM recipients AS r WHERE {meant.of_recipient})), 0)
        FROM messages AS m WHERE {meant.of_message}
        """,
        meant.parameters,
    ).fetchone()
    return Chosen(messages=messages, recipients=recipients, meant=of_them, up_to=up_to or "")


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


def redirect(db: Database, message_ids: Collection[str], route: str, now: datetime) -> int:
    """See the contract."""
    ids = as_set(message_ids)
    db.execute(
        f"""
        UPDATE recipients SET due = ?1, destination =
            CASE WHEN ?2 = '' THEN '' ELSE ?2 || '/' END || substr(destination, instr(destination, '/') + 1)
        WHERE status IN ('queued', 'deferred') AND message {AMONG.replace("?", "?3")}
        """,
        (microseconds(now), route, ids),
    )
    return _count(db, ids)


def bounce(db: Database, message_ids: Collection[str], reason: str, new_id: Callable[[], str]) -> Bounced:
    """See the contract."""
    ids = as_set(message_ids)
    messages = db.execute(f"SELECT {MESSAGE} FROM messages WHERE id {AMONG}", (ids,)).fetchall()
    (in_flight,) = db.execute(
        f"SELECT count(*) FROM recipients WHERE message {AMONG} AND lease IS NOT NULL", (ids,)
    ).fetchone()
    lease = db.execute("INSERT INTO leases (owner, ends) VALUES ('an operator', 0)").lastrowid  # for this moment
    assert lease is not None
    db.execute(
        f"UPDATE recipients SET lease = ? WHERE message {AMONG} AND lease IS NULL AND status IN ('queued', 'deferred')",
        (lease, ids),
    )
    claimed = {row[0]: [recipient_of(each) for each in db.execute(SELECT_CLAIMED, (row[0], lease))] for row in messages}
    given_up = [_given_up(row, claimed[row[0]], lease, reason) for row in messages if claimed[row[0]]]
    settling.settle(db, given_up, new_id)
    db.execute("DELETE FROM leases WHERE id = ?", (lease,))
    return Bounced(messages=len(messages), in_flight=in_flight)


def _given_up(row: Row, recipients: Sequence[Recipient], lease: int, reason: str) -> Settlement:
    failed = tuple(one.changed(Status.FAILED, due=None, reply=reason, dsn=GIVEN_UP) for one in recipients)
    return Settlement(
        delivery=delivery_of(row, recipients, lease),
        recipients=failed,
        notices={one.number: Action.FAILED for one in failed if one.notify is None or Notify.FAILURE in one.notify},
    )


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
