"""Connections that end before their time (FAULTS.md A7, H4, H6, H8, H11, H23; RFC.md R7, R8).

By each of the three plans, on real sockets.  An end at each octet is in test_close_sweep.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from relayd.mail.outcome import Deferred, Delivered, Failed, Scope
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.route import Site, Target
from relayd.mail.tls import TlsPolicy
from relayd.relay.plans import Plan
from tests.relay.faults import LARGE, a_bench, deferred, each_plan, marked, offering
from tests.relay.kit import ANN, BOB, HELLO, QUICK, Bench, a_delivery, a_site, deliveries, silent_port, until
from tests.support.smtp import CLOSE, RESET, STALL, Answer, Authority, Plain, Script, ScriptedServer

BRIEF = timedelta(seconds=0.15)
BUSY = Answer("421 4.3.2 going down", then="close")
ENDS = pytest.mark.parametrize("end", [BUSY, CLOSE, RESET], ids=["421", "FIN", "RST"])
NO_ANSWERS = pytest.mark.parametrize(
    "final", [CLOSE, RESET, STALL, Answer(b"25", then="close"), Answer(b"250-2.0.0 queued\r\n", then="reset")], ids=str
)


def first_target(site: Site) -> Target:
    """Return the address of a site's first host, as the book tells it."""
    return Target(host=site.hosts[0][0], address="127.0.0.1")


@each_plan
async def test_a_host_that_never_greets_is_passed_over(plan: Plan) -> None:
    """H4."""
    bench = a_bench(timeouts=replace(QUICK, greeting=BRIEF))
    async with silent_port() as silent, ScriptedServer(offering(plan)) as server:
        assert (await bench.run(a_site(silent, server.port), deliveries(2))).delivered == 2
        ended = await bench.run(a_site(silent), [a_delivery(name="M9")])

        assert "no greeting in 0.15 s" in str(ended.failure)
        assert [one.id for one in ended.undone] == ["M9"]


@each_plan
@NO_ANSWERS
@pytest.mark.parametrize("file", [HELLO, LARGE], ids=["small", "large"])
async def test_a_message_whose_end_has_no_answer_goes_nowhere_else(plan: Plan, final: Answer, file: bytes) -> None:
    """H6."""
    bench = a_bench(timeouts=replace(QUICK, final=BRIEF))
    bench.files.files["M0"] = file
    batch = [a_delivery(name="M0", file=file), *deliveries(3)[1:]]
    async with (
        ScriptedServer(offering(plan, {"final": final})) as first,
        ScriptedServer(offering(plan)) as second,
    ):
        ended = await bench.run(a_site(first.port, second.port), batch)

        assert deferred(bench.reports.outcome("M0")).possible_duplicate
        assert bench.endings.noted == ["M0"]
        assert (len(first.messages), second.connections) == (1, [])
        assert [one.id for one in ended.undone] == ["M1", "M2"]
        assert ended.failure is not None


@NO_ANSWERS
async def test_of_a_window_every_message_that_may_have_arrived_is_marked(final: Answer) -> None:
    """H6: several are unanswered at once on a server that is known to do well."""
    bench = a_bench(timeouts=replace(QUICK, final=BRIEF), settings={"pipeline_window": 3})
    async with (
        ScriptedServer(offering(Plan.CHUNKED, {"final": ["250 2.0.0 queued", final]})) as first,
        ScriptedServer(offering(Plan.CHUNKED)) as second,
    ):
        site = a_site(first.port, second.port)
        bench.plans.works(first_target(site), bench.now)
        await bench.run(site, deliveries(8))

        outcomes = [bench.reports.outcome(attempt.delivery.id) for attempt in bench.reports.attempts]
        arrived = bytes(first.connections[0].octets).count(b"LAST\r\n")
        assert sum(isinstance(outcome, Delivered) for outcome in outcomes) == 1
        assert sum(marked(outcomes)) == len(outcomes) - 1 == len(bench.endings.noted) - 1
        assert 2 <= arrived <= len(bench.endings.noted)
        assert second.connections == []


@each_plan
@pytest.mark.parametrize("stage", ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "final"])
@pytest.mark.parametrize("then", ["close", ""], ids=["closes", "stays"])
async def test_after_a_421_the_next_host_gets_it_all(plan: Plan, stage: str, then: str) -> None:
    """H8, R7: a message that was answered with 421 was not accepted, its end too."""
    bench = a_bench()
    busy = Answer("421 4.3.2 going down", then=then)
    async with (
        ScriptedServer(offering(plan, {stage: busy})) as first,
        ScriptedServer(offering(plan)) as second,
    ):
        ended = await bench.run(a_site(first.port, second.port), deliveries(2))
        await until(lambda: first.connections[0].ended)

        said = plan is not Plan.CHUNKED or stage != "DATA"
        assert (ended.settled, ended.delivered, ended.undone, ended.failure) == (2, 2, (), None)
        assert (len(first.taken), len(second.taken)) == ((0, 2) if said else (2, 0))


@each_plan
async def test_a_421_to_the_second_recipient_leaves_the_first_ones_refusal(plan: Plan) -> None:
    """H8, R7: settled is settled; the rest goes to the next host."""
    bench = a_bench()
    async with (
        ScriptedServer(offering(plan, {"RCPT": ["550 5.1.1 no", BUSY, "550 5.1.1 no", BUSY]})) as first,
        ScriptedServer(offering(plan)) as second,
    ):
        await bench.run(a_site(first.port, second.port), [a_delivery([ANN, BOB])])

        assert [message.recipients for message in second.taken] == [[f"RCPT TO:<{BOB}>"]]
        assert isinstance(bench.reports.outcomes()[ANN], Failed)
        assert isinstance(bench.reports.outcomes()[BOB], Delivered)


@each_plan
@pytest.mark.parametrize("policy", [TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRE])
async def test_a_421_to_starttls_is_the_hosts(plan: Plan, policy: TlsPolicy) -> None:
    """H8: neither clear text here nor a message; the next host."""
    bench = a_bench()
    ehlo = offering(plan)["EHLO"]
    assert isinstance(ehlo, str)
    with_tls = ehlo.replace("250-mx.test", "250-mx.test\n250-STARTTLS")
    authority = Authority()
    async with (
        ScriptedServer({"EHLO": with_tls, "STARTTLS": BUSY}) as first,
        ScriptedServer({"EHLO": with_tls}, tls=authority.server("mx2.test")) as second,
    ):
        ended = await bench.run(a_site(first.port, second.port, tls=policy), deliveries(2))

        assert ended.delivered == 2
        assert [connection.verbs for connection in first.connections] == [["EHLO", "STARTTLS"]]
        assert len(second.taken) == 2


@each_plan
@pytest.mark.parametrize("end", [b"421 4.4.2 idle too long\r\n", b""], ids=["421", "FIN"])
async def test_a_server_that_closes_between_two_messages_costs_nobody_an_attempt(plan: Plan, end: bytes) -> None:
    """H8, H23: the rest is given back at once, and it counts as nobody's failure."""
    bench = a_bench()
    bench.settings = replace(bench.settings, read_ahead=1)
    final: list[Plain] = [Answer(b"250 2.0.0 queued\r\n" + end, then="close")]
    async with ScriptedServer(offering(plan, {"final": final})) as server:
        ended = await bench.run(a_site(server.port), deliveries(3))

        assert isinstance(bench.reports.outcome("M0"), Delivered)
        assert (ended.settled, ended.delivered, ended.failure) == (1, 1, None)
        assert [one.id for one in ended.undone] == ["M1", "M2"]
        assert len(server.taken) == 1


@each_plan
@ENDS
async def test_a_server_that_takes_one_message_for_each_connection_is_no_failure(plan: Plan, end: Answer) -> None:
    """H23.  Without a word, and with octets of a window unanswered, it leaves marks, but once: from then on the server
    is spared the window."""
    bench = a_bench()
    async with ScriptedServer(offering(plan, {"MAIL": ["250 ok", end] * 4})) as server:
        rest = deliveries(3)
        if plan is Plan.CHUNKED and end is not BUSY:
            ended = await bench.run(a_site(server.port), [a_delivery(name="first"), a_delivery(name="second")])
            assert (ended.settled, ended.delivered, ended.failure) == (2, 1, None)
            assert deferred(bench.reports.outcome("second")).possible_duplicate
        for left in (2, 1, 0):
            ended = await bench.run(a_site(server.port), rest)
            rest = list(ended.undone)
            assert (ended.settled, ended.delivered, ended.failure, len(rest)) == (1, 1, None, left)


@each_plan
@pytest.mark.parametrize(
    "script",
    [
        {"final": Answer("250 2.0.0 queued", then="close")},
        {"final": Answer("250 2.0.0 queued", then="reset")},
        {"QUIT": CLOSE},
        {"QUIT": RESET},
        {"QUIT": STALL},
        {"QUIT": "500 what"},
        {"QUIT": Answer(b"22", then="close")},
        {"RSET": CLOSE},
        {"RSET": RESET},
    ],
    ids=str,
)
async def test_what_was_accepted_stays_delivered_however_the_connection_ends(
    plan: Plan, script: dict[str, Script]
) -> None:
    """H11."""
    bench = a_bench(timeouts=replace(QUICK, quit=BRIEF))
    async with ScriptedServer(offering(plan, script)) as server:
        ended = await bench.run(a_site(server.port), [a_delivery()])

        assert bench.reports.outcome() == Delivered(Reply(250, "queued", EnhancedStatus(2, 0, 0)))
        assert (ended.delivered, ended.failure, len(server.taken)) == (1, None, 1)


@each_plan
@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA"])
@ENDS
async def test_a_connection_lost_in_the_envelope_is_a_deferral_of_the_host(plan: Plan, stage: str, end: Answer) -> None:
    """R8: as if 451 had been said; the message that was under way waits, the others are given back."""
    bench = a_bench()
    async with ScriptedServer(offering(plan, {stage: end})) as server:
        ended = await bench.run(a_site(server.port), deliveries(3))

        if plan is Plan.CHUNKED and stage == "DATA":
            assert ended.delivered == 3
            return
        assert server.messages == []
        assert isinstance(ended.failure, Deferred)
        assert ended.failure.scope is Scope.HOST
        assert deferred(bench.reports.outcome("M0")).scope is Scope.MESSAGE
        assert [one.id for one in ended.undone] == ["M1", "M2"]


@each_plan
async def test_a_server_that_stops_talking_costs_no_more_than_the_time_it_is_given(plan: Plan) -> None:
    """H4, in the middle: each stage has its own time."""
    stages: list[tuple[str, Callable[[], Bench]]] = [
        ("EHLO", lambda: a_bench(timeouts=replace(QUICK, ehlo=BRIEF))),
        ("MAIL", lambda: a_bench(timeouts=replace(QUICK, mail=BRIEF))),
        ("RCPT", lambda: a_bench(timeouts=replace(QUICK, rcpt=BRIEF))),
        ("DATA", lambda: a_bench(timeouts=replace(QUICK, data=BRIEF))),
    ]
    for stage, bench_for in stages:
        bench = bench_for()
        async with (
            ScriptedServer(offering(plan, {stage: STALL})) as first,
            ScriptedServer(offering(plan)) as second,
        ):
            ended = await bench.run(a_site(first.port, second.port), deliveries(2))
            said = plan is not Plan.CHUNKED or stage in ("EHLO", "MAIL", "RCPT")
            assert len(first.messages) == (0 if said else 2)
            if said and plan is Plan.CHUNKED and stage != "EHLO":
                # The end had left with the envelope: whether it arrived nobody can know.
                assert deferred(bench.reports.outcome("M0")).possible_duplicate
                assert second.connections == []
            else:
                assert ended.delivered == 2
