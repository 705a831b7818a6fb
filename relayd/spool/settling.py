"""How attempts change the queue.

`settled` is the pure decision for one recipient; `settle` is a job on a `Database`.  The common case, a message with
one recipient that is delivered, costs one look-up, two deletions and a row of history.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from relayd.mail.attempt import Tried
from relayd.mail.recipient import CHANGES, Recipient, Status
from relayd.mail.settlement import Action, Settlement
from relayd.spool.attempts import Remembered, remember
from relayd.spool.database import AMONG, Database, as_set, in_one_row, insert, rows_in
from relayd.spool.history import INTO_HISTORY, count_closed, forget_messages, history_values, record_late_delivery
from relayd.spool.notices import owe, prune
from relayd.spool.rows import RELEASE, UPDATE_RECIPIENT, changed_values, sender_text

SELECT_STANDING = in_one_row(
    """
    r.message, r.number, r.status, r.lease, r.removing, r.possible_duplicate, m.total,
    EXISTS (SELECT 1 FROM notices WHERE notices.message = r.message)
    """,
    """
    json_each(?) AS wanted
    CROSS JOIN recipients AS r
        ON r.message = json_extract(wanted.value, '$[0]') AND r.number = json_extract(wanted.value, '$[1]')
    CROSS JOIN messages AS m ON m.id = r.message
    """,
)


class Standing(NamedTuple):
    """How a recipient stands in the queue."""

    status: Status
    lease: int | None
    removing: bool
    possible_duplicate: bool
    total: int  # recipients of its message
    owing: bool  # a notice is owed for its message


def settled(before: Standing, lease: int, after: Recipient) -> Recipient | None:
    """Return the recipient as it is to be recorded, None if it stays as it is.

    A report under a lease that has ended counts for nothing, since somebody else may be trying now; but Delivered
    tells what happened.  A removal asked for meanwhile takes the place of anything else.
    """
    delivered = after.status is Status.DELIVERED
    if before.lease != lease and not delivered:
        return None
    if before.removing and not delivered:
        after = replace(after, status=Status.REMOVED)
    if after.status not in CHANGES[before.status]:
        return None
    if before.possible_duplicate and not after.possible_duplicate:
        after = replace(after, possible_duplicate=True)
    return after


@dataclass(slots=True)
class _Changes:
    """What one call changes, gathered so that each kind is written at once."""

    finished: list[tuple[Any, ...]] = field(default_factory=list)  # history rows of messages with one recipient
    changed: list[tuple[Any, ...]] = field(default_factory=list)
    released: list[tuple[Any, ...]] = field(default_factory=list)
    closed: Counter[str] = field(default_factory=Counter)
    notices: dict[str, dict[int, Action]] = field(default_factory=dict)
    owing: set[str] = field(default_factory=set)
    late: list[tuple[str, Recipient, Tried | None]] = field(default_factory=list)
    remembered: list[Remembered] = field(default_factory=list)
    alive: set[str] = field(default_factory=set)  # settled normally, and still there


def settle(db: Database, settlements: Sequence[Settlement], new_id: Callable[[], str]) -> None:
    """See the contract."""
    standing = _standing(db, settlements)
    changes = _Changes()
    for settlement in settlements:
        told = [_judge(changes, standing, settlement, recipient) for recipient in settlement.recipients]
        if settlement.tried is not None and (of := [recipient for recipient in told if recipient is not None]):
            changes.remembered.append(Remembered(settlement.delivery.id, settlement.tried, of))
    _write(db, changes, new_id)


def _standing(db: Database, settlements: Iterable[Settlement]) -> dict[tuple[str, int], Standing]:
    wanted = as_set((s.delivery.id, recipient.number) for s in settlements for recipient in s.recipients)
    return {
        (message, number): Standing(Status(status), lease, bool(removing), bool(marked), total, bool(owing))
        for message, number, status, lease, removing, marked, total, owing in rows_in(
            db.execute(SELECT_STANDING, (wanted,))
        )
    }


def _judge(
    changes: _Changes, standing: dict[tuple[str, int], Standing], settlement: Settlement, recipient: Recipient
) -> Recipient | None:
    """Return the recipient as it stands after the attempt, if that is to be remembered."""
    delivery, number = settlement.delivery, recipient.number
    before = standing.get((delivery.id, number))
    if before is None:
        if recipient.status is Status.DELIVERED:
            changes.late.append((delivery.id, recipient, settlement.tried))
        return None
    after = settled(before, delivery.lease, recipient)
    if after is None:
        if before.lease == delivery.lease:
            changes.released.append((delivery.id, number, delivery.lease))
        return None
    # The same recipient may be told of twice in one call.
    standing[delivery.id, number] = before._replace(status=after.status, lease=None, removing=False)
    notice = settlement.notices.get(number) if after.status is recipient.status and delivery.reverse_path else None
    if before.total == 1 and after.status.final and not (notice or before.owing or before.status.final):
        sender, size = sender_text(delivery.reverse_path), delivery.body.size
        tried = settlement.tried
        shown = tried is not None and bool(tried.transcript)
        values = history_values(delivery.id, sender, size, delivery.arrived, (after,), None, None if shown else tried)
        changes.finished.append(values)
        del standing[delivery.id, number]
        return after if shown else None
    changes.changed.append(changed_values(delivery.id, after, delivery.arrived))
    changes.alive.add(delivery.id)
    if after.status.final and not before.status.final:
        changes.closed[delivery.id] += 1
    if notice:
        changes.notices.setdefault(delivery.id, {})[number] = notice
    if before.owing:
        changes.owing.add(delivery.id)
    return after


def _write(db: Database, changes: _Changes, new_id: Callable[[], str]) -> None:
    if changes.finished:
        insert(db, INTO_HISTORY, changes.finished)
        forget_messages(db, [row[0] for row in changes.finished])
    db.executemany(UPDATE_RECIPIENT, changes.changed)
    if changes.released:
        db.execute(RELEASE, (as_set(changes.released),))
    if changes.alive:
        db.execute(f"UPDATE messages SET deaths = 0 WHERE deaths > 0 AND id {AMONG}", (as_set(changes.alive),))
    if changes.owing:
        prune(db, changes.owing)
    for message, notices in changes.notices.items():
        owe(db, message, notices, new_id)
    if changes.alive:
        count_closed(db, dict.fromkeys(changes.owing, 0) | changes.closed, None)
    if changes.remembered:
        remember(db, changes.remembered)
    for message, recipient, tried in changes.late:
        record_late_delivery(db, message, recipient, tried)
