"""A configuration, a queue with mail in it, and the command line as a function."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relayd.__main__ import run
from relayd.mail.message import Message
from relayd.mail.recipient import Status
from relayd.spool.sqlite import SqliteQueue
from tests.spool.mail import HOUR, MINUTE, NOW, a_message, settled
from tests.support.process import write_config


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


class CommandLine:
    """`relayd --config FILE ...`, and the spool that FILE names."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.spool = directory / "spool"
        self.config = write_config(
            directory / "config.toml", {"relay": {"hostname": "relay.test", "spool": str(self.spool)}}
        )

    def __call__(self, *words: str) -> Said:
        return self.plain("--config", str(self.config), *words)

    def plain(self, *words: str) -> Said:
        """Run `relayd WORDS`."""
        self._capsys.readouterr()
        code = run(list(words))
        captured = self._capsys.readouterr()
        return Said(code, captured.out, captured.err)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[SqliteQueue]:
        opened = await SqliteQueue.open(self.spool / "queue.db", owner="test")
        try:
            yield opened
        finally:
            await opened.close()

    def queue(self, *messages: Message) -> None:
        """Put messages into the queue, as a daemon does that is gone now."""
        self.spool.mkdir(exist_ok=True)

        async def add() -> None:
            async with self._opened() as opened:
                await opened.add(messages)

        asyncio.run(add())

    def attempt(self, message: Message, status: Status, **fields: Any) -> None:
        """Record an attempt at all recipients of a message."""

        async def settle() -> None:
            async with self._opened() as opened:
                destinations = {recipient.address.domain for recipient in message.envelope.recipients}
                deliveries = await opened.claim(destinations, 10, NOW + HOUR, until=NOW + 2 * HOUR)
                due = NOW + MINUTE if status is Status.DEFERRED else None
                await opened.settle([settled(each, status, due=due, **fields) for each in deliveries])

        asyncio.run(settle())


def waiting(relayd: CommandLine, *to: str, reply: str = "450 4.2.1 not now") -> Message:
    """Return a message that was tried once, and put off."""
    message = a_message(*to)
    relayd.queue(message)
    relayd.attempt(message, Status.DEFERRED, reply=reply, dsn="4.2.1", peer="mx.one.example[192.0.2.1]:25")
    return message


def messages(count: int) -> Iterator[Message]:
    """Yield messages."""
    return (a_message() for _ in range(count))
