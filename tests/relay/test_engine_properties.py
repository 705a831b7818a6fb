"""Whatever a server says, and however it is cut: the engine's invariants."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.mail.outcome import Deferred, Delivered, Scope
from relayd.relay.capabilities import Capabilities
from relayd.relay.plans import Plan
from relayd.relay.transaction import Load, Step
from tests.relay.kit import a_delivery, an_engine

MEAN = st.sampled_from(
    [
        b"250 ok\r\n",
        b"250 ok\r\n",
        b"250 ok\r\n",
        b"250-a\r\n250 b\r\n",
        b"252\r\n",
        b"354 go\r\n",
        b"354 go\r\n",
        b"421 bye\r\n",
        b"450 later\r\n",
        b"452 too many\r\n",
        b"503 sequence\r\n",
        b"550 5.1.1 no\r\n",
        b"552 too many\r\n",
        b"550-no\r\n250 ok\r\n",
        b"150 wait\r\n",
        b"rubbish\r\n",
        b"25",
    ]
)


class Observer:
    """A server's view: what it was told, and which messages it has whole."""

    def __init__(self, *, chunked: bool) -> None:
        self.received = b""
        self._chunked = chunked

    def messages(self) -> list[bytes]:
        """Contents that came to their end, as they were sent, by a strict reading of the whole conversation."""
        return self._by_count() if self._chunked else self._by_dot()

    def _by_count(self) -> list[bytes]:
        found, content, rest = [], b"", self.received
        while b"\r\n" in rest:
            line, _, rest = rest.partition(b"\r\n")
            words = line.split()
            if words[0] == b"RSET":
                content = b""
            elif words[0] == b"BDAT":
                size = int(words[1])
                content, whole, rest = content + rest[:size], len(rest) >= size, rest[size:]
                if whole and words[2:] == [b"LAST"]:
                    found.append(content)
        return found

    def _by_dot(self) -> list[bytes]:
        found = []
        rest = self.received
        while (start := rest.find(b"BODY-")) >= 0:
            end = rest.find(b"\r\n.\r\n", start)
            if end < 0:
                break
            found.append(rest[start:end])
            rest = rest[end + 5 :]
        return found


class Run:
    """An engine with a few messages, fed with what Hypothesis makes up."""

    def __init__(self, plan: Plan, sizes: list[int], stream: bool, *, proven: bool = True) -> None:
        self.engine = an_engine(Capabilities(), plan=plan, max_recipients=2, proven=proven)
        self.dot = b"." if plan is Plan.CHUNKED else b".."
        self.loads = []
        for number, size in enumerate(sizes):
            file = b"BODY-%d\r\n.dot\r\n" % number
            names = [f"r{n}@example.org" for n in range(size)]
            self.loads.append(Load(a_delivery(names, file, name=f"M{number}"), None if stream else file))
        self.waiting = list(self.loads)
        self.server = Observer(chunked=plan is Plan.CHUNKED)
        self.ended: list[str] = []
        self.turn()

    def turn(self) -> None:
        engine = self.engine
        while engine.over is None:
            while engine.room and self.waiting:
                engine.start(self.waiting.pop(0))
            self.ended += [one.id for one in engine.endings]
            self.server.received += engine.take()
            if engine.streaming is None:
                return
            number = int(engine.streaming.load.delivery.id[1:])
            engine.body(b"BODY-%d\r\n%sdot" % (number, self.dot))
            engine.end_body(b"\r\n")

    def check(self) -> None:
        engine = self.engine
        started = [load for load in self.loads if load not in self.waiting]
        ends = [*engine.settled, *engine.returned, *([engine.end.interrupted] if engine.end.interrupted else [])]
        assert len(ends) == len(set(map(id, ends)))
        if engine.over is not None:
            assert set(map(id, ends)) == set(map(id, started))
        whole = self.server.messages()
        for load in self.loads:
            for outcome in load.outcomes.values():
                if isinstance(outcome, Delivered):
                    assert outcome.reply.positive
                    assert b"BODY-%d\r\n%sdot" % (int(load.delivery.id[1:]), self.dot) in [
                        one.removesuffix(b"\r\n") for one in whole
                    ]
                    assert load.delivery.id in self.ended
                if isinstance(outcome, Deferred) and outcome.possible_duplicate:
                    assert load.delivery.id in self.ended
        for load in engine.settled:
            assert set(load.outcomes) == {one.number for one in load.delivery.recipients}
        for load in engine.returned + ([engine.end.interrupted] if engine.end.interrupted else []):
            assert not any(isinstance(outcome, Delivered) for outcome in load.outcomes.values())


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(Plan),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.booleans(),
    st.lists(MEAN, max_size=30),
    st.booleans(),
    st.data(),
)
def test_no_server_makes_the_engine_break_its_promises(
    plan: Plan, sizes: list[int], stream: bool, replies: list[bytes], proven: bool, data: st.DataObject
) -> None:
    run = Run(plan, sizes, stream, proven=proven)
    octets = b"".join(replies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=20)))
    for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True):
        run.engine.receive(octets[start:end])
        run.turn()
        run.check()
    run.engine.break_off(Deferred(scope=Scope.HOST, reason="lost"))
    run.check()


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(Plan),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.lists(
        st.sampled_from([b"250 ok\r\n", b"550 no\r\n", b"450 no\r\n", b"452 many\r\n", b"354 go\r\n"]), max_size=60
    ),
)
def test_a_server_that_answers_in_turn_gets_every_message_settled(
    plan: Plan, sizes: list[int], mood: list[bytes]
) -> None:
    run = Run(plan, sizes, stream=False)
    moods = iter(mood)
    for _ in range(2000):
        step = run.engine.awaited
        if run.engine.over is not None or step is None:
            break
        reply = next(moods, b"250 ok\r\n")
        if step is Step.DATA:
            reply = reply if reply[:1] == b"5" else b"354 go\r\n"
        elif step is Step.RSET or reply[:1] == b"3" or (step is Step.MAIL and reply[:3] == b"503"):
            reply = b"250 ok\r\n"
        run.engine.receive(reply)
        run.turn()
    run.check()
    assert run.engine.over is not None or len(run.engine.settled) == len(run.loads)
