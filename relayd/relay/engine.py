"""The SMTP engine: deliveries and octets of the server in, octets for the server and outcomes out.

Sans-IO.  It begins after the greeting, EHLO, STARTTLS and AUTH (opening.py), and ends with the connection.  Its plans:

    chunked     `MAIL RCPT* BDAT-LAST body RSET` in one flight, the next message's behind it, up to a window of messages
                that are not answered (RFC 3030, RFC 2920);
    pipelined   `MAIL RCPT* DATA`, then `<body> . MAIL RCPT* DATA` in one write: one round trip for each message;
    lock-step   a command, then its reply.

Replies are matched by count, never by text.  In the chunked plan every answer may be a 250, so that one reply too many
would make each of the next pass for its neighbour's: therefore a message is settled by the reply to its BDAT only when
the RSET behind it is answered too.  In the others the 354 to DATA shows that the count is right.

Invariants, checked by tests/relay/test_engine.py, test_engine_properties.py and test_engine_model.py:

    Delivered only by a 2yz reply to the end of that message, received after the end had left and, where it can be
    known, had arrived.
    No body after DATA without a 354, and not if more came than was asked for: octets that nobody asked for end the
    connection, and what follows them is never taken for an answer.
    Every recipient of every load that was started has exactly one outcome when the load is in `settled`; every load
    that was started is in the end in `settled`, `unsuited`, `interrupted` or `returned`, exactly once.

Whoever drives it calls `start` while `room`, `receive` with what arrived, and then writes `take()`; before that it
notes `endings`.  When `streaming` is set, it feeds `body`, waiting while `full`, and then `end_body`.  `unsent` is the
number of octets taken that have not left yet, `unacknowledged` of those that the server's kernel has not got.
"""

from __future__ import annotations

from collections import deque

from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.recipient import Recipient
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.relay import commands, content
from relayd.relay.capabilities import Capabilities
from relayd.relay.plans import Plan
from relayd.relay.quota import Quota
from relayd.relay.replies import ProtocolError, ReplyParser
from relayd.relay.requirements import BAD_SENDER, obstacle, unnameable, wants_smtputf8
from relayd.relay.script import envelope
from relayd.relay.transaction import Load, Step, Transaction, of_message, refusal, verdict

_END = b".\r\n"
_PROTOCOL = EnhancedStatus(4, 5, 0)  # RFC 3463 section 3.6: other or undefined protocol status
_UNKNOWN = frozenset((500, 501, 502, 503, 504))  # to a BDAT in its place: the command, not the message


class Engine:
    """One connection's transactions.  O(1) for each reply, O(octets) for each body.

    At most `window` messages and some `window_size` octets are unanswered; one message, until one was taken, unless
    the server is `proven`.  `elsewhere`: what needs SMTPUTF8 can be tried at another host.
    """

    def __init__(
        self,
        capabilities: Capabilities,
        *,
        plan: Plan,
        max_recipients: int = 100,
        window: int = 16,
        window_size: int = 1024 * 1024,
        proven: bool = False,
        elsewhere: bool = False,
    ) -> None:
        self.capabilities = capabilities
        self.plan = plan
        self.settled: list[Load] = []  # for the driver to take away
        self.unsuited: list[Load] = []  # that need SMTPUTF8, which may be had elsewhere
        self.endings: list[Delivery] = []  # whose last octet is in the next `take()`
        self.streaming: Transaction | None = None
        self.over: Deferred | None = None  # why this connection is of no use any more
        self.broke = False  # whether that may be the plan's fault
        self.interrupted: Load | None = None  # the load whose turn it was then; its end had not left
        self.marked = False  # whether the end of a message had left, and its answer had not come
        self.touched = False  # whether the server had answered that load's MAIL
        self.returned: list[Load] = []  # loads behind it, and those that the server's limits leave no room for
        self.answered = 0  # replies
        self.progress = 0  # transactions that the server settled
        self._window = window
        self._window_size = window_size
        self.proven = proven  # the server took a message by this plan
        self._elsewhere = elsewhere
        self._quota = Quota(capabilities.limits, max_recipients)
        self._parser = ReplyParser()
        self._expected: deque[tuple[Step, Transaction, Recipient | None, int]] = deque()  # ..., where the command ends
        self._loads: deque[Load] = deque()  # have recipients that are in no transaction yet
        self._open: Transaction | None = None  # its end is not written yet
        self._failed = False  # the last transaction; the next begins with RSET if that costs nothing
        self._unanswered = 0  # messages whose end is written
        self._out: list[bytes] = []
        self._said = 0  # octets, up to the end of `_out`
        self._written = 0  # octets that were taken
        self._heard = 0  # octets up to the end of what was answered last

    @property
    def room(self) -> bool:
        """Whether a load can be started now."""
        return self._open is None and not self._loads and self.over is None and not self.spent and self._free

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
        """Whether more of the body that is streaming would be more than the server may owe answers for."""
        return self.plan is Plan.CHUNKED and self._said - self._heard >= self._window_size

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

    @property
    def _free(self) -> bool:
        """Whether the plan allows to begin another transaction behind those that are not answered."""
        if self.plan is Plan.PIPELINED:
            return True
        if self.plan is Plan.LOCK_STEP:
            return not self._expected
        return self._unanswered < (self._window if self.proven else 1) and not self.full

    def start(self, load: Load) -> None:
        """Begin a delivery.  What cannot be sent to this server at all is settled at once."""
        assert self.room, "start() without room"
        if not self.capabilities.smtputf8 and self._elsewhere and wants_smtputf8(load.delivery):
            self.unsuited.append(load)
            return
        load.renew()
        if problem := obstacle(load, self.capabilities):
            load.settle_rest(problem)
        else:
            if not self.capabilities.smtputf8:
                load.outcomes.update(unnameable(load.pending))
                load.renew()
            if not self._quota.admit(load):
                self.returned.append(load)
                return
        self._loads.append(load)
        self._proceed()

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
        self._written = self._said
        self.endings.clear()
        return octets

    def body(self, octets: bytes) -> None:
        """Send a piece of the body that is streaming."""
        assert self.streaming is not None
        if self.plan is not Plan.CHUNKED:
            self._put(octets)
        elif octets:
            self._put(commands.bdat(len(octets)))
            self._put(octets)
            self._expect(Step.CHUNK, self.streaming)

    def end_body(self, octets: bytes) -> None:
        """Send the last piece of the body that is streaming, and its end."""
        assert self.streaming is not None
        transaction, self.streaming = self.streaming, None
        self._end(transaction, octets)
        self._proceed()

    def break_off(self, outcome: Deferred, unsent: int = 0) -> None:
        """The connection is lost, late or to be left: settle what can be said of each load under way."""
        if self.over is None:
            self._break_off(outcome, unsent, self._expected[0][1] if self._expected else self._open)

    # Replies

    def _answer(self, reply: Reply, unsent: int, arrived: int) -> None:
        self.answered += 1
        if not self._expected:
            self._unasked(reply, unsent)
            return
        entry = self._expected.popleft()
        step, transaction, recipient, end = entry
        self._heard = end
        if reply.code == 421:
            self._break_off(Deferred(reply, Scope.HOST), unsent, transaction)
            return
        early = end > arrived
        refusable = step is Step.FINAL or step is Step.CHUNK
        if (reply.intermediate and step is not Step.DATA) or (early and (reply.positive or not refusable)):
            self._expected.appendleft(entry)
            raise ProtocolError(f"{reply} {'in advance of' if early else 'to'} {step.value}")
        if step is Step.RCPT:
            assert recipient is not None
            if reply.positive:
                transaction.accepted.append(recipient)
            else:
                transaction.refused.append((recipient, reply))
        elif step is Step.MAIL:
            transaction.mail = reply
        elif step is Step.DATA:
            if reply.positive or (reply.intermediate and reply.code != 354):
                self._expected.appendleft(entry)
                raise ProtocolError(f"{reply} to DATA")
            transaction.data = reply
        elif step is Step.RSET:
            if not reply.positive:
                self._expected.appendleft(entry)
                raise ProtocolError(f"{reply} to RSET")
            if self.plan is Plan.CHUNKED:
                self._confirm(transaction, unsent)
        elif self.plan is Plan.CHUNKED:
            self._chunk(transaction, step, reply, unsent)
        else:
            self._final(transaction, reply, unsent, early=early)

    def _final(self, transaction: Transaction, reply: Reply, unsent: int, *, early: bool) -> None:
        self._close(transaction, reply)
        if early:
            # What remains of the message would be read as commands.
            self._break_off(Deferred(reply, Scope.HOST, reason="refused before its end"), unsent, None)

    def _close(self, transaction: Transaction, reply: Reply) -> None:
        if not transaction.hollow:
            transaction.settle(verdict(reply))
        # RFC.md R21: a transaction that took nobody is followed by RSET, whatever its lone dot was answered with.
        self._failed = transaction.hollow or not reply.positive
        self._settled_by_server(transaction)

    def _chunk(self, transaction: Transaction, step: Step, reply: Reply, unsent: int) -> None:
        """Note the reply to a BDAT; what it means is known when the RSET behind it is answered."""
        if reply.code in _UNKNOWN and transaction.accepted and not transaction.turned_away and not transaction.final:
            self.broke = True
            transaction.end = 0  # it was refused: nobody has it
            outcome = Deferred(reply, Scope.HOST, reason=f"BDAT, which the server offers: {reply}", status=_PROTOCOL)
            self._break_off(outcome, unsent, transaction)
        elif step is Step.FINAL:
            transaction.final = transaction.final or reply
        elif not reply.positive and transaction.final is None:
            # RFC 3030 section 2: no more of it, and a RSET.
            transaction.final = reply
            if transaction is self._open:
                self.streaming = None
                self._reset(transaction)

    def _confirm(self, transaction: Transaction, unsent: int) -> None:
        """Settle a transaction of the chunked plan: all its replies are there, and one more."""
        final = transaction.final
        self._unanswered -= transaction.end > 0
        if transaction.turned_away and transaction.accepted:
            if transaction.end:
                self._expected.appendleft((Step.FINAL, transaction, None, transaction.end))
            self._violated("recipients accepted although MAIL was refused", unsent)
            return
        if transaction.accepted and final is not None:
            transaction.settle_refusals()
            transaction.settle(verdict(final))
            self.proven = self.proven or final.positive
        else:
            self._settle_envelope(transaction)
        self._settled_by_server(transaction)

    def _unasked(self, reply: Reply, unsent: int) -> None:
        transaction = self._open
        if reply.code == 421:
            self._break_off(Deferred(reply, Scope.HOST), unsent, transaction)
        elif self.streaming is not None and transaction is not None and (reply.transient or reply.permanent):
            self.streaming = None
            transaction.settle_refusals()
            self._continue(transaction)
            self._close(transaction, reply)
            self._break_off(Deferred(reply, Scope.HOST, reason="refused before its end"), unsent, None)
        else:
            raise ProtocolError(f"a reply that nobody asked for: {reply}")

    # Commands

    def _put(self, octets: bytes) -> None:
        self._out.append(octets)
        self._said += len(octets)

    def _expect(self, step: Step, transaction: Transaction, recipient: Recipient | None = None) -> None:
        """Expect a reply to all that was put until now."""
        self._expected.append((step, transaction, recipient, self._said))

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
        if (no_more := self._quota.refusal) is not None:
            load.settle_rest(no_more)
            return
        recipients = tuple(load.pending[: self._quota.recipients])
        del load.pending[: len(recipients)]
        try:
            script = envelope(load, recipients, self.capabilities)
        except commands.UnsafeCommand as error:
            load.settle_rest(Failed(reason=str(error), status=BAD_SENDER))
            return
        if len(script) == 1:
            return  # nobody left of these; the next turn of `_proceed` sees to the rest
        self._quota.begin()
        self._open_with(Transaction(load, recipients, script, fresh=self.plan is Plan.CHUNKED))

    def _open_with(self, transaction: Transaction) -> None:
        load, script = transaction.load, transaction.script
        load.open += 1
        if not load.pending:
            self._loads.popleft()
        self._open = transaction
        if self.plan is Plan.CHUNKED:
            self._say(transaction, len(script))
            if load.raw is not None:
                self._end(transaction, content.whole(load.body, load.raw, stuffed=False))
            return
        transaction.fresh = self._failed and not self._expected
        if transaction.fresh:
            script.appendleft((Step.RSET, None, commands.RSET))
        self._failed = False
        script.append((Step.DATA, None, commands.DATA))
        self._say(transaction, len(script) if self.plan is Plan.PIPELINED else 1)

    def _say(self, transaction: Transaction, count: int) -> None:
        for _ in range(count):
            step, recipient, octets = transaction.script.popleft()
            self._put(octets)
            self._expect(step, transaction, recipient)

    def _go_on(self, transaction: Transaction) -> None:
        """Do what the replies to the open transaction call for."""
        refused = transaction.turned_away
        reply = transaction.data
        if self.plan is Plan.CHUNKED:
            if transaction.accepted and not refused:
                self.streaming = transaction
            else:
                self._reset(transaction)
        elif reply is None:
            if refused or (transaction.script[0][0] is Step.DATA and not transaction.accepted):
                self._abandon(transaction)
            else:
                self._say(transaction, 1)
        elif reply.permanent or reply.transient:
            self._abandon(transaction)
        elif transaction.accepted and not refused:
            self._send_body(transaction)
        elif transaction.accepted:
            self._violated("recipients accepted although MAIL was refused", 0)
        else:
            # A lone dot, not the body (RFC 2920 section 3.1); nobody gets it, and what comes of it is nobody's.
            transaction.hollow = True
            self._settle_envelope(transaction)
            self._end(transaction, b"")

    def _send_body(self, transaction: Transaction) -> None:
        load = transaction.load
        if load.raw is None:
            self.streaming = transaction
        else:
            self._end(transaction, content.whole(load.body, load.raw))

    def _end(self, transaction: Transaction, octets: bytes) -> None:
        """Send the last octets of a message, and what ends it."""
        if self.plan is Plan.CHUNKED:
            self._put(commands.bdat_last(len(octets)))
            self._put(octets)
        else:
            self._put(octets)
            self._put(_END)
        transaction.end = self._said
        self._expect(Step.FINAL, transaction)
        if not transaction.hollow:
            self.endings.append(transaction.load.delivery)
        if self.plan is Plan.CHUNKED:
            self._unanswered += 1
            self._reset(transaction)
        else:
            transaction.settle_refusals()
            self._continue(transaction)

    def _reset(self, transaction: Transaction) -> None:
        """End a transaction of the chunked plan, however it went: what is behind it begins afresh."""
        self._put(commands.RSET)
        self._expect(Step.RSET, transaction)
        self._open = None

    def _abandon(self, transaction: Transaction) -> None:
        """Leave a transaction that does not come to a message."""
        self._settle_envelope(transaction)
        if transaction.data is not None and not transaction.turned_away:
            transaction.settle(refusal(transaction.data, Scope.MESSAGE))
        self._settled_by_server(transaction)

    def _settle_envelope(self, transaction: Transaction) -> None:
        load, mail = transaction.load, transaction.mail
        if mail is None or mail.positive:
            transaction.settle_refusals()
        elif mail.code == 503 and not transaction.fresh and self._failed:
            # "Bad sequence" behind another message: never this one's own failure.  Again, after a RSET.
            load.pending[:0] = transaction.recipients
        else:
            load.settle_rest(refusal(mail, Scope.MESSAGE))
        self._failed = True

    def _settled_by_server(self, transaction: Transaction) -> None:
        load = transaction.load
        load.open -= 1
        load.closed += 1
        self.progress += 1
        self._continue(transaction)
        self._settle_if_done(load)

    def _continue(self, transaction: Transaction) -> None:
        if transaction is self._open:
            self._open = None
        load = transaction.load
        if load.pending and load not in self._loads:
            self._loads.append(load)

    def _settle_if_done(self, load: Load) -> None:
        if not load.pending and not load.open and load not in self._loads:
            self.settled.append(load)

    # The end of the connection

    def _violated(self, what: str, unsent: int) -> None:
        self.broke = self.plan is not Plan.LOCK_STEP
        reason = f"protocol error {self.where}: {what}"
        outcome = Deferred(scope=Scope.HOST, reason=reason, status=_PROTOCOL)
        turn = self._expected[0][1] if self._expected else self._open
        for _, transaction, _, _ in self._expected:
            transaction.final = None  # the count is wrong: whose reply it was is not known
        self._break_off(outcome, unsent, turn)

    def _has_left(self, transaction: Transaction, unsent: int) -> bool:
        """Whether the end of the message may have left: to be cautious, without its last CRLF."""
        return self._written - unsent > transaction.end - len(_END)

    def _break_off(self, outcome: Deferred, unsent: int, turn: Transaction | None) -> None:
        self.over = outcome
        closing = outcome.reply is not None and outcome.reply.code == 421  # what is behind it was not looked at
        waiting = list(dict.fromkeys(entry[1] for entry in self._expected))
        under_way = dict.fromkeys(one for one in (turn, *waiting, self._open) if one is not None)
        loads = dict.fromkeys([one.load for one in under_way] + list(self._loads))
        if not closing and self._expected:
            strained = self.plan is Plan.PIPELINED and not self.progress and len(self._expected) > 1
            self.broke = self.broke or strained or self.plan is Plan.CHUNKED
        marked = set()
        for transaction in under_way:
            if transaction.final is not None and transaction.accepted:
                transaction.settle_refusals()
                transaction.settle(verdict(transaction.final))
                transaction.load.closed += 1
                self.progress += 1
            transaction.keep_refusals()
        for transaction in waiting:
            if closing or transaction.hollow or transaction.final is not None or not transaction.end:
                continue
            nobody = transaction.turned_away and not transaction.accepted
            if not nobody and self._has_left(transaction, unsent):
                why = outcome.reason or str(outcome.reply)
                transaction.settle_unrefused(Deferred(reason=why, status=outcome.status, possible_duplicate=True))
                marked.add(transaction.load)
        self.marked = bool(marked)
        for load in loads:
            if load in marked or load.closed or load.complete:
                load.settle_rest(of_message(outcome))
                self.settled.append(load)
            elif turn is not None and load is turn.load:
                self.interrupted, self.touched = load, turn.mail is not None
            else:
                self.returned.append(load)
        self._expected.clear()
        self._loads.clear()
        self._open = self.streaming = None
