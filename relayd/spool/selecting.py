"""What an operator means, in SQL.

Pure.  selection.py says what it means; that both say the same is in tests/contracts/test_queue.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relayd.mail.address import folded
from relayd.spool.rows import microseconds
from relayd.spool.selection import Selection, Waiting

DOMAIN = "substr(r.destination, instr(r.destination, '/') + 1)"
SENDERS_DOMAIN = "replace(m.sender, rtrim(m.sender, replace(m.sender, '@', '')), '')"  # behind the last @


class Condition:
    """A selection in SQL, of a row `m` of messages.  `of_recipient` is true of a row `r` of its recipients that it is
    about.  What is to be put in is in `parameters`, by number."""

    def __init__(self, selection: Selection) -> None:
        self.parameters: list[Any] = []
        of_message = list(self._of_message(selection))
        asked = list(self._of_recipient(selection))
        self.of_recipient = " AND ".join(["r.message = m.id AND r.status IN ('queued', 'deferred')", *asked])
        if asked:
            of_message.append(f"EXISTS (SELECT 1 FROM recipients AS r WHERE {self.of_recipient})")
        self.of_message = " AND ".join(of_message) or "1"

    def given(self, value: Any) -> str:
        """Put a value in; return what stands for it."""
        self.parameters.append(value)
        return f"?{len(self.parameters)}"

    def _of_message(self, selection: Selection) -> Iterator[str]:
        if selection.up_to:
            yield f"m.id <= {self.given(selection.up_to)}"
        if selection.waiting is Waiting.HELD:
            yield "m.held = 1"
        if selection.arrived_before is not None:
            yield f"m.arrived < {self.given(microseconds(selection.arrived_before))}"
        if selection.arrived_after is not None:
            yield f"m.arrived >= {self.given(microseconds(selection.arrived_after))}"
        if selection.sender is not None and selection.sender.startswith("@"):
            yield f"m.sender <> '' AND {self._matching(SENDERS_DOMAIN, selection.sender[1:])}"
        elif selection.sender is not None:
            yield f"lower(m.sender) = {self.given(folded(selection.sender))}"

    def _of_recipient(self, selection: Selection) -> Iterator[str]:
        if selection.domain:
            yield self._matching(DOMAIN, selection.domain)
        if selection.recipient is not None:
            local_part, domain = folded(selection.recipient.local_part), selection.recipient.domain
            yield f"lower(r.local_part) = {self.given(local_part)} AND {DOMAIN} = {self.given(domain)}"
        if selection.site:
            yield f"r.destination IN (SELECT destination FROM destinations WHERE site = {self.given(selection.site)})"
        if selection.waiting in (Waiting.QUEUED, Waiting.DEFERRED):
            yield f"r.status = {self.given(selection.waiting.value)} AND r.lease IS NULL AND r.held = 0"
        if selection.waiting is Waiting.IN_FLIGHT:
            yield "r.lease IS NOT NULL"

    def _matching(self, column: str, pattern: str) -> str:
        if pattern == "*":
            return "1"
        if not pattern.startswith("*."):
            return f"{column} = {self.given(pattern)}"
        ending = self.given(pattern[1:])
        return f"(substr({column}, -length({ending})) = {ending} AND length({column}) > length({ending}))"
