"""One connection to one host of a site, for a batch of deliveries.

The story of a run: a round through the hosts (round.py) by the site's own policy, others for what messages wish; then
what became of it.  Invariants:

    Every delivery given to `run` is reported once, or is in `Ended.undone`, never both.
    A message that waits for others when its deadline passes is ended then (overdue.py).
    A message with REQUIRETLS goes over connections of its own, whose peer has proven its name; one with `TLS-Required:
    No` once more without what the hosts' owners demand of TLS, if nobody can meet that (RFC 8689 section 4.2).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from relayd.mail.delivery import Delivery
from relayd.mail.figures import Figures
from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.route import Site
from relayd.mail.tls import TlsWish
from relayd.mail.transcript import Transcript
from relayd.relay.equipment import Equipment
from relayd.relay.overdue import ending_overdue
from relayd.relay.ports import Permit
from relayd.relay.reporter import Reporter, until_done
from relayd.relay.requirements import needs_requiretls
from relayd.relay.round import Round, Work
from relayd.relay.run_token import RunToken
from relayd.relay.secrecy import Secrecy
from relayd.relay.stirring import Stirring
from relayd.relay.stock import Stock
from relayd.relay.transaction import Load
from relayd.relay.transcript import Remarks, Transcripts, transcript

ENCRYPTION_NEEDED = EnhancedStatus(5, 7, 10)  # RFC 8689 section 4.2.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a run left.

    `undone` are to be given back: no outcome, due as before.  `settled` deliveries were reported; of those,
    `delivered` with at least one recipient delivered.  `failure`, of scope HOST: the site is to back off, because no
    host could be used or a connection ended before anything was settled; Failed only if every host will never be one,
    by the address look-up or because it is ourselves.  `peer` is the last one connected to, `name[address]:port`, or
    empty.  `throttled` is the last reply, at whatever stage, that asked for less mail or fewer connections
    (mail/refusal.py), whatever came of the run otherwise.  `transcript` is what was said before a failure.
    """

    undone: tuple[Delivery, ...] = ()
    settled: int = 0
    delivered: int = 0
    failure: Deferred | Failed | None = None
    peer: str = ""
    throttled: Reply | None = None
    transcript: Transcript = ()


class Relayer:
    """One run.  `run` is called once; `finish` and `stirred` may be at any time.  `permit` is asked before each
    connection, if there is one."""

    def __init__(self, site: Site, equipment: Equipment, permit: Permit | None = None) -> None:
        self._site = site
        self._permit = permit
        self._equipment = equipment
        self._stirring = Stirring(asyncio.get_running_loop().time)
        self._finishing = False
        self._round: Round | None = None
        self._failure: Deferred | Failed | None = None
        self._peer = ""
        self._throttled: Reply | None = None
        self._given_back: list[Delivery] = []  # of what was under way when its connection broke
        self._reported: set[str] = set()

    async def run(self, deliveries: Sequence[Delivery]) -> Ended:
        """Send what can be sent; return when every report is durable.

        Raises:
            CancelledError: after a reset; what was settled, or may have arrived, is reported and durable.
            Exception: our own trouble, likewise.  In both cases what was not reported is undone.
        """
        equipment = self._equipment
        stock = Stock(deliveries, equipment.ports.bodies, equipment.settings, equipment.recaster)
        secrecy = Secrecy(self._site.credentials)
        settings = equipment.settings
        reporter = Reporter(
            equipment.ports.reports, equipment.clock, settings.max_unreported, secrecy, settings.transcripts
        )
        self._reported = reporter.reported
        # What would rather go without TLS than not at all is not counted: so are reports sent, which are not to be
        # about themselves (RFC 8460 section 3).
        reported = [delivery for delivery in deliveries if delivery.tls is not TlsWish.OPTIONAL]
        figures = Figures()
        work = Work(
            stock=stock,
            reporter=reporter,
            withdrawn=[],
            stirring=self._stirring,
            figures=figures,
            token=RunToken(self._site, equipment.ports.tokens, secrecy, self._stirring),
            remarks=Remarks(equipment.clock),
            permit=self._permit,
            domains=_domains(deliveries),
            reported=_domains(reported),
        )
        try:
            async with ending_overdue(deliveries, stock, reporter, equipment.ports.withdrawn):
                await self._send(work)
        except BaseException:
            with contextlib.suppress(Exception), self._stirring.waiting_for_us():
                await until_done(reporter.all_durable())
            raise
        finally:
            if figures:
                equipment.ports.measured(figures)
        for load in work.withdrawn:
            load.discard()
        undone = [load.delivery for load in work.withdrawn] + self._given_back + stock.rest()
        with self._stirring.waiting_for_us():
            await until_done(reporter.all_durable())
        return Ended(
            undone=tuple(undone),
            settled=len(reporter.reported),
            delivered=reporter.delivered,
            failure=None if self._finishing or self._failure is None else secrecy.of_failure(self._failure),
            peer=self._peer,
            throttled=None if self._throttled is None else secrecy.of_reply(self._throttled),
            transcript=self._transcript(work, secrecy),
        )

    def _transcript(self, work: Work, secrecy: Secrecy) -> Transcript:
        """Return what was said to no avail."""
        wanted = self._equipment.settings.transcripts is not Transcripts.NONE
        if self._finishing or self._failure is None or not wanted or not work.remarks.kept:
            return ()
        return transcript(work.remarks.kept, secrecy)

    @property
    def stirred(self) -> float:
        """Loop time of the last sign of progress.  Longer ago than `Timeouts.longest_silence`, and whatever the loop is
        late by: it is stuck.  What we wait for on our own side counts as progress (stirring.py)."""
        if self._round is not None and self._round.waits_for_us:
            return asyncio.get_running_loop().time()
        return self._stirring.last

    def reported(self, delivery: Delivery) -> bool:
        """Whether this one's outcomes were reported: what was not is undone, should `run` have raised."""
        return delivery.id in self._reported

    def finish(self) -> None:
        """Start nothing more; what is under way settles, and `run` returns the rest as undone."""
        self._finishing = True
        if self._round is not None:
            self._round.finish()

    async def _send(self, work: Work) -> None:
        """Send first what goes as the site's policy says, then what has wishes of its own."""
        strict = work.stock.take_out(needs_requiretls)
        if work.stock:
            usual = await self._go_round(self._site, work)
            self._failure = usual.failure
            if usual.barred and usual.failure is not None and not self._finishing:
                await self._send_relaxed(usual.failure, work)
        if strict:
            await self._send_strict(strict, work)

    async def _send_relaxed(self, failure: Deferred | Failed, work: Work) -> None:
        """Send what would rather go in clear text than not at all; `failure` stays that of all the rest."""
        others = work.stock.take_out(lambda delivery: delivery.tls is not TlsWish.OPTIONAL)
        if work.stock:
            relaxed = await self._go_round(self._site.relaxed, work, usual=False)
            self._failure = failure if others else relaxed.failure
        work.stock.put_back(others)

    async def _send_strict(self, strict: list[Load], work: Work) -> None:
        """Send what is to go to none but servers that prove who they are.  It fails if no host does; if one was out of
        reach it is put off, which is the site's fault only if the site served nothing else."""
        others, alone = work.stock.take_out(_all), not self._reported
        work.stock.put_back(strict)
        done = await self._go_round(self._site.strict, work, usual=False)
        left = work.stock.take_out(_all)
        work.stock.put_back(others)
        if self._finishing or done.failure is None:
            work.stock.put_back(left)
        elif done.failed_otherwise and alone and not others:
            self._failure = done.failure
            work.stock.put_back(left)
        else:
            for load in left:
                load.settle_rest(_unproven(done.failure, out_of_reach=done.failed_otherwise))
                work.reporter.report(load, 0.0)

    async def _go_round(self, site: Site, work: Work, *, usual: bool = True) -> Round:
        self._round = Round(site, self._equipment, work, usual=usual)
        if self._finishing:
            self._round.finish()
        await self._round.run()
        self._given_back += self._round.leave_interrupted()
        self._peer = self._round.peer or self._peer
        self._throttled = self._round.throttled or self._throttled
        return self._round


def _domains(deliveries: Iterable[Delivery]) -> tuple[str, ...]:
    return tuple({one.address.domain for delivery in deliveries for one in delivery.recipients})


def _all(delivery: Delivery) -> bool:
    return True


def _unproven(why: Deferred | Failed, *, out_of_reach: bool) -> Deferred | Failed:
    """Return the outcome of a message with REQUIRETLS that no host could be trusted with."""
    if out_of_reach or isinstance(why, Failed):
        return replace(why, scope=Scope.MESSAGE)
    return Failed(reason=f"the message has REQUIRETLS: {why}", status=ENCRYPTION_NEEDED)
