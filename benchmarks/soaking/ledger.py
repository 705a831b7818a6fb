"""What became of each recipient: a few octets for each number, no more.

Four tell of it, each on its own: the sinks (what they took, and whom notifications named), relayd's log and its
history (which says how each ended, and whether it is marked), and the queue (what is held at the end).  `verdicts`
brings them together.  "Nothing lost" is: every recipient has exactly one of the ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.soaking.plan import MOST, Plan
from benchmarks.soaking.shared import Note

UNKNOWN, DELIVERED, FAILED, REMOVED = range(4)
ENDS = {"delivered": DELIVERED, "failed": FAILED, "removed": REMOVED}
FULL = 255  # a count stops there


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a recipient ended; `fault` says in words what should not be."""

    number: int
    end: str
    fault: str = ""
    twice: bool = False


@dataclass(slots=True)
class Ledger:
    """See the module.  Numbers beyond `messages` are foreign."""

    plan: Plan
    messages: int
    dropped: int = 0  # messages, the first ones
    foreign: int = 0
    wrong: list[int] = field(default_factory=list)
    taken: bytearray = field(init=False)
    told: bytearray = field(init=False)
    ended: bytearray = field(init=False)
    marked: bytearray = field(init=False)
    held: bytearray = field(init=False)
    bounces_marked: bytearray = field(init=False)  # by message
    delivered: int = 0  # for the rate

    def __post_init__(self) -> None:
        self.taken, self.told, self.ended, self.marked, self.held = (bytearray(self.messages * MOST) for _ in range(5))
        self.bounces_marked = bytearray(self.messages)

    def note(self, kind: int, number: int) -> None:
        """Enter what a sink tells."""
        if kind == Note.WRONG:
            self.wrong.append(number)
        elif kind == Note.TAKEN:
            self.delivered += 1
            self._count(self.taken, number)
        elif kind == Note.TOLD:
            self._count(self.told, number)

    def mark(self, local_part: str) -> None:
        """Enter that relayd marks a recipient, or a notification, as possible duplicate."""
        number = int(local_part[1:])
        if local_part[0] == "s":
            self.bounces_marked[number] = 1
        else:
            self.marked[number] = 1

    def end(self, local_part: str, status: str) -> None:
        """Enter how relayd says that a recipient ended."""
        if local_part[0] == "r":
            self.ended[int(local_part[1:])] = ENDS[status]

    def hold(self, listed: Mapping[str, Any]) -> None:
        """Enter a message of `relayd queue list --json`: each recipient that has not ended, if it is held."""
        for recipient in listed["recipients"]:
            local_part, status = str(recipient["address"]).partition("@")[0], recipient["status"]
            if recipient["possible_duplicate"]:
                self.mark(local_part)
            if status in ENDS:
                self.end(local_part, status)
            elif listed["held"] and local_part[0] == "r":
                self.held[int(local_part[1:])] = 1

    def verdicts(self) -> Iterator[Verdict]:
        """Judge every recipient of what was dropped."""
        for message in range(self.dropped):
            for number in self.plan.recipients(message):
                yield self._judge(message, number)

    def outside(self) -> int:
        """Return how many were taken or told of that nobody dropped."""
        seen = (number for number in range(len(self.taken)) if self.taken[number] or self.told[number])
        return self.foreign + sum(not self._is_known(number) for number in seen)

    def _is_known(self, number: int) -> bool:
        message = number // MOST
        return message < self.dropped and number in self.plan.recipients(message)

    def _count(self, counts: bytearray, number: int) -> None:
        if not 0 <= number < len(counts):
            self.foreign += 1
        elif counts[number] < FULL:
            counts[number] += 1

    def _judge(self, message: int, number: int) -> Verdict:
        ended, taken, told = self.ended[number], self.taken[number], self.told[number]
        end = {DELIVERED: "delivered", FAILED: "bounced", REMOVED: "removed"}.get(ended, "")
        if not end:
            end = "held" if self.held[number] else "lost"
        twice = taken + (told > 0) > 1 or told > 1 or (taken > 0 and end in ("held", "removed"))
        return Verdict(number, end, self._fault(message, number, end), twice)

    def _fault(self, message: int, number: int, end: str) -> str:
        taken, told, marked = self.taken[number], self.told[number], self.marked[number]
        if end == "lost":
            return f"no end; taken {taken}, told {told}, marked {marked}"
        if end == "delivered" and not taken:
            return "delivered, says relayd, but no sink took it"
        if end == "bounced" and not told and not self.plan.is_null(message):
            return "failed, and its sender was not told"
        if told and end != "bounced":
            return f"told as failed, and {end}"
        if taken > (end == "delivered") and not marked:
            return f"{end}, taken {taken} times, not marked"
        if told > 1 and not self.bounces_marked[message]:
            return f"told {told} times, not marked"
        return ""
