"""Who has what in flight.

Each function is a job or a look-up on a `Database`.  A claim is a row of `leases` (owner and end), and its number in
the rows of its recipients; a row of `leases` outlives its recipients and goes when it has ended.

Costs: a look-up, or one for each row that is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime

from relayd.mail.delivery import Delivery
from relayd.spool.database import AMONG, Database, as_set
from relayd.spool.history import count_closed
from relayd.spool.queue import Lease
from relayd.spool.rows import RELEASE, microseconds, time_of

SELECT_WITHDRAWN = "SELECT DISTINCT message FROM recipients WHERE lease IS NOT NULL AND (held = 1 OR removing = 1)"


SELECT_LEASES = """
    SELECT id, owner, ends, (SELECT count(*) FROM recipients WHERE lease = leases.id AND lease IS NOT NULL)
    FROM leases
"""


def leases(db: Database) -> list[Lease]:
    """See the contract."""
    return [_lease(*row) for row in db.execute(f"{SELECT_LEASES} ORDER BY id")]


def leased(db: Database, message_id: str) -> dict[int, Lease]:
    """See the contract."""
    numbers = db.execute(
        "SELECT number, lease FROM recipients WHERE message = ? AND lease IS NOT NULL", (message_id,)
    ).fetchall()
    ids = as_set({lease for _, lease in numbers})
    known = {row[0]: _lease(*row) for row in db.execute(f"{SELECT_LEASES} WHERE id {AMONG}", (ids,))}
    return {number: known[lease] for number, lease in numbers if lease in known}


def _lease(number: int, owner: str, ends: int, recipients: int) -> Lease:
    return Lease(number=number, owner=owner, ends=time_of(ends), recipients=recipients)


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
