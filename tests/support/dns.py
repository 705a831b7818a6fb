"""DNS for tests: a server with faults that only tests need, and a resolver without any server.

Both have the zone's methods of `relayd.demo.dns.DnsServer`, so that one suite runs against either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from random import Random
from typing import Protocol, TypeVar

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from relayd.demo.dns import DnsServer, wire
from relayd.mail.tls import Tlsa
from relayd.route.answers import MAX_RECORDS, MAX_TEXT, Exchanger, Found, Kind, LookUp, NoData, NoName, Unavailable

Write = Callable[[bytes], None]
T = TypeVar("T")


class FaultyDns(DnsServer):
    """A DNS server that misbehaves for some names."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, ttl: int = 60, negative_ttl: int = 60) -> None:
        super().__init__(host, port, ttl=ttl, negative_ttl=negative_ttl)
        self._tricks: dict[str, Callable[[dns.message.Message, Write, bool], None]] = {}
        self._later: set[asyncio.TimerHandle] = set()
        self._share, self._chance = 0.0, Random(0)
        self._signed: set[dns.name.Name] = set()
        self.forges_ad = False  # says of all that it is secure
        self._see: Callable[[dns.message.Message], None] = lambda request: None

    def tlsa(self, name: str, *records: Tlsa) -> None:
        """Give `name`, as `_25._tcp.mx.example.org`, TLSA records."""
        self._put(name, "TLSA", [record.text for record in records])

    def validates(self) -> None:
        """Play a resolver that validates: the root is secure, and so will be what is signed."""
        self._put(".", "SOA", [f". . 1 1 1 1 {self.negative_ttl}"])
        self._signed.add(dns.name.root)

    def stops_validating(self) -> None:
        """Play one that does so no more."""
        self._signed.discard(dns.name.root)

    def sign(self, *names: str) -> None:
        """Let these names, and all below them, be secure."""
        self._signed.update(dns.name.from_text(name) for name in names)

    def answer(self, request: dns.message.Message) -> dns.message.Message | None:
        """Tell whether the answer is secure, if that is asked for (RFC 6840 section 5.8)."""
        response = super().answer(request)
        asked = bool(request.ednsflags & dns.flags.DO or request.flags & dns.flags.AD)
        if response is not None and (self.forges_ad or (asked and self._is_secure(request, response))):
            response.flags |= dns.flags.AD
        return response

    def _is_secure(self, request: dns.message.Message, response: dns.message.Message) -> bool:
        owners = {request.question[0].name} | {rrset.name for rrset in response.answer}
        return dns.name.root in self._signed and all(self._is_signed(owner) for owner in owners)

    def _is_signed(self, owner: dns.name.Name) -> bool:
        return any(owner == name or (owner.is_subdomain(name) and name != dns.name.root) for name in self._signed)

    def rcode(self, name: str, code: str) -> None:
        """Answer every question for `name` with REFUSED, FORMERR, NOTIMP, ..."""
        self.faults[(dns.name.from_text(name), None)] = dns.rcode.from_text(code)

    def old(self, name: str) -> None:
        """Not understand questions with EDNS (RFC 6891 section 7)."""

        def refuse(request: dns.message.Message, write: Write, tcp: bool) -> None:
            if request.edns < 0:
                self._truth(request, write, tcp)
                return
            response = dns.message.Message(request.id)
            response.flags = dns.flags.Flag(dns.flags.QR)
            response.set_rcode(dns.rcode.FORMERR)
            response.question = list(request.question)
            write(response.to_wire())

        self._tricks[name] = refuse

    def watch(self, see: Callable[[dns.message.Message], None]) -> None:
        """Show every question to `see`."""
        self._see = see

    def lame(self, name: str) -> None:
        """Refer the asker to somebody else (RFC 2308 section 2.2)."""

        def refer(request: dns.message.Message, write: Write, tcp: bool) -> None:
            response = dns.message.make_response(request)
            response.authority.append(dns.rrset.from_text("org.", 60, "IN", "NS", "ns.example.org."))
            write(wire(request, response, tcp=tcp))

        self._tricks[name] = refer

    def forge(self, name: str, address: str) -> None:
        """Send answers with `address` first that were not asked for: another id, another question, no question."""

        def lie(request: dns.message.Message, write: Write, tcp: bool) -> None:
            lies = [dns.message.make_response(request) for _ in range(3)]
            question = request.question[0]
            lies[0].id = request.id ^ 1
            lies[1].question = [dns.rrset.RRset(dns.name.from_text("other.org"), question.rdclass, question.rdtype)]
            lies[2].question = []
            for response in lies:
                response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", address))
                write(response.to_wire())
            self._truth(request, write, tcp)

        self._tricks[name] = lie

    def repeat(self, name: str) -> None:
        """Send each answer three times."""

        def thrice(request: dns.message.Message, write: Write, tcp: bool) -> None:
            for _ in range(3):
                self._truth(request, write, tcp)

        self._tricks[name] = thrice

    def mangle(self, name: str) -> None:
        """Send octets that begin like an answer and end in the middle of a record."""

        def cut(request: dns.message.Message, write: Write, tcp: bool) -> None:
            self._truth(request, lambda octets: write(octets[:-3]), tcp)

        self._tricks[name] = cut

    def delay(self, name: str, seconds: float) -> None:
        """Answer late."""

        def wait(request: dns.message.Message, write: Write, tcp: bool) -> None:
            self._later.add(asyncio.get_running_loop().call_later(seconds, self._truth, request, write, tcp))

        self._tricks[name] = wait

    def lose(self, name: str, times: int) -> None:
        """Lose the first questions for `name`."""
        left = times

        def drop(request: dns.message.Message, write: Write, tcp: bool) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                self._truth(request, write, tcp)

        self._tricks[name] = drop

    def shout(self, name: str) -> None:
        """Answer as if the question had been in capitals (draft-vixie-dnsext-dns0x20 expects it back as it was)."""

        def capital(request: dns.message.Message, write: Write, tcp: bool) -> None:
            upper = request.question[0].name.to_text().upper()
            request.question[0].name = dns.name.from_text(upper)
            self._truth(request, write, tcp)

        self._tricks[name] = capital

    def flap(self, name: str, *turns: Callable[[], None]) -> None:
        """Change the zone before each answer, by turns."""
        count = 0

        def turn(request: dns.message.Message, write: Write, tcp: bool) -> None:
            nonlocal count
            turns[count % len(turns)]()
            count += 1
            self._truth(request, write, tcp)

        self._tricks[name] = turn

    def lossy(self, share: float, seed: int) -> None:
        """Lose a share of all datagrams that come, by chance."""
        self._share, self._chance = share, Random(seed)

    async def refuse_tcp(self) -> None:
        """Listen on UDP only."""
        assert self._tcp is not None
        self._tcp.close()
        await self._tcp.wait_closed()

    async def stop(self) -> None:
        """Forget late answers too."""
        for answer in self._later:
            answer.cancel()
        await super().stop()

    def respond(self, query: bytes, write: Write, *, tcp: bool) -> None:
        """Play the trick of the name that is asked for."""
        if not tcp and self._chance.random() < self._share:
            return
        request = dns.message.from_wire(query)
        self._see(request)
        trick = self._tricks.get(_name_of(request))
        if trick is None:
            super().respond(query, write, tcp=tcp)
        else:
            trick(request, write, tcp)

    def _truth(self, request: dns.message.Message, write: Write, tcp: bool) -> None:
        response = self.answer(request)
        if response is not None:
            write(wire(request, response, tcp=tcp))


class Zone(Protocol):
    """What a test may say of names, to a server or to `MemoryResolver`."""

    def mx(self, name: str, *exchangers: tuple[int, str]) -> None: ...
    def null_mx(self, name: str) -> None: ...
    def a(self, name: str, *addresses: str) -> None: ...
    def aaaa(self, name: str, *addresses: str) -> None: ...
    def txt(self, name: str, *texts: str) -> None: ...
    def cname(self, name: str, target: str) -> None: ...
    def tlsa(self, name: str, *records: Tlsa) -> None: ...
    def validates(self) -> None: ...
    def sign(self, *names: str) -> None: ...
    def exists(self, name: str) -> None: ...
    def servfail(self, name: str, rdtype: str | None = None) -> None: ...
    def silent(self, name: str, rdtype: str | None = None) -> None: ...
    def asked(self, name: str, rdtype: str | None = None) -> int: ...


class MemoryResolver:
    """A Resolver whose answers are set by hand.  Takes no time; a simulation may run millions of look-ups."""

    def __init__(self, *, ttl: timedelta = timedelta(minutes=1)) -> None:
        self.ttl = ttl
        self.queries: list[tuple[str, str]] = []
        self._exchangers: dict[str, tuple[Exchanger, ...]] = {}
        self._addresses: dict[tuple[str, Kind], tuple[str, ...]] = {}
        self._texts: dict[str, tuple[str, ...]] = {}
        self._aliases: dict[str, str] = {}
        self._faults: dict[tuple[str, str | None], str] = {}
        self._names: set[str] = set()
        self._associations: dict[str, tuple[Tlsa, ...]] = {}
        self._signed: set[str] = set()

    def tlsa(self, name: str, *records: Tlsa) -> None:
        self._names.add(name)
        self._associations[name] = records

    def validates(self) -> None:
        """It does."""

    def sign(self, *names: str) -> None:
        self._signed.update(names)

    def mx(self, name: str, *exchangers: tuple[int, str]) -> None:
        self._names.add(name)
        records = (Exchanger(preference, host.removesuffix(".").lower()) for preference, host in exchangers)
        self._exchangers[name] = tuple(records)

    def null_mx(self, name: str) -> None:
        self.mx(name, (0, "."))

    def a(self, name: str, *addresses: str) -> None:
        self._names.add(name)
        self._addresses[name, Kind.A] = addresses

    def aaaa(self, name: str, *addresses: str) -> None:
        self._names.add(name)
        self._addresses[name, Kind.AAAA] = addresses

    def txt(self, name: str, *texts: str) -> None:
        self._names.add(name)
        self._texts[name] = texts

    def cname(self, name: str, target: str) -> None:
        self._names.add(name)
        self._aliases[name] = target

    def exists(self, name: str) -> None:
        self._names.add(name)

    def servfail(self, name: str, rdtype: str | None = None) -> None:
        self._faults[name, rdtype] = "SERVFAIL"

    def silent(self, name: str, rdtype: str | None = None) -> None:
        self._faults[name, rdtype] = "time-out"

    def asked(self, name: str, rdtype: str | None = None) -> int:
        return sum(1 for asked, kind in self.queries if asked == name and rdtype in (None, kind))

    async def exchangers(self, name: str) -> LookUp[Exchanger]:
        return self._look_up(name, Kind.MX, lambda target: sorted(set(self._exchangers.get(target, ()))))

    async def addresses(self, name: str, kind: Kind) -> LookUp[str]:
        return self._look_up(name, kind, lambda target: self._addresses.get((target, kind), ()))

    async def alias(self, name: str) -> LookUp[str]:
        return self._look_up(
            name, Kind.CNAME, lambda target: [self._aliases[target]] if target in self._aliases else []
        )

    async def associations(self, name: str) -> LookUp[Tlsa]:
        return self._look_up(name, Kind.TLSA, lambda target: self._associations.get(target, ()))

    async def texts(self, name: str) -> LookUp[str]:
        return self._look_up(
            name, Kind.TXT, lambda target: [_ascii(text)[:MAX_TEXT] for text in self._texts.get(target, ())]
        )

    def _look_up(self, name: str, kind: Kind, find: Callable[[str], Sequence[T]]) -> LookUp[T]:
        way = self._way(name, kind)
        if isinstance(way, Unavailable):
            return way
        target, secure = way[-1], all(any(owner == s or owner.endswith(f".{s}") for s in self._signed) for owner in way)
        if records := tuple(find(target))[:MAX_RECORDS]:
            return Found(records, self.ttl, secure, target if target != name else "")
        return NoData(self.ttl, secure) if target in self._names else NoName(self.ttl, secure)

    def _way(self, name: str, kind: Kind) -> list[str] | Unavailable:
        """Return the names from the one that is asked for to the one that has the answer."""
        self.queries.append((name, kind.value))
        way = [name]
        for _ in range(16):
            name = way[-1]
            fault = self._faults.get((name, kind.value)) or self._faults.get((name, None))
            if fault:
                return Unavailable(f"{name} {kind.value}: {fault}")
            if name not in self._aliases or kind is Kind.CNAME:
                return way
            way.append(self._aliases[name])
        return Unavailable(f"{name}: too many aliases")


def _ascii(text: str) -> str:
    return text.encode().decode("ascii", "replace")


def fill(zone: Zone, names: Iterable[str], address: str) -> None:
    """Give every name the same IPv4 address."""
    for name in names:
        zone.a(name, address)


def _name_of(request: dns.message.Message) -> str:
    name = request.question[0].name
    return "." if name == dns.name.root else name.to_text(omit_final_dot=True).lower()
