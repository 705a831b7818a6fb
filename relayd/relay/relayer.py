"""One connection to one host of a site, for a batch of deliveries.

The story of a run: hosts in order and their addresses, until one lets us in; then the exchange; then what became of
it.  Invariants:

    Every delivery given to `run` is reported once, or is in `Ended.undone`, never both.
    Another host is tried only while nothing was settled and no end of a message has left: what may have arrived is
    not sent again in the same run (RFC 1047).
    A message that needs SMTPUTF8, or a server that keeps to its deadline, is refused for that only after every host was
    tried (RFC 6531 section 3.2, RFC 2852 section 4.1.4).
    A message with REQUIRETLS goes over connections of its own, whose peer has proven its name; one with `TLS-Required:
    No` once more without what the hosts' owners demand of TLS, if nobody can meet that (RFC 8689 section 4.2).
    A message that waits for others when its deadline passes is ended then (overdue.py).
    A message that is under way whenever the connection breaks is deferred itself, so that it does not stand before
    all others for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.route import Host, Site, Target
from relayd.mail.tls import TlsSession, TlsWish
from relayd.relay.chunked_plan import ChunkedEngine
from relayd.relay.connection import NO_ANSWER, NewSocket, tcp_socket
from relayd.relay.engine import Engine
from relayd.relay.engines import engine_for
from relayd.relay.entrance import Entrance, Established
from relayd.relay.exchange import Exchange
from relayd.relay.hosts import HostMemory, Shuffle
from relayd.relay.overdue import ending_overdue
from relayd.relay.partings import Partings
from relayd.relay.plans import PlanMemory
from relayd.relay.ports import Ports
from relayd.relay.recaster import Recaster
from relayd.relay.reporter import Reporter, until_done
from relayd.relay.requirements import needs_requiretls
from relayd.relay.secrecy import Secrecy
from relayd.relay.settings import RelaySettings
from relayd.relay.stirring import Stirring
from relayd.relay.stock import Stock
from relayd.relay.tls import TlsContexts, TlsMemory
from relayd.relay.transaction import Load, of_message

SECURITY = 7  # the subject of enhanced codes about it (RFC 3463 section 3.8)
ENCRYPTION_NEEDED = EnhancedStatus(5, 7, 10)  # RFC 8689 section 4.2.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a run left.

    `undone` are to be given back: no outcome, due as before.  `settled` deliveries were reported; of those,
    `delivered` with at least one recipient delivered.  `failure`, of scope HOST: the site is to back off, because no
    host could be used or a connection ended before anything was settled; Failed only if every host will never be one,
    by the address look-up or because it is ourselves.  `peer` is the last one connected to, `name[address]:port`, or
    empty.  `throttled` is the last reply, at whatever stage, that asked for less mail or fewer connections
    (mail/refusal.py), whatever came of the run otherwise.
    """

    undone: tuple[Delivery, ...] = ()
    settled: int = 0
    delivered: int = 0
    failure: Deferred | Failed | None = None
    peer: str = ""
    throttled: Reply | None = None


class Ending(Enum):
    """What is to be done after a conversation."""

    DONE = "done"  # the run is over
    AGAIN = "again"  # the same address once more, by a simpler plan
    NEXT = "next"  # the next address
    UNSUITED = "unsuited"  # the next host, for what needs an extension


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    """What all relayers share.  `shuffle` puts hosts of equal preference in a random order, in place."""

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


class Relayer:
    """One run.  `run` is called once; `finish` and `stirred` may be at any time."""

    def __init__(self, site: Site, equipment: Equipment) -> None:
        self._site = site
        self._equipment = equipment
        self._finishing = False
        self._failure: Deferred | Failed | None = None
        self._connects = 0
        self._peer = ""
        self._throttled: Reply | None = None
        self._stirring = Stirring(asyncio.get_running_loop().time)
        self._elsewhere = sum(map(len, site.hosts)) > 1  # there are hosts to try for what one does not suit
        self._unsuited: list[Load] = []
        self._interrupted: tuple[Load, Deferred] | None = None  # to be tried at the next host
        self._exchange: Exchange | None = None
        self._entrance: asyncio.Timeout | None = None
        self._reported: set[str] = set()
        self._left: list[Delivery] = []  # given back, of what was under way when its connection broke
        self._barred = False  # whether a host could not be used for what is demanded of TLS
        self._failed_otherwise = False  # whether one could not be used for another reason
        self._as_usual = True  # whether this is no message's own wish
        self._domains: tuple[str, ...] = ()  # whose mail this is

    async def run(self, deliveries: Sequence[Delivery]) -> Ended:
        """Send what can be sent; return when every report is durable.

        Raises:
            CancelledError: after a reset; what was settled, or may have arrived, is reported and durable.
            Exception: our own trouble, likewise.  In both cases what was not reported is undone.
        """
        equipment = self._equipment
        self._domains = tuple({one.address.domain for delivery in deliveries for one in delivery.recipients})
        stock = Stock(deliveries, equipment.ports.bodies, equipment.settings, equipment.recaster)
        secrecy = Secrecy(self._site.credentials)
        reporter = Reporter(equipment.ports.reports, equipment.clock, equipment.settings.max_unreported, secrecy)
        self._reported = reporter.reported
        withdrawn: list[Load] = []
        try:
            async with ending_overdue(deliveries, stock, reporter, equipment.ports.withdrawn):
                await self._send(stock, reporter, withdrawn)
        except BaseException:
            with contextlib.suppress(Exception), self._stirring.waiting_for_us():
                await until_done(reporter.all_durable())
            raise
        for load in withdrawn:
            load.discard()
        undone = [load.delivery for load in withdrawn] + self._left + self._leave_interrupted(reporter) + stock.rest()
        with self._stirring.waiting_for_us():
            await until_done(reporter.all_durable())
        return Ended(
            undone=tuple(undone),
            settled=len(reporter.reported),
            delivered=reporter.delivered,
            failure=None if self._finishing or self._failure is None else secrecy.of_failure(self._failure),
            peer=self._peer,
            throttled=None if self._throttled is None else secrecy.of_reply(self._throttled),
        )

    @property
    def stirred(self) -> float:
        """Loop time of the last sign of progress.  Longer ago than `Timeouts.longest_silence`, and whatever the loop is
        late by: it is stuck.  What we wait for on our own side counts as progress (stirring.py)."""
        if self._exchange is not None and self._exchange.waits_for_us:
            return asyncio.get_running_loop().time()
        return self._stirring.last

    def reported(self, delivery: Delivery) -> bool:
        """Whether this one's outcomes were reported: what was not is undone, should `run` have raised."""
        return delivery.id in self._reported

    def finish(self) -> None:
        """Start nothing more; what is under way settles, and `run` returns the rest as undone."""
        self._finishing = True
        if self._exchange is not None:
            self._exchange.stop()
        if self._entrance is not None and not self._entrance.expired():
            self._entrance.reschedule(asyncio.get_running_loop().time())

    async def _send(self, stock: Stock, reporter: Reporter, withdrawn: list[Load]) -> None:
        """Send first what goes as the site's policy says, then what has wishes of its own."""
        strict = stock.take_out(needs_requiretls)
        if stock:
            await self._try_all(stock, reporter, withdrawn)
            if self._barred and self._failure is not None and not self._finishing:
                await self._send_relaxed(stock, reporter, withdrawn)
        if strict:
            await self._send_strict(strict, stock, reporter, withdrawn)

    async def _send_relaxed(self, stock: Stock, reporter: Reporter, withdrawn: list[Load]) -> None:
        """Send what would rather go in clear text than not at all."""
        others = stock.take_out(lambda delivery: delivery.tls is not TlsWish.OPTIONAL)
        failure = self._failure
        if stock:
            await self._otherwise(self._site.relaxed, stock, reporter, withdrawn)
            failure = failure if others else self._failure
        self._failure = failure
        stock.put_back(others)

    async def _send_strict(self, strict: list[Load], stock: Stock, reporter: Reporter, withdrawn: list[Load]) -> None:
        """Send what is to go to none but servers that prove who they are.  It fails if no host does; if one was out of
        reach it is put off, which is the site's fault only if the site served nothing else."""
        others, failure, alone = stock.take_out(lambda delivery: True), self._failure, not self._reported
        stock.put_back(strict)
        await self._otherwise(self._site.strict, stock, reporter, withdrawn)
        why, left = self._failure, stock.take_out(lambda delivery: True)
        stock.put_back(others)
        self._failure = failure
        if self._finishing or why is None:
            stock.put_back(left)
        elif self._failed_otherwise and alone and not others:
            self._failure = why
            stock.put_back(left)
        else:
            self._refuse_strict(left, why, reporter)

    def _refuse_strict(self, left: list[Load], why: Deferred | Failed, reporter: Reporter) -> None:
        for load in left:
            if isinstance(why, Failed):
                load.settle_rest(replace(why, scope=Scope.MESSAGE))
            elif self._failed_otherwise:
                load.settle_rest(of_message(why))
            else:
                load.settle_rest(Failed(reason=f"the message has REQUIRETLS: {why}", status=ENCRYPTION_NEEDED))
            reporter.report(load, 0.0)

    async def _otherwise(self, site: Site, stock: Stock, reporter: Reporter, withdrawn: list[Load]) -> None:
        """Try all hosts anew, with other demands; none of them is the worse for not meeting those."""
        self._left += self._leave_interrupted(reporter)
        usual, self._site = self._site, site
        self._failure, self._connects = None, 0
        self._barred = self._failed_otherwise = self._as_usual = False
        self._elsewhere = sum(map(len, site.hosts)) > 1
        try:
            await self._try_all(stock, reporter, withdrawn)
        finally:
            self._site, self._as_usual = usual, True

    async def _try_all(self, stock: Stock, reporter: Reporter, withdrawn: list[Load]) -> None:
        """Try hosts until the work is done, or there is a reason to stop; then once more with what no host was suited
        to: its other recipients can be served, and the sender told of the rest."""
        await self._try_hosts(stock, reporter, withdrawn)
        if self._unsuited and not self._finishing:
            stock.put_back(self._unsuited)
            self._unsuited = []
            self._elsewhere = False
            self._connects = 0
            await self._try_hosts(stock, reporter, withdrawn)
        stock.put_back(self._unsuited)
        self._unsuited = []

    async def _try_hosts(self, stock: Stock, reporter: Reporter, withdrawn: list[Load]) -> None:
        for host in self._equipment.hosts.in_order(self._site.hosts, self._equipment.clock(), self._equipment.shuffle):
            untried = deque(await self._addresses(host)) if not self._spent() else deque()
            failed = bool(untried)
            while untried and not self._spent():
                target = untried.popleft()
                established = await self._enter(target)
                if established is None:
                    continue
                ending = await self._converse(target, established, stock, reporter, withdrawn)
                if ending is Ending.DONE:
                    return
                if ending is Ending.AGAIN:
                    untried.appendleft(target)
                elif ending is Ending.UNSUITED:
                    failed = False
                    break
            if failed and self._as_usual:
                self._equipment.hosts.host_failed(host, self._equipment.clock())

    def _spent(self) -> bool:
        """Whether nothing more is to be tried in this run."""
        return self._finishing or self._connects >= self._equipment.settings.max_connects

    async def _addresses(self, host: Host) -> list[Target]:
        """Return the addresses of `host` to try; none, with the failure noted, if there are none."""
        with self._stirring.waiting_for_us():
            found = await self._equipment.ports.addresses.addresses(host, self._site)
        if isinstance(found, Deferred | Failed):
            self._note(found, barred=found.status is not None and found.status.subject == SECURITY)
            return []
        return self._equipment.hosts.addresses_in_order(found, self._equipment.clock())[
            : self._equipment.settings.max_addresses
        ]

    async def _enter(self, target: Target) -> Established | None:
        """Get to the first MAIL at `target`; None, with the failure noted, if it does not let us."""
        entrance = Entrance(
            target,
            self._site,
            self._equipment.settings,
            contexts=self._equipment.contexts,
            memory=self._equipment.tls,
            partings=self._equipment.partings,
            stirring=self._stirring,
            clock=self._equipment.clock,
            new_socket=self._equipment.new_socket,
        )
        result: Established | Deferred | Failed
        try:
            async with asyncio.timeout(None) as self._entrance:
                result = await entrance.enter()
        except TimeoutError:
            if not self._finishing:
                raise
            return None
        finally:
            self._entrance = None
            self._connects += entrance.connects
            self._throttled = entrance.throttled or self._throttled
        self._tell_session(target, entrance)
        if isinstance(result, Deferred | Failed):
            if self._as_usual:
                self._equipment.hosts.target_failed(target, self._equipment.clock())
            self._note(result, barred=entrance.tls is not None)
            return None
        self._equipment.hosts.works(target)
        self._peer = str(target)
        return result

    def _note(self, failure: Deferred | Failed, *, barred: bool) -> None:
        """A host cannot be used; `barred`: for what is demanded of TLS."""
        self._failure = more_telling(self._failure, failure)
        self._barred = self._barred or barred
        self._failed_otherwise = self._failed_otherwise or not barred

    def _tell_session(self, target: Target, entrance: Entrance) -> None:
        """Tell how TLS went, for reports: they are about mail exchangers."""
        if entrance.tls is None or self._site.configured or not self._as_usual:
            return
        result, detail = entrance.tls
        dane = target.demand.dane
        session = TlsSession(
            domains=self._domains,
            host=target.host.name,
            address=target.address,
            local=entrance.local,
            result=result,
            source=target.demand.reported,
            records=tuple(record.text for record in dane.records) if dane else (),
            detail=detail,
        )
        self._equipment.ports.sessions(session)

    async def _converse(
        self, target: Target, established: Established, stock: Stock, reporter: Reporter, withdrawn: list[Load]
    ) -> Ending:
        """Send on an open connection."""
        equipment, offered = self._equipment, established.capabilities
        settings = equipment.settings
        reporter.peer, reporter.tls = str(target), established.evidence
        reporter.relays_dsn, reporter.relays_deadline = offered.dsn, offered.deliver_by
        self._bring_back(stock)
        stock.suit(offered)
        engine = engine_for(
            equipment.plans.best(offered, target, equipment.clock()),
            offered,
            settings,
            equipment.clock(),
            proven=equipment.plans.proven(target, equipment.clock()),
            elsewhere=self._elsewhere,
        )
        exchange = Exchange(
            established.wire, engine, stock, reporter, equipment.ports, settings, self._stirring, withdrawn
        )
        self._exchange = exchange
        if self._finishing:
            exchange.stop()
        try:
            await exchange.run()
        finally:
            self._exchange = None
        self._throttled = engine.throttled or self._throttled
        self._unsuited += engine.unsuited
        stock.put_back(engine.returned)
        if engine.over is None or exchange.our_fault:
            self._failure = None
            if engine.over is None:
                equipment.partings.part(established.wire)
                if isinstance(engine, ChunkedEngine) and engine.proven:
                    equipment.plans.works(target, equipment.clock())
            return Ending.UNSUITED if self._unsuited and not stock else Ending.DONE
        return self._broken(engine, engine.over, target, stock, reporter)

    def _bring_back(self, stock: Stock) -> None:
        """Put what another host did not take, or did not let us finish, before all others."""
        stock.put_back(self._unsuited)
        self._unsuited = []
        if self._interrupted is not None:
            stock.put_back([self._interrupted[0]])
            self._interrupted = None

    def _broken(self, engine: Engine, why: Deferred, target: Target, stock: Stock, reporter: Reporter) -> Ending:
        """See to what was under way when the connection ended."""
        now = self._equipment.clock()
        simpler = engine.broke and self._equipment.plans.broke(target, engine.plan, now)
        load = engine.end.interrupted
        if engine.progress:
            self._failure = None
            if load is not None and engine.end.touched:
                self._defer(load, why, reporter)
            elif load is not None:
                stock.put_back([load])
            return Ending.DONE
        self._failure = why
        self._failed_otherwise = True
        if load is not None:
            self._interrupted = (load, why)
        if engine.end.marked:
            self._equipment.hosts.target_failed(target, now)
            return Ending.DONE
        if simpler:
            return Ending.AGAIN
        self._equipment.hosts.target_failed(target, now)
        return Ending.NEXT

    def _leave_interrupted(self, reporter: Reporter) -> list[Delivery]:
        """Defer the message that was under way at the last host there was; give it back if we are finishing."""
        if self._interrupted is None:
            return []
        load, why = self._interrupted
        self._interrupted = None
        if self._finishing:
            load.discard()
            return [load.delivery]
        self._defer(load, why, reporter)
        return []

    def _defer(self, load: Load, why: Deferred, reporter: Reporter) -> None:
        load.settle_rest(of_message(why))
        reporter.report(load, 0.0)


def more_telling(one: Deferred | Failed | None, other: Deferred | Failed) -> Deferred | Failed:
    """Return the failure that says more of a site: what may pass before what will not, a server's words before ours,
    what became of a connection before one that was not made, the later before the earlier."""
    if one is None:
        return other
    return other if _weight(other) >= _weight(one) else one


def _weight(failure: Deferred | Failed) -> tuple[bool, bool, bool]:
    return isinstance(failure, Deferred), failure.reply is not None, failure.status != NO_ANSWER
