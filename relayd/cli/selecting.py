"""Which messages a command is about: options that make a selection, and being asked whether that is what was meant."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import wraps
from typing import Any

import click
from click.shell_completion import CompletionItem

from relayd.mail.address import Address
from relayd.mail.duration import parse_duration
from relayd.mail.pattern import parse_pattern
from relayd.spool.selection import Chosen
from relayd.view.selected import PARSED, WORDS, parse_sender, parse_waiting, selection_from


class Words(click.ParamType[Any]):
    """What a function makes of words; its ValueError is told.  `known` are all that it takes, where these are few."""

    def __init__(self, name: str, parse: Callable[[str], Any], known: Sequence[str] = ()) -> None:
        self.name = name
        self._parse = parse
        self._known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what was meant."""
        try:
            return self._parse(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return what begins so."""
        return [CompletionItem(word) for word in self._known if word.startswith(incomplete)]


_OPTIONS = (
    click.option("--domain", type=Words("pattern", parse_pattern), help="To a domain, or to *.domain."),
    click.option("--to", type=Words("address", Address.parse), help="To this address."),
    click.option("--sender", type=Words("address|domain", parse_sender), help="From an address, a domain, or <>."),
    click.option("--site", metavar="SITE", help="For a site, as `queue shape` names it."),
    click.option("--status", type=Words("|".join(WORDS), parse_waiting, WORDS), help="That stand so."),
    click.option("--older", type=Words("duration", parse_duration), help='That arrived longer ago, as in "4h".'),
    click.option("--younger", type=Words("duration", parse_duration), help="That arrived less long ago."),
)


def selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a selection, and the selection itself."""

    @wraps(command)
    def selected(*arguments: Any, **words: Any) -> Any:
        parsed = {name: words.pop(name) for name in PARSED}
        return command(*arguments, selection=selection_from(parsed, datetime.now(UTC)), **words)

    for option in reversed(_OPTIONS):
        selected = option(selected)
    return selected


def told(chosen: Chosen) -> str:
    """Say how much was chosen."""
    words = f"{chosen.messages} message{'' if chosen.messages == 1 else 's'}"
    words += f", {chosen.recipients} recipient{'' if chosen.recipients == 1 else 's'} waiting"
    others = chosen.recipients - chosen.meant
    return words + (f" ({others} of them elsewhere)" if others else "")


def agreed(chosen: Chosen, verb: str, *, yes: bool, everything: bool) -> bool:
    """Ask whether it is to be done.  Where nobody can answer, `yes` must have been given, or `everything` said.

    Raises:
        UsageError: it was not.
    """
    if yes or not chosen.messages:
        return True
    if sys.stdin.isatty():
        return click.confirm(f"{told(chosen)}: {verb} all of it?", err=True)
    if everything:
        return True
    raise click.UsageError(f"{told(chosen)}; to {verb} it without being asked, give --yes")
