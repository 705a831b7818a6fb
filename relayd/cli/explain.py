"""`relayd explain`: why a message waits, or the mail for an address or a domain, and until when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from relayd.cli.spool import SpoolBeside, printing
from relayd.control import ask
from relayd.spool.lock import holder
from relayd.view.explained import Explained, explained_lines, explained_summary
from relayd.view.explaining import Sources, explained
from relayd.view.shown import printable


@click.command(short_help="Say why mail waits, and until when.")
@click.argument("subject", metavar="ID|ADDRESS|DOMAIN")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@click.pass_obj
def explain(config_path: Path, subject: str, as_json: bool) -> None:
    """Say why a message waits, or the mail for an address or a domain, and until when; or why a dropped file was
    rejected, by its name.

    Shows every gate on the way in its order, how it stands, and marks the one that blocks now.
    """
    spool = SpoolBeside(config_path)
    if (reason := _rejected(spool, subject)) is not None:
        told = {"subject": subject, "kind": "file", "rejected": reason}
        click.echo(json.dumps(told) if as_json else printable(f"{subject} is in rejected/: {reason}"))
        return
    found = asyncio.run(_explained(spool, subject))
    with printing():
        if as_json:
            click.echo(json.dumps(explained_summary(found)))
        else:
            click.echo("\n".join(explained_lines(found)))


def _rejected(spool: SpoolBeside, name: str) -> str | None:
    """Return why a file was rejected; None if it was not."""
    if "/" in name or name.startswith("."):
        return None
    with suppress(OSError):
        return (spool.path / "rejected" / f"{name}.reason.txt").read_text("utf-8", "replace").strip()
    return None


async def _explained(spool: SpoolBeside, subject: str) -> Explained:
    async def asked(question: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return await asyncio.to_thread(ask, spool.control, question)

    async with spool.opened() as queue:
        sources = Sources(queue=queue, ask=asked, holder=lambda: holder(spool.path / "lock"), retry=spool.config.retry)
        return await explained(sources, subject)
