"""The server closes at each octet of a dialogue of two messages (FAULTS.md H7).

By each plan, in clear text and with TLS, by FIN and by RST, after so many octets that were received, or sent.

Every seventh octet and those around the ends of lines; RELAYD_SWEEP_STEP=1 (`make sweeps`) does them all.  Claims:

    Delivered if and only if the whole 2yz line to that message was sent.
    Every message is reported once or given back, never both, never neither.
    Marked as a possible duplicate if and only if its end may have left and no whole answer was sent.
    No message arrives twice in one run.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from relayd.mail.outcome import Deferred, Delivered
from relayd.mail.route import Host, Site, Target
from relayd.mail.tls import TlsPolicy
from relayd.relay.plans import Plan
from relayd.relay.tls import TlsContexts
from tests.relay.faults import EHLO
from tests.relay.kit import ANN, BOB, NOW, QUICK, Bench, a_delivery, on, trusting
from tests.support.smtp import Authority

STEP = int(os.environ.get("RELAYD_SWEEP_STEP", "7"))
BATCH = {"M0": ANN, "M1": BOB}
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Way:
    """How the two messages are sent."""

    plan: Plan
    proven: bool = False  # both in one window
    settings: dict[str, int] = field(default_factory=dict)


WAYS = {
    "lock-step": Way(Plan.LOCK_STEP),
    "pipelined": Way(Plan.PIPELINED),
    "pipelined, streamed": Way(Plan.PIPELINED, settings={"small_body": 1}),
    "chunked": Way(Plan.CHUNKED),
    "chunked, window": Way(Plan.CHUNKED, proven=True),
    "chunked, streamed": Way(Plan.CHUNKED, settings={"small_body": 1}),
}


@dataclass(frozen=True)
class Cut:
    """Where the first connection ends: after `at` octets that were received, or sent; by a FIN or a RST."""

    sent: bool
    at: int
    reset: bool


class Closing(asyncio.Protocol):
    """One connection of an honest server until its cut.  `answered` are the messages whose 2yz line was sent whole."""

    def __init__(self, ehlo: str, cut: Cut | None) -> None:
        self.log = bytearray()  # all that came, behind the cut too
        self.said = bytearray()
        self.answered: list[str] = []
        self.closed = asyncio.get_running_loop().create_future()
        self._ehlo = ehlo.replace("\n", "\r\n")
        self._cut_at = cut
        self._cut = False
        self._used = 0
        self._buffer = b""
        self._recipient = ""
        self._content = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast("asyncio.Transport", transport)
        self._say("220 mx.test")
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Obey what lies before the cut."""
        self.log += data
        if self._cut:
            return
        if self._cut_at is not None and not self._cut_at.sent:
            data = data[: self._cut_at.at - self._used]
        self._used += len(data)
        self._buffer += data
        while not self._cut and self._obey():
            pass
        self._look()

    def _look(self) -> None:
        if self._cut_at is not None and not self._cut_at.sent and self._used >= self._cut_at.at:
            self._end(self._cut_at)

    def _obey(self) -> bool:
        if self._content:
            _, end, rest = self._buffer.partition(b"\r\n.\r\n")
            if not end:
                return False
            self._content, self._buffer = False, rest
            self._take()
            return True
        line, end, rest = self._buffer.partition(b"\r\n")
        if not end:
            return False
        words = line.split()
        if words[0] == b"BDAT":
            if len(rest) < int(words[1]):
                return False
            rest = rest[int(words[1]) :]
        self._buffer = rest
        self._answer(line.decode(), words)
        return True

    def _answer(self, line: str, words: list[bytes]) -> None:
        match words[0]:
            case b"EHLO":
                self._say(self._ehlo)
            case b"DATA":
                self._content = True
                self._say("354 go")
            case b"BDAT" if words[2:] == [b"LAST"]:
                self._take()
            case b"QUIT":
                self._say("221 bye")
                if not self._cut:
                    self._transport.close()
            case _:
                if words[0] == b"RCPT":
                    self._recipient = line
                self._say("250 ok")

    def _take(self) -> None:
        name = _of(self._recipient)
        if self._say("250 2.0.0 queued"):
            self.answered.append(name)

    def _say(self, text: str) -> bool:
        """Write; return whether it was all of it."""
        if self._cut:
            return False
        octets = text.encode() + b"\r\n"
        room = len(octets)
        if self._cut_at is not None and self._cut_at.sent:
            room = min(room, self._cut_at.at - len(self.said))
        self.said += octets[:room]
        self._transport.write(octets[:room])
        if self._cut_at is not None and self._cut_at.sent and len(self.said) >= self._cut_at.at:
            self._end(self._cut_at)
        return room == len(octets)

    def _end(self, cut: Cut) -> None:
        self._cut = True
        if cut.reset:
            sock: socket.socket = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._transport.abort()
        elif self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()


def _of(rcpt: str) -> str:
    (found,) = [name for name, address in BATCH.items() if address in rcpt]
    return found


def arrived(log: bytes) -> list[str]:
    """Return the messages whose end is in what came."""
    ends = re.compile(rb"RCPT TO:<([^>]*)>[^\r]*\r\n(?:DATA\r\n.*?\r\n\.\r\n|BDAT (\d+) LAST\r\n)", re.DOTALL)
    return [
        _of(found[1].decode())
        for found in ends.finditer(log)
        if found[2] is None or len(log) - found.end() >= int(found[2])
    ]


class Sweep:
    """One server for all the runs of a sweep."""

    def __init__(self, way: Way, contexts: TlsContexts, server_context: ssl.SSLContext | None) -> None:
        self._way = way
        self._contexts = contexts
        self._server_context = server_context
        self._cut: Cut | None = None
        self._connections: list[Closing] = []

    async def run(self, *, sent: bool, reset: bool) -> int:
        """Do all the runs; return how many."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._accept, "127.0.0.1", 0, ssl=self._server_context)
        async with server:
            self._port: int = server.sockets[0].getsockname()[1]
            whole = await self._once(None)
            count = 0
            for at in offsets(bytes(whole.said if sent else whole.log), sent=sent):
                await self._once(Cut(sent, at, reset))
                count += 1
            return count

    def _accept(self) -> Closing:
        # Only the first connection of a run is cut: what follows by a simpler plan is served to its end.
        self._connections.append(Closing(EHLO[self._way.plan], None if self._connections else self._cut))
        return self._connections[-1]

    async def _once(self, cut: Cut | None) -> Closing:
        self._cut, self._connections = cut, []
        quick = replace(QUICK, quit=timedelta(seconds=0.2))
        bench = Bench(timeouts=quick, contexts=self._contexts, settings=self._way.settings)
        tls = TlsPolicy.NONE if self._server_context is None else TlsPolicy.REQUIRE
        host = Host(name="mx1.test", port=self._port, implicit_tls=self._server_context is not None)
        if self._way.proven:
            bench.plans.works(Target(host=host, address="127.0.0.1"), NOW)
        batch = [a_delivery([address], name=name) for name, address in BATCH.items()]
        ended = await bench.run(Site(key="test", hosts=((host,),), tls=tls), batch)
        for connection in self._connections:
            await asyncio.wait_for(asyncio.shield(connection.closed), 5)
        self._check(bench, [one.id for one in ended.undone], cut)
        return self._connections[0]

    def _check(self, bench: Bench, undone: list[str], cut: Cut | None) -> None:
        reported = [attempt.delivery.id for attempt in bench.reports.attempts]
        assert sorted(reported + undone) == sorted(BATCH), cut
        answered = [name for connection in self._connections for name in connection.answered]
        came = [name for connection in self._connections for name in arrived(bytes(connection.log))]
        for name in BATCH:
            outcome = bench.reports.outcome(name) if name in reported else None
            marked = isinstance(outcome, Deferred) and outcome.possible_duplicate
            assert isinstance(outcome, Delivered) is (name in answered), (cut, name, outcome)
            assert came.count(name) <= 1, (cut, name)
            assert marked or name in answered or name not in came, (cut, name, outcome)
            assert marked is (name in bench.endings.noted and name not in answered), (cut, name, outcome)
        if cut is None:
            assert answered == list(BATCH)


def offsets(octets: bytes, *, sent: bool) -> Iterator[int]:
    """Yield where to cut: every STEP octets, and around each end of a line."""
    ends = {found.end() + near for found in re.finditer(rb"\r\n", octets) for near in (-2, -1, 0, 1)}
    for at in range(1 if sent else 0, len(octets) + 1):
        if at % STEP == 0 or at in ends:
            yield at


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("end", ["FIN", "RST"])
@pytest.mark.parametrize("side", ["received", "sent"])
@pytest.mark.parametrize("transport", ["clear", "TLS"])
@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_closes_at_any_octet_loses_nothing(
    way: str, transport: str, side: str, end: str, loop: str, authority: Authority, tmp_path: Path
) -> None:
    """H7."""
    counts: list[int] = []

    async def story() -> None:
        encrypted = transport == "TLS"
        contexts = trusting(authority.pem, tmp_path)
        sweep = Sweep(WAYS[way], contexts, authority.server("mx1.test") if encrypted else None)
        counts.append(await sweep.run(sent=side == "sent", reset=end == "RST"))

    on(loop, story())
    assert counts[0] > 20
