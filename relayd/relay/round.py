"""One round through the hosts of a site: hosts in order and their addresses, until one lets us in; then the exchange.

Invariants:

    Another host is tried only while nothing was settled and no end of a message has left: what may have arrived is
    not sent again in the same run (RFC 1047).
    A message that needs SMTPUTF8, REQUIRETLS, or a server that keeps to its deadline, is refused for that only after
    every host was tried (RFC 6531 section 3.2, RFC 8689 section 4.2.1, RFC 2852 section 4.1.4).
    A message that is under way whenever the connection breaks is deferred itself, so that it does not stand before
    all others for ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from relayd.mail.delivery import Delivery
from relayd.mail.figures import Figures
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.route import Host, Site, Target
from relayd.mail.tls import UNKNOWN_DEMAND, UNTRUSTED, Source, TlsResult, TlsSession
from relayd.relay.chunked_plan import ChunkedEngine
from relayd.relay.connection import NO_ANSWER
from relayd.relay.engine import Engine
from relayd.relay.engines import engine_for
from relayd.relay.entrance import Entrance, Established
from relayd.relay.equipment import Equipment
from relayd.relay.exchange import Exchange
from relayd.relay.ports import Permit
from relayd.relay.reporter import Reporter
from relayd.relay.run_token import RunToken
from relayd.relay.stirring import Stirring
from relayd.relay.stock import Stock
from relayd.relay.transaction import Load, of_message
from relayd.relay.transcript import Remarks

_BARRED: Mapping[EnhancedStatus | None, tuple[Source, TlsResult]] = {  # why there is no demand for a host, but a bar
    UNKNOWN_DEMAND: (Source.DANE, TlsResult.DNSSEC_INVALID),
    UNTRUSTED: (Source.MTA_STS, TlsResult.VALIDATION_FAILURE),  # it is none of the policy's hosts
}
UNUSABLE = "no TLSA record of this mail exchanger can be used"
STRAY = "the policy does not name this mail exchanger"  # in a report


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a run has to do: `stock` is left of it, `withdrawn` is not to be sent any more; `domains` are the
    recipients', `reported` those of them that are told how TLS went; `figures` is what is measured."""

    stock: Stock
    reporter: Reporter
    withdrawn: list[Load]
    stirring: Stirring
    figures: Figures
    token: RunToken
    remarks: Remarks
    permit: Permit | None
    domains: tuple[str, ...]
    reported: tuple[str, ...]

    def defer(self, load: Load, why: Deferred) -> None:
        """Put a message off for what became of its connection."""
        load.settle_rest(of_message(why))
        self.reporter.report(load, 0.0)


class Ending(Enum):
    """What is to be done after a conversation."""

    DONE = "done"  # the run is over
    AGAIN = "again"  # the same address once more, by a simpler plan
    NEXT = "next"  # the next address
    UNSUITED = "unsuited"  # the next host, for what needs an extension


class Round:
    """See the module.  `run` is called once; `finish` may be at any time.

    `usual`: by the site's own demands on TLS, so that a host that does not meet them is told of, and tried last for a
    while.  `failure`, of scope HOST, is why nothing could be sent; `barred` tells that a host could not be used for
    what is demanded of TLS, `failed_otherwise` that one could not for another reason.  `peer` is who was connected to
    last, `throttled` the last reply that asked for less.
    """

    def __init__(self, site: Site, equipment: Equipment, work: Work, *, usual: bool = True) -> None:
        self.failure: Deferred | Failed | None = None
        self.barred = False
        self.failed_otherwise = False
        self.peer = ""
        self.throttled: Reply | None = None
        self._site = site
        self._equipment = equipment
        self._work = work
        self._usual = usual
        self._finishing = False
        self._connects = 0
        self._elsewhere = sum(map(len, site.hosts)) > 1  # there are hosts to try for what one does not suit
        self._unsuited: list[Load] = []
        self._interrupted: tuple[Load, Deferred] | None = None  # to be tried at the next host
        self._exchange: Exchange | None = None
        self._entrance: asyncio.Timeout | None = None

    @property
    def waits_for_us(self) -> bool:
        """Whether it is our own side that is waited for."""
        return self._exchange is not None and self._exchange.waits_for_us

    def finish(self) -> None:
        """Start nothing more; what is under way settles."""
        self._finishing = True
        if self._exchange is not None:
            self._exchange.stop()
        if self._entrance is not None and not self._entrance.expired():
            self._entrance.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Try hosts until the work is done, or there is a reason to stop; then once more with what no host was suited
        to: its other recipients can be served, and the sender told of the rest."""
        await self._try_hosts()
        if self._unsuited and not self._finishing:
            self._work.stock.put_back(self._unsuited)
            self._unsuited = []
            self._elsewhere = False
            self._connects = 0
            await self._try_hosts()
        self._work.stock.put_back(self._unsuited)
        self._unsuited = []

    async def _try_hosts(self) -> None:
        for host in self._equipment.hosts.in_order(self._site.hosts, self._equipment.clock(), self._equipment.shuffle):
            untried = deque(await self._addresses(host)) if not self._spent() else deque()
            failed = bool(untried)
            while untried and not self._spent():
                target = untried.popleft()
                established = await self._enter(target)
                if established is None:
                    continue
                ending = await self._converse(target, established)
                if ending is Ending.DONE:
                    return
                if ending is Ending.AGAIN:
                    untried.appendleft(target)
                elif ending is Ending.UNSUITED:
                    failed = False
                    break
            if failed and self._usual:
                self._equipment.hosts.host_failed(host, self._equipment.clock())

    def _spent(self) -> bool:
        """Whether nothing more is to be tried in this run."""
        return self._finishing or self._connects >= self._equipment.settings.max_connects

    async def _addresses(self, host: Host) -> list[Target]:
        """Return the addresses of `host` to try; none, with the failure noted, if there are none."""
        with self._work.stirring.waiting_for_us():
            found = await self._equipment.ports.addresses.addresses(host, self._site, self._work.domains)
        if isinstance(found, Deferred | Failed):
            self._work.remarks.note(f"{host.name}: {found}")
            bar = _BARRED.get(found.status)
            self._note(found, barred=bar is not None)
            if bar is not None:
                self._tell_barred(host, found, *bar)
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
            stirring=self._work.stirring,
            figures=self._work.figures,
            clock=self._equipment.clock,
            new_socket=self._equipment.new_socket,
            token=self._work.token,
            note=self._work.remarks.note,
            permit=self._work.permit,
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
            self.throttled = entrance.throttled or self.throttled
        self._tell_session(target, entrance)
        if isinstance(result, Deferred | Failed):
            if self._usual and entrance.connects:
                self._equipment.hosts.target_failed(target, self._equipment.clock())
            self._note(result, barred=entrance.tls is not None)
            return None
        self._equipment.hosts.works(target)
        self.peer = str(target)
        return result

    def _note(self, failure: Deferred | Failed, *, barred: bool) -> None:
        """A host cannot be used; `barred`: for what is demanded of TLS."""
        self.failure = more_telling(self.failure, failure)
        self.barred = self.barred or barred
        self.failed_otherwise = self.failed_otherwise or not barred

    @property
    def _reported(self) -> bool:
        """Whether reports are to know: they are about mail exchangers, and what these themselves publish."""
        return self._usual and not self._site.configured and bool(self._work.reported)

    def _tell_barred(self, host: Host, why: Deferred | Failed, source: Source, result: TlsResult) -> None:
        """Tell of a host that may not even be connected to."""
        if self._reported:
            session = TlsSession(
                domains=self._work.reported,
                host=host.name,
                address="",
                local="",
                result=result,
                source=source,
                detail=STRAY if source is Source.MTA_STS and self._is_stray(host) else str(why.reason),
            )
            self._equipment.ports.sessions(session)

    def _tell_session(self, target: Target, entrance: Entrance) -> None:
        """Tell how TLS went.  A host that a policy of MTA-STS does not name fails it, whatever it proves, and one whose
        TLSA records are all of no use fails DANE (RFC 8460 section 4.3.2.1)."""
        if entrance.tls is None or not self._reported:
            return
        result, detail = entrance.tls
        dane, source = target.demand.dane, target.demand.reported
        if dane is None and self._site.sts is not None:
            source = Source.MTA_STS
            if self._is_stray(target.host):
                result, detail = TlsResult.VALIDATION_FAILURE, STRAY
        if dane is not None and not dane.records and result is TlsResult.SUCCESS:
            result, detail = TlsResult.TLSA_INVALID, UNUSABLE
        session = TlsSession(
            domains=self._work.reported,
            host=target.host.name,
            address=target.address,
            local=entrance.local,
            result=result,
            source=source,
            records=tuple(record.text for record in dane.records) if dane else (),
            base=next(iter(dane.names), "") if dane else "",
            detail=detail,
        )
        self._equipment.ports.sessions(session)

    def _is_stray(self, host: Host) -> bool:
        """Whether the destinations' policy does not name this one of their hosts (RFC 8461 section 4.1)."""
        return self._site.sts is not None and host.name not in self._site.sts.hosts

    async def _converse(self, target: Target, established: Established) -> Ending:
        """Send on an open connection."""
        equipment, work, offered = self._equipment, self._work, established.capabilities
        settings = equipment.settings
        work.reporter.met(str(target), established.evidence, offered, work.remarks.kept)
        work.figures.connected(target.demand, established.evidence)
        self._bring_back()
        work.stock.suit(offered)
        engine = engine_for(
            equipment.plans.best(offered, target, equipment.clock()),
            offered,
            settings,
            equipment.clock(),
            proven=equipment.plans.proven(target, equipment.clock()),
            elsewhere=self._elsewhere,
        )
        exchange = Exchange(
            established.wire,
            engine,
            work.stock,
            work.reporter,
            equipment.ports,
            settings,
            work.stirring,
            work.figures,
            work.withdrawn,
        )
        self._exchange = exchange
        if self._finishing:
            exchange.stop()
        try:
            await exchange.run()
        finally:
            self._exchange = None
        self.throttled = engine.throttled or self.throttled
        self._unsuited += engine.unsuited
        work.stock.put_back(engine.returned)
        if engine.over is None or exchange.our_fault:
            self.failure = None
            if engine.over is None:
                equipment.partings.part(established.wire)
                if isinstance(engine, ChunkedEngine) and engine.proven:
                    equipment.plans.works(target, equipment.clock())
            return Ending.UNSUITED if self._unsuited and not work.stock else Ending.DONE
        return self._broken(engine, engine.over, target)

    def _bring_back(self) -> None:
        """Put what another host did not take, or did not let us finish, before all others."""
        self._work.stock.put_back(self._unsuited)
        self._unsuited = []
        if self._interrupted is not None:
            self._work.stock.put_back([self._interrupted[0]])
            self._interrupted = None

    def _broken(self, engine: Engine, why: Deferred, target: Target) -> Ending:
        """See to what was under way when the connection ended."""
        now = self._equipment.clock()
        simpler = engine.broke and self._equipment.plans.broke(target, engine.plan, now)
        load = engine.end.interrupted
        if engine.progress:
            self.failure = None
            if load is not None and engine.end.touched:
                self._work.defer(load, why)
            elif load is not None:
                self._work.stock.put_back([load])
            return Ending.DONE
        self.failure = why
        self.failed_otherwise = True
        if load is not None:
            self._interrupted = (load, why)
        if engine.end.marked:
            self._equipment.hosts.target_failed(target, now)
            return Ending.DONE
        if simpler:
            return Ending.AGAIN
        self._equipment.hosts.target_failed(target, now)
        return Ending.NEXT

    def leave_interrupted(self) -> list[Delivery]:
        """Defer the message that was under way at the last host there was; give it back if we are finishing."""
        if self._interrupted is None:
            return []
        load, why = self._interrupted
        self._interrupted = None
        if self._finishing:
            load.discard()
            return [load.delivery]
        self._work.defer(load, why)
        return []


def more_telling(one: Deferred | Failed | None, other: Deferred | Failed) -> Deferred | Failed:
    """Return the failure that says more of a site: what may pass before what will not, a server's words before ours,
    what became of a connection before one that was not made, the later before the earlier."""
    if one is None:
        return other
    return other if _weight(other) >= _weight(one) else one


def _weight(failure: Deferred | Failed) -> tuple[bool, bool, bool]:
    return isinstance(failure, Deferred), failure.reply is not None, failure.status != NO_ANSWER
