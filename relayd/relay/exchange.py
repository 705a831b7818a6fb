"""The transactions of one connection: the engine on a wire, fed from the stock.

What the loop calls (`received`, `left`, `lost`, `expired`) drives the engine to its next write at once, without a
task being woken; the coroutine `run` only reads ahead and streams large bodies.

Invariants: outcomes that are not durable yet are bounded by `max_unreported`; a delivery is noted (`in_hand`) before
its first octet and again before those that end it; every octet of a message that may be out of time is taken back by
a reset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relayd.mail.figures import Figures, Phase
from relayd.mail.outcome import Deferred, Scope
from relayd.mail.reply import EnhancedStatus
from relayd.relay.content import Encoder
from relayd.relay.engine import Engine
from relayd.relay.plans import Plan
from relayd.relay.ports import Ports
from relayd.relay.reporter import Reporter
from relayd.relay.settings import RelaySettings
from relayd.relay.stirring import Stirring
from relayd.relay.stock import Stock, streamed, unreadable
from relayd.relay.timeouts import Timeouts
from relayd.relay.transaction import Load, Step, Transaction
from relayd.relay.wire import Wire

_LOST = EnhancedStatus(4, 4, 2)
_PHASES = {
    Step.RSET: Phase.MAIL,
    Step.MAIL: Phase.MAIL,
    Step.RCPT: Phase.RCPT,
    Step.DATA: Phase.DATA,
    Step.CHUNK: Phase.BODY,
    Step.FINAL: Phase.FINAL,
}


class Exchange:
    """One connection, from the first MAIL to the last reply.  After `run`, the engine tells how it ended."""

    def __init__(
        self,
        wire: Wire,
        engine: Engine,
        stock: Stock,
        reporter: Reporter,
        ports: Ports,
        settings: RelaySettings,
        stirring: Stirring,
        figures: Figures,
        withdrawn: list[Load],
    ) -> None:
        self.engine = engine
        self._stirring = stirring
        self._figures = figures
        self._withdrawn = withdrawn  # where those go that an operator took back
        self.stopping = False
        self.our_fault = False  # the connection was left because of a file of ours
        self._wire = wire
        self._stock = stock
        self._reporter = reporter
        self._ports = ports
        self._limits = _limits(settings.timeouts)
        self._block = settings.timeouts.block.total_seconds()
        self._mark: tuple[int, Step | None, bool] | None = None
        self._wake = asyncio.Event()
        self._trouble: Exception | None = None
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()  # when the wait for the server began, or its present part

    async def run(self) -> None:
        """Send what the stock has; return when it is empty, `stopping` is set, or the connection is over.

        Raises:
            Exception: our own trouble.  The connection is reset, and what can be told has been reported.
        """
        self._reporter.on_durable = self._go_on
        self._wire.listen(self)
        try:
            while not self._done:
                if self._stock.low:
                    await self._stock.fill()
                self._go_on()
                if self.engine.streaming is not None:
                    await self._stream()
                elif not self._done and not self._stock.low:
                    await self._wake.wait()
                self._wake.clear()
        except BaseException:
            self.give_up("stopped")
            raise
        finally:
            self._reporter.on_durable = None
            self._wire.expect(None)
        if self._trouble is not None:
            raise self._trouble

    def stop(self) -> None:
        """Start nothing more; what is under way settles."""
        self.stopping = True
        self._wake.set()

    def give_up(self, reason: str) -> None:
        """Reset the connection; the engine settles what it can."""
        self._fail(f"{reason} {self.engine.where}")

    @property
    def waits_for_us(self) -> bool:
        """Whether the server owes nothing: what comes next is a file's turn, or the disk's."""
        return self.engine.idle

    # What the wire tells

    def received(self, octets: bytes) -> None:
        """Octets arrived."""
        self._guard(self._receive, octets)

    def left(self) -> None:
        """All that was written has left."""
        self._waited(Phase.BODY)
        self._guard(self._expect)

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        self._waited()
        self._fail(f"{reason} {self.engine.where}")

    def expired(self) -> None:
        """The server took too long, or did not take what we sent."""
        self._waited(Phase.BODY if self._wire.unsent else None)
        seconds = self._block if self._wire.unsent else self._limits.get(self.engine.awaited, self._block)
        owing = not self._wire.unsent and self.engine.awaited
        what = "no reply" if owing else "the server took no more"
        self._fail(f"{what} in {seconds:g} s {self.engine.where}")

    # The turn of the engine

    @property
    def _done(self) -> bool:
        if self._trouble is not None or self.engine.over is not None:
            return True
        ended = self.stopping or self._reporter.broken or not self._stock or self.engine.spent
        return self.engine.idle and ended

    def _go_on(self) -> None:
        """Go on for a reason of our own: files were read, or reports have become durable."""
        self._stirring.stir()
        if self.engine.idle:
            self._since = self._clock()
        self._guard(self._advance)

    def _waited(self, phase: Phase | None = None) -> None:
        """Measure a part of the wait for the server; it was for `phase`, or for the reply that is due."""
        now = self._clock()
        if phase is None and (step := self.engine.awaited) is not None:
            phase = _PHASES[step]
        if phase is not None:
            self._figures.waited(phase, now - self._since)
        self._since = now

    def _receive(self, octets: bytes) -> None:
        self._waited()
        self.engine.now = self._reporter.clock()
        self.engine.receive(octets, self._wire.unsent, self._wire.unacknowledged)
        if self.engine.throttled is not None:
            self.stopping = True  # who asks for less gets no more than what is under way
        self._advance()

    def _advance(self) -> None:
        """Report what is settled, start what there is room for, write."""
        engine = self.engine
        engine.now = self._reporter.clock()
        self._report()
        while engine.room and (load := self._next()) is not None:
            load.begun = self._clock()
            self._ports.in_hand.beginning(load.delivery)
            engine.start(load)
        if engine.over is not None:
            self._wire.reset()
        else:
            for delivery in engine.endings:
                self._ports.in_hand.ending(delivery)
            if octets := engine.take():
                self._wire.write(octets)
            self._expect()
        if engine.settled:
            self._report()
        if self._done or engine.streaming is not None or self._stock.low:
            self._wake.set()

    def _next(self) -> Load | None:
        if self.stopping or self._reporter.full:
            return None
        while (load := self._stock.next()) is not None:
            if not self._ports.withdrawn(load.delivery.id):
                return load
            self._withdrawn.append(load)
        return None

    def _report(self) -> None:
        settled = self.engine.settled
        while settled:
            load = settled.pop()
            self._reporter.report(load, self._clock() - load.begun if load.begun else 0.0)

    def _expect(self) -> None:
        """Give the server its time anew, but only if it has answered, or taken, something since."""
        mark = (self.engine.answered, self.engine.awaited, self._wire.unsent > 0)
        if mark == self._mark:
            return
        self._mark = mark
        if self._wire.unsent:
            self._wire.expect(self._block)
        else:
            self._wire.expect(self._limits.get(self.engine.awaited))

    def _fail(self, reason: str) -> None:
        if self.engine.over is None:
            outcome = Deferred(scope=Scope.HOST, reason=reason, status=_LOST)
            self.engine.break_off(outcome, self._wire.unsent)
            self._guard(self._report)
        self._wire.reset()
        self._wake.set()

    def _guard(self, call: Callable[..., None], *arguments: object) -> None:
        """Call; an exception is our own trouble: it ends the connection, and `run` raises it."""
        try:
            call(*arguments)
        except Exception as error:
            self._trouble = self._trouble or error
            self._fail("internal error")

    # Large bodies

    async def _stream(self) -> None:
        """Send the body that is streaming; its last octets and its end only when all before has left."""
        engine = self.engine
        transaction = engine.streaming
        assert transaction is not None
        load = transaction.load
        encoder = Encoder(load.body, stuffed=engine.plan is not Plan.CHUNKED)
        chunks = streamed(load, self._ports.bodies)
        try:
            async for chunk in chunks:
                self._stirring.stir()
                if not self._streams(transaction):
                    return
                engine.body(encoder.feed(chunk))
                await self._send(transaction)
        except OSError as error:
            if self._streams(transaction):
                self._unsendable(load, unreadable(error))
        else:
            if not self._streams(transaction):
                return
            if encoder.octets != load.body.size:
                self._unsendable(load, unreadable("not the file that was accepted"))
                return
            self._let_be()
            engine.now = self._reporter.clock()
            engine.end_body(encoder.finish())
            self._guard(self._advance)
        finally:
            await chunks.aclose()

    def _streams(self, transaction: Transaction) -> bool:
        """Whether the body is still wanted in this transaction: the server may refuse it, or go, at any time, and the
        next may be of the same message, which begins anew."""
        return self.engine.streaming is transaction

    async def _send(self, transaction: Transaction) -> None:
        """Write; wait until all has left, and until the server owes few enough answers."""
        if octets := self.engine.take():
            self._wire.write(octets)
        if self._wire.unsent:
            self._wire.expect(self._block)
            await self._wire.drained()
        self._let_be()
        while self.engine.full and self._streams(transaction):
            self._wire.expect(self._block)
            self._wake.clear()
            await self._wake.wait()

    def _let_be(self) -> None:
        """Give the server all the time that we need ourselves, until `_expect` is called again: that must not take it
        for the time that it gave before."""
        self._mark = None
        self._wire.expect(None)

    def _unsendable(self, load: Load, outcome: Deferred) -> None:
        """Leave a message in its middle: by a reset, so that the server does not take the half for the whole."""
        self.our_fault = True
        load.settle_rest(outcome)
        self._fail("the message's file cannot be read")


def _limits(timeouts: Timeouts) -> dict[Step | None, float]:
    return {
        Step.RSET: timeouts.mail.total_seconds(),
        Step.MAIL: timeouts.mail.total_seconds(),
        Step.RCPT: timeouts.rcpt.total_seconds(),
        Step.DATA: timeouts.data.total_seconds(),
        Step.CHUNK: timeouts.block.total_seconds(),
        Step.FINAL: timeouts.final.total_seconds(),
    }
