"""Runs a scenario: start after start of the daemon until the world is calm and nothing is left, then the oracle."""

from __future__ import annotations

import gc
import random
from dataclasses import dataclass, field
from pathlib import Path

from relayd.mail.errors import QueueError
from tests.simulation.facts import Broken
from tests.simulation.loop import Killed, SimulatedLoop, run_on
from tests.simulation.oracle import judge
from tests.simulation.scenario import Scenario, Strike
from tests.simulation.start import Start
from tests.simulation.tellings import Tellings
from tests.simulation.world import World

DOWNTIME = 5.0  # seconds between a kill and the next start
LOOK = 60.0  # seconds between two looks whether nothing is left
SLACK = 3600.0  # seconds after the end of the last lifetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a scenario.  `digest` is of all that was seen; two runs of one scenario have the same."""

    broken: tuple[str, ...]
    digest: int
    injected: dict[str, int] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    starts: int = 0
    steps: int = 0
    seconds: float = 0.0
    trace: tuple[str, ...] = ()


class Run:
    """One run."""

    def __init__(self, scenario: Scenario, *, trace: bool = False, database: Path | None = None) -> None:
        self._scenario = scenario
        self.world = World(scenario, trace=trace, database=database)
        self.tellings = Tellings(self.world)
        self.world.struck = self._struck
        self._loop: SimulatedLoop | None = None
        self._start: Start | None = None
        self._over = False
        self._power_fails = False
        self._steps = 0
        self._starts = 0
        last = max((drop.at for drop in scenario.drops), default=0.0)
        leaps = sum(abs(each.value) for each in scenario.strikes if each.what == "jump")
        lives = 2 * scenario.rules.lifetime  # a message's, and that of what is told of its end
        self._end = max(scenario.calm_at, last) + lives + leaps + SLACK
        self.world.agenda.at(scenario.calm_at, self._look)

    def verdict(self) -> Verdict:
        """Run it."""
        facts = self.world.facts
        try:
            while not self._over:
                self._live()
            judge(self.world, self.tellings)
        except Broken as broken:
            facts.breach(str(broken))
        facts.note(self.world.agenda.now, f"over {self._steps}")
        return Verdict(
            broken=tuple(facts.broken),
            digest=facts.digest,
            injected=dict(sorted(facts.injected.items())),
            counted=self.tellings.counters.snapshot(),
            starts=self._starts,
            steps=self._steps,
            seconds=self.world.agenda.now,
            trace=tuple(facts.trace or ()),
        )

    def _live(self) -> None:
        """One life of the daemon."""
        world = self.world
        kills = self._scenario.kills
        kill_at = kills[self._starts] if self._starts < len(kills) else None
        self._starts += 1
        self._loop = loop = SimulatedLoop(world.agenda, world.network, kill_at)
        self._start = start = Start(world, self.tellings)
        try:
            run_on(loop, start.serve())
        except Killed:
            world.facts.injected["kill"] += 1
            world.facts.note(world.agenda.now, "killed")
            start.abandon()
            loop.abandon()
            if self._power_fails:
                world.disk.power_cut(random.Random(f"{self._scenario.seed}/power/{self._starts}"))
                self._power_fails = False
            if self._over:  # killed while it stopped: another start has to clean up
                self._over = False
                world.agenda.after(LOOK, self._look)
        except (QueueError, OSError) as error:
            if start.started:
                world.facts.breach(f"the daemon ended: {error!r}")
            world.facts.injected["start failed"] += 1
            start.abandon()
            loop.abandon()
        except BaseException:
            start.abandon()
            loop.abandon()
            raise
        finally:
            loop.close()
            self._steps += loop.steps
            for each in loop.unhandled:
                world.facts.breach(f"unhandled: {each}")
            world.network.reset_all()
            world.disk.heard = lambda: None
            self._start = None
        if not self._over:
            world.agenda.run_until(world.agenda.now + DOWNTIME)

    def _struck(self, strike: Strike) -> None:
        if self._start is None or self._loop is None:
            return
        if strike.what == "stop":
            self._start.stop()
        elif strike.what in ("kill", "power"):
            self._power_fails = strike.what == "power"
            self._loop.kill_at = self._loop.steps + 1 + int(strike.value)
        else:
            self._start.operate(strike)

    def _look(self) -> None:
        """Whether nothing is left to do, or the time is over."""
        world = self.world
        drained = world.agenda.now > max(self._last, world.disk_fails_until) and world.drained
        if (drained or world.agenda.now >= self._end) and self._start is not None:
            self._over = True
            self._start.stop()
            return
        world.agenda.after(LOOK, self._look)

    @property
    def _last(self) -> float:
        return max((drop.at for drop in self._scenario.drops), default=0.0)


def run(scenario: Scenario, *, trace: bool = False, database: Path | None = None) -> Verdict:
    """Run a scenario and judge what came of it.  The queue is the real one, in the file `database`, else in memory."""
    gc.disable()
    try:
        return Run(scenario, trace=trace, database=database).verdict()
    finally:
        gc.enable()
