"""A token and its time.

Pure: `now` is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

EARLY = timedelta(seconds=60)  # before it expires, at least


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a server takes in place of a password, from `obtained` until `expires`; `text` is never shown."""

    text: str = field(repr=False)
    obtained: datetime
    expires: datetime

    def due(self, now: datetime) -> bool:
        """Whether it is time for another: a fifth of its life, at least a minute, before its end; half of a life that
        is too short for that."""
        life = self.expires - self.obtained
        return now >= self.expires - min(max(life / 5, EARLY), life / 2)

    def expired(self, now: datetime) -> bool:
        """Whether it is of no use any more."""
        return now >= self.expires
