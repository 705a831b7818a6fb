"""`relayd queue`: look at the queue and act on it, whether or not the daemon runs.

The verbs write the database themselves and then knock at the daemon's control socket, if there is one; when they
return, a running daemon has taken notice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from relayd.config import load
from relayd.control import knock
from relayd.mail.errors import QueueError, RelaydError
from relayd.mail.message import Message
from relayd.mail.recipient import Recipient
from relayd.spool.queue import HistoryRow, Listed
from relayd.spool.sqlite import SqliteQueue


@dataclass(frozen=True, slots=True)
class _Spool:
    path: Path

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[SqliteQueue]:
        """Open the queue beside the daemon, if one runs."""
        database = self.path / "queue.db"
        if not database.exists():
            raise QueueError(f"there is no queue at {self.path}: has relayd run there?")
        queue = await SqliteQueue.open(database, owner=None)
        try:
            yield queue
        finally:
            await queue.close()


@click.group()
@click.pass_context
def queue(context: click.Context) -> None:
    """List, show and change what is in the queue."""
    context.obj = _Spool(load(context.obj).spool)


# looking


@queue.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print an array of messages.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many, the oldest first.")
@click.pass_obj
def list_(spool: _Spool, as_json: bool, limit: int | None) -> None:
    """List the messages in the queue, the oldest first."""
    asyncio.run(_list_json(spool, limit) if as_json else _list_table(spool, limit))


async def _list_json(spool: _Spool, limit: int | None) -> None:
    separator = "["
    async with spool.opened() as opened:
        async for listed in opened.messages(limit=limit):
            click.echo(separator + json.dumps(_summary(listed)), nl=False)
            separator = ",\n"
    click.echo("]" if separator != "[" else "[]")


async def _list_table(spool: _Spool, limit: int | None) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("id", "arrived", "size", "sender", "recipient", "status", "n", "due", "last reply"):
        table.add_column(heading, no_wrap=heading in ("id", "arrived", "status"), overflow="fold")
    messages = 0
    async with spool.opened() as opened:
        async for listed in opened.messages(limit=limit):
            messages += 1
            for row in _rows(listed):
                table.add_row(*row)
    if messages:
        Console(soft_wrap=False).print(table)
    click.echo(f"{messages} message{'' if messages == 1 else 's'}")


@queue.command()
@click.argument("message_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@click.pass_obj
def show(spool: _Spool, message_id: str, as_json: bool) -> None:
    """Show one message: its envelope, how each recipient stands, and what was answered last."""
    found = asyncio.run(_show(spool, message_id))
    if found is None:
        raise RelaydError(f"no message {message_id} in the queue or its history")
    summary = _finished(found) if isinstance(found, HistoryRow) else _summary(found)
    if as_json:
        click.echo(json.dumps(summary))
        return
    recipients = summary.pop("recipients")
    for key, value in summary.items():
        click.echo(f"{key + ':':12}{value}")
    for recipient in recipients:
        click.echo("recipient:")
        for key, value in recipient.items():
            click.echo(f"  {key + ':':12}{'' if value is None else value}")


async def _show(spool: _Spool, message_id: str) -> Listed | HistoryRow | None:
    async with spool.opened() as opened:
        return await opened.show(message_id)


# acting


def _verb(name: str, done: str, explanation: str) -> None:
    """Add a command that does something to messages, by id or to all."""

    @queue.command(name, help=explanation)
    @click.argument("message_ids", metavar="[ID]...", nargs=-1)
    @click.option("--all", "everything", is_flag=True, help="All messages in the queue.")
    @click.option("--json", "as_json", is_flag=True, help="Print the count as an object.")
    @click.pass_obj
    def verb(spool: _Spool, message_ids: tuple[str, ...], everything: bool, as_json: bool) -> int:
        if bool(message_ids) == everything:
            raise click.UsageError("name messages by id, or give --all")
        found = asyncio.run(_act(spool, name, message_ids or None))
        noticed = knock(spool.path / "control")
        if as_json:
            click.echo(json.dumps({done: found, "daemon": noticed}))
        else:
            click.echo(f"{found} {done}" + ("" if noticed else "; no daemon is running"))
        return 0 if found >= len(message_ids) else 65


async def _act(spool: _Spool, name: str, message_ids: Collection[str] | None) -> int:
    async with spool.opened() as opened:
        now = datetime.now(UTC)
        act: dict[str, Callable[[Collection[str]], Awaitable[int]]] = {
            "hold": opened.hold,
            "release": opened.release,
            "retry": partial(opened.retry, now=now),
            "remove": partial(opened.remove, now=now),
        }
        if message_ids is None:
            message_ids = [listed.message.id async for listed in opened.messages()]
        return await act[name](message_ids)


_verb("hold", "held", "Keep messages from being tried, until they are released.")
_verb("release", "released", "Let held messages be tried again.")
_verb("retry", "to be tried now", "Make messages due now, and forget that sites were out of reach.")
_verb("remove", "removed", "Remove messages without telling their senders.")


# how a message is shown


def _summary(listed: Listed) -> dict[str, Any]:
    message = listed.message
    return {
        "id": message.id,
        "arrived": _time(message.arrived),
        "sender": _sender(message),
        "size": message.body.wire_size,
        "held": message.held,
        "in_flight": listed.in_flight,
        "recipients": [_recipient(recipient) for recipient in message.envelope.recipients],
    }


def _finished(row: HistoryRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "arrived": _time(row.arrived),
        "sender": row.sender,
        "size": row.size,
        "held": False,
        "finished": _time(row.finished),
        "recipients": [_recipient(recipient) for recipient in row.recipients],
    }


def _recipient(recipient: Recipient) -> dict[str, Any]:
    return {
        "address": str(recipient.address),
        "status": recipient.status.value,
        "attempts": recipient.attempts,
        "due": _time(recipient.due) if recipient.due and not recipient.status.final else None,
        "reply": recipient.reply,
        "dsn": recipient.dsn,
        "host": recipient.peer,
        "attempted": _time(recipient.attempted) if recipient.attempted else None,
        "possible_duplicate": recipient.possible_duplicate,
    }


def _rows(listed: Listed) -> list[tuple[str, ...]]:
    message = listed.message
    first = (message.id, f"{message.arrived:%m-%d %H:%M:%S}", str(message.body.wire_size), _sender(message) or "<>")
    rows: list[tuple[str, ...]] = []
    for recipient in message.envelope.recipients:
        status = "held" if message.held and not recipient.status.final else recipient.status.value
        due = f"{recipient.due:%m-%d %H:%M:%S}" if recipient.due and not recipient.status.final else ""
        reply = _printable(recipient.reply)
        rows.append((*first, str(recipient.address), status, str(recipient.attempts), due, reply))
        first = ("", "", "", "")
    return rows


def _sender(message: Message) -> str:
    return str(message.envelope.reverse_path or "")


def _time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text).replace("[", "\\[")
