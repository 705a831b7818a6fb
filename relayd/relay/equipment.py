"""What all relayers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from relayd.relay.connection import NewSocket, tcp_socket
from relayd.relay.hosts import HostMemory, Shuffle
from relayd.relay.partings import Partings
from relayd.relay.plans import PlanMemory
from relayd.relay.ports import Ports
from relayd.relay.recaster import Recaster
from relayd.relay.settings import RelaySettings
from relayd.relay.tls import TlsContexts, TlsMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    """See the module.  `shuffle` puts hosts of equal preference in a random order, in place."""

    settings: RelaySettings
    ports: Ports
    hosts: HostMemory
    tls: TlsMemory
    contexts: TlsContexts
    partings: Partings
    plans: PlanMemory
    recaster: Recaster
    clock: Callable[[], datetime]
    shuffle: Shuffle
    new_socket: NewSocket = tcp_socket
