"""A network in memory: who is at which address, what is open, and the sockets that lead into it."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from collections.abc import Callable
from typing import Any

from tests.simulation.connections import Connection, Host
from tests.simulation.facts import Facts
from tests.simulation.loop import Agenda
from tests.simulation.transport import MemoryTransport

FIRST_DESCRIPTOR = 1 << 24  # far above those of real files


class Network:
    """Who is at which address, and what is open."""

    def __init__(self, agenda: Agenda, facts: Facts, chance: random.Random) -> None:
        self.agenda = agenda
        self.facts = facts
        self.hosts: dict[str, Host] = {}
        self.dialled: Callable[[str], None] = lambda address: None
        self.opened: Callable[[Connection], None] = lambda connection: None
        self.counted_out: Callable[[Connection], None] = lambda connection: None
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
        self.dialled(address[0])
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

    def closed(self, connection: Connection) -> None:
        """The client has closed, or said that it will."""
        self.counted_out(connection)
        if not connection.open:
            self.forget(FIRST_DESCRIPTOR + connection.number)

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

    def setsockopt(self, level: int, option: int, value: Any, *rest: Any) -> None:
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
