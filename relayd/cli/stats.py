"""`relayd queue stats`: how much waits and how, and what has finished lately."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import click

from relayd.cli.selecting import Words
from relayd.cli.spool import SpoolBeside, printing
from relayd.cli.watching import watch_option, watching
from relayd.mail.duration import parse_duration
from relayd.view.stats import Stats, stats_lines, stats_summary

_DURATION = Words("duration", parse_duration)


@click.command("stats")
@click.option(
    "--since",
    type=Words("duration", parse_duration),
    default="1h",
    show_default=True,
    help="What finished in this time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@watch_option
@click.pass_obj
def stats(spool: SpoolBeside, since: timedelta, as_json: bool, watch: float | None) -> None:
    """Show how much waits and how, by age, and what has finished lately: how much, how, and how long it took."""
    with printing():
        if as_json:
            click.echo(json.dumps(stats_summary(asyncio.run(_asked(spool, since)))))
        else:
            watching(watch, lambda room: list(stats_lines(asyncio.run(_asked(spool, since)))))


async def _asked(spool: SpoolBeside, since: timedelta) -> Stats:
    now = datetime.now(UTC)
    async with spool.opened() as queue:
        return Stats(
            at=now,
            since=since,
            census=await queue.census(now),
            finished=await queue.finished(now - since),
            backing_off=sum(site.retry_at > now for site in await queue.sites()),
        )
