"""`relayd completion`: a script by which a shell completes relayd's command line."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from relayd.cli.shells import FILES, SHELLS, Place
from relayd.sendmail.arguments import USAGE

SENDMAIL = "sendmail"  # its words are not click's


@click.command(short_help="Print a shell's completions.")
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script for bash, zsh or fish, which completes commands, options, and names of routes.

    In bash: source <(relayd completion bash).  The Debian package has them in place.
    """
    root = context.find_root()
    click.echo(SHELLS[shell](dict(_places(root.command, root, ""))), nl=False)


def _places(command: click.Command, context: click.Context, path: str) -> Iterator[tuple[str, Place]]:
    """Yield a command and those below it."""
    if path == SENDMAIL:
        yield path, _sendmail()
        return
    names = command.list_commands(context) if isinstance(command, click.Group) else []
    words: list[str] = []
    values: dict[str, tuple[str, ...]] = {}
    for parameter in command.get_params(context):
        known = _known(parameter, context)
        if isinstance(parameter, click.Option):
            words += parameter.opts
            if _takes_a_value(parameter):
                values |= dict.fromkeys(parameter.opts, known)
        else:
            words += known
    yield path, Place(commands=tuple(names), words=tuple(words), values=values)
    for name in names:
        if isinstance(command, click.Group) and (below := command.get_command(context, name)) is not None:
            yield from _places(below, click.Context(below, info_name=name, parent=context), f"{path} {name}".strip())


def _takes_a_value(option: click.Option) -> bool:
    """Whether the next word is its value: not if it can do without."""
    return not option.is_flag and not option.count and not (option.metavar or "").startswith("[")


def _known(parameter: click.Parameter, context: click.Context) -> tuple[str, ...]:
    """Return what a parameter's value may be, as far as its type knows."""
    items = parameter.type.shell_complete(context, parameter, "")
    return tuple(FILES if item.type == "file" else str(item.value) for item in items)


def _sendmail() -> Place:
    """Return what sendmail's own parser takes, by its help."""
    words: list[str] = []
    values: dict[str, tuple[str, ...]] = {}
    for line in re.findall(r"^  (-.*?)  ", USAGE, re.MULTILINE):
        names = re.findall(r"(?<!\S)-[-\w]+", line)
        value = line.split()[-1]
        words += names
        if value == "FILE":
            values |= dict.fromkeys(names, (FILES,))
        elif not value.startswith("-"):
            values |= dict.fromkeys(names, tuple(value.split("|")) if "|" in value else ())
    return Place(words=tuple(words), values=values)
