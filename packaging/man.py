"""Make the manual pages, of what the command line says of itself.

    python packaging/man.py DIRECTORY

A page for `relayd` and one for each of its commands (section 8), one for sendmail (1), and one for the configuration
(5), which is config.example.toml.  No page has a text of its own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from relayd import __version__
from relayd.cli.root import COMMANDS, relayd
from relayd.sendmail.arguments import USAGE

ROOT = Path(__file__).parents[1]
_NAMES = {"-": "\\-", "'": "\\(aq", "^": "\\(ha", "~": "\\(ti", "`": "\\(ga", '"': "\\(dq"}


def main() -> None:
    """Write them."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages():
        (directory / name).write_text(text, encoding="utf-8")


def pages() -> Iterator[tuple[str, str]]:
    """Yield all pages: the name of the file, and what it has in it."""
    context = relayd.make_context("relayd", [], resilient_parsing=True)
    others = ["relayd.toml(5)", *(f"relayd-{name}(8)" for name in COMMANDS if name != "sendmail"), "relayd-sendmail(1)"]
    yield "relayd.8", _command_page("relayd", relayd, context, others)
    for name in COMMANDS:
        command = relayd.get_command(context, name)
        if name != "sendmail" and command is not None:
            below = click.Context(command, info_name=name, parent=context)
            yield f"relayd-{name}.8", _command_page(f"relayd-{name}", command, below, ["relayd(8)"])
    yield "relayd-sendmail.1", _sendmail_page()
    yield "relayd.toml.5", _config_page()


def _command_page(name: str, command: click.Command, context: click.Context, others: list[str]) -> str:
    lines = [*_head(name, 8, command.get_short_help_str(200)), ".SH SYNOPSIS"]
    lines += [f".B {quoted(context.command_path)}", escaped(" ".join(command.collect_usage_pieces(context)))]
    lines += [".SH DESCRIPTION", *_text(command.help or "")]
    lines += [".SH OPTIONS", *_options(command, context)]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            if below is not None:
                lines += _below(each, below, context, whole=command is not relayd)
    lines += _text(command.epilog or "", ".SH EXIT STATUS")
    return _page([*lines, ".SH SEE ALSO", escaped(", ".join(others))])


def _below(name: str, command: click.Command, context: click.Context, *, whole: bool) -> Iterator[str]:
    below = click.Context(command, info_name=name, parent=context)
    if not whole:
        yield from (".TP", f".B {quoted(name)}", escaped(command.get_short_help_str(200)))
        return
    yield from (f".SS {quoted(name)}", f".B {quoted(below.command_path)}")
    yield escaped(" ".join(command.collect_usage_pieces(below)))
    yield from _text(command.help or "", ".PP")
    yield from _options(command, below)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1]:
            yield from (".TP", f".B {quoted(record[0])}", escaped(record[1]))


def _sendmail_page() -> str:
    synopsis, _, rest = USAGE.partition("\n\n")
    description, _, options = rest.partition("\n\n")
    lines = [*_head("relayd-sendmail", 1, "take a message as sendmail does"), ".SH SYNOPSIS"]
    lines += [".nf", *(escaped(line.strip().removeprefix("Usage: ")) for line in synopsis.splitlines()), ".fi"]
    lines += [".SH DESCRIPTION", *_text(description), ".SH OPTIONS"]
    for line in options.splitlines():
        option, _, meaning = line.strip().partition("  ")
        lines += [".TP", f".B {quoted(option)}", escaped(meaning.strip())]
    return _page([*lines, ".SH SEE ALSO", escaped("relayd(8), relayd.toml(5)")])


def _config_page() -> str:
    lines = [*_head("relayd.toml", 5, "the configuration of relayd, all settings with their defaults")]
    lines += [".SH DESCRIPTION", *_text("TOML.  relayd check-config finds all mistakes at once."), ".nf"]
    lines += [escaped(line) for line in (ROOT / "config.example.toml").read_text("utf-8").splitlines()]
    return _page([*lines, ".fi", ".SH SEE ALSO", escaped("relayd(8), relayd-check-config(8)")])


def _head(name: str, section: int, short: str) -> Iterator[str]:
    yield f'.TH {quoted(name.upper())} {section} "" {quoted(f"relayd {__version__}")} "relayd"'
    yield from (".SH NAME", f"{escaped(name)} \\- {escaped(short.rstrip('.'))}")


def _text(text: str, heading: str = "") -> Iterator[str]:
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]
    if paragraphs and heading:
        yield heading
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield ".PP"
        yield escaped(paragraph)


def escaped(text: str) -> str:
    """Return text as roff has it: nothing in it is a request or an escape, and a hyphen is one that can be typed."""
    text = text.replace("\\", "\\e")
    for character, name in _NAMES.items():
        text = text.replace(character, name)
    return f"\\&{text}" if text.startswith(".") else text


def quoted(text: str) -> str:
    """Return text as one argument of a request."""
    return f'"{escaped(text)}"'


def _page(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
