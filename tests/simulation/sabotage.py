"""What may happen to the queue and the files of a start of the daemon: whoever runs it plugs in a source of faults."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Abandoned(BaseException):
    """A task of a daemon that has crashed goes on all the same."""


class Faults(Protocol):
    """What may happen to something on its way to the disk and back.

    `operation` is the name of a method of the queue, `sqlite` for a transaction, or of the bodies.
    """

    async def before(self, operation: str) -> None:
        """Have the turn before the queue does something.

        Raises:
            QueueError: then it does not happen.
        """

    async def after(self, operation: str) -> None:
        """Have the turn after it has happened.

        Raises:
            QueueError: then it has happened, and whoever asked for it is not told.
        """

    def files(self, operation: str) -> None:
        """Have the turn before something is done with a file.

        Raises:
            OSError: then it is not done.
        """


class Calm:
    """No faults: a turn of the loop before, and one after."""

    async def before(self, operation: str) -> None:
        await asyncio.sleep(0)

    async def after(self, operation: str) -> None:
        await asyncio.sleep(0)

    def files(self, operation: str) -> None:
        return
