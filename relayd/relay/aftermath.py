"""What becomes of the messages under way when a connection ends before its time.

Pure.  The rules (RFC 5321 section 3.8, RFC 1047, FAULTS.md H6 to H8):

    What the server said for good of a message or a recipient stands.
    A message whose end may have left, and whose answer has not come, is deferred and marked: it may have arrived.
    The message whose turn it was, and whose end had not left, is `interrupted`; those behind it are `returned`.
    Behind a 421 nothing was looked at any more, so nothing there is marked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from relayd.mail.outcome import Deferred
from relayd.relay.transaction import Load, Transaction, of_message, verdict


@dataclass(slots=True)
class Aftermath:
    """Each load is in one of the three; `touched`: the server had answered the MAIL of the interrupted one; `marked`:
    some may have arrived; `answered` counts the transactions that the server's answer settled."""

    settled: list[Load] = field(default_factory=list)
    interrupted: Load | None = None
    returned: list[Load] = field(default_factory=list)
    touched: bool = False
    marked: bool = False
    answered: int = 0


def aftermath(
    outcome: Deferred,
    turn: Transaction | None,
    waiting: Iterable[Transaction],
    opened: Transaction | None,
    loads: Iterable[Load],
    *,
    left: int,
) -> Aftermath:
    """Settle what can be said of each load.

    `turn` is the transaction whose turn it was; `waiting` are those with replies to come, in order; `opened` is not
    written to its end; `loads` have recipients in no transaction.  `left` is the number of octets that may have left.
    """
    under_way = dict.fromkeys(one for one in (turn, *waiting, opened) if one is not None)
    ours = dict.fromkeys([*(one.load for one in under_way), *loads])
    found = Aftermath(answered=sum(_answered(one) for one in under_way))
    for one in under_way:
        one.keep_refusals()
    marked = set()
    if outcome.reply is None or outcome.reply.code != 421:
        doubt = Deferred(reason=outcome.reason or str(outcome.reply), status=outcome.status, possible_duplicate=True)
        for one in waiting:
            if one.may_have_arrived(left):
                one.settle_unrefused(doubt)
                marked.add(one.load)
    found.marked = bool(marked)
    for load in ours:
        if load in marked or load.closed or load.complete:
            load.settle_rest(of_message(outcome))
            found.settled.append(load)
        elif turn is not None and load is turn.load:
            found.interrupted, found.touched = load, turn.mail is not None
        else:
            found.returned.append(load)
    return found


def _answered(transaction: Transaction) -> bool:
    """Settle a transaction that has its answer, though the RSET behind it has none."""
    if transaction.final is None or not transaction.accepted:
        return False
    transaction.settle_refusals()
    transaction.settle(verdict(transaction.final))
    transaction.load.closed += 1
    return True
