"""`relayd probe`: go to the mail exchangers of a destination as a relayer would, up to the first MAIL, and say what was
found.  No message is sent; the daemon does not learn of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

from relayd.cli.route import demand_words, exit_code, way_lines, way_summary
from relayd.cli.spool import printing
from relayd.cli.way import Way, find, router_of
from relayd.config import load
from relayd.https import Https
from relayd.identity import hostname_of_machine, identity
from relayd.mail.events import Degraded, Event
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.route import Site, Target
from relayd.mail.tls import Evidence
from relayd.mail.transcript import Transcript
from relayd.ownership import act_as_owner
from relayd.password import read_password
from relayd.plugs import NamesPort
from relayd.relay.capabilities import Capabilities
from relayd.relay.connection import tcp_socket
from relayd.relay.entrance import Entrance, Established
from relayd.relay.partings import Partings
from relayd.relay.plans import Plan
from relayd.relay.run_token import RunToken
from relayd.relay.secrecy import Secrecy
from relayd.relay.stirring import Stirring
from relayd.relay.tls import TlsContexts, TlsMemory
from relayd.relay.transcript import Remarks, transcript
from relayd.route.own import own_addresses
from relayd.route.router import Router
from relayd.sections import Config
from relayd.settings import relay_settings
from relayd.tokens.tokens import Tokens
from relayd.view.shown import printable
from relayd.view.transcripts import transcript_lines, transcript_summary

EX_OK, EX_UNAVAILABLE, EX_TEMPFAIL = 0, 69, 75


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What came of one address; `failure` None: it waited for MAIL."""

    target: Target
    seconds: float
    failure: Deferred | Failed | None
    evidence: Evidence | None = None
    offered: Capabilities | None = None
    transcript: Transcript = ()


@click.command(short_help="Try the connection to a mail exchanger, up to the first MAIL.")
@click.argument("subject", metavar="ADDRESS|DOMAIN")
@click.option("--all", "every", is_flag=True, help="Every address of every host, not only until one lets us in.")
@click.option("--transcript", "shown", is_flag=True, help="Print what was said, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@click.pass_obj
def probe(config_path: Any, subject: str, every: bool, shown: bool, as_json: bool) -> int:
    """Connect to where mail to an address or a domain would go: greet, negotiate TLS as it is demanded, authenticate if
    the route has a password or OAuth, and quit before MAIL.  Says whether mail would be let in.

    Exits with 75 if it would wait, and with 69 if it would fail.
    """
    config = load(config_path)
    act_as_owner(config.spool)
    way, probed = asyncio.run(_probed(config, subject, every=every))
    with printing():
        if as_json:
            click.echo(json.dumps(way_summary(way) | {"probes": [_summary(each) for each in probed]}))
        else:
            for line in _lines(way, probed, shown=shown):
                click.echo(printable(line))
    return _code(way, probed)


async def _probed(config: Config, subject: str, *, every: bool) -> tuple[Way, list[Probed]]:
    async with router_of(config) as router:
        way = await find(router, subject)
        async with tokens_of(config, router) as tokens:
            return way, [each async for each in _probe(config, way, tokens, every=every)]


@asynccontextmanager
async def tokens_of(config: Config, router: Router) -> AsyncIterator[Tokens]:
    """Tokens as the daemon has them, of our own; what is wrong with them is said on standard error."""
    https = Https(NamesPort(lambda: router))
    tokens = Tokens(
        config.token_rules,
        https=https,
        read_secret=lambda path: read_password(path, config.spool),
        clock=lambda: datetime.now(UTC),
        events=_say,
    )
    try:
        yield tokens
    finally:
        await tokens.close()
        await https.close()


def _say(event: Event) -> None:
    if isinstance(event, Degraded):
        click.echo(printable(f"{event.part}: {event.reason}"), err=True)


async def _probe(config: Config, way: Way, tokens: Tokens, *, every: bool) -> AsyncIterator[Probed]:
    """Try one address after the other."""
    if not isinstance(way.where, Site):
        return
    partings = Partings(config.timeouts.quit)
    for step in way.steps:
        for target in step.targets if isinstance(step.targets, tuple) else ():
            found = await _enter(config, way.where, target, partings, tokens)
            yield found
            if found.failure is None and not every:
                await partings.over()
                return
    await partings.over()


async def _enter(config: Config, site: Site, target: Target, partings: Partings, tokens: Tokens) -> Probed:
    loop = asyncio.get_running_loop()
    settings = relay_settings(config, identity(config.relay.hostname, hostname_of_machine(), own_addresses()))
    secrecy, stirring = Secrecy(site.credentials), Stirring(loop.time)
    remarks = Remarks(lambda: datetime.now(UTC))
    entrance = Entrance(
        target,
        site,
        settings,
        contexts=TlsContexts(),
        memory=TlsMemory(settings.tls_memory),
        partings=partings,
        stirring=stirring,
        clock=lambda: datetime.now(UTC),
        new_socket=tcp_socket,
        token=RunToken(site, tokens, secrecy, stirring),
        note=remarks.note,
    )
    began = loop.time()
    result = await entrance.enter()
    seconds, said = loop.time() - began, transcript(remarks.kept, secrecy)
    if not isinstance(result, Established):
        return Probed(target=target, seconds=seconds, failure=secrecy.of_failure(result), transcript=said)
    partings.part(result.wire)
    return Probed(
        target=target,
        seconds=seconds,
        failure=None,
        evidence=result.evidence,
        offered=result.capabilities,
        transcript=said,
    )


def _code(way: Way, probed: list[Probed]) -> int:
    if not isinstance(way.where, Site):
        return exit_code(way.where)
    if any(each.failure is None for each in probed):
        return EX_OK
    failed = bool(probed) and all(isinstance(each.failure, Failed) for each in probed)
    return EX_UNAVAILABLE if failed else EX_TEMPFAIL


def _summary(probed: Probed) -> dict[str, Any]:
    evidence, offered = probed.evidence, probed.offered
    return {
        "host": probed.target.host.name,
        "address": probed.target.address,
        "port": probed.target.host.port,
        "seconds": round(probed.seconds, 3),
        "accepted": probed.failure is None,
        "failure": str(probed.failure) if probed.failure else None,
        "tls": str(evidence) if evidence else None,
        "cipher": evidence.cipher if evidence else None,
        "plan": Plan.of(offered).value if offered else None,
        "offers": list(_offers(offered)) if offered else [],
        "transcript": transcript_summary(probed.transcript),
    }


def _lines(way: Way, probed: list[Probed], *, shown: bool) -> Iterator[str]:
    if not isinstance(way.where, Site):
        yield from way_lines(way)
        return
    yield f"{way.destination}, to the site {way.where.key}"
    for step in way.steps:
        if isinstance(step.targets, Deferred | Failed):
            yield f"{step.host}: is not used: {step.targets}"
    for each in probed:
        yield f"{each.target}"
        if shown:
            yield from transcript_lines(each.transcript)
        yield f"  {'demands':12}{demand_words(each.target.host.name, each.target.demand)}"
        if each.failure is not None:
            yield f"  {'refused':12}{each.failure} (after {each.seconds:.2f} s)"
            continue
        tls = f"{each.evidence}, {each.evidence.cipher}" if each.evidence else "none: clear text"
        yield f"  {'TLS':12}{tls}"
        if each.offered:
            yield f"  {'offers':12}{', '.join(_offers(each.offered)) or 'nothing'}: {Plan.of(each.offered).value}"
        yield f"  {'accepted':12}it waits for MAIL, after {each.seconds:.2f} s"
    if any(each.failure is None for each in probed):
        yield "Mail would be let in."
    else:
        yield "No host lets us in now: mail would wait."


def _offers(offered: Capabilities) -> Iterator[str]:
    named = (
        ("PIPELINING", offered.pipelining),
        ("CHUNKING", offered.chunking),
        ("8BITMIME", offered.eight_bit_mime),
        ("SMTPUTF8", offered.smtputf8),
        ("DSN", offered.dsn),
        ("DELIVERBY", offered.deliver_by),
        ("REQUIRETLS", offered.require_tls),
    )
    yield from (name for name, is_offered in named if is_offered)
    if offered.size is not None:
        yield f"SIZE {offered.size}"
    if offered.auth:
        yield f"AUTH {' '.join(sorted(offered.auth))}"
