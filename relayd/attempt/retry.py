"""When to try again, and when to give up.

Pure: time and chance are arguments.  Invariants, checked by tests/attempt/test_retry.py:

    The curve's delay is never longer than `max`, and never shorter than four fifths of what the curve says.
    A greylisting is waited out: as long as it asks for, else `greylist`, whatever the curve says.  With the default
    settings the first retry comes within 15 minutes, as such a server wants (FAULTS.md H24), unless it asks for more.
    A server that throttles us, or has too many connections, gets the time that it asks for, but not more than `max`:
    it speaks of a pace that the schedule has to find anyway, and words misread must not cost a message a day.
    After `PATIENCE` tries neither of them shortens the curve: who never relents is asked as seldom as any other.
    Nothing is put off past the end of its lifetime or the deadline that ends it, so that expiry comes in time.
    Before a deadline tries come closer together, but never closer than `CLOSEST` unless the curve has them so; one of
    them falls into the last two `CLOSEST` before it.  A server's own pace is kept as long as it leads there.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from relayd.attempt.settings import RetrySettings
from relayd.mail.deadline import Deadline
from relayd.mail.refusal import LONGEST, Refusal, asked_delay, refusal
from relayd.mail.reply import Reply

CLOSEST = timedelta(seconds=15)  # between two tries because of a deadline: whom we hurry more takes us for an abuser
PATIENCE = 5  # tries at a server's own pace
MARGIN = timedelta(seconds=2)  # more than a server asks for: one second too early begins its waiting time anew
SPREAD = timedelta(seconds=3)  # and up to so much more, by `jitter`
_STEEPEST = 100  # exponents above it change nothing: any curve that rises at all has reached `max`, or never will


def _curve(retry: RetrySettings, times: int, jitter: float) -> timedelta:
    steps = min(max(times - 1, 0), _STEEPEST)
    seconds = min(retry.first.total_seconds() * retry.factor**steps, retry.max.total_seconds())
    return timedelta(seconds=seconds * (0.8 + 0.2 * jitter))


def _asked(retry: RetrySettings, reply: Reply, jitter: float) -> timedelta | None:
    """Return what a server's words demand in place of the curve, if they do."""
    meaning = refusal(reply)
    if meaning is Refusal.OTHER:
        return None
    asked = asked_delay(reply)
    if meaning is Refusal.GREYLISTED:
        return (asked or retry.greylist) + MARGIN + SPREAD * jitter
    return min(asked + MARGIN + SPREAD * jitter, retry.max) if asked else None


def _delay(retry: RetrySettings, times: int, jitter: float, reply: Reply | None) -> timedelta:
    curve = _curve(retry, times, jitter)
    asked = _asked(retry, reply, jitter) if reply is not None else None
    if asked is None:
        return curve
    return asked if times <= PATIENCE else max(asked, curve)


def next_attempt(
    retry: RetrySettings,
    attempts: int,
    now: datetime,
    *,
    jitter: float,
    reply: Reply | None = None,
    deadline: Deadline | None = None,
) -> datetime:
    """Return when to make attempt number ``attempts + 1`` of a message; `reply` is why the last one was put off.

    `jitter`, 0.0 to 1.0, spreads retries over the last fifth of the delay, so that a restart does not make them all
    fall due together.
    """
    due = now + _delay(retry, attempts, jitter, reply)
    if deadline is None or (due < deadline.at and reply is not None and _asked(retry, reply, jitter)):
        return due
    return before_deadline(due, deadline, now)


def before_deadline(due: datetime, deadline: Deadline, now: datetime) -> datetime:
    """Return when to try again what is due then: sooner, if a deadline is near.

    At most half of the time that is left is let pass, so that there are some tries more; when not even `CLOSEST` is
    left there are none, and what ends then is due at its end.
    """
    if deadline.passed(now):
        return due
    sooner = min(due, now + max((deadline.at - now) / 2, CLOSEST))
    if sooner < deadline.at:
        return sooner
    return deadline.at if deadline.ends else due


def longest(retry: RetrySettings) -> timedelta:
    """Return how long nothing waits: whatever is put off for longer is so by a clock that was set."""
    return max(retry.max, retry.greylist, LONGEST) + MARGIN + SPREAD


def site_retry(
    retry: RetrySettings, failures: int, now: datetime, *, jitter: float, reply: Reply | None = None
) -> datetime:
    """Return until when a site backs off that could not be used `failures` times in a row, the last time for `reply`.

    By the same rules as a message (RFC 5321 section 4.5.4.1: a dead host is not tried for each message).
    """
    return now + _delay(retry, failures, jitter, reply)


def expires(retry: RetrySettings, arrived: datetime, deadline: Deadline | None = None) -> datetime:
    """Return when a message that arrived then is given up: no deadline makes its life longer."""
    end = arrived + retry.lifetime
    return min(end, deadline.at) if deadline is not None and deadline.ends else end


def expired(retry: RetrySettings, arrived: datetime, now: datetime, deadline: Deadline | None = None) -> bool:
    """Whether a message that arrived then is to be given up."""
    return expires(retry, arrived, deadline) <= now
