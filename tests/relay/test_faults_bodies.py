"""What of a message arrives, octet by octet (FAULTS.md A2, A3, H5, S1; RFC.md R1, R2, R21, R22).

By each of the three plans, on real sockets; the server's log of octets is the witness.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from relayd.mail.outcome import Deferred, Delivered, Failed, Scope
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.relay.plans import Plan
from tests.relay.faults import LARGE, a_bench, data_plans, deferred, each_plan, offering
from tests.relay.kit import ANN, BOB, QUICK, a_delivery, a_site, deliveries, on, until
from tests.support.smtp import STALL, Answer, Script, ScriptedServer
from tests.support.smuggling import BARE, ENDS, EVIL, PARSERS, canonical, dialogue

BRIEF = timedelta(seconds=0.25)


@each_plan
@pytest.mark.parametrize("end", ENDS, ids=repr)
@pytest.mark.parametrize("place", ["body", "header", "preamble", "end", "start"])
async def test_no_octets_of_a_message_end_it(plan: Plan, end: bytes, place: str) -> None:
    """S1, R1, R2: one message to a server of any kind, and no bare CR or LF."""
    smuggled = end + EVIL + b"Subject: evil\r\n\r\nevil" + end
    file = {
        "body": b"Subject: a\r\n\r\nhello" + smuggled + b"bye\r\n",
        "header": b"Subject: a\r\nX-A: b" + smuggled + b"\r\n\r\nhello\r\n",
        "preamble": b"Content-Type: multipart/mixed; boundary=b\r\n\r\npre"
        + smuggled
        + b"--b\r\n\r\nhello\r\n--b--\r\n",
        "end": b"Subject: a\r\n\r\nhello" + smuggled,
        "start": smuggled.lstrip(b"\r\n") + b"\r\n\r\nhello\r\n",
    }[place]
    await _arrives_as_one(plan, file, {})


@each_plan
@pytest.mark.parametrize("end", ENDS, ids=repr)
async def test_no_octets_of_a_streamed_message_end_it_wherever_it_is_cut(plan: Plan, end: bytes) -> None:
    """S1: a piece ends in each place of what might be taken for an end."""
    for size in range(1, len(end) + 3):
        file = b"Subject: a\r\n\r\nhello" + b"." * (size % 3) + end + EVIL + b"evil" + end + b"bye"
        await _arrives_as_one(plan, file, {"small_body": 1}, size)


async def _arrives_as_one(plan: Plan, file: bytes, settings: dict[str, int], size: int = 65536) -> None:
    bench = a_bench(settings=settings)
    bench.files.default, bench.files.chunk = file, size
    async with ScriptedServer(offering(plan)) as server:
        ended = await bench.run(a_site(server.port), [a_delivery(file=file)])
        octets = bytes(server.connections[0].octets)

        assert ended.delivered == 1
        assert not BARE.search(octets)
        for parser in PARSERS:
            verbs = list(dialogue(octets, parser))
            assert verbs.count("content") == len(server.messages) == 1 or size < 65536, parser
            assert verbs.count("MAIL") == 1, parser
        assert server.messages[0].content == canonical(file)


@each_plan
async def test_a_slow_server_may_take_longer_than_any_timeout(plan: Plan) -> None:
    """A2: it takes what it is sent, though not all in the time that a block has, nor the answer."""
    brief = timedelta(seconds=0.6)
    bench = a_bench(timeouts=replace(QUICK, block=brief, final=brief))
    bench.files.files["M1"] = LARGE
    async with ScriptedServer(offering(plan), read_rate=600_000, receive_buffer=8192) as server:
        began = asyncio.get_running_loop().time()
        await bench.run(a_site(server.port), [a_delivery(file=LARGE)])

        assert isinstance(bench.reports.outcome(), Delivered)
        assert asyncio.get_running_loop().time() - began > 1
        assert [message.content for message in server.taken] == [LARGE]


@each_plan
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("size", [200_000, 1_000_000, 4_000_000])
def test_a_message_that_a_server_stopped_taking_never_arrives_later(plan: Plan, loop: str, size: int) -> None:
    """A3, H5: it stops reading, we give up, it reads on: what is there has no end, whatever our host had taken."""
    on(loop, _stopped(plan, size))


async def _stopped(plan: Plan, size: int) -> None:
    bench = a_bench(timeouts=replace(QUICK, block=BRIEF, final=BRIEF, data=BRIEF))
    file = LARGE * (size // len(LARGE)) + LARGE[: size % len(LARGE)] + b"\r\n"
    bench.files.files["M1"] = file
    hold: dict[str, Script] = {"RCPT" if plan is Plan.CHUNKED else "DATA": Answer(_GO[plan], then="hold")}
    async with ScriptedServer(offering(plan, hold), receive_buffer=4096) as server:
        ended = await bench.run(a_site(server.port), [a_delivery(file=file), a_delivery(name="M2")])
        server.release.set()
        await until(lambda: all(connection.ended for connection in server.connections))

        outcome = deferred(bench.reports.outcome("M1"))
        assert server.messages == []
        assert outcome.possible_duplicate is (bench.endings.noted == ["M1"])
        assert bench.endings.noted == [] or size < 4_000_000
        assert [one.id for one in ended.undone] == ["M2"]
        assert ended.failure is not None


_GO = {Plan.CHUNKED: "250 ok", Plan.PIPELINED: "354 go", Plan.LOCK_STEP: "354 go"}


@each_plan
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("size", [20_000, 60_000, 120_000, 8_000_000])
def test_an_end_that_the_server_did_not_take_is_taken_back(plan: Plan, size: int, loop: str) -> None:
    """A3: the message was one write, and its end waits in the kernel, or in our own buffer: a reset drops it there."""
    on(loop, _taken_back(plan, size))


async def _taken_back(plan: Plan, size: int) -> None:
    brief = replace(QUICK, block=BRIEF, final=BRIEF, data=BRIEF, mail=BRIEF, rcpt=BRIEF)
    bench = a_bench(timeouts=brief, settings={"small_body": 10_000_000, "read_ahead_size": 10_000_000})
    file = LARGE * (size // len(LARGE)) + LARGE[: size % len(LARGE)] + b"\r\n"
    bench.files.files["M1"] = file
    hold: dict[str, Script] = {"EHLO" if plan is Plan.CHUNKED else "DATA": Answer(_go(plan), then="hold")}
    async with ScriptedServer(offering(plan, hold), receive_buffer=2048) as server:
        await bench.run(a_site(server.port), [a_delivery(file=file)])
        server.release.set()
        await until(lambda: all(connection.ended for connection in server.connections))

        assert deferred(bench.reports.outcome("M1")).possible_duplicate is (size < 8_000_000)
        assert set(bench.endings.noted) == {"M1"}
        assert server.messages == []


def _go(plan: Plan) -> str:
    if plan is not Plan.CHUNKED:
        return _GO[plan]
    ehlo = offering(plan)["EHLO"]
    assert isinstance(ehlo, str)
    return ehlo


@data_plans
@pytest.mark.parametrize("size", [200_000, 1_000_000, 4_000_000])
async def test_an_acceptance_before_the_end_has_arrived_is_none(plan: Plan, size: int) -> None:
    """A1, H10: all of it may have left us; what the server's host has not acknowledged, the server has not read."""
    bench = a_bench(timeouts=replace(QUICK, block=BRIEF, final=BRIEF))
    file = LARGE * (size // len(LARGE)) + LARGE[: size % len(LARGE)] + b"\r\n"
    bench.files.files["M1"] = file
    hold: dict[str, Script] = {"DATA": Answer("354 go", then="hold")}
    async with ScriptedServer(offering(plan, hold), receive_buffer=4096) as server:

        async def accept() -> None:
            await until(lambda: server.connections and server.connections[0].verbs[-1:] == ["DATA"])
            await until(lambda: bench.endings.noted or size == 4_000_000)
            server.talks[0].writer.write(b"250 2.0.0 queued unread\r\n")

        async with asyncio.TaskGroup() as group:
            group.create_task(accept())
            await bench.run(a_site(server.port), [a_delivery(file=file)])
        server.release.set()
        await until(lambda: all(connection.ended for connection in server.connections))

        outcome = deferred(bench.reports.outcome("M1"))
        assert outcome.dsn == EnhancedStatus(4, 5, 0) or size == 4_000_000  # tried again by the simpler plan, in vain
        assert outcome.possible_duplicate is (bench.endings.noted == ["M1"])
        assert server.messages == []


@each_plan
@pytest.mark.parametrize("settings", [{}, {"small_body": 1}], ids=["whole", "streamed"])
async def test_dots_arrive_as_they_are(plan: Plan, settings: dict[str, int]) -> None:
    """R2, R22: doubled for DATA, and not for BDAT."""
    file = b"Subject: dots\r\n\r\n.\r\n..\r\n...a\r\n.b\r\na.\r\n.\r\n"
    bench = a_bench(settings=settings)
    bench.files.default = file
    async with ScriptedServer(offering(plan)) as server:
        await bench.run(a_site(server.port), deliveries(2, file))

        assert [message.content for message in server.taken] == [file, file]
        assert (b"\r\n...\r\n" in server.connections[0].octets) is (plan is not Plan.CHUNKED)


async def test_chunks_are_as_long_as_they_say_and_never_mixed_with_data() -> None:
    """R22: a large message goes in several, a small one in one; each is told to the octet."""
    bench = a_bench()
    bench.files.files["L"] = LARGE
    async with ScriptedServer(offering(Plan.CHUNKED)) as server:
        await bench.run(a_site(server.port), [a_delivery(name="L", file=LARGE), *deliveries(2)])

        large, *small = server.taken
        assert (large.content, sum(large.chunks)) == (LARGE, len(LARGE))
        assert len(large.chunks) > 10
        assert max(large.chunks) <= 128 * 1024
        assert [len(message.chunks) for message in small] == [1, 1]
        assert "DATA" not in server.connections[0].verbs


async def test_without_chunking_bdat_is_never_said() -> None:
    """R22."""
    bench = a_bench()
    bench.files.files["L"] = LARGE
    async with ScriptedServer(offering(Plan.PIPELINED)) as server:
        await bench.run(a_site(server.port), [a_delivery(name="L", file=LARGE), *deliveries(2)])
        assert len(server.taken) == 3
        assert "BDAT" not in server.connections[0].verbs


@pytest.mark.parametrize(("reply", "kind"), [("452 4.3.1 full", Deferred), ("552 5.3.4 too large", Failed)])
@pytest.mark.parametrize("chunk", [0, 3])
async def test_after_a_refused_chunk_no_more_of_it_is_sent_and_a_rset_follows(
    reply: str, kind: type, chunk: int
) -> None:
    """R22: the upload stops early, and the next message is none the worse for it."""
    bench = a_bench(settings={"pipeline_window_size": 128 * 1024})
    bench.files.files["L"] = LARGE * 4
    chunks: list[Answer] = [Answer("250 ok")] * chunk + [Answer(reply)]
    async with ScriptedServer(offering(Plan.CHUNKED, {"BDAT": chunks, "MAIL": "250 ok"})) as server:
        ended = await bench.run(a_site(server.port), [a_delivery(name="L", file=LARGE * 4), *deliveries(2)])

        (connection,) = server.connections
        assert isinstance(bench.reports.outcome("L"), kind)
        assert str(bench.reports.outcome("L").reply) == reply
        assert (ended.delivered, len(server.messages)) == (2, 2)
        verbs = connection.verbs
        assert verbs[verbs.index("RSET") + 1] == "MAIL"
        assert len(connection.octets) < len(LARGE)
        assert not any(command.endswith("LAST") for command in connection.commands[: verbs.index("RSET")])


@pytest.mark.parametrize("chunk", [0, 3])
@pytest.mark.parametrize("window", [1, 128 * 1024, 1024 * 1024])
async def test_after_a_refused_chunk_the_next_recipients_get_the_whole_message(chunk: int, window: int) -> None:
    """R22: what was left of one transaction's body is not the body of the next, though it is the same message."""
    bench = a_bench(settings={"pipeline_window_size": window, "max_recipients": 1})
    file = bench.files.default = LARGE * 2
    chunks = [Answer("250 ok")] * chunk + [Answer("451 4.3.0 later")]
    async with ScriptedServer(offering(Plan.CHUNKED, {"BDAT": chunks})) as server:
        await bench.run(a_site(server.port), [a_delivery([ANN, BOB], file=file)])

        outcomes = bench.reports.outcomes()
        assert isinstance(outcomes[ANN], Deferred)
        assert isinstance(outcomes[BOB], Delivered)
        assert [message.content for message in server.taken] == [file]


async def test_a_refused_message_in_a_window_costs_no_other() -> None:
    """R22: each flight begins afresh, by the RSET before it."""
    batch = deliveries(10)
    batch[4] = a_delivery(["orphan@example.org"], name="M4", sender="refused@example.com")
    batch[6] = a_delivery(["nobody@example.org"], name="M6")
    bench = a_bench()

    def mail(line: str) -> str:
        return "450 later" if "refused" in line else "250 ok"

    def rcpt(line: str) -> str:
        return "503 no MAIL" if "orphan" in line else "550 5.1.1 no" if "nobody" in line else "250 ok"

    script: dict[str, Script] = {"MAIL": mail, "RCPT": rcpt, "final": ["250 2.0.0 queued", "550 5.7.1 no"]}
    async with ScriptedServer(offering(Plan.CHUNKED, script)) as server:
        ended = await bench.run(a_site(server.port), batch)

        outcomes = {one.id: type(bench.reports.outcome(one.id)) for one in batch}
        others = {name: kind for name, kind in outcomes.items() if kind is not Delivered}
        assert others == {"M1": Failed, "M4": Deferred, "M6": Failed}
        assert (ended.delivered, len(server.taken), len(server.connections)) == (7, 7, 1)


@data_plans
async def test_a_lone_dot_answers_a_354_where_nobody_was_accepted(plan: Plan) -> None:
    """R21: the server waits for a message; it gets none, and the body stays here."""
    bench = a_bench()
    async with ScriptedServer(offering(plan, {"RCPT": ["550 5.1.1 no", "550 5.1.1 no"]})) as server:
        await bench.run(a_site(server.port), [a_delivery([ANN, BOB]), a_delivery(name="M2")])

        (connection,) = server.connections
        assert all(isinstance(outcome, Failed) for outcome in bench.reports.outcomes("M1").values())
        assert isinstance(bench.reports.outcome("M2"), Delivered)
        hollow = [message.content for message in server.messages if not message.recipients]
        assert hollow == ([b""] if plan is Plan.PIPELINED else [])
        assert (b"DATA\r\n.\r\n" in connection.octets) is (plan is Plan.PIPELINED)
        assert bytes(connection.octets).count(b"Subject: hello") == 1


@each_plan
async def test_five_hundred_recipients_fit_through_a_small_window(plan: Plan) -> None:
    """R21: a server that stops reading until its answers are read does not stop us."""
    names = [f"recipient-number-{n}@a-rather-long-domain-name.example.org" for n in range(500)]
    bench = a_bench(settings={"max_recipients": 500})
    answer = "250 2.1.5 " + "a recipient that is as good as any other " * 10
    async with ScriptedServer(offering(plan, {"RCPT": answer}), receive_buffer=4096) as server:
        ended = await bench.run(a_site(server.port), [a_delivery(names)])

        assert (ended.delivered, [len(message.recipients) for message in server.taken]) == (1, [500])


@each_plan
async def test_ehlo_and_data_are_the_last_of_what_is_sent_together(plan: Plan) -> None:
    """R21."""
    bench = a_bench()
    async with ScriptedServer(offering(plan)) as server:
        await bench.run(a_site(server.port), deliveries(5))
        await until(lambda: server.connections[0].ended)

        for flight in server.connections[0].flights:
            for last in (b"EHLO relay.example.org\r\n", b"DATA\r\n", b"QUIT\r\n"):
                assert last not in flight or flight.endswith(last)


@each_plan
async def test_the_refusal_of_the_server_is_what_is_told_of_a_small_message_too(plan: Plan) -> None:
    """H12: a refusal behind the end of what was sent is the answer to it."""
    bench = a_bench()
    async with ScriptedServer(offering(plan, {"final": Answer("554 5.6.0 no", then="close")})) as server:
        await bench.run(a_site(server.port), [a_delivery()])
        assert bench.reports.outcome() == Failed(Reply(554, "no", EnhancedStatus(5, 6, 0)), Scope.MESSAGE)


@each_plan
async def test_a_message_that_is_not_answered_is_not_sent_again_by_a_simpler_plan(plan: Plan) -> None:
    """H6: neither at the same host."""
    bench = a_bench(timeouts=replace(QUICK, final=BRIEF))
    async with ScriptedServer(offering(plan, {"final": STALL})) as server:
        await bench.run(a_site(server.port), deliveries(2))

        assert deferred(bench.reports.outcome("M0")).possible_duplicate
        assert (len(server.connections), len(server.messages)) == (1, 1)
