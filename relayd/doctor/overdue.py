"""Mail that has been due for long: somebody must know why it waits.

That its site backs off is in the queue; for all else the daemon is asked, which knows its windows, rates and turns.
What nobody knows is against promise 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from relayd.control import ask
from relayd.doctor.finding import Finding, error, information
from relayd.explanation import Standing, blocking, read
from relayd.spool.queue import Due
from relayd.spool.sqlite import SqliteQueue

ASKED = 50  # destinations, those due longest
LOOKS = 3  # at one that nothing seems to keep: it may be between two relayers
BETWEEN = 0.5  # seconds
UNKNOWN = "nothing that is known keeps it waiting"


async def of_overdue(queue: SqliteQueue, spool: Path, overdue: Sequence[Due], now: datetime) -> AsyncIterator[Finding]:
    """Say why mail waits that has been due for long, while a daemon runs."""
    sites = await queue.sites_of([due.destination for due in overdue])
    back_offs = {known.site: known for known in await queue.sites() if known.retry_at > now}
    asked = [due for due in overdue if sites.get(due.destination) not in back_offs]
    for due in asked[:ASKED]:
        why, known = await _why(spool / "control", due.destination)
        since = f"{due.since:%Y-%m-%d %H:%M} UTC"
        detail = f"{due.recipients} recipients at {due.destination} are due since {since}: {why}"
        if known:
            yield information("overdue", detail, f"relayd explain {due.destination}")
        else:
            yield error("overdue", detail, f"relayd explain {due.destination}; report it, and restart relayd")
    if len(asked) > ASKED:
        yield information("overdue", f"{len(asked) - ASKED} more destinations are due for long", "relayd queue shape")


async def _why(control: Path, destination: str) -> tuple[str, bool]:
    why, known = UNKNOWN, False
    for look in range(LOOKS):
        if look:
            await asyncio.sleep(BETWEEN)
        question = {"ask": "gates", "destination": destination, "leases": []}
        why, known = why_it_waits(await asyncio.to_thread(ask, control, question))
        if known:
            break
    return why, known


def why_it_waits(answer: Mapping[str, Any] | None) -> tuple[str, bool]:
    """Return what the daemon's answer says, and whether that explains anything.  Pure."""
    if answer is None:
        return "the daemon does not say why", False
    closed: Standing | None = blocking(map(read, answer["gates"]))
    if closed is not None:
        until = f" until {closed.until:%Y-%m-%d %H:%M:%S} UTC" if closed.until else ""
        return f"it waits for the {closed.gate}{until}, {closed.why}", True
    if answer["relayers"]:
        return "it is being sent, but there is much", True
    if answer["in_turn"]:
        return "it waits for its turn", True
    return UNKNOWN, False
