"""A site that could not be used, and is left alone for a while."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """How a site stands that failed `failures` times in a row, the first time at `since`; 0: it works again.

    It is tried again at `retry_at`.  `reply`, `dsn` and `peer` tell of the last attempt, as a recipient's do.
    """

    site: str
    failures: int
    retry_at: datetime
    since: datetime
    reply: str = ""
    dsn: str = ""
    peer: str = ""
