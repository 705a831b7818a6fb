"""When to try again, and when to give up.

Pure: time and chance are arguments.  Invariants, checked by tests/attempt/test_retry.py:

    A delay is never longer than `max`, and never shorter than four fifths of what the curve says.
    With the default settings the first retry comes within 15 minutes, as a greylisting server wants (FAULTS.md H24).
    Nothing is put off past the end of its lifetime or the deadline that ends it, so that expiry comes in time.
    Before a deadline tries come closer together, but never closer than `CLOSEST` unless the curve has them so; one of
    them falls into the last two `CLOSEST` before it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from relayd.attempt.settings import RetrySettings
from relayd.mail.deadline import Deadline

CLOSEST = timedelta(seconds=15)  # between two tries because of a deadline: whom we hurry more takes us for an abuser
_STEEPEST = 100  # exponents above it change nothing: any curve that rises at all has reached `max`, or never will


def _curve(retry: RetrySettings, times: int, jitter: float) -> timedelta:
    steps = min(max(times - 1, 0), _STEEPEST)
    seconds = min(retry.first.total_seconds() * retry.factor**steps, retry.max.total_seconds())
    return timedelta(seconds=seconds * (0.8 + 0.2 * jitter))


def next_attempt(retry: RetrySettings, attempts: int, now: datetime, *, jitter: float) -> datetime:
    """Return when to make attempt number ``attempts + 1`` of a message.

    `jitter`, 0.0 to 1.0, spreads retries over the last fifth of the delay, so that a restart does not make them all
    fall due together.
    """
    return now + _curve(retry, attempts, jitter)


def before_deadline(due: datetime, deadline: Deadline | None, now: datetime) -> datetime:
    """Return when to try again what is due then: sooner, if a deadline is near.

    At most half of the time that is left is let pass, so that there are some tries more; when not even `CLOSEST` is
    left there are none, and what ends then is due at its end.
    """
    if deadline is None or deadline.passed(now):
        return due
    sooner = min(due, now + max((deadline.at - now) / 2, CLOSEST))
    if sooner < deadline.at:
        return sooner
    return deadline.at if deadline.ends else due


def site_retry(retry: RetrySettings, failures: int, now: datetime, *, jitter: float) -> datetime:
    """Return until when a site backs off that could not be used `failures` times in a row.

    The same curve as a message's (RFC 5321 section 4.5.4.1: a dead host is not tried for each message).
    """
    return now + _curve(retry, failures, jitter)


def expires(retry: RetrySettings, arrived: datetime, deadline: Deadline | None = None) -> datetime:
    """Return when a message that arrived then is given up: no deadline makes its life longer."""
    end = arrived + retry.lifetime
    return min(end, deadline.at) if deadline is not None and deadline.ends else end


def expired(retry: RetrySettings, arrived: datetime, now: datetime, deadline: Deadline | None = None) -> bool:
    """Whether a message that arrived then is to be given up."""
    return expires(retry, arrived, deadline) <= now
