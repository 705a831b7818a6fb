"""Outcomes become status: the one place that decides what an attempt changes, and whom that obliges us to tell.

Pure: time and chance are arguments.  Invariants, checked by tests/attempt/test_settle.py:

    A message from `<>` never owes a notice (RFC 5321 section 4.5.5); NOTIFY=NEVER is obeyed (RFC 3461 section 4.1).
    A deferral is due after now, and not after the end of the message's lifetime, or the deadline that ends it; past
    that it is a failure.
    A recipient that was marked a possible duplicate stays marked.
    `Recipient.reply` is one line of at most `MAX_REPLY` printable characters, whatever the server said.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import assert_never

from relayd.attempt.retry import expired, expires, next_attempt
from relayd.attempt.settings import RetrySettings
from relayd.mail.attempt import Attempt, Tried
from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Deferred, Delivered, Failed, Outcome, Scope
from relayd.mail.recipient import Notify, Recipient, Status
from relayd.mail.reply import EnhancedStatus
from relayd.mail.settlement import Action, Settlement

MAX_REPLY = 1000  # characters kept of a reply
EXPIRED = EnhancedStatus(5, 4, 7)  # RFC 3463: delivery time expired; class 5, because nothing more will be tried
EXPIRED_WORDS = "delivery time expired; last reply: "
NEVER_TRIED = "delivery time expired; it could not be tried"

# C0, DEL, C1, line separators, controls of direction (they make a log read backwards), surrogates (SQLite refuses).
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def settle(attempt: Attempt, retry: RetrySettings, now: datetime, *, jitter: float) -> Settlement:
    """Return how the recipients of a delivery stand after an attempt.

    One `jitter` serves them all: recipients that wait together are retried together, in one transaction.

    Raises:
        KeyError: if the attempt lacks a recipient's outcome.
    """
    delivery = attempt.delivery
    recipients = tuple(_settled(attempt, recipient, retry, now, jitter) for recipient in delivery.recipients)
    return Settlement(
        delivery=delivery,
        recipients=recipients,
        notices=_notices(delivery, recipients, attempt),
        tried=_tried(attempt),
    )


def _tried(attempt: Attempt) -> Tried:
    return Tried(
        ended=attempt.ended,
        seconds=attempt.seconds,
        peer=single_line(attempt.peer),
        tls="" if attempt.tls is None else str(attempt.tls),
        altered=attempt.altered,
        transcript=tuple(line._replace(text=_lines(line.text)) for line in attempt.transcript),
    )


def _lines(text: str) -> str:
    return "\n".join(map(single_line, text.split("\n")))


def settle_expired(delivery: Delivery, now: datetime) -> Settlement:
    """Return how the recipients of a delivery stand whose time is over: failed, with what was said last.

    This is no attempt: number, time and peer of the last one stay.
    """
    recipients = tuple(_ended(recipient, delivery.deadline, now) for recipient in delivery.recipients)
    return Settlement(delivery=delivery, recipients=recipients, notices=_notices(delivery, recipients, None))


def _settled(attempt: Attempt, recipient: Recipient, retry: RetrySettings, now: datetime, jitter: float) -> Recipient:
    outcome = attempt.outcomes[recipient.number]
    arrived, deadline = attempt.delivery.arrived, attempt.delivery.deadline
    tried = recipient.attempts if _of_the_site(outcome, attempt) else recipient.attempts + 1
    match outcome:
        case Delivered():
            return _after(attempt, recipient, outcome, Status.DELIVERED, attempts=tried)
        case Deferred() if expired(retry, arrived, now, deadline):
            settled = _after(attempt, recipient, outcome, Status.DEFERRED, attempts=tried)
            return settled.changed(Status.FAILED, dsn=str(EXPIRED), reply=_expired_reply(settled.reply, deadline, now))
        case Deferred():
            due = attempt.retry_at if outcome.scope is Scope.HOST else None
            due = due or next_attempt(retry, tried, now, jitter=jitter, reply=outcome.reply, deadline=deadline)
            due = min(due, expires(retry, arrived, deadline))
            return _after(attempt, recipient, outcome, Status.DEFERRED, attempts=tried, due=due)
        case Failed() if _untried(outcome, deadline, now):
            return _ended(recipient, deadline, now)
        case Failed():
            return _after(attempt, recipient, outcome, Status.FAILED, attempts=tried)
        case _:
            assert_never(outcome)


def _untried(outcome: Failed, deadline: Deadline | None, now: datetime) -> bool:
    """Whether a relayer left it alone because its deadline had passed: that is no attempt."""
    over = deadline is not None and deadline.over(now)
    return over and outcome.reply is None and outcome.status == EXPIRED


def _ended(recipient: Recipient, deadline: Deadline | None, now: datetime) -> Recipient:
    reply = _expired_reply(recipient.reply, deadline, now)
    return recipient.changed(Status.FAILED, due=None, dsn=str(EXPIRED), reply=reply)


def _of_the_site(outcome: Outcome, attempt: Attempt) -> bool:
    """Whether the site was at fault, which has its own curve: the message's stays where it was, so that a server that
    greylists after an outage is retried as soon as any other (FAULTS.md H24)."""
    return isinstance(outcome, Deferred) and outcome.scope is Scope.HOST and attempt.retry_at is not None


def _after(
    attempt: Attempt,
    recipient: Recipient,
    outcome: Outcome,
    status: Status,
    *,
    attempts: int,
    due: datetime | None = None,
) -> Recipient:
    duplicate = isinstance(outcome, Deferred) and outcome.possible_duplicate
    return recipient.changed(
        status,
        attempts=attempts,
        due=due,
        reply=single_line(str(outcome)),
        dsn=str(outcome.dsn),
        peer=single_line(attempt.peer),
        attempted=attempt.ended,
        possible_duplicate=recipient.possible_duplicate or duplicate,
    )


def _notices(delivery: Delivery, recipients: tuple[Recipient, ...], attempt: Attempt | None) -> dict[int, Action]:
    if delivery.reverse_path is None:
        return {}
    actions = {recipient.number: _action(recipient, delivery.deadline, attempt) for recipient in recipients}
    return {number: action for number, action in actions.items() if action}


def _action(recipient: Recipient, deadline: Deadline | None, attempt: Attempt | None) -> Action | None:
    wanted = Notify.FAILURE if recipient.notify is None else recipient.notify
    if recipient.status is Status.FAILED and Notify.FAILURE in wanted:
        return Action.FAILED
    if recipient.status is not Status.DELIVERED or attempt is None:
        return None
    if Notify.SUCCESS in wanted and not attempt.relays_dsn:
        return Action.RELAYED
    if Notify.NEVER not in wanted and deadline is not None and _told_when_relayed(deadline, attempt):
        return Action.RELAYED
    return None


def _told_when_relayed(deadline: Deadline, attempt: Attempt) -> bool:
    """RFC 2852 section 4.1.4: where a trace was asked for, and where who has it now will not tell of a delay."""
    unwatched = deadline.mode is DeadlineMode.NOTIFY and not attempt.relays_deadline
    return deadline.trace or unwatched


def _expired_reply(last: str, deadline: Deadline | None, now: datetime) -> str:
    if deadline is not None and deadline.over(now):
        return deadline.missed(last)[:MAX_REPLY]
    return (EXPIRED_WORDS + last)[:MAX_REPLY] if last else NEVER_TRIED


def single_line(text: str) -> str:
    """Return `text` on one line, what cannot be printed as `\\xNN` or `\\uNNNN`, cut to `MAX_REPLY` characters."""
    if text.isprintable() and len(text) <= MAX_REPLY:
        return text
    text = " ".join(text[:MAX_REPLY].splitlines())
    return _UNPRINTABLE.sub(_escaped, text)[:MAX_REPLY]


def _escaped(match: re.Match[str]) -> str:
    number = ord(match[0])
    if 0xDC80 <= number <= 0xDCFF:  # an octet that was not UTF-8, as surrogateescape brings it
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
