"""The plan for servers that offer CHUNKING and PIPELINING: several messages for each round trip (RFC 3030, RFC 2920).

`MAIL RCPT* BDAT-LAST body RSET` in one flight, the next message's behind it, up to a window of messages that are not
answered.  The RSET has two duties.  After a refused BDAT the state of the server is undefined without it.  And here
every answer may be a 250, so that one reply too many would let each of the next pass for its neighbour's: therefore a
message is settled by the reply to its BDAT only when the RSET behind it is answered as well.  That costs no round trip.

A large body goes in several chunks, once the envelope is accepted, so that a refusal stops it early.  Until the server
has taken one message by this plan, the window is one: a server that breaks on it breaks on one message.
"""

from __future__ import annotations

from datetime import datetime

from relayd.mail.outcome import Deferred, Scope
from relayd.mail.recipient import Recipient
from relayd.mail.reply import Reply
from relayd.relay import commands, content
from relayd.relay.capabilities import Capabilities
from relayd.relay.engine import PROTOCOL, Engine
from relayd.relay.plans import Plan
from relayd.relay.replies import ProtocolError
from relayd.relay.transaction import Load, Script, Step, Transaction, verdict

_UNKNOWN = frozenset((500, 501, 502, 503, 504))  # to a BDAT in its place: the command is refused, not the message


class ChunkedEngine(Engine):
    """At most `window` messages and some `window_size` octets are unanswered.  `proven`: the server took a message by
    this plan."""

    plan = Plan.CHUNKED

    def __init__(
        self,
        capabilities: Capabilities,
        now: datetime,
        *,
        max_recipients: int = 100,
        elsewhere: bool = False,
        window: int = 16,
        window_size: int = 1024 * 1024,
        proven: bool = False,
    ) -> None:
        super().__init__(capabilities, now, max_recipients=max_recipients, elsewhere=elsewhere)
        self.proven = proven
        self._window = window
        self._window_size = window_size
        self._unanswered = 0  # messages whose end is written

    @property
    def full(self) -> bool:
        """Whether the server owes answers for the window's octets."""
        return self.said - self._heard >= self._window_size

    def body(self, octets: bytes) -> None:
        """Send a piece of the body that is streaming."""
        assert self.streaming is not None
        if octets:
            self._put(command := commands.bdat(len(octets)))
            self._put(octets)
            self.streaming.load.note(self.now, command)
            self._expect(Step.CHUNK, self.streaming)

    @property
    def _free(self) -> bool:
        return self._unanswered < (self._window if self.proven else 1) and not self.full

    @property
    def _strained(self) -> bool:
        return bool(self._expected)

    def _open_with(self, load: Load, recipients: tuple[Recipient, ...], script: Script) -> None:
        self._open = Transaction(load, recipients, script, fresh=True)
        self._say(self._open, len(script))
        if load.raw is not None:
            self._end(self._open, content.whole(load.body, load.raw, stuffed=False))

    def _go_on(self, transaction: Transaction) -> None:
        if transaction.accepted and not transaction.turned_away:
            self.streaming = transaction
        else:
            self._reset(transaction)

    def _end(self, transaction: Transaction, octets: bytes) -> None:
        self._put(command := commands.bdat_last(len(octets)))
        self._put(octets)
        transaction.load.note(self.now, command)
        transaction.end = self.said
        self._expect(Step.FINAL, transaction)
        self.endings.append(transaction.load.delivery)
        self._unanswered += 1
        self._reset(transaction)

    def _reset(self, transaction: Transaction) -> None:
        """End a transaction, however it went: what is behind it begins afresh."""
        self._put(commands.RSET)
        self._expect(Step.RSET, transaction)
        self._open = None

    def _replied(self, step: Step, transaction: Transaction, reply: Reply, unsent: int, *, early: bool) -> None:
        if step is not Step.RSET:
            self._chunk(step, transaction, reply, unsent)
        elif reply.positive:
            self._confirm(transaction, unsent)
        else:
            raise ProtocolError(f"{reply} to RSET")

    def _chunk(self, step: Step, transaction: Transaction, reply: Reply, unsent: int) -> None:
        """Note the reply to a BDAT; what it means is known when the RSET behind it is answered."""
        if transaction.final is not None:
            return  # a chunk before was refused: that decides
        if reply.code in _UNKNOWN and transaction.accepted and not transaction.turned_away:
            self.broke = True
            transaction.end = 0  # it was refused: nobody has it
            outcome = Deferred(reply, Scope.HOST, reason=f"BDAT, which the server offers: {reply}", status=PROTOCOL)
            self._break_off(outcome, unsent, transaction)
        elif step is Step.FINAL:
            transaction.final = reply
        elif not reply.positive:
            # RFC 3030 section 2: no more of it, and a RSET.
            transaction.final = reply
            if transaction is self._open:
                self.streaming = None
                self._reset(transaction)

    def _confirm(self, transaction: Transaction, unsent: int) -> None:
        """Settle a transaction: all its replies are there, and one more."""
        final = transaction.final
        self._unanswered -= transaction.end > 0
        if transaction.turned_away and transaction.accepted:
            raise ProtocolError("recipients accepted although MAIL was refused")
        if transaction.accepted and final is not None:
            transaction.settle_refusals()
            transaction.settle(verdict(final))
            self.proven = self.proven or final.positive
        else:
            self._settle_envelope(transaction)
        self._settled_by_server(transaction)

    def _unasked(self, reply: Reply, unsent: int) -> None:
        raise ProtocolError(f"a reply that nobody asked for: {reply}")
