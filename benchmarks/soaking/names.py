"""The DNS server of a soak, in a process of its own: now and then SERVFAIL for a domain, or no answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from multiprocessing.connection import Connection

import uvloop

from benchmarks.soaking.moods import NameTrouble, name_trouble
from benchmarks.soaking.plan import address, host_name
from benchmarks.soaking.shared import Shared
from benchmarks.zone import Prepared

TTL = 60  # seconds
HEADER = 12  # octets
SERVFAIL = b"\x81\x82\x00\x01\x00\x00\x00\x00\x00\x00"  # flags and counts: one question, nothing else


class _Names(Prepared):
    def __init__(self, shared: Shared) -> None:
        super().__init__("127.0.0.1", 0)
        self.ttl = self.negative_ttl = TTL
        self._shared = shared
        self._numbers: dict[bytes, int] = {}

    def respond(self, query: bytes, write: Callable[[bytes], None], *, tcp: bool) -> None:
        end = query.find(b"\0", HEADER) + 5  # of the question: its name, type and class
        match self._trouble(query[HEADER:end]):
            case NameTrouble.NONE:
                super().respond(query, write, tcp=tcp)
            case NameTrouble.SERVFAIL:
                write(query[:2] + SERVFAIL + query[HEADER:end])
            case NameTrouble.SILENCE:
                pass

    def _trouble(self, question: bytes) -> NameTrouble:
        number = self._numbers.setdefault(question, len(self._numbers))
        shared = self._shared
        return NameTrouble.NONE if shared.is_calm else name_trouble(shared.plan.seed, number, shared.at)


def serve(pipe: Connection, shared: Shared) -> None:
    """Serve the names of the plan until killed; send the address through the pipe first."""

    async def served() -> None:
        async with _Names(shared) as names:
            for domain, hosts in shared.plan.names.items():
                names.mx(domain, *((10 * (place + 1), host_name(host)) for place, host in enumerate(hosts)))
            for host in shared.plan.hosts:
                names.a(host_name(host), address(host))
            pipe.send(names.address)
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(served())
