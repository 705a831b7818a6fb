"""relayd's relay stage alone: relayers on many connections, ports in memory, no spool and no queue beside them.

What is measured is what `relay/` does: connect, EHLO, the plan, bodies, outcomes, one report for each delivery.
"""

from __future__ import annotations

import asyncio
import io
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import BinaryIO

from relayd.mail.address import Address
from relayd.mail.attempt import Attempt
from relayd.mail.delivery import Delivery
from relayd.mail.message import Body
from relayd.mail.outcome import Deferred, Delivered
from relayd.mail.recipient import Recipient
from relayd.mail.route import Host, Site, Target
from relayd.mail.tls import TlsPolicy
from relayd.relay.ports import Bodies, Ports
from relayd.relay.settings import RelaySettings
from relayd.relayers import Relayers

PIECE = 64 * 1024  # octets


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What sending took, in seconds: to the last report.  `user` and `system` are CPU of this process alone, to the
    close of the last connection."""

    seconds: float
    user: float
    system: float

    @property
    def cpu(self) -> float:
        """User and system."""
        return self.user + self.system


class Book:
    """Every host is on loopback."""

    async def addresses(self, host: Host, site: Site, destinations: Sequence[str]) -> Sequence[Target]:
        return [Target(host=host, address="127.0.0.1")]


class Reports:
    """Takes each attempt and keeps its outcomes until `check`."""

    def __init__(self) -> None:
        self._attempts: list[Attempt] = []

    def report(self, attempt: Attempt) -> Awaitable[None]:
        self._attempts.append(attempt)
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        durable.set_result(None)
        return durable

    def check(self, deliveries: int) -> None:
        """End the program unless just so many deliveries were reported, each once, and all are delivered."""
        outcomes = [one for attempt in self._attempts for one in attempt.outcomes.values()]
        wrong = [str(one) for one in outcomes if not isinstance(one, Delivered)]
        ids = {attempt.delivery.id for attempt in self._attempts}
        if wrong or not len(self._attempts) == len(outcomes) == len(ids) == deliveries:
            sys.exit(f"{len(ids)} of {deliveries} deliveries reported, {len(wrong)} not delivered: {wrong[:3]}")
        self._attempts.clear()


class InMemory:
    """The same file for every delivery."""

    def __init__(self, file: bytes) -> None:
        self._file = file

    async def read(self, deliveries: Sequence[Delivery]) -> list[bytes]:
        return [self._file] * len(deliveries)

    async def chunks(self, delivery: Delivery) -> AsyncIterator[bytes]:
        for start in range(0, len(self._file), PIECE):
            yield self._file[start : start + PIECE]

    def scratch(self) -> BinaryIO:
        return io.BytesIO()


class Nobody:
    """Notes nothing of what is in hand, and has no tokens."""

    def beginning(self, delivery: Delivery) -> None:
        pass

    def ending(self, delivery: Delivery) -> None:
        pass

    async def token(self, site: str, *, rejected: str = "") -> str | Deferred:
        raise AssertionError("the site has no credentials")


class Sender:
    """Relayers for one site, which is a port on loopback."""

    def __init__(self, port: int, bodies: Bodies, *, settings: RelaySettings | None = None, tls: bool = False) -> None:
        """`tls`: from the first octet, whoever the peer is."""
        self._reports = Reports()
        policy = TlsPolicy.REQUIRE if tls else TlsPolicy.NONE
        host = Host(name="sink.test", port=port, implicit_tls=tls)
        self._site = Site(key="bench", hosts=((host,),), tls=policy, configured=True)
        ports = Ports(
            addresses=Book(),
            tokens=Nobody(),
            reports=self._reports,
            bodies=bodies,
            in_hand=Nobody(),
            sessions=lambda session: None,
            withdrawn=lambda name: False,
        )
        self._relayers = Relayers(settings or RelaySettings(hostname="bench.example.org"), ports, _now)

    async def send(self, batches: Sequence[Sequence[Delivery]], connections: int) -> Cost:
        """Send each batch on a connection of its own, so many at a time; return when the last has closed."""
        waiting = list(reversed(batches))
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(min(connections, len(waiting))):
                group.create_task(self._work(waiting))
        seconds = time.perf_counter() - began
        await self._relayers.close()
        after = resource.getrusage(resource.RUSAGE_SELF)
        self._reports.check(sum(map(len, batches)))
        return Cost(seconds=seconds, user=after.ru_utime - before.ru_utime, system=after.ru_stime - before.ru_stime)

    async def _work(self, waiting: list[Sequence[Delivery]]) -> None:
        while waiting:
            batch = waiting.pop()
            ended = await self._relayers.new(self._site).run(batch)
            if ended.undone or ended.failure:
                sys.exit(f"{len(ended.undone)} of {len(batch)} undone: {ended.failure}")


def body_of(file: bytes) -> Body:
    """Return what submission would note of a file that has CRLF at the end of each line."""
    return Body(size=len(file), wire_size=len(file), header_end=file.index(b"\r\n\r\n") + 4, canonical=True)


def batches(messages: int, each: int, body: Body) -> list[list[Delivery]]:
    """Return so many deliveries, `each` to a connection, as the queue would claim them."""
    sender, arrived = Address.parse("ann@example.org"), _now()
    first = Recipient(number=0, address=Address.parse("bob@example.net"))
    deliveries = [
        Delivery(
            id=f"M{number}",
            reverse_path=sender,
            recipients=(replace(first, address=Address(f"r{number}", "example.net")),),
            body=body,
            arrived=arrived,
            lease=1,
        )
        for number in range(messages)
    ]
    return [deliveries[start : start + each] for start in range(0, messages, each)]


def _now() -> datetime:
    return datetime.now(UTC)
