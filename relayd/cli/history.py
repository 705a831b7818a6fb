"""`relayd history`: what became of a message, or of the mail to an address, attempt by attempt."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click

from relayd.cli.shown import printable
from relayd.cli.spool import SpoolBeside, printing
from relayd.cli.timeline import Timeline, printed, timeline_summary
from relayd.mail.address import Address
from relayd.mail.errors import RelaydError
from relayd.spool.sqlite import SqliteQueue


@click.command(short_help="Show what became of a message, attempt by attempt.")
@click.argument("subject", metavar="ID|ADDRESS")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="Messages to an address.")
@click.option("--no-transcripts", is_flag=True, help="Leave out what was said to the servers, and by them.")
@click.option("--json", "as_json", is_flag=True, help="Print an object, or an array of them for an address.")
@click.pass_obj
def history(config_path: Path, subject: str, limit: int, no_transcripts: bool, as_json: bool) -> None:
    """Show what became of a message, or of the newest messages to an address: when it arrived, each attempt with host,
    TLS, reply and time, and the outcome; and what was said in the last attempts that failed.

    Finished messages are remembered for relay.history.
    """
    timelines = asyncio.run(_timelines(SpoolBeside(config_path), subject, limit))
    with printing():
        if as_json:
            found = [timeline_summary(timeline) for timeline in timelines]
            click.echo(json.dumps(found if "@" in subject else found[0]))
        else:
            click.echo("\n".join(printed(timelines, transcripts=not no_transcripts)))


async def _timelines(spool: SpoolBeside, subject: str, limit: int) -> list[Timeline]:
    async with spool.opened() as queue:
        if "@" not in subject:
            found = await _timeline(queue, subject, None)
            if found is None:
                raise RelaydError(f"no message {printable(subject)} in the queue or its history")
            return [found]
        address = Address.parse(subject)
        ids = await queue.messages_to(address, limit)
        timelines = [found for each in ids if (found := await _timeline(queue, each, address)) is not None]
        if not timelines:
            raise RelaydError(f"no message to {address} in the queue, or finished within relay.history")
        return timelines


async def _timeline(queue: SqliteQueue, message_id: str, address: Address | None) -> Timeline | None:
    found = await queue.show(message_id)
    if found is None:
        return None
    return Timeline(found=found, attempts=await queue.attempts(message_id), address=address)
