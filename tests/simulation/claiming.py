"""What is due and who gets it, what is too old, and who has what in flight: jobs on the tables in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from heapq import heappop, heappush, nsmallest
from itertools import chain, zip_longest

from relayd.mail.delivery import Delivery
from relayd.mail.recipient import Recipient, Status
from relayd.spool.queue import Due, Lease
from tests.simulation.settling import finish_removals, witnessed
from tests.simulation.tables import TURNS, Entry, LeaseRow, MessageRow, Place, Row, Tables

MAX_COUNTED = 500  # recipients counted of one destination
MAX_RECIPIENTS = 1_000  # of one delivery
INSTANT = timedelta(microseconds=1)


def due(db: Tables, now: datetime, limit: int) -> list[Due]:
    """See the contract."""
    end_leases(db, now)
    db.waiting.advance(now)
    found = ((place.since, name, place.count) for name, place in db.waiting.due.items())
    return [
        Due(destination=name, recipients=min(count, MAX_COUNTED), since=since)
        for since, name, count in nsmallest(limit, found)
    ]


def next_due(db: Tables, now: datetime) -> datetime | None:
    """See the contract."""
    db.waiting.advance(now)
    return db.waiting.next()


def claim(
    db: Tables, owner: str, destinations: Collection[str], limit: int, now: datetime, until: datetime
) -> list[Delivery]:
    """See the contract."""
    end_leases(db, now)
    db.waiting.advance(now)
    at = frozenset(destinations)
    places = [db.waiting.due[name] for name in sorted(at) if name in db.waiting.due]
    urgent, fresh, tried = (_longest_due(places, turn, limit) for turn in TURNS)
    others = chain.from_iterable(zip_longest(fresh, tried))
    chosen = dict.fromkeys(message for message in (*urgent, *others) if message is not None)

    def wanted(row: Row) -> bool:
        return row.ripe and row.recipient.destination in at

    return _lease(db, owner, until, list(chosen)[:limit], wanted)


def _longest_due(places: Iterable[Place], turn: int, limit: int) -> list[MessageRow]:
    """Return the `limit` messages of a turn that are due longest."""
    found: dict[MessageRow, datetime] = {}
    for place in places:
        looked: list[Entry] = []
        here: set[MessageRow] = set()
        while len(here) < limit and (entry := place.first(turn)):
            looked.append(heappop(place.turns[turn]))
            message = entry[2].message
            here.add(message)
            found[message] = min(entry[0], found.get(message, entry[0]))
        for entry in looked:
            heappush(place.turns[turn], entry)
    return nsmallest(limit, found, key=found.__getitem__)


def _lease(
    db: Tables, owner: str, until: datetime, messages: Sequence[MessageRow], wanted: Callable[[Row], bool]
) -> list[Delivery]:
    """Take what waits of these messages, as far as it is wanted, under a new lease."""
    if not messages:
        return []
    db.last_lease += 1
    number = db.last_lease
    lease = db.leases[number] = LeaseRow(owner, until)
    heappush(db.lease_ends, (until, number))
    deliveries = []
    for message in messages:
        rows = [row for row in message.rows if row.waits and wanted(row)][:MAX_RECIPIENTS]
        for row in rows:
            row.lease = number
            lease.rows[row] = None
            db.changed(row)
        deliveries.append(_delivery(message, [row.recipient for row in rows], number))
    return deliveries


def _delivery(row: MessageRow, recipients: Iterable[Recipient], lease: int) -> Delivery:
    message = row.message
    return Delivery(
        id=message.id,
        reverse_path=message.envelope.reverse_path,
        recipients=tuple(recipients),
        body=message.body,
        arrived=message.arrived,
        lease=lease,
        ret=message.envelope.ret,
        envid=message.envelope.envid,
        tls=message.envelope.tls,
        notification=message.notification,
        deadline=message.envelope.deadline,
    )


# what is too old


def expire(
    db: Tables, owner: str, arrived_before: datetime, limit: int, now: datetime, until: datetime
) -> list[Delivery]:
    """See the contract."""
    end_leases(db, now)
    claimed = _lease(db, owner, until, overdue(db, arrived_before, limit, now), lambda row: True)
    return [replace(each, recipients=witnessed(db, each.recipients)) for each in claimed]


def overdue(db: Tables, arrived_before: datetime, limit: int, now: datetime) -> list[MessageRow]:
    """Return up to `limit` messages: those past their deadline, then the oldest."""
    over, old = db.ending.take(now + INSTANT), db.arrived.take(arrived_before)
    db.ending.restore(over)
    db.arrived.restore(old)
    found = dict.fromkeys(db.messages[message] for _, message in (*over, *old))
    return [each for each in found if not each.held and any(row.waits for row in each.rows)][:limit]


# leases


def leases(db: Tables) -> list[Lease]:
    """See the contract."""
    return [_named(number, lease) for number, lease in db.leases.items()]


def leased(db: Tables, message_id: str) -> dict[int, Lease]:
    """See the contract."""
    rows = db.messages[message_id].rows if message_id in db.messages else []
    return {
        row.recipient.number: _named(row.lease, db.leases[row.lease])
        for row in rows
        if row.lease is not None and row.lease in db.leases
    }


def _named(number: int, lease: LeaseRow) -> Lease:
    return Lease(number=number, owner=lease.owner, ends=lease.ends, recipients=len(lease.rows))


def end_leases(db: Tables, now: datetime) -> None:
    """Clear away leases that have ended; what is still in flight under one is marked."""
    while db.lease_ends and db.lease_ends[0][0] < now:
        ends, number = heappop(db.lease_ends)
        lease = db.leases.get(number)
        if lease is None or lease.ends != ends:
            continue  # it was renewed
        rows = list(lease.rows)
        db.lapsed += len(rows)
        for row in rows:
            if not row.recipient.status.final:
                row.recipient = replace(row.recipient, status=Status.DEFERRED, possible_duplicate=True)
            db.free(row)
        del db.leases[number]
        finish_removals(db, [row.message for row in rows], now)


def renew(db: Tables, owner: str, numbers: Collection[int], until: datetime) -> None:
    """See the contract."""
    for number in numbers:
        lease = db.leases.get(number)
        if lease is not None and lease.owner == owner:
            lease.ends = until
            heappush(db.lease_ends, (until, number))


def give_back(db: Tables, deliveries: Sequence[Delivery]) -> None:
    """See the contract; what was removed meanwhile is removed now."""
    removing = []
    for delivery in deliveries:
        message = db.messages.get(delivery.id)
        for recipient in delivery.recipients if message else ():
            assert message is not None
            row = message.rows[recipient.number]
            if row.lease == delivery.lease:
                db.free(row)
                if row.removing:
                    removing.append(message)
    finish_removals(db, removing, None)


def withdrawn(db: Tables) -> frozenset[str]:
    """See the contract."""
    rows = (row for lease in db.leases.values() for row in lease.rows)
    return frozenset(row.message.message.id for row in rows if row.message.held or row.removing)


def leave(db: Tables, owner: str) -> None:
    """Record that an owner stopped in order."""
    for lease in db.leases.values():
        lease.left = lease.left or lease.owner == owner
