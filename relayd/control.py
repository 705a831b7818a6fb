"""`<spool>/control`: a UNIX socket on which the command line speaks to a running daemon, a line each way.

It knocks when it has changed the queue.  It has already written the database then, so nothing is lost if nobody
answers.  The answer comes after the daemon has taken notice: what was held or removed is not started any more.

It asks what only the daemon knows: a JSON object each way, of a bounded size.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from relayd.mail.errors import QueueError

KNOCK = b"changed\n"
ANSWER = b"noticed\n"
PATIENCE = 5.0  # seconds for the other side
LONGEST_QUESTION = 4 * 1024  # octets
LONGEST_ANSWER = 256 * 1024

Said: TypeAlias = Mapping[str, Any]


@asynccontextmanager
async def listen(
    path: Path, changed: Callable[[], Awaitable[None]], answer: Callable[[Said], Awaitable[Said | None]]
) -> AsyncIterator[None]:
    """Serve the socket at `path` (mode 0600) while the context lasts.

    `changed` is awaited for every knock; `answer` for every question, None if it is not understood.
    """

    async def replied(line: bytes) -> bytes:
        if line == KNOCK:
            await changed()
            return ANSWER
        question = json.loads(line)
        said = await answer(question) if isinstance(question, dict) else None
        return b"" if said is None else json.dumps(said).encode() + b"\n"

    async def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No answer: nobody took notice.  RecursionError: what is nested deeper than the reader of JSON goes.
        with suppress(OSError, TimeoutError, ValueError, QueueError, RecursionError):
            async with asyncio.timeout(PATIENCE):
                writer.write(await replied(await reader.readline()))
                await writer.drain()
        writer.close()

    async with serving(path, called, mode=0o600, longest=LONGEST_QUESTION):
        yield


@asynccontextmanager
async def serving(
    path: Path,
    called: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    *,
    mode: int,
    longest: int,
) -> AsyncIterator[None]:
    """Have a socket at `path` while the context lasts; who connects may say a line of at most `longest` octets."""
    with suppress(FileNotFoundError):
        path.unlink()  # of a daemon that was killed: the lock says that it is gone
    server = await asyncio.start_unix_server(called, sock=_bind(path, mode), limit=longest)
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
        with short(path) as name:
            connection.connect(name)
        connection.sendall(KNOCK)
        return connection.recv(len(ANSWER)) == ANSWER
    return False


def ask(path: Path, question: Said) -> dict[str, Any] | None:
    """Ask the daemon; return its answer, None if none comes in time, or it does not understand."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, suppress(OSError, ValueError):
        deadline = time.monotonic() + PATIENCE
        connection.settimeout(PATIENCE)
        with short(path) as name:
            connection.connect(name)
        connection.sendall(json.dumps(question).encode() + b"\n")
        answer = json.loads(_line(connection, deadline))
        return answer if isinstance(answer, dict) else None
    return None


def _line(connection: socket.socket, deadline: float) -> bytes:
    """Read a line; what was read by the deadline if there is none."""
    line = b""
    while not line.endswith(b"\n") and len(line) < LONGEST_ANSWER and (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        if not (octets := connection.recv(LONGEST_ANSWER)):
            break
        line += octets
    return line


def _bind(path: Path, mode: int) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o777 & ~mode)
    try:
        with short(path) as name:
            listening.bind(name)
    finally:
        os.umask(before)
    listening.setblocking(False)
    return listening


@contextmanager
def short(path: Path) -> Iterator[str]:
    """Yield a name for a path of any length: the kernel takes at most 107 octets, so it goes by its directory."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
