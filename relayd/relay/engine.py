"""The SMTP engine: deliveries and octets of the server in, octets for the server and outcomes out.

Sans-IO.  It begins after the greeting, EHLO, STARTTLS and AUTH (opening.py), and ends with the connection.  Here is
what its plans have in common: loads, replies, the end.  data_plans.py says how a message goes with DATA, in lock-step
or pipelined; chunked_plan.py how several go at once with BDAT.  Replies are matched by count, never by text.

Invariants, checked by tests/relay/test_engine.py, test_engine_chunked.py, test_engine_properties.py and
test_engine_model.py:

    Delivered only by a 2yz reply to the end of that message, received after the end had left and, where it can be
    known, had arrived.
    No body after DATA without a 354, and not if more came than was asked for: octets that nobody asked for end the
    connection, and what follows them is never taken for an answer.
    Every recipient of every load that was started has exactly one outcome when the load is in `settled`; every load
    that was started is in the end in `settled`, `unsuited`, `interrupted` or `returned`, exactly once.

Whoever drives it calls `start` while `room`, `receive` with what arrived, and then writes `take()`; before that it
notes `endings`.  When `streaming` is set, it feeds `body`, waiting while `full`, and then `end_body`.  It sets `now`
before all that may begin a transaction.  `unsent` is the number of octets taken that have not left yet,
`unacknowledged` of those that the server's kernel has not got.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from datetime import datetime
from typing import ClassVar

from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.recipient import Recipient
from relayd.mail.refusal import asks_for_less
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.relay import commands
from relayd.relay.aftermath import Aftermath, aftermath
from relayd.relay.capabilities import Capabilities
from relayd.relay.plans import Plan
from relayd.relay.quota import Quota
from relayd.relay.replies import ProtocolError, ReplyParser
from relayd.relay.requirements import (
    BAD_SENDER,
    needs_requiretls,
    obstacle,
    too_late,
    unnameable,
    unpromising,
    wants_smtputf8,
)
from relayd.relay.script import envelope
from relayd.relay.transaction import Load, Script, Step, Transaction, refusal

PROTOCOL = EnhancedStatus(4, 5, 0)  # RFC 3463 section 3.6: other or undefined protocol status


class Engine(ABC):
    """One connection's transactions.  O(1) for each reply, O(octets) for each body."""

    plan: ClassVar[Plan]

    def __init__(
        self, capabilities: Capabilities, now: datetime, *, max_recipients: int = 100, elsewhere: bool = False
    ) -> None:
        """`elsewhere`: what needs an extension that is not offered can be tried at another host."""
        self.capabilities = capabilities
        self.settled: list[Load] = []  # for the driver to take away
        self.unsuited: list[Load] = []  # that need an extension, which may be had elsewhere
        self.endings: list[Delivery] = []  # whose last octet is in the next `take()`
        self.streaming: Transaction | None = None
        self.over: Deferred | None = None  # why this connection is of no use any more
        self.end = Aftermath()  # what came of the loads that were under way then; see there
        self.returned: list[Load] = []  # loads behind the interrupted one, and those that LIMITS leave no room for
        self.broke = False  # whether the end may be the plan's fault
        self.answered = 0  # replies
        self.throttled: Reply | None = None  # the last one that asked for less
        self.progress = 0  # transactions that the server settled
        self.said = 0  # octets
        self.now = now  # as the driver saw it last
        self._elsewhere = elsewhere
        self._quota = Quota(capabilities.limits, max_recipients)
        self._parser = ReplyParser()
        self._expected: deque[tuple[Step, Transaction, Recipient | None, int]] = deque()  # ..., where the command ends
        self._loads: deque[Load] = deque()  # have recipients that are in no transaction yet
        self._open: Transaction | None = None  # its end is not written yet
        self._out: list[bytes] = []
        self._written = 0  # octets that were taken
        self._heard = 0  # octets up to the end of what was answered last

    @property
    def room(self) -> bool:
        """Whether a load can be started now."""
        return self._open is None and not self._loads and self.over is None and not self._quota.spent and self._free

    @property
    def spent(self) -> bool:
        """Whether the server's limits allow no further message on this connection (RFC 9422)."""
        return self._quota.spent

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return self._open is None and not self._loads and not self._expected

    @property
    def full(self) -> bool:
        """Whether the server owes too many answers to be sent more of the body that is streaming."""
        return False

    @property
    def awaited(self) -> Step | None:
        """What the next reply answers; None if none is due."""
        return self._expected[0][0] if self._expected else None

    @property
    def where(self) -> str:
        """Where the conversation is, in words: `after MAIL`."""
        if self._expected:
            return f"after {self._expected[0][0].value}"
        if self._open is None:
            return "between messages"
        return "in the message" if self._open.data or self.streaming else "in the envelope"

    def start(self, load: Load) -> None:
        """Begin a delivery.  What cannot be sent to this server at all is settled at once."""
        assert self.room, "start() without room"
        lacks_utf8 = not self.capabilities.smtputf8 and wants_smtputf8(load.delivery)
        lacks_requiretls = not self.capabilities.require_tls and needs_requiretls(load.delivery)
        unable = lacks_utf8 or lacks_requiretls or unpromising(load.delivery, self.capabilities, self.now)
        if self._elsewhere and unable:
            self.unsuited.append(load)
            return
        if lacks_utf8:
            load.outcomes.update(unnameable(load.pending))
        if problem := obstacle(load, self.capabilities):
            load.settle_rest(problem)
        load.renew()
        if self._quota.admit(load):
            self._loads.append(load)
            self._proceed()
        else:
            self.returned.append(load)

    def receive(self, octets: bytes, unsent: int = 0, unacknowledged: int = 0) -> None:
        """Take what the server sent."""
        if self.over is not None:
            return
        arrived = self._written - max(unsent, unacknowledged)
        self._parser.feed(octets)
        try:
            while self.over is None and (reply := self._parser.next()) is not None:
                self._answer(reply, unsent, arrived)
            if self.over is None and not self._expected and self._parser.pending:
                raise ProtocolError("more than was asked for")
        except ProtocolError as error:
            self._violated(str(error), unsent)
        else:
            self._proceed()

    def take(self) -> bytes:
        """Return what is to be written now."""
        octets = b"".join(self._out)
        self._out.clear()
        self._written = self.said
        self.endings.clear()
        return octets

    @abstractmethod
    def body(self, octets: bytes) -> None:
        """Send a piece of the body that is streaming."""

    def end_body(self, octets: bytes) -> None:
        """Send the last piece of the body that is streaming, and its end."""
        assert self.streaming is not None
        transaction, self.streaming = self.streaming, None
        self._end(transaction, octets)
        self._proceed()

    def break_off(self, outcome: Deferred, unsent: int = 0) -> None:
        """The connection is lost, late or to be left: settle what can be said of each load under way."""
        if self.over is None:
            self.broke = self._strained
            self._break_off(outcome, unsent, self._turn)

    # What a plan says for itself

    @property
    @abstractmethod
    def _free(self) -> bool:
        """Whether another transaction may be begun behind those that are not answered."""

    @property
    @abstractmethod
    def _strained(self) -> bool:
        """Whether a connection that ends now may have ended because of the plan."""

    @abstractmethod
    def _open_with(self, load: Load, recipients: tuple[Recipient, ...], script: Script) -> None:
        """Begin a transaction, by the envelope in `script`."""

    @abstractmethod
    def _go_on(self, transaction: Transaction) -> None:
        """Do what the replies to the open transaction call for."""

    @abstractmethod
    def _end(self, transaction: Transaction, octets: bytes) -> None:
        """Send the last octets of a message, and what ends it."""

    @abstractmethod
    def _replied(self, step: Step, transaction: Transaction, reply: Reply, unsent: int, *, early: bool) -> None:
        """Take a reply to anything but MAIL and RCPT.

        Raises:
            ProtocolError: it is none to that.
        """

    @abstractmethod
    def _unasked(self, reply: Reply, unsent: int) -> None:
        """Take a reply when none is due.

        Raises:
            ProtocolError: there is no reason for it.
        """

    # Replies

    def _answer(self, reply: Reply, unsent: int, arrived: int) -> None:
        self.answered += 1
        if reply.code >= 400 and asks_for_less(reply):
            self.throttled = reply
        if not self._expected:
            if reply.code == 421:
                self._break_off(Deferred(reply, Scope.HOST), unsent, self._open)
            else:
                self._unasked(reply, unsent)
            return
        entry = self._expected.popleft()
        step, transaction, recipient, self._heard = entry
        if step is Step.CHUNK:
            transaction.load.note(self.now, reply)
        elif step is not Step.RSET:
            transaction.load.remarks.append((self.now, reply))
        try:
            if reply.code == 421:
                self._break_off(Deferred(reply, Scope.HOST), unsent, transaction)
                return
            early = self._heard > arrived
            if early and (reply.positive or step not in (Step.FINAL, Step.CHUNK)):
                raise ProtocolError(f"{reply} in advance of {step.value}")
            if reply.intermediate and step is not Step.DATA:
                raise ProtocolError(f"{reply} to {step.value}")
            if step is Step.RCPT and recipient is not None:
                transaction.answered(recipient, reply)
            elif step is Step.MAIL:
                transaction.mail = reply
            else:
                self._replied(step, transaction, reply, unsent, early=early)
        except ProtocolError:
            self._expected.appendleft(entry)
            raise

    # Commands

    def _put(self, octets: bytes) -> None:
        self._out.append(octets)
        self.said += len(octets)

    def _expect(self, step: Step, transaction: Transaction) -> None:
        """Expect a reply to all that was put until now."""
        self._expected.append((step, transaction, None, self.said))

    def _say(self, transaction: Transaction, count: int) -> None:
        remarks = transaction.load.remarks  # of an envelope there is not too much
        for _ in range(count):
            step, recipient, octets = transaction.script.popleft()
            self._put(octets)
            remarks.append((self.now, octets))
            self._expected.append((step, transaction, recipient, self.said))

    def _proceed(self) -> None:
        while self.over is None and self.streaming is None:
            if self._open is None:
                if not self._loads or not self._free:
                    return
                self._begin(self._loads[0])
            elif self._expected and self._open.data is None:
                return
            else:
                self._go_on(self._open)

    def _begin(self, load: Load) -> None:
        """Open the next transaction of a load, or settle it if there is nobody left to send to."""
        if not load.pending:
            self._loads.popleft()
            self._settle_if_done(load)
            return
        if late := too_late(load.delivery, self.capabilities, self.now):
            load.settle_pending(late)
            return
        if (no_more := self._quota.refusal) is not None:
            load.settle_pending(no_more)
            return
        recipients = tuple(load.pending[: self._quota.recipients])
        del load.pending[: len(recipients)]
        try:
            script = envelope(load, recipients, self.capabilities, self.now)
        except commands.UnsafeCommand as error:
            load.settle_rest(Failed(reason=str(error), status=BAD_SENDER))
            return
        if len(script) == 1:
            return  # nobody left of these; the next turn of `_proceed` sees to the rest
        self._quota.begin()
        load.open += 1
        if not load.pending:
            self._loads.popleft()
        self._open_with(load, recipients, script)

    def _settle_envelope(self, transaction: Transaction) -> None:
        """Settle those of a transaction that came to no message, by what was said to MAIL and RCPT."""
        if transaction.turned_away and transaction.mail is not None:
            transaction.load.settle_rest(refusal(transaction.mail, Scope.MESSAGE))
        else:
            transaction.settle_refusals()

    def _settled_by_server(self, transaction: Transaction) -> None:
        load = transaction.load
        load.open -= 1
        load.closed += 1
        self.progress += 1
        self._continue(transaction)
        self._settle_if_done(load)

    def _continue(self, transaction: Transaction) -> None:
        """Leave the open transaction; its load goes on if it has recipients left."""
        if transaction is self._open:
            self._open = None
        load = transaction.load
        if load.pending and load not in self._loads:
            self._loads.append(load)

    def _settle_if_done(self, load: Load) -> None:
        if not load.pending and not load.open and load not in self._loads:
            self.settled.append(load)

    # The end of the connection

    @property
    def _turn(self) -> Transaction | None:
        return self._expected[0][1] if self._expected else self._open

    def _violated(self, what: str, unsent: int) -> None:
        self.broke = True
        for _, transaction, _, _ in self._expected:
            transaction.final = None  # the count may be wrong: whose reply it was is not known
        reason = f"protocol error {self.where}: {what}"
        self._break_off(Deferred(scope=Scope.HOST, reason=reason, status=PROTOCOL), unsent, self._turn)

    def _break_off(self, outcome: Deferred, unsent: int, turn: Transaction | None) -> None:
        self.over = outcome
        waiting = tuple(dict.fromkeys(entry[1] for entry in self._expected))
        self.end = aftermath(outcome, turn, waiting, self._open, self._loads, left=self._written - unsent)
        self.settled += self.end.settled
        self.returned += self.end.returned
        self.progress += self.end.answered
        self._expected.clear()
        self._loads.clear()
        self._open = self.streaming = None
