"""Small SMTP servers on loopback, each on an address of its own, with the manners of one kind of mail exchanger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiosmtpd.smtp import SMTP, Envelope, Session

Received = Callable[[Envelope], None]


class Accepting:
    """Takes every message."""

    def __init__(self, received: Received) -> None:
        self._received = received

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Answer the end of the message."""
        self._received(envelope)
        return "250 2.0.0 taken"


class Greylisting(Accepting):
    """Takes a message only when it comes a second time."""

    def __init__(self, received: Received) -> None:
        super().__init__(received)
        self._seen: set[tuple[str | None, str]] = set()

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Answer a recipient."""
        known = (envelope.mail_from, address)
        if known not in self._seen:
            self._seen.add(known)
            return "451 4.7.1 greylisted, please come back in 1 second"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"


class Refusing(Accepting):
    """Knows nobody."""

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Answer a recipient."""
        return f"550 5.1.1 {address}: no such user here"


@asynccontextmanager
async def smtp_server(manners: object, address: str, port: int, name: str) -> AsyncIterator[int]:
    """Serve on `address` while the context lasts; `port` 0 chooses a free one.  Yields the port.

    `manners` is a handler of aiosmtpd: it has `handle_DATA`, and may have the others.
    """
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(manners, hostname=name, ident="demo", enable_SMTPUTF8=True, loop=loop), address, port
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
