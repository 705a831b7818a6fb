"""The deliveries of one run, in order, with small bodies read ahead."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence

from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Deferred
from relayd.mail.reply import EnhancedStatus
from relayd.relay.ports import Bodies
from relayd.relay.settings import RelaySettings
from relayd.relay.transaction import Load

PIECE = 64 * 1024  # octets
UNREADABLE = EnhancedStatus(4, 3, 0)  # RFC 3463 section 3.4: other mail system status


class Stock:
    """What is still to be sent.  At most `read_ahead_size` octets, and one message, beyond what is under way."""

    def __init__(self, deliveries: Iterable[Delivery], bodies: Bodies, settings: RelaySettings) -> None:
        self._unread = deque(deliveries)
        self._ready: deque[Load] = deque()
        self._bodies = bodies
        self._settings = settings
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

    def rest(self) -> list[Delivery]:
        """Take away all that is left."""
        left = [load.delivery for load in self._ready] + list(self._unread)
        self._ready.clear()
        self._unread.clear()
        self._octets = 0
        return left

    async def fill(self) -> None:
        """Read on, if it is time to."""
        async with self._filling:
            batch = self._batch()
            small = [one for one in batch if self._is_small(one)]
            try:
                files = await self._read(small)
            except BaseException:
                self._unread.extendleft(reversed(batch))
                raise
            for delivery in batch:
                raw = files.get(delivery.id)
                load = _load(delivery, raw) if self._is_small(delivery) else Load(delivery)
                self._octets += len(load.raw or b"")
                self._ready.append(load)

    def _is_small(self, delivery: Delivery) -> bool:
        return delivery.body.size <= self._settings.small_body

    def _batch(self) -> list[Delivery]:
        batch: list[Delivery] = []
        octets = self._octets
        while self._unread and len(batch) < self._settings.read_ahead:
            size = self._unread[0].body.size if self._is_small(self._unread[0]) else 0
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


def _load(delivery: Delivery, raw: bytes | OSError | None) -> Load:
    if isinstance(raw, bytes) and len(raw) == delivery.body.size:
        return Load(delivery, raw)
    load = Load(delivery)
    load.settle_rest(unreadable(raw if isinstance(raw, OSError) else "not the file that was accepted"))
    return load


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
