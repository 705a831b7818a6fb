"""What the relay stage needs of others.  The daemon fills these."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from relayd.mail.attempt import Attempt
from relayd.mail.delivery import Delivery
from relayd.mail.figures import Figures
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.route import Host, Site, Target
from relayd.mail.tls import TlsSession


class AddressBook(Protocol):
    """Finds the addresses of a host."""

    async def addresses(
        self, host: Host, site: Site, destinations: Sequence[str]
    ) -> Sequence[Target] | Deferred | Failed:
        """Return the addresses that may be connected to with mail for `destinations`, best first, or why there are
        none.  Never raises for what a resolver says."""


class Tokens(Protocol):
    """Has the tokens that sites with OAuth want in place of a password."""

    async def token(self, site: str, *, rejected: str = "") -> str | Deferred:
        """Return a token for the site of this key, or why there is none now, of scope HOST.

        `rejected` is one that a server refused: another is returned.  Never raises for what a token server says; takes
        as long as that may take to answer.
        """


class Reports(Protocol):
    """Takes what became of each delivery."""

    def report(self, attempt: Attempt) -> Awaitable[None]:
        """Take an attempt at once; what is returned is done when the attempt is durable.

        Called between two octets of a conversation: it must not block.  A plain future costs least.
        """


class Bodies(Protocol):
    """Reads the files of messages."""

    async def read(self, deliveries: Sequence[Delivery]) -> list[bytes]:
        """Return the whole files, in order, for small ones.

        Raises:
            OSError: one of them could not be read.
        """

    def chunks(self, delivery: Delivery) -> AsyncIterator[bytes]:
        """Yield the file of a large one in pieces of some 64 KiB.

        Raises:
            OSError: it could not be read.
        """

    def scratch(self) -> BinaryIO:
        """Return an unnamed file, for what is made of a message; it is gone when it is closed.

        Raises:
            OSError: there is no room.
        """


class InHand(Protocol):
    """Notes what is in hand and what may have left, so that the marks after a killed process are few and its cause is
    found.  Both are cheap, do not block, and need not be synced."""

    def beginning(self, delivery: Delivery) -> None:
        """Note that this delivery is in hand from now on."""

    def ending(self, delivery: Delivery) -> None:
        """Note that the octets that end this message are about to be written."""


Sessions = Callable[[TlsSession], None]  # learns how TLS went, once for each connection; does not block
Measured = Callable[[Figures], None]  # learns what a run measured, once, at its end; does not block
Permit = Callable[[], Awaitable[None]]  # is awaited before each connection; returns when it may be made
Withdrawn = Callable[[str], bool]  # whether an operator has held or removed the message of this id meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """All of them."""

    addresses: AddressBook
    tokens: Tokens
    reports: Reports
    bodies: Bodies
    in_hand: InHand
    sessions: Sessions
    withdrawn: Withdrawn
    measured: Measured = lambda figures: None
