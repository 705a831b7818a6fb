"""DNS for tests: a server with faults that only tests need, and a resolver without any server.

Both have the zone's methods of `relayd.demo.dns.DnsServer`, so that one suite runs against either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import timedelta
from random import Random
from typing import Protocol

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from relayd.demo.dns import DnsServer, wire
from relayd.route.answers import MAX_RECORDS, MAX_TEXT, Exchanger, Found, Kind, LookUp, NoData, NoName, Unavailable

Write = Callable[[bytes], None]


class FaultyDns(DnsServer):
    """A DNS server that misbehaves for some names."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, ttl: int = 60, negative_ttl: int = 60) -> None:
        super().__init__(host, port, ttl=ttl, negative_ttl=negative_ttl)
        self._tricks: dict[str, Callable[[dns.message.Message, Write, bool], None]] = {}
        self._later: set[asyncio.TimerHandle] = set()
        self._share, self._chance = 0.0, Random(0)

    def rcode(self, name: str, code: str) -> None:
        """Answer every question for `name` with REFUSED, FORMERR, NOTIMP, ..."""
        self.faults[(dns.name.from_text(name), None)] = dns.rcode.from_text(code)

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
        trick = self._tricks.get(request.question[0].name.to_text(omit_final_dot=True).lower())
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
        target = self._target(name, Kind.MX)
        if not isinstance(target, str):
            return target
        records = sorted(set(self._exchangers.get(target, ())))[:MAX_RECORDS]
        return Found(tuple(records), self.ttl) if records else self._absent(target)

    async def addresses(self, name: str, kind: Kind) -> LookUp[str]:
        target = self._target(name, kind)
        if not isinstance(target, str):
            return target
        records = self._addresses.get((target, kind), ())[:MAX_RECORDS]
        return Found(records, self.ttl) if records else self._absent(target)

    async def texts(self, name: str) -> LookUp[str]:
        target = self._target(name, Kind.TXT)
        if not isinstance(target, str):
            return target
        records = tuple(_ascii(text)[:MAX_TEXT] for text in self._texts.get(target, ())[:MAX_RECORDS])
        return Found(records, self.ttl) if records else self._absent(target)

    def _target(self, name: str, kind: Kind) -> str | Unavailable:
        self.queries.append((name, kind.value))
        for _ in range(16):
            fault = self._faults.get((name, kind.value)) or self._faults.get((name, None))
            if fault:
                return Unavailable(f"{name} {kind.value}: {fault}")
            if name not in self._aliases:
                return name
            name = self._aliases[name]
        return Unavailable(f"{name}: too many aliases")

    def _absent(self, name: str) -> NoName | NoData:
        return NoData(self.ttl) if name in self._names else NoName(self.ttl)


def _ascii(text: str) -> str:
    return text.encode().decode("ascii", "replace")


def fill(zone: Zone, names: Iterable[str], address: str) -> None:
    """Give every name the same IPv4 address."""
    for name in names:
        zone.a(name, address)
