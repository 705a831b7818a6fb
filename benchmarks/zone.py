"""The domains that benchmarks send to: a DNS server on loopback, in a process of its own.

Domain `d0.test` and so on; `mx0.test` and so on are their mail exchangers.  Where the domains outnumber the exchangers
they share them in turn.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import uvloop

from relayd.demo.dns import DnsServer

TTL = 3600  # seconds: no look-up is repeated within a run


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """`exchangers` are the exchanger's name of each domain, `hosts` the address of each exchanger."""

    exchangers: Mapping[str, str] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)

    def __or__(self, other: Zone) -> Zone:
        """Return both together."""
        return Zone(
            exchangers={**self.exchangers, **other.exchangers},
            hosts={**self.hosts, **other.hosts},
        )


def domains(count: int, sites: int, *, prefix: str = "", address: str = "127.0.0.1") -> Zone:
    """Return a zone of so many domains that share so many exchangers, all at one address."""
    return Zone(
        exchangers={f"{prefix}d{number}.test": f"{prefix}mx{number % sites}.test" for number in range(count)},
        hosts={f"{prefix}mx{number}.test": address for number in range(sites)},
    )


class Prepared(DnsServer):
    """Makes each answer once: a relay that asks again for every message is not to wait for us."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, ttl=TTL, negative_ttl=TTL)
        self._made: dict[tuple[bytes, bool], bytes] = {}

    def respond(self, query: bytes, write: Callable[[bytes], None], *, tcp: bool) -> None:
        asked = query[2:], tcp  # without its number
        if asked not in self._made:
            super().respond(query, lambda answer: self._made.__setitem__(asked, answer[2:]), tcp=tcp)
        if made := self._made.get(asked):
            write(query[:2] + made)


@contextmanager
def nameserver(zone: Zone, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve a zone, on a free port if none is given; yield where, as `127.0.0.1:PORT`."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(target=_serve, args=(theirs, zone, host, port), daemon=True)
    server.start()
    theirs.close()
    try:
        yield _first_word(ours)
    finally:
        server.kill()
        server.join()


def _first_word(pipe: Connection) -> str:
    try:
        return str(pipe.recv())
    except EOFError:
        sys.exit("the DNS server ended before its time")


def _serve(pipe: Connection, zone: Zone, host: str, port: int) -> None:
    async def serve() -> None:
        async with Prepared(host, port) as dns:
            for domain, exchanger in zone.exchangers.items():
                dns.mx(domain, (10, exchanger))
            for name, address in zone.hosts.items():
                dns.a(name, address)
            pipe.send(dns.address)
            await asyncio.Event().wait()

    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
