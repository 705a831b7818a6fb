"""Messages with a deadline: to whom they are given, with how much time, what is reported (RFC 2852 section 4.1.4)."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.outcome import Deferred, Delivered, Failed
from relayd.relay.capabilities import Capabilities
from relayd.relay.requirements import TOO_LATE
from tests.relay.kit import ANN, BOB, CAROL, NOW, Bench, a_delivery, a_site, closed_port, silent_port, until
from tests.relay.test_engine import OK, QUEUED, Play
from tests.support.smtp import CHUNKED, LOCK_STEP, PIPELINED, Answer, ScriptedServer

OWN, RETURN, NOTIFY = DeadlineMode.OWN, DeadlineMode.RETURN, DeadlineMode.NOTIFY
LACKING = Capabilities(pipelining=True)
OFFERING = Capabilities(pipelining=True, deliver_by=True)
TOO_LATE_HERE = Failed(reason="the deadline, 2026-11-22 12:00:00 UTC, passed; it could not be tried", status=TOO_LATE)
PLANS = [LOCK_STEP, PIPELINED, CHUNKED]


def by(seconds: float, mode: DeadlineMode = RETURN) -> Deadline:
    return Deadline(at=NOW + timedelta(seconds=seconds), mode=mode)


def mails(server: ScriptedServer) -> list[str]:
    return [command for each in server.connections for command in each.commands if command.startswith("MAIL")]


def offering(ehlo: str, parameter: str = "") -> str:
    return ehlo.replace("250-SIZE", f"250-DELIVERBY{parameter}\n250-SIZE")


def test_a_server_that_does_not_promise_to_return_a_message_in_time_must_not_have_it() -> None:
    played = Play(LACKING, a_delivery(deadline=by(60)))

    assert played.writes == []
    assert played.outcomes() == {
        ANN: Failed(reason="the message has a deadline (BY, mode R), and the server lacks DELIVERBY", status=TOO_LATE)
    }


@pytest.mark.parametrize(("seconds", "least", "given_to"), [(60, 61, False), (60, 60, True), (60.9, 61, False)])
def test_one_that_needs_more_time_than_is_left_must_not_have_it(seconds: float, least: int, given_to: bool) -> None:
    offered = Capabilities(pipelining=True, deliver_by=True, deliver_by_min=least)

    played = Play(offered, a_delivery(deadline=by(seconds)))

    assert bool(played.writes) == given_to
    if not given_to:
        why = f"the message must be delivered in 60 seconds, and the server wants {least}"
        assert played.outcomes() == {ANN: Failed(reason=why, status=TOO_LATE)}


def test_less_than_a_second_is_no_time() -> None:
    played = Play(OFFERING, a_delivery(deadline=by(0.9)))

    assert played.writes == []
    assert isinstance(played.outcomes()[ANN], Failed)


@pytest.mark.parametrize(
    "capabilities",
    [LACKING, OFFERING, Capabilities(deliver_by=True, deliver_by_min=3600)],
    ids=["lacking", "offering", "wanting more time"],
)
@pytest.mark.parametrize("deadline", [by(60, NOTIFY), by(-60, NOTIFY), by(60, OWN)])
def test_whoever_is_next_may_have_a_message_that_is_not_to_be_returned_by_them(
    capabilities: Capabilities, deadline: Deadline
) -> None:
    played = Play(capabilities, a_delivery(deadline=deadline)).reply(OK, OK, "354 go", "250 2.0.0 queued")

    assert played.outcomes() == {ANN: QUEUED}
    assert (b" BY=" in played.writes[0]) == (capabilities.deliver_by and deadline.by)


@pytest.mark.parametrize("mode", [OWN, RETURN])
def test_past_its_deadline_nothing_is_tried(mode: DeadlineMode) -> None:
    played = Play(OFFERING, a_delivery(deadline=by(0, mode)))

    assert played.writes == []
    assert played.outcomes() == {ANN: TOO_LATE_HERE}


class TestSeveralTransactions:
    """A message with more recipients than one transaction takes."""

    def test_each_is_told_the_time_that_is_left_then(self) -> None:
        played = Play(OFFERING, a_delivery([ANN, BOB], deadline=by(60)), max_recipients=1)
        played.engine.now += timedelta(seconds=20)
        played.reply(OK, OK, "354 go", "250 2.0.0 queued")

        assert b" BY=60;R\r\n" in played.writes[0]
        assert b" BY=40;R\r\n" in played.writes[1]

    def test_when_the_deadline_passes_between_two_the_rest_is_too_late(self) -> None:
        played = Play(OFFERING, a_delivery([ANN, BOB], deadline=by(60)), max_recipients=1)
        played.engine.now += timedelta(seconds=60)
        played.reply(OK, OK, "354 go", "250 2.0.0 queued")

        assert played.outcomes()[ANN] == QUEUED
        assert played.outcomes()[BOB].dsn == TOO_LATE

    def test_what_is_under_way_by_then_is_not_taken_for_untried(self) -> None:
        chunked = Capabilities(pipelining=True, chunking=True, deliver_by=True)
        delivery = a_delivery([ANN, BOB, CAROL], deadline=by(60))
        played = Play(chunked, delivery, max_recipients=1, proven=True, pipeline_window=2)
        played.engine.now += timedelta(seconds=60)
        played.reply(OK, OK, "250 2.0.0 queued", OK)
        played.lose()

        ann, bob, carol = (played.loads[0].outcomes.get(number) for number in range(3))
        assert ann == QUEUED
        assert isinstance(bob, Deferred)
        assert bob.possible_duplicate
        assert isinstance(carol, Failed)
        assert carol.dsn == TOO_LATE


class TestWithOtherHosts:
    """What may be promised elsewhere is not refused here."""

    def test_a_message_is_left_for_them(self) -> None:
        for offered in (LACKING, Capabilities(deliver_by=True, deliver_by_min=3600)):
            played = Play(offered, a_delivery(deadline=by(60)), elsewhere=True)

            assert (played.writes, played.engine.unsuited) == ([], [played.loads[0]])

    def test_but_not_when_it_is_too_late_everywhere(self) -> None:
        played = Play(LACKING, a_delivery(deadline=by(0, OWN)), elsewhere=True)

        assert isinstance(played.outcomes()[ANN], Failed)


@given(
    st.integers(-100_000, 100_000).map(lambda thousandths: thousandths / 1000),
    st.sampled_from(DeadlineMode),
    st.builds(
        Capabilities,
        pipelining=st.booleans(),
        chunking=st.booleans(),
        deliver_by=st.booleans(),
        deliver_by_min=st.integers(0, 120),
    ),
)
def test_no_server_gets_a_message_to_be_returned_without_its_promise(
    seconds: float, mode: DeadlineMode, capabilities: Capabilities
) -> None:
    played = Play(capabilities, a_delivery(deadline=by(seconds, mode)))

    said = b"".join(played.writes)
    promised = capabilities.deliver_by and max(capabilities.deliver_by_min, 1) <= seconds
    if mode is RETURN:
        assert bool(said) == promised
    else:
        assert bool(said) == (mode is NOTIFY or seconds > 0)
    assert (b" BY=" in said) == (capabilities.deliver_by and mode is not OWN and bool(said))


@pytest.mark.parametrize("ehlo", PLANS)
async def test_the_time_is_that_which_is_left_when_the_message_leaves(ehlo: str) -> None:
    bench = Bench()
    bench.now = NOW + timedelta(seconds=10)
    async with ScriptedServer({"EHLO": offering(ehlo)}) as server:
        await bench.run(a_site(server.port), [a_delivery(deadline=by(60)), a_delivery(name="M2")])

        assert [line.partition(" BY=")[2] for line in mails(server)] == ["50;R", ""]
        assert [bench.reports.of(name).relays_deadline for name in ("M1", "M2")] == [True, True]


async def test_what_waits_behind_another_message_is_told_less_time() -> None:
    bench = Bench(settings={"max_unreported": 1})

    def later(line: str) -> Answer:
        bench.now += timedelta(seconds=7)
        return Answer("250 2.0.0 queued")

    async with ScriptedServer({"EHLO": offering(LOCK_STEP), "final": later}) as server:
        await bench.run(a_site(server.port), [a_delivery(name=f"M{n}", deadline=by(60, NOTIFY)) for n in (1, 2)])

        assert [line.partition(" BY=")[2] for line in mails(server)] == ["60;N", "53;N"]


async def test_a_server_that_knows_no_deadlines_is_reported_as_such() -> None:
    bench = Bench()
    async with ScriptedServer() as server:
        await bench.run(a_site(server.port), [a_delivery(deadline=by(60, NOTIFY))])

        assert isinstance(bench.reports.outcome(), Delivered)
        assert not bench.reports.of("M1").relays_deadline
        assert "BY=" not in mails(server)[0]


async def test_the_second_host_gets_what_the_first_does_not_promise() -> None:
    bench = Bench()
    async with (
        ScriptedServer({"EHLO": offering(PIPELINED, " 3600")}) as first,
        ScriptedServer({"EHLO": offering(PIPELINED)}) as second,
    ):
        await bench.run(a_site(first.port, second.port), [a_delivery(deadline=by(60)), a_delivery(name="M2")])

        assert [line.partition(" BY=")[2] for line in mails(first)] == [""]
        assert [line.partition(" BY=")[2] for line in mails(second)] == ["60;R"]
        assert isinstance(bench.reports.outcome(), Delivered)


async def test_where_no_host_promises_it_the_message_fails() -> None:
    bench = Bench()
    async with ScriptedServer() as server:
        ended = await bench.run(a_site(server.port, closed_port()), [a_delivery(deadline=by(60))])

        outcome = bench.reports.outcome()
        assert isinstance(outcome, Failed)
        assert "lacks DELIVERBY" in outcome.reason
        assert (ended.undone, ended.failure) == ((), None)
        assert mails(server) == []


async def test_a_server_that_refuses_the_parameter_it_offers_refuses_the_message() -> None:
    bench = Bench()
    async with ScriptedServer({"EHLO": offering(PIPELINED), "MAIL": "555 5.5.4 BY: too soon for us"}) as server:
        await bench.run(a_site(server.port), [a_delivery(deadline=by(60))])

        outcome = bench.reports.outcome()
        assert not isinstance(outcome, Deferred)
        assert str(outcome) == "555 5.5.4 BY: too soon for us"


class TestWaitingForOthers:
    """What waits in a relayer's hands when its deadline passes: the others before it may take minutes."""

    def bench(self) -> Bench:
        bench = Bench(settings={"max_unreported": 1})
        began = time.monotonic()
        bench.clock = lambda: NOW + timedelta(seconds=time.monotonic() - began)
        return bench

    async def test_it_is_ended_then_and_the_others_go_on(self) -> None:
        bench = self.bench()
        batch = [a_delivery(), a_delivery(name="M2", deadline=by(0.3, OWN)), a_delivery(name="M3")]
        async with ScriptedServer({"EHLO": LOCK_STEP, "final": [Answer("250 2.0.0 queued", delay=1.5)]}) as server:
            running = asyncio.create_task(bench.run(a_site(server.port), batch))
            await until(lambda: bench.reports.attempts)
            assert [attempt.delivery.id for attempt in bench.reports.attempts] == ["M2"]
            assert bench.reports.outcome("M2") == TOO_LATE_HERE
            ended = await running

            assert (ended.settled, ended.delivered, ended.undone) == (3, 2, ())
            assert len(server.taken) == 2

    async def test_also_while_nobody_lets_us_in(self) -> None:
        bench = self.bench()
        async with silent_port() as port:
            relayer = bench.relayer(a_site(port))
            running = asyncio.create_task(relayer.run([a_delivery(deadline=by(0.3, OWN)), a_delivery(name="M2")]))
            await until(lambda: bench.reports.attempts)
            assert bench.reports.outcome() == TOO_LATE_HERE
            relayer.finish()
            ended = await running

            assert [delivery.id for delivery in ended.undone] == ["M2"]

    async def test_what_an_operator_took_back_is_given_back(self) -> None:
        bench = self.bench()
        bench.withdrawn.add("M2")
        batch = [a_delivery(), a_delivery(name="M2", deadline=by(0.3, OWN))]
        async with ScriptedServer({"EHLO": LOCK_STEP, "final": Answer("250 2.0.0 queued", delay=0.6)}) as server:
            ended = await bench.run(a_site(server.port), batch)

            assert [delivery.id for delivery in ended.undone] == ["M2"]
            assert [attempt.delivery.id for attempt in bench.reports.attempts] == ["M1"]

    async def test_what_is_under_way_is_not_broken_off(self) -> None:
        bench = self.bench()
        async with ScriptedServer({"EHLO": LOCK_STEP, "final": Answer("250 2.0.0 queued", delay=0.6)}) as server:
            await bench.run(a_site(server.port), [a_delivery(deadline=by(0.3, OWN))])

            assert isinstance(bench.reports.outcome(), Delivered)
