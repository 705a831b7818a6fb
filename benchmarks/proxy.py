"""A long way to a server, on loopback: every segment takes half a round trip in each direction.

    python -m benchmarks.proxy --round-trip 0.05

run so, it says how late it is itself.  The proxy runs in a process of its own.  What one read brought goes on half a
round trip after it came, in order; nothing is held back for want of room, so there is no limit on bandwidth and none of
TCP's slow start.  TCP's own handshake takes its time as well: the server sees a connection one and a half round trips
after the client has begun it.

It also counts the round trips of each connection, on the wire: the longest chain of octets of which each was sent after
the octets before it in the chain, from the other side, had come.  Flights of a window that leave at once thus count for
one, however many segments they came in.  The client's first octets, which answer the greeting, begin the first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import selectors
import socket
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Self, cast

ROUND_TRIP = 0.05  # seconds
HANDSHAKE = 1.5  # round trips
BACKLOG = 1000


@dataclass(slots=True)
class Travelled:
    """What a proxy has seen.  `round_trips` are those of each connection, in the order in which they began; `late` is
    by how much segments left after their time, in seconds."""

    round_trips: list[int] = field(default_factory=list)
    late: list[float] = field(default_factory=list)


class _Side(asyncio.Protocol):
    """One end of a way: what comes here leaves at the other after half a round trip."""

    def __init__(self, way: _Way, *, client: bool) -> None:
        self._way = way
        self._client = client
        self.transport: asyncio.Transport | None = None
        self.depth = 0  # of the deepest octets that have come to whoever is at this end
        self._waiting: deque[tuple[float, int, bytes]] = deque()  # came here and have not left; b"" is the end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._client:
            self._way.begin(self.transport)

    def data_received(self, data: bytes) -> None:
        self._send(data)

    def eof_received(self) -> bool:
        self._send(b"")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._way.abort()

    def _send(self, data: bytes) -> None:
        depth = self.depth + self._client  # a client's octets begin a round trip, a server's end it
        due = self._way.loop.time() + self._way.half
        self._waiting.append((due, depth, data))
        self._way.loop.call_at(due, self._arrive)

    def _arrive(self) -> None:
        due, depth, data = self._waiting.popleft()
        self._way.deliver(self, due, depth, data)


class _Way:
    """One connection, and the one to the server behind it."""

    def __init__(self, port: int, round_trip: float, seen: Travelled, number: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.half = round_trip / 2
        self.client = _Side(self, client=True)
        self._server = _Side(self, client=False)
        self._port = port
        self._seen = seen
        self._number = number
        self._task: asyncio.Task[None] | None = None

    def begin(self, client: asyncio.Transport) -> None:
        client.pause_reading()
        self._task = self.loop.create_task(self._connect(client))

    async def _connect(self, client: asyncio.Transport) -> None:
        await asyncio.sleep(HANDSHAKE * 2 * self.half)
        await self.loop.create_connection(lambda: self._server, "127.0.0.1", self._port)
        client.resume_reading()

    def deliver(self, side: _Side, due: float, depth: int, data: bytes) -> None:
        """Let what came at `side` out at the other."""
        other = self._server if side is self.client else self.client
        if other.transport is None or other.transport.is_closing():
            return
        self._seen.late.append(self.loop.time() - due)
        if not data:
            with contextlib.suppress(OSError):  # it has gone meanwhile
                other.transport.write_eof()
            if side is self._server:
                self.close()
            return
        other.depth = max(other.depth, depth)
        if side is self._server:
            self._seen.round_trips[self._number] = other.depth
        other.transport.write(data)

    def close(self) -> None:
        for side in (self.client, self._server):
            if side.transport is not None:
                side.transport.close()

    def abort(self) -> None:
        for side in (self.client, self._server):
            if side.transport is not None:
                side.transport.abort()


class Proxy:
    """A proxy in a process of its own, for the time of a `with`, before a server at a port of 127.0.0.1.  It listens on
    a free port of `address`."""

    def __init__(self, server: int, round_trip: float = ROUND_TRIP, address: str = "127.0.0.1") -> None:
        self._server = server
        self._round_trip = round_trip
        self._address = address

    def __enter__(self) -> Self:
        self._pipe, theirs = multiprocessing.Pipe()
        work = (theirs, self._server, self._round_trip, self._address)
        self._process = multiprocessing.get_context("fork").Process(target=_serve, args=work, daemon=True)
        self._process.start()
        self.port: int = self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    @property
    def travelled(self) -> Travelled:
        """What it has seen until now."""
        self._pipe.send("travelled")
        seen: Travelled = self._pipe.recv()
        return seen


def _serve(pipe: Connection, port: int, round_trip: float, address: str) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        seen = Travelled()

        def new() -> _Side:
            seen.round_trips.append(0)
            return _Way(port, round_trip, seen, len(seen.round_trips) - 1).client

        def tell() -> None:
            pipe.recv()
            pipe.send(seen)

        server = await loop.create_server(new, address, 0, backlog=BACKLOG)
        loop.add_reader(pipe.fileno(), tell)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with contextlib.suppress(KeyboardInterrupt, EOFError), asyncio.Runner(loop_factory=precise) as runner:
        runner.run(serve())


def precise() -> asyncio.AbstractEventLoop:
    """Return a loop whose timers are good to parts of a millisecond: select(2) takes microseconds, uvloop does not."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


# Its own error


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


def _echo(pipe: Connection) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Echo, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def main() -> None:
    """Print how long round trips through the proxy take, to a server that echoes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--round-trip", type=float, default=ROUND_TRIP, help="seconds")
    parser.add_argument("--count", type=int, default=100, help="round trips")
    words = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(target=_echo, args=(theirs,), daemon=True)
    server.start()
    times = []
    with Proxy(ours.recv(), words.round_trip) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.settimeout(10)
        for _ in range(words.count + 1):
            began = time.perf_counter()
            client.sendall(b"?")
            client.recv(1)
            times.append((time.perf_counter() - began) * 1e3)
        trips = proxy.travelled.round_trips
    server.kill()
    del times[0]  # TCP's handshake is in it
    print(f"{words.count} round trips of {words.round_trip * 1e3:g} ms: median {statistics.median(times):.2f} ms,")
    print(f"shortest {min(times):.2f} ms, longest {max(times):.2f} ms; the proxy counted {trips[0]}")


if __name__ == "__main__":
    main()
