"""`relayd sendmail`: sendmail(1) under relayd's own name.

Its words are sendmail's, not click's: none is looked at here.  `__main__` comes here only where an option of relayd's
own stands before the command.
"""

from __future__ import annotations

from pathlib import Path

import click

from relayd.cli.queue import list_queue
from relayd.sendmail.program import run


class _Sendmail(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["words"] = tuple(args)
        return []


@click.command(cls=_Sendmail, short_help="Take a message as sendmail(1) does, and drop it.", add_help_option=False)
@click.pass_obj
def sendmail(config_path: Path, words: tuple[str, ...]) -> int:
    """Take a message from standard input, as cron, PHP and mail programs give it to sendmail(1)."""
    return run("sendmail", words, config_path, list_queue)
