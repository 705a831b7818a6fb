"""What becomes of what the dead left in flight: at a start that of the last daemon, later that of a worker.

Jobs on a `Database`.  The flock on the spool proves that every other owner is dead, so their leases end at once.
Only what may have left is marked as a possible duplicate: what the notes name, or everything after a power cut, which
notes do not survive.  A message that was begun, not merely claimed, when the daemon died three times in a row is
held: it may be the cause.  A power cut or an orderly stop is not a death.  The death of a worker counts like the
daemon's, and the two are counted together.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from relayd.spool.database import AMONG, Database, Row, as_set
from relayd.spool.leases import finish_removals
from relayd.spool.notes import Claimed, Noted
from relayd.spool.operators import hold
from relayd.spool.rows import RELEASE, microseconds

MAX_DEATHS = 3
MARKED_REPLY = "the relay stopped while this was being sent: it may have arrived"


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """What was found, for the log: (id, address) of what was marked, (id, deaths) of what was held."""

    marked: tuple[tuple[str, str], ...] = ()
    held: tuple[tuple[str, int], ...] = ()


def take_over(db: Database, owner: str, now: datetime, noted: Noted | None) -> TakenOver:
    """End the leases of all owners but `owner`.

    `noted` tells which deliveries were begun, and of which the end may have left; None: nobody knows.
    """
    leases = {row[0]: bool(row[1]) for row in db.execute("SELECT id, left FROM leases WHERE owner <> ?", (owner,))}
    rows = _leased(db, leases)
    sent = [row for row in rows if noted is None or (row[2], row[0]) in noted.ending]
    _mark(db, sent, now)
    db.execute(f"UPDATE recipients SET lease = NULL WHERE lease {AMONG}", (as_set(leases),))
    db.execute("DELETE FROM leases WHERE owner <> ?", (owner,))
    finish_removals(db, {row[0] for row in rows if row[4]}, now)
    begun = noted.begun if noted else frozenset[Claimed]()
    in_hand = {row[0] for row in rows if (row[2], row[0]) in begun and not leases[row[2]]}
    return TakenOver(marked=_named(sent), held=_count_deaths(db, in_hand))


def bury(db: Database, noted: Noted, now: datetime) -> TakenOver:
    """Mark what a worker was ending when it died, and end the claim on that; count the death for what it had begun.

    `noted` has of its notes only what is claimed and not settled.  The rest of that is for the claimer to give back.
    """
    rows = _leased(db, {lease for lease, _ in noted.ending})
    sent = [row for row in rows if (row[2], row[0]) in noted.ending]
    _mark(db, sent, now)
    db.execute(RELEASE, (as_set((message, number, lease) for message, number, lease, *_ in sent),))
    finish_removals(db, {row[0] for row in sent if row[4]}, now)
    return TakenOver(marked=_named(sent), held=_count_deaths(db, {message for _, message in noted.begun}))


def _leased(db: Database, leases: Collection[int]) -> list[Row]:
    return db.execute(
        "SELECT message, number, lease, local_part || '@' || substr(destination, instr(destination, '/') + 1), removing"
        f" FROM recipients WHERE lease {AMONG}",
        (as_set(leases),),
    ).fetchall()


def _mark(db: Database, rows: Collection[Row], now: datetime) -> None:
    db.executemany(
        "UPDATE recipients SET status = 'deferred', due = ?, reply = ?, possible_duplicate = 1"
        " WHERE message = ? AND number = ? AND status IN ('queued', 'deferred')",
        [(microseconds(now), MARKED_REPLY, message, number) for message, number, *_ in rows],
    )


def _named(rows: Collection[Row]) -> tuple[tuple[str, str], ...]:
    return tuple((row[0], row[3]) for row in rows)


def _count_deaths(db: Database, in_hand: Collection[str]) -> tuple[tuple[str, int], ...]:
    ids = as_set(in_hand)
    db.execute(f"UPDATE messages SET deaths = deaths + 1 WHERE id {AMONG}", (ids,))
    fatal = db.execute(
        f"SELECT id, deaths FROM messages WHERE id {AMONG} AND deaths >= ? AND held = 0", (ids, MAX_DEATHS)
    ).fetchall()
    for message, deaths in fatal:
        hold(db, [message], f"the relay died {deaths} times with it in hand")
    return tuple((message, deaths) for message, deaths in fatal)
