"""What operators ask of the queue, what a start finds of the dead, and whether the tables agree: jobs on the tables in
memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from heapq import nsmallest

from relayd.mail.address import Address
from relayd.mail.back_off import BackOff
from relayd.mail.message import arrival_of, new_id
from relayd.mail.recipient import Notify, Status
from relayd.mail.settlement import Action
from relayd.spool.arrivals import Strays
from relayd.spool.examination import Examination
from relayd.spool.notes import Claimed, Noted
from relayd.spool.operators import GIVEN_UP, HELD_BY_OPERATOR
from relayd.spool.queue import AGES, TOLD_WITHIN, Bounced, Census, HistoryRow, Listed, Shape
from relayd.spool.rows import storable
from relayd.spool.selection import Chosen, Selection, Waiting
from relayd.spool.sites import FORGOTTEN
from relayd.spool.takeover import MARKED_REPLY, MAX_DEATHS, TakenOver
from tests.simulation.claiming import due, overdue
from tests.simulation.settling import finish, finish_removals, owe, prune, witnessed
from tests.simulation.tables import BODY_GONE, MessageRow, Row, Tables


def strays(db: Tables, message_ids: Collection[str]) -> Strays:
    """Return which of these bodies should not be there."""
    rowless = [each for each in message_ids if each not in db.messages and each not in db.notices]
    revived = {each for each in rowless if each in db.history and db.history[each].body == BODY_GONE}
    orphans = tuple(each for each in rowless if each not in db.history)
    return Strays(orphans=orphans, revived=tuple(each for each in rowless if each in revived))


def unmade(db: Tables) -> list[str]:
    """Return the ids of the notifications that are owed and not in the queue."""
    return [each for each in db.notices if each not in db.messages and each not in db.history]


# operators


def page(db: Tables, selection: Selection, after: str, limit: int) -> tuple[str | None, list[Listed]]:
    """Return the `limit` oldest messages meant whose ids come after `after`, and where the next page begins if any."""
    found = ids(db, selection, after, limit)
    return found[-1] if found else None, [_listed(db, db.messages[each]) for each in found]


def ids(db: Tables, selection: Selection, after: str, limit: int) -> list[str]:
    """See the contract."""
    return nsmallest(limit, (each for each, row in db.messages.items() if each > after and _meant(db, selection, row)))


def chosen(db: Tables, selection: Selection) -> Chosen:
    """See the contract."""
    rows = [row for row in db.messages.values() if _meant(db, selection, row)]
    return Chosen(
        messages=len(rows),
        recipients=sum(row.open for row in rows),
        meant=sum(len(_means(db, selection, row)) for row in rows),
        up_to=max(db.messages, default=""),
    )


def _meant(db: Tables, selection: Selection, row: MessageRow) -> bool:
    message = row.message
    meant = selection.means_message(message.id, message.envelope.reverse_path, message.arrived, held=row.held)
    return meant and (not selection.of_recipients or bool(_means(db, selection, row)))


def _means(db: Tables, selection: Selection, row: MessageRow) -> list[Row]:
    def site(each: Row) -> str | None:
        return db.destinations.get(each.recipient.destination, (None,))[0]

    return [
        each
        for each in row.rows
        if selection.means(each.recipient, in_flight=each.lease is not None, held=row.held, site=site(each))
    ]


def show(db: Tables, message_id: str) -> Listed | HistoryRow | None:
    """See the contract."""
    if message_id in db.messages:
        return _listed(db, db.messages[message_id])
    return db.history[message_id].row if message_id in db.history else None


def _listed(db: Tables, row: MessageRow) -> Listed:
    recipients = witnessed(db, (each.recipient for each in row.rows))
    envelope = replace(row.message.envelope, recipients=recipients)
    return Listed(
        message=replace(row.message, envelope=envelope, held=row.held),
        in_flight=any(each.lease is not None for each in row.rows),
        hold_reason=row.hold_reason,
    )


def _found(db: Tables, message_ids: Collection[str]) -> list[MessageRow]:
    return [db.messages[each] for each in dict.fromkeys(message_ids) if each in db.messages]


def hold(db: Tables, message_ids: Collection[str], reason: str = HELD_BY_OPERATOR) -> int:
    """See the contract."""
    found = _found(db, message_ids)
    for message in found:
        if not message.held:
            message.hold_reason = reason
    return _set_held(db, found, held=True)


def release(db: Tables, message_ids: Collection[str]) -> int:
    """See the contract.  The deaths of the daemon are counted anew."""
    found = _found(db, message_ids)
    for message in found:
        message.hold_reason, message.deaths = "", 0
    return _set_held(db, found, held=False)


def _set_held(db: Tables, messages: Collection[MessageRow], *, held: bool) -> int:
    for message in messages:
        message.held = held
        for row in message.rows:
            db.changed(row)
    return len(messages)


def retry(db: Tables, message_ids: Collection[str], now: datetime) -> int:
    """See the contract."""
    found = _found(db, message_ids)
    for row in _open(found):
        row.recipient = replace(row.recipient, due=now)
        db.changed(row)
    db.sites.clear()
    return len(found)


def redirect(db: Tables, message_ids: Collection[str], route: str, now: datetime) -> int:
    """See the contract."""
    found = _found(db, message_ids)
    for row in _open(found):
        db.move(row, replace(row.recipient, via=route, due=now))
    return len(found)


def bounce(db: Tables, message_ids: Collection[str], reason: str, new_id: Callable[[], str]) -> Bounced:
    """See the contract."""
    found = _found(db, message_ids)
    in_flight = sum(row.lease is not None for message in found for row in message.rows)
    for message in found:
        for row in [row for row in message.rows if row.lease is None and not row.recipient.status.final]:
            one = row.recipient
            row.recipient = replace(one, status=Status.FAILED, due=None, reply=reason, dsn=GIVEN_UP)
            message.open -= 1
            db.changed(row)
            if message.message.envelope.reverse_path and (one.notify is None or Notify.FAILURE in one.notify):
                owe(db, message, {one.number: Action.FAILED}, new_id)
        prune(db, [message])
    finish(db, found, None)
    return Bounced(messages=len(found), in_flight=in_flight)


def clock_was_set(db: Tables, by: timedelta, now: datetime, latest: datetime) -> None:
    """See the contract."""

    def moved(at: datetime) -> datetime:
        return now if at + by > latest else at + by

    for message in db.messages.values():
        if message.message.arrived > now:
            message.message = replace(message.message, arrived=now)
            for agenda in (db.arrived, db.unwarned):
                agenda.add(now, message.message.id)
        for row in message.rows:
            since = row.recipient.attempted or message.message.arrived
            new = timedelta(0) < by and now - min(by, TOLD_WITHIN) <= since <= now
            if row.recipient.due is not None and not new:
                row.recipient = replace(row.recipient, due=moved(row.recipient.due))
                db.changed(row)
    for key, known in db.sites.items():
        db.sites[key] = replace(known, retry_at=moved(known.retry_at), since=min(known.since + by, now))
    for submitted, (message_id, arrived) in db.keys.items():
        earlier = timedelta(0) < by and not now - min(by, TOLD_WITHIN) <= arrived <= now
        if arrived > now or earlier:
            db.keys[submitted] = message_id, min(arrived + by, now)


def remove(db: Tables, message_ids: Collection[str], now: datetime) -> int:
    """See the contract."""
    found = _found(db, message_ids)
    for row in _open(found):
        row.removing = True
    finish_removals(db, found, now)
    left = _found(db, message_ids)
    prune(db, left)
    finish(db, left, now)
    return len(found)


def _open(messages: Iterable[MessageRow]) -> list[Row]:
    return [row for message in messages for row in message.rows if not row.recipient.status.final]


def shape(db: Tables, now: datetime) -> list[Shape]:
    """See the contract."""
    younger = [new_id(now - age + timedelta(milliseconds=1), random=0) for age in AGES]
    places: dict[str, list[Row]] = {}
    for row in _open(db.messages.values()):
        places.setdefault(row.recipient.destination, []).append(row)
    return [_shape(db, name, rows, younger) for name, rows in sorted(places.items())]


def _shape(db: Tables, destination: str, rows: list[Row], younger: list[str]) -> Shape:
    ages = [0] * (len(AGES) + 1)
    counted = [row for row in rows if row.lease is not None or not row.message.held]
    for row in counted:
        ages[next((n for n, first in enumerate(younger) if row.message.message.id >= first), len(AGES))] += 1
    where = db.destinations.get(destination)
    return Shape(
        destination=destination,
        site=where[0] if where else None,
        ages=tuple(ages),
        held=len(rows) - len(counted),
        in_flight=sum(row.lease is not None for row in rows),
        oldest=arrival_of(min(row.message.message.id for row in rows)),
    )


def census(db: Tables, now: datetime) -> Census:
    """See the contract."""
    younger = [new_id(now - age + timedelta(milliseconds=1), random=0) for age in AGES]
    counts = {each: [0] * (len(AGES) + 1) for each in Waiting}
    for row in _open(db.messages.values()):
        age = next((n for n, first in enumerate(younger) if row.message.message.id >= first), len(AGES))
        counts[_how(row)][age] += 1
    return {each: tuple(ages) for each, ages in counts.items()}


def _how(row: Row) -> Waiting:
    if row.lease is not None:
        return Waiting.IN_FLIGHT
    return Waiting.HELD if row.message.held else Waiting(row.recipient.status.value)


def waiting_for(db: Tables, address: Address, limit: int) -> list[str]:
    """See the contract."""
    rows = _open(db.messages.values())
    return sorted({row.message.message.id for row in rows if row.recipient.address.is_like(address)})[:limit]


def foremost(db: Tables, destination: str) -> str | None:
    """See the contract."""
    rows = [row for row in _open(db.messages.values()) if row.recipient.destination == destination]
    if not rows:
        return None
    first = min((row.lease is not None or row.message.held, row.recipient.due, row.message.message.id) for row in rows)
    return first[2]


# sites


def back_off(db: Tables, site: BackOff) -> None:
    """See the contract."""
    if site.failures:
        db.sites[site.site] = replace(site, reply=storable(site.reply), peer=storable(site.peer))
    else:
        db.sites.pop(site.site, None)


def routed(db: Tables, sites: Mapping[str, str], now: datetime) -> None:
    """See the contract."""
    for name in [name for name, (_, seen) in db.destinations.items() if seen < now - FORGOTTEN]:
        del db.destinations[name]
    db.destinations.update((name, (site, now)) for name, site in sites.items())


# what the dead left in flight


def take_over(db: Tables, owner: str, now: datetime, noted: Noted | None) -> TakenOver:
    """End the leases of all owners but `owner`."""
    dead = {number: lease for number, lease in db.leases.items() if lease.owner != owner}
    rows = [(row, number) for number, lease in dead.items() for row in lease.rows]
    sent = [row for row, number in rows if noted is None or (number, row.message.message.id) in noted.ending]
    begun = noted.begun if noted else frozenset[Claimed]()
    in_hand = {
        row.message: None for row, number in rows if (number, row.message.message.id) in begun and not dead[number].left
    }
    _mark(db, sent, now)
    for row, _ in rows:
        db.free(row)
    for number in dead:
        del db.leases[number]
    finish_removals(db, [row.message for row, _ in rows], now)
    return TakenOver(marked=_named(sent), held=_count_deaths(db, in_hand))


def bury(db: Tables, noted: Noted, now: datetime) -> TakenOver:
    """Mark what a worker was ending when it died, and end the claim on that; count the death for what it had begun."""
    numbers = [number for number, _ in sorted(noted.ending) if number in db.leases]
    rows = [(row, number) for number in dict.fromkeys(numbers) for row in db.leases[number].rows]
    sent = [row for row, number in rows if (number, row.message.message.id) in noted.ending]
    _mark(db, sent, now)
    for row in sent:
        db.free(row)
    finish_removals(db, [row.message for row in sent], now)
    return TakenOver(
        marked=_named(sent), held=_count_deaths(db, _found(db, sorted({message for _, message in noted.begun})))
    )


def _mark(db: Tables, rows: Collection[Row], now: datetime) -> None:
    for row in rows:
        if not row.recipient.status.final:
            row.recipient = replace(
                row.recipient, status=Status.DEFERRED, due=now, reply=MARKED_REPLY, possible_duplicate=True
            )
            db.changed(row)


def _named(rows: Collection[Row]) -> tuple[tuple[str, str], ...]:
    return tuple((row.message.message.id, str(row.recipient.address)) for row in rows)


def _count_deaths(db: Tables, in_hand: Iterable[MessageRow]) -> tuple[tuple[str, int], ...]:
    fatal = []
    for message in in_hand:
        message.deaths += 1
        if message.deaths >= MAX_DEATHS and not message.held and message.message.id in db.messages:
            fatal.append(message)
    for message in fatal:
        hold(db, [message.message.id], f"the relay died {message.deaths} times with it in hand")
    return tuple((message.message.id, message.deaths) for message in fatal)


# whether the tables agree


def examine(db: Tables, now: datetime, lifetime: timedelta, patience: timedelta) -> Examination:
    """Return what is wrong in the queue; whatever is to be done in time may be late by `patience`."""
    before = now - patience
    messages = db.messages.items()
    rows = [row for _, message in messages for row in message.rows]
    ended = [lease for lease in db.leases.values() if lease.ends < before]
    live = {id(message) for message in db.messages.values()}
    return Examination(
        miscounted=[each for each, message in messages if message.open != len(_open([message]))],
        unfinished=[each for each, message in messages if not (message.open or message.notices)],
        without_message=[each.message.message.id for each in db.notices.values() if id(each.message) not in live],
        without_lease=[r.message.message.id for r in rows if r.lease is not None and r.lease not in db.leases],
        leased_too_long=[row.message.message.id for lease in ended for row in lease.rows],
        expired=[each.message.id for each in overdue(db, before - lifetime, 1_000, before)],
        owed=[each.message.message.id for name, each in db.notices.items() if name < new_id(before, random=0)],
        not_unlinked=[each for each in db.to_unlink if db.history[each].row.finished < before],
        overdue=due(db, before, 1_000),
    )
