"""Who has what in flight: what is due, and the claims on it.

Each function is a job or a look-up on a `Database`.  A claim is a row of `leases` (owner and end), and its number in
the rows of its recipients; a row of `leases` outlives its recipients and goes when it has ended.

Costs: `due` takes two look-ups for each destination with mail that waits, whether due or not; `claim` reads the
index of each destination only as far as the limit needs; the others take a look-up, or one for each row they change.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter

from relayd.mail.delivery import Delivery
from relayd.mail.recipient import Recipient
from relayd.spool.database import AMONG, Database, Row, as_set, in_one_row, rows_in
from relayd.spool.history import count_closed
from relayd.spool.queue import Due
from relayd.spool.rows import MESSAGE, RECIPIENT, RELEASE, delivery_of, microseconds, recipient_of, time_of

MAX_COUNTED = 1_000  # recipients counted of one destination
MAX_RECIPIENTS = 1_000  # of one delivery
MAX_LOOK = 10_000  # rows of one destination read by one claim: bounds the work for a message with very many recipients

SELECT_DUE = """
    WITH RECURSIVE waits (destination) AS (
        VALUES ('')
        UNION ALL
        SELECT (
            SELECT destination FROM recipients WHERE waiting = 1 AND destination > waits.destination
            ORDER BY destination LIMIT 1
        ) FROM waits WHERE destination IS NOT NULL
    ), since (destination, due) AS (
        SELECT destination, (
            SELECT due FROM recipients WHERE waiting = 1 AND destination = waits.destination ORDER BY due LIMIT 1
        ) FROM waits WHERE destination <> ''
    ), first (destination, due) AS (
        SELECT destination, due FROM since WHERE due <= ?1 ORDER BY due LIMIT ?2
    )
    SELECT destination, due, (
        SELECT count(*) FROM (
            SELECT 1 FROM recipients WHERE waiting = 1 AND destination = first.destination AND due <= ?1 LIMIT ?3
        )
    ) FROM first ORDER BY due
"""
SELECT_DUE_AT = in_one_row(
    "due, message",
    "(SELECT due, message FROM recipients WHERE waiting = 1 AND destination = ? AND due <= ? ORDER BY due LIMIT ?)",
)
_WAITS = "EXISTS (SELECT 1 FROM recipients WHERE message = messages.id AND +waiting = 1)"  # +: never by `waiting`
SELECT_OVER = f"""
    SELECT id FROM messages WHERE deadline_mode <> 'notify' AND held = 0 AND open > 0 AND deadline <= ? AND {_WAITS}
    ORDER BY deadline LIMIT ?
"""
_OLD = f"""
    SELECT id, arrived FROM messages WHERE held = 0 AND open > 0 AND warned = %d AND arrived < ?1 AND {_WAITS}
    ORDER BY arrived LIMIT ?2
"""
SELECT_OLD = f"""
    SELECT id FROM ({" UNION ALL ".join(f"SELECT * FROM ({_OLD % warned})" for warned in range(3))})
    ORDER BY arrived LIMIT ?2
"""
SELECT_NEXT = "SELECT min(due) FROM recipients WHERE waiting = 1 AND due > ?"
SELECT_WITHDRAWN = "SELECT DISTINCT message FROM recipients WHERE lease IS NOT NULL AND (held = 1 OR removing = 1)"
SELECT_WAITING = in_one_row(
    f"message, {RECIPIENT}",
    "json_each(?) AS wanted CROSS JOIN recipients ON message = wanted.value AND waiting = 1",  # never by `waiting`
)
TAKE = """
    UPDATE recipients SET lease = ? FROM json_each(?) AS taken
    WHERE message = json_extract(taken.value, '$[0]') AND number = json_extract(taken.value, '$[1]')
"""


def due(db: Database, now: datetime, limit: int) -> list[Due]:
    """See the contract."""
    rows = db.execute(SELECT_DUE, (microseconds(now), limit, MAX_COUNTED))
    return [Due(destination=name, recipients=count, since=time_of(since)) for name, since, count in rows]


def any_ended(db: Database, now: datetime) -> bool:
    """Whether a lease has ended that nobody has cleared away."""
    return db.execute("SELECT 1 FROM leases WHERE ends < ? LIMIT 1", (microseconds(now),)).fetchone() is not None


def end_leases(db: Database, now: datetime) -> None:
    """Clear away leases that have ended.

    What is still in flight under one may be sent twice, since its holder may only be slow: it is marked.
    """
    ended = as_set(row[0] for row in db.execute("SELECT id FROM leases WHERE ends < ?", (microseconds(now),)))
    removing = _removing(db, ended)
    db.execute(
        "UPDATE recipients SET lease = NULL, status = 'deferred', possible_duplicate = 1"
        f" WHERE lease {AMONG} AND status IN ('queued', 'deferred')",
        (ended,),
    )
    db.execute(f"UPDATE recipients SET lease = NULL WHERE lease {AMONG}", (ended,))
    db.execute(f"DELETE FROM leases WHERE id {AMONG}", (ended,))
    finish_removals(db, removing, now)


def claim(
    db: Database, owner: str, destinations: Collection[str], limit: int, now: datetime, until: datetime
) -> list[Delivery]:
    """See the contract."""
    if any_ended(db, now):
        end_leases(db, now)
    at = frozenset(destinations)
    return _lease(
        db,
        owner,
        until,
        _longest_due(db, at, limit, microseconds(now)),
        lambda recipient: recipient.address.domain in at and recipient.due is not None and recipient.due <= now,
    )


def _longest_due(db: Database, destinations: Collection[str], limit: int, before: int) -> list[str]:
    found: dict[str, int] = {}
    for name in sorted(destinations):
        for message, since in _longest_due_at(db, name, limit, before).items():
            found[message] = min(since, found.get(message, since))
        if len(found) > limit:
            found = dict(heapq.nsmallest(limit, found.items(), key=itemgetter(1)))
            before = max(found.values())  # what is due later than these has no chance any more
    return sorted(found, key=found.__getitem__)


def _longest_due_at(db: Database, destination: str, limit: int, before: int) -> dict[str, int]:
    """Return the `limit` messages that are due longest, and since when."""
    found: dict[str, int] = {}
    for look in (limit, MAX_LOOK):  # more only where messages have several recipients there
        rows = rows_in(db.execute(SELECT_DUE_AT, (destination, before, look)))
        for since, message in sorted(rows):
            if len(found) < limit:
                found.setdefault(message, since)
        if len(found) == limit or len(rows) < look:
            break
    return found


def any_old(db: Database, arrived_before: datetime, now: datetime) -> bool:
    """Whether `expire` would find something."""
    return bool(_expired(db, arrived_before, 1, now)) or any_ended(db, now)


def expire(
    db: Database, owner: str, arrived_before: datetime, limit: int, now: datetime, until: datetime
) -> list[Delivery]:
    """See the contract."""
    if any_ended(db, now):
        end_leases(db, now)
    return _lease(db, owner, until, _expired(db, arrived_before, limit, now), lambda recipient: True)


def _expired(db: Database, arrived_before: datetime, limit: int, now: datetime) -> list[str]:
    """Return up to `limit` messages: those past their deadline, then the oldest."""
    over = db.execute(SELECT_OVER, (microseconds(now), limit)).fetchall()
    old = db.execute(SELECT_OLD, (microseconds(arrived_before), limit)).fetchall() if len(over) < limit else []
    return list(dict.fromkeys(row[0] for row in (*over, *old)))[:limit]


def _lease(
    db: Database, owner: str, until: datetime, messages: Sequence[str], wanted: Callable[[Recipient], bool]
) -> list[Delivery]:
    if not messages:
        return []
    ids = as_set(messages)
    rows = {row[0]: row for row in db.execute(f"SELECT {MESSAGE} FROM messages WHERE id {AMONG}", (ids,))}
    waiting = sorted(rows_in(db.execute(SELECT_WAITING, (ids,))), key=itemgetter(0, 1))
    taken = _wanted(waiting, wanted)
    lease = db.execute("INSERT INTO leases (owner, ends) VALUES (?, ?)", (owner, microseconds(until))).lastrowid
    assert lease is not None
    now_ours = as_set((message, recipient.number) for message in messages for recipient in taken[message])
    db.execute(TAKE, (lease, now_ours))
    return [delivery_of(rows[message], taken[message], lease) for message in messages]


def _wanted(rows: Iterable[Row], wanted: Callable[[Recipient], bool]) -> dict[str, list[Recipient]]:
    taken: dict[str, list[Recipient]] = {}
    for message, group in groupby(rows, key=itemgetter(0)):
        recipients = taken[message] = []
        for row in group:
            recipient = recipient_of(row[1:])
            if wanted(recipient):
                recipients.append(recipient)
                if len(recipients) == MAX_RECIPIENTS:
                    break
    return taken


def renew(db: Database, owner: str, leases: Collection[int], until: datetime) -> None:
    """See the contract."""
    db.execute(
        f"UPDATE leases SET ends = ? WHERE owner = ? AND id {AMONG}", (microseconds(until), owner, as_set(leases))
    )


def give_back(db: Database, deliveries: Sequence[Delivery]) -> None:
    """See the contract; what was removed meanwhile is removed now."""
    removing = _removing(db, as_set({delivery.lease for delivery in deliveries}))
    db.execute(RELEASE, (as_set((d.id, recipient.number, d.lease) for d in deliveries for recipient in d.recipients),))
    if removing:
        finish_removals(db, removing, None)


def next_due(db: Database, now: datetime) -> datetime | None:
    """See the contract.  The end of a lease is not counted: only an attempt that hangs lets it come."""
    (found,) = db.execute(SELECT_NEXT, (microseconds(now),)).fetchone()
    return None if found is None else time_of(found)


def withdrawn(db: Database) -> frozenset[str]:
    """See the contract."""
    return frozenset(row[0] for row in db.execute(SELECT_WITHDRAWN))


def leave(db: Database, owner: str) -> None:
    """Record that an owner stopped in order, so that what it leaves in flight counts as no death."""
    db.execute("UPDATE leases SET left = 1 WHERE owner = ?", (owner,))


def _removing(db: Database, leases: str) -> set[str]:
    rows = db.execute(f"SELECT DISTINCT message FROM recipients WHERE removing = 1 AND lease {AMONG}", (leases,))
    return {row[0] for row in rows}


def finish_removals(db: Database, messages: Collection[str], now: datetime | None) -> None:
    """Make recipients removed whose removal had to wait for the end of their claim."""
    rows = db.execute(
        f"UPDATE recipients SET status = 'removed', due = NULL, removing = 0 WHERE message {AMONG} AND removing = 1"
        " AND lease IS NULL AND status IN ('queued', 'deferred') RETURNING message",
        (as_set(messages),),
    ).fetchall()
    count_closed(db, Counter(row[0] for row in rows), now)
