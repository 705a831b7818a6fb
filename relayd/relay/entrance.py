"""Getting in: from an address to a server that waits for MAIL, under the site's TLS policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from relayd.mail.outcome import Deferred, Failed
from relayd.mail.refusal import asks_for_less
from relayd.mail.reply import Reply
from relayd.mail.route import Site, Target
from relayd.mail.tls import TlsPolicy
from relayd.relay.capabilities import Capabilities
from relayd.relay.connection import Dialling, NewSocket, connect
from relayd.relay.opening import Opened, Opening, opening
from relayd.relay.partings import Partings
from relayd.relay.saying import Encrypt, Patience, TlsFailed
from relayd.relay.settings import RelaySettings
from relayd.relay.stirring import Stirring
from relayd.relay.tls import TlsContexts, TlsMemory, described
from relayd.relay.wire import ConnectionFailed, TlsHandshakeFailed, Wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Established:
    """A connection that is ready for MAIL.  `tls` as in `Attempt`."""

    wire: Wire
    capabilities: Capabilities
    tls: str


class Entrance:
    """One target.  `connects` counts the connections that were tried; `throttled` is the last reply that asked for
    less."""

    def __init__(
        self,
        target: Target,
        site: Site,
        settings: RelaySettings,
        *,
        contexts: TlsContexts,
        memory: TlsMemory,
        partings: Partings,
        stirring: Stirring,
        clock: Callable[[], datetime],
        new_socket: NewSocket,
    ) -> None:
        self.connects = 0
        self.throttled: Reply | None = None
        self._target = target
        self._site = site
        self._settings = settings
        self._contexts = contexts
        self._memory = memory
        self._partings = partings
        self._clock = clock
        self._dialling = Dialling(
            hostname=settings.hostname,
            timeouts=settings.timeouts,
            stirring=stirring,
            new_socket=new_socket,
            source_addresses=site.source_addresses,
        )

    async def enter(self) -> Established | Deferred | Failed:
        """Connect and open the conversation.

        Where TLS fails and the policy allows clear text, once more on a new connection: what was half encrypted is
        not to be trusted with either.  A password does not go over clear text, so for a route that has one clear text
        is no way in, and a failed handshake nothing to remember.
        """
        optional = (
            self._site.tls is TlsPolicy.OPPORTUNISTIC
            and self._site.credentials is None
            and not self._target.host.implicit_tls
        )
        starttls = not (optional and self._memory.fails(self._target, self._clock()))
        result = await self._try(starttls=starttls)
        if isinstance(result, TlsFailed) and optional:
            self._memory.failed(self._target, self._clock())
            result = await self._try(starttls=False)
        return result.outcome if isinstance(result, TlsFailed) else result

    async def _try(self, *, starttls: bool) -> Established | Deferred | Failed | TlsFailed:
        self.connects += 1
        implicit = self._target.host.implicit_tls
        context = self._contexts.of(self._site.tls) if implicit else None
        try:
            wire = await connect(self._target, self._dialling, implicit_tls=context)
        except ConnectionFailed as error:
            if isinstance(error, TlsHandshakeFailed):
                self._contexts.of(self._site.tls).forget(self._target.host.name)
            self._heed(error.outcome.reply)
            return error.outcome
        try:
            talk = opening(self._settings.hostname, self._site, encrypted=implicit, starttls=starttls)
            result = await self._talk(wire, talk)
        except BaseException:
            wire.reset()
            raise
        if isinstance(result, Opened):
            tls = ""
            if wire.tls is not None:
                tls = described(wire.tls.version(), self._site.tls)
                self._contexts.of(self._site.tls).keep(wire.tls)
            return Established(wire=wire, capabilities=result.capabilities, tls=tls)
        if isinstance(result, TlsFailed):
            self._contexts.of(self._site.tls).forget(self._target.host.name)
        if isinstance(result, TlsFailed) or (result.reply is not None and result.reply.code == 421):
            wire.reset()
        else:
            self._partings.part(wire)
        return result

    async def _talk(self, wire: Wire, talk: Opening) -> Opened | Deferred | Failed | TlsFailed:
        """Do what the opening says, to its end; a connection that fails on the way is reset."""
        timeouts = self._settings.timeouts
        reply = Reply(220)
        in_tls = False  # from STARTTLS to the first reply after it: with TLS 1.3 some handshakes fail only then
        try:
            step = next(talk)
            while True:
                if isinstance(step, Encrypt):
                    await wire.start_tls(self._contexts.of(self._site.tls), self._target.host.name, timeouts.starttls)
                else:
                    starting = step.patience is Patience.STARTTLS
                    in_tls = in_tls or starting
                    reply = await wire.ask(step.octets, step.name, timeouts.starttls if starting else timeouts.ehlo)
                    in_tls = starting
                    self._heed(reply)
                step = talk.send(reply)
        except StopIteration as stop:
            result: Opened | Deferred | Failed | TlsFailed = stop.value
            return result
        except TlsHandshakeFailed as error:
            wire.reset()
            return TlsFailed(error.outcome)
        except ConnectionFailed as error:
            wire.reset()
            return TlsFailed(error.outcome) if in_tls else error.outcome

    def _heed(self, reply: Reply | None) -> None:
        if reply is not None and asks_for_less(reply):
            self.throttled = reply
