"""The bodies: for each message in the queue one, as long as it was; and none that belongs to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from relayd.doctor.finding import Finding, counted, error, information, warning
from relayd.doctor.running import Running
from relayd.mail.message import arrival_of
from relayd.spool.bodies import Bodies
from relayd.spool.queue import Listed
from relayd.spool.sqlite import SqliteQueue

BATCH = 2_000  # looked at in one go
MOST = 1_000  # of one kind that are counted
PATIENCE = timedelta(minutes=10)  # for what is just being accepted, adopted or unlinked


async def of_bodies(queue: SqliteQueue, spool: Path, now: datetime, state: Running) -> AsyncIterator[Finding]:
    """Look at all bodies, and for those of all messages."""
    bodies = Bodies(spool / "queue")
    if missing := await _missing(queue, bodies):
        what = "no body in queue/, or one of another length, and cannot be sent"
        yield error(
            "body",
            counted(missing, f"message has {what}", f"messages have {what}", at_most=MOST),
            "put the file back from wherever it went, or: relayd queue remove ID",
        )
    orphans, revived = await _strays(queue, bodies, now)
    if orphans:
        detail = counted(orphans, "body in queue/ has no message", "bodies in queue/ have no messages", at_most=MOST)
        if not state.answers:
            yield information("orphan", detail, "start relayd: it adopts them")
        elif state.adopting:
            yield information("orphan", detail, "wait: the daemon is about to adopt them")
        else:
            yield warning("orphan", detail, "see event=trouble and event=degraded in the log")
    if revived:
        detail = counted(revived, "body of a finished message is", "bodies of finished messages are", at_most=MOST)
        yield information("revived-body", f"back after a power cut: {detail}", "the next start removes them")


async def _missing(queue: SqliteQueue, bodies: Bodies) -> list[str]:
    """Return messages whose bodies are gone, or not as long as they were."""
    found: list[str] = []
    after = ""
    while len(found) < MOST and (page := await queue.sizes(after, BATCH)):
        after = page[-1][0]
        wrong = await asyncio.to_thread(_wrong, bodies, page)
        # A message may have finished between the two looks.
        found += [each for each in wrong[: MOST - len(found)] if isinstance(await queue.show(each), Listed)]
    return found


def _wrong(bodies: Bodies, page: Sequence[tuple[str, int]]) -> list[str]:
    return [message_id for message_id, size in page if _size(bodies.path(message_id)) != size]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


async def _strays(queue: SqliteQueue, bodies: Bodies, now: datetime) -> tuple[list[str], list[str]]:
    """Return bodies without a row, and those that were unlinked once."""
    orphans: list[str] = []
    revived: list[str] = []
    scan = bodies.listed(BATCH)
    while (ids := await asyncio.to_thread(next, scan, None)) is not None and len(orphans) < MOST:
        strays = await queue.strays([each for each in ids if now - arrival_of(each) > PATIENCE])
        # What has finished meanwhile is gone by now.
        orphans += [each for each in strays.orphans[:MOST] if bodies.path(each).exists()]
        revived += [each for each in strays.revived[: MOST - len(revived)] if bodies.path(each).exists()]
    return orphans[:MOST], revived
