"""Makes relayers, and plugs the spool's files into them: the same in the daemon and in a worker."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import BinaryIO, Protocol

from relayd.mail.delivery import Delivery
from relayd.mail.route import Site
from relayd.relay.connection import NewSocket, tcp_socket
from relayd.relay.equipment import Equipment
from relayd.relay.hosts import HostMemory, Shuffle
from relayd.relay.partings import Partings
from relayd.relay.plans import PlanMemory
from relayd.relay.ports import Permit, Ports
from relayd.relay.recaster import Recaster
from relayd.relay.relayer import Relayer
from relayd.relay.settings import RelaySettings
from relayd.relay.tls import TlsContexts, TlsMemory
from relayd.spool.bodies import MissingBody


class BodyFiles(Protocol):
    """The bodies: see relayd/spool/bodies.py."""

    async def read(self, deliveries: Sequence[Delivery]) -> list[bytes]: ...

    def chunks(self, message_id: str) -> AsyncIterator[bytes]: ...

    def scratch(self) -> BinaryIO: ...


class NoteBook(Protocol):
    """The notes: see relayd/spool/notes.py."""

    def beginning(self, lease: int, message_id: str) -> None: ...

    def ending(self, lease: int, message_id: str) -> None: ...


class Relayers:
    """Makes relayers, and keeps what they share: their memory of hosts and handshakes."""

    def __init__(
        self,
        settings: RelaySettings,
        ports: Ports,
        clock: Callable[[], datetime],
        *,
        shuffle: Shuffle = random.shuffle,
        new_socket: NewSocket = tcp_socket,
        contexts: TlsContexts | None = None,
    ) -> None:
        self._equipment = Equipment(
            settings=settings,
            ports=ports,
            hosts=HostMemory(settings.host_memory),
            tls=TlsMemory(settings.tls_memory),
            contexts=contexts or TlsContexts(),
            partings=Partings(settings.timeouts.quit),
            plans=PlanMemory(settings.plan_memory),
            recaster=Recaster(),
            clock=clock,
            shuffle=shuffle,
            new_socket=new_socket,
        )

    def reload(self, settings: RelaySettings) -> None:
        """Let relayers from now on use other settings, and certificates as they are by now."""
        self._equipment = replace(self._equipment, settings=settings)
        self._equipment.contexts.reload()

    def new(self, site: Site, permit: Permit | None = None) -> Relayer:
        """Return a relayer for `site`, not running yet."""
        return Relayer(site, self._equipment, permit)

    async def close(self) -> None:
        """See the last connections off."""
        await self._equipment.partings.over()


class BodiesPort:
    """The bodies, as relayers see them."""

    def __init__(self, bodies: BodyFiles) -> None:
        self._bodies = bodies
        self.scratch = bodies.scratch

    async def read(self, deliveries: Sequence[Delivery]) -> list[bytes]:
        try:
            return await self._bodies.read(deliveries)
        except MissingBody as missing:
            raise FileNotFoundError(str(missing)) from missing

    async def chunks(self, delivery: Delivery) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._bodies.chunks(delivery.id):
                yield chunk
        except MissingBody as missing:
            raise FileNotFoundError(str(missing)) from missing


class InHandPort:
    """The notes, as relayers see them."""

    def __init__(self, notes: NoteBook) -> None:
        self._notes = notes

    def beginning(self, delivery: Delivery) -> None:
        """See relayd/relay/ports.py."""
        self._notes.beginning(delivery.lease, delivery.id)

    def ending(self, delivery: Delivery) -> None:
        """See relayd/relay/ports.py."""
        self._notes.ending(delivery.lease, delivery.id)
