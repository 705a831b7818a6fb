"""`relayd tls-report`: what was counted of TLS, and what is, or would be, reported of it.  Read only.

The daemon counts in memory and writes it down each minute, and when it stops: what is younger is not shown.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import click

from relayd.cli.spool import SpoolBeside, printing
from relayd.identity import hostname_of_machine, identity
from relayd.mail.address import parse_domain
from relayd.mail.report import Counted, Owed
from relayd.report.counting import Failure, Tally
from relayd.report.document import document
from relayd.report.making import subject_of
from relayd.report.settings import ReportSettings
from relayd.route.own import own_addresses
from relayd.settings import report_settings
from relayd.spool.reports import ReportsFile
from relayd.view.shown import iso_time, printable, short_time


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is kept; `settings` None: nothing of it is reported."""

    settings: ReportSettings | None
    counted: tuple[tuple[Counted, Tally], ...]
    owed: tuple[Owed, ...]


@click.command("tls-report", short_help="Show what was counted of TLS, for reports to others.")
@click.argument("domain", required=False)
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="Only this day, by UTC.")
@click.option("--json", "as_json", is_flag=True, help="Print one object, with the reports as they would be sent.")
@click.pass_obj
def tls_report(config_path: Path, domain: str | None, day: datetime | None, as_json: bool) -> None:
    """Show what was counted of TLS and not reported yet, of all domains or of one, and the reports that wait to be
    handed over.

    Whether a domain wants a report is asked after the day: its TXT record at _smtp._tls says so.
    """
    only = parse_domain(domain) if domain else None
    found = asyncio.run(_found(SpoolBeside(config_path), only, day.date() if day else None))
    with printing():
        if as_json:
            click.echo(json.dumps(summary(found)))
        else:
            for line in lines(found):
                click.echo(printable(line))


async def _found(spool: SpoolBeside, domain: str | None, day: date | None) -> Found:
    us = identity(spool.config.relay.hostname, hostname_of_machine(), own_addresses())
    settings = report_settings(spool.config, us)
    kept = ReportsFile(spool.path, read_only=True)

    def wanted(one: Counted | Owed) -> bool:
        return domain in (None, one.domain) and day in (None, one.day)

    try:
        return Found(
            settings=settings,
            counted=tuple((each, _tally(each)) for each in await kept.counted() if wanted(each)),
            owed=tuple(each for each in await kept.owed() if wanted(each)),
        )
    finally:
        await kept.close()


def _tally(counted: Counted) -> Tally:
    try:
        return Tally.unpacked(counted.tally)
    except ValueError:  # nothing is reported of it either
        return Tally()


# for programs


def summary(found: Found) -> dict[str, Any]:
    """Return what is kept as JSON has it, with stable keys."""
    return {
        "counted": [
            {
                "day": counted.day.isoformat(),
                "domain": counted.domain,
                "sessions": tally.sessions,
                "failed": tally.failed,
                "due": iso_time(counted.due) if counted.due else None,
                "tries": counted.tries,
                "report": document(subject_of(counted, found.settings), tally) if found.settings else None,
            }
            for counted, tally in found.counted
        ],
        "owed": [
            {
                "day": owed.day.isoformat(),
                "domain": owed.domain,
                "to": owed.place,
                "sessions": owed.sessions,
                "failed": owed.failed,
                "due": iso_time(owed.due),
                "tries": owed.tries,
            }
            for owed in found.owed
        ],
    }


# for people


def lines(found: Found) -> Iterator[str]:
    """Yield a line for each domain and day, below it one for each policy, and below that one for each failure."""
    if found.settings is None:
        yield "no reports are sent: tls.report is off, or nobody could tell by whom they are"
    for counted, tally in found.counted:
        due = f"due {short_time(counted.due)}" if counted.due else "the day is not over"
        yield f"{counted.day.isoformat()}  {counted.domain}  {tally.sessions} sessions, {tally.failed} failed  {due}"
        for each in tally.summaries:
            of = f" of {each.policy.domain}" if each.policy.domain not in ("", counted.domain) else ""
            yield f"  {each.policy.type.value}{of}: {each.successes} succeeded, {each.failed} failed"
            for failure, sessions in each.failures:
                yield f"    {sessions} {_failure(failure)}"
    for owed in found.owed:
        tries = f", tried {owed.tries} times" if owed.tries else ""
        yield f"{owed.day.isoformat()}  {owed.domain}  to {owed.place}  next try {short_time(owed.due)}{tries}"


def _failure(failure: Failure) -> str:
    where = f" at {failure.host}" if failure.host else ""
    address = f"[{failure.address}]" if failure.address else ""
    return f"{failure.result.value}{where}{address}" + (f": {failure.detail}" if failure.detail else "")
