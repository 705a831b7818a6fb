"""What must be true in the end, of what the daemon has on its disk, what it told, and what its servers took.

FAULTS.md, "nothing lost": every recipient that was dropped is exactly once in the queue or the history; delivered only
if a server took it; held only if an operator or three deaths held it; removed only by an operator; failed only if a
server said so, the DNS did, or its time was over; and nobody has a message that the daemon thinks nobody has, unless it
is marked.  What is told to senders is judged in notices.py, what must be true at any time in facts.py and limits.py.
"""

from __future__ import annotations

from collections import Counter

from relayd.mail.recipient import Recipient, Status
from relayd.observe.counters import Counted
from relayd.spool.operators import HELD_BY_OPERATOR
from relayd.spool.queue import HistoryRow
from tests.simulation.facts import Take
from tests.simulation.notices import judge_notices
from tests.simulation.progress import judge_progress
from tests.simulation.tellings import Tellings
from tests.simulation.world import World

# What is told when the daemon is stopped while the disk takes nothing.
_OF_A_DISK = ("stop: not waiting", "queue: stopped with outcomes", "relayer: ")


def judge(world: World, tellings: Tellings) -> None:
    """Note every promise that was broken."""
    Oracle(world, tellings).judge()


class Oracle:
    """Of one run."""

    def __init__(self, world: World, tellings: Tellings) -> None:
        self._world = world
        self._scenario = world.scenario
        self._facts = world.facts
        self._tables = world.disk.tables
        self._tellings = tellings
        self._counts: Counter[Status] = Counter()
        self._found: Counter[str] = Counter()
        self._takes: dict[tuple[str, str], list[Take]] = {}
        for takes in self._facts.takes.values():
            for take in takes:
                self._takes.setdefault((take.queue_id, take.address), []).append(take)

    def judge(self) -> None:
        """See the module."""
        for past in self._tables.history.values():
            self._judge_message(past.row)
        self._judge_queue()
        self._judge_completeness()
        for trouble in self._tellings.trouble:
            ours = self._scenario.disk_fails and trouble.startswith(_OF_A_DISK)
            self._expect(ours, f"trouble: {trouble}")
        self._tellings.judge()
        self._judge_counters()
        judge_notices(self._world)
        judge_progress(self._world)

    def _judge_queue(self) -> None:
        """Only what is held may be left."""
        for message in self._tables.messages.values():
            for row in message.rows:
                self._found[str(row.recipient.address)] += 1
                self._counts[row.recipient.status] += 1
            if not message.held:
                self._facts.breach(f"{message.message.id} still waits: {[row.recipient for row in message.rows]}")
            elif message.hold_reason == HELD_BY_OPERATOR:
                self._expect(message.message.id in self._facts.operated["hold"], f"{message.message.id} is held")
            else:
                self._expect(message.message.id in self._tellings.held, f"{message.message.id} is held, untold")
        for number, lease in self._tables.leases.items():
            self._expect(not lease.rows, f"lease {number} is left, with {len(lease.rows)} recipients")

    def _judge_completeness(self) -> None:
        if self._world.disk.dropped:
            self._facts.breach(f"files were never taken: {list(self._world.disk.dropped)[:5]}")
        for drop in self._facts.dropped.values():
            for to in drop.to:
                times = self._found[to.address]
                self._expect(times == 1, f"{to.address} is {times} times in the queue and the history")
        takes = {key for key in self._facts.takes if key[0] not in self._facts.dropped}
        ours = {(identity, address) for identity, address in takes if identity.partition("@")[0] in self._facts.made}
        self._expect(takes == ours, f"what nobody sent was taken: {sorted(takes - ours)[:3]}")

    def _judge_message(self, row: HistoryRow) -> None:
        for recipient in row.recipients:
            address = str(recipient.address)
            self._found[address] += 1
            self._counts[recipient.status] += 1
            self._judge_recipient(f"{row.id} to {address}", row, recipient, self._takes.get((row.id, address), []))

    def _judge_recipient(self, name: str, row: HistoryRow, recipient: Recipient, takes: list[Take]) -> None:
        status, marked = recipient.status, recipient.possible_duplicate
        self._expect(status.final, f"{name} is {status.value} in the history")
        if status is Status.DELIVERED:
            self._expect(bool(takes), f"{name} is delivered, and nobody has it")
        elif takes:
            self._expect(marked, f"{name} is {status.value}, and {takes[0].server} has it")
        if status is Status.REMOVED:
            self._expect(row.id in self._facts.operated["remove"], f"{name} is removed, and nobody asked for it")
        if status is Status.FAILED:
            self._judge_failure(name, recipient)
        if marked and not (self._scenario.power_fails or self._scenario.disk_lies):
            endings = self._facts.endings[row.id]
            least = 2 if status is Status.DELIVERED else 1
            self._expect(endings >= least, f"{name} is marked, and its end left {endings} times")

    def _judge_failure(self, name: str, recipient: Recipient) -> None:
        """A failure has a cause: time, the DNS, or a server that refused; what was refused for good is not tried on."""
        tried_on = recipient.dsn == "5.4.7" and "550 5.1.1" in recipient.reply
        self._expect(not tried_on, f"{name} was tried until its time was over: {recipient.reply}")
        if recipient.dsn in ("5.4.7", "5.1.2", "5.1.10", "5.4.4", "5.4.6"):
            return
        refused = recipient.reply.startswith("5") or recipient.dsn in ("5.6.7", "5.3.4", "5.6.3")
        self._expect(refused, f"{name} failed for no reason: {recipient.dsn} {recipient.reply}")

    def _judge_counters(self) -> None:
        """Where the daemon starts once every change is told of, once."""
        if self._tellings.starts > 1:
            return
        for counted, status in ((Counted.DELIVERED, Status.DELIVERED), (Counted.FAILED, Status.FAILED)):
            told = self._tellings.counters[counted]
            there = self._counts[status]
            self._expect(told == there, f"{counted.label} tells of {told}, and there are {there}")
        told, there = self._tellings.counters[Counted.ACCEPTED], len(self._facts.dropped)
        self._expect(told == there, f"{told} messages were accepted of {there}")

    def _expect(self, true: bool, otherwise: str) -> None:
        if not true:
            self._facts.breach(otherwise)
