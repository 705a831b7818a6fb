"""`relayd queue`: look at the queue and act on it, whether or not the daemon runs.

A queue of any length is listed in pieces.  The verbs that change it are in acting.py.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click

from relayd.cli.acting import VERBS
from relayd.cli.selecting import selecting
from relayd.cli.shape import shape
from relayd.cli.spool import SpoolBeside, printing
from relayd.cli.stats import stats
from relayd.cli.watching import watch_option, watching
from relayd.mail.errors import RelaydError
from relayd.spool.bodies import Bodies
from relayd.spool.queue import HistoryRow, Listed
from relayd.spool.selection import Selection
from relayd.view.shown import details, lines, printable, summary

LONGEST_HEADER = 64 * 1024  # octets that are shown


@click.group()
@click.pass_context
def queue(context: click.Context) -> None:
    """Look at the queue and act on it."""
    context.obj = SpoolBeside(context.obj)


@queue.command("list")
@selecting
@click.option("--json", "as_json", is_flag=True, help="Print an array of messages.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many, the oldest first.")
@watch_option
@click.pass_obj
def list_(spool: SpoolBeside, selection: Selection, as_json: bool, limit: int | None, watch: float | None) -> None:
    """List what waits, the oldest first: all of it, or what the options say."""
    with printing():
        if as_json:
            asyncio.run(_list_json(spool, selection, limit))
        elif watch is not None:
            watching(watch, lambda room: asyncio.run(_some(spool, selection, limit or room)))
        else:
            asyncio.run(_list_lines(spool, selection, limit))


def list_queue(config_path: Path) -> int:
    """Print the queue of a configuration, as `mailq` does; return the exit code."""
    with printing():
        asyncio.run(_list_lines(SpoolBeside(config_path), Selection(), None))
    return 0


async def _list_json(spool: SpoolBeside, selection: Selection, limit: int | None) -> None:
    separator = "["
    async with spool.opened() as opened:
        async for listed in opened.messages(selection=selection, limit=limit):
            click.echo(separator + json.dumps(summary(listed)), nl=False)
            separator = ",\n"
    click.echo("]" if separator != "[" else "[]")


async def _list_lines(spool: SpoolBeside, selection: Selection, limit: int | None) -> None:
    messages = 0
    async with spool.opened() as opened:
        async for listed in opened.messages(selection=selection, limit=limit):
            messages += 1
            click.echo("\n".join(lines(listed)))
    click.echo(f"{messages} message{'' if messages == 1 else 's'}")


async def _some(spool: SpoolBeside, selection: Selection, limit: int | None) -> list[str]:
    async with spool.opened() as opened:
        return [line async for each in opened.messages(selection=selection, limit=limit) for line in lines(each)]


@queue.command()
@click.argument("message_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@click.pass_obj
def show(spool: SpoolBeside, message_id: str, as_json: bool) -> None:
    """Show one message, also a finished one: its envelope, how each recipient stands, what was answered last, and the
    header of what waits."""
    found = asyncio.run(_show(spool, message_id))
    if found is None:
        raise RelaydError(f"no message {printable(message_id)} in the queue or its history")
    header = _header(spool, found)
    with printing():
        if as_json:
            click.echo(json.dumps(summary(found) | {"header": header}))
            return
        click.echo("\n".join(details(found)))
        for line in header or ():
            click.echo(printable(line))


async def _show(spool: SpoolBeside, message_id: str) -> Listed | HistoryRow | None:
    async with spool.opened() as opened:
        return await opened.show(message_id)


def _header(spool: SpoolBeside, found: Listed | HistoryRow) -> list[str] | None:
    """Return the header as it is in the file, a line each; None if there is no file any more."""
    if isinstance(found, HistoryRow):
        return None
    path = Bodies(spool.path / "queue").path(found.message.id)
    try:
        octets = read_start(path, min(found.message.body.header_end, LONGEST_HEADER))
    except FileNotFoundError:
        return None
    return octets.decode("utf-8", "replace").splitlines()


def read_start(path: Path, octets: int) -> bytes:
    """Return the first octets of a file."""
    with path.open("rb") as file:
        return file.read(octets)


for verb in VERBS:
    queue.add_command(verb)
queue.add_command(shape)
queue.add_command(stats)
