"""What must be true in the end, of what the daemon has on its disk, what it told, and what its servers took."""

from __future__ import annotations

from collections import Counter

from relayd.mail.recipient import Status
from relayd.spool.queue import HistoryRow
from tests.simulation.facts import Take
from tests.simulation.tellings import Tellings
from tests.simulation.world import World


def judge(world: World, tellings: Tellings) -> None:
    """Note every promise that was broken."""
    Oracle(world, tellings).judge()


class Oracle:
    """Of one run."""

    def __init__(self, world: World, tellings: Tellings) -> None:
        self._world = world
        self._facts = world.facts
        self._tables = world.disk.tables
        self._tellings = tellings

    def judge(self) -> None:
        breach = self._facts.breach
        tables = self._tables
        for message in tables.messages.values():
            if not message.held:
                breach(f"{message.message.id} still waits: {[row.recipient for row in message.rows]}")
        found: Counter[str] = Counter()
        for past in tables.history.values():
            self._judge_message(past.row, found)
        for message in tables.messages.values():
            for row in message.rows:
                found[str(row.recipient.address)] += 1
        if self._world.disk.dropped:
            breach(f"files were never taken: {list(self._world.disk.dropped)[:5]}")
        for drop in self._facts.dropped.values():
            for to in drop.to:
                if found[to.address] != 1:
                    breach(f"{to.address} is {found[to.address]} times in the queue and the history")
        for trouble in self._tellings.trouble:
            breach(f"trouble: {trouble}")

    def _judge_message(self, row: HistoryRow, found: Counter[str]) -> None:
        for recipient in row.recipients:
            address = str(recipient.address)
            found[address] += 1
            takes = self._takes(row.id, address)
            if recipient.status is Status.DELIVERED and not takes:
                self._facts.breach(f"{row.id} to {address} is delivered, and nobody has it")
            if takes and recipient.status is not Status.DELIVERED and not recipient.possible_duplicate:
                self._facts.breach(f"{row.id} to {address} is {recipient.status.value}, and {takes[0].server} has it")
            if not recipient.status.final:
                self._facts.breach(f"{row.id} to {address} is {recipient.status.value} in the history")

    def _takes(self, message_id: str, address: str) -> list[Take]:
        return self._by_id.get((message_id, address), [])

    @property
    def _by_id(self) -> dict[tuple[str, str], list[Take]]:
        if not hasattr(self, "_index"):
            self._index: dict[tuple[str, str], list[Take]] = {}
            for takes in self._facts.takes.values():
                for take in takes:
                    self._index.setdefault((take.queue_id, take.address), []).append(take)
        return self._index
