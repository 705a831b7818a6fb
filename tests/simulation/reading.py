"""Reads a queue on SQLite as tables in memory, so that one oracle judges both."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from relayd.mail.recipient import Recipient
from relayd.mail.settlement import Action
from relayd.spool.rows import HISTORY, MESSAGE, RECIPIENT, history_of, message_of, recipient_of, time_of
from tests.simulation.tables import BODY_FINISHED, LeaseRow, MessageRow, NoticeRow, Past, Row, Tables


def tables_of(path: Path) -> Tables:
    """Return what is committed in the database at `path`; nothing if nobody has made it yet."""
    tables = Tables()
    if path.exists():
        with closing(sqlite3.connect(path)) as db:
            if db.execute("PRAGMA user_version").fetchone()[0]:
                _read(db, tables)
    return tables


def _read(db: sqlite3.Connection, tables: Tables) -> None:
    for number, owner, ends in db.execute("SELECT id, owner, ends FROM leases"):
        tables.leases[number] = LeaseRow(owner=owner, ends=time_of(ends))
    recipients: dict[str, list[tuple[Recipient, int | None]]] = {}
    for message_id, lease, *columns in db.execute(f"SELECT message, lease, {RECIPIENT} FROM recipients"):
        recipients.setdefault(message_id, []).append((recipient_of(tuple(columns)), lease))
    for *columns, reason in db.execute(f"SELECT {MESSAGE}, hold_reason FROM messages ORDER BY id"):
        its = recipients[columns[0]]
        message = message_of(tuple(columns), [recipient for recipient, _ in its])
        owner = tables.messages[message.id] = MessageRow(message, held=message.held, hold_reason=reason)
        owner.rows = [Row(owner, recipient, lease=lease) for recipient, lease in its]
    for row in [row for each in tables.messages.values() for row in each.rows]:
        if row.lease is not None:
            tables.leases[row.lease].rows[row] = None
    for notice, message_id, action in db.execute("SELECT id, message, action FROM notices"):
        owed = tables.messages[message_id]
        tables.notices[notice] = NoticeRow(id=notice, message=owed, action=Action(action), numbers=set())
    for body, *columns in db.execute(f"SELECT body, {HISTORY} FROM history ORDER BY finished"):
        past = Past(row=history_of(tuple(columns)), body=body)
        tables.history[past.row.id] = past
        if body == BODY_FINISHED:
            tables.to_unlink[past.row.id] = None
