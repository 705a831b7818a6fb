"""`relayd queue hold|release|retry|redirect|remove`: act on messages, by id or by what they have in common.

The verbs write the database themselves, in pieces, and then knock at the daemon's control socket, if there is one;
when they return, a running daemon has taken notice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import click

from relayd.cli.progress import Progress
from relayd.cli.selecting import Words, agreed, selecting
from relayd.cli.shells import ROUTES
from relayd.cli.spool import SpoolBeside
from relayd.control import knock
from relayd.mail.errors import RelaydError
from relayd.spool.queue import Listed
from relayd.spool.selection import Chosen, Selection, Waiting
from relayd.spool.sqlite import SqliteQueue
from relayd.view.shown import printable

PIECE = 500  # messages changed in one commit, so that a running daemon is not kept waiting
EX_DATAERR = 65
BOUNCED = "removed by an operator"

Act = Callable[[SqliteQueue, Collection[str]], Awaitable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """What is done: its name; `key` names the count in JSON, `done` says it in words.  A selection means only messages
    that wait as `waiting` says, unless it says otherwise."""

    name: str
    key: str
    done: str
    act: Act
    waiting: Waiting | None = None


@dataclass(slots=True)
class Wanted:
    """On what it is done: ids, or a selection."""

    ids: tuple[str, ...]
    selection: Selection
    everything: bool
    yes: bool

    def __post_init__(self) -> None:
        if sum((bool(self.ids), not self.selection.everything, self.everything)) != 1:
            raise click.UsageError("name messages by id, or say which by options, or give --all")


def verb(explanation: str, name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command of a function that gets the spool, what is wanted, and whether to print JSON."""

    def made(function: Callable[..., Any]) -> click.Command:
        @click.command(name, help=explanation)
        @click.argument("message_ids", metavar="[ID]...", nargs=-1)
        @click.option("--all", "everything", is_flag=True, help="All messages in the queue.")
        @click.option("--yes", is_flag=True, help="Do not ask.")
        @click.option("--json", "as_json", is_flag=True, help="Print the count as an object.")
        @selecting
        @click.pass_obj
        def command(
            spool: SpoolBeside,
            /,
            message_ids: tuple[str, ...],
            selection: Selection,
            everything: bool,
            yes: bool,
            as_json: bool,
            **others: Any,
        ) -> int:
            wanted = Wanted(tuple(dict.fromkeys(message_ids)), selection, everything, yes)
            return do(spool, function(spool, **others), wanted, as_json=as_json)

        for option in getattr(function, "__click_params__", []):
            command.params.append(option)
        return command

    return made


def do(spool: SpoolBeside, what: Verb, wanted: Wanted, *, as_json: bool) -> int:
    """Do it, and tell; return the exit code."""
    done = asyncio.run(_done(spool, what, wanted))
    if done is None:
        click.echo("nothing was done", err=True)
        return 0
    found, missing = done
    noticed = knock(spool.control)
    if as_json:
        click.echo(json.dumps({what.key: found, "missing": missing, "daemon": noticed}))
    else:
        click.echo(f"{found} {what.done}" + ("" if noticed else "; no daemon is running"))
    for message_id in missing:
        click.echo(f"relayd: no message {printable(message_id)} in the queue", err=True)
    return EX_DATAERR if missing else 0


async def _done(spool: SpoolBeside, what: Verb, wanted: Wanted) -> tuple[int, list[str]] | None:
    """Return to how many messages it was done, and which ids are none; None if it was not to be done."""
    async with spool.opened() as queue:
        if wanted.ids:
            missing = [each for each in wanted.ids if not isinstance(await queue.show(each), Listed)]
            return await what.act(queue, wanted.ids), missing
        selection = replace(wanted.selection, waiting=wanted.selection.waiting or what.waiting)
        with Progress("counting") as progress:
            chosen = await queue.chosen(selection)
        if not agreed(chosen, what.name, yes=wanted.yes, everything=wanted.everything):
            return None
        found = 0
        with Progress(what.name, chosen.messages) as progress:
            async for piece in _pieces(queue, selection, chosen):
                found += await what.act(queue, piece)
                progress.advance(len(piece))
        return found, []


async def _pieces(queue: SqliteQueue, selection: Selection, chosen: Chosen) -> AsyncIterator[list[str]]:
    """Yield what was counted, and nothing that has come since."""
    counted, after = replace(selection, up_to=chosen.up_to), ""
    while chosen.messages and (piece := await queue.ids(counted, after, PIECE)):
        after = piece[-1]
        yield piece


@verb("Keep messages from being tried, until they are released.", "hold")
def hold(spool: SpoolBeside) -> Verb:
    """See its help."""
    return Verb(name="hold", key="held", done="held", act=SqliteQueue.hold)


@verb("Let held messages be tried again.", "release")
def release(spool: SpoolBeside) -> Verb:
    """See its help."""
    return Verb(name="release", key="released", done="released", act=SqliteQueue.release, waiting=Waiting.HELD)


@verb("Make messages due now, and forget that sites were out of reach.", "retry")
def retry(spool: SpoolBeside) -> Verb:
    """See its help."""
    return Verb(name="retry", key="retried", done="to be tried now", act=partial(SqliteQueue.retry, now=_now()))


@verb("Remove messages without telling their senders, or with a bounce.", "remove")
@click.option("--bounce", is_flag=True, help="Tell the senders; what is in flight stays.")
def remove(spool: SpoolBeside, bounce: bool) -> Verb:
    """See its help."""
    if bounce:
        return Verb(name="bounce", key="bounced", done="bounced", act=_bounce)
    return Verb(name="remove", key="removed", done="removed", act=partial(SqliteQueue.remove, now=_now()))


async def _bounce(queue: SqliteQueue, message_ids: Collection[str]) -> int:
    bounced = await queue.bounce(message_ids, BOUNCED)
    if bounced.in_flight:
        words = "recipient is" if bounced.in_flight == 1 else "recipients are"
        click.echo(f"relayd: {bounced.in_flight} {words} in flight and left alone; repeat it for them", err=True)
    return bounced.messages


@verb("Send messages by another route, and try them now.", "redirect")
@click.option(
    "--route",
    type=Words("name", str, [ROUTES]),
    required=True,
    help="A [[route]]; `-`: where they would go of themselves.",
)
def redirect(spool: SpoolBeside, route: str) -> Verb:
    """See its help."""
    if route != "-" and route not in (names := [rule.name for rule in spool.config.routes]):
        raise RelaydError(f"no route {printable(route)} in the configuration; there are: {', '.join(names) or 'none'}")
    act = partial(SqliteQueue.redirect, route="" if route == "-" else route, now=_now())
    return Verb(name="redirect", key="redirected", done="redirected", act=act)


def _now() -> datetime:
    return datetime.now(UTC)


VERBS = (hold, release, retry, redirect, remove)
