"""What relayd makes of a spool after a power cut, and whether that is right: here, by the daemon's own parts.

They do what a start of the daemon does before it sends anything: `Spool.open`, what was half taken in goes back, files
are taken, bodies without rows are adopted, finished ones go.  Then every recipient has to be in one place: waiting with
its body, whole, or final as its server has answered, with its sender told or to be told once.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from relayd.health import Health
from relayd.intake import Intake
from relayd.mail.events import Degraded, Event, FileLeft, FileRejected, Trouble
from relayd.orphans import Orphans
from relayd.spool.rows import compacted
from relayd.spool.spool import Spool
from relayd.submission.pickup import Pickup
from relayd.submission.settings import SubmissionSettings
from tests.kills.stories import Letter, Story

HOSTNAME = "relay.test"
HISTORY = timedelta(days=3)
PATIENCE = 20.0  # seconds
WAITING = ("queued", "deferred")

_EXPECTED = re.compile(r"lock|queue\.db|tlsrpt\.db(-\w+)?|queue/notes\.[0-9A-Z]{20}")


@dataclass(kw_only=True)
class Place:
    """Where a recipient is: a row of the queue or of the history."""

    message: str
    status: str
    marked: bool


@dataclass(kw_only=True)
class Revived:
    """What was found.  `told` has the notifications that are owed, queued or finished, by the recipients they name."""

    places: defaultdict[str, list[Place]] = field(default_factory=lambda: defaultdict(list))
    told: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    queued: set[str] = field(default_factory=set)
    bodies: dict[str, bytes] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)  # bodies of <>
    marked: int = 0
    faults: list[str] = field(default_factory=list)


def revive(spool: Path, named: dict[str, tuple[str, ...]]) -> Revived:
    """Start on a spool, and end.  `named`: the recipients that each notification of the recording names."""
    revived = Revived()
    try:
        asyncio.run(_started(spool, revived))
    except Exception as error:
        revived.faults.append(f"it did not start: {error!r}")
        return revived
    _read(spool, revived, named)
    return revived


async def _started(root: Path, revived: Revived) -> None:
    def heard(event: Event) -> None:
        if isinstance(event, Degraded | Trouble | FileLeft | FileRejected):
            revived.faults.append(str(event))

    now = datetime.now(UTC)
    spool = await Spool.open(root, now=now, history=HISTORY, events=heard)
    try:
        revived.marked = len(spool.taken_over.marked)
        settings = SubmissionSettings(hostname=HOSTNAME, origin=HOSTNAME, spool=root, settle_time=timedelta())
        pickup = Pickup(settings, clock=lambda: datetime.now(UTC), events=heard)
        known = await spool.incoming_known()
        await pickup.restore_incoming(known.__contains__)
        health = Health(heard)
        intake = Intake(pickup, spool, arrived=lambda _: None, health=health, events=heard, monotonic=time.monotonic)
        orphans = Orphans(
            pickup,
            spool,
            arrived=lambda _: None,
            health=health,
            events=heard,
            over=lambda: None,
            busy=lambda: False,
            monotonic=time.monotonic,
        )
        async with asyncio.timeout(PATIENCE):
            await orphans.adopt_all()
            while intake.waiting:
                await intake.take_in(_nothing)
            await spool.sweep(now)
    finally:
        await spool.close()


async def _nothing() -> None:
    pass


def _read(root: Path, revived: Revived, named: dict[str, tuple[str, ...]]) -> None:
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if re.fullmatch(r"queue/../[0-9A-Z]{20}", name):
            revived.bodies[path.name] = path.read_bytes()
        elif not path.is_dir() and not _EXPECTED.fullmatch(name):
            revived.faults.append(f"{name} is left")
    with sqlite3.connect(f"file:{root / 'queue.db'}?immutable=1", uri=True) as database:
        _read_queue(database, revived)
        _read_history(database, revived, named)
    database.close()


def _read_queue(database: sqlite3.Connection, revived: Revived) -> None:
    revived.queued.update(each for (each,) in database.execute("SELECT id FROM messages"))
    for message, address, status, marked, notification in database.execute(
        "SELECT message, local_part || '@' || destination, status, possible_duplicate, notification"
        " FROM recipients JOIN messages ON messages.id = message"
    ):
        revived.places[address].append(Place(message=message, status=status, marked=bool(marked)))
        if notification:
            for named in re.findall(
                rb"^Final-Recipient: rfc822; *(\S+)", revived.bodies.get(message, b""), re.MULTILINE
            ):
                revived.told[named.decode()].add(message)
    for notice, message, numbers in database.execute("SELECT id, message, numbers FROM notices"):
        for number in json.loads(numbers):
            ((address,),) = database.execute(
                "SELECT local_part || '@' || destination FROM recipients WHERE message = ? AND number = ?",
                (message, number),
            ).fetchall()
            revived.told[address].add(notice)


def _read_history(database: sqlite3.Connection, revived: Revived, named: dict[str, tuple[str, ...]]) -> None:
    for message, recipients, body in database.execute("SELECT id, recipients, body FROM history"):
        for recipient in compacted(recipients):
            place = Place(message=message, status=recipient.status.value, marked=recipient.possible_duplicate)
            revived.places[str(recipient.address)].append(place)
        for address in named.get(message, ()):
            revived.told[address].add(message)
        if body == 2:
            revived.kept.add(message)


def faults(story: Story, revived: Revived, left: Collection[str]) -> Iterator[str]:
    """Judge what was found.  `left`: whose end of data had left, to be taken, before the cut."""
    yield from revived.faults
    for letter in story.letters:
        for address in letter.recipients:
            places = revived.places[address]
            if len(places) != 1:
                yield f"{address} is in {len(places)} places: {places}"
            for place in places:
                yield from _misplaced(letter, address, place, revived, left)
    for each in revived.bodies.keys() - revived.queued - revived.kept:
        yield f"a body without a message is left: {each}"


def _misplaced(letter: Letter, address: str, place: Place, revived: Revived, left: Collection[str]) -> Iterator[str]:
    told = len(revived.told[address])
    if place.status in WAITING:
        if revived.bodies.get(place.message) != letter.octets:
            yield f"{address} waits without its body, {place.message}"
        if address in left and not place.marked:
            yield f"{address} may have arrived, and is not marked"
        if told:
            yield f"{address} waits, and its sender is told"
    elif place.status == "delivered":
        if address not in left:
            yield f"{address} counts as delivered, and was not sent"
    elif place.status != "failed" or address not in letter.refused:
        yield f"{address} is {place.status}"
    elif told != bool(letter.sender):
        yield f"{address} failed, and its sender is told {told} times"
