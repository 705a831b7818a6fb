"""What senders were told: of each failure, delay and success exactly what they asked for, once.

A notification is read as its reader would: by the fields of its message/delivery-status part (RFC 3464).
"""

from __future__ import annotations

import re
from collections import Counter

from relayd.mail.recipient import Notify, Recipient, Status
from tests.simulation.facts import Facts
from tests.simulation.scenario import Drop
from tests.simulation.world import World

_TOLD = re.compile(rb"^Final-Recipient: rfc822; (\S+)\r\nAction: (\w+)\r$", re.MULTILINE)


def judge_notices(world: World) -> None:
    """Note every promise that was broken."""
    facts, tables = world.facts, world.disk.tables
    told: Counter[tuple[str, str]] = Counter()
    for message_id in (*tables.history, *tables.messages):
        if message_id in facts.made:
            told.update(_told(facts.made[message_id]))
    for notice in tables.notices.values():
        facts.breach(f"{notice.id} is owed for {notice.message.message.id}")
    found = _recipients(world)
    for drop in facts.dropped.values():
        for to in drop.to:
            if recipient := found.get(to.address):
                _judge(world, facts, drop, recipient, told)


def _told(content: bytes) -> list[tuple[str, str]]:
    return [(address.decode(), action.decode()) for address, action in _TOLD.findall(content)]


def _recipients(world: World) -> dict[str, Recipient]:
    tables = world.disk.tables
    rows = [row.recipient for message in tables.messages.values() for row in message.rows]
    past = [recipient for each in tables.history.values() for recipient in each.row.recipients]
    return {str(each.address): each for each in (*rows, *past)}


def _judge(world: World, facts: Facts, drop: Drop, recipient: Recipient, told: Counter[tuple[str, str]]) -> None:
    address = str(recipient.address)
    wanted = Notify.FAILURE | Notify.DELAY if recipient.notify is None else recipient.notify
    if not drop.sender:
        wanted = Notify.NEVER
    failed, delayed, relayed = (told[address, action] for action in ("failed", "delayed", "relayed"))
    due = int(recipient.status is Status.FAILED and Notify.FAILURE in wanted)
    if failed != due:
        facts.breach(f"{address} is {recipient.status.value}: its failure was told {failed} times, not {due}")
    if delayed > int(Notify.DELAY in wanted):
        facts.breach(f"{address} ({recipient.notify}): its delay was told {delayed} times")
    if world.scenario.quiet and _late(world, drop, recipient) and Notify.DELAY in wanted and not delayed:
        facts.breach(f"{address} waited until {recipient.attempted}, and nobody was told")
    _judge_success(facts, address, recipient, wanted, relayed)


def _late(world: World, drop: Drop, recipient: Recipient) -> bool:
    """Whether it was tried last so late that its sender must have been told of the delay."""
    rules = world.scenario.rules
    if not rules.warn_after or recipient.attempted is None:
        return False
    waited = (recipient.attempted - world.started).total_seconds() - drop.at
    return waited > rules.warn_after + 3 * rules.check_interval + 60


def _judge_success(facts: Facts, address: str, recipient: Recipient, wanted: Notify, relayed: int) -> None:
    takes = [each for key, takes in facts.takes.items() if key[1] == address for each in takes] if relayed else []
    asked = Notify.SUCCESS in wanted and recipient.status is Status.DELIVERED
    if not asked and relayed:
        facts.breach(f"{address} is {recipient.status.value}: its success was told {relayed} times")
    elif asked and relayed != 1 and not facts.any_with_dsn(address):
        facts.breach(f"{address} was delivered, and that was told {relayed} times")
    elif relayed and takes and all(each.dsn for each in takes):
        facts.breach(f"{address}: its success was told, though the server will tell of it")
