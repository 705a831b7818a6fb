"""What is too old, or past its deadline: claimed to be settled as failed, whether due or not.

Each function is a job or a look-up on a `Database`.  It is looked for by the message, since neither a claim nor a
deferral changes its row; of what is in flight at most `active_limit` is passed over.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from relayd.mail.delivery import Delivery
from relayd.spool.claims import lease
from relayd.spool.database import Database
from relayd.spool.leases import any_ended, end_leases
from relayd.spool.rows import microseconds
from relayd.spool.sites import witnessed

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


def any_old(db: Database, arrived_before: datetime, now: datetime) -> bool:
    """Whether `expire` would find something."""
    return bool(overdue(db, arrived_before, 1, now)) or any_ended(db, now)


def expire(
    db: Database, owner: str, arrived_before: datetime, limit: int, now: datetime, until: datetime
) -> list[Delivery]:
    """See the contract."""
    if any_ended(db, now):
        end_leases(db, now)
    claimed = lease(db, owner, until, overdue(db, arrived_before, limit, now), lambda recipient: True)
    return [replace(delivery, recipients=witnessed(db, delivery.recipients)) for delivery in claimed]


def overdue(db: Database, arrived_before: datetime, limit: int, now: datetime) -> list[str]:
    """Return up to `limit` messages: those past their deadline, then the oldest."""
    over = db.execute(SELECT_OVER, (microseconds(now), limit)).fetchall()
    old = db.execute(SELECT_OLD, (microseconds(arrived_before), limit)).fetchall() if len(over) < limit else []
    return list(dict.fromkeys(row[0] for row in (*over, *old)))[:limit]
