"""Which host and which address is tried first.

Pure but for the memory, which is told the time.  RFC 5321 section 5.1: by preference, equal preferences in an order
chosen anew for each connection.  What failed of late is tried last, until it is forgotten; it is never left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from relayd.mail.route import Host, Target
from relayd.relay.remembered import Remembered

Shuffle = Callable[[list[Host]], None]


class HostMemory:
    """Hosts and addresses that failed, with an end.  Shared by all relayers; at most `limit` of each."""

    def __init__(self, span: timedelta, limit: int = 10_000) -> None:
        self._hosts = Remembered[Host](span, limit)
        self._targets = Remembered[Target](span, limit)

    def host_failed(self, host: Host, now: datetime) -> None:
        """No address of `host` could be used."""
        self._hosts.add(host, now)

    def target_failed(self, target: Target, now: datetime) -> None:
        """This address could not be used."""
        self._targets.add(target, now)

    def works(self, target: Target) -> None:
        """This address took our mail, or at least our EHLO."""
        self._hosts.discard(target.host)
        self._targets.discard(target)

    def in_order(self, groups: Iterable[Iterable[Host]], now: datetime, shuffle: Shuffle) -> list[Host]:
        """Return the hosts of a site in the order in which to try them; `shuffle` works in place."""
        hosts: list[Host] = []
        for group in groups:
            equals = list(group)
            shuffle(equals)
            hosts.extend(equals)
        return sorted(hosts, key=lambda host: self._hosts.has(host, now))

    def addresses_in_order(self, targets: Sequence[Target], now: datetime) -> list[Target]:
        """Return the addresses of one host, the resolver's order kept but for those that failed."""
        return sorted(targets, key=lambda target: self._targets.has(target, now))
