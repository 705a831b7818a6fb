"""The deliveries of one run, in order, with small bodies read ahead, and all made fit for the server."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Deferred
from relayd.mail.reply import EnhancedStatus
from relayd.relay.capabilities import Capabilities
from relayd.relay.ports import Bodies
from relayd.relay.recaster import Recaster
from relayd.relay.settings import RelaySettings
from relayd.relay.transaction import Load

PIECE = 64 * 1024  # octets
UNREADABLE = EnhancedStatus(4, 3, 0)  # RFC 3463 section 3.4: other mail system status


class Stock:
    """What is still to be sent.  At most `read_ahead_size` octets, and one message, beyond what is under way."""

    def __init__(
        self, deliveries: Iterable[Delivery], bodies: Bodies, settings: RelaySettings, recaster: Recaster
    ) -> None:
        self._unread = deque(Load(delivery) for delivery in deliveries)
        self._ready: deque[Load] = deque()
        self._bodies = bodies
        self._settings = settings
        self._recaster = recaster
        self._eight_bit = True  # whether the server offers 8BITMIME
        self._octets = 0  # of the bodies in `_ready`
        self._filling = asyncio.Lock()

    def __len__(self) -> int:
        """How many deliveries are left."""
        return len(self._unread) + len(self._ready)

    @property
    def low(self) -> bool:
        """Whether it is time to read on."""
        if not self._unread or not self._ready:
            return bool(self._unread)
        settings = self._settings
        return len(self._ready) <= settings.read_ahead // 2 and self._octets <= settings.read_ahead_size // 2

    def suit(self, offered: Capabilities) -> None:
        """Make ready for a server that offers this.  What was made ready for another is read again."""
        if offered.eight_bit_mime == self._eight_bit:
            return
        self._eight_bit = offered.eight_bit_mime
        other = [load for load in self._ready if load.delivery.body.eight_bit]
        for load in other:
            self._ready.remove(load)
            self._octets -= len(load.raw or b"")
            load.discard()
        self._unread.extendleft(reversed(other))

    def next(self) -> Load | None:
        """Take the next one whose body is there."""
        if not self._ready:
            return None
        load = self._ready.popleft()
        self._octets -= len(load.raw or b"")
        return load

    def put_back(self, loads: Sequence[Load]) -> None:
        """Put loads back, before all others, to begin them again."""
        for load in reversed(loads):
            load.renew()
            self._octets += len(load.raw or b"")
            self._ready.appendleft(load)

    def take_out(self, unwanted: Callable[[Delivery], bool]) -> list[Load]:
        """Take away those that are not to be sent."""
        found = []
        for loads in (self._ready, self._unread):
            for load in [load for load in loads if unwanted(load.delivery)]:
                loads.remove(load)
                found.append(load)
        self._octets = sum(len(load.raw or b"") for load in self._ready)
        return found

    def rest(self) -> list[Delivery]:
        """Take away all that is left."""
        loads = [*self._ready, *self._unread]
        for load in loads:
            load.discard()
        self._ready.clear()
        self._unread.clear()
        self._octets = 0
        return [load.delivery for load in loads]

    async def fill(self) -> None:
        """Read on, if it is time to."""
        async with self._filling:
            batch = self._batch()
            try:
                files = await self._read([load.delivery for load in batch if self._is_small(load)])
                for load in batch:
                    await self._make_ready(load, files.get(load.delivery.id))
            except BaseException:
                for load in batch:
                    load.discard()
                self._unread.extendleft(reversed(batch))
                raise
            self._octets += sum(len(load.raw or b"") for load in batch)
            self._ready.extend(batch)

    async def _make_ready(self, load: Load, file: bytes | OSError | None) -> None:
        if self._is_small(load):
            if not isinstance(file, bytes) or len(file) != load.delivery.body.size:
                what = file if isinstance(file, OSError) else "not the file that was accepted"
                load.settle_rest(unreadable(what))
                return
            load.raw = file
        try:
            await self._recaster.fit(load, self._bodies, eight_bit=self._eight_bit)
        except OSError as error:
            load.settle_rest(unreadable(error))

    def _is_small(self, load: Load) -> bool:
        return load.delivery.body.size <= self._settings.small_body

    def _batch(self) -> list[Load]:
        batch: list[Load] = []
        octets = self._octets
        while self._unread and len(batch) < self._settings.read_ahead:
            first = self._unread[0]
            size = first.delivery.body.size if self._is_small(first) else 0
            if batch and octets + size > self._settings.read_ahead_size:
                break
            octets += size
            batch.append(self._unread.popleft())
        return batch

    async def _read(self, deliveries: list[Delivery]) -> dict[str, bytes | OSError]:
        """Read them in one call; one by one if that fails, so that a missing file keeps nobody else waiting."""
        if not deliveries:
            return {}
        try:
            files = await self._bodies.read(deliveries)
            return {one.id: file for one, file in zip(deliveries, files, strict=True)}
        except OSError as error:
            if len(deliveries) == 1:
                return {deliveries[0].id: error}
        found: dict[str, bytes | OSError] = {}
        for one in deliveries:
            found |= await self._read([one])
        return found


def unreadable(why: OSError | str) -> Deferred:
    """Return the outcome of a message whose file cannot be sent: our trouble, not the server's."""
    return Deferred(reason=f"the message's file cannot be read: {why}", status=UNREADABLE)


async def streamed(load: Load, bodies: Bodies) -> AsyncGenerator[bytes, None]:
    """Yield the octets of a large load in pieces: of its scratch file if it has one, else of its own."""
    if load.scratch is None:
        async for piece in bodies.chunks(load.delivery):
            yield piece
        return
    await asyncio.to_thread(load.scratch.seek, 0)
    while piece := await asyncio.to_thread(load.scratch.read, PIECE):
        yield piece
