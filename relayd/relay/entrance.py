"""Getting in: from an address to a server that waits for MAIL, as the target's demand on TLS allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from relayd.mail.figures import Figures, Phase
from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.refusal import asks_for_less
from relayd.mail.reply import Reply
from relayd.mail.route import Site, Target
from relayd.mail.tls import UNTRUSTED, Evidence, TlsPolicy, TlsResult
from relayd.relay.auth import REFUSED
from relayd.relay.capabilities import Capabilities
from relayd.relay.connection import Dialling, NewSocket, connect
from relayd.relay.handshake import Handshake
from relayd.relay.opening import Opened, Opening, opening
from relayd.relay.partings import Partings
from relayd.relay.ports import Permit
from relayd.relay.run_token import RunToken
from relayd.relay.saying import Encrypt, Patience, Say, TlsFailed
from relayd.relay.settings import RelaySettings
from relayd.relay.stirring import Stirring
from relayd.relay.tls import TlsContexts, TlsMemory, proof_of
from relayd.relay.wire import ConnectionFailed, TlsHandshakeFailed, Wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Established:
    """A connection that is ready for MAIL; `evidence` None: in clear text."""

    wire: Wire
    capabilities: Capabilities
    evidence: Evidence | None


class Entrance:
    """One target.

    `note` is told what is said, and happens, for transcripts.  `connects` counts the connections that were tried;
    `throttled` is the last reply that asked for less; `tls` is how TLS went, and in words why not, None if it did not
    come to that; `local` is our own address, if known.
    """

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
        figures: Figures,
        clock: Callable[[], datetime],
        new_socket: NewSocket,
        token: RunToken,
        note: Callable[[bytes | Reply | str], None],
        permit: Permit | None = None,
    ) -> None:
        self.connects = 0
        self.throttled: Reply | None = None
        self.tls: tuple[TlsResult, str] | None = None
        self.local = ""
        self._target = target
        self._demand = target.demand
        self._site = site
        self._settings = settings
        self._contexts = contexts
        self._memory = memory
        self._partings = partings
        self._clock = clock
        self._token = token
        self._note = note
        self._permit = permit
        self._stirring = stirring
        self._dialling = Dialling(
            hostname=settings.hostname,
            timeouts=settings.timeouts,
            stirring=stirring,
            figures=figures,
            new_socket=new_socket,
            source_addresses=site.source_addresses,
        )

    async def enter(self) -> Established | Deferred | Failed:
        """Connect and open the conversation; with a token, if the site wants one, and with another if that is refused.
        Without one there is no connection."""
        if lacking := await self._token.obtain():
            self._note(str(lacking))
            return lacking
        result = await self._come_in()
        if self._token.renewable and isinstance(result, Deferred) and result.reply and result.reply.code == REFUSED:
            return await self._token.renew() or await self._come_in()
        return result

    async def _come_in(self) -> Established | Deferred | Failed:
        """Connect and open the conversation.

        Where TLS fails and clear text is allowed, once more on a new connection: what was half encrypted is not to be
        trusted with either.  A password does not go over clear text, so for a route that has one clear text is no way
        in, and a failed handshake nothing to remember.  A trial that fails goes on as if there were none, likewise.
        """
        starttls = not (self._optional and self._memory.fails(self._target, self._clock()))
        failed = self._memory.trial(self._target, self._clock()) if self._demand.trial else None
        result = await self._try(starttls=starttls, trial=self._demand.trial and failed is None)
        if isinstance(result, TlsFailed) and self._demand.trial and failed is None:
            failed = result.result
            self._memory.proved_nothing(self._target, failed, self._clock())
            result = await self._try(starttls=starttls, trial=False)
        if isinstance(result, TlsFailed) and self._optional:
            failed = failed or result.result
            self._memory.failed(self._target, self._clock())
            result = await self._try(starttls=False, trial=False)
        self._conclude(result, failed)
        return result.outcome if isinstance(result, TlsFailed) else result

    @property
    def _optional(self) -> bool:
        """Whether clear text will do."""
        clear = self._demand.level is TlsPolicy.OPPORTUNISTIC
        return clear and self._site.credentials is None and not self._target.host.implicit_tls

    def _conclude(self, result: Established | Deferred | Failed | TlsFailed, failed: TlsResult | None) -> None:
        """Note what is to be reported of TLS, if it was tried at all."""
        if isinstance(result, TlsFailed):
            self.tls = failed or result.result, str(result.outcome)
        elif isinstance(result, Established) and self._demand.level is not TlsPolicy.NONE:
            lacking = TlsResult.STARTTLS_NOT_SUPPORTED
            self.tls = failed or (TlsResult.SUCCESS if result.evidence is not None else lacking), ""

    async def _try(self, *, starttls: bool, trial: bool) -> Established | Deferred | Failed | TlsFailed:
        result = await self._open(starttls=starttls, trial=trial)
        if not isinstance(result, Established):
            self._note(str(result.outcome if isinstance(result, TlsFailed) else result))
        return result

    async def _open(self, *, starttls: bool, trial: bool) -> Established | Deferred | Failed | TlsFailed:
        self.connects += 1
        proof = proof_of(self._demand, trial=trial)
        try:
            context = self._contexts.of(self._site.setup, proof)
        except OSError as error:
            return Deferred(scope=Scope.HOST, reason=f"our TLS cannot be set up: {error}", status=UNTRUSTED)
        handshake = Handshake(context, self._demand, proof, self._target.host.name)
        if self._permit is not None:
            with self._stirring.waiting_for_us():
                await self._permit()
        try:
            wire = await self._connect(handshake)
        except TlsHandshakeFailed as error:
            context.forget(handshake.name)
            return TlsFailed(error.outcome, error.result)
        except ConnectionFailed as error:
            self._heed(error.outcome.reply)
            return error.outcome
        self._note(f"connected from {wire.local}")
        if handshake.evidence is not None:
            self._note(f"TLS {handshake.evidence} {handshake.evidence.cipher}")
        self._note(wire.greeting)
        self.local = wire.local
        try:
            talk = opening(
                self._settings.hostname,
                self._site,
                self._demand,
                encrypted=wire.tls is not None,
                starttls=starttls,
                token=self._token.text,
            )
            result = await self._talk(wire, talk, handshake)
        except BaseException:
            wire.reset()
            raise
        if isinstance(result, Opened):
            if wire.tls is not None:
                context.keep(wire.tls)
            return Established(wire=wire, capabilities=result.capabilities, evidence=handshake.evidence)
        self._leave(wire, result, handshake)
        return result

    async def _connect(self, handshake: Handshake) -> Wire:
        self._note(f"connecting to {self._target}")
        if not self._target.host.implicit_tls:
            return await connect(self._target, self._dialling, name=handshake.name)
        wire = await connect(self._target, self._dialling, name=handshake.name, implicit_tls=handshake.context)
        try:
            handshake.done(wire.tls, self._clock())
        except BaseException:
            wire.reset()
            raise
        return wire

    def _leave(self, wire: Wire, result: Deferred | Failed | TlsFailed, handshake: Handshake) -> None:
        if isinstance(result, TlsFailed) and not result.clean:
            handshake.context.forget(handshake.name)
            wire.reset()
        elif isinstance(result, Deferred | Failed) and result.reply is not None and result.reply.code == 421:
            wire.reset()
        else:
            self._partings.part(wire)

    async def _talk(self, wire: Wire, talk: Opening, handshake: Handshake) -> Opened | Deferred | Failed | TlsFailed:
        """Do what the opening says, to its end; a connection that fails on the way is reset."""
        timeouts = self._settings.timeouts
        reply = Reply(220)
        in_tls = False  # from STARTTLS to the first reply after it: with TLS 1.3 some handshakes fail only then
        try:
            step = next(talk)
            while True:
                if isinstance(step, Encrypt):
                    with self._dialling.waiting(Phase.STARTTLS):
                        await wire.start_tls(handshake.context, handshake.name, timeouts.starttls)
                    handshake.done(wire.tls, self._clock())
                    self._note(f"TLS {handshake.evidence} {handshake.evidence.cipher if handshake.evidence else ''}")
                else:
                    self._note(step.shown)
                    starting = step.patience is Patience.STARTTLS
                    in_tls = in_tls or starting
                    with self._dialling.waiting(_phase(step)):
                        reply = await wire.ask(step.octets, step.name, timeouts.starttls if starting else timeouts.ehlo)
                    in_tls = starting
                    self._note(reply)
                    self._heed(reply)
                step = talk.send(reply)
        except StopIteration as stop:
            result: Opened | Deferred | Failed | TlsFailed = stop.value
            return result
        except TlsHandshakeFailed as error:
            wire.reset()
            return TlsFailed(error.outcome, error.result)
        except ConnectionFailed as error:
            wire.reset()
            return TlsFailed(error.outcome) if in_tls else error.outcome

    def _heed(self, reply: Reply | None) -> None:
        if reply is not None and asks_for_less(reply):
            self.throttled = reply


def _phase(step: Say) -> Phase:
    if step.patience is Patience.STARTTLS:
        return Phase.STARTTLS
    return Phase.EHLO if step.name in ("EHLO", "HELO") else Phase.AUTH
