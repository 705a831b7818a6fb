"""How much waits where, and how old it is: what operators ask.

Each function is a look-up on a `Database`.  They read all recipients once, in the order of arrival, since nothing
keeps an account of what is held; that takes a second or so for a million, and no one who writes waits for it.  What is
kept in memory meanwhile is a row for each destination.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from relayd.mail.address import Address, folded
from relayd.mail.message import arrival_of, new_id
from relayd.spool.database import Database
from relayd.spool.queue import AGES, Census, Shape
from relayd.spool.selection import Waiting

SELECT_WAITING = """
    SELECT destination, message, held, lease IS NOT NULL FROM recipients
    WHERE status IN ('queued', 'deferred') ORDER BY message
"""
SELECT_CENSUS = f"""
    SELECT
        CASE WHEN lease IS NOT NULL THEN 'in-flight' WHEN held THEN 'held' ELSE status END AS how,
        {" + ".join(f"(message < ?{number})" for number in range(1, len(AGES) + 1))} AS age,
        count(*)
    FROM recipients WHERE status IN ('queued', 'deferred') GROUP BY how, age
"""
SELECT_WAITING_FOR = """
    SELECT DISTINCT message FROM recipients
    WHERE (destination = ?1 OR destination LIKE '%/' || ?1) AND lower(local_part) = ?2
        AND status IN ('queued', 'deferred') ORDER BY message LIMIT ?3
"""
SELECT_FOREMOST = """
    SELECT message FROM recipients WHERE destination = ? AND status IN ('queued', 'deferred')
    ORDER BY waiting DESC, due, message LIMIT 1
"""


@dataclass(slots=True)
class _Count:
    oldest: str
    ages: list[int]
    held: int = 0
    in_flight: int = 0


def shape(db: Database, now: datetime) -> list[Shape]:
    """See the contract."""
    counts = _counted(db, now)
    sites: dict[str, str] = dict(db.execute("SELECT destination, site FROM destinations"))
    return [
        Shape(
            destination=destination,
            site=sites.get(destination),
            ages=tuple(count.ages),
            held=count.held,
            in_flight=count.in_flight,
            oldest=arrival_of(count.oldest),
        )
        for destination, count in sorted(counts.items())
    ]


def _counted(db: Database, now: datetime) -> dict[str, _Count]:
    younger = [_first_id(now - age) for age in AGES]  # the age of a message is in its id
    counts: dict[str, _Count] = {}
    age = len(AGES)
    for destination, message, held, leased in db.execute(SELECT_WAITING):
        while age and message >= younger[age - 1]:
            age -= 1
        count = counts.get(destination)
        if count is None:
            count = counts[destination] = _Count(message, [0] * (len(AGES) + 1))
        if held and not leased:
            count.held += 1
        else:
            count.ages[age] += 1
            count.in_flight += leased
    return counts


def census(db: Database, now: datetime) -> Census:
    """See the contract.  SQLite counts by itself, so that the interpreter is free meanwhile."""
    counts = {each: [0] * (len(AGES) + 1) for each in Waiting}
    for how, age, count in db.execute(SELECT_CENSUS, [_first_id(now - age) for age in AGES]):
        counts[Waiting(how)][age] = count
    return {each: tuple(ages) for each, ages in counts.items()}


def _first_id(at: datetime) -> str:
    """Return an id that comes before all of messages that arrived after `at`, and after all others."""
    return new_id(at + timedelta(milliseconds=1), random=0)


def waiting_for(db: Database, address: Address, limit: int) -> list[str]:
    """See the contract."""
    rows = db.execute(SELECT_WAITING_FOR, (address.domain, folded(address.local_part), limit))
    return [row[0] for row in rows]


def foremost(db: Database, destination: str) -> str | None:
    """See the contract."""
    row = db.execute(SELECT_FOREMOST, (destination,)).fetchone()
    return None if row is None else str(row[0])
