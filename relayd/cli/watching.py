"""`--watch`: a view that is made again and again, until it is interrupted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import click

from relayd.view.shown import short_time

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the other screen, without a cursor
HOME, REST_OF_LINE, REST = "\x1b[H", "\x1b[K", "\x1b[J"

watch_option: Callable[[Any], Any] = click.option(
    "--watch",
    type=click.FloatRange(min=0.2),
    is_flag=False,
    flag_value=2.0,
    metavar="[SECONDS]",
    help="Show it again and again (every 2 seconds), until Ctrl-C.",
)


def watching(every: float | None, lines: Callable[[int | None], list[str]]) -> None:
    """Print `lines`, once or every so many seconds.  It is told for how many there is room; None: for all."""
    if every is None:
        click.echo("\n".join(lines(None)))
        return
    screen = sys.stdout.isatty()
    with suppress(KeyboardInterrupt):
        try:
            if screen:
                click.echo(ENTER, nl=False)
            while True:
                _show(every, lines, screen=screen)
                time.sleep(every)
        finally:
            if screen:
                click.echo(LEAVE, nl=False)


def _show(every: float, lines: Callable[[int | None], list[str]], *, screen: bool) -> None:
    head = f"every {every:g} s: {short_time(datetime.now(UTC))}"
    if not screen:
        click.echo("\n".join([head, *lines(None), ""]))
        return
    width, height = _size()
    shown = [head, "", *lines(height - 2)][:height]
    click.echo(HOME + "\n".join(line[:width] + REST_OF_LINE for line in shown) + REST, nl=False)


def _size() -> tuple[int, int]:
    import shutil

    return shutil.get_terminal_size()
