"""The whole examination, in the order in which one thing needs the other."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from relayd.config import load
from relayd.doctor.bodies import of_bodies
from relayd.doctor.directories import of_directories
from relayd.doctor.disk import of_room, room_of
from relayd.doctor.drop import of_drop
from relayd.doctor.finding import Finding, error, warning
from relayd.doctor.overdue import of_overdue
from relayd.doctor.resolver import asked, of_resolver, of_validation, validation
from relayd.doctor.running import Running, of_running, running
from relayd.doctor.tables import of_leases, of_sites, of_tables, of_what_is_late
from relayd.identity import Identity, hostname_of_machine, identity
from relayd.mail.errors import ConfigError, QueueError
from relayd.route.own import own_addresses
from relayd.sections import Config
from relayd.spool.recovery import NAME, damage_of, lost
from relayd.spool.sqlite import SqliteQueue

PATIENCE = timedelta(minutes=10)  # for what the daemon does within seconds
LARGE = 64 * 1024 * 1024  # octets of a queue that takes a while to check
COMPLAINTS = 10  # of SQLite
RECOVER = "stop relayd, then: relayd recover"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What is looked at; `tell` is told what takes long."""

    config: Config
    us: Identity
    state: Running
    tell: Callable[[str], None]


async def examine(path: Path, tell: Callable[[str], None]) -> AsyncIterator[Finding]:
    """Yield what is wrong with the relayd of a configuration file; `tell` is told what takes long."""
    try:
        config = load(path, unit=False)
    except ConfigError as mistakes:
        for mistake in mistakes.mistakes:
            yield error("configuration", mistake, "correct it; relayd does not start with it")
        return
    us = identity(config.relay.hostname, hostname_of_machine(), own_addresses())
    if us.warning:
        yield warning("hostname", us.warning, "set relay.hostname")
    inaccessible = _inaccessible(config.spool)
    if inaccessible is not None:
        yield inaccessible
    state = Running() if inaccessible else running(config.spool)
    patient = Patient(config=config, us=us, state=state, tell=tell)
    for look in (_network,) if inaccessible else (_network, _spool, _drop, _queue):
        try:
            async for finding in look(patient):
                yield finding
        except (OSError, QueueError) as trouble:
            yield error("system", f"not all could be looked at: {trouble}", "run this as root; is the disk well?")


def _inaccessible(spool: Path) -> Finding | None:
    if not spool.is_dir():
        return error("spool", f"there is no spool at {spool}", "start relayd, which makes it, or correct relay.spool")
    for path in (spool, spool / "queue"):
        if path.exists() and not os.access(path, os.R_OK | os.X_OK):
            return error("spool", f"{path} cannot be looked at", "run this as root or as relayd's own user")
    return None


async def _network(patient: Patient) -> AsyncIterator[Finding]:
    hostname = patient.us.hostname
    answers, validated = await asyncio.gather(asked(patient.config.dns, hostname), validation(patient.config.dns))
    for finding in of_resolver(answers, hostname):
        yield finding
    for finding in of_validation(validated) if patient.config.tls.dane else ():
        yield finding


async def _spool(patient: Patient) -> AsyncIterator[Finding]:
    spool = patient.config.spool
    for finding in (*of_running(patient.state), *of_directories(spool), *of_room(spool, room_of(spool))):
        yield finding


async def _drop(patient: Patient) -> AsyncIterator[Finding]:
    for finding in of_drop(patient.config.spool, datetime.now(UTC), patient.state):
        yield finding


async def _queue(patient: Patient) -> AsyncIterator[Finding]:
    database = patient.config.spool / NAME
    if lost(patient.config.spool):
        yield error("queue", f"{database} is missing, although there are bodies in queue/", RECOVER)
        return
    if not database.exists():
        return  # nothing was ever sent
    octets = database.stat().st_size
    if octets > LARGE:
        patient.tell(f"checking {database}, {octets // 2**20} MiB")
    if damage := await damage_of(database, COMPLAINTS):
        yield error("queue", f"{database} is damaged: {damage}", RECOVER)
        return
    queue = await SqliteQueue.open(database, owner=None)
    try:
        async for finding in _rows(queue, patient):
            yield finding
    finally:
        await queue.close()


async def _rows(queue: SqliteQueue, patient: Patient) -> AsyncIterator[Finding]:
    now, state, spool = datetime.now(UTC), patient.state, patient.config.spool
    found = await queue.examine(now, patient.config.retry.lifetime + state.stretch, PATIENCE)
    for finding in (
        *of_tables(found),
        *of_leases(await queue.leases(), state),
        *of_what_is_late(found, state),
        *of_sites(await queue.sites(), now),
    ):
        yield finding
    if state.answers:
        async for finding in of_overdue(queue, spool, found.overdue, now):
            yield finding
    async for finding in of_bodies(queue, spool, now, state):
        yield finding
