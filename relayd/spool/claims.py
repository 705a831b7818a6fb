"""What is due, and who gets it next.

Each function is a job or a look-up on a `Database`.  The index `recipients_due` has what waits by destination, turn
and time, so that a claim reads of each turn as far as its limit needs, and nothing of what is held, in flight, due
later, or of another destination.  The turns: urgent mail goes first; then, one by one, what was never tried and what
was, so that ten thousand retries that fall due do not keep a new message waiting, nor new mail the retries.

Costs: `due` and `next_due` take some look-ups for each destination with mail that waits; `claim` reads at most its
limit of each turn of each destination, and takes a look-up for each row that it changes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from itertools import chain, groupby, zip_longest
from operator import itemgetter

from relayd.mail.delivery import Delivery
from relayd.mail.recipient import Recipient
from relayd.spool.database import AMONG, Database, Row, as_set, in_one_row, rows_in
from relayd.spool.leases import any_ended, end_leases
from relayd.spool.queue import Due
from relayd.spool.rows import MESSAGE, RECIPIENT, delivery_of, microseconds, recipient_of, time_of

MAX_COUNTED = 500  # recipients counted of one destination
MAX_RECIPIENTS = 1_000  # of one delivery
MAX_LOOK = 10_000  # rows of one turn read by one claim: bounds the work for a message with very many recipients
URGENT, FRESH, TRIED = TURNS = (0, 1, 2)

_NEVER = 2**62


def _first(after: str) -> str:
    """Return the earliest due time at a destination, `waits.destination`, that `after` allows."""
    each = (
        f"ifnull((SELECT due FROM recipients WHERE waiting = 1 AND destination = waits.destination AND turn = {turn}"
        f" {after} ORDER BY due LIMIT 1), {_NEVER})"
        for turn in TURNS
    )
    return f"min({', '.join(each)})"


_WAITS = """
    waits (destination) AS (
        VALUES ('')
        UNION ALL
        SELECT (
            SELECT destination FROM recipients WHERE waiting = 1 AND destination > waits.destination
            ORDER BY destination LIMIT 1
        ) FROM waits WHERE destination IS NOT NULL
    )
"""
SELECT_DUE = f"""
    WITH RECURSIVE {_WAITS}, since (destination, due) AS (
        SELECT destination, {_first("")} FROM waits WHERE destination <> ''
    ), first (destination, due) AS (
        SELECT destination, due FROM since WHERE due <= ?1 ORDER BY due LIMIT ?2
    )
    SELECT destination, due, (
        SELECT count(*) FROM (
            SELECT 1 FROM recipients WHERE waiting = 1 AND destination = first.destination AND turn IN {TURNS}
                AND due <= ?1 LIMIT ?3
        )
    ) FROM first ORDER BY due
"""
SELECT_NEXT = f"""
    WITH RECURSIVE {_WAITS} SELECT min({_first("AND due > ?1")}) FROM waits WHERE destination <> ''
"""
_DUE_AT = " UNION ALL ".join(
    "SELECT * FROM (SELECT turn, due, message FROM recipients"
    f" WHERE waiting = 1 AND destination = ?1 AND turn = {turn} AND due <= ?2 ORDER BY due LIMIT ?3)"
    for turn in TURNS
)
SELECT_DUE_AT = in_one_row("turn, due, message", f"({_DUE_AT})")
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


def next_due(db: Database, now: datetime) -> datetime | None:
    """See the contract.  The end of a lease is not counted: only an attempt that hangs lets it come."""
    (found,) = db.execute(SELECT_NEXT, (microseconds(now),)).fetchone()
    return None if found is None or found == _NEVER else time_of(found)


def claim(
    db: Database, owner: str, destinations: Collection[str], limit: int, now: datetime, until: datetime
) -> list[Delivery]:
    """See the contract."""
    if any_ended(db, now):
        end_leases(db, now)
    at = frozenset(destinations)
    return lease(
        db,
        owner,
        until,
        _by_turns(_longest_due(db, at, limit, microseconds(now)), limit),
        lambda recipient: recipient.destination in at and recipient.due is not None and recipient.due <= now,
    )


_Found = dict[int, dict[str, int]]  # of each turn the messages that are due longest, and since when


def _by_turns(found: _Found, limit: int) -> list[str]:
    """Choose up to `limit` messages: urgent ones, then fresh and tried ones one by one."""
    urgent, fresh, tried = (sorted(found[turn], key=found[turn].__getitem__) for turn in TURNS)
    others = chain.from_iterable(zip_longest(fresh, tried))
    chosen = dict.fromkeys(message for message in (*urgent, *others) if message is not None)
    return list(chosen)[:limit]


def _longest_due(db: Database, destinations: Collection[str], limit: int, before: int) -> _Found:
    found: _Found = {turn: {} for turn in TURNS}
    for name in sorted(destinations):
        for turn, messages in _longest_due_at(db, name, limit, before).items():
            for message, since in messages.items():
                found[turn][message] = min(since, found[turn].get(message, since))
            if len(found[turn]) > limit:
                found[turn] = dict(heapq.nsmallest(limit, found[turn].items(), key=itemgetter(1)))
    return found


def _longest_due_at(db: Database, destination: str, limit: int, before: int) -> _Found:
    """Return of each turn the `limit` messages that are due longest."""
    found: _Found = {turn: {} for turn in TURNS}
    for look in (limit, MAX_LOOK):  # more only where messages have several recipients there
        rows = sorted(rows_in(db.execute(SELECT_DUE_AT, (destination, before, look))))
        for turn, since, message in rows:
            if len(found[turn]) < limit:
                found[turn].setdefault(message, since)
        if all(
            len(messages) == limit or sum(row[0] == turn for row in rows) < look for turn, messages in found.items()
        ):
            break
    return found


def lease(
    db: Database, owner: str, until: datetime, messages: Sequence[str], wanted: Callable[[Recipient], bool]
) -> list[Delivery]:
    """Take what waits of these messages, as far as it is wanted, under a new lease."""
    if not messages:
        return []
    ids = as_set(messages)
    rows = {row[0]: row for row in db.execute(f"SELECT {MESSAGE} FROM messages WHERE id {AMONG}", (ids,))}
    waiting = sorted(rows_in(db.execute(SELECT_WAITING, (ids,))), key=itemgetter(0, 1))
    taken = _wanted(waiting, wanted)
    number = db.execute("INSERT INTO leases (owner, ends) VALUES (?, ?)", (owner, microseconds(until))).lastrowid
    assert number is not None
    now_ours = as_set((message, recipient.number) for message in messages for recipient in taken[message])
    db.execute(TAKE, (number, now_ours))
    return [delivery_of(rows[message], taken[message], number) for message in messages]


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
