"""Deliveries, and small real implementations of the relay stage's ports."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, cast

import uvloop

from relayd.mail.address import Address
from relayd.mail.attempt import Attempt
from relayd.mail.delivery import Delivery
from relayd.mail.figures import Figures
from relayd.mail.message import Body
from relayd.mail.outcome import Deferred, Failed, Outcome, Scope
from relayd.mail.recipient import Recipient
from relayd.mail.route import Host, Site, Target
from relayd.mail.tls import Demand, TlsPolicy, TlsSession
from relayd.relay.capabilities import Capabilities
from relayd.relay.content import whole
from relayd.relay.engine import Engine
from relayd.relay.engines import engine_for
from relayd.relay.equipment import Equipment
from relayd.relay.hosts import HostMemory
from relayd.relay.partings import Partings
from relayd.relay.plans import Plan, PlanMemory
from relayd.relay.ports import Permit, Ports
from relayd.relay.recaster import Recaster
from relayd.relay.relayer import Ended, Relayer
from relayd.relay.settings import RelaySettings
from relayd.relay.timeouts import Timeouts
from relayd.relay.tls import TlsContexts, TlsMemory

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ANN = "ann@example.org"
BOB = "bob@example.org"
CAROL = "carol@example.org"
HELLO = b"Subject: hello\r\n\r\nhello\r\n"
QUICK = Timeouts(
    connect=timedelta(seconds=5),
    greeting=timedelta(seconds=5),
    ehlo=timedelta(seconds=5),
    starttls=timedelta(seconds=5),
    mail=timedelta(seconds=5),
    rcpt=timedelta(seconds=5),
    data=timedelta(seconds=5),
    block=timedelta(seconds=5),
    final=timedelta(seconds=5),
    quit=timedelta(seconds=1),
)


def a_body(file: bytes = HELLO, **fields: Any) -> Body:
    plain = Body(size=len(file), wire_size=0, header_end=0)
    fields.setdefault("eight_bit", not file.isascii())
    return replace(plain, **{"wire_size": len(whole(plain, file)), **fields})


def a_delivery(
    to: Sequence[str] = (ANN,),
    file: bytes = HELLO,
    *,
    name: str = "M1",
    sender: str | None = "sender@example.com",
    body: Body | None = None,
    recipients: Sequence[Recipient] | None = None,
    **fields: Any,
) -> Delivery:
    found = recipients or [Recipient(number=n, address=Address.parse(text)) for n, text in enumerate(to)]
    return Delivery(
        id=name,
        reverse_path=Address.parse(sender) if sender else None,
        recipients=tuple(found),
        body=body or a_body(file),
        arrived=NOW,
        lease=1,
        **fields,
    )


def an_engine(
    offered: Capabilities, *, plan: Plan | None = None, proven: bool = False, elsewhere: bool = False, **limits: Any
) -> Engine:
    """An engine for the best plan that is offered, or for `plan`; `limits` are settings."""
    settings = RelaySettings(hostname="relay.example.org", **limits)
    return engine_for(plan or Plan.of(offered), offered, settings, NOW, proven=proven, elsewhere=elsewhere)


def deliveries(count: int, file: bytes = HELLO) -> list[Delivery]:
    return [a_delivery(name=f"M{n}", file=file) for n in range(count)]


@dataclass
class Collected:
    """Reports: durable at once, or when `gate` is set; keeps what it was told, in order."""

    attempts: list[Attempt] = field(default_factory=list)
    gate: asyncio.Event | None = None
    error: Exception | None = None

    def report(self, attempt: Attempt) -> Awaitable[None]:
        self.attempts.append(attempt)
        if self.gate is not None:
            return self._wait(self.gate)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(None)
        return future

    async def _wait(self, gate: asyncio.Event) -> None:
        await gate.wait()

    def of(self, name: str) -> Attempt:
        (found,) = [attempt for attempt in self.attempts if attempt.delivery.id == name]
        return found

    def outcomes(self, name: str = "M1") -> dict[str, Outcome]:
        attempt = self.of(name)
        numbers = {one.number: str(one.address) for one in attempt.delivery.recipients}
        assert set(numbers) == set(attempt.outcomes)
        return {numbers[number]: outcome for number, outcome in attempt.outcomes.items()}

    def outcome(self, name: str = "M1") -> Outcome:
        (found,) = set(self.outcomes(name).values())
        return found


@dataclass
class Files:
    """Bodies in memory; `default` for those that have no file of their own."""

    default: bytes = HELLO
    files: dict[str, bytes | OSError] = field(default_factory=dict)
    reads: list[int] = field(default_factory=list)
    chunk: int = 65536
    before_chunk: Callable[[int], Awaitable[None]] | None = None
    no_room: bool = False

    async def read(self, batch: Sequence[Delivery]) -> list[bytes]:
        self.reads.append(len(batch))
        return [self._file(one) for one in batch]

    async def chunks(self, delivery: Delivery) -> AsyncIterator[bytes]:
        file = self._file(delivery)
        for offset in range(0, len(file), self.chunk):
            if self.before_chunk is not None:
                await self.before_chunk(offset)
            yield file[offset : offset + self.chunk]

    def scratch(self) -> BinaryIO:
        if self.no_room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return cast("BinaryIO", tempfile.TemporaryFile())

    def _file(self, delivery: Delivery) -> bytes:
        file = self.files.get(delivery.id, self.default)
        if isinstance(file, OSError):
            raise file
        return file


@dataclass
class Endings:
    """What was noted before it left."""

    noted: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)

    def beginning(self, delivery: Delivery) -> None:
        self.begun.append(delivery.id)

    def ending(self, delivery: Delivery) -> None:
        self.noted.append(delivery.id)


@dataclass
class Book:
    """Addresses by host name; a loopback address if there is none."""

    known: dict[str, list[str] | Deferred | Failed] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    demand: Demand | None = None  # the site's level alone, unless given
    relaxed: Demand | None = None  # for a site where DANE and MTA-STS are not asked

    async def addresses(
        self, host: Host, site: Site, destinations: Sequence[str]
    ) -> Sequence[Target] | Deferred | Failed:
        self.asked.append(host.name)
        found = self.known.get(host.name, ["127.0.0.1"])
        if self.relaxed is not None and not site.dane:
            return [Target(host=host, address="127.0.0.1", demand=replace(self.relaxed, level=site.tls))]
        if isinstance(found, list):
            demand = self.demand or Demand(level=site.tls)
            return [Target(host=host, address=address, demand=demand) for address in found]
        return found


@dataclass
class Tokens:
    """Tokens, given out one after the other as they are rejected; then there is none."""

    left: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)

    async def token(self, site: str, *, rejected: str = "") -> str | Deferred:
        if rejected:
            self.rejected.append(rejected)
            self.left = self.left[1:] if self.left[:1] == [rejected] else self.left
        return self.left[0] if self.left else Deferred(scope=Scope.HOST, reason="there is no token left")


class Bench:
    """Everything a relayer needs."""

    def __init__(
        self,
        *,
        timeouts: Timeouts = QUICK,
        contexts: TlsContexts | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.reports = Collected()
        self.files = Files()
        self.endings = Endings()
        self.book = Book()
        self.tokens = Tokens()
        self.sessions: list[TlsSession] = []
        self.figures: list[Figures] = []
        self.withdrawn: set[str] = set()
        self.now = NOW
        self.clock: Callable[[], datetime] = lambda: self.now
        self.settings = RelaySettings(hostname="relay.example.org", timeouts=timeouts, **(settings or {}))
        self.hosts = HostMemory(self.settings.host_memory)
        self.tls = TlsMemory(self.settings.tls_memory)
        self.partings = Partings(timeouts.quit)
        self.recaster = Recaster()
        self.plans = PlanMemory(self.settings.plan_memory)
        self.contexts = contexts or TlsContexts()

    def relayer(self, site: Site, permit: Permit | None = None) -> Relayer:
        return Relayer(site, self.equipment, permit)

    @property
    def equipment(self) -> Equipment:
        return Equipment(
            settings=self.settings,
            ports=Ports(
                addresses=self.book,
                tokens=self.tokens,
                reports=self.reports,
                bodies=self.files,
                in_hand=self.endings,
                sessions=self.sessions.append,
                withdrawn=lambda name: name in self.withdrawn,
                measured=self.figures.append,
            ),
            hosts=self.hosts,
            tls=self.tls,
            contexts=self.contexts,
            partings=self.partings,
            plans=self.plans,
            recaster=self.recaster,
            clock=self.clock,
            shuffle=random.Random(1).shuffle,
        )

    async def run(self, site: Site, batch: Sequence[Delivery]) -> Ended:
        """Run one relayer and wait for its connection to close."""
        try:
            return await self.relayer(site).run(batch)
        finally:
            await self.partings.over()


def a_site(*ports: int, tls: TlsPolicy = TlsPolicy.NONE, host: str = "mx{}.test", **fields: Any) -> Site:
    """A site whose hosts mx1.test, mx2.test, ... are in order of preference."""
    groups = tuple((Host(name=host.format(n), port=port),) for n, port in enumerate(ports, 1))
    return Site(key="test", hosts=groups, tls=tls, **fields)


def closed_port() -> int:
    """Return a port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait until `condition` is true; fail after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def silent_port() -> AsyncIterator[int]:
    """A port that accepts and never says a word."""
    server = await asyncio.start_server(_hold, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def _hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.transport.abort()


def trusting(pem: bytes, directory: Any) -> TlsContexts:
    """Contexts that trust one authority."""
    path = directory / "ca.pem"
    path.write_bytes(pem)
    return TlsContexts(path)


def on(loop: str, story: Coroutine[Any, Any, None]) -> None:
    """Run a story on one of the event loops."""
    if loop == "uvloop":
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(story)
    else:
        asyncio.run(story)


def talking_to(relayer: Relayer) -> Engine | None:
    """The engine of the connection that a relayer has now."""
    exchange = relayer._round._exchange if relayer._round is not None else None
    return exchange.engine if exchange is not None else None
