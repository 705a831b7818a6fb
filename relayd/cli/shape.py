"""`relayd queue shape`: how much waits at each site, by age, like Postfix's qshape(1).

A site with much in its left columns has got much mail lately; with much in its right ones it takes little of it.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import click

from relayd.cli.spool import SpoolBeside, printing
from relayd.mail.back_off import BackOff
from relayd.spool.queue import Shape
from relayd.view.shape import by_destination, by_site, shape_summary, shape_table
from relayd.view.shown import printable


@click.command("shape")
@click.option("--domains", is_flag=True, help="A row for each destination instead of for each site.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most this many rows.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@click.pass_obj
def shape(spool: SpoolBeside, domains: bool, limit: int, as_json: bool) -> None:
    """Show how much waits at each site, by age.

    Recipients are counted: T is their total, then come those younger than 5 minutes, than 10, and so on; those that
    are held are apart.
    """
    shapes, back_offs, now = asyncio.run(_asked(spool))
    rows = sorted(by_destination(shapes) if domains else by_site(shapes), key=lambda row: (-row.total, -row.held))
    with printing():
        if as_json:
            click.echo(json.dumps(shape_summary(rows, limit, back_offs, now, by="destination" if domains else "site")))
        else:
            click.echo("\n".join(printable(line) for line in shape_table(rows, limit, back_offs)))


async def _asked(spool: SpoolBeside) -> tuple[list[Shape], dict[str, BackOff], datetime]:
    async with spool.opened() as opened:
        now = datetime.now(UTC)
        return await opened.shape(now), {each.site: each for each in await opened.sites()}, now
