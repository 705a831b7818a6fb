"""Whether the daemon keeps its limits, as its network and servers see it."""

from __future__ import annotations

from tests.simulation.connections import Connection
from tests.simulation.facts import Facts
from tests.simulation.network import Network
from tests.simulation.scenario import Scenario


class Limits:
    """See the module."""

    def __init__(self, scenario: Scenario, network: Network, facts: Facts) -> None:
        self._rules = scenario.rules
        self._facts = facts
        self._site_of = {
            address: n for n, site in enumerate(scenario.sites) for host in site for address in host.addresses
        }
        self._open: set[int] = set()
        self._open_at: dict[int, set[int]] = {n: set() for n in range(len(scenario.sites))}
        self._senders: dict[int, set[str]] = {}  # of what was begun on each connection
        self.most_open = 0
        self.tried: dict[int, list[float]] = {n: [] for n in range(len(scenario.sites))}  # when connections were
        self._network = network
        network.dialled = self._dialled
        network.opened = self._opened
        network.counted_out = self._closed

    def _dialled(self, address: str) -> None:
        self.tried[self._site_of[address]].append(self._network.agenda.now)

    def _opened(self, connection: Connection) -> None:
        at_site = self._open_at[self._site_of[connection.address]]
        self._open.add(connection.number)
        at_site.add(connection.number)
        self.most_open = max(self.most_open, len(self._open))
        if len(self._open) > self._rules.max_connections:
            self._facts.breach(f"{_named(self._open)} are open, of {self._rules.max_connections}")
        if len(at_site) > self._rules.per_site:
            self._facts.breach(f"{_named(at_site)} are open to one site, of {self._rules.per_site}")

    def begun(self, connection: Connection, sender: str) -> None:
        """A transaction was begun.  Each message has a sender of its own, but for those from `<>`, and may need several
        transactions."""
        senders = self._senders.setdefault(connection.number, set())
        if sender in senders:
            return
        senders.add(sender)
        if len(senders) == self._rules.per_connection + 1:
            number, most = connection.number, self._rules.per_connection
            self._facts.breach(f"c{number} carries {len(senders)} messages, of at most {most}")

    def _closed(self, connection: Connection) -> None:
        self._open.discard(connection.number)
        self._open_at[self._site_of[connection.address]].discard(connection.number)


def _named(connections: set[int]) -> str:
    return f"{len(connections)} connections ({', '.join(f'c{each}' for each in sorted(connections)[-5:])})"
