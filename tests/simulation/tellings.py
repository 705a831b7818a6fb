"""What the daemon tells of itself, over all its starts: events, the counters and the log lines that are made of them.

What can only be judged when it is told is judged here: whether a message that is given up has had its time.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any, cast

from relayd.mail.events import (
    Accepted,
    Attempted,
    Degraded,
    Event,
    HeldAfterDeaths,
    Lifecycle,
    Marked,
    NotificationDropped,
    Notified,
    SiteBackedOff,
    Trouble,
)
from relayd.mail.message import arrival_of
from relayd.mail.recipient import Status
from relayd.observe.counters import Counted, Counters
from relayd.observe.observer import Observer
from relayd.observe.parts import Parts
from tests.simulation.facts import Facts
from tests.simulation.progress import Pace
from tests.simulation.world import World

EXPIRED = "5.4.7"
LONGEST_ATTEMPT = 1500.0  # seconds: what was begun before the end may last so long
_LINES = {
    Counted.DELIVERED: "delivered",
    Counted.DEFERRED: "deferred",
    Counted.FAILED: "failed",
    Counted.ACCEPTED: "accepted",
    Counted.TROUBLE: "trouble",
}


class Tellings:
    """An Events."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._facts: Facts = world.facts
        self._log = _Log()
        self.counters = Counters()
        self._observer = Observer(cast(Any, self._log), self.counters, Parts())
        self.marked: set[tuple[str, str]] = set()  # at a start
        self.held: set[str] = set()
        self.starts = 0
        self._pace = Pace(world.scenario, world.facts)
        self.trouble: list[str] = []

    def __call__(self, event: Event) -> None:
        self._observer(event)
        self._facts.note(self._world.agenda.now, _short(event))
        match event:
            case Attempted():
                self._judge_end(event)
                self._pace.heard(event)
            case Lifecycle(state="started"):
                self.starts += 1
            case Trouble():
                self.trouble.append(f"{event.part}: {event.detail}")
            case HeldAfterDeaths():
                self.held.add(event.id)
                if event.deaths > self._facts.injected["kill"]:
                    self._facts.breach(f"{event.id} is held after {event.deaths} deaths")
            case SiteBackedOff():
                self._facts.backed_off += 1
            case Marked():
                self.marked.add((event.id, event.address))
            case _:
                pass

    def judge(self) -> None:
        """The log and the counters tell the same."""
        for counted, words in _LINES.items():
            if self.counters[counted] != self._log.lines[words]:
                self._facts.breach(f"{counted.label} is {self.counters[counted]}, and {self._log.lines[words]} lines")

    def _judge_end(self, event: Attempted) -> None:
        """What is given up for its age was old enough; where nothing disturbs the daemon, not much too old."""
        recipient = event.recipient
        if recipient.status is not Status.FAILED or recipient.dsn != EXPIRED:
            return
        rules = self._world.scenario.rules
        ends = arrival_of(event.id) + timedelta(seconds=rules.lifetime)
        drop = self._facts.sent_to.get(str(recipient.address))
        if drop is not None and drop.deadline:
            ends = min(ends, arrival_of(event.id) + timedelta(seconds=drop.deadline))
        late = (self._world.clock() - ends).total_seconds()
        if late < -0.002 and not self._world.scenario.clock_is_set:  # an id has milliseconds
            self._facts.breach(f"{event.id} to {recipient.address} was given up {-late:.3f} s before its time")
        if late > 2 * rules.check_interval + LONGEST_ATTEMPT and self._world.scenario.quiet:
            self._facts.breach(f"{event.id} to {recipient.address} was given up {late:.0f} s late")


def _short(event: Event) -> str:
    match event:
        case Attempted():
            r = event.recipient
            return f"{event.id} {r.address} {r.status.value} {r.attempts} {r.possible_duplicate} {r.reply} {r.peer}"
        case Accepted():
            return f"accepted {event.message.id} {event.file}"
        case Notified():
            return f"notified {event.id} {event.action.value} of {event.message_id}"
        case NotificationDropped():
            return f"not notified of {event.message_id}"
        case Degraded():
            return f"degraded {event.part} {event.reason}"
        case _:
            return repr(event)


class _Log:
    """Counts lines by what they tell."""

    def __init__(self) -> None:
        self.lines: Counter[str] = Counter()

    def info(self, what: str, **facts: object) -> None:
        self.lines[what or str(facts["status"])] += 1

    warning = error = info
