"""`relayd doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from relayd.cli.progress import Progress
from relayd.cli.spool import printing
from relayd.config import load
from relayd.doctor.examination import examine
from relayd.doctor.finding import Finding, Severity
from relayd.mail.errors import ConfigError
from relayd.ownership import act_as_owner
from relayd.view.shown import printable

EX_FOUND = 1


@click.command(short_help="Look for what is wrong, and say what to do.")
@click.option("--json", "as_json", is_flag=True, help="Print an array of findings.")
@click.pass_obj
def doctor(config_path: Path, as_json: bool) -> int:
    """Look for what is wrong with the configuration, the spool, the queue and the daemon, and say what to do.

    Changes nothing, whether or not the daemon runs; a long queue takes a while.  Ends with 1 if there is an error or
    a warning.
    """
    found: list[Finding] = []
    with suppress(ConfigError):  # told of below
        act_as_owner(load(config_path, unit=False).spool)
    with printing(), Progress("looking"):
        asyncio.run(_look(config_path, as_json, found))
    return exit_code(found)


async def _look(config_path: Path, as_json: bool, found: list[Finding]) -> None:
    async for finding in examine(config_path, lambda what: click.echo(f"relayd: {printable(what)}", err=True)):
        found.append(finding)
        if not as_json:
            click.echo(line(finding))
    click.echo(json.dumps([summary(each) for each in found]) if as_json else verdict(found))


def exit_code(found: list[Finding]) -> int:
    """Return 1 if somebody must or should see to something, else 0."""
    return EX_FOUND if any(each.severity is not Severity.INFORMATION for each in found) else 0


def line(finding: Finding) -> str:
    """Return a finding on one line."""
    return printable(f"{finding.severity.value}: {finding.what}: {finding.detail}; {finding.advice}")


def verdict(found: list[Finding]) -> str:
    """Return how many of each kind there are."""
    count = Counter(each.severity for each in found)
    if not (count[Severity.ERROR] or count[Severity.WARNING]):
        return "nothing is wrong"
    return f"{_number(count[Severity.ERROR], 'error')}, {_number(count[Severity.WARNING], 'warning')}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def summary(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON has it."""
    return {
        "what": finding.what,
        "severity": finding.severity.value,
        "detail": finding.detail,
        "advice": finding.advice,
    }
