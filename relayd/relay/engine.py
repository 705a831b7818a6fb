"""The SMTP engine: deliveries and octets of the server in, octets for the server and outcomes out.

Sans-IO.  It begins after the greeting, EHLO, STARTTLS and AUTH (opening.py), and ends with the connection.  Its plans:
pipelined (RFC 2920), `MAIL RCPT* DATA` and then `<body> . MAIL RCPT* DATA` in one write, one round trip per message;
and lock-step, a command at a time.  Replies are matched by count, never by text.

Invariants, checked by tests/relay/test_engine.py and test_engine_properties.py:

    Delivered only by a 2yz reply to the end of that message, received after the end had left.
    No body without a 354, and not if more came than was asked for: octets that nobody asked for end the connection,
    and what follows them is never taken for an answer.
    Every recipient of every load that was started has exactly one outcome when the load is in `settled`; every load
    that was started is in the end in `settled`, `interrupted` or `returned`, exactly once.

Whoever drives it calls `start` while `room`, `receive` with what arrived, and then writes `take()`; before that it
notes `endings`.  When `streaming` is set, it feeds `body` and then `end_body`.  `unsent` is the number of octets taken
that have not left yet.
"""

from __future__ import annotations

from collections import deque

from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.recipient import Recipient
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.relay import commands, content
from relayd.relay.capabilities import Capabilities
from relayd.relay.replies import ProtocolError, ReplyParser
from relayd.relay.requirements import BAD_ADDRESS, BAD_SENDER, obstacle, unnameable
from relayd.relay.transaction import Load, Script, Step, Transaction, of_message, refusal, verdict

_END = b".\r\n"
_PROTOCOL = EnhancedStatus(4, 5, 0)  # RFC 3463 section 3.6: other or undefined protocol status


class Engine:
    """One connection's transactions.  O(1) for each reply, O(octets) for each body."""

    def __init__(self, capabilities: Capabilities, *, max_recipients: int = 100) -> None:
        self.capabilities = capabilities
        self.settled: list[Load] = []  # for the driver to take away
        self.endings: list[Delivery] = []  # whose last octet is in the next `take()`
        self.streaming: Transaction | None = None
        self.over: Deferred | None = None  # why this connection is of no use any more
        self.interrupted: Load | None = None  # the load whose turn it was then; its end had not left
        self.marked = False  # whether the end of a message had left, and its answer had not come
        self.touched = False  # whether the server had answered that load's MAIL
        self.returned: list[Load] = []  # loads behind it
        self.answered = 0  # replies
        self.progress = 0  # transactions that the server settled
        self._max_recipients = max_recipients
        self._parser = ReplyParser()
        self._expected: deque[tuple[Step, Transaction, Recipient | None]] = deque()
        self._load: Load | None = None  # has recipients that are in no transaction yet
        self._open: Transaction | None = None  # its end is not written yet
        self._failed = False  # the last transaction; the next begins with RSET if that costs nothing
        self._out: list[bytes] = []
        self._written = 0

    @property
    def room(self) -> bool:
        """Whether a load can be started now."""
        return (
            self._open is None
            and self._load is None
            and self.over is None
            and (self.capabilities.pipelining or not self._expected)
        )

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return self._open is None and self._load is None and not self._expected

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
        return "in the message" if self._open.data else "in the envelope"

    def start(self, load: Load) -> None:
        """Begin a delivery.  What cannot be sent to this server at all is settled at once."""
        assert self.room, "start() without room"
        if problem := obstacle(load.delivery, self.capabilities):
            load.settle_rest(problem)
        elif not self.capabilities.smtputf8:
            load.outcomes.update(unnameable(load.pending))
        load.renew()
        self._load = load
        self._proceed()

    def receive(self, octets: bytes, unsent: int = 0) -> None:
        """Take what the server sent."""
        if self.over is not None:
            return
        self._parser.feed(octets)
        try:
            while self.over is None and (reply := self._parser.next()) is not None:
                self._answer(reply, unsent)
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
        self._written += len(octets)
        self.endings.clear()
        return octets

    def body(self, octets: bytes) -> None:
        """Send a piece of the body that is streaming."""
        self._out.append(octets)

    def end_body(self, octets: bytes) -> None:
        """Send the last piece of the body that is streaming, and the final dot."""
        assert self.streaming is not None
        transaction, self.streaming = self.streaming, None
        self._out.append(octets)
        self._end(transaction)
        self._proceed()

    def break_off(self, outcome: Deferred, unsent: int = 0) -> None:
        """The connection is lost, late or to be left: settle what can be said of each load under way."""
        if self.over is None:
            self._break_off(outcome, unsent, self._expected[0][1] if self._expected else self._open)

    # Replies

    def _answer(self, reply: Reply, unsent: int) -> None:
        self.answered += 1
        if not self._expected:
            self._unasked(reply, unsent)
            return
        step, transaction, recipient = self._expected.popleft()
        if reply.code == 421:
            self._break_off(Deferred(reply, Scope.HOST), unsent, transaction)
        elif step is Step.FINAL:
            self._final(transaction, reply, unsent)
        elif step is Step.DATA:
            self._data(transaction, reply)
        elif reply.intermediate or (step is Step.RSET and not reply.positive):
            raise _out_of_place(reply, step, transaction, self)
        elif step is Step.MAIL:
            transaction.mail = reply
        elif recipient is not None and reply.positive:
            transaction.accepted.append(recipient)
        elif recipient is not None:
            transaction.refused.append((recipient, reply))

    def _data(self, transaction: Transaction, reply: Reply) -> None:
        if reply.positive or (reply.intermediate and reply.code != 354):
            raise _out_of_place(reply, Step.DATA, transaction, self)
        transaction.data = reply

    def _final(self, transaction: Transaction, reply: Reply, unsent: int) -> None:
        early = not self._has_left(transaction, unsent)
        if reply.intermediate or (early and reply.positive):
            self._expected.appendleft((Step.FINAL, transaction, None))
            raise ProtocolError(f"{reply} {'before' if early else 'at'} the end of the message")
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

    def _unasked(self, reply: Reply, unsent: int) -> None:
        transaction = self._open
        if reply.code == 421:
            self._break_off(Deferred(reply, Scope.HOST), unsent, transaction)
        elif self.streaming is not None and transaction is not None and (reply.transient or reply.permanent):
            self.streaming = None
            transaction.settle_refusals()
            self._continue(transaction.load)
            self._close(transaction, reply)
            self._break_off(Deferred(reply, Scope.HOST, reason="refused before its end"), unsent, None)
        else:
            raise ProtocolError(f"a reply that nobody asked for: {reply}")

    # Commands

    def _proceed(self) -> None:
        while self.over is None and self.streaming is None:
            if self._open is None:
                if self._load is None or (self._expected and not self.capabilities.pipelining):
                    return
                self._begin(self._load)
            elif self._expected and self._open.data is None:
                return
            else:
                self._go_on(self._open)

    def _begin(self, load: Load) -> None:
        """Open the next transaction of a load, or settle it if there is nobody left to send to."""
        if not load.pending:
            self._load = None
            self._settle_if_done(load)
            return
        recipients = tuple(load.pending[: self._max_recipients])
        del load.pending[: len(recipients)]
        fresh = self._failed and not self._expected
        try:
            script = self._script(load, recipients, fresh=fresh)
        except commands.UnsafeCommand as error:
            load.settle_rest(Failed(reason=str(error), status=BAD_SENDER))
            return
        if len(script) <= 2 + fresh:
            return  # nobody left of these; the next turn of `_proceed` sees to the rest
        self._failed = False
        load.open += 1
        self._open = Transaction(load, recipients, script, fresh)
        if not load.pending:
            self._load = None
        self._say(self._open, len(script) if self.capabilities.pipelining else 1)

    def _script(self, load: Load, recipients: tuple[Recipient, ...], *, fresh: bool) -> Script:
        delivery, offered = load.delivery, self.capabilities
        utf8 = offered.smtputf8 and (
            commands.needs_smtputf8(delivery) or any(one.address.smtputf8 for one in recipients)
        )
        script: Script = deque()
        if fresh:
            script.append((Step.RSET, None, commands.RSET))
        script.append((Step.MAIL, None, commands.mail(delivery, offered, utf8=utf8)))
        for one in recipients:
            try:
                script.append((Step.RCPT, one, commands.rcpt(one, offered, utf8=utf8)))
            except commands.UnsafeCommand as error:
                load.outcomes[one.number] = Failed(scope=Scope.RECIPIENT, reason=str(error), status=BAD_ADDRESS)
        script.append((Step.DATA, None, commands.DATA))
        return script

    def _say(self, transaction: Transaction, count: int) -> None:
        for _ in range(count):
            step, recipient, octets = transaction.script.popleft()
            self._out.append(octets)
            self._expected.append((step, transaction, recipient))

    def _go_on(self, transaction: Transaction) -> None:
        """Do what the replies to the open transaction call for."""
        refused = transaction.mail is not None and not transaction.mail.positive
        reply = transaction.data
        if reply is None:
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
            self._end(transaction)

    def _send_body(self, transaction: Transaction) -> None:
        raw = transaction.load.raw
        if raw is None:
            self.streaming = transaction
        else:
            self._out.append(content.whole(transaction.load.delivery.body, raw))
            self._end(transaction)

    def _end(self, transaction: Transaction) -> None:
        self._out.append(_END)
        transaction.end = self._written + sum(map(len, self._out))
        self._expected.append((Step.FINAL, transaction, None))
        if not transaction.hollow:
            self.endings.append(transaction.load.delivery)
            transaction.settle_refusals()
        self._continue(transaction.load)

    def _abandon(self, transaction: Transaction) -> None:
        """Leave a transaction that does not come to a message."""
        self._settle_envelope(transaction)
        mail = transaction.mail
        if transaction.data is not None and mail is not None and mail.positive:
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
        if transaction is self._open:
            self._continue(load)
        self._settle_if_done(load)

    def _continue(self, load: Load) -> None:
        self._open = None
        self._load = load if load.pending else None

    def _settle_if_done(self, load: Load) -> None:
        if not load.pending and not load.open:
            self.settled.append(load)

    # The end of the connection

    def _violated(self, what: str, unsent: int) -> None:
        reason = f"protocol error {self.where}: {what}"
        self.break_off(Deferred(scope=Scope.HOST, reason=reason, status=_PROTOCOL), unsent)

    def _has_left(self, transaction: Transaction, unsent: int) -> bool:
        """Whether the final dot may have left: its line, to be cautious without the CRLF."""
        return self._written - unsent > transaction.end - len(_END)

    def _break_off(self, outcome: Deferred, unsent: int, turn: Transaction | None) -> None:
        self.over = outcome
        waiting = [entry[1] for entry in self._expected]
        under_way = dict.fromkeys(one for one in (turn, *waiting, self._open) if one is not None)
        loads = dict.fromkeys([one.load for one in under_way] + ([self._load] if self._load else []))
        marked = set()
        for transaction in under_way:
            transaction.keep_refusals()
        for step, transaction, _ in self._expected:
            if step is Step.FINAL and not transaction.hollow and self._has_left(transaction, unsent):
                why = outcome.reason or str(outcome.reply)
                transaction.settle(Deferred(reason=why, status=outcome.status, possible_duplicate=True))
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
        self._open = self._load = self.streaming = None


def _out_of_place(reply: Reply, step: Step, transaction: Transaction, engine: Engine) -> ProtocolError:
    engine._expected.appendleft((step, transaction, None))
    return ProtocolError(f"{reply} to {step.value}")
