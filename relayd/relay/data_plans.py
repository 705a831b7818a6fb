"""The plans that send a message with DATA: lock-step, a command and then its reply; and pipelined (RFC 2920).

Pipelined is `MAIL RCPT* DATA`, then `<body> . MAIL RCPT* DATA` in one write: one round trip for each message.  The 354
to DATA shows, message by message, that the count of replies is right.
"""

from __future__ import annotations

from datetime import datetime

from relayd.mail.outcome import Deferred, Scope
from relayd.mail.recipient import Recipient
from relayd.mail.reply import Reply
from relayd.relay import commands, content
from relayd.relay.capabilities import Capabilities
from relayd.relay.engine import Engine
from relayd.relay.plans import Plan
from relayd.relay.replies import ProtocolError
from relayd.relay.transaction import Load, Script, Step, Transaction, refusal, verdict

_END = b".\r\n"
END_SENT = "message sent, and its end"


class LockStepEngine(Engine):
    """A command, then its reply."""

    plan = Plan.LOCK_STEP

    def __init__(
        self, capabilities: Capabilities, now: datetime, *, max_recipients: int = 100, elsewhere: bool = False
    ) -> None:
        super().__init__(capabilities, now, max_recipients=max_recipients, elsewhere=elsewhere)
        self._failed = False  # the last transaction; the next begins with RSET if that costs nothing

    def body(self, octets: bytes) -> None:
        """Send a piece of the body that is streaming."""
        self._put(octets)

    @property
    def _free(self) -> bool:
        return not self._expected

    @property
    def _strained(self) -> bool:
        return False

    def _open_with(self, load: Load, recipients: tuple[Recipient, ...], script: Script) -> None:
        fresh = self._failed and not self._expected
        if fresh:
            script.appendleft((Step.RSET, None, commands.RSET))
        script.append((Step.DATA, None, commands.DATA))
        self._failed = False
        self._open = Transaction(load, recipients, script, fresh=fresh)
        self._say_first(self._open)

    def _say_first(self, transaction: Transaction) -> None:
        self._say(transaction, 1)

    def _go_on(self, transaction: Transaction) -> None:
        reply = transaction.data
        if reply is None:
            if transaction.turned_away or (transaction.script[0][0] is Step.DATA and not transaction.accepted):
                self._abandon(transaction)
            else:
                self._say(transaction, 1)
        elif reply.permanent or reply.transient:
            self._abandon(transaction)
        elif transaction.accepted and not transaction.turned_away:
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
        self._put(octets)
        self._put(_END)
        transaction.load.note(self.now, _END if transaction.hollow else END_SENT)
        transaction.end = self.said
        self._expect(Step.FINAL, transaction)
        if not transaction.hollow:
            self.endings.append(transaction.load.delivery)
        transaction.settle_refusals()
        self._continue(transaction)

    def _replied(self, step: Step, transaction: Transaction, reply: Reply, unsent: int, *, early: bool) -> None:
        if step is Step.FINAL:
            self._close(transaction, reply)
            if early:
                self._refused_early(reply, unsent)
        elif step is Step.DATA and (reply.code == 354 or reply.transient or reply.permanent):
            transaction.data = reply
        elif step is Step.DATA or not reply.positive:
            raise ProtocolError(f"{reply} to {step.value}")

    def _unasked(self, reply: Reply, unsent: int) -> None:
        transaction = self._open
        if self.streaming is None or transaction is None or not (reply.transient or reply.permanent):
            raise ProtocolError(f"a reply that nobody asked for: {reply}")
        self.streaming = None
        transaction.load.note(self.now, reply)
        transaction.settle_refusals()
        self._continue(transaction)
        self._close(transaction, reply)
        self._refused_early(reply, unsent)

    def _refused_early(self, reply: Reply, unsent: int) -> None:
        # What remains of the message would be read as commands.
        self._break_off(Deferred(reply, Scope.HOST, reason="refused before its end"), unsent, None)

    def _close(self, transaction: Transaction, reply: Reply) -> None:
        if not transaction.hollow:
            transaction.settle(verdict(reply))
        # RFC.md R21: a transaction that took nobody is followed by RSET, whatever its lone dot was answered with.
        self._failed = transaction.hollow or not reply.positive
        self._settled_by_server(transaction)

    def _abandon(self, transaction: Transaction) -> None:
        """Leave a transaction that does not come to a message."""
        self._settle_envelope(transaction)
        if transaction.data is not None and not transaction.turned_away:
            transaction.settle(refusal(transaction.data, Scope.MESSAGE))
        self._settled_by_server(transaction)

    def _settle_envelope(self, transaction: Transaction) -> None:
        mail = transaction.mail
        if mail is not None and mail.code == 503 and not transaction.fresh and self._failed:
            # "Bad sequence" behind another message: never this one's own failure.  Again, after a RSET.
            transaction.load.pending[:0] = transaction.recipients
        else:
            super()._settle_envelope(transaction)
        self._failed = True


class PipelinedEngine(LockStepEngine):
    """An envelope in one write, behind the end of the message before."""

    plan = Plan.PIPELINED

    @property
    def _free(self) -> bool:
        return True

    @property
    def _strained(self) -> bool:
        return not self.progress and len(self._expected) > 1

    def _say_first(self, transaction: Transaction) -> None:
        self._say(transaction, len(transaction.script))
