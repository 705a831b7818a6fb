"""What is too old: claimed to be settled as failed, whether due or not.

Each function is a job or a look-up on a `Database`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from relayd.mail.delivery import Delivery
from relayd.spool.claims import MAX_LOOK, lease
from relayd.spool.database import Database
from relayd.spool.leases import any_ended, end_leases
from relayd.spool.rows import microseconds
from relayd.spool.sites import witnessed

SELECT_OLD = "SELECT message FROM recipients WHERE waiting = 1 AND arrived < ? ORDER BY arrived LIMIT ?"


def any_old(db: Database, arrived_before: datetime, now: datetime) -> bool:
    """Whether `expire` would find something."""
    found = db.execute(SELECT_OLD, (microseconds(arrived_before), 1)).fetchone()
    return found is not None or any_ended(db, now)


def expire(
    db: Database, owner: str, arrived_before: datetime, limit: int, now: datetime, until: datetime
) -> list[Delivery]:
    """See the contract."""
    if any_ended(db, now):
        end_leases(db, now)
    old = db.execute(SELECT_OLD, (microseconds(arrived_before), MAX_LOOK))
    claimed = lease(db, owner, until, _distinct((row[0] for row in old), limit), lambda recipient: True)
    return [replace(delivery, recipients=witnessed(db, delivery.recipients)) for delivery in claimed]


def _distinct(messages: Iterable[str], limit: int) -> list[str]:
    found: dict[str, None] = {}
    for message in messages:
        if len(found) == limit and message not in found:
            break
        found[message] = None
    return list(found)
