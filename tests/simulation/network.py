"""A network in memory: sockets and transports for the daemon's side, conversations on the servers'.

Octets take time, come in pieces, and in order.  A connection may be cut after any octet in either direction (`Cut`),
by a FIN, a RST, or without a word; a server may take no more of what is sent, so that it stays in the daemon's own
buffer.  What a killed or resetting client had on the way arrives whole, in part, or not at all.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tests.simulation.facts import Facts
from tests.simulation.loop import Agenda

FIRST_DESCRIPTOR = 1 << 24  # far above those of real files


class Peer(Protocol):
    """A server's side of one connection: exchanger.py."""

    def receive(self, octets: bytes) -> None:
        """Octets arrived."""

    def closed(self) -> None:
        """The client is gone."""


class Host(Protocol):
    """Who listens at an address."""

    @property
    def latency(self) -> float:
        """Seconds for one way."""

    def answer(self, connection: Connection) -> Peer | float | None:
        """Return who speaks on a new connection; None: it is refused; a number: nothing is heard for so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where a connection ends before its time: after so many octets `up` (to the server) or down; `how` is "fin",
    "rst" or "hush"; "full" lets the server take no more than that."""

    up: bool
    octets: int
    how: str


class Connection:
    """One TCP connection."""

    def __init__(self, network: Network, number: int, host: Host, address: str, chance: random.Random) -> None:
        self.network = network
        self.number = number
        self.host = host
        self.address = address
        self.chance = chance
        self.peer: Peer | None = None
        self.cut: Cut | None = None
        self.open = True  # at the client's side
        self.serving = True  # at the server's side
        self.hushed = False
        self.inbox = bytearray()  # in the client's kernel
        self.ended = ""  # "fin" or "rst", once the client's kernel knows
        self.transport: MemoryTransport | None = None
        self.watcher: Callable[[], None] | None = None
        self.low_water = 1
        self._up_at = self.said_at = 0.0
        self._up = self._down = 0  # octets that passed

    # from the client

    @property
    def room(self) -> int:
        """How many octets the server's kernel still takes."""
        cut = self.cut
        return max(0, cut.octets - self._up) if cut is not None and cut.up and cut.how == "full" else 1 << 30

    def send(self, octets: bytes) -> None:
        """Octets leave the client."""
        if octets.endswith(b"QUIT\r\n"):
            self.network.closed(self)  # to all intents and purposes
        if self.cut is not None and self.cut.how == "full":
            self._up += len(octets)
        agenda = self.network.agenda
        self._up_at = max(self._up_at, agenda.now + self.host.latency)
        agenda.at(self._up_at, self._arrive, octets)

    def close(self, *, reset: bool) -> None:
        """The client closes; what is on the way may be lost by a reset."""
        if not self.open:
            return
        self.open = False
        agenda = self.network.agenda
        self._up_at = max(self._up_at, agenda.now + self.host.latency)
        agenda.at(self._up_at, self._client_gone)
        if reset and self.chance.random() < 0.5:
            self.serving = self.serving and self.chance.random() < 0.5  # False: nothing on the way arrives
            if not self.serving and self.peer is not None:
                self.peer.closed()
        self.network.closed(self)

    def _arrive(self, octets: bytes) -> None:
        if not self.serving or self.hushed or self.peer is None:
            return
        cut = self.cut
        if cut is not None and cut.up and cut.how != "full":
            left = cut.octets - self._up
            if left <= len(octets):
                self._up += max(left, 0)
                if left > 0:
                    self.peer.receive(octets[:left])
                self._cut(cut)
                return
            self._up += len(octets)
        self.peer.receive(octets)

    def _client_gone(self) -> None:
        if self.serving and not self.hushed and self.peer is not None:
            self.serving = False
            self.peer.closed()

    def _cut(self, cut: Cut) -> None:
        self.network.facts.injected[f"cut {cut.how}"] += 1
        self.network.facts.note(self.network.agenda.now, f"c{self.number} cut {cut.how}")
        if cut.how == "hush":
            self.hushed = True
        elif self.serving:
            self.serving = False
            if self.peer is not None:
                self.peer.closed()
            self._end(cut.how)

    # from the server

    def reply(self, octets: bytes, delay: float) -> None:
        """Octets leave the server after a delay; replies stay in order."""
        agenda = self.network.agenda
        self.said_at = max(self.said_at, agenda.now + delay + self.host.latency)
        if len(octets) > 1 and self.chance.random() < 0.05:
            at = self.chance.randrange(1, len(octets))
            agenda.at(self.said_at, self._come, octets[:at])
            agenda.at(self.said_at + self.chance.random(), self._come, octets[at:])
            self.said_at += 1.0
            return
        agenda.at(self.said_at, self._come, octets)

    def hang_up(self, how: str, delay: float = 0.0) -> None:
        """The server closes ("fin") or resets ("rst"), after what it has said."""
        self.serving = False
        agenda = self.network.agenda
        self.said_at = max(self.said_at, agenda.now + delay + self.host.latency)
        agenda.at(self.said_at, self._end, how)

    def _come(self, octets: bytes) -> None:
        if not self.open or self.hushed or self.ended:
            return
        cut = self.cut
        if cut is not None and not cut.up:
            left = cut.octets - self._down
            self._down += len(octets)
            if left <= len(octets):
                if left > 0:
                    self._hand_over(octets[:left])
                self._cut(cut)
                return
        self._hand_over(octets)

    def _hand_over(self, octets: bytes) -> None:
        if self.transport is not None:
            self.transport.receive(octets)
            return
        self.inbox += octets
        if self.watcher is not None and len(self.inbox) >= self.low_water:
            self.watcher()

    def _end(self, how: str) -> None:
        if not self.open or self.ended:
            return
        self.ended = how
        if self.transport is not None:
            self.transport.end(how)
        elif self.watcher is not None:
            self.watcher()


class Network:
    """Who is at which address, and what is open."""

    def __init__(self, agenda: Agenda, facts: Facts, chance: random.Random) -> None:
        self.agenda = agenda
        self.facts = facts
        self.hosts: dict[str, Host] = {}
        self.opened: Callable[[Connection], None] = lambda connection: None
        self.closed: Callable[[Connection], None] = lambda connection: None
        self._chance = chance
        self._numbers = 0
        self._sockets: dict[int, SimulatedSocket] = {}

    def new_socket(self, family: socket.AddressFamily) -> socket.socket:
        """Make a socket that leads into this network."""
        sock = SimulatedSocket(self, FIRST_DESCRIPTOR + self._numbers)
        self._numbers += 1
        self._sockets[sock.fileno()] = sock
        return sock

    async def dial(self, sock: Any, address: tuple[str, int]) -> None:
        """Connect.

        Raises:
            OSError: nobody is there, or nobody who wants us.
        """
        host = self.hosts.get(address[0])
        if host is None:
            await asyncio.Event().wait()
        assert host is not None
        connection = Connection(self, sock.fileno() - FIRST_DESCRIPTOR, host, address[0], self._chance)
        await asyncio.sleep(2 * host.latency)
        answer = host.answer(connection)
        self.facts.note(
            self.agenda.now,
            f"c{connection.number} to {address[0]} {answer if isinstance(answer, float) else answer is not None}",
        )
        if answer is None:
            raise OSError(errno.ECONNREFUSED, "Connection refused")
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            raise OSError(errno.EHOSTUNREACH, "No route to host")
        connection.peer = answer
        sock.connection = connection
        self.opened(connection)

    def attach(self, sock: Any, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Make a transport of a connected socket."""
        return MemoryTransport(sock.connection, protocol)

    def watch(self, descriptor: int, call: Callable[[], None] | None) -> None:
        """Call whenever there is something to read; None: no more."""
        sock = self._sockets.get(descriptor)
        if sock is None or sock.connection is None:
            return
        connection = sock.connection
        connection.watcher = call
        if call is not None and (len(connection.inbox) >= connection.low_water or connection.ended):
            call()

    def forget(self, descriptor: int) -> None:
        """A socket is closed."""
        self._sockets.pop(descriptor, None)

    def reset_all(self) -> None:
        """The client's process is gone: its kernel closes what it had."""
        for sock in list(self._sockets.values()):
            if sock.connection is not None:
                sock.connection.transport = None
                sock.connection.close(reset=True)
        self._sockets.clear()


class SimulatedSocket(socket.socket):
    """A socket without a file: what connection.py, greeting.py and wire.py need of one."""

    def __init__(self, network: Network, descriptor: int) -> None:
        self._network = network
        self._descriptor = descriptor
        self.connection: Connection | None = None

    def __del__(self) -> None:
        """Nothing is open."""

    def fileno(self) -> int:
        return self._descriptor

    def setsockopt(self, level: int, option: int, value: Any, *rest: Any) -> None:  # type: ignore[override]
        if self.connection is not None and (level, option) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT):
            self.connection.low_water = value

    def bind(self, address: Any) -> None:
        """Any address of ours will do."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        connection = self.connection
        assert connection is not None
        assert flags & socket.MSG_PEEK
        if connection.inbox:
            return bytes(connection.inbox[:size])
        if connection.ended == "rst":
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        if connection.ended:
            return b""
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    def send(self, octets: Any, flags: int = 0) -> int:
        assert self.connection is not None
        self.connection.send(bytes(octets))
        return len(octets)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close(reset=False)
        self._network.forget(self._descriptor)


class MemoryTransport(asyncio.Transport):
    """The daemon's end of a connection."""

    def __init__(self, connection: Connection, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": (connection.address, 25)})
        self._connection = connection
        self._protocol: Any = protocol
        self._loop = asyncio.get_running_loop()
        self._waiting = bytearray()  # written, and has not left
        self._high = 64 * 1024
        self._paused = False
        self._closing = False
        connection.transport = self
        if connection.inbox:
            self._loop.call_soon(self.receive, bytes(connection.inbox))
            connection.inbox.clear()
        if connection.ended:
            self._loop.call_soon(self.end, connection.ended)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        found: asyncio.BaseProtocol = self._protocol
        return found

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._closing

    def pause_reading(self) -> None:
        """Nobody here does."""

    def resume_reading(self) -> None:
        """Nobody here does."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high

    def get_write_buffer_size(self) -> int:
        return len(self._waiting)

    def can_write_eof(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        if self._closing or not data:
            return
        connection = self._connection
        octets = bytes(data)
        room = 0 if self._waiting else connection.room
        if room >= len(octets):
            connection.send(octets)
            return
        if room:
            connection.send(octets[:room])
        self._waiting += octets[room:]
        if not self._paused and len(self._waiting) > self._high:
            self._paused = True
            connection.network.facts.injected["cut full"] += 1
            self._protocol.pause_writing()

    def close(self) -> None:
        self._close(reset=False)

    def abort(self) -> None:
        self._waiting.clear()
        self._close(reset=True)

    def _close(self, *, reset: bool) -> None:
        if self._closing:
            return
        self._closing = True
        self._connection.close(reset=reset)
        self._forget()
        self._loop.call_soon(self._protocol.connection_lost, None)

    def receive(self, octets: bytes) -> None:
        """Octets came."""
        if not self._closing:
            self._protocol.data_received(octets)

    def end(self, how: str) -> None:
        """The other side is gone."""
        if self._closing:
            return
        if how == "fin":
            self._protocol.eof_received()  # which never wants to stay
            self._close(reset=False)
            return
        self._closing = True
        self._connection.close(reset=True)
        self._forget()
        self._loop.call_soon(self._protocol.connection_lost, ConnectionResetError("Connection reset by peer"))

    def _forget(self) -> None:
        self._connection.network.forget(FIRST_DESCRIPTOR + self._connection.number)
