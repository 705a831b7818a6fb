"""What the wall clock has to do with what waits, when it was set.

Each function is a job or a look-up on a `Database`, and reads the whole queue: some seconds for a million recipients,
once for each time that the clock is set.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from relayd.spool.database import Database
from relayd.spool.queue import TOLD_WITHIN
from relayd.spool.rows import microseconds

SELECT_TO_COME = """
    SELECT EXISTS (SELECT 1 FROM recipients WHERE due > ?1)
        OR EXISTS (SELECT 1 FROM messages WHERE arrived > ?2)
        OR EXISTS (SELECT 1 FROM sites WHERE retry_at > ?1)
        OR EXISTS (SELECT 1 FROM keys WHERE arrived > ?2)
"""


def any_to_come(db: Database, now: datetime, latest: datetime) -> bool:
    """Whether something waits until after `latest`, or arrived after `now`."""
    return bool(db.execute(SELECT_TO_COME, (microseconds(latest), microseconds(now))).fetchone()[0])


def clock_was_set(db: Database, by: timedelta, now: datetime, latest: datetime) -> None:
    """See the contract."""
    step = round(by / timedelta(microseconds=1))
    at, last = microseconds(now), microseconds(latest)
    since = microseconds(now - min(by, TOLD_WITHIN))
    db.execute(
        "UPDATE recipients SET due = CASE WHEN due + ?1 > ?3 THEN ?2 ELSE due + ?1 END"
        " WHERE due IS NOT NULL AND (?1 <> 0 OR due > ?3)"
        " AND (?1 <= 0 OR coalesce(attempted, arrived) NOT BETWEEN ?4 AND ?2)",
        (step, at, last, since),
    )
    db.execute(
        "UPDATE sites SET since = min(since + ?1, ?2),"
        " retry_at = CASE WHEN retry_at + ?1 > ?3 THEN ?2 ELSE retry_at + ?1 END",
        (step, at, last),
    )
    db.execute("UPDATE messages SET arrived = ?1 WHERE arrived > ?1", (at,))
    # Where the clock was set back, a key of before that is not ahead of it cannot be told from a new one: it stays.
    db.execute(
        "UPDATE keys SET arrived = min(arrived + ?1, ?2)"
        " WHERE arrived > ?2 OR (?1 > 0 AND arrived NOT BETWEEN ?3 AND ?2)",
        (step, at, since),
    )
