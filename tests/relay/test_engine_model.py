"""A random server against the engine, for each plan: what it can never be made to claim.

The model reads what the engine sends as a strict server does, and knows of each of its replies what it truly answers.
It may refuse, accept, say too much or too little at a time, cut its octets anywhere, and end the connection.

What cannot be told from outside is not claimed: of a server that says a 250 nobody asked for, and then ends the
connection instead of answering; nor, where DATA is used, of one that says it between its 354 and its answer.
"""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relayd.mail.outcome import Deferred, Delivered, Scope
from relayd.relay.capabilities import Capabilities
from relayd.relay.content import whole
from relayd.relay.plans import Plan
from relayd.relay.transaction import Load
from tests.relay.kit import a_delivery, an_engine

RARELY = st.integers(0, 9)  # a rule acts on 0: else nearly every conversation would be a short one
REFUSALS = [b"450 4.2.0 later", b"452 4.5.3 too many", b"550 5.1.1 no", b"552 too many", b"554 5.7.1 no"]


class Envelope:
    """What was answered of one: whether somebody may be to get the message."""

    def __init__(self) -> None:
        self.refused = False  # MAIL
        self.open_to = 0  # recipients that were accepted, or not answered yet
        self.accepted = 0


class Server:
    """A strict reader of commands and contents; `owed` are the commands that wait for an answer, in order."""

    def __init__(self) -> None:
        self.owed: deque[tuple[str, Envelope]] = deque()
        self.contents: list[bytes] = []  # whole messages, un-stuffed, in order
        self.envelopes: list[Envelope] = []  # of `contents`
        self.envelope = Envelope()  # the last that was begun
        self.ends: deque[int] = deque()  # which of `contents` each owed "end" is
        self._rest = b""
        self._in_data = False
        self._awaits_354 = False
        self._chunks = b""
        self._missing = 0  # octets of a chunk
        self._last = False

    @property
    def partial(self) -> bytes:
        """What has come of a message that is on its way, but for a line end that may not be whole."""
        begun = (b"\r\n" + self._rest).replace(b"\r\n.", b"\r\n")[2:] if self._in_data else self._chunks
        return begun.rstrip(b"\r\n.")

    def take(self, octets: bytes) -> None:
        """Read what came."""
        self._rest += octets
        while self._read_one():
            pass

    def data_granted(self, granted: bool) -> None:
        """DATA was answered."""
        self._in_data = granted

    def _read_one(self) -> bool:
        if self._missing:
            return self._read_chunk()
        if self._in_data:
            return self._read_data()
        line, end, rest = self._rest.partition(b"\r\n")
        if not end:
            return False
        verb = line.split(b" ")[0].split(b":")[0].decode()
        self._rest = rest
        if verb == "BDAT":
            words = line.split()
            self._missing, self._last = int(words[1]), words[2:] == [b"LAST"]
            if not self._missing:
                self._end_chunk()
            return True
        assert verb in ("MAIL", "RCPT", "DATA", "RSET"), line
        if verb == "RSET":
            self._chunks = b""
        if verb == "MAIL":
            self.envelope = Envelope()
        self.envelope.open_to += verb == "RCPT"
        self.owed.append((verb, self.envelope))
        return True

    def _read_chunk(self) -> bool:
        piece = self._rest[: self._missing]
        self._rest = self._rest[len(piece) :]
        self._chunks += piece
        self._missing -= len(piece)
        if self._missing:
            return False
        self._end_chunk()
        return True

    def _end_chunk(self) -> None:
        if self._last:
            self._end(self._chunks)
            self._chunks = b""
        else:
            self.owed.append(("BDAT", self.envelope))

    def _end(self, content: bytes) -> None:
        self.owed.append(("end", self.envelope))
        self.ends.append(len(self.contents))
        self.contents.append(content)
        self.envelopes.append(self.envelope)

    def _read_data(self) -> bool:
        whole_text = b"\r\n" + self._rest
        at = whole_text.find(b"\r\n.\r\n")
        if at < 0:
            return False
        text = whole_text[: at + 2]
        self._rest = whole_text[at + 5 :]
        self._in_data = False
        self._end(text.replace(b"\r\n.", b"\r\n")[2:])
        return True


class Model(RuleBasedStateMachine):
    """See the module."""

    @initialize(
        plan=st.sampled_from(Plan),
        sizes=st.lists(st.integers(1, 3), min_size=1, max_size=5),
        stream=st.booleans(),
        proven=st.booleans(),
        window=st.integers(1, 4),
    )
    def begin(self, plan: Plan, sizes: list[int], stream: bool, proven: bool, window: int) -> None:
        self.engine = an_engine(
            Capabilities(), plan=plan, proven=proven, max_recipients=2, pipeline_window=window, pipeline_window_size=64
        )
        self.plan = plan
        self.server = Server()
        self.taken: set[int] = set()  # contents that were answered with 2yz
        self.honest = True  # until it says more than it was asked for
        self.provable = True  # whether a false claim could be known
        self.files = {}
        self.loads = []
        for number, size in enumerate(sizes):
            file = b"Number: %d\r\n\r\n.\r\n..two\r\nend\r\n" % number
            delivery = a_delivery([f"r{n}@example.org" for n in range(size)], file, name=f"M{number}")
            self.files[delivery.id] = file
            self.loads.append(Load(delivery, None if stream else file))
        self.waiting = list(self.loads)
        self.pieces: deque[bytes] = deque()
        self.turn()

    def turn(self) -> None:
        """Do what the driver of an engine does."""
        engine = self.engine
        while engine.over is None:
            while engine.room and self.waiting:
                engine.start(self.waiting.pop(0))
            self.server.take(engine.take())
            if engine.streaming is None:
                return
            load = engine.streaming.load
            content = whole(load.body, self.files[load.delivery.id], stuffed=self.plan is not Plan.CHUNKED)
            engine.body(content[:10])
            if engine.full:
                self.server.take(engine.take())
            if engine.streaming is not None:
                engine.end_body(content[10:])

    def check_marks(self) -> None:
        """All that was sent has left: what may have arrived is marked, and nothing else.

        A server that refuses MAIL and accepts a recipient all the same contradicts itself: it may have anything.
        """
        server = self.server
        envelopes = ((number, server.envelopes[number]) for number in server.ends)
        doubtful = {
            server.contents[number]
            for number, envelope in envelopes
            if envelope.accepted or (envelope.open_to and not envelope.refused)
        }
        for load in self.loads:
            marked = any(getattr(outcome, "possible_duplicate", False) for outcome in load.outcomes.values())
            assert marked == (self.files[load.delivery.id] in doubtful)

    def say(self, reply: bytes, cut: int = 0) -> None:
        octets = reply + b"\r\n"
        for piece in (octets[:cut], octets[cut:]):
            if piece:
                self.engine.receive(piece)
        self.turn()

    @precondition(lambda self: self.engine.over is None and self.server.owed)
    @rule(refusal=st.none() | st.sampled_from(REFUSALS), cut=st.integers(0, 12))
    def answer(self, refusal: bytes | None, cut: int) -> None:
        """Answer the next command, as it may be answered."""
        what, envelope = self.server.owed.popleft()
        reply = refusal or b"250-2.0.0 well\r\n250 2.0.0 ok"
        if refusal is not None:
            envelope.refused = envelope.refused or what == "MAIL"
            envelope.open_to -= what == "RCPT"
        elif what == "RCPT":
            envelope.accepted += 1
        if what == "RSET":
            reply = b"250 2.0.0 reset"
        elif what == "DATA":
            reply = refusal or b"354 go ahead"
            self.server.data_granted(refusal is None)
        elif what == "end":
            number = self.server.ends.popleft()
            if refusal is None:
                self.taken.add(number)
        self.say(reply, cut)

    @precondition(lambda self: self.engine.over is None)
    @rule(reply=st.sampled_from([b"250 2.0.0 ok", b"550 5.0.0 no", b"354 go ahead"]))
    def say_one_too_many(self, reply: bytes) -> None:
        """At most one reply that nobody asked for: more cannot be found out by counting."""
        early_grant = reply[:3] == b"354" and any(what == "DATA" for what, _ in self.server.owed)
        if self.honest and not early_grant:
            self.honest = False
            self.provable = self.plan is Plan.CHUNKED
            self.say(reply)

    @precondition(lambda self: self.engine.over is None and self.server.owed)
    @rule(dice=RARELY)
    def answer_in_advance(self, dice: int) -> None:
        """What is answered has not even left."""
        if dice == 0:
            self.provable = self.provable and self.honest
            self.engine.receive(b"250 2.0.0 ok\r\n", 10_000)
            assert self.engine.over is not None

    @precondition(lambda self: self.engine.over is None)
    @rule(dice=RARELY, octets=st.sampled_from([b"550-no\r\n250 ok", b"150 wait", b"rubbish", b"999 what"]))
    def say_what_is_no_reply(self, dice: int, octets: bytes) -> None:
        if dice == 0:
            self.say(octets)
            assert self.engine.over is not None

    @precondition(lambda self: self.engine.over is None and self.server.owed)
    @rule(dice=RARELY)
    def close_with_421(self, dice: int) -> None:
        if dice == 0:
            self.provable = self.provable and self.honest
            self.say(b"421 4.3.2 going down")
            assert self.engine.over is not None

    @precondition(lambda self: self.engine.over is not None)
    @rule()
    def speak_after_the_end(self) -> None:
        """What comes then changes nothing."""
        before = [dict(load.outcomes) for load in self.loads]
        self.engine.receive(b"250 2.0.0 ok\r\n")
        assert [load.outcomes for load in self.loads] == before

    @precondition(lambda self: self.engine.over is None)
    @rule(dice=RARELY, unsent=st.sampled_from([0, 0, 3, 50, 10_000]))
    def lose_the_connection(self, dice: int, unsent: int) -> None:
        if dice == 0:
            self.lose(unsent)

    def lose(self, unsent: int) -> None:
        self.provable = self.provable and self.honest
        self.engine.break_off(Deferred(scope=Scope.HOST, reason="lost"), unsent)
        if unsent == 0 and self.honest:
            self.check_marks()
        assert unsent < 10_000 or not self.engine.end.marked

    @invariant()
    def delivered_only_if_the_final_reply_was_positive(self) -> None:
        if not hasattr(self, "loads"):
            return
        taken = {self.server.contents[number] for number in self.taken}
        for load in self.loads:
            for outcome in load.outcomes.values():
                if isinstance(outcome, Delivered) and self.provable:
                    assert self.files[load.delivery.id] in taken

    @invariant()
    def every_recipient_has_one_outcome_in_the_end(self) -> None:
        if not hasattr(self, "loads"):
            return
        engine = self.engine
        ends = [*engine.settled, *engine.returned, *([engine.end.interrupted] if engine.end.interrupted else [])]
        assert len(ends) == len(set(map(id, ends)))
        if engine.over is not None:
            started = [load for load in self.loads if load not in self.waiting]
            assert set(map(id, ends)) == set(map(id, started))
        for load in engine.settled:
            assert set(load.outcomes) == {one.number for one in load.delivery.recipients}

    @invariant()
    def what_came_is_a_body_or_the_beginning_of_one(self) -> None:
        if not hasattr(self, "loads"):
            return
        for content in self.server.contents:
            assert content in (*self.files.values(), b"")
        assert any(file.startswith(self.server.partial) for file in self.files.values())

    def teardown(self) -> None:
        """The end comes in any case."""
        if hasattr(self, "loads") and self.engine.over is None:
            self.lose(0)
            self.every_recipient_has_one_outcome_in_the_end()


TestEngine = Model.TestCase
TestEngine.settings = settings(max_examples=600, stateful_step_count=50, deadline=None)
