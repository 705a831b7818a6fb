"""`relayd queue`: look at the queue and act on it, whether or not the daemon runs.

The verbs write the database themselves and then knock at the daemon's control socket, if there is one; when they
return, a running daemon has taken notice.  A queue of any length is listed and acted on in pieces.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from relayd.cli.shape import shape
from relayd.cli.spool import SpoolBeside, printing
from relayd.control import knock
from relayd.mail.errors import RelaydError
from relayd.spool.queue import HistoryRow, Listed
from relayd.spool.sqlite import SqliteQueue
from relayd.view.shown import details, lines, printable, summary

PIECE = 500  # messages changed in one commit, so that a running daemon is not kept waiting
EX_DATAERR = 65


@click.group()
@click.pass_context
def queue(context: click.Context) -> None:
    """Look at the queue and act on it."""
    context.obj = SpoolBeside(context.obj)


# looking


@queue.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print an array of messages.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many, the oldest first.")
@click.pass_obj
def list_(spool: SpoolBeside, as_json: bool, limit: int | None) -> None:
    """List what waits, the oldest first."""
    with printing():
        asyncio.run(_list_json(spool, limit) if as_json else _list_lines(spool, limit))


def list_queue(config_path: Path) -> int:
    """Print the queue of a configuration, as `mailq` does; return the exit code."""
    with printing():
        asyncio.run(_list_lines(SpoolBeside(config_path), None))
    return 0


async def _list_json(spool: SpoolBeside, limit: int | None) -> None:
    separator = "["
    async with spool.opened() as opened:
        async for listed in opened.messages(limit=limit):
            click.echo(separator + json.dumps(summary(listed)), nl=False)
            separator = ",\n"
    click.echo("]" if separator != "[" else "[]")


async def _list_lines(spool: SpoolBeside, limit: int | None) -> None:
    messages = 0
    async with spool.opened() as opened:
        async for listed in opened.messages(limit=limit):
            messages += 1
            click.echo("\n".join(lines(listed)))
    click.echo(f"{messages} message{'' if messages == 1 else 's'}")


@queue.command()
@click.argument("message_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@click.pass_obj
def show(spool: SpoolBeside, message_id: str, as_json: bool) -> None:
    """Show one message, also a finished one.

    Prints its envelope, how each recipient stands, and what was answered last.
    """
    found = asyncio.run(_show(spool, message_id))
    if found is None:
        raise RelaydError(f"no message {printable(message_id)} in the queue or its history")
    with printing():
        click.echo(json.dumps(summary(found)) if as_json else "\n".join(details(found)))


async def _show(spool: SpoolBeside, message_id: str) -> Listed | HistoryRow | None:
    async with spool.opened() as opened:
        return await opened.show(message_id)


# acting


def _verb(name: str, key: str, done: str, explanation: str) -> None:
    """Add a command that does something to messages, by id or to all; `key` names the count in its JSON."""

    @queue.command(name, help=explanation)
    @click.argument("message_ids", metavar="[ID]...", nargs=-1)
    @click.option("--all", "everything", is_flag=True, help="All messages in the queue.")
    @click.option("--json", "as_json", is_flag=True, help="Print the count as an object.")
    @click.pass_obj
    def verb(spool: SpoolBeside, message_ids: tuple[str, ...], everything: bool, as_json: bool) -> int:
        if bool(message_ids) == everything:
            raise click.UsageError("name messages by id, or give --all")
        found, missing = asyncio.run(_act(spool, name, None if everything else list(dict.fromkeys(message_ids))))
        noticed = knock(spool.control)
        if as_json:
            click.echo(json.dumps({key: found, "missing": missing, "daemon": noticed}))
        else:
            click.echo(f"{found} {done}" + ("" if noticed else "; no daemon is running"))
        for message_id in missing:
            click.echo(f"relayd: no message {printable(message_id)} in the queue", err=True)
        return EX_DATAERR if missing else 0


async def _act(spool: SpoolBeside, name: str, message_ids: list[str] | None) -> tuple[int, list[str]]:
    """Do it; return to how many messages, and which ids are none."""
    async with spool.opened() as opened:
        now = datetime.now(UTC)
        act: dict[str, Callable[[Collection[str]], Awaitable[int]]] = {
            "hold": opened.hold,
            "release": opened.release,
            "retry": partial(opened.retry, now=now),
            "remove": partial(opened.remove, now=now),
        }
        if message_ids is None:
            return sum([await act[name](piece) async for piece in _pieces(opened)]), []
        missing = [each for each in message_ids if not isinstance(await opened.show(each), Listed)]
        return await act[name](message_ids), missing


async def _pieces(opened: SqliteQueue) -> AsyncIterator[list[str]]:
    piece: list[str] = []
    async for listed in opened.messages():
        piece.append(listed.message.id)
        if len(piece) >= PIECE:
            yield piece
            piece = []
    if piece:
        yield piece


_verb("hold", "held", "held", "Keep messages from being tried, until they are released.")
_verb("release", "released", "released", "Let held messages be tried again.")
_verb("retry", "retried", "to be tried now", "Make messages due now, and forget that sites were out of reach.")
_verb("remove", "removed", "removed", "Remove messages without telling their senders.")
queue.add_command(shape)
