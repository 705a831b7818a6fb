"""Which plan a server gets, on real sockets: the best that it offers, and a simpler one where it breaks on that."""

from __future__ import annotations

from datetime import timedelta

import pytest

from relayd.mail.outcome import Deferred, Delivered, Failed
from relayd.mail.reply import EnhancedStatus
from relayd.mail.route import Host, Target
from relayd.relay.capabilities import Capabilities
from relayd.relay.plans import Plan, PlanMemory
from tests.relay.kit import ANN, HELLO, NOW, Bench, a_delivery, a_site, deliveries
from tests.support.smtp import CHUNKED, CLOSE, PIPELINED, STALL, Answer, ScriptedServer

TARGET = Target(host=Host(name="mx1.test"), address="192.0.2.1")
BOTH = Capabilities(pipelining=True, chunking=True)
UTF8 = "jörg@example.org"
WITHOUT_UTF8 = PIPELINED.replace("250-SMTPUTF8\n", "")


@pytest.mark.parametrize(
    ("offered", "plan"),
    [
        (Capabilities(), Plan.LOCK_STEP),
        (Capabilities(chunking=True), Plan.LOCK_STEP),
        (Capabilities(pipelining=True), Plan.PIPELINED),
        (BOTH, Plan.CHUNKED),
    ],
)
def test_the_best_plan_that_is_offered_is_taken(offered: Capabilities, plan: Plan) -> None:
    assert PlanMemory(timedelta(hours=1)).best(offered, TARGET, NOW) is plan


def test_what_a_server_broke_on_is_spared_it_for_a_while() -> None:
    memory = PlanMemory(timedelta(hours=1))

    assert memory.broke(TARGET, Plan.CHUNKED, NOW)
    assert memory.best(BOTH, TARGET, NOW) is Plan.PIPELINED
    assert memory.broke(TARGET, Plan.PIPELINED, NOW)
    assert memory.best(BOTH, TARGET, NOW) is Plan.LOCK_STEP
    assert not memory.broke(TARGET, Plan.LOCK_STEP, NOW)
    assert memory.best(BOTH, TARGET, NOW + timedelta(hours=1)) is Plan.CHUNKED


def test_a_server_that_broke_is_not_proven_any_more() -> None:
    memory = PlanMemory(timedelta(hours=1))
    memory.works(TARGET, NOW)
    assert memory.proven(TARGET, NOW)

    memory.broke(TARGET, Plan.CHUNKED, NOW)

    assert not memory.proven(TARGET, NOW)


async def test_a_batch_goes_by_windows_once_the_server_has_taken_one() -> None:
    bench = Bench(settings={"pipeline_window": 8, "read_ahead": 32})
    async with ScriptedServer({"EHLO": CHUNKED}) as server:
        ended = await bench.run(a_site(server.port), deliveries(33))
        (connection,) = server.connections
        assert (ended.settled, ended.undone, ended.failure) == (33, (), None)
        assert [message.content for message in server.taken] == [HELLO] * 33
        assert connection.verbs == ["EHLO", *["MAIL", "RCPT", "BDAT", "RSET"] * 33, "QUIT"]
        assert len(connection.flights) < 33

        again = await bench.run(a_site(server.port), deliveries(8))
        assert again.settled == 8
        assert len(server.connections[1].flights) == 3  # EHLO, all eight messages, QUIT


@pytest.mark.parametrize("final", ["500 5.5.1 what", "502 5.5.1 not here", "503 5.5.1 sequence", CLOSE, "250-a\n550 b"])
async def test_a_server_that_breaks_on_bdat_gets_data(final: Answer | str) -> None:
    bench = Bench()
    async with ScriptedServer({"EHLO": CHUNKED, "final": [final]}) as server:
        await bench.run(a_site(server.port), deliveries(3))
        left = [one for one in deliveries(3) if one.id not in {each.delivery.id for each in bench.reports.attempts}]
        await bench.run(a_site(server.port), left)

        assert "BDAT" in server.connections[0].verbs
        assert all("BDAT" not in connection.verbs for connection in server.connections[1:])
        outcomes = [bench.reports.outcome(f"M{n}") for n in range(3)]
        assert outcomes[1:] == [outcomes[2]] * 2
        assert isinstance(outcomes[2], Delivered)
        first = outcomes[0]
        assert isinstance(first, Delivered) or (isinstance(first, Deferred) and first.possible_duplicate)


async def test_a_server_that_answers_bdat_with_unknown_command_has_it_at_once_by_data() -> None:
    bench = Bench()
    async with ScriptedServer({"EHLO": CHUNKED, "final": ["502 5.5.1 not here"]}) as server:
        ended = await bench.run(a_site(server.port), [a_delivery()])

        assert isinstance(bench.reports.outcome(), Delivered)
        assert ["BDAT" in connection.verbs for connection in server.connections] == [True, False]
        assert ended.failure is None


@pytest.mark.parametrize("end", [CLOSE, STALL])
async def test_a_server_that_breaks_on_a_group_of_commands_gets_them_one_by_one(end: Answer) -> None:
    bench = Bench()
    async with ScriptedServer({"MAIL": [end]}) as server:
        ended = await bench.run(a_site(server.port), [a_delivery()])

        assert isinstance(bench.reports.outcome(), Delivered)
        assert ended.failure is None
        first, second = server.connections
        assert first.flights[1].count(b"\r\n") == 3  # MAIL, RCPT, DATA
        assert [flight.count(b"\r\n") for flight in second.flights[1:4]] == [1, 1, 1]


async def test_the_servers_limits_are_obeyed() -> None:
    bench = Bench()
    ehlo = CHUNKED.replace("250 CHUNKING", "250-CHUNKING\n250 LIMITS MAILMAX=3 RCPTMAX=20")
    names = [f"r{n}@example.org" for n in range(25)]
    async with ScriptedServer({"EHLO": ehlo}) as server:
        ended = await bench.run(a_site(server.port), [a_delivery(to=names, name="M9"), *deliveries(3)])
        (connection,) = server.connections
        assert connection.verbs.count("MAIL") == 3
        assert [len(message.recipients) for message in server.taken] == [20, 5, 1]
        assert [one.id for one in ended.undone] == ["M1", "M2"]
        assert ended.failure is None


class TestSmtpUtf8:
    """RFC 6531 section 3.2: try another host, then reject."""

    async def test_another_host_that_has_it_is_found(self) -> None:
        bench = Bench()
        async with ScriptedServer({"EHLO": WITHOUT_UTF8}) as first, ScriptedServer() as second:
            ended = await bench.run(
                a_site(first.port, second.port), [a_delivery(to=[UTF8, ANN]), a_delivery(name="M2")]
            )

            assert ended.failure is None
            assert [message.recipients for message in first.taken] == [["RCPT TO:<ann@example.org>"]]
            assert len(second.taken[0].recipients) == 2
            assert isinstance(bench.reports.outcomes()[UTF8], Delivered)

    async def test_where_no_host_has_it_the_others_are_served_and_the_sender_told(self) -> None:
        bench = Bench()
        async with ScriptedServer({"EHLO": WITHOUT_UTF8}) as first, ScriptedServer({"EHLO": WITHOUT_UTF8}) as second:
            ended = await bench.run(a_site(first.port, second.port), [a_delivery(to=[UTF8, ANN])])

            assert (ended.undone, ended.failure) == ((), None)
            outcomes = bench.reports.outcomes()
            assert isinstance(outcomes[ANN], Delivered)
            refused = outcomes[UTF8]
            assert isinstance(refused, Failed)
            assert refused.dsn == EnhancedStatus(5, 6, 7)
            assert len(first.taken) + len(second.taken) == 1
            assert b"j\xc3\xb6rg" not in first.connections[0].octets
