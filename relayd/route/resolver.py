"""The resolver that asks real name servers: dnspython's, the only place that imports it.

Every look-up ends within `DnsSettings.timeout` of its turn, all name servers, tries and TCP together.
Forged, mangled and unasked-for answers are passed over by dnspython (2.6.1 and newer: CVE-2023-29483).
Without configured name servers, those of resolv.conf are used, which is read again when it changes; while it is
missing or empty nobody can say, which never fails a message.
At most MAX_QUERIES are asked at one time, each on its own socket and port; the others wait.

Whether an answer is secure is the name server's word, the AD bit (RFC 4035 section 3.2.3), which anybody on the way
could set.  So it counts only from trusted servers (trust.py), and is asked for only once that is of use:
`ask_for_security`.
"""

from __future__ import annotations

import asyncio
import copy
import io
import ipaddress
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias, TypeVar

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.rdata
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.MX
import dns.rdtypes.ANY.TLSA
import dns.rdtypes.ANY.TXT
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.tlsabase
import dns.resolver
import dns.ttl

from relayd.mail.errors import ResolveError
from relayd.mail.tls import Tlsa
from relayd.route.answers import (
    MAX_CONTENT,
    MAX_RECORDS,
    MAX_TEXT,
    Exchanger,
    Found,
    Kind,
    LookUp,
    NoData,
    NoName,
    Unavailable,
)
from relayd.route.settings import DnsSettings, parse_nameserver
from relayd.route.trust import Unfit, Unknown, Validates, Validation, doubt

RESOLV_CONF = Path("/etc/resolv.conf")
MAX_QUERIES = 256  # sockets
TRY = 2.0  # seconds that one name server has for one try, at most
GRACE = 0.5  # seconds that dnspython may take beyond its own limit before it is stopped
PAYLOAD = 1232  # octets of an answer by UDP that no network has to cut in pieces (RFC 9715 section 3.2: 1400 at most)
ROOT = "."  # every resolver that validates can say something secure of it

# dnspython refuses an answer as a whole, as if it had not come, if a digest in it is of a wrong length (2.9).  Such a
# record is one that cannot be used, and those beside it can (RFC 7672 section 2.2): who publishes it must get mail.
dns.rdtypes.tlsabase.TLSABase._cert_length_by_mtype = {}

Stamp: TypeAlias = tuple[int, int, int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Servers:
    """Whom to ask, and whom to ask what is secure: the same, with other flags.  `doubt` is why their word on that does
    not count, empty if it does."""

    plain: dns.asyncresolver.Resolver
    careful: dns.asyncresolver.Resolver
    addresses: str
    doubt: str


class DnsResolver:
    """A Resolver.  See the module."""

    def __init__(
        self, settings: DnsSettings, *, resolv_conf: Path = RESOLV_CONF, max_queries: int = MAX_QUERIES
    ) -> None:
        self._resolv_conf = resolv_conf
        self._turns = asyncio.Semaphore(max_queries)
        self._careful = False
        self.reload(settings)

    def reload(self, settings: DnsSettings) -> None:
        """Use other name servers from the next look-up on."""
        self._settings = settings
        self._system: tuple[Stamp, _Servers] | None = None
        self._configured = self._of_settings() if settings.nameservers else None

    def ask_for_security(self, wanted: bool) -> None:
        """From the next look-up on, ask whether answers are secure (EDNS with DO, RFC 3225, and AD, RFC 6840 section
        5.7), or ask no more: then none is."""
        self._careful = wanted

    async def validation(self) -> Validation:
        """Return whether the name servers validate by DNSSEC, and may be believed.

        One that cannot be asked so, but can be otherwise, does not: nobody would get an answer for such questions.
        """
        try:
            servers = self._servers()
        except ResolveError as error:
            return Unknown(str(error))
        if servers.doubt:
            return Unfit(servers.doubt)
        asking = (self._look_up(ROOT, "SOA", careful=careful) for careful in (True, False))
        answer, plain = await asyncio.gather(*asking)
        if isinstance(answer, Found) and answer.secure:
            return Validates()
        if isinstance(answer, Unavailable) and isinstance(plain, Unavailable):
            return Unknown(answer.reason)
        return Unfit(f"{servers.addresses} does not validate DNSSEC")

    async def exchangers(self, name: str) -> LookUp[Exchanger]:
        """See answers.Resolver."""
        answer = await self._ask(name, Kind.MX)
        if isinstance(answer, Found):
            return _kept(answer, sorted(set(_exchangers(answer.records))))
        return answer

    async def addresses(self, name: str, kind: Kind) -> LookUp[str]:
        """See answers.Resolver."""
        answer = await self._ask(name, kind)
        return _kept(answer, _addresses(answer.records)) if isinstance(answer, Found) else answer

    async def texts(self, name: str) -> LookUp[str]:
        """See answers.Resolver."""
        answer = await self._ask(name, Kind.TXT)
        return _kept(answer, _texts(answer.records)) if isinstance(answer, Found) else answer

    async def alias(self, name: str) -> LookUp[str]:
        """See answers.Resolver."""
        answer = await self._ask(name, Kind.CNAME)
        return _kept(answer, _aliases(answer.records)) if isinstance(answer, Found) else answer

    async def associations(self, name: str) -> LookUp[Tlsa]:
        """See answers.Resolver."""
        answer = await self._ask(name, Kind.TLSA)
        return _kept(answer, _associations(answer.records[:MAX_RECORDS])) if isinstance(answer, Found) else answer

    async def _ask(self, name: str, kind: Kind) -> LookUp[dns.rdata.Rdata]:
        return await self._look_up(name, kind.value, careful=self._careful)

    async def _look_up(self, name: str, rdtype: str, *, careful: bool = False) -> LookUp[dns.rdata.Rdata]:
        try:
            absolute = dns.name.from_text(name)
        except dns.exception.DNSException:
            return NoName()  # too long, or an empty label: no zone can have it
        seconds = self._settings.timeout.total_seconds()
        try:
            servers = self._servers()
            careful = careful and not servers.doubt
            async with self._turns, asyncio.timeout(seconds + GRACE):
                return _read(
                    await _resolve(servers.careful if careful else servers.plain, absolute, rdtype), careful=careful
                )
        except dns.resolver.NXDOMAIN as error:
            response = error.kwargs["responses"][absolute]
            return NoName(_negative_ttl(response), careful and _authentic(response))
        except (TimeoutError, dns.exception.Timeout):
            return Unavailable(f"no answer for {name} {rdtype} within {seconds:g} s")
        except ResolveError as error:
            return Unavailable(str(error))
        except (dns.exception.DNSException, OSError) as error:
            return Unavailable(f"{name} {rdtype}: {_reason(error)}")

    def _servers(self) -> _Servers:
        if self._configured is not None:
            return self._configured
        try:
            status = self._resolv_conf.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if self._system is None or self._system[0] != stamp:
                self._system = stamp, self._of_system()
        except (OSError, ValueError, dns.exception.DNSException) as error:
            self._system = None
            raise ResolveError(f"no name servers: {self._resolv_conf}: {error}") from error
        return self._system[1]

    def _of_system(self) -> _Servers:
        text = self._resolv_conf.read_text(encoding="utf-8", errors="replace")
        resolver = dns.asyncresolver.Resolver(io.StringIO(text))
        return self._limited(resolver, [str(server) for server in resolver.nameservers], text)

    def _of_settings(self) -> _Servers:
        found = [parse_nameserver(text) for text in self._settings.nameservers]
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [dns.nameserver.Do53Nameserver(*server) for server in found]
        return self._limited(resolver, [address for address, _ in found])

    def _limited(
        self, resolver: dns.asyncresolver.Resolver, addresses: Sequence[str], resolv_conf: str = ""
    ) -> _Servers:
        """Share the time among the name servers; one alone is asked twice, since datagrams get lost."""
        resolver.lifetime = self._settings.timeout.total_seconds()
        resolver.timeout = min(TRY, resolver.lifetime / max(2, len(resolver.nameservers)))
        careful = copy.copy(resolver)
        careful.use_edns(0, dns.flags.DO, PAYLOAD)
        careful.set_flags(dns.flags.RD | dns.flags.AD)
        doubts = doubt(addresses, trust_ad=self._settings.trust_ad, resolv_conf=resolv_conf)
        return _Servers(resolver, careful, ", ".join(addresses), doubts)


async def _resolve(resolver: dns.asyncresolver.Resolver, name: dns.name.Name, rdtype: str) -> dns.resolver.Answer:
    """Ask.  dnspython keeps the exception of each try in a frame that this exception leads back to: a cycle of 10 KB,
    old enough by then that only a full collection would find it.  So the frames let go of what they hold."""
    try:
        return await resolver.resolve(name, rdtype, raise_on_no_answer=False, search=False)
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


def _read(answer: dns.resolver.Answer, *, careful: bool) -> LookUp[dns.rdata.Rdata]:
    secure = careful and _authentic(answer.response)
    if answer.rrset is not None:
        ttl = timedelta(seconds=answer.chaining_result.minimum_ttl)
        canonical = "" if answer.canonical_name == answer.qname else _text(answer.canonical_name)
        return Found(tuple(answer.rrset), ttl, secure, canonical)
    authority = {rrset.rdtype for rrset in answer.response.authority}
    if dns.rdatatype.NS in authority and dns.rdatatype.SOA not in authority:
        # A referral (RFC 2308 section 2.2): this server knows nothing of the name, so it has not said "no such data".
        return Unavailable(f"lame answer for {answer.qname.to_text(omit_final_dot=True)} from {answer.nameserver}")
    if answer.response.flags & dns.flags.TC:
        # By TCP too: what did not fit was left out, all of it, and that is no "no such data" either.
        return Unavailable(f"truncated answer for {answer.qname.to_text(omit_final_dot=True)} from {answer.nameserver}")
    return NoData(_negative_ttl(answer.response), secure)


def _authentic(response: dns.message.Message) -> bool:
    return bool(response.flags & dns.flags.AD)


def _negative_ttl(response: dns.message.QueryMessage) -> timedelta:
    """Return the TTL of a negative answer; without an SOA record there is none (RFC 2308 section 5)."""
    ttl = response.resolve_chaining().minimum_ttl
    return timedelta(seconds=0 if ttl >= dns.ttl.MAX_TTL else ttl)


def _kept(answer: Found[dns.rdata.Rdata], records: Iterable[T]) -> Found[T]:
    return Found(tuple(records)[:MAX_RECORDS], answer.ttl, answer.secure, answer.canonical)


def _exchangers(records: Iterable[dns.rdata.Rdata]) -> Iterator[Exchanger]:
    for record in records:
        if isinstance(record, dns.rdtypes.ANY.MX.MX):
            yield Exchanger(record.preference, _text(record.exchange))


def _addresses(records: Iterable[dns.rdata.Rdata]) -> Iterator[str]:
    for record in records:
        if isinstance(record, dns.rdtypes.IN.A.A | dns.rdtypes.IN.AAAA.AAAA):
            yield ipaddress.ip_address(record.address).compressed


def _texts(records: Iterable[dns.rdata.Rdata]) -> Iterator[str]:
    for record in records:
        if isinstance(record, dns.rdtypes.ANY.TXT.TXT):
            yield b"".join(record.strings).decode("ascii", "replace")[:MAX_TEXT]


def _aliases(records: Iterable[dns.rdata.Rdata]) -> Iterator[str]:
    for record in records:
        if isinstance(record, dns.rdtypes.ANY.CNAME.CNAME):
            yield _text(record.target)


def _associations(records: Iterable[dns.rdata.Rdata]) -> Iterator[Tlsa]:
    room = MAX_CONTENT
    for record in records:
        if isinstance(record, dns.rdtypes.ANY.TLSA.TLSA):
            room -= len(record.cert)
            content = record.cert if room >= 0 else b""
            yield Tlsa(usage=record.usage, selector=record.selector, matching=record.mtype, content=content)


def _text(name: dns.name.Name) -> str:
    return name.to_text().removesuffix(".").lower()


def _reason(error: Exception) -> str:
    """Say in one line what each name server did."""
    if isinstance(error, dns.resolver.NoNameservers):
        failures = (f"{server.removeprefix('Do53:')} {failure}" for server, *_, failure, _ in error.kwargs["errors"])
        return "; ".join(dict.fromkeys(failures))[:200]
    return (str(error) or type(error).__name__)[:200]
