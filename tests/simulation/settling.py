"""How messages come into the queue, how attempts change it, what is owed for them and how they end: jobs on the
tables in memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from heapq import nlargest, nsmallest

from relayd.mail.address import Address
from relayd.mail.attempt import PastAttempt, Tried
from relayd.mail.key import KEPT, SubmissionKey
from relayd.mail.message import Message
from relayd.mail.recipient import CHANGES, Notify, Recipient, Status
from relayd.mail.settlement import Action, Notice, Settlement
from relayd.spool.attempts import ATTEMPTS_KEPT, TRANSCRIPTS_KEPT, Remembered, outcomes
from relayd.spool.queue import Finished, HistoryRow
from relayd.spool.rows import sender_text, storable
from relayd.spool.settling import Standing, settled
from tests.simulation.tables import (
    BODY_FINISHED,
    BODY_GONE,
    BODY_KEPT,
    Agenda,
    MessageRow,
    NoticeRow,
    Past,
    Row,
    Tables,
)

LARGEST = 2**63  # what a column of numbers holds is smaller
NOTIFYING = timedelta(microseconds=1)
STILL_TRUE = {
    Action.FAILED: frozenset({Status.FAILED}),
    Action.DELAYED: frozenset({Status.QUEUED, Status.DEFERRED}),
    Action.RELAYED: frozenset({Status.DELIVERED}),
}

NewId = Callable[[], str]


# arrival


def known(db: Tables, message_ids: Collection[str]) -> set[str]:
    """Return those of the ids that are in the queue or in the history."""
    return {each for each in message_ids if each in db.messages or each in db.history}


def add(db: Tables, messages: Sequence[Message]) -> dict[str, str]:
    """See the contract."""
    by_id = {message.id: message for message in messages}
    there = known(db, by_id)
    if any(message.body.size >= LARGEST for message in messages):
        raise OverflowError("a size that cannot be stored")
    unknown = [message for message in by_id.values() if message.id not in there]
    repeats = _repeated(db, unknown)
    new = [_added(db, replace(message, key=None)) for message in unknown if message.id not in repeats]
    finish(db, new, None)
    if any(message.notification for message in messages):
        settle_debts(db, by_id)
    return repeats


def _repeated(db: Tables, messages: Sequence[Message]) -> dict[str, str]:
    repeats = {}
    for message in messages:
        if message.key is None:
            continue
        first = keyed(db, message.key, message.arrived)
        if first is None:
            db.keys[message.key] = message.id, message.arrived
        elif first != message.id:
            repeats[message.id] = first
    return repeats


def keyed(db: Tables, key: SubmissionKey, now: datetime) -> str | None:
    """See the contract."""
    first, arrived = db.keys.get(key, ("", now - KEPT))
    return first if arrived > now - KEPT else None


def forget_keys(db: Tables, arrived_before: datetime, limit: int) -> int:
    """See the contract."""
    old = sorted((arrived, key.owner, key.text) for key, (_, arrived) in db.keys.items() if arrived < arrived_before)
    for _, owner, text in old[:limit]:
        del db.keys[SubmissionKey(owner, text)]
    return len(old[:limit])


def _added(db: Tables, message: Message) -> MessageRow:
    added = db.messages[message.id] = MessageRow(message, held=message.held)
    for recipient in message.envelope.recipients:
        due = None if recipient.status.final else recipient.due or message.arrived
        stored = replace(recipient, due=due, reply=storable(recipient.reply), peer=storable(recipient.peer))
        added.rows.append(Row(added, stored))
    added.open = sum(not row.recipient.status.final for row in added.rows)
    for row in added.rows:
        db.changed(row)
    _note_times(db, message)
    if message.envelope.reverse_path is None:
        added.warned = 2
    return added


def _note_times(db: Tables, message: Message) -> None:
    db.arrived.add(message.arrived, message.id)
    if message.envelope.reverse_path is not None:
        db.unwarned.add(message.arrived, message.id)
    deadline = message.envelope.deadline
    if deadline is not None and deadline.ends:
        db.ending.add(deadline.at, message.id)
    elif deadline is not None and deadline.at > message.arrived:
        db.notifying.add(deadline.at, message.id)


# attempts


def settle(db: Tables, settlements: Sequence[Settlement], new_id: NewId) -> None:
    """See the contract."""
    for settlement in settlements:
        told = [_settle(db, settlement, recipient, new_id) for recipient in settlement.recipients]
        if settlement.tried is not None and (of := [each for each in told if each is not None]):
            _remember(db, Remembered(settlement.delivery.id, settlement.tried, of))


def _remember(db: Tables, attempt: Remembered) -> None:
    kept = db.attempts.setdefault(attempt.message_id, [])
    same = [each for each in kept if each.first == attempt.first]
    if len(same) >= ATTEMPTS_KEPT:
        kept.remove(same[0])
    if len(same) >= TRANSCRIPTS_KEPT:
        last = same[-TRANSCRIPTS_KEPT]
        kept[kept.index(last)] = last._replace(tried=replace(last.tried, transcript=()))
    kept.append(attempt)


def attempts(db: Tables, message_id: str) -> list[PastAttempt]:
    """See the contract."""
    found = sorted(db.attempts.get(message_id, []), key=lambda each: (each.tried.ended, each.first))
    return [PastAttempt(tried=each.tried, outcomes=outcomes(each.recipients)) for each in found]


def messages_to(db: Tables, address: Address, limit: int) -> list[str]:
    """See the contract."""
    waiting = {each.message.id for each in db.messages.values() if _has(each.message.envelope.recipients, address)}
    past = {each.row.id for each in db.history.values() if _has(each.row.recipients, address)}
    return nlargest(limit, waiting | past)


def _has(recipients: Iterable[Recipient], address: Address) -> bool:
    return any(recipient.address.is_like(address) for recipient in recipients)


def _settle(db: Tables, settlement: Settlement, recipient: Recipient, new_id: NewId) -> Recipient | None:
    delivery, number = settlement.delivery, recipient.number
    message = db.messages.get(delivery.id)
    if message is None:
        if recipient.status is Status.DELIVERED:
            _record_late_delivery(db, delivery.id, recipient, settlement.tried)
        return None
    row = message.rows[number]
    before = row.recipient
    standing = Standing(before.status, row.lease, row.removing, before.possible_duplicate, len(message.rows), False)
    after = settled(standing, delivery.lease, recipient)
    if after is None:
        if row.lease == delivery.lease:
            db.free(row)
        return None
    due = None if after.status.final else after.due or after.attempted or delivery.arrived
    via = row.recipient.via  # it may have been redirected meanwhile
    row.recipient = replace(after, due=due, reply=storable(after.reply), peer=storable(after.peer), via=via)
    row.removing = False
    message.deaths = 0
    db.free(row)
    db.changed(row)
    message.open -= after.status.final and not before.status.final
    if message.notices:
        prune(db, [message])
    if number in settlement.notices and after.status is recipient.status and delivery.reverse_path:
        owe(db, message, {number: settlement.notices[number]}, new_id)
    finish(db, [message], None)
    return after


def _record_late_delivery(db: Tables, message_id: str, delivered: Recipient, tried: Tried | None) -> None:
    past = db.history.get(message_id)
    if past is None:
        return
    recipients = tuple(
        replace(delivered, due=None, possible_duplicate=delivered.possible_duplicate or known.possible_duplicate)
        if known.number == delivered.number and Status.DELIVERED in CHANGES[known.status]
        else known
        for known in past.row.recipients
    )
    past.row = replace(past.row, recipients=recipients)
    if tried is not None:
        _remember(db, Remembered(message_id, tried, [delivered]))


# the end


def finish_removals(db: Tables, messages: Iterable[MessageRow], now: datetime | None) -> None:
    """Make recipients removed whose removal had to wait for the end of their claim."""
    for message in dict.fromkeys(messages):
        for row in message.rows:
            if row.removing and row.lease is None and not row.recipient.status.final:
                row.recipient = replace(row.recipient, status=Status.REMOVED, due=None)
                row.removing = False
                message.open -= 1
                db.changed(row)
        finish(db, [message], now)


def finish(db: Tables, messages: Iterable[MessageRow], now: datetime | None) -> None:
    """Move to the history those of the messages that have all their recipients final and owe no notice."""
    for each in messages:
        if each.open or each.notices or each.message.id not in db.messages:
            continue
        recipients = tuple(replace(row.recipient, due=None, via="") for row in each.rows)
        row = _history_row(each.message, recipients, now)
        kept = not row.sender and any(recipient.status is Status.FAILED for recipient in recipients)
        db.history[row.id] = Past(row, BODY_KEPT if kept else BODY_FINISHED)
        if kept:
            db.old.add(row.finished, row.id)
        else:
            db.to_unlink[row.id] = None
        del db.messages[row.id]


def _history_row(message: Message, recipients: tuple[Recipient, ...], now: datetime | None) -> HistoryRow:
    return HistoryRow(
        id=message.id,
        arrived=message.arrived,
        finished=now or max((each.attempted for each in recipients if each.attempted), default=message.arrived),
        sender=sender_text(message.envelope.reverse_path),
        size=message.body.size,
        recipients=recipients,
    )


def finished(db: Tables, since: datetime) -> Finished:
    """See the contract."""
    rows = [past.row for past in db.history.values() if past.row.finished >= since]
    delivered = [row for row in rows if any(one.status is Status.DELIVERED for one in row.recipients)]
    took = sorted(row.finished - row.arrived for row in delivered)
    return Finished(
        messages=len(rows),
        recipients=Counter(one.status for row in rows for one in row.recipients),
        median=took[math.ceil(0.5 * len(took)) - 1] if took else None,
        slow=took[math.ceil(0.95 * len(took)) - 1] if took else None,
    )


def bodies_gone(db: Tables, message_ids: Collection[str]) -> None:
    """Record that bodies are unlinked."""
    for each in message_ids:
        past = db.history.get(each)
        if past is not None and past.body != BODY_GONE:
            past.body = BODY_GONE
            db.to_unlink.pop(each, None)
            db.old.add(past.row.finished, each)


def any_to_forget(db: Tables, finished_before: datetime) -> bool:
    """Whether `forget` would find something."""
    old = db.old.take(finished_before)
    db.old.restore(old)
    return bool(old)


def forget(db: Tables, finished_before: datetime, limit: int) -> int:
    """Drop old rows whose bodies are gone, give up the bodies that were kept; return how many rows were dropped."""
    old = db.old.take(finished_before)
    db.old.restore(old[limit:])
    dropped = 0
    for _, message in old[:limit]:
        if db.history[message].body == BODY_GONE:
            del db.history[message]
            db.attempts.pop(message, None)
            dropped += 1
        else:
            db.history[message].body = BODY_FINISHED
            db.to_unlink[message] = None
    return dropped


# notices


def owe(db: Tables, message: MessageRow, notices: Mapping[int, Action], new_id: NewId) -> None:
    """Record of which recipients of a message, by number, its sender must be told what."""
    for number, action in notices.items():
        for notice in message.notices:
            if notice.action is action and not notice.handed:
                notice.numbers.add(number)
                break
        else:
            notice = NoticeRow(new_id(), message, action, {number})
            message.notices.append(notice)
            db.notices[notice.id] = notice


def prune(db: Tables, messages: Iterable[MessageRow]) -> None:
    """Take out of the notices of these messages what has ceased to be true, unless it is being told already."""
    for message in messages:
        for notice in [each for each in message.notices if not each.handed]:
            statuses = STILL_TRUE[notice.action]
            notice.numbers = {each for each in notice.numbers if message.rows[each].recipient.status in statuses}
            if not notice.numbers:
                _forget_notice(db, notice)


def _forget_notice(db: Tables, notice: NoticeRow) -> None:
    del db.notices[notice.id]
    notice.message.notices.remove(notice)


def hand_out(db: Tables, limit: int) -> list[Notice]:
    """Return notices that are owed, oldest first; their recipients are fixed from now on."""
    notices = [db.notices[each] for each in nsmallest(limit, db.notices)]
    for each in notices:
        each.handed = True
    return [_notice(db, each) for each in notices]


def _notice(db: Tables, notice: NoticeRow) -> Notice:
    message = notice.message.message
    reverse_path = message.envelope.reverse_path
    assert reverse_path is not None  # `owe` is not called for a message from <>
    told = (notice.message.rows[number].recipient for number in sorted(notice.numbers))
    return Notice(
        id=notice.id,
        action=notice.action,
        message_id=message.id,
        reverse_path=reverse_path,
        recipients=witnessed(db, told),
        body=message.body,
        arrived=message.arrived,
        ret=message.envelope.ret,
        envid=message.envelope.envid,
        tls=message.envelope.tls,
        deadline=message.envelope.deadline,
    )


def settle_debts(db: Tables, notice_ids: Iterable[str]) -> None:
    """Forget notices that were made or cannot be; messages that waited for nothing else finish."""
    for notice in [db.notices[each] for each in notice_ids if each in db.notices]:
        _forget_notice(db, notice)
        finish(db, [notice.message], None)


def warn(db: Tables, arrived_before: datetime | None, limit: int, now: datetime, new_id: NewId) -> int:
    """See the contract."""
    warned = _warn_by(db, db.notifying, now + NOTIFYING, 2, limit, new_id)
    if arrived_before is not None:
        warned += _warn_by(db, db.unwarned, arrived_before, 1, limit - warned, new_id)
    return warned


def _warn_by(db: Tables, agenda: Agenda, before: datetime, level: int, limit: int, new_id: NewId) -> int:
    warned, later = 0, []
    for at, message_id in agenda.take(before):
        message = db.messages[message_id]
        if message.warned >= level:
            continue
        if message.held or not message.open or warned == limit:
            later.append((at, message_id))
            continue
        message.warned = level
        late = {row.recipient.number: Action.DELAYED for row in message.rows if _may_be_told_of_delay(row)}
        owe(db, message, late, new_id)
        warned += bool(late)
    agenda.restore(later)
    return warned


def _may_be_told_of_delay(row: Row) -> bool:
    wanted = row.recipient.notify is None or Notify.DELAY in row.recipient.notify
    return wanted and not row.recipient.status.final and not row.removing


# sites


def witnessed(db: Tables, recipients: Iterable[Recipient]) -> tuple[Recipient, ...]:
    """Return recipients, those that were never tried with what their site answered last, if it is out of reach."""
    return tuple(_witnessed(db, each) for each in recipients)


def _witnessed(db: Tables, recipient: Recipient) -> Recipient:
    if recipient.status is not Status.QUEUED or recipient.reply:
        return recipient
    where = db.destinations.get(recipient.destination)
    site = db.sites.get(where[0]) if where else None
    return recipient if site is None else replace(recipient, reply=site.reply, dsn=site.dsn, peer=site.peer)
