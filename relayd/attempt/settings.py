"""The settings of the attempt stage: when to try again, when to give up, and how much is done in one go."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

MAX_FACTOR = 100.0  # keeps factor ** 100 a float; nobody retries after a minute and then after two hours


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """When a message is tried again, when its sender is warned, when it is given up (RFC 5321 section 4.5.4.1).

    Raises:
        ValueError: for a delay that is not positive, a factor outside 1 to 100, a `max` below `first`, or a negative
            `warn_after`.
    """

    first: timedelta = timedelta(minutes=1)  # after the first attempt
    factor: float = 2.0  # each further delay is this many times the one before
    max: timedelta = timedelta(hours=1)  # no delay is longer
    greylist: timedelta = timedelta(minutes=5)  # after a greylisting that names no time
    lifetime: timedelta = timedelta(days=5)  # then what still waits fails
    warn_after: timedelta = timedelta(hours=4)  # then the sender is told of the delay, once; 0: never

    def __post_init__(self) -> None:
        nothing = timedelta()
        if min(self.first, self.lifetime, self.greylist) <= nothing:
            raise ValueError("first, lifetime and greylist must be longer than 0s")
        if not 1.0 <= self.factor <= MAX_FACTOR:
            raise ValueError(f"factor must be between 1 and {MAX_FACTOR:.0f}")
        if self.max < self.first:
            raise ValueError("max must not be shorter than first")
        if self.warn_after < nothing:
            raise ValueError("warn_after must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is done in one go, and how soon what the queue refused is offered to it again."""

    commit: int = 1000  # settlements in one commit
    sites: int = 50_000  # that back off, as a whole; each is 1.7 KB in core
    notices: int = 50  # notifications made between two readings of the debts
    notices_at_once: int = 10  # of them; each holds what it returns of its original, at most MAX_RETURNED
    sweep: int = 500  # messages expired or warned of in one commit
    expiry_lease: timedelta = timedelta(minutes=10)  # for settling one batch of expired messages
    offer_again: timedelta = timedelta(seconds=1)  # after the first refusal; doubled after each further one
    offer_again_max: timedelta = timedelta(seconds=30)
    unreadable: int = 5  # tries to read an original; then its notification is made without it
