"""`<spool>/control`: a UNIX socket by which the command line tells a running daemon that it changed the queue.

The command line has already written the database when it knocks, so nothing is lost if nobody answers.  The answer
comes after the daemon has taken notice: what was held or removed is not started any more.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from relayd.mail.errors import QueueError

KNOCK = b"changed\n"
ANSWER = b"noticed\n"
PATIENCE = 5.0  # seconds for the other side


@asynccontextmanager
async def listen(path: Path, changed: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Serve the socket at `path` (mode 0600) while the context lasts; `changed` is awaited for every knock."""

    async def knocked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, ValueError, QueueError):  # no answer: nobody took notice
            async with asyncio.timeout(PATIENCE):
                if await reader.readline() == KNOCK:
                    await changed()
                    writer.write(ANSWER)
                    await writer.drain()
        writer.close()

    with suppress(FileNotFoundError):
        path.unlink()  # of a daemon that was killed: the lock says that it is gone
    listening = _bind(path)
    server = await asyncio.start_unix_server(knocked, sock=listening)
    try:
        yield
    finally:
        server.close()
        with suppress(FileNotFoundError):
            path.unlink()


def knock(path: Path) -> bool:
    """Tell the daemon that the queue was changed; return whether one took notice."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, suppress(OSError):
        connection.settimeout(PATIENCE)
        with _short(path) as name:
            connection.connect(name)
        connection.sendall(KNOCK)
        return connection.recv(len(ANSWER)) == ANSWER
    return False


def _bind(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        with _short(path) as name:
            listening.bind(name)
    finally:
        os.umask(before)
    listening.setblocking(False)
    return listening


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield a name for a path of any length: the kernel takes at most 107 octets, so it goes by its directory."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
