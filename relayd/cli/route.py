"""`relayd route`: where mail to an address or a domain would go, and what a connection would demand; with the evidence.

It asks the DNS as the daemon does, and connects to no mail exchanger.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import click

from relayd.cli.spool import SpoolBeside, printing
from relayd.cli.way import Step, Way, find, router_of
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.route import Site
from relayd.mail.tls import Dane, Demand, Sts, TlsPolicy
from relayd.route.policy import BrokenDane, DaneVerdict
from relayd.route.sts import StsPolicy
from relayd.view.shown import iso_time, printable, short_time

EX_OK, EX_UNAVAILABLE, EX_TEMPFAIL = 0, 69, 75


@click.command(short_help="Say where mail would go, and what TLS it would demand.")
@click.argument("subject", metavar="ADDRESS|DOMAIN")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@click.pass_obj
def route(config_path: Any, subject: str, as_json: bool) -> int:
    """Say where mail to an address or a domain would go: hosts and addresses in their order, and of each what the
    configuration, DANE and MTA-STS say of TLS, and what a connection would demand in the end.

    Exits with 75 if that cannot be found out now, and with 69 if mail would fail.
    """
    way = asyncio.run(_way(SpoolBeside(config_path), subject))
    with printing():
        if as_json:
            click.echo(json.dumps(way_summary(way)))
        else:
            for line in way_lines(way):
                click.echo(printable(line))
    return exit_code(way.where)


async def _way(spool: SpoolBeside, subject: str) -> Way:
    async with router_of(spool.config) as router:
        return await find(router, subject)


def exit_code(where: Site | Deferred | Failed) -> int:
    """Return what a command ends with that found this."""
    if isinstance(where, Site):
        return EX_OK
    return EX_TEMPFAIL if isinstance(where, Deferred) else EX_UNAVAILABLE


# for programs


def way_summary(way: Way) -> dict[str, Any]:
    """Return a way as JSON has it."""
    site = way.where if isinstance(way.where, Site) else None
    return {
        "subject": way.subject,
        "destination": way.destination,
        "site": site.key if site else None,
        "failure": None if site else _failure(way.where),
        "configured": site.tls.value if site else None,
        "mta_sts": _sts(site.sts) if site and site.sts else None,
        "mta_sts_policy": _policy(way.policy) if way.policy else None,
        "hosts": [_host(step) for step in way.steps],
    }


def _host(step: Step) -> dict[str, Any]:
    found = isinstance(step.targets, tuple)
    return {
        "host": step.host.name,
        "port": step.host.port,
        "implicit_tls": step.host.implicit_tls,
        "preference": step.preference,
        "addresses": [target.address for target in step.targets] if isinstance(step.targets, tuple) else [],
        "failure": None if found else _failure(step.targets),
        "dane": _dane(step.dane),
        "demand": _demand(step) if isinstance(step.demand, Demand) else None,
    }


def _failure(outcome: object) -> dict[str, Any]:
    kind = "deferred" if isinstance(outcome, Deferred) else "failed"
    return {"outcome": kind, "reason": str(outcome)}


def _sts(sts: Sts) -> dict[str, Any]:
    return {"mode": "enforce" if sts.enforce else "testing", "hosts": sorted(sts.hosts)}


def _policy(policy: StsPolicy) -> dict[str, Any]:
    return {"id": policy.id, "mode": policy.mode.value, "mx": list(policy.mx), "until": iso_time(policy.expires)}


def _dane(dane: DaneVerdict) -> dict[str, Any]:
    if not isinstance(dane, Dane):
        return {"verdict": "broken" if isinstance(dane, BrokenDane) else "none", "why": dane.why, "records": []}
    verdict = "usable" if dane.records else "unusable"
    return {"verdict": verdict, "why": "", "records": [record.text for record in dane.records]}


def _demand(step: Step) -> dict[str, Any]:
    assert isinstance(step.demand, Demand)
    demand = step.demand
    return {
        "level": demand.level.value,
        "source": demand.source.value,
        "trial": demand.trial,
        "words": demand_words(step.host.name, demand),
    }


# for people


def way_lines(way: Way) -> Iterator[str]:
    """Yield a way in lines."""
    if not isinstance(way.where, Site):
        waits = isinstance(way.where, Deferred)
        yield f"{way.destination}: mail {'waits' if waits else 'fails'}: {way.where}"
        return
    site = way.where
    yield f"{way.destination}, to the site {site.key}"
    yield f"  {'configured':12}{site.tls.value}"
    if way.policy:
        until = short_time(way.policy.expires)
        yield f"  {'MTA-STS':12}{_sts_words(site.sts)} (policy {way.policy.id}, until {until})"
    elif not site.configured:
        yield f"  {'MTA-STS':12}none"
    for step in way.steps:
        yield ""
        yield from _step_lines(step)


def _sts_words(sts: Sts | None) -> str:
    if sts is None:
        return "none"
    hosts = ", ".join(sorted(sts.hosts)) or "none of these hosts"
    return f"{'enforce' if sts.enforce else 'testing'}: {hosts}"


def _step_lines(step: Step) -> Iterator[str]:
    yield f"{step.preference}. {step.host}{', TLS from the first octet' if step.host.implicit_tls else ''}"
    if isinstance(step.targets, tuple):
        yield f"  {'addresses':12}{', '.join(target.address for target in step.targets)}"
    elif step.targets != step.demand:
        yield f"  {'addresses':12}{step.targets}"
    yield f"  {'DANE':12}{_dane_words(step.dane)}"
    if isinstance(step.demand, Demand):
        yield f"  {'demands':12}{demand_words(step.host.name, step.demand)}"
    else:
        yield f"  {'demands':12}is not used: {step.demand}"


def _dane_words(dane: DaneVerdict) -> str:
    if isinstance(dane, BrokenDane):
        return f"cannot be trusted: {dane.why}"
    if not isinstance(dane, Dane):
        return f"none: {dane.why}"
    if not dane.records:
        return "records that cannot be used: encryption is demanded, and no more"
    return "; ".join(record.text for record in dane.records)


def demand_words(host: str, demand: Demand) -> str:
    """Return what a connection to `host` demands, in words."""
    kinds = "; ".join(dict.fromkeys(map(str, demand.dane.records))) if demand.dane else ""
    matching = f"a certificate that matches a TLSA record ({kinds})" if kinds else ""
    proven = f"a certificate for {host} by an authority that is trusted"
    match demand.level:
        case TlsPolicy.NONE:
            words = "clear text"
        case TlsPolicy.OPPORTUNISTIC:
            words = "encryption if it works, whoever the server is; else clear text"
        case TlsPolicy.REQUIRE:
            words = f"encryption, and {matching}" if matching else "encryption, whoever the server is"
        case TlsPolicy.VERIFY:
            words = f"encryption, and {proven}" + (f", and {matching}" if matching else "")
    trial = f"; tried with {proven} first, for reports" if demand.trial else ""
    return f"{words}{trial} ({demand.source.value})"
