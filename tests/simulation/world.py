"""The world around the daemon: its time, its network and servers, its names, its disk, its operators, and what of it
fails when.  It outlives every start of the daemon."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from relayd.mail.message import new_id
from tests.simulation.disk import Disk
from tests.simulation.drops import file_of, payload
from tests.simulation.exchanger import Exchanger
from tests.simulation.facts import Facts, Take
from tests.simulation.limits import Limits
from tests.simulation.loop import Agenda
from tests.simulation.names import Names
from tests.simulation.network import Network
from tests.simulation.scenario import Drop, HostPlan, Scenario, Strike

EPOCH = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
FOREVER = 3.0e8  # seconds


class World:
    """See the module.  `struck` is called with what happens to the daemon."""

    def __init__(self, scenario: Scenario, *, trace: bool = False, database: Path | None = None) -> None:
        self.scenario = scenario
        self.agenda = Agenda()
        self.facts = Facts(trace=[] if trace else None)
        self.offset = 0.0  # of the wall clock
        self.network = Network(self.agenda, self.facts, random.Random(f"{scenario.seed}/network"))
        self.names = Names(scenario, self.agenda, self.facts)
        self.disk = Disk(database)
        self.limits = Limits(scenario, self.network, self.facts)
        self.ids = random.Random(f"{scenario.seed}/ids")
        self.chance = random.Random(f"{scenario.seed}/daemon")
        self.disk_fails_until = 0.0
        self.struck: Callable[[Strike], None] = lambda strike: None
        self.facts.marked = self._marked
        self.exchangers = [self._exchanger(host) for site in scenario.sites for host in site]
        for drop in scenario.drops:
            self.agenda.at(drop.at, self._drop, drop)
        for strike in scenario.strikes:
            self.agenda.at(strike.at, self._strike, strike)

    def clock(self) -> datetime:
        """The wall clock."""
        return EPOCH + timedelta(seconds=self.agenda.now + self.offset)

    @property
    def started(self) -> datetime:
        """What the wall clock showed in the beginning."""
        return EPOCH

    def monotonic(self) -> float:
        """The other one."""
        return self.agenda.now

    def new_id(self) -> str:
        """Return a queue id of now."""
        return new_id(self.clock(), self.ids.getrandbits(50))

    @property
    def calm(self) -> bool:
        """Whether faults have stopped."""
        return self.agenda.now >= self.scenario.calm_at

    @property
    def drained(self) -> bool:
        """Whether all that was dropped is accepted, and nothing is left in the queue that is not held."""
        tables, made = self.disk.tables, self.facts.made
        if self.disk.dropped or not all(each.held for each in tables.messages.values()):
            return False
        known = sum(each not in made for queue in (tables.messages, tables.history) for each in queue)
        return known >= len(self.facts.dropped)

    def _marked(self, take: Take) -> bool:
        tables = self.disk.tables
        if message := tables.messages.get(take.queue_id):
            recipients = [row.recipient for row in message.rows]
        elif past := tables.history.get(take.queue_id):
            recipients = list(past.row.recipients)
        else:
            return False
        return any(each.possible_duplicate for each in recipients if str(each.address) == take.address)

    def _exchanger(self, host: HostPlan) -> Exchanger:
        exchanger = Exchanger(
            host.name,
            host.temper,
            calm_at=self.scenario.calm_at,
            agenda=self.agenda,
            facts=self.facts,
            limits=self.limits,
            seed=str(self.scenario.seed),
        )
        for address in host.addresses:
            self.network.hosts[address] = exchanger
        return exchanger

    def _drop(self, drop: Drop) -> None:
        self.facts.dropped[drop.identity] = drop
        self.facts.sent_to.update((to.address, drop) for to in drop.to)
        self.facts.payloads[drop.identity] = payload(drop)
        self.facts.note(self.agenda.now, f"dropped {drop.identity}")
        self.disk.drop(f"m{drop.number}", file_of(drop), foreign=drop.foreign)

    def _strike(self, strike: Strike) -> None:
        self.facts.injected[strike.what] += 1
        self.facts.note(self.agenda.now, f"strike {strike.what} {strike.value}")
        match strike.what:
            case "jump":
                self.offset += strike.value
            case "dns":
                self.names.dark_until = self.agenda.now + strike.value
            case "disk":
                self.disk_fails_until = self.agenda.now + strike.value
            case _:
                self.struck(strike)
