"""`relayd recover`: rebuild the queue from the bodies, when queue.db is lost or damaged."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from relayd.attempt.notification import recognised
from relayd.cli.progress import Progress
from relayd.config import load
from relayd.identity import hostname_of_machine, identity
from relayd.mail.message import Message
from relayd.ownership import act_as_owner
from relayd.route.own import own_addresses
from relayd.sections import Config
from relayd.settings import submission_settings
from relayd.spool.recovery import Examine, Found, Recovery
from relayd.spool.recovery import recover as recover_queue
from relayd.submission.pickup import Pickup

EX_OSERR = 71  # some bodies could not be read; they are where they were
WORDS = {
    Found.SOUND: "the queue is sound; nothing was changed",
    Found.EMPTY: "there is no queue and no message; nothing was changed",
    Found.REBUILT: "the queue was rebuilt from the bodies",
}


@click.command(short_help="Rebuild the queue from the bodies.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as an object.")
@click.pass_obj
def recover(config_path: Path, as_json: bool) -> int:
    """Rebuild the queue from the bodies on disk, after queue.db was lost or damaged.

    The daemon must be stopped.  A sound queue is left as it is; a damaged one is moved aside.  All messages that have
    a body are queued again, to all their recipients, marked possible duplicate.
    """
    config = load(config_path, unit=False)
    act_as_owner(config.spool)
    with Progress("reading the bodies"):
        recovery = asyncio.run(recover_queue(config.spool, _examine(config), now=datetime.now(UTC)))
    if as_json:
        click.echo(json.dumps(_summary(recovery)))
    else:
        _print(recovery)
    return EX_OSERR if recovery.unreadable else 0


def _examine(config: Config) -> Examine:
    """Return how a body is read.  What was accepted once is not too large now, and repeats nothing: the keys are lost
    with the queue, since our copy of a file does not tell whose it was."""
    who = identity(config.relay.hostname, hostname_of_machine(), own_addresses())
    settings = replace(submission_settings(config, who), max_message_size=sys.maxsize)
    pickup = Pickup(settings, clock=lambda: datetime.now(UTC), events=lambda event: None)

    async def examine(path: Path, queue_id: str) -> Message | str:
        found = await pickup.examine_body(path, queue_id)
        if isinstance(found, str):
            return found
        found = replace(found, key=None)
        if found.envelope.reverse_path is None:
            return recognised(found, await asyncio.to_thread(_head, path, found.body.header_end))
        return found

    return examine


def _head(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _summary(recovery: Recovery) -> dict[str, object]:
    return {
        "queue": recovery.found.value,
        "damage": recovery.damage or None,
        "moved_to": str(recovery.aside) if recovery.aside else None,
        "queued": recovery.queued,
        "rejected": recovery.rejected,
        "unreadable": [message_id for message_id, _ in recovery.unreadable],
    }


def _print(recovery: Recovery) -> None:
    click.echo(WORDS[recovery.found])
    if recovery.found is not Found.REBUILT:
        return
    click.echo(f"what was wrong: {recovery.damage}")
    if recovery.aside:
        click.echo(f"the damaged one is kept as {recovery.aside}")
    click.echo(f"{recovery.queued} queued again, marked possible duplicate")
    click.echo(f"{recovery.rejected} could not be understood and went to rejected/")
    for message_id, reason in recovery.unreadable:
        click.echo(f"{message_id} cannot be read and stays in queue/: {reason}")
