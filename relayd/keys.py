"""`<spool>/keys`: a UNIX socket on which whoever may drop mail asks which message has a key of his.

A line each way: the key; the queue id, empty as long as there is none.  What the reader must not break:

    Whose key it is, the kernel says, of who connects.  Nothing else can be asked, and nothing is changed.
    Users are not trusted here: a connection lasts for at most `PATIENCE`, and of them all there are at most `MOST`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from relayd.control import serving, short
from relayd.mail.errors import QueueError
from relayd.mail.key import MAX_KEY, SubmissionKey, is_key

NAME = "keys"  # in the spool
PATIENCE = 2.0  # seconds for the other side
MOST = 32  # connections at the same time; further ones are closed at once
_UCRED = struct.Struct("3i")  # pid, uid, gid: unix(7)

Keyed = Callable[[SubmissionKey], Awaitable[str | None]]


@asynccontextmanager
async def listen(path: Path, keyed: Keyed) -> AsyncIterator[None]:
    """Serve the socket at `path` (mode 0660) while the context lasts; `keyed` knows who has a key."""
    connected = 0

    async def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        try:
            if connected <= MOST:
                with suppress(OSError, TimeoutError, ValueError, QueueError):
                    async with asyncio.timeout(PATIENCE):
                        writer.write(await _answer(reader, _user(writer), keyed))
                        await writer.drain()
        finally:
            connected -= 1
            writer.close()

    async with serving(path, called, mode=0o660, longest=MAX_KEY + 2):
        yield


async def _answer(reader: asyncio.StreamReader, owner: int, keyed: Keyed) -> bytes:
    text = (await reader.readline()).removesuffix(b"\n").decode("ascii")
    return f"{await keyed(SubmissionKey(owner, text)) or ''}\n".encode()


def _user(writer: asyncio.StreamWriter) -> int:
    credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, user, _ = _UCRED.unpack(credentials)
    return int(user)


def ask(path: Path, key: str) -> str | None:
    """Return which message has a key of ours, empty if none has; None if nobody answers, or may be asked."""
    if not is_key(key):
        raise ValueError(f"not a key: {key!r}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, suppress(OSError):
        connection.settimeout(PATIENCE)
        with short(path) as name:
            connection.connect(name)
        connection.sendall(f"{key}\n".encode("ascii"))
        with connection.makefile("rb") as answers:
            answer = answers.readline(MAX_KEY)
        return answer.decode("ascii", "replace").removesuffix("\n") if answer.endswith(b"\n") else None
    return None
