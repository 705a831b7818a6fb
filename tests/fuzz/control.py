"""The control socket: any octets get an answer in JSON, or none, and the next who asks is answered.

A real socket, a real manager behind it.  Nothing reaches the loop's own handler of exceptions.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any

from relayd.control import KNOCK, LONGEST_ANSWER, listen
from tests.fuzz.choices import Choices
from tests.support.managed import World, managing

WORDS = (
    *(b'{"ask": "state"}\n', b'{"ask": "gates", "destination": "', b'one.test"', b', "leases": [', b"1", b"]}", b"\n"),
    *(KNOCK, b"{", b"[", b'"', b":", b",", b"null", b"1e999", b"NaN", b"\\ud800", b"\xff", b"[" * 4000, b"x" * 4096),
    *(
        b'{"a":' * 800,
        b"-1",
        b"9" * 4300,
        b'"ask"',
        b'"destination"',
        b'"leases"',
        b"{}",
        b'"state"',
        b'"gates"',
        b"\0",
    ),
)


class Line:
    """The listening socket, for as long as the process lives."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda loop, context: self.complaints.append(context))
        self.directory = tempfile.TemporaryDirectory(prefix="relayd-fuzz-")
        self.path = Path(self.directory.name, "control")
        self.stack = AsyncExitStack()
        self.loop.run_until_complete(self.open())

    async def open(self) -> None:
        manager = await self.stack.enter_async_context(managing(World()))

        async def noticed() -> None:
            await manager.operator_changed_queue()

        await self.stack.enter_async_context(listen(self.path, noticed, manager.answers.answer))

    async def said(self, octets: bytes) -> bytes:
        """Return what is answered to `octets`."""
        reader, writer = await asyncio.open_unix_connection(self.path, limit=2 * LONGEST_ANSWER)
        try:
            writer.write(octets)
            writer.write_eof()
            async with asyncio.timeout(15):
                return await reader.read()
        except (ConnectionResetError, BrokenPipeError):  # it had enough of us
            return b""
        finally:
            writer.close()


@cache
def line() -> Line:
    """Return the one line."""
    return Line()


def one(octets: bytes) -> None:
    """See the module."""
    check(Choices(octets).mixed(WORDS, 12))


def check(octets: bytes) -> None:
    """Claim it of one caller."""
    ours = line()
    answer = ours.loop.run_until_complete(ours.said(octets))
    if answer and octets.partition(b"\n")[0] + b"\n" != KNOCK:
        assert isinstance(json.loads(answer), dict)
        assert len(answer) <= LONGEST_ANSWER
    assert json.loads(ours.loop.run_until_complete(ours.said(b'{"ask": "state"}\n')))
    complaints, ours.complaints[:] = ours.complaints.copy(), []
    assert not complaints, complaints
