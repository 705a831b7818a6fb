"""`relayd top`: what the status page shows, in a terminal, asked of the running daemon."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from relayd.cli.spool import SpoolBeside, printing
from relayd.cli.watching import ENTER, HOME, LEAVE, REST
from relayd.control import ask
from relayd.view.top import frame

EX_TEMPFAIL = 75


@click.command(short_help="Show what the daemon does, live.")
@click.option("--once", is_flag=True, help="Show it once, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one object, and end.")
@click.option("--every", type=click.FloatRange(min=0.5), default=2.0, show_default=True, help="Seconds.")
@click.pass_obj
def top(config_path: Path, once: bool, as_json: bool, every: float) -> int:
    """Show what the running daemon does: throughput and latency, what waits by age, sites, and what was lately not
    delivered.  q ends it.

    It need not have [http]; it measures from the first time on that it is asked.
    """
    spool = SpoolBeside(config_path)
    found = _asked(spool)
    if found is None:
        click.echo("relayd: no daemon answers; is it running? see relayd doctor", err=True)
        return EX_TEMPFAIL
    with printing():
        if as_json:
            click.echo(json.dumps(found))
        elif once or not (sys.stdin.isatty() and sys.stdout.isatty()):
            click.echo(_drawn(found, Console()))
        else:
            _live(spool, every)
    return 0


def _asked(spool: SpoolBeside) -> dict[str, Any] | None:
    return ask(spool.control, {"ask": "top"})


def _drawn(found: dict[str, Any], console: Console) -> str:
    with console.capture() as capture:
        console.print(frame(found, console.width, console.height))
    return capture.get().rstrip("\n")


def _live(spool: SpoolBeside, every: float) -> None:
    with _screen(), suppress(KeyboardInterrupt):
        while True:
            found = _asked(spool)
            text = "no daemon answers; q ends this" if found is None else _drawn(found, Console())
            rows = text.split("\n")[: os.get_terminal_size().lines]
            sys.stdout.write(HOME + "\x1b[K\n".join(rows) + "\x1b[K" + REST)
            sys.stdout.flush()
            if _key(every) in ("q", "Q", "\x03"):
                return


def _key(seconds: float) -> str:
    """Return what was pressed within so many seconds, empty if nothing was."""
    end = time.monotonic() + seconds
    ready, _, _ = select.select([sys.stdin], [], [], max(end - time.monotonic(), 0))
    return os.read(sys.stdin.fileno(), 1).decode("ascii", "replace") if ready else ""


@contextmanager
def _screen() -> Iterator[None]:
    """Have the other screen, and keys as they are pressed."""
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    sys.stdout.write(ENTER)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
