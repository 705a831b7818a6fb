"""`relayd queue shape`: how much waits at each site, by age, like Postfix's qshape(1).

A site with much in its left columns has got much mail lately; with much in its right ones it takes little of it.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import click

from relayd.cli.spool import SpoolBeside, printing
from relayd.cli.watching import watch_option, watching
from relayd.mail.back_off import BackOff
from relayd.spool.queue import Shape
from relayd.view.shape import by_destination, by_site, in_order, shape_summary, shape_table
from relayd.view.shown import printable


@click.command("shape")
@click.option("--domains", is_flag=True, help="A row for each destination instead of for each site.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most this many rows.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@watch_option
@click.pass_obj
def shape(spool: SpoolBeside, domains: bool, limit: int, as_json: bool, watch: float | None) -> None:
    """Show how much waits at each site, by age.

    Recipients are counted: T is their total, then come those younger than 5 minutes, than 10, and so on; those that
    are held are apart.
    """
    group = by_destination if domains else by_site

    def lines(room: int | None) -> list[str]:
        shapes, back_offs, _ = asyncio.run(_asked(spool))
        rows = in_order(group(shapes))
        return [printable(line) for line in shape_table(rows, min(limit, room or limit), back_offs)]

    with printing():
        if as_json:
            shapes, back_offs, now = asyncio.run(_asked(spool))
            by = "destination" if domains else "site"
            click.echo(json.dumps(shape_summary(in_order(group(shapes)), limit, back_offs, now, by=by)))
        else:
            watching(watch, lines)


async def _asked(spool: SpoolBeside) -> tuple[list[Shape], dict[str, BackOff], datetime]:
    async with spool.opened() as opened:
        now = datetime.now(UTC)
        return await opened.shape(now), {each.site: each for each in await opened.sites()}, now
