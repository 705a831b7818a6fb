"""Until when a message is to be delivered, and what is done when that time has passed.

Pure.  A deadline is asked for by the header (`X-Relayd-Deadline`), which is between the application and us, or by BY
(RFC 2852), which goes on from server to server with the time that is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

FARTHEST = timedelta(seconds=999_999_999)  # a by-time has nine digits, RFC 2852 section 4

_SECOND = timedelta(seconds=1)


class DeadlineMode(Enum):
    """What happens at the deadline, and who is told of it."""

    OWN = "own"  # no more tries, the message fails; the next server is not told
    RETURN = "return"  # BY mode R: the same, and no server may have it that does not promise as much
    NOTIFY = "notify"  # BY mode N: the sender is told of the delay, once, and the tries go on


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """When, and what then.

    `trace` is BY's T: the sender is to be told of each server that the message is passed on to.  A NOTIFY deadline may
    have passed before the message came: then who had it before us has told the sender.
    """

    at: datetime
    mode: DeadlineMode
    trace: bool = False

    @property
    def ends(self) -> bool:
        """Whether nothing more is tried when it has passed."""
        return self.mode is not DeadlineMode.NOTIFY

    @property
    def by(self) -> bool:
        """Whether it goes on to the next server, as BY."""
        return self.mode is not DeadlineMode.OWN

    def passed(self, now: datetime) -> bool:
        """Whether it is over."""
        return self.at <= now

    def over(self, now: datetime) -> bool:
        """Whether it has passed and nothing more is tried."""
        return self.ends and self.passed(now)

    def left(self, now: datetime) -> int:
        """Return the seconds that are left, rounded down, as a by-time: negative once it has passed."""
        farthest = FARTHEST // _SECOND
        return max(-farthest, min((self.at - now) // _SECOND, farthest))

    def missed(self, last_reply: str) -> str:
        """Return the words for a recipient that it has passed for, with what was said to us last, empty if nothing."""
        passed = f"the deadline, {self.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, passed"
        return f"{passed}; last reply: {last_reply}" if last_reply else f"{passed}; it could not be tried"
