"""Servers that say what they should not (FAULTS.md A1, A6 to A9, H1, H2, H10, H12, H14, H16; RFC.md R4 to R6).

By each of the three plans, on real sockets.  What each code means at each stage is in test_reply_matrix.py.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from dataclasses import replace
from datetime import timedelta

import pytest

from relayd.mail.outcome import Deferred, Delivered, Failed, Outcome, Scope
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.relay.plans import Plan
from tests.relay.faults import EHLO, LARGE, a_bench, data_plans, deferred, each_plan, offering
from tests.relay.kit import ANN, BOB, CAROL, HELLO, QUICK, a_delivery, a_site, deliveries, talking_to, until
from tests.support.smtp import STALL, Answer, Plain, Script, ScriptedServer

FAKE = b"250 2.0.0 queued as FAKE\r\n"
REFUSED = "550 5.7.1 not this one"


@data_plans
@pytest.mark.parametrize("glued", [FAKE, b"2", b"550 5.7.1 no\r\n"], ids=["reply", "octet", "refusal"])
async def test_what_is_glued_to_the_354_is_no_answer_and_the_body_stays_here(plan: Plan, glued: bytes) -> None:
    """A1: the real answer is a refusal."""
    bench = a_bench()
    async with ScriptedServer(offering(plan, {"DATA": b"354 go\r\n" + glued, "final": REFUSED})) as server:
        ended = await bench.run(a_site(server.port), deliveries(2))
        await until(lambda: all(connection.ended for connection in server.connections))

        assert (ended.delivered, server.messages) == (0, [])
        assert not any(b"hello" in connection.octets for connection in server.connections)
        assert deferred(bench.reports.outcome("M0")).dsn == EnhancedStatus(4, 5, 0)
        assert [one.id for one in ended.undone] == ["M1"]


@each_plan
@pytest.mark.parametrize("stage", ["EHLO", "MAIL", "RCPT", "final", "RSET"])
async def test_a_reply_in_advance_delivers_nothing(plan: Plan, stage: str) -> None:
    """H10, A1 at each boundary: one reply too many, and then the refusal."""
    bench = a_bench()
    said = {"EHLO": EHLO[plan].replace("\n", "\r\n").encode(), "final": REFUSED.encode()}.get(stage, b"250 ok")
    glued: Script = said + b"\r\n" + FAKE
    script = {"final": REFUSED, "RCPT": ["550 no", "250 ok"], stage: glued}
    async with ScriptedServer(offering(plan, script)) as server:
        ended = await bench.run(a_site(server.port), deliveries(3))

        assert (ended.delivered, server.taken) == (0, [])
        assert not [attempt for attempt in bench.reports.attempts if Delivered in map(type, attempt.outcomes.values())]


@each_plan
async def test_all_replies_glued_to_the_greeting_deliver_nothing(plan: Plan) -> None:
    """H10."""
    bench = a_bench()
    async with ScriptedServer(offering(plan, {"greeting": b"220 mx\r\n" + FAKE * 8, "final": REFUSED})) as server:
        ended = await bench.run(a_site(server.port), deliveries(2))

        assert ended.delivered == 0
        assert len(ended.undone) == 2
        assert server.messages == []


@each_plan
async def test_a_reply_between_two_messages_touches_neither(plan: Plan) -> None:
    """H10: the first was answered; the second is not sent as an answer to it."""
    bench = a_bench()
    answers: list[Plain] = [b"250 2.0.0 queued\r\n" + FAKE]
    async with ScriptedServer(offering(plan, {"final": answers})) as server:
        ended = await bench.run(a_site(server.port), deliveries(2))

        assert isinstance(bench.reports.outcome("M0"), Delivered)
        assert len(server.messages) == 1
        if plan is Plan.PIPELINED:  # its envelope had left with the first one's end
            assert not deferred(bench.reports.outcome("M1")).possible_duplicate
        else:
            assert [one.id for one in ended.undone] == ["M1"]


@each_plan
async def test_each_recipient_keeps_its_own_refusal_when_the_message_is_deferred(plan: Plan) -> None:
    """A6."""
    bench = a_bench()
    script: dict[str, Script] = {"RCPT": ["550 5.1.1 no such user", "250 ok", "250 ok"], "final": "452 4.3.1 full"}
    async with ScriptedServer(offering(plan, script)) as server:
        await bench.run(a_site(server.port), [a_delivery([ANN, BOB, CAROL])])

        outcomes = bench.reports.outcomes()
        full = Deferred(Reply(452, "full", EnhancedStatus(4, 3, 1)), Scope.MESSAGE)
        assert outcomes == {
            ANN: Failed(Reply(550, "no such user", EnhancedStatus(5, 1, 1)), Scope.RECIPIENT),
            BOB: full,
            CAROL: full,
        }


@each_plan
async def test_a_421_to_the_second_recipient_keeps_its_code_and_text(plan: Plan) -> None:
    """A7."""
    bench = a_bench()
    going = Answer("421 4.3.2 going down", then="close")
    script: dict[str, Script] = {"RCPT": ["550 5.1.1 no such user", going, going, going]}
    async with ScriptedServer(offering(plan, script)) as server:
        ended = await bench.run(a_site(server.port), [a_delivery([ANN, BOB])])

        outcomes = bench.reports.outcomes()
        assert isinstance(outcomes[ANN], Failed)
        assert deferred(outcomes[BOB]).reply == Reply(421, "going down", EnhancedStatus(4, 3, 2))
        assert not deferred(outcomes[BOB]).possible_duplicate
        assert isinstance(ended.failure, Deferred)
        assert (ended.failure.scope, ended.failure.reply) == (Scope.HOST, deferred(outcomes[BOB]).reply)


@pytest.mark.parametrize(
    ("reply", "verbs"),
    [
        ("451 4.3.0 later", ["EHLO", "QUIT"]),
        ("550 5.7.1 no", ["EHLO", "HELO", "MAIL", "RCPT", "DATA", "QUIT"]),
        ("502 what", ["EHLO", "HELO", "MAIL", "RCPT", "DATA", "QUIT"]),
    ],
)
async def test_helo_follows_an_ehlo_that_was_refused_for_good_only(reply: str, verbs: list[str]) -> None:
    """A8, R9."""
    bench = a_bench()
    async with ScriptedServer({"EHLO": reply}) as server:
        await bench.run(a_site(server.port), [a_delivery(ret="HDRS", envid="42")])
        await until(lambda: server.connections[0].ended)

        assert server.connections[0].verbs == verbs
        assert [line for line in server.connections[0].commands if "MAIL" in line and "=" in line] == []


@each_plan
@pytest.mark.parametrize("stage", ["EHLO", "MAIL", "RCPT", "DATA", "final", "RSET"])
@pytest.mark.parametrize(
    "mixed", [b"550-no\r\n250 ok\r\n", b"250-ok\r\n550 no\r\n", b"354-go\r\n250 ok\r\n", b"220 ok\r\n250-"], ids=repr
)
async def test_a_reply_of_mixed_codes_is_no_success(plan: Plan, stage: str, mixed: bytes) -> None:
    """A9, R5: they must agree; else nobody knows what was meant."""
    brief = timedelta(seconds=0.1)
    bench = a_bench(timeouts=replace(QUICK, ehlo=brief, mail=brief, rcpt=brief, data=brief, final=brief))
    first: dict[str, Script] = {"MAIL": ["550 no"]} if stage == "RSET" and plan is not Plan.CHUNKED else {}
    async with ScriptedServer(offering(plan, {**first, stage: mixed})) as server:
        ended = await bench.run(a_site(server.port), deliveries(2))

        if plan is Plan.CHUNKED and stage == "DATA":  # never said
            assert ended.delivered == 2
        elif mixed.startswith(b"220"):  # a whole reply, then the beginning of one that nobody asked for
            assert ended.delivered <= len(server.taken)
        else:
            assert ended.delivered == 0
            assert all(type(one) in (Deferred, Failed) for a in bench.reports.attempts for one in a.outcomes.values())


@each_plan
@pytest.mark.parametrize("stage", ["EHLO", "MAIL", "RCPT", "final"])
async def test_a_reply_may_have_forty_lines(plan: Plan, stage: str) -> None:
    """R5."""
    bench = a_bench()
    said = EHLO[plan] if stage == "EHLO" else "250 2.0.0 line"
    lines = "\n".join(f"250-2.0.0 line {n}" for n in range(39)) + "\n" + said
    async with ScriptedServer(offering(plan, {stage: lines})) as server:
        assert (await bench.run(a_site(server.port), deliveries(2))).delivered == 2


@each_plan
@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "final", "RSET"])
async def test_a_code_without_a_text_is_a_reply(plan: Plan, stage: str) -> None:
    """R4."""
    bench = a_bench()
    async with ScriptedServer(offering(plan, {stage: b"250\r\n"})) as server:
        assert (await bench.run(a_site(server.port), deliveries(2))).delivered == 2


@each_plan
@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "final"])
@pytest.mark.parametrize(("code", "kind"), [(450, Deferred), (550, Failed)])
async def test_what_is_said_of_one_message_is_not_held_against_the_next(
    plan: Plan, stage: str, code: int, kind: type
) -> None:
    """R6: a refusal of MAIL too (RFC 5321 section 4.5.4.1)."""
    bench = a_bench()
    async with ScriptedServer(offering(plan, {stage: [f"{code} {code // 100}.0.0 no"]})) as server:
        ended = await bench.run(a_site(server.port), deliveries(3))

        if plan is Plan.CHUNKED and stage == "DATA":
            assert ended.delivered == 3
            return
        assert isinstance(bench.reports.outcome("M0"), kind)
        assert bench.reports.outcome("M0").reply == Reply(code, "no", EnhancedStatus(code // 100, 0, 0))
        assert ended.delivered == 2
        assert len(server.connections) == 1


@each_plan
async def test_a_message_that_is_refused_at_its_end_fails_for_every_recipient(plan: Plan) -> None:
    """H16."""
    bench = a_bench()
    async with ScriptedServer(offering(plan, {"final": REFUSED})) as server:
        await bench.run(a_site(server.port), [a_delivery([ANN, BOB, CAROL])])

        refusal = Failed(Reply(550, "not this one", EnhancedStatus(5, 7, 1)), Scope.MESSAGE)
        assert bench.reports.outcomes() == {ANN: refusal, BOB: refusal, CAROL: refusal}
        assert len(bench.reports.attempts) == 1


@each_plan
async def test_a_refusal_in_the_middle_of_the_body_is_honoured_once_its_line_is_whole(plan: Plan) -> None:
    """H12."""
    outcome, server = await _refused_in_the_middle(plan, b"552 5.3.4 too large\r\n")

    assert outcome == Failed(Reply(552, "too large", EnhancedStatus(5, 3, 4)), Scope.MESSAGE)
    assert server.messages == []


@each_plan
async def test_half_a_refusal_in_the_middle_of_the_body_is_a_connection_lost(plan: Plan) -> None:
    """H12."""
    outcome, server = await _refused_in_the_middle(plan, b"552 5.3.4 too lar")

    assert not deferred(outcome).possible_duplicate
    assert server.messages == []


async def _refused_in_the_middle(plan: Plan, octets: bytes) -> tuple[Outcome, ScriptedServer]:
    """Return what came of a large message whose server says `octets`, and closes, while it is being sent."""
    bench = a_bench()
    bench.files.files["M1"] = LARGE
    server = ScriptedServer(offering(plan, {"BDAT": STALL}))
    told = 0

    async def tell(offset: int) -> None:
        nonlocal told
        if offset and told < len(server.connections):
            told = len(server.connections)
            await until(lambda: len(server.connections[-1].octets) > 50_000)
            server.talks[-1].writer.write(octets)
            server.talks[-1].writer.write_eof()
            await until(lambda: (engine := talking_to(relayer)) is None or engine.over)

    bench.files.before_chunk = tell
    async with server:
        relayer = bench.relayer(a_site(server.port))
        await relayer.run([a_delivery(file=LARGE)])
        await bench.partings.over()
        return bench.reports.outcome(), server


@each_plan
@pytest.mark.parametrize("stage", ["RCPT", "final"])
@pytest.mark.parametrize("code", [250, 550])
async def test_odd_octets_in_a_reply_change_nothing(plan: Plan, stage: str, code: int) -> None:
    """H14: NUL, 8 bits, no UTF-8, colours, a CR in the middle."""
    odd = b"%d \x00 \xff\xfe \xe2\x82 \x1b[31mred\x1b[0m \r \x85 \x7f\r\n" % code
    bench = a_bench()
    async with ScriptedServer(offering(plan, {stage: odd})) as server:
        await bench.run(a_site(server.port), [a_delivery()])

        outcome = bench.reports.outcome()
        assert isinstance(outcome, Delivered if code == 250 else Failed)
        assert "\n" not in str(outcome)


@each_plan
async def test_a_reply_that_tries_to_be_more_than_one_never_is(plan: Plan) -> None:
    """S4: what is behind the first line is nobody's answer, and nobody's text."""
    bench = a_bench()
    injected = b"550 x\r\n\r\n--boundary\r\nContent-Type: message/delivery-status\r\n\r\nAction: delivered\r\n"
    async with ScriptedServer(offering(plan, {"RCPT": injected})) as server:
        ended = await bench.run(a_site(server.port), deliveries(2))

        assert (ended.delivered, server.taken) == (0, [])
        assert not [a for a in bench.reports.attempts for one in a.outcomes.values() if "boundary" in str(one.reply)]


@pytest.mark.parametrize(
    ("plan", "stage"),
    [
        (plan, stage)
        for plan in Plan
        for stage in ("greeting", "EHLO", "HELO", "MAIL", "RCPT", "DATA", "BDAT", "final", "RSET")
        if stage != ("DATA" if plan is Plan.CHUNKED else "BDAT")
    ],
)
@pytest.mark.parametrize("flood", [b"250-and so on\r\n" * 500, b"x" * 8192], ids=["lines", "line"])
async def test_an_endless_reply_ends_the_connection_at_a_bound(plan: Plan, stage: str, flood: bytes) -> None:
    """H1, H2."""
    file = LARGE if stage == "BDAT" else HELLO
    bench = a_bench()
    bench.files.default = file
    script: dict[str, Script] = {stage: Answer(flood, then="flood")}
    if stage == "RSET" and plan is not Plan.CHUNKED:
        script["MAIL"] = ["550 no"]
    if stage == "HELO":
        script["EHLO"] = "502 no"
    async with ScriptedServer(offering(plan, script)) as server:
        began = asyncio.get_running_loop().time()
        tracemalloc.start()
        ended = await bench.run(a_site(server.port), deliveries(2, file))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

        assert ended.delivered == 0
        assert asyncio.get_running_loop().time() - began < 5
        assert peak < (2_000_000 if file is HELLO else 8_000_000), peak  # of both sides, and of the message


@each_plan
async def test_a_server_that_says_220_to_everything_gets_no_message(plan: Plan) -> None:
    """H9."""
    bench = a_bench()
    stages = ("EHLO", "HELO", "MAIL", "RCPT", "DATA", "BDAT", "final", "RSET", "QUIT")
    script: dict[str, Script] = dict.fromkeys(stages, "220 mx.test ESMTP")
    script["EHLO"] = EHLO[plan].replace("250", "220")
    async with ScriptedServer({**script, "final": REFUSED}) as server:
        ended = await bench.run(a_site(server.port), deliveries(2))
        assert (ended.delivered, server.taken) == (0, [])
        assert plan is Plan.CHUNKED or not any(b"hello" in connection.octets for connection in server.connections)
