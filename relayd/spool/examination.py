"""What `relayd doctor` asks of the queue: whether its tables agree with each other, and what is left too long.

Each function is a look-up on a `Database`, and each question is one statement, so that it sees one state of a queue in
use.  They read whole tables: some seconds for a million messages, in which nobody waits for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from relayd.mail.message import new_id
from relayd.spool.claims import due
from relayd.spool.database import Database
from relayd.spool.expiry import overdue
from relayd.spool.queue import Due
from relayd.spool.rows import microseconds

MOST = 1_000  # of one kind: more are not counted

_OPEN = "status IN ('queued', 'deferred')"
SELECT_MISCOUNTED = f"""
    SELECT id FROM messages WHERE open <> (SELECT count(*) FROM recipients WHERE message = messages.id AND {_OPEN})
"""
SELECT_UNFINISHED = """
    SELECT id FROM messages WHERE open = 0 AND NOT EXISTS (SELECT 1 FROM notices WHERE message = messages.id)
"""
SELECT_HALF_HELD = """
    SELECT DISTINCT message FROM recipients CROSS JOIN messages ON id = message WHERE recipients.held <> messages.held
"""
SELECT_WITHOUT_MESSAGE = """
    SELECT message FROM recipients WHERE NOT EXISTS (SELECT 1 FROM messages WHERE id = message)
    UNION SELECT message FROM notices WHERE NOT EXISTS (SELECT 1 FROM messages WHERE id = message)
"""
SELECT_WITHOUT_LEASE = """
    SELECT DISTINCT message FROM recipients
    WHERE lease IS NOT NULL AND NOT EXISTS (SELECT 1 FROM leases WHERE leases.id = lease)
"""
SELECT_LEASED_TOO_LONG = """
    SELECT DISTINCT message FROM leases CROSS JOIN recipients ON lease = leases.id
    WHERE ends < ? AND lease IS NOT NULL
"""
SELECT_OWED = "SELECT message FROM notices WHERE id < ?"
SELECT_NOT_UNLINKED = "SELECT id FROM history WHERE body = 1 AND finished < ?"
SELECT_SIZES = "SELECT id, size FROM messages WHERE id > ? ORDER BY id LIMIT ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What was found; each is the ids of messages, at most `MOST`, but for `overdue`.

    miscounted:    says that it has more, or fewer, recipients that wait than it has
    unfinished:    nothing waits and no notice is owed, and yet it is in the queue
    half_held:     of its recipients some are held and some are not
    without_message: recipients, or a notice, whose message is gone
    without_lease: in flight under a lease that is gone, so that nothing would ever end it
    leased_too_long: under a lease that has ended and that nobody has cleared away
    expired:       waits although its lifetime, or its deadline, is over
    owed:          a notification has been owed for it for long
    not_unlinked:  finished long ago, and its body was not unlinked
    overdue:       destinations with mail that has been due for long
    """

    miscounted: Sequence[str] = ()
    unfinished: Sequence[str] = ()
    half_held: Sequence[str] = ()
    without_message: Sequence[str] = ()
    without_lease: Sequence[str] = ()
    leased_too_long: Sequence[str] = ()
    expired: Sequence[str] = ()
    owed: Sequence[str] = ()
    not_unlinked: Sequence[str] = ()
    overdue: Sequence[Due] = ()


def examine(db: Database, now: datetime, lifetime: timedelta, patience: timedelta) -> Examination:
    """Return what is wrong in the queue; whatever is to be done in time may be late by `patience`."""
    before = now - patience

    def ids(statement: str, *parameters: object) -> list[str]:
        return [row[0] for row in db.execute(f"{statement} LIMIT {MOST}", parameters)]

    return Examination(
        miscounted=ids(SELECT_MISCOUNTED),
        unfinished=ids(SELECT_UNFINISHED),
        half_held=ids(SELECT_HALF_HELD),
        without_message=ids(SELECT_WITHOUT_MESSAGE),
        without_lease=ids(SELECT_WITHOUT_LEASE),
        leased_too_long=ids(SELECT_LEASED_TOO_LONG, microseconds(before)),
        expired=overdue(db, before - lifetime, MOST, before),
        owed=ids(SELECT_OWED, new_id(before, random=0)),
        not_unlinked=ids(SELECT_NOT_UNLINKED, microseconds(before)),
        overdue=due(db, before, MOST),
    )


def sizes(db: Database, after: str, limit: int) -> list[tuple[str, int]]:
    """Return the ids that come after `after` of the messages in the queue, and how long their bodies are, in octets."""
    return [(row[0], row[1]) for row in db.execute(SELECT_SIZES, (after, limit))]
