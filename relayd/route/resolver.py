"""The resolver that asks real name servers: dnspython's, the only place that imports it.

Every look-up ends within `DnsSettings.timeout` of its turn, all name servers, tries and TCP together.
Forged, mangled and unasked-for answers are passed over by dnspython (2.6.1 and newer: CVE-2023-29483).
Without configured name servers, those of resolv.conf are used, which is read again when it changes; while it is
missing or empty nobody can say, which never fails a message.
At most MAX_QUERIES are asked at one time, each on its own socket and port; the others wait.
"""

from __future__ import annotations

import asyncio
import ipaddress
import traceback
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.rdata
import dns.rdatatype
import dns.rdtypes.ANY.MX
import dns.rdtypes.ANY.TXT
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.resolver
import dns.ttl

from relayd.mail.errors import ResolveError
from relayd.route.answers import MAX_RECORDS, MAX_TEXT, Exchanger, Found, Kind, LookUp, NoData, NoName, Unavailable
from relayd.route.settings import DnsSettings, parse_nameserver

RESOLV_CONF = Path("/etc/resolv.conf")
MAX_QUERIES = 256  # sockets
TRY = 2.0  # seconds that one name server has for one try, at most
GRACE = 0.5  # seconds that dnspython may take beyond its own limit before it is stopped

Stamp: TypeAlias = tuple[int, int, int]


class DnsResolver:
    """A Resolver.  See the module."""

    def __init__(
        self, settings: DnsSettings, *, resolv_conf: Path = RESOLV_CONF, max_queries: int = MAX_QUERIES
    ) -> None:
        self._resolv_conf = resolv_conf
        self._turns = asyncio.Semaphore(max_queries)
        self.reload(settings)

    def reload(self, settings: DnsSettings) -> None:
        """Use other name servers from the next look-up on."""
        self._settings = settings
        self._system: tuple[Stamp, dns.asyncresolver.Resolver] | None = None
        self._configured = self._of_settings() if settings.nameservers else None

    async def exchangers(self, name: str) -> LookUp[Exchanger]:
        """See answers.Resolver."""
        answer = await self._look_up(name, Kind.MX)
        if isinstance(answer, Found):
            return Found(tuple(sorted(set(_exchangers(answer.records)))[:MAX_RECORDS]), answer.ttl)
        return answer

    async def addresses(self, name: str, kind: Kind) -> LookUp[str]:
        """See answers.Resolver."""
        answer = await self._look_up(name, kind)
        if isinstance(answer, Found):
            return Found(tuple(_addresses(answer.records))[:MAX_RECORDS], answer.ttl)
        return answer

    async def texts(self, name: str) -> LookUp[str]:
        """See answers.Resolver."""
        answer = await self._look_up(name, Kind.TXT)
        if isinstance(answer, Found):
            return Found(tuple(_texts(answer.records))[:MAX_RECORDS], answer.ttl)
        return answer

    async def _look_up(self, name: str, kind: Kind) -> LookUp[dns.rdata.Rdata]:
        try:
            absolute = dns.name.from_text(name)
        except dns.exception.DNSException:
            return NoName()  # too long, or an empty label: no zone can have it
        seconds = self._settings.timeout.total_seconds()
        try:
            async with self._turns, asyncio.timeout(seconds + GRACE):
                return _read(await self._resolve(absolute, kind))
        except dns.resolver.NXDOMAIN as error:
            return NoName(_negative_ttl(error.kwargs["responses"][absolute]))
        except (TimeoutError, dns.exception.Timeout):
            return Unavailable(f"no answer for {name} {kind.value} within {seconds:g} s")
        except ResolveError as error:
            return Unavailable(str(error))
        except (dns.exception.DNSException, OSError) as error:
            return Unavailable(f"{name} {kind.value}: {_reason(error)}")

    async def _resolve(self, name: dns.name.Name, kind: Kind) -> dns.resolver.Answer:
        """Ask.  dnspython keeps the exception of each try in a frame that this exception leads back to: a cycle of
        10 KB, old enough by then that only a full collection would find it.  So the frames let go of what they hold."""
        try:
            return await self._resolver().resolve(name, kind.value, raise_on_no_answer=False, search=False)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)
            raise

    def _resolver(self) -> dns.asyncresolver.Resolver:
        if self._configured is not None:
            return self._configured
        try:
            status = self._resolv_conf.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if self._system is None or self._system[0] != stamp:
                self._system = stamp, self._limited(dns.asyncresolver.Resolver(filename=str(self._resolv_conf)))
        except (OSError, ValueError, dns.exception.DNSException) as error:
            self._system = None
            raise ResolveError(f"no name servers: {self._resolv_conf}: {error}") from error
        return self._system[1]

    def _of_settings(self) -> dns.asyncresolver.Resolver:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [
            dns.nameserver.Do53Nameserver(*parse_nameserver(text)) for text in self._settings.nameservers
        ]
        return self._limited(resolver)

    def _limited(self, resolver: dns.asyncresolver.Resolver) -> dns.asyncresolver.Resolver:
        """Share the time among the name servers; one alone is asked twice, since datagrams get lost."""
        resolver.lifetime = self._settings.timeout.total_seconds()
        resolver.timeout = min(TRY, resolver.lifetime / max(2, len(resolver.nameservers)))
        return resolver


def _read(answer: dns.resolver.Answer) -> LookUp[dns.rdata.Rdata]:
    if answer.rrset is not None:
        return Found(tuple(answer.rrset), timedelta(seconds=answer.chaining_result.minimum_ttl))
    authority = {rrset.rdtype for rrset in answer.response.authority}
    if dns.rdatatype.NS in authority and dns.rdatatype.SOA not in authority:
        # A referral (RFC 2308 section 2.2): this server knows nothing of the name, so it has not said "no such data".
        return Unavailable(f"lame answer for {answer.qname.to_text(omit_final_dot=True)} from {answer.nameserver}")
    if answer.response.flags & dns.flags.TC:
        # By TCP too: what did not fit was left out, all of it, and that is no "no such data" either.
        return Unavailable(f"truncated answer for {answer.qname.to_text(omit_final_dot=True)} from {answer.nameserver}")
    return NoData(_negative_ttl(answer.response))


def _negative_ttl(response: dns.message.QueryMessage) -> timedelta:
    """Return the TTL of a negative answer; without an SOA record there is none (RFC 2308 section 5)."""
    ttl = response.resolve_chaining().minimum_ttl
    return timedelta(seconds=0 if ttl >= dns.ttl.MAX_TTL else ttl)


def _exchangers(records: Iterable[dns.rdata.Rdata]) -> Iterable[Exchanger]:
    for record in records:
        if isinstance(record, dns.rdtypes.ANY.MX.MX):
            yield Exchanger(record.preference, record.exchange.to_text().removesuffix(".").lower())


def _addresses(records: Iterable[dns.rdata.Rdata]) -> Iterable[str]:
    for record in records:
        if isinstance(record, dns.rdtypes.IN.A.A | dns.rdtypes.IN.AAAA.AAAA):
            yield ipaddress.ip_address(record.address).compressed


def _texts(records: Iterable[dns.rdata.Rdata]) -> Iterable[str]:
    for record in records:
        if isinstance(record, dns.rdtypes.ANY.TXT.TXT):
            yield b"".join(record.strings).decode("ascii", "replace")[:MAX_TEXT]


def _reason(error: Exception) -> str:
    """Say in one line what each name server did."""
    if isinstance(error, dns.resolver.NoNameservers):
        failures = (f"{server.removeprefix('Do53:')} {failure}" for server, *_, failure, _ in error.kwargs["errors"])
        return "; ".join(dict.fromkeys(failures))[:200]
    return (str(error) or type(error).__name__)[:200]
