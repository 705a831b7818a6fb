"""`relayd history`: what became of a message, or of the mail to an address, attempt by attempt."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click

from relayd.cli.progress import Progress
from relayd.cli.spool import SpoolBeside, printing
from relayd.view.timeline import Timeline, printed, timeline_summary, timelines


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
    found = asyncio.run(_timelines(SpoolBeside(config_path), subject, limit))
    with printing():
        if as_json:
            shown = [timeline_summary(timeline) for timeline in found]
            click.echo(json.dumps(shown if "@" in subject else shown[0]))
        else:
            click.echo("\n".join(printed(found, transcripts=not no_transcripts)))


async def _timelines(spool: SpoolBeside, subject: str, limit: int) -> list[Timeline]:
    with Progress("looking"):
        async with spool.opened() as queue:
            return await timelines(queue, subject, limit)
