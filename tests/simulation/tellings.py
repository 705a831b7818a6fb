"""What the daemon tells of itself, over all its starts: events, and the counters that the observer keeps of them."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

from relayd.mail.events import Accepted, Attempted, Degraded, Event, HeldAfterDeaths, Marked, Notified, Trouble
from relayd.observe.counters import Counters
from relayd.observe.observer import Observer
from relayd.observe.parts import Parts
from tests.simulation.facts import Facts
from tests.simulation.world import World


class Tellings:
    """An Events."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._facts: Facts = world.facts
        self.counters = Counters()
        self._observer = Observer(cast(Any, _Silent()), self.counters, Parts())
        self.final: Counter[str] = Counter()  # recipients that were told to be delivered or failed
        self.marked = 0
        self.held: set[str] = set()
        self.trouble: list[str] = []

    def __call__(self, event: Event) -> None:
        self._observer(event)
        self._facts.note(self._world.agenda.now, _short(event))
        match event:
            case Trouble():
                self.trouble.append(f"{event.part}: {event.detail}")
            case HeldAfterDeaths():
                self.held.add(event.id)
            case Marked():
                self.marked += 1
            case _:
                pass


def _short(event: Event) -> str:
    match event:
        case Attempted():
            r = event.recipient
            return f"{event.id} {r.address} {r.status.value} {r.attempts} {r.possible_duplicate} {r.reply} {r.peer}"
        case Accepted():
            return f"accepted {event.message.id} {event.file}"
        case Notified():
            return f"notified {event.id} {event.action.value} of {event.message_id}"
        case Degraded():
            return f"degraded {event.part} {event.reason}"
        case _:
            return repr(event)


class _Silent:
    def info(self, *words: object, **facts: object) -> None: ...

    warning = error = info
