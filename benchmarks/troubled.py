"""Mail exchangers that do harm to others' mail: slow ones and black holes, in a process of their own.

A slow one greets at once, offers PIPELINING, and takes seconds for each message.  A black hole is of one of two kinds:
`silent` accepts connections and never says a word; `full` has no room for connections, so that the kernel lets their
first segments fall.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import socket
from multiprocessing.connection import Connection
from typing import Self

SLOW = "127.0.0.2"
HOLE = "127.0.0.3"
TAKES = (2.0, 5.0)  # seconds for a message
KINDS = ("silent", "full")
BACKLOG = 1000
FILLING = 4  # connections that fill a backlog of none
OFFER = b"250-slow.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 104857600\r\n"
REPLIES = {b"EHLO": OFFER, b"DATA": b"354 go on\r\n", b"QUIT": b"221 2.0.0 Bye\r\n"}


class Troubled:
    """Slow servers at `SLOW` and a black hole at `HOLE`, both at one port, for the time of a `with`."""

    def __init__(self, port: int, kind: str = "silent", seed: int = 1) -> None:
        """`kind` is of the black hole, `seed` of the times that the slow ones take."""
        self._work = (port, kind, seed)

    def __enter__(self) -> Self:
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("fork").Process(
            target=_serve, args=(theirs, *self._work), daemon=True
        )
        self._process.start()
        theirs.close()
        self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    @property
    def taken(self) -> int:
        """How many messages the slow ones have taken."""
        self._pipe.send("taken")
        return int(self._pipe.recv())


class _Slow:
    """The slow servers: one counter, one chance."""

    def __init__(self, seed: int) -> None:
        self.taken = 0
        self._chance = random.Random(seed)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak with one client."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.write(b"220 slow.test ESMTP\r\n")
            while line := await reader.readline():
                verb = line[:4].upper()
                writer.write(REPLIES.get(verb, b"250 2.0.0 Ok\r\n"))
                if verb == b"DATA":
                    await self._take(reader, writer)
                elif verb == b"QUIT":
                    break
                await writer.drain()
        writer.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await writer.drain()
        await reader.readuntil(b"\r\n.\r\n")
        await asyncio.sleep(self._chance.uniform(*TAKES))
        self.taken += 1
        writer.write(b"250 2.0.0 Ok\r\n")


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hear a client to its end."""
    with contextlib.suppress(OSError):
        while await reader.read(4096):
            pass
    writer.close()


def _full(port: int) -> list[socket.socket]:
    """Listen without room, and fill what there is; the sockets must be kept."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((HOLE, port))
    listening.listen(0)
    fillers = [socket.socket() for _ in range(FILLING)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex((HOLE, port))
    return [listening, *fillers]


def _serve(pipe: Connection, port: int, kind: str, seed: int) -> None:
    async def serve() -> None:
        slow = _Slow(seed)

        def tell() -> None:
            pipe.recv()
            pipe.send(slow.taken)

        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(await asyncio.start_server(slow.serve, SLOW, port, backlog=BACKLOG))
            if kind == "silent":
                await stack.enter_async_context(await asyncio.start_server(_silent, HOLE, port, backlog=BACKLOG))
            else:
                for each in _full(port):
                    stack.enter_context(each)
            asyncio.get_running_loop().add_reader(pipe.fileno(), tell)
            pipe.send("ready")
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt, EOFError):
        asyncio.run(serve())
