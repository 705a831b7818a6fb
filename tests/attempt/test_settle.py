"""relayd.attempt.settle: what an outcome changes, and whom it obliges us to tell."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.attempt.retry import MARGIN, SPREAD
from relayd.attempt.settings import RetrySettings
from relayd.attempt.settle import MAX_REPLY, settle, settle_expired, single_line
from relayd.mail.attempt import Attempt
from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.outcome import Deferred, Delivered, Failed, Scope
from relayd.mail.recipient import Notify, Recipient, Status
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.settlement import Action, Settlement
from tests.attempt.situations import (
    GREYLISTED,
    MINUTE,
    NO_SUCH_USER,
    NOT_NOW,
    NOW,
    PEER,
    QUEUED,
    REFUSED,
    a_delivery,
    a_recipient,
    an_attempt,
)

RETRY = RetrySettings()
OWN, RETURN, NOTIFY = DeadlineMode.OWN, DeadlineMode.RETURN, DeadlineMode.NOTIFY


def by(mode: DeadlineMode, *, trace: bool = False) -> Deadline:
    """A deadline that is far away."""
    return Deadline(at=NOW + timedelta(days=30), mode=mode, trace=trace)


def settled(attempt: Attempt, **changes: object) -> Settlement:
    retry = replace(RETRY, **changes)  # type: ignore[arg-type]
    return settle(attempt, retry, attempt.ended, jitter=1.0)


def alone(attempt: Attempt, **changes: object) -> Recipient:
    (recipient,) = settled(attempt, **changes).recipients
    return recipient


def test_a_delivered_recipient_is_done_with_the_servers_words() -> None:
    recipient = alone(an_attempt(a_delivery(), QUEUED))

    assert (recipient.status, recipient.attempts, recipient.due) == (Status.DELIVERED, 1, None)
    assert (recipient.reply, recipient.dsn) == ("250 2.0.0 queued", "2.0.0")
    assert (recipient.peer, recipient.attempted) == (PEER, NOW)


def test_a_refused_recipient_fails_and_the_sender_is_owed_a_notice() -> None:
    settlement = settled(an_attempt(a_delivery(), NO_SUCH_USER))

    assert settlement.recipients[0].status is Status.FAILED
    assert settlement.recipients[0].dsn == "5.1.1"
    assert settlement.notices == {0: Action.FAILED}


def test_a_deferred_recipient_is_tried_again_a_minute_later() -> None:
    settlement = settled(an_attempt(a_delivery(), NOT_NOW))
    (recipient,) = settlement.recipients

    assert (recipient.status, recipient.attempts, recipient.due) == (Status.DEFERRED, 1, NOW + MINUTE)
    assert settlement.notices == {}


def test_each_further_deferral_waits_longer() -> None:
    recipient = a_recipient(status=Status.DEFERRED, attempts=3)

    assert alone(an_attempt(a_delivery(recipient), NOT_NOW)).due == NOW + 8 * MINUTE


def test_a_greylisted_recipient_is_tried_again_after_five_minutes_and_a_little() -> None:
    recipient = alone(an_attempt(a_delivery(), GREYLISTED))

    assert (recipient.status, recipient.attempts) == (Status.DEFERRED, 1)
    assert recipient.due == NOW + 5 * MINUTE + MARGIN + SPREAD


def test_a_greylisted_recipient_is_tried_again_when_the_server_wants_it() -> None:
    asks = Deferred(Reply(450, "Greylisted for 300 seconds", EnhancedStatus(4, 2, 0)), scope=Scope.RECIPIENT)

    recipient = alone(an_attempt(a_delivery(), asks), greylist=timedelta(hours=1))

    assert recipient.due == NOW + 5 * MINUTE + MARGIN + SPREAD


def test_a_greylisting_does_not_outlive_the_message() -> None:
    asks = Deferred(Reply(450, "Greylisted for 12 hours"), scope=Scope.RECIPIENT)
    delivery = a_delivery(arrived=NOW - RETRY.lifetime + MINUTE)

    assert alone(an_attempt(delivery, asks)).due == NOW + MINUTE


def test_recipients_that_are_greylisted_together_are_retried_together() -> None:
    delivery = a_delivery(a_recipient(0), a_recipient(1))

    one, other = settled(an_attempt(delivery, GREYLISTED)).recipients

    assert one.due == other.due


def test_recipients_of_one_delivery_keep_their_own_outcomes() -> None:
    delivery = a_delivery(a_recipient(3), a_recipient(5), a_recipient(9))

    settlement = settled(an_attempt(delivery, QUEUED, GREYLISTED, NO_SUCH_USER))

    assert [(r.number, r.status) for r in settlement.recipients] == [
        (3, Status.DELIVERED),
        (5, Status.DEFERRED),
        (9, Status.FAILED),
    ]
    assert settlement.notices == {9: Action.FAILED}


def test_a_dead_site_does_not_consume_the_messages_own_curve() -> None:
    at = NOW + 7 * MINUTE

    recipient = alone(an_attempt(a_delivery(), REFUSED, retry_at=at, peer=""))

    assert (recipient.status, recipient.attempts, recipient.due) == (Status.DEFERRED, 0, at)
    assert recipient.reply == "mx1.example.net: connection refused"
    assert (recipient.dsn, recipient.peer) == ("4.4.1", "")


def test_a_lost_host_without_a_time_for_its_site_does() -> None:
    recipient = alone(an_attempt(a_delivery(), REFUSED))

    assert (recipient.attempts, recipient.due) == (1, NOW + MINUTE)


def test_a_sites_time_does_not_move_what_a_server_said_of_a_recipient() -> None:
    recipient = alone(an_attempt(a_delivery(), NOT_NOW, retry_at=NOW + 50 * MINUTE))

    assert recipient.due == NOW + MINUTE


def test_a_deferral_past_the_lifetime_is_a_failure_that_tells_the_last_reply() -> None:
    delivery = a_delivery(arrived=NOW - RETRY.lifetime)

    settlement = settled(an_attempt(delivery, GREYLISTED))
    (recipient,) = settlement.recipients

    assert (recipient.status, recipient.attempts, recipient.due) == (Status.FAILED, 1, None)
    assert recipient.dsn == "5.4.7"
    assert recipient.reply == "delivery time expired; last reply: 450 4.2.0 greylisted"
    assert settlement.notices == {0: Action.FAILED}


def test_a_delivery_past_the_lifetime_is_still_a_delivery() -> None:
    assert alone(an_attempt(a_delivery(arrived=NOW - 2 * RETRY.lifetime), QUEUED)).status is Status.DELIVERED


@pytest.mark.parametrize("retry_at", [None, NOW + timedelta(hours=1)])
def test_nothing_is_put_off_past_its_lifetime(retry_at: object) -> None:
    delivery = a_delivery(a_recipient(attempts=9), arrived=NOW - RETRY.lifetime + MINUTE)

    assert alone(an_attempt(delivery, REFUSED, retry_at=retry_at)).due == NOW + MINUTE


def test_what_expires_untried_says_so_and_counts_no_attempt() -> None:
    settlement = settle_expired(a_delivery(arrived=NOW - RETRY.lifetime), NOW)
    (recipient,) = settlement.recipients

    assert (recipient.status, recipient.dsn, recipient.attempts) == (Status.FAILED, "5.4.7", 0)
    assert recipient.reply == "delivery time expired; it could not be tried"
    assert settlement.notices == {0: Action.FAILED}


def test_what_expires_keeps_what_its_last_attempt_left() -> None:
    tried = alone(an_attempt(a_delivery(), GREYLISTED))

    (recipient,) = settle_expired(a_delivery(tried), NOW).recipients

    assert recipient.reply == "delivery time expired; last reply: 450 4.2.0 greylisted"
    assert (recipient.attempts, recipient.peer, recipient.attempted) == (1, PEER, NOW)


def test_a_possible_duplicate_stays_marked() -> None:
    maybe = Deferred(reason="connection lost after the end of the message", possible_duplicate=True)

    marked = alone(an_attempt(a_delivery(), maybe))
    delivered = alone(an_attempt(a_delivery(marked), QUEUED))

    assert marked.possible_duplicate
    assert delivered.possible_duplicate


@pytest.mark.parametrize(
    ("notify", "outcome", "relays_dsn", "owed"),
    [
        (None, NO_SUCH_USER, False, Action.FAILED),
        (Notify.FAILURE, NO_SUCH_USER, True, Action.FAILED),
        (Notify.FAILURE | Notify.DELAY, NO_SUCH_USER, False, Action.FAILED),
        (Notify.NEVER, NO_SUCH_USER, False, None),
        (Notify.SUCCESS, NO_SUCH_USER, False, None),
        (Notify.DELAY, NO_SUCH_USER, False, None),
        (None, QUEUED, False, None),
        (Notify.SUCCESS, QUEUED, False, Action.RELAYED),
        (Notify.SUCCESS, QUEUED, True, None),
        (Notify.NEVER, QUEUED, False, None),
        (Notify.FAILURE, QUEUED, False, None),
        (Notify.SUCCESS | Notify.FAILURE, GREYLISTED, False, None),
    ],
)
def test_who_is_told_follows_notify(
    notify: Notify | None, outcome: Delivered | Deferred | Failed, relays_dsn: bool, owed: Action | None
) -> None:
    attempt = an_attempt(a_delivery(a_recipient(notify=notify)), outcome, relays_dsn=relays_dsn)

    assert settled(attempt).notices.get(0) is owed


@pytest.mark.parametrize(
    ("deadline", "notify", "relays_deadline", "owed"),
    [
        (by(NOTIFY), None, False, Action.RELAYED),
        (by(NOTIFY), Notify.FAILURE, False, Action.RELAYED),
        (by(NOTIFY), Notify.NEVER, False, None),
        (by(NOTIFY), None, True, None),
        (by(NOTIFY, trace=True), None, True, Action.RELAYED),
        (by(RETURN), None, True, None),
        (by(RETURN, trace=True), None, True, Action.RELAYED),
        (by(RETURN, trace=True), Notify.NEVER, True, None),
        (by(OWN), None, False, None),
    ],
)
def test_who_asked_for_it_is_told_where_a_message_with_a_deadline_went(
    deadline: Deadline, notify: Notify | None, relays_deadline: bool, owed: Action | None
) -> None:
    delivery = replace(a_delivery(a_recipient(notify=notify)), deadline=deadline)
    attempt = an_attempt(delivery, QUEUED, relays_dsn=True, relays_deadline=relays_deadline)

    assert settled(attempt).notices.get(0) is owed
    assert settled(replace(attempt, outcomes={0: GREYLISTED})).notices == {}
    assert settle_expired(delivery, NOW).notices.get(0) is (None if notify is Notify.NEVER else Action.FAILED)


@pytest.mark.parametrize("mode", [OWN, RETURN])
def test_a_deferral_past_the_deadline_is_a_failure_that_names_it(mode: DeadlineMode) -> None:
    deadline = Deadline(at=NOW, mode=mode)

    settlement = settled(an_attempt(replace(a_delivery(), deadline=deadline), GREYLISTED))
    (recipient,) = settlement.recipients

    assert (recipient.status, recipient.dsn, recipient.due) == (Status.FAILED, "5.4.7", None)
    assert recipient.reply == "the deadline, 2026-11-22 07:20:00 UTC, passed; last reply: 450 4.2.0 greylisted"
    assert settlement.notices == {0: Action.FAILED}


def test_what_the_sweep_finds_past_its_deadline_names_it_too() -> None:
    delivery = replace(a_delivery(a_recipient(reply="451 later", peer=PEER)), deadline=Deadline(at=NOW, mode=OWN))

    late = settle_expired(delivery, NOW).recipients[0]
    old = settle_expired(replace(delivery, deadline=by(OWN)), NOW).recipients[0]

    assert late.reply == "the deadline, 2026-11-22 07:20:00 UTC, passed; last reply: 451 later"
    assert old.reply == "delivery time expired; last reply: 451 later"


def test_what_a_relayer_left_alone_at_the_deadline_was_not_tried_again() -> None:
    too_late = Failed(reason="whatever it says", status=EnhancedStatus(5, 4, 7))
    tried = a_recipient(status=Status.DEFERRED, attempts=4, reply="451 later", peer="other", attempted=NOW - MINUTE)
    delivery = replace(a_delivery(tried), deadline=Deadline(at=NOW, mode=OWN))

    left_alone = alone(an_attempt(delivery, too_late))
    refused = alone(an_attempt(replace(delivery, deadline=by(RETURN)), too_late))

    assert left_alone == settle_expired(delivery, NOW).recipients[0]
    assert (left_alone.attempts, left_alone.peer) == (4, "other")
    assert (refused.attempts, refused.peer, refused.reply) == (5, PEER, "whatever it says")


def test_a_sites_back_off_does_not_reach_past_the_deadline() -> None:
    delivery = replace(a_delivery(), deadline=Deadline(at=NOW + MINUTE, mode=OWN))
    attempt = an_attempt(delivery, REFUSED, retry_at=NOW + 50 * MINUTE)

    assert alone(attempt).due == NOW + MINUTE
    assert alone(replace(attempt, retry_at=NOW + MINUTE / 2)).due == NOW + MINUTE / 2


def test_past_a_deadline_that_only_notifies_tries_go_on_as_ever() -> None:
    delivery = replace(a_delivery(), deadline=Deadline(at=NOW, mode=NOTIFY))

    assert alone(an_attempt(delivery, GREYLISTED)) == alone(an_attempt(a_delivery(), GREYLISTED))


def test_a_deadline_beyond_the_lifetime_makes_it_no_longer() -> None:
    delivery = replace(a_delivery(arrived=NOW - RETRY.lifetime + MINUTE), deadline=by(OWN))

    assert alone(an_attempt(delivery, GREYLISTED)).due == NOW + MINUTE
    assert alone(an_attempt(delivery, GREYLISTED, ended=NOW + MINUTE)).reply.startswith("delivery time expired")


@pytest.mark.parametrize("outcome", [QUEUED, NO_SUCH_USER, GREYLISTED])
def test_a_message_from_nobody_never_owes_a_notice(outcome: Delivered | Deferred | Failed) -> None:
    recipient = a_recipient(notify=Notify.SUCCESS | Notify.FAILURE)
    delivery = a_delivery(recipient, sender=None, arrived=NOW - RETRY.lifetime)

    assert settled(an_attempt(delivery, outcome)).notices == {}
    assert settle_expired(delivery, NOW).notices == {}


def test_an_attempt_that_lacks_an_outcome_is_our_own_mistake() -> None:
    attempt = replace(an_attempt(a_delivery(), QUEUED), outcomes={})

    with pytest.raises(KeyError):
        settled(attempt)


def test_a_reply_of_several_lines_with_controls_is_one_escaped_line() -> None:
    hostile = Failed(Reply(550, "no\nDelivered\x1b[2J\x00\udcff\u202e"), scope=Scope.MESSAGE)

    recipient = alone(an_attempt(a_delivery(), hostile))

    assert recipient.reply == "550 no Delivered\\x1b[2J\\x00\\xff\\u202e"


@given(st.text(max_size=3000))
def test_any_text_becomes_one_bounded_line_that_every_part_can_store(text: str) -> None:
    line = single_line(text)

    assert len(line) <= MAX_REPLY
    assert len(line.splitlines()) <= 1
    assert not any(c < " " or "\x7f" <= c <= "\x9f" for c in line)
    line.encode("utf-8")
    assert single_line(line) == line
