"""The daemon, as the relayers of a worker see it: it records outcomes, finds addresses, has tokens, knows what was
withdrawn.

Invariant: a delivery is noted (`relayd/spool/notes.py`) until the daemon has said that its outcome is durable, or its
run has ended without one; what is undone then cannot have left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from itertools import count
from typing import Any

from relayd.mail.attempt import Attempt
from relayd.mail.delivery import Delivery
from relayd.mail.errors import QueueError
from relayd.mail.figures import Figures
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.route import Host, Site, Target
from relayd.mail.tls import TlsSession
from relayd.spool.notes import Claimed, Notes
from relayd.workers import codec, codec_sites, messages
from relayd.workers.channel import Channel


class Upstream:
    """A `Reports`, an `AddressBook` and a `Tokens` of relayd/relay/ports.py."""

    def __init__(self, channel: Channel, notes: Notes, withdrawn: frozenset[str]) -> None:
        self.withdrawn = withdrawn
        self._channel = channel
        self._notes = notes
        self._numbers = count()
        self._places: dict[Claimed, tuple[int, int]] = {}  # run, place in it
        self._reports: dict[int, tuple[asyncio.Future[None], Claimed]] = {}
        self._unrecorded: set[Claimed] = set()  # reported; what the daemon gives up stays here, and in the notes
        self._questions: dict[int, asyncio.Future[Any]] = {}

    def begin(self, run: int, deliveries: Sequence[Delivery]) -> None:
        """These will be reported as of this run."""
        self._places.update(((each.lease, each.id), (run, place)) for place, each in enumerate(deliveries))

    def end(self, deliveries: Sequence[Delivery]) -> None:
        """Their run is over: nothing of it is under way any more."""
        claimed = {(each.lease, each.id) for each in deliveries}
        for each in claimed:
            self._places.pop(each, None)
        self._notes.over(claimed - self._unrecorded)

    # what relayers ask

    def report(self, attempt: Attempt) -> Awaitable[None]:
        """See relayd/relay/ports.py."""
        claimed = (attempt.delivery.lease, attempt.delivery.id)
        run, place = self._places[claimed]
        number = next(self._numbers)
        recorded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reports[number] = recorded, claimed
        self._unrecorded.add(claimed)
        self._channel.send((messages.SETTLED, number, run, place, codec.pack_attempt(attempt)))
        return recorded

    def session(self, session: TlsSession) -> None:
        """See relayd/relay/ports.py."""
        self._channel.send((messages.TLS, codec_sites.pack_session(session)))

    def measured(self, figures: Figures) -> None:
        """See relayd/relay/ports.py."""
        self._channel.send((messages.FIGURES, codec.pack_figures(figures)))

    async def addresses(
        self, host: Host, site: Site, destinations: Sequence[str]
    ) -> Sequence[Target] | Deferred | Failed:
        """See relayd/relay/ports.py.

        Raises:
            RuntimeError: the daemon's own trouble.
        """
        targets: list[Target] | Deferred | Failed = await self._ask(
            messages.LOOK_UP, codec_sites.pack_host(host), codec_sites.pack_site(site), tuple(destinations)
        )
        return targets

    async def token(self, site: str, *, rejected: str = "") -> str | Deferred:
        """See relayd/relay/ports.py.

        Raises:
            RuntimeError: the daemon's own trouble.
        """
        token: str | Deferred = await self._ask(messages.ASK_TOKEN, site, rejected)
        return token

    async def permit(self, run: int) -> None:
        """See relayd/relay/ports.py.

        Raises:
            RuntimeError: the daemon's own trouble.
        """
        await self._ask(messages.ASK_PERMIT, run)

    async def _ask(self, what: str, *words: Any) -> Any:
        number = next(self._numbers)
        answer = self._questions[number] = asyncio.get_running_loop().create_future()
        self._channel.send((what, number, *words))
        try:
            return await answer
        finally:
            del self._questions[number]

    # what the daemon answers

    def recorded(self, number: int) -> None:
        """A report is durable."""
        future, claimed = self._reports.pop(number)
        self._unrecorded.discard(claimed)
        self._notes.over((claimed,))
        if not future.done():
            future.set_result(None)

    def refused(self, number: int, why: str) -> None:
        """A report could not be recorded: its note stays."""
        future, _ = self._reports.pop(number)
        if not future.done():
            future.set_exception(QueueError(why))

    def found(self, number: int, targets: codec.Packed) -> None:
        """Addresses were found, or the reason why there are none."""
        self._answer(number, codec_sites.targets_of(targets))

    def granted(self, number: int, token: codec.Packed) -> None:
        """There is a token, or a reason why there is none."""
        self._answer(number, codec_sites.token_of(token))

    def permitted(self, number: int) -> None:
        """A run may connect."""
        self._answer(number, None)

    def _answer(self, number: int, what: Any) -> None:
        answer = self._questions.get(number)
        if answer is not None and not answer.done():
            answer.set_result(what)

    def not_found(self, number: int, why: str) -> None:
        """A question itself failed."""
        answer = self._questions.get(number)
        if answer is not None and not answer.done():
            answer.set_exception(RuntimeError(why))
