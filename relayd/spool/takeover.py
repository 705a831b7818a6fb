"""What a daemon does at its start with what its predecessor left in flight.

A job on a `Database`.  The flock on the spool proves that every other owner is dead, so their leases end at once.
Only what may have left is marked as a possible duplicate: what the notes name, or everything after a power cut, which
notes do not survive.  A message that was begun, not merely claimed, when the daemon died three times in a row is
held: it may be the cause.  A power cut or an orderly stop is not a death.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from relayd.spool.database import AMONG, Database, as_set
from relayd.spool.leases import finish_removals
from relayd.spool.notes import Claimed, Noted
from relayd.spool.operators import hold
from relayd.spool.rows import microseconds

MAX_DEATHS = 3
MARKED_REPLY = "the relay stopped while this was being sent: it may have arrived"


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """What a take-over found, for the log: (id, address) of what it marked, (id, deaths) of what it held."""

    marked: tuple[tuple[str, str], ...] = ()
    held: tuple[tuple[str, int], ...] = ()


def take_over(db: Database, owner: str, now: datetime, noted: Noted | None) -> TakenOver:
    """End the leases of all owners but `owner`.

    `noted` tells which deliveries were begun, and of which the end may have left; None: nobody knows.
    """
    leases = {row[0]: bool(row[1]) for row in db.execute("SELECT id, left FROM leases WHERE owner <> ?", (owner,))}
    rows = db.execute(
        "SELECT message, number, lease, local_part || '@' || destination, removing FROM recipients"
        f" WHERE lease {AMONG}",
        (as_set(leases),),
    ).fetchall()
    sent = [row for row in rows if noted is None or (row[2], row[0]) in noted.ending]
    db.executemany(
        "UPDATE recipients SET status = 'deferred', due = ?, reply = ?, possible_duplicate = 1"
        " WHERE message = ? AND number = ? AND status IN ('queued', 'deferred')",
        [(microseconds(now), MARKED_REPLY, message, number) for message, number, *_ in sent],
    )
    db.execute(f"UPDATE recipients SET lease = NULL WHERE lease {AMONG}", (as_set(leases),))
    db.execute("DELETE FROM leases WHERE owner <> ?", (owner,))
    finish_removals(db, {row[0] for row in rows if row[4]}, now)
    begun = noted.begun if noted else frozenset[Claimed]()
    in_hand = {row[0] for row in rows if (row[2], row[0]) in begun and not leases[row[2]]}
    return TakenOver(marked=tuple((row[0], row[3]) for row in sent), held=_count_deaths(db, in_hand))


def _count_deaths(db: Database, in_hand: Collection[str]) -> tuple[tuple[str, int], ...]:
    ids = as_set(in_hand)
    db.execute(f"UPDATE messages SET deaths = deaths + 1 WHERE id {AMONG}", (ids,))
    fatal = db.execute(
        f"SELECT id, deaths FROM messages WHERE id {AMONG} AND deaths >= ? AND held = 0", (ids, MAX_DEATHS)
    ).fetchall()
    for message, deaths in fatal:
        hold(db, [message], f"the relay died {deaths} times with it in hand")
    return tuple((message, deaths) for message, deaths in fatal)
