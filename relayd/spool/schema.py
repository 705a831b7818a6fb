"""The tables of queue.db, and how an older file becomes a newer one.

`PRAGMA user_version` is the number of migrations applied.  A migration is never changed once released: a new one is
added, and each is applied in one transaction together with its number.  A file with more migrations than we know is
left alone.

Times are microseconds since 1970 UTC.  `open` counts the recipients of a message that are not final.  `waiting`
says whether a recipient may be claimed once it is due; the partial indexes over it serve `due`, `claim` and
`next_due`, and hold nothing else, so that they stay small while most of the queue is held or in flight; `turn` is 0
for what is urgent, 1 for what was never tried, 2 for what was.  Those over `open` serve `expire` and `warn`: by the
message, since neither a claim nor a deferral changes its row.
"""

from __future__ import annotations

from typing import TypeAlias

Migrations: TypeAlias = tuple[tuple[str, ...], ...]

MIGRATIONS: Migrations = (
    (
        """
        CREATE TABLE messages (
            id TEXT NOT NULL PRIMARY KEY,
            arrived INTEGER NOT NULL,
            sender TEXT NOT NULL,                       -- '' is <>
            ret TEXT,
            envid TEXT,
            size INTEGER NOT NULL,
            wire_size INTEGER NOT NULL,
            header_end INTEGER NOT NULL,
            cuts TEXT NOT NULL,                         -- JSON: [[start, end], ...]
            prefix BLOB NOT NULL,
            facts INTEGER NOT NULL,                     -- rows.FACTS, one bit each
            notification INTEGER NOT NULL,
            held INTEGER NOT NULL,
            hold_reason TEXT NOT NULL DEFAULT '',
            total INTEGER NOT NULL,
            open INTEGER NOT NULL,
            deaths INTEGER NOT NULL DEFAULT 0,          -- of the daemon with this message in hand, in a row
            warned INTEGER NOT NULL DEFAULT 0
        ) WITHOUT ROWID
        """,
        "CREATE INDEX messages_unwarned ON messages (arrived) WHERE warned = 0 AND held = 0 AND sender <> ''",
        """
        CREATE TABLE recipients (
            message TEXT NOT NULL,
            number INTEGER NOT NULL,
            local_part TEXT NOT NULL,
            destination TEXT NOT NULL,
            notify INTEGER,
            orcpt TEXT,
            status TEXT NOT NULL,
            attempts INTEGER NOT NULL,
            due INTEGER,
            arrived INTEGER NOT NULL,                   -- the message's
            reply TEXT NOT NULL,
            dsn TEXT NOT NULL,
            peer TEXT NOT NULL,
            attempted INTEGER,
            possible_duplicate INTEGER NOT NULL,
            lease INTEGER,                              -- in flight
            removing INTEGER NOT NULL DEFAULT 0,        -- an operator removed it while in flight
            held INTEGER NOT NULL,                      -- the message's
            waiting INTEGER NOT NULL
                AS (lease IS NULL AND held = 0 AND status IN ('queued', 'deferred')) STORED,
            PRIMARY KEY (message, number)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX recipients_due ON recipients (waiting, destination, due) WHERE waiting = 1",
        "CREATE INDEX recipients_next ON recipients (waiting, due) WHERE waiting = 1",
        "CREATE INDEX recipients_old ON recipients (waiting, arrived) WHERE waiting = 1",
        "CREATE INDEX recipients_leased ON recipients (lease) WHERE lease IS NOT NULL",
        """
        CREATE INDEX recipients_withdrawn ON recipients (message)
            WHERE lease IS NOT NULL AND (held = 1 OR removing = 1)
        """,
        """
        CREATE TABLE leases (
            id INTEGER PRIMARY KEY AUTOINCREMENT,       -- never used again: notes name it
            owner TEXT NOT NULL,
            ends INTEGER NOT NULL,
            left INTEGER NOT NULL DEFAULT 0             -- its owner stopped in order: not a death
        )
        """,
        "CREATE INDEX leases_end ON leases (ends)",
        """
        CREATE TABLE notices (
            id TEXT NOT NULL PRIMARY KEY,               -- of the notification that is owed
            message TEXT NOT NULL,
            action TEXT NOT NULL,
            numbers TEXT NOT NULL,                      -- JSON: the recipients it tells of
            handed INTEGER NOT NULL DEFAULT 0           -- being made: its recipients are fixed
        ) WITHOUT ROWID
        """,
        "CREATE INDEX notices_message ON notices (message)",
        """
        CREATE TABLE sites (
            key TEXT NOT NULL PRIMARY KEY,
            failures INTEGER NOT NULL,
            retry_at INTEGER NOT NULL,
            reply TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE history (
            id TEXT NOT NULL PRIMARY KEY,
            arrived INTEGER NOT NULL,
            finished INTEGER NOT NULL,
            sender TEXT NOT NULL,
            size INTEGER NOT NULL,
            recipients TEXT NOT NULL,                   -- JSON: rows.HISTORY
            body INTEGER NOT NULL                       -- 0 gone, 1 to be unlinked, 2 kept until forgotten
        ) WITHOUT ROWID
        """,
        "CREATE INDEX history_finished ON history (finished)",
        "CREATE INDEX history_bodies ON history (finished) WHERE body = 1",
    ),
    (
        # Urgent ones first, then new and tried ones by turns: see claims.py.
        "ALTER TABLE recipients ADD COLUMN urgent INTEGER NOT NULL DEFAULT 0",  # the message's
        """
        ALTER TABLE recipients ADD COLUMN turn INTEGER NOT NULL
            AS (CASE WHEN urgent THEN 0 WHEN status = 'queued' THEN 1 ELSE 2 END) VIRTUAL
        """,
        "UPDATE recipients SET urgent = 1 WHERE message IN (SELECT id FROM messages WHERE notification = 1)",
        "DROP INDEX recipients_due",
        "DROP INDEX recipients_next",  # `next_due` reads recipients_due, and costs a claim nothing
        "CREATE INDEX recipients_due ON recipients (waiting, destination, turn, due) WHERE waiting = 1",
        """
        CREATE TABLE destinations (                     -- where mail went when it was looked up last
            destination TEXT NOT NULL PRIMARY KEY,
            site TEXT NOT NULL,
            seen INTEGER NOT NULL
        ) WITHOUT ROWID
        """,
        "CREATE INDEX destinations_seen ON destinations (seen)",
        "ALTER TABLE sites ADD COLUMN since INTEGER NOT NULL DEFAULT 0",  # of the first failure in a row
        "ALTER TABLE sites ADD COLUMN dsn TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE sites ADD COLUMN peer TEXT NOT NULL DEFAULT ''",
    ),
    (
        # `warned` is 0, 1 once the delay was told, 2 when nothing of that kind will be told any more.
        "ALTER TABLE messages ADD COLUMN deadline INTEGER",
        "ALTER TABLE messages ADD COLUMN deadline_mode TEXT",  # mail.deadline.DeadlineMode
        "ALTER TABLE messages ADD COLUMN deadline_trace INTEGER NOT NULL DEFAULT 0",
        "UPDATE messages SET warned = 2 WHERE sender = ''",
        "DROP INDEX IF EXISTS recipients_old",
        "DROP INDEX IF EXISTS messages_unwarned",
        "CREATE INDEX messages_open ON messages (warned, arrived) WHERE held = 0 AND open > 0",
        """
        CREATE INDEX messages_ending ON messages (deadline)
            WHERE deadline_mode <> 'notify' AND held = 0 AND open > 0
        """,
        """
        CREATE INDEX messages_notifying ON messages (deadline)
            WHERE deadline_mode = 'notify' AND warned < 2 AND held = 0 AND open > 0 AND deadline > arrived
        """,
    ),
    ("ALTER TABLE messages ADD COLUMN tls INTEGER NOT NULL DEFAULT 0",),  # mail.tls.TlsWish
    (
        """
        CREATE TABLE attempts (                         -- see attempts.py
            message TEXT NOT NULL,
            first INTEGER NOT NULL,                     -- the lowest number of its recipients
            ended INTEGER NOT NULL,
            seconds REAL NOT NULL,
            peer TEXT NOT NULL,
            tls TEXT NOT NULL,
            altered TEXT NOT NULL,
            outcomes TEXT NOT NULL,                     -- JSON: [[numbers, status, dsn, reply, marked], ...]
            transcript TEXT NOT NULL,                   -- JSON: [[after, speaker, text], ...], or empty
            PRIMARY KEY (message, first, ended)
        ) WITHOUT ROWID
        """,
        "ALTER TABLE history ADD COLUMN tried TEXT NOT NULL DEFAULT ''",  # an only attempt: JSON, see attempts.py
    ),
    (
        """
        CREATE TABLE keys (                             -- mail.key.SubmissionKey
            owner INTEGER NOT NULL,
            key TEXT NOT NULL,
            message TEXT NOT NULL,                      -- the first of that key
            arrived INTEGER NOT NULL,                   -- it
            PRIMARY KEY (owner, key)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX keys_arrived ON keys (arrived)",
    ),
)
VERSION = len(MIGRATIONS)
