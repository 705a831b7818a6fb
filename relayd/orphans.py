"""Bodies without a row, which a crash left: adopted in the background, since finding them means to look at all bodies.

What the reader must not break:

    Mail does not wait for it: while some is under way, looking takes a twentieth of the time of one thread, and steps
    aside between directories.  What is found is adopted at once.
    One body that cannot be read keeps no other from being adopted.  It is told of once, and stays.
    What the queue or the disk did not allow is looked for again, from the beginning, until it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from relayd.health import Health
from relayd.mail.errors import QueueError
from relayd.mail.events import Accepted, Events, FileRejected, Repeated, Trouble
from relayd.mail.message import Message
from relayd.ports import Pickup, Spool

PART = "orphans"  # in events
IDLE_SHARE = 20  # after a look that took a second it rests for so many, while mail is under way
AGAIN = 60.0  # seconds until what failed is tried again


class Orphans:
    """See the module.  `arrived` is told of messages that are adopted, `over` is called when all bodies were seen;
    `busy` tells whether mail is under way."""

    def __init__(
        self,
        pickup: Pickup,
        spool: Spool,
        *,
        arrived: Callable[[Iterable[Message]], None],
        health: Health,
        events: Events,
        over: Callable[[], None],
        busy: Callable[[], bool],
        monotonic: Callable[[], float],
    ) -> None:
        self._pickup = pickup
        self._spool = spool
        self._arrived = arrived
        self._health = health
        self._events = events
        self._over = over
        self._busy = busy
        self._monotonic = monotonic
        self._unreadable: set[str] = set()  # told of
        self.sweeping = True  # until all bodies were seen once, or could not be

    async def adopt_all(self) -> None:
        """Adopt what a crash left; return when all that can be is."""
        while True:
            if await self._pass():
                return
            await asyncio.sleep(AGAIN)

    async def _pass(self) -> bool:
        """Look at all bodies once; whether nothing failed that may work later."""
        try:
            began = self._monotonic()
            async for found in self._spool.orphans():
                looked = self._monotonic() - began
                for message_id, path in found:
                    await self._adopt(message_id, path)
                await asyncio.sleep(looked * IDLE_SHARE if self._busy() else 0)
                began = self._monotonic()
        except (QueueError, OSError) as error:
            self._health.failed(PART, error)
            return False
        finally:
            self.sweeping = False
            self._over()
        self._health.works(PART)
        return True

    async def _adopt(self, message_id: str, path: Path) -> None:
        if message_id in self._unreadable:
            return
        try:
            found = await self._pickup.examine_body(path, message_id)
        except FileNotFoundError:
            return  # a message that has finished, and was forgotten, since we looked
        except Exception as error:
            self._unreadable.add(message_id)
            self._events(Trouble(part="spool", detail=f"{path} cannot be read, and stays: {error!r}"))
            return
        if isinstance(found, Message):
            if first := await self._spool.adopt(found):
                self._events(Repeated(id=first, key=found.key, file=path.name))
                return
            self._events(Accepted(message=found, file=path.name))
            self._arrived([found])
        else:
            place = await self._spool.reject(message_id, found)
            self._events(FileRejected(file=place.name, reason=found))
