"""Runs of a relayer against real sockets: what is delivered, deferred, given back, and what the server saw."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from relayd.mail.outcome import Deferred, Delivered, Failed, Scope
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.route import Credentials
from tests.relay.kit import (
    ANN,
    BOB,
    HELLO,
    QUICK,
    Bench,
    a_delivery,
    a_site,
    closed_port,
    deliveries,
    on,
    silent_port,
    until,
)
from tests.support.smtp import CLOSE, LOCK_STEP, RESET, STALL, Answer, Script, ScriptedServer

SHORT = timedelta(seconds=0.15)


async def test_a_batch_goes_over_one_connection_a_round_trip_for_each() -> None:
    bench = Bench()
    async with ScriptedServer() as server:
        ended = await bench.run(a_site(server.port), deliveries(40))
        (connection,) = server.connections
        assert (ended.settled, ended.delivered, ended.undone, ended.failure) == (40, 40, (), None)
        assert [message.content for message in server.taken] == [HELLO] * 40
        assert connection.verbs[-1] == "QUIT"
        assert len(connection.flights) == 1 + 1 + 40 + 1  # EHLO, an envelope, the bodies, QUIT
        assert "RSET" not in connection.verbs
        assert bench.endings.noted == [f"M{n}" for n in range(40)]
        assert max(bench.files.reads) <= 16


async def test_what_is_reported_tells_where_and_how() -> None:
    bench = Bench()
    async with ScriptedServer() as server:
        await bench.run(a_site(server.port), [a_delivery()])
        attempt = bench.reports.of("M1")
        assert attempt.peer == f"mx1.test[127.0.0.1]:{server.port}"
        assert (attempt.tls, attempt.relays_dsn, attempt.ended) == (None, True, bench.now)
        assert bench.reports.outcomes() == {ANN: Delivered(Reply(250, "queued", EnhancedStatus(2, 0, 0)))}


async def test_a_server_without_pipelining_is_served_in_lock_step() -> None:
    bench = Bench()
    async with ScriptedServer({"EHLO": LOCK_STEP}) as server:
        ended = await bench.run(a_site(server.port), deliveries(3))
        assert ended.delivered == 3
        assert server.connections[0].verbs == ["EHLO", *["MAIL", "RCPT", "DATA"] * 3, "QUIT"]


async def test_helo_only_gets_no_parameters() -> None:
    bench = Bench()
    async with ScriptedServer({"EHLO": "502 what"}) as server:
        await bench.run(a_site(server.port), [a_delivery(ret="HDRS")])
        assert server.connections[0].commands[:3] == [
            "EHLO relay.example.org",
            "HELO relay.example.org",
            "MAIL FROM:<sender@example.com>",
        ]
        assert isinstance(bench.reports.outcome(), Delivered)


async def test_many_recipients_go_in_transactions_of_a_hundred() -> None:
    bench = Bench()
    names = [f"r{n}@example.org" for n in range(250)]
    async with ScriptedServer() as server:
        await bench.run(a_site(server.port), [a_delivery(names)])
        assert [len(message.recipients) for message in server.taken] == [100, 100, 50]
        assert all(isinstance(outcome, Delivered) for outcome in bench.reports.outcomes().values())


async def test_what_a_full_server_refuses_goes_in_another_transaction() -> None:
    bench = Bench()
    taken = 0

    def rcpt(line: str) -> str:
        nonlocal taken
        taken += 1
        return "452 4.5.3 too many" if taken % 4 == 0 else "250 ok"

    names = [f"r{n}@example.org" for n in range(10)]
    async with ScriptedServer({"RCPT": rcpt}) as server:
        await bench.run(a_site(server.port), [a_delivery(names)])
        assert sorted(line for message in server.taken for line in message.recipients) == sorted(
            f"RCPT TO:<{name}>" for name in names
        )
        assert all(isinstance(outcome, Delivered) for outcome in bench.reports.outcomes().values())


class TestHostsInOrder:
    """Another host is tried only while nothing was settled."""

    async def test_a_dead_first_host_costs_nothing_but_a_try(self) -> None:
        bench = Bench()
        async with ScriptedServer() as server:
            site = a_site(closed_port(), server.port)
            ended = await bench.run(site, [a_delivery()])
            assert (ended.delivered, ended.failure) == (1, None)
            assert ended.peer == f"mx2.test[127.0.0.1]:{server.port}"
            await bench.run(site, [a_delivery(name="M2")])
            assert bench.book.asked == ["mx1.test", "mx2.test", "mx2.test"]

    @pytest.mark.parametrize(
        "replies",
        [
            {"greeting": "554 no service"},
            {"greeting": "421 busy"},
            {"greeting": CLOSE},
            {"greeting": RESET},
            {"greeting": b"220 mx\r\n250 more\r\n"},
            {"greeting": "250 mx"},
            {"greeting": b"rubbish\r\n"},
            {"EHLO": "451 later"},
            {"EHLO": "421 later"},
            {"EHLO": CLOSE},
            {"EHLO": b"250-mx\r\n550 no\r\n"},
            {"EHLO": b"250 mx\r\n250 more\r\n"},
            {"EHLO": "354 what"},
            {"EHLO": b"250-" + b"x" * 9000 + b"\r\n250 ok\r\n"},
            {"EHLO": Answer("502 no"), "HELO": "550 no"},
            {"MAIL": "421 busy"},
            {"MAIL": CLOSE},
            {"MAIL": RESET},
            {"MAIL": "354 what"},
            {"RCPT": "650 what"},
            {"RCPT": CLOSE},
            {"DATA": "421 busy"},
            {"DATA": "250 what"},
            {"DATA": b"354 go\r\n250 queued as FAKE\r\n"},
            {"DATA": CLOSE},
            {"final": "421 not now"},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("ehlo", [None, LOCK_STEP], ids=["pipelined", "lock-step"])
    async def test_the_next_host_gets_what_the_first_did_not_take(
        self, replies: dict[str, str], ehlo: str | None
    ) -> None:
        bench = Bench()
        first_ehlo = {"EHLO": ehlo} if ehlo else {}
        async with ScriptedServer({**first_ehlo, **replies}) as first, ScriptedServer() as second:
            ended = await bench.run(a_site(first.port, second.port), deliveries(2))
            assert (ended.settled, ended.delivered, ended.undone, ended.failure) == (2, 2, (), None)
            assert (len(first.taken), len(second.taken)) == (0, 2)

    async def test_a_greeting_of_554_is_answered_with_quit(self) -> None:
        bench = Bench()
        async with ScriptedServer({"greeting": "554 5.3.2 no service"}) as server:
            ended = await bench.run(a_site(server.port), [a_delivery()])
            await until(lambda: server.connections[0].ended)
            assert bytes(server.connections[0].octets) == b"QUIT\r\n"
            assert ended.failure is not None
            assert ended.failure.reply == Reply(554, "no service", EnhancedStatus(5, 3, 2))
            assert [one.id for one in ended.undone] == ["M1"]

    async def test_a_server_that_has_our_name_gets_nothing_and_the_next_host_all(self) -> None:
        """H17."""
        bench = Bench()
        async with ScriptedServer({"EHLO": "250 relay.example.org"}) as first, ScriptedServer() as second:
            assert (await bench.run(a_site(first.port, second.port), [a_delivery()])).delivered == 1
            assert first.connections[0].verbs == ["EHLO", "QUIT"]

    async def test_if_all_servers_have_our_name_it_is_a_loop(self) -> None:
        bench = Bench()
        async with ScriptedServer({"EHLO": "250 relay.example.org"}) as server:
            ended = await bench.run(a_site(server.port), [a_delivery()])
            assert isinstance(ended.failure, Failed)
            assert ended.failure.dsn == EnhancedStatus(5, 4, 6)

    async def test_without_any_host_all_is_given_back_with_the_reason(self) -> None:
        bench = Bench()
        ended = await bench.run(a_site(closed_port(), closed_port()), deliveries(3))
        assert len(ended.undone) == 3
        assert isinstance(ended.failure, Deferred)
        assert ended.failure.scope is Scope.HOST
        assert "refused" in str(ended.failure)
        assert bench.reports.attempts == []

    async def test_what_one_host_said_is_not_hidden_by_another_that_is_dead(self) -> None:
        bench = Bench()
        secret = Credentials(username="relay", password="hunter2")
        async with ScriptedServer() as server:
            site = a_site(server.port, closed_port(), credentials=secret, configured=True)
            ended = await bench.run(site, [a_delivery()])
        assert "no AUTH" in str(ended.failure)

    async def test_a_host_without_addresses_is_passed_over(self) -> None:
        bench = Bench()
        bench.book.known["mx1.test"] = Failed(scope=Scope.HOST, reason="no such host")
        async with ScriptedServer() as server:
            assert (await bench.run(a_site(1, server.port), [a_delivery()])).delivered == 1

    async def test_a_look_up_that_fails_for_good_everywhere_is_a_failure_for_good(self) -> None:
        bench = Bench()
        bench.book.known = {"mx1.test": Failed(reason="never"), "mx2.test": Failed(reason="never")}
        assert (await bench.run(a_site(1, 1), [a_delivery()])).failure == Failed(reason="never")

    async def test_all_addresses_of_a_host_are_tried_within_the_bound(self) -> None:
        bench = Bench(settings={"max_addresses": 3})
        bench.book.known["mx1.test"] = [f"127.0.0.{n}" for n in range(2, 9)]
        async with ScriptedServer(host="127.0.0.4") as server:
            assert (await bench.run(a_site(server.port), [a_delivery()])).delivered == 1
        async with ScriptedServer(host="127.0.0.6") as server:
            assert (await Bench().run(a_site(server.port), [a_delivery()])).delivered == 0

    async def test_so_many_connections_are_tried_and_no_more(self) -> None:
        bench = Bench(settings={"max_connects": 2})
        async with ScriptedServer() as server:
            ended = await bench.run(a_site(closed_port(), closed_port(), server.port), [a_delivery()])
            assert (len(ended.undone), server.connections) == (1, [])

    async def test_the_source_address_is_the_one_that_was_set(self) -> None:
        bench = Bench()
        async with ScriptedServer() as server:
            site = a_site(server.port, source_addresses=("::1", "127.0.0.9"))
            assert (await bench.run(site, [a_delivery()])).delivered == 1
            ended = await bench.run(a_site(server.port, source_addresses=("::1",)), [a_delivery(name="M2")])
            assert "source address" in str(ended.failure)

    async def test_a_refused_recipient_is_not_asked_of_the_next_host_again(self) -> None:
        bench = Bench()
        replies: dict[str, Script] = {"RCPT": ["550 5.1.1 no", Answer("421 busy", then="close")]}
        async with ScriptedServer(replies) as first, ScriptedServer() as second:
            await bench.run(a_site(first.port, second.port), [a_delivery([ANN, BOB])])
            assert [message.recipients for message in second.taken] == [[f"RCPT TO:<{BOB}>"]]
            assert isinstance(bench.reports.outcomes()[ANN], Failed)
            assert isinstance(bench.reports.outcomes()[BOB], Delivered)

    async def test_a_message_that_ends_every_connection_is_deferred_itself(self) -> None:
        bench = Bench()
        async with ScriptedServer({"MAIL": CLOSE}) as first, ScriptedServer({"MAIL": CLOSE}) as second:
            ended = await bench.run(a_site(first.port, second.port), deliveries(3))
            outcome = bench.reports.outcome("M0")
            assert isinstance(outcome, Deferred)
            assert outcome.scope is Scope.MESSAGE
            assert "after MAIL" in outcome.reason
            assert [one.id for one in ended.undone] == ["M1", "M2"]
            assert ended.failure is not None


class TestAfterTheEndOfTheMessage:
    """RFC 1047: nobody can know."""

    @pytest.mark.parametrize("final", [CLOSE, RESET, STALL, Answer(b"25", then="close")])
    async def test_no_answer_is_a_possible_duplicate_and_no_other_host_gets_it(self, final: Answer) -> None:
        bench = Bench(timeouts=replace(QUICK, final=SHORT))
        async with ScriptedServer({"final": final}) as first, ScriptedServer() as second:
            ended = await bench.run(a_site(first.port, second.port), deliveries(3))
            outcome = bench.reports.outcome("M0")
            assert isinstance(outcome, Deferred)
            assert outcome.possible_duplicate
            assert outcome.scope is Scope.MESSAGE
            assert second.connections == []
            assert [one.id for one in ended.undone] == ["M1", "M2"]
            assert ended.failure is not None
            assert len(bench.reports.attempts) == 1

    async def test_a_421_is_an_answer(self) -> None:
        bench = Bench()
        async with ScriptedServer({"final": Answer("421 4.3.2 full", then="close")}) as server:
            await bench.run(a_site(server.port), [a_delivery()])
            outcome = bench.reports.outcome()
            assert isinstance(outcome, Deferred)
            assert not outcome.possible_duplicate
            assert outcome.reply == Reply(421, "full", EnhancedStatus(4, 3, 2))

    async def test_what_follows_an_answer_does_not_matter(self) -> None:
        bench = Bench()
        async with ScriptedServer({"final": Answer("250 queued", then="reset")}) as server:
            await bench.run(a_site(server.port), [a_delivery()])
            assert isinstance(bench.reports.outcome(), Delivered)

    async def test_a_reset_on_quit_does_not_matter(self) -> None:
        bench = Bench()
        async with ScriptedServer({"QUIT": RESET}) as server:
            assert (await bench.run(a_site(server.port), [a_delivery()])).delivered == 1

    async def test_a_server_that_ignores_quit_is_left(self) -> None:
        bench = Bench(timeouts=replace(QUICK, quit=SHORT))
        async with ScriptedServer({"QUIT": STALL}) as server:
            assert (await bench.run(a_site(server.port), [a_delivery()])).delivered == 1


@pytest.mark.parametrize("end", [Answer("421 one is enough", then="close"), CLOSE, RESET])
@pytest.mark.parametrize("ehlo", [None, LOCK_STEP])
async def test_a_server_that_takes_one_message_only_is_no_failure(end: Answer, ehlo: str | None) -> None:
    bench = Bench()
    replies: dict[str, Script] = {"MAIL": ["250 ok", end]}
    if ehlo:
        replies["EHLO"] = ehlo
    async with ScriptedServer(replies) as server:
        ended = await bench.run(a_site(server.port), deliveries(3))
        assert (ended.settled, ended.delivered, ended.failure) == (1, 1, None)
        assert [one.id for one in ended.undone] == ["M1", "M2"]


async def test_a_connection_lost_in_the_middle_defers_that_message_alone() -> None:
    bench = Bench()
    async with ScriptedServer({"EHLO": LOCK_STEP, "DATA": ["354 go", CLOSE]}) as server:
        ended = await bench.run(a_site(server.port), deliveries(3))
        outcome = bench.reports.outcome("M1")
        assert isinstance(outcome, Deferred)
        assert "after DATA" in outcome.reason
        assert [one.id for one in ended.undone] == ["M2"]
        assert ended.failure is None


@pytest.mark.parametrize("stage", ["EHLO", "MAIL", "RCPT", "DATA"])
async def test_a_server_that_stops_talking_is_left_in_time(stage: str) -> None:
    bench = Bench(timeouts=replace(QUICK, ehlo=SHORT, mail=SHORT, rcpt=SHORT, data=SHORT))
    async with ScriptedServer({stage: STALL}) as first, ScriptedServer() as second:
        assert (await bench.run(a_site(first.port, second.port), [a_delivery()])).delivered == 1
        assert first.messages == []


async def test_a_reply_that_drips_is_late_all_the_same() -> None:
    bench = Bench(timeouts=replace(QUICK, mail=timedelta(seconds=0.3)))

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"220 mx\r\n")
            await reader.readline()
            writer.write(b"250 mx\r\n")
            await reader.readline()
            for octet in b"250-" + b"x" * 200:
                writer.write(bytes([octet]))
                await asyncio.sleep(0.02)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server:
        began = asyncio.get_running_loop().time()
        ended = await bench.run(a_site(server.sockets[0].getsockname()[1]), [a_delivery()])
        assert asyncio.get_running_loop().time() - began < 2.5
        assert "no reply in 0.3 s after MAIL" in str(ended.failure)


async def test_a_host_that_never_greets_is_left_in_time() -> None:
    bench = Bench(timeouts=replace(QUICK, greeting=SHORT))
    async with silent_port() as silent, ScriptedServer() as server:
        assert (await bench.run(a_site(silent, server.port), [a_delivery()])).delivered == 1


class TestLargeBodies:
    """Streamed from disk."""

    LARGE = b"Subject: large\r\n\r\n" + b".line of a large message, number\r\n" * 30_000

    async def test_they_arrive_as_they_are(self) -> None:
        bench = Bench()
        bench.files.files["M2"] = self.LARGE
        batch = [a_delivery(), a_delivery(name="M2", file=self.LARGE), a_delivery(name="M3")]
        async with ScriptedServer() as server:
            assert (await bench.run(a_site(server.port), batch)).delivered == 3
            assert [message.content for message in server.taken] == [HELLO, self.LARGE, HELLO]

    async def test_a_slow_server_may_take_longer_than_any_timeout(self) -> None:
        brief = timedelta(seconds=1)
        bench = Bench(timeouts=replace(QUICK, block=brief, final=brief))
        bench.files.files["M1"] = self.LARGE
        async with ScriptedServer(read_rate=500_000, receive_buffer=8192) as server:
            began = asyncio.get_running_loop().time()
            await bench.run(a_site(server.port), [a_delivery(file=self.LARGE)])
            assert isinstance(bench.reports.outcome(), Delivered)
            assert asyncio.get_running_loop().time() - began > 1.5

    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    def test_a_server_that_takes_a_few_octets_now_and_then_is_left(self, loop: str) -> None:
        async def story() -> None:
            bench = Bench(timeouts=replace(QUICK, block=timedelta(seconds=0.5), min_data_rate=20_000))
            large = self.LARGE * 8
            bench.files.files["M1"] = large
            async with ScriptedServer(read_rate=4000, receive_buffer=4096) as server:
                ended = await bench.run(a_site(server.port), [a_delivery(file=large)])
                outcome = bench.reports.outcome()
                assert isinstance(outcome, Deferred)
                assert "the server took no more in 0.5 s" in outcome.reason
                assert not outcome.possible_duplicate
                assert ended.failure is not None
                assert server.messages == []

        on(loop, story())

    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    def test_a_server_that_takes_no_more_is_reset_and_never_sees_the_dot(self, loop: str) -> None:
        on(loop, self._stuck())

    async def _stuck(self) -> None:
        bench = Bench(timeouts=replace(QUICK, block=timedelta(seconds=0.3)))
        large = self.LARGE * 20
        bench.files.files["M1"] = large
        release = asyncio.Event()
        seen = bytearray()

        async def stuck(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mx\r\n")
            for reply in (b"250 mx\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
                await reader.readline()
                writer.write(reply)
            await release.wait()
            try:
                while octets := await reader.read(1 << 16):
                    seen.extend(octets)
            except ConnectionError:
                seen.extend(b"RESET")
            writer.transport.abort()

        server = await asyncio.start_server(stuck, "127.0.0.1", 0, limit=1024)
        async with server:
            ended = await bench.run(a_site(server.sockets[0].getsockname()[1]), [a_delivery(file=large)])
            release.set()
            await until(lambda: seen.endswith(b"RESET"))
        outcome = bench.reports.outcome()
        assert isinstance(outcome, Deferred)
        assert not outcome.possible_duplicate
        assert "took no more" in outcome.reason
        assert ended.failure is not None
        assert b"\r\n.\r\n" not in seen
        assert bench.endings.noted == []

    async def test_a_refusal_in_the_middle_is_honoured(self) -> None:
        bench = Bench()
        large = self.LARGE * 4
        bench.files.files["M1"] = large

        async def wait(offset: int) -> None:
            if offset:
                await until(lambda: bench.reports.attempts)

        bench.files.before_chunk = wait
        async with ScriptedServer({"DATA": b"354 go\r\n"}) as server:

            async def refuse() -> None:
                await until(lambda: server.connections and len(server.connections[0].octets) > 50_000)
                (talk,) = server.talks
                talk.writer.write(b"552 5.3.4 too large\r\n")

            async with asyncio.TaskGroup() as group:
                group.create_task(refuse())
                await bench.run(a_site(server.port), [a_delivery(file=large)])
            outcome = bench.reports.outcome()
            assert isinstance(outcome, Failed)
            assert outcome.reply == Reply(552, "too large", EnhancedStatus(5, 3, 4))
            assert server.messages == []

    @pytest.mark.parametrize("file", [LARGE[:300_000], OSError("no such file")])
    async def test_a_file_that_changed_or_went_never_gets_its_dot(self, file: bytes | OSError) -> None:
        bench = Bench()
        bench.files.files["M1"] = file
        batch = [a_delivery(file=self.LARGE), a_delivery(name="M2")]
        async with ScriptedServer() as server:
            ended = await bench.run(a_site(server.port), batch)
            await until(lambda: server.connections[0].ended)
            assert "cannot be read" in str(bench.reports.outcome())
            assert server.messages == []
            assert [one.id for one in ended.undone] == ["M2"] or ended.delivered == 1


async def test_a_message_that_was_withdrawn_is_given_back() -> None:
    bench = Bench()
    bench.withdrawn = {"M1"}
    async with ScriptedServer() as server:
        ended = await bench.run(a_site(server.port), deliveries(3))
        assert (ended.delivered, [one.id for one in ended.undone]) == (2, ["M1"])


async def test_what_is_not_durable_yet_is_bounded() -> None:
    bench = Bench(settings={"max_unreported": 4})
    bench.reports.gate = asyncio.Event()
    async with ScriptedServer() as server:
        task = asyncio.create_task(bench.run(a_site(server.port), deliveries(20)))
        await until(lambda: len(bench.reports.attempts) >= 4)
        await asyncio.sleep(0.05)
        assert len(bench.reports.attempts) <= 5
        bench.reports.gate.set()
        assert (await task).delivered == 20


async def test_finish_lets_what_is_under_way_settle() -> None:
    bench = Bench()
    async with ScriptedServer({"final": Answer("250 queued", delay=0.1)}) as server:
        relayer = bench.relayer(a_site(server.port))
        task = asyncio.create_task(relayer.run(deliveries(50)))
        await until(lambda: server.messages)
        relayer.finish()
        ended = await task
        await bench.partings.over()
        assert 1 <= ended.settled <= 3
        assert ended.settled + len(ended.undone) == 50
        assert ended.failure is None
        assert len(server.taken) == ended.settled


async def test_finish_does_not_wait_for_a_greeting() -> None:
    bench = Bench()
    async with silent_port() as silent:
        relayer = bench.relayer(a_site(silent))
        task = asyncio.create_task(relayer.run(deliveries(2)))
        await asyncio.sleep(0.05)
        relayer.finish()
        ended = await asyncio.wait_for(task, 2)
        assert (len(ended.undone), ended.failure) == (2, None)


async def test_finish_does_not_wait_for_leave_to_connect() -> None:
    bench = Bench()

    async def never() -> None:
        await asyncio.Event().wait()

    async with ScriptedServer() as server:
        relayer = bench.relayer(a_site(server.port), never)
        task = asyncio.create_task(relayer.run(deliveries(2)))
        await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() - relayer.stirred < 0.01  # it is us who make it wait
        relayer.finish()
        ended = await asyncio.wait_for(task, 2)
        assert (len(ended.undone), ended.failure) == (2, None)
        assert not server.connections


async def test_cancelled_it_resets_and_tells_what_may_have_arrived() -> None:
    bench = Bench()
    async with ScriptedServer({"final": STALL}) as server:
        task = asyncio.create_task(bench.relayer(a_site(server.port)).run(deliveries(5)))
        await until(lambda: server.messages)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (attempt,) = bench.reports.attempts
        (outcome,) = attempt.outcomes.values()
        assert isinstance(outcome, Deferred)
        assert outcome.possible_duplicate


async def test_cancelled_it_returns_only_when_its_reports_are_durable() -> None:
    bench = Bench()
    bench.reports.gate = asyncio.Event()
    async with ScriptedServer({"final": ["250 ok", STALL]}) as server:
        task = asyncio.create_task(bench.relayer(a_site(server.port)).run(deliveries(5)))
        await until(lambda: len(server.messages) == 2)
        task.cancel()
        await until(lambda: len(bench.reports.attempts) == 2)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        bench.reports.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_credentials_are_needed_to_send_anything() -> None:
    bench = Bench()
    secret = Credentials(username="relay", password="hunter2")
    async with ScriptedServer({"EHLO": "250-mx\n250 AUTH PLAIN"}) as server:
        site = a_site(server.port, credentials=secret, configured=True)
        assert (await bench.run(site, [a_delivery()])).delivered == 1
        assert "AUTH" in server.connections[0].verbs
    async with ScriptedServer() as server:
        ended = await bench.run(a_site(server.port, credentials=secret, configured=True), [a_delivery(name="M2")])
        assert ended.failure is not None
        await until(lambda: server.connections[0].ended)
        assert server.connections[0].verbs == ["EHLO", "QUIT"]
