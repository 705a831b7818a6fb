"""What the queue remembers of sites: their back-off, and which destinations were found to lead to them.

Each function is a job or a look-up on a `Database`.  A site that is out of reach has one row, however much mail waits
for it: recipients that were never tried themselves get its words when somebody asks, by the destination's last route.
That is told and never decided by: where mail goes is looked up anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from relayd.mail.back_off import BackOff
from relayd.mail.recipient import Recipient, Status
from relayd.spool.database import AMONG, Database, as_set, insert
from relayd.spool.rows import microseconds, storable, time_of

SITE = "key, failures, retry_at, since, reply, dsn, peer"
REFRESHED = timedelta(days=1)  # how old `seen` may become before it is written again
FORGOTTEN = timedelta(days=14)  # longer than mail for a destination waits


def sites(db: Database) -> list[BackOff]:
    """See the contract."""
    return [
        BackOff(
            site=key,
            failures=failures,
            retry_at=time_of(retry_at),
            since=time_of(since),
            reply=reply,
            dsn=dsn,
            peer=peer,
        )
        for key, failures, retry_at, since, reply, dsn, peer in db.execute(f"SELECT {SITE} FROM sites ORDER BY key")
    ]


def back_off(db: Database, site: BackOff) -> None:
    """See the contract."""
    if not site.failures:
        db.execute("DELETE FROM sites WHERE key = ?", (site.site,))
        return
    values = (
        site.site,
        site.failures,
        microseconds(site.retry_at),
        microseconds(site.since),
        storable(site.reply),
        site.dsn,
        storable(site.peer),
    )
    insert(db, f"INSERT OR REPLACE INTO sites ({SITE})", [values])


def routed(db: Database, where: Mapping[str, str], now: datetime) -> None:
    """See the contract.  What is as it was is written again once a day."""
    _forget_destinations(db, now)
    seen = microseconds(now)
    db.executemany(
        """
        INSERT INTO destinations (destination, site, seen) VALUES (?, ?, ?)
        ON CONFLICT (destination) DO UPDATE SET site = excluded.site, seen = excluded.seen
            WHERE site <> excluded.site OR seen < ?
        """,
        [(destination, site, seen, seen - _microseconds(REFRESHED)) for destination, site in where.items()],
    )


def _forget_destinations(db: Database, now: datetime) -> None:
    db.execute("DELETE FROM destinations WHERE seen < ?", (microseconds(now) - _microseconds(FORGOTTEN),))


def sites_of(db: Database, destinations: Collection[str]) -> dict[str, str]:
    """See the contract."""
    rows = db.execute(f"SELECT destination, site FROM destinations WHERE destination {AMONG}", (as_set(destinations),))
    return {row[0]: row[1] for row in rows}


def witnessed(db: Database, recipients: Iterable[Recipient]) -> tuple[Recipient, ...]:
    """Return recipients, those that were never tried with what their site answered last, if it is out of reach."""
    found = tuple(recipients)
    untried = {each.destination for each in found if each.status is Status.QUEUED and not each.reply}
    if not untried:
        return found
    words = {
        row[0]: row[1:]
        for row in db.execute(
            f"""
            SELECT destination, reply, dsn, peer FROM destinations JOIN sites ON sites.key = destinations.site
            WHERE destination {AMONG}
            """,
            (as_set(untried),),
        )
    }
    return tuple(_witnessed(each, words) for each in found)


def _witnessed(recipient: Recipient, words: Mapping[str, tuple[str, str, str]]) -> Recipient:
    if recipient.status is not Status.QUEUED or recipient.reply or recipient.destination not in words:
        return recipient
    reply, dsn, peer = words[recipient.destination]
    return replace(recipient, reply=reply, dsn=dsn, peer=peer)


def _microseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1)
