"""What was counted for TLS reports, and the reports that are owed: `<spool>/tlsrpt.db`.

A file of its own, since it is no mail: its loss costs reports.  So it is made when there is something to keep, a
damaged one is moved aside and begun anew, and nothing else waits for it.  What the reader must not break:

    A day of a domain is reported once: `made` ends its count and records all that is owed in one commit, and what is
    counted of it after that, by a clock that was set back, is dropped.
    At most MAX_DOMAINS domains are counted on one day, in at most about MAX_OCTETS.

Times are microseconds since 1970 UTC; a day is `2026-11-26`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from relayd.mail.errors import QueueError
from relayd.mail.report import Counted, Owed
from relayd.spool.connection import Link, check, damaged, migrate, transact
from relayd.spool.database import Database, Job, Row
from relayd.spool.rows import microseconds, time_of
from relayd.spool.schema import Migrations

T = TypeVar("T")
R = TypeVar("R")
Merge: TypeAlias = Callable[[str | None], str]

NAME = "tlsrpt.db"
MAX_DOMAINS = 10_000
MAX_OCTETS = 64 * 2**20
SLACK = 64  # characters that a tally may grow by, once there is no room: counts get longer
ADVICE = "; the daemon moves it aside, and counts anew"

MIGRATIONS: Migrations = (
    (
        """
        CREATE TABLE counted (
            day TEXT NOT NULL,
            domain TEXT NOT NULL,
            tally TEXT NOT NULL,                        -- as its stage packs it
            due INTEGER,                                -- when to make its report; NULL while the day lasts
            first INTEGER,
            tries INTEGER NOT NULL DEFAULT 0,
            over INTEGER NOT NULL DEFAULT 0,            -- its report was made, or nobody wants one
            PRIMARY KEY (day, domain)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX counted_due ON counted (due) WHERE over = 0 AND due IS NOT NULL",
        """
        CREATE TABLE owed (
            day TEXT NOT NULL,
            domain TEXT NOT NULL,
            place TEXT NOT NULL,
            id TEXT NOT NULL,
            content BLOB NOT NULL,
            sessions INTEGER NOT NULL,
            failed INTEGER NOT NULL,
            due INTEGER NOT NULL,
            first INTEGER NOT NULL,
            tries INTEGER NOT NULL,
            PRIMARY KEY (day, domain, place)
        )
        """,
        "CREATE INDEX owed_due ON owed (due)",
    ),
)

_COUNTED = "day, domain, tally, due, first, tries"
_OWED = "day, domain, place, id, content, sessions, failed, due, first, tries"


class ReportsFile:
    """See the module, and relayd/report/ports.py for the contract of each method."""

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        self._path = root / NAME
        self._read_only = read_only
        self._link = Link(self._path, read_only=read_only, events=_ignore, advice=ADVICE)
        self._opening = asyncio.Lock()
        self._open = False

    async def close(self) -> None:
        await self._link.close()

    async def add(self, changes: Mapping[tuple[date, str], Merge]) -> None:
        if changes:
            await self._change(lambda db: _add(db, changes), make=True)

    async def plan(self, before: date, due: Callable[[date], datetime]) -> None:
        await self._change(lambda db: _plan(db, before, due))

    async def forget(self, before: date) -> int:
        return await self._change(lambda db: _forget(db, before)) or 0

    async def next_due(self) -> datetime | None:
        return await self._look(_next_due)

    async def to_make(self, now: datetime, limit: int) -> list[Counted]:
        return await self._look(lambda db: _to_make(db, now, limit)) or []

    async def make_later(self, counted: Counted, due: datetime) -> None:
        await self._change(lambda db: _make_later(db, counted, due))

    async def made(self, counted: Counted, owed: Sequence[Owed]) -> None:
        await self._change(lambda db: _made(db, counted, owed))

    async def to_hand_over(self, now: datetime, limit: int) -> list[Owed]:
        return await self._look(lambda db: _to_hand_over(db, now, limit)) or []

    async def hand_over_later(self, owed: Owed, due: datetime) -> None:
        await self._change(lambda db: _hand_over_later(db, owed, due))

    async def handed_over(self, owed: Owed) -> None:
        await self._change(lambda db: _handed_over(db, owed))

    async def counted(self) -> list[Counted]:
        """Return what is counted and not reported yet, the oldest first."""
        return await self._look(_all_counted) or []

    async def owed(self) -> list[Owed]:
        """Return the reports that are still to be handed over, the oldest first."""
        return await self._look(_all_owed) or []

    async def _look(self, job: Job[T]) -> T | None:
        """Run one statement; None if there is no file.

        Raises:
            QueueError: it cannot be read.
        """
        return await self._run(job, make=False)

    async def _change(self, job: Job[T], *, make: bool = False) -> T | None:
        """Run a job in a transaction; None if there is no file, and none is to be made for it.

        Raises:
            QueueError: nothing was changed.
        """
        found = await self._run(lambda db: transact(db, [job]), make=make)
        return None if found is None else cast(T, found[0])

    async def _run(self, work: Callable[[Database], R], *, make: bool) -> R | None:
        try:
            return await self._link.run(work) if await self._opened(make) else None
        except QueueError as error:
            if damaged(error) and not self._read_only:
                await self._link.close()
                self._open = False
                with suppress(OSError):  # it is told of, and tried again
                    await asyncio.to_thread(_set_aside, self._path)
            raise
        except OSError as error:
            raise QueueError(f"{self._path}: {error}") from error

    async def _opened(self, make: bool) -> bool:
        async with self._opening:
            if self._open and self._path.exists():
                return True
            await self._link.close()  # of a file that somebody removed
            if not self._path.exists():
                if not make:
                    return False
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            brought = (
                partial(check, migrations=MIGRATIONS) if self._read_only else partial(migrate, migrations=MIGRATIONS)
            )
            await self._link.run(brought)
            self._open = True
            return True


def _ignore(told: object) -> None:
    """Who uses the file tells of its troubles."""


def _set_aside(path: Path) -> None:
    """The logs and the index of the old file must not meet the new one."""
    os.replace(path, f"{path}.damaged")
    for suffix in ("-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


# jobs


def _add(db: Database, changes: Mapping[tuple[date, str], Merge]) -> None:
    room = {day: _room(db, day) for day, _ in changes}
    for (day, domain), merge in changes.items():
        key = (day.isoformat(), domain)
        row = db.execute("SELECT tally, over FROM counted WHERE day = ? AND domain = ?", key).fetchone()
        if row is None:
            domains, octets = room[day]
            if domains < MAX_DOMAINS and octets < MAX_OCTETS:
                tally = merge(None)
                db.execute("INSERT INTO counted (day, domain, tally) VALUES (?, ?, ?)", (*key, tally))
                room[day] = domains + 1, octets + len(tally)
        elif not row[1]:
            tally = merge(row[0])
            if room[day][1] < MAX_OCTETS or len(tally) <= len(row[0]) + SLACK:
                db.execute("UPDATE counted SET tally = ? WHERE day = ? AND domain = ?", (tally, *key))


def _room(db: Database, day: date) -> tuple[int, int]:
    domains, octets = db.execute(
        "SELECT count(*), total(length(tally)) FROM counted WHERE day = ?", (day.isoformat(),)
    ).fetchone()
    return domains, int(octets)


def _plan(db: Database, before: date, due: Callable[[date], datetime]) -> None:
    rows = db.execute(
        "SELECT day, domain FROM counted WHERE over = 0 AND due IS NULL AND day < ?", (before.isoformat(),)
    ).fetchall()
    planned = [(microseconds(due(date.fromisoformat(day))), day, domain) for day, domain in rows]
    db.executemany("UPDATE counted SET due = ?1, first = ?1 WHERE day = ?2 AND domain = ?3", planned)


def _forget(db: Database, before: date) -> int:
    day = (before.isoformat(),)
    undone = db.execute("SELECT count(*) FROM counted WHERE over = 0 AND day < ?", day).fetchone()[0]
    undone += db.execute("SELECT count(*) FROM owed WHERE day < ?", day).fetchone()[0]
    db.execute("DELETE FROM counted WHERE day < ?", day)
    db.execute("DELETE FROM owed WHERE day < ?", day)
    return int(undone)


def _next_due(db: Database) -> datetime | None:
    (due,) = db.execute(
        "SELECT min(due) FROM (SELECT min(due) AS due FROM counted WHERE over = 0 AND due IS NOT NULL"
        " UNION ALL SELECT min(due) FROM owed)"
    ).fetchone()
    return None if due is None else time_of(due)


def _to_make(db: Database, now: datetime, limit: int) -> list[Counted]:
    rows = db.execute(
        f"SELECT {_COUNTED} FROM counted WHERE over = 0 AND due <= ? ORDER BY due LIMIT ?", (microseconds(now), limit)
    )
    return [_counted_of(row) for row in rows]


def _make_later(db: Database, counted: Counted, due: datetime) -> None:
    db.execute(
        "UPDATE counted SET due = ?, tries = tries + 1 WHERE day = ? AND domain = ?",
        (microseconds(due), *_key(counted)),
    )


def _made(db: Database, counted: Counted, owed: Sequence[Owed]) -> None:
    if not db.execute(
        "UPDATE counted SET over = 1, tally = '' WHERE day = ? AND domain = ? AND over = 0", _key(counted)
    ).rowcount:
        return
    into = f"INSERT INTO owed ({_OWED}) VALUES ({','.join('?' * 10)})"
    db.executemany(into, [_owed_values(each) for each in owed])


def _to_hand_over(db: Database, now: datetime, limit: int) -> list[Owed]:
    rows = db.execute(f"SELECT {_OWED} FROM owed WHERE due <= ? ORDER BY due LIMIT ?", (microseconds(now), limit))
    return [_owed_of(row) for row in rows]


def _hand_over_later(db: Database, owed: Owed, due: datetime) -> None:
    db.execute(
        "UPDATE owed SET due = ?, tries = tries + 1 WHERE day = ? AND domain = ? AND place = ?",
        (microseconds(due), *_key(owed), owed.place),
    )


def _handed_over(db: Database, owed: Owed) -> None:
    db.execute("DELETE FROM owed WHERE day = ? AND domain = ? AND place = ?", (*_key(owed), owed.place))


def _all_counted(db: Database) -> list[Counted]:
    rows = db.execute(f"SELECT {_COUNTED} FROM counted WHERE over = 0 ORDER BY day, domain")
    return [_counted_of(row) for row in rows]


def _all_owed(db: Database) -> list[Owed]:
    return [_owed_of(row) for row in db.execute(f"SELECT {_OWED} FROM owed ORDER BY day, domain, place")]


def _key(one: Counted | Owed) -> tuple[str, str]:
    return one.day.isoformat(), one.domain


def _owed_values(owed: Owed) -> tuple[Any, ...]:
    return (
        *_key(owed),
        owed.place,
        owed.id,
        owed.content,
        owed.sessions,
        owed.failed,
        microseconds(owed.due),
        microseconds(owed.first),
        owed.tries,
    )


def _counted_of(row: Row) -> Counted:
    day, domain, tally, due, first, tries = row
    return Counted(
        day=date.fromisoformat(day),
        domain=domain,
        tally=tally,
        due=None if due is None else time_of(due),
        first=None if first is None else time_of(first),
        tries=tries,
    )


def _owed_of(row: Row) -> Owed:
    day, domain, place, message_id, content, sessions, failed, due, first, tries = row
    return Owed(
        day=date.fromisoformat(day),
        domain=domain,
        place=place,
        id=message_id,
        content=content,
        sessions=sessions,
        failed=failed,
        due=time_of(due),
        first=time_of(first),
        tries=tries,
    )
