"""How relayd says that messages ended: its history, read beside it, before it is forgotten there.

The log says it too, but for the last lines of a daemon that was killed, and of what an operator removed.  A row names
the time of the last attempt, and is written later, by a lifetime at most where the message expired.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from benchmarks.soaking.ledger import Ledger

LATE = 240_000_000  # microseconds: a row is committed after the time that it names, later if a notice was owed
SELECT = "SELECT sender, recipients, finished FROM history WHERE finished >= ? ORDER BY finished"
STATUS, MARKED = 5, 12  # places in a recipient's row


class History:
    """See the module."""

    def __init__(self, spool: Path, ledger: Ledger) -> None:
        self._uri = f"file:{spool}/queue.db?mode=ro"
        self._ledger = ledger
        self._seen = 0

    def read(self, *, everything: bool = False) -> None:
        """Enter what has ended since the last time; `everything`: all that is remembered."""
        since = 0 if everything else self._seen - LATE
        with closing(sqlite3.connect(self._uri, uri=True, timeout=30)) as queue:
            for _, recipients, finished in queue.execute(SELECT, (since,)):
                self._seen = max(self._seen, finished)
                for recipient in json.loads(recipients):
                    self._ledger.end(recipient[1], recipient[STATUS])
                    if recipient[MARKED]:
                        self._ledger.mark(recipient[1])

    def waiting(self) -> int:
        """Return how many messages are in the queue."""
        with closing(sqlite3.connect(self._uri, uri=True, timeout=30)) as queue:
            return int(queue.execute("SELECT count(*) FROM messages").fetchone()[0])
