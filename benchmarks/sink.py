"""A sink for mail: a server of our own that takes BDAT as well as DATA, offers what it is told, and counts.

    python -m benchmarks.sink --messages 50000 --connections 20

run so, it says what its own limit is, for each plan, by a client that only writes octets which were made before, and
waits for as many replies as the plan owes it.  A benchmark whose client is slower than that measures its client; and no
client on this loop can need less CPU.  The chunked plan has one message in flight here, not a window of them.

The sink runs on uvloop in a process of its own.  It answers once for all that one read brought, as RFC 2920 section
3.2 asks.  It believes what it is told; what is no command gets a 500, so that client and sink cannot lose each other
unseen.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Self, cast

import uvloop

from relayd.relay.plans import Plan

OFFERS = {
    Plan.LOCK_STEP: (),
    Plan.PIPELINED: ("PIPELINING",),
    Plan.CHUNKED: ("PIPELINING", "CHUNKING"),
}
ALWAYS = ("SIZE 104857600", "8BITMIME", "ENHANCEDSTATUSCODES")
SPEAKERS = {b"MAIL": b"250 2.1.0 Ok\r\n", b"RCPT": b"250 2.1.5 Ok\r\n", b"RSET": b"250 2.0.0 Ok\r\n"}
END = b"\r\n.\r\n"
BACKLOG = 1000
PATIENCE = 60.0  # seconds for a run against a sink alone


@dataclass(slots=True)
class Counts:
    """What a sink has seen.  `octets` are of messages, dots that were added and the lone one left in; `turns` counts
    how often octets came after it had answered, over all connections; `cpu` is in seconds."""

    messages: int = 0
    octets: int = 0
    connections: int = 0
    turns: int = 0
    cpu: float = 0.0

    def since(self, before: Counts) -> Counts:
        """Return what was added."""
        return Counts(
            self.messages - before.messages,
            self.octets - before.octets,
            self.connections - before.connections,
            self.turns - before.turns,
            self.cpu - before.cpu,
        )


class Session(asyncio.Protocol):
    """One client."""

    __slots__ = ("_answered", "_body", "_counts", "_greeting", "_last", "_left", "_missing", "_offer", "_transport")

    def __init__(self, counts: Counts, offer: bytes) -> None:
        self._counts = counts
        self._offer = offer
        self._left = b""  # a command, or an end, that has not come in full
        self._body = False  # after DATA
        self._missing = 0  # octets of a chunk
        self._last = False  # chunk of a message
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not asyncio's
        self._counts.connections += 1
        self._say([b"220 sink.test ESMTP\r\n"])

    def data_received(self, data: bytes) -> None:
        if self._answered:
            self._counts.turns += 1
            self._answered = False
        if self._left:
            data = self._left + data
        replies: list[bytes] = []
        position, size = 0, len(data)
        while position < size:
            if self._missing:
                position = self._take(data, position, replies)
            elif self._body:
                end = data.find(END, position)
                if end < 0:
                    break
                self._counts.octets += end + len(END) - position - 2  # but for the CRLF of DATA
                position = end + len(END)
                self._body = False
                self._took(replies)
            else:
                end = data.find(b"\n", position) + 1
                if not end:
                    break
                self._obey(data[position:end], replies)
                position = end - 2 if self._body else end  # a message may be nothing but its end
        if self._body and size - position > len(END) - 1:
            self._counts.octets += size - position - (len(END) - 1)
            position = size - (len(END) - 1)
        self._left = data[position:]
        if replies:
            self._say(replies)

    def _obey(self, line: bytes, replies: list[bytes]) -> None:
        verb = line[:4].upper()
        if reply := SPEAKERS.get(verb):
            replies.append(reply)
        elif verb == b"DATA":
            self._body = True
            replies.append(b"354 End data with <CR><LF>.<CR><LF>\r\n")
        elif verb == b"BDAT":
            words = line.split()
            self._missing, self._last = int(words[1]), len(words) > 2
            if not self._missing:
                self._chunk(replies)
        elif verb == b"EHLO":
            replies.append(self._offer)
        elif verb == b"HELO":
            replies.append(b"250 sink.test\r\n")
        elif verb == b"QUIT":
            self._say([*replies, b"221 2.0.0 Bye\r\n"])
            replies.clear()
            self._transport.close()
        else:
            replies.append(b"500 5.5.2 What?\r\n")

    def _take(self, data: bytes, position: int, replies: list[bytes]) -> int:
        taken = min(self._missing, len(data) - position)
        self._missing -= taken
        self._counts.octets += taken
        if not self._missing:
            self._chunk(replies)
        return position + taken

    def _chunk(self, replies: list[bytes]) -> None:
        if self._last:
            self._took(replies)
        else:
            replies.append(b"250 2.0.0 Ok\r\n")

    def _took(self, replies: list[bytes]) -> None:
        self._counts.messages += 1
        replies.append(b"250 2.0.0 Ok: queued as %X\r\n" % self._counts.messages)  # to each its own, as servers do

    def _say(self, replies: list[bytes]) -> None:
        self._transport.write(b"".join(replies))
        self._answered = True


class Sink:
    """A sink in a process of its own, for the time of a `with`.  `port` is where it listens, on loopback."""

    name = "benchmarks.sink"

    def __init__(self, plan: Plan, tls: ssl.SSLContext | None = None) -> None:
        """`plan`: what it offers calls for it.  `tls`: from the first octet."""
        self.plan = plan
        self._tls = tls
        self._session: Callable[[Counts, bytes], Session] = Session

    def __enter__(self) -> Self:
        self._pipe, theirs = multiprocessing.Pipe()
        work = (theirs, _offer(self.plan), self._tls, self._session)
        self._process = multiprocessing.get_context("fork").Process(target=_serve, args=work, daemon=True)
        self._process.start()
        self.port: int = self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    @property
    def counts(self) -> Counts:
        """What it has seen until now."""
        self._pipe.send("counts")
        counts: Counts = self._pipe.recv()
        return counts

    @property
    def messages(self) -> int:
        """How many it has taken."""
        return self.counts.messages

    @property
    def cpu(self) -> float:
        """Seconds, user and system, that it has used."""
        return self.counts.cpu


def _offer(plan: Plan) -> bytes:
    lines = ["sink.test", *OFFERS[plan], *ALWAYS]
    return "".join(f"250{' ' if line is lines[-1] else '-'}{line}\r\n" for line in lines).encode()


def _serve(
    pipe: Connection, offer: bytes, tls: ssl.SSLContext | None, session: Callable[[Counts, bytes], Session]
) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        counts = Counts()

        def tell() -> None:
            pipe.recv()
            counts.cpu = time.process_time()
            pipe.send(counts)

        server = await loop.create_server(lambda: session(counts, offer), "127.0.0.1", 0, ssl=tls, backlog=BACKLOG)
        loop.add_reader(pipe.fileno(), tell)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with contextlib.suppress(KeyboardInterrupt, EOFError), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


# Its own limit


class Player(asyncio.Protocol):
    """Plays prepared flights, each with how many lines of replies it gets: the next as soon as the last has them."""

    def __init__(self, flights: Iterator[tuple[bytes, int]], done: asyncio.Future[None]) -> None:
        self._flights = flights
        self._owed = 1  # the greeting
        self._done = done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not asyncio's

    def data_received(self, data: bytes) -> None:
        self._owed -= data.count(b"\n")
        if self._owed > 0:
            return
        try:
            flight, self._owed = next(self._flights)
        except StopIteration:
            self._transport.close()
            self._done.set_result(None)
            return
        self._transport.write(flight)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("closed by the sink"))


def _flights(plan: Plan, messages: int, text: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield what is sent at a time, and how many replies it gets."""
    yield b"HELO bench.test\r\n", 1
    mail, rcpt = b"MAIL FROM:<ann@example.org>\r\n", b"RCPT TO:<bob@example.net>\r\n"
    data, end = b"DATA\r\n", text + b".\r\n"
    if plan is Plan.LOCK_STEP:
        for _ in range(messages):
            yield from ((mail, 1), (rcpt, 1), (data, 1), (end, 1))
    elif plan is Plan.PIPELINED:
        envelope = mail + rcpt + data
        both = end + envelope
        yield envelope, 3
        for _ in range(messages - 1):
            yield both, 4
        yield end, 1
    else:
        flight = mail + rcpt + b"BDAT %d LAST\r\n" % len(text) + text + b"RSET\r\n"
        for _ in range(messages):
            yield flight, 4


async def _play(plan: Plan, port: int, messages: int, connections: int, text: bytes) -> None:
    loop = asyncio.get_running_loop()
    ends = []
    async with asyncio.timeout(PATIENCE):
        for _ in range(connections):
            done: asyncio.Future[None] = loop.create_future()
            flights = _flights(plan, messages // connections, text)
            await loop.create_connection(lambda flights=flights, done=done: Player(flights, done), "127.0.0.1", port)  # type: ignore[misc]
            ends.append(done)
        await asyncio.gather(*ends)


def main() -> None:
    """Print the limit for each plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=50_000, help="in all, for each plan")
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--size", type=int, default=4096, help="octets of each message")
    words = parser.parse_args()
    text = message(words.size)
    print(f"{'plan':12}{'messages/s':>12}{'sink CPU, us':>14}{'client CPU, us':>16}")
    for plan in Plan:
        with Sink(plan) as sink, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            began, before = time.perf_counter(), time.process_time()
            runner.run(_play(plan, sink.port, words.messages, words.connections, text))
            seconds, cpu = time.perf_counter() - began, time.process_time() - before
            seen = sink.counts
        if seen.messages != words.messages // words.connections * words.connections:
            sys.exit(f"the sink has {seen.messages} messages")
        ours, theirs = (each / seen.messages * 1e6 for each in (seen.cpu, cpu))
        print(f"{plan.value:12}{seen.messages / seconds:12.0f}{ours:14.1f}{theirs:16.1f}")


def message(size: int) -> bytes:
    """Return a message of `size` octets, CRLF at the end of each line."""
    head = b"From: ann@example.org\r\nTo: bob@example.net\r\nSubject: bench\r\n\r\n"
    line = b"The quick brown fox jumps over the lazy dog, and so on to the end of the line.\r\n"
    return (head + line * (size // len(line) + 1))[: size - 2] + b"\r\n"


if __name__ == "__main__":
    main()
