"""What a run tells of replies that ask for less: at every stage, whatever becomes of the mail; and from where a retry
comes after a greylisting."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from relayd.mail.outcome import Deferred, Delivered, Failed
from relayd.mail.refusal import Refusal, refusal, stated_connections
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.tls import TlsPolicy
from relayd.relay.plans import Plan
from tests.relay.faults import a_bench, each_plan, offering
from tests.relay.kit import ANN, BOB, Bench, a_delivery, a_site, deliveries
from tests.support.smtp import PIPELINED, Answer, Script, ScriptedServer

BUSY = "421 4.7.0 too many connections (max 3)"
SLOW = "451 4.7.0 rate limited"
LEAVING = Answer(BUSY, then="close")
STARTTLS = PIPELINED.replace("250 DSN", "250-DSN\n250 STARTTLS")


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        ({"greeting": LEAVING}, BUSY),
        ({"greeting": "554 5.7.0 too many connections"}, "554 5.7.0 too many connections"),
        ({"EHLO": LEAVING}, BUSY),
        ({"EHLO": SLOW}, SLOW),
        ({"MAIL": LEAVING}, BUSY),
        ({"MAIL": SLOW}, SLOW),
        ({"RCPT": LEAVING}, BUSY),
        ({"RCPT": SLOW}, SLOW),
        ({"DATA": LEAVING}, BUSY),
        ({"DATA": SLOW}, SLOW),
        ({"final": LEAVING}, BUSY),
        ({"final": SLOW}, SLOW),
        ({"final": "550 5.7.28 unusual rate of unsolicited mail"}, "550 5.7.28 unusual rate of unsolicited mail"),
        ({"MAIL": ["250 ok", LEAVING]}, BUSY),
        ({"RCPT": [SLOW, "450 4.2.1 not now"]}, SLOW),
        ({"RCPT": [SLOW, BUSY]}, SLOW),  # the second is not asked any more
        # nothing that asks for less
        ({}, None),
        ({"RCPT": "451 4.7.1 greylisted for 300 seconds"}, None),
        ({"RCPT": "550 5.1.1 no such user"}, None),
        ({"MAIL": Answer("421 4.3.2 going down", then="close")}, None),
        ({"greeting": "554 5.7.1 blocked"}, None),
    ],
)
async def test_the_last_reply_that_asks_for_less_is_told_from_every_stage(
    replies: Mapping[str, Script], said: str | None
) -> None:
    bench = a_bench()
    async with ScriptedServer(replies) as server:
        ended = await bench.run(a_site(server.port), deliveries(2))

    assert ended.throttled == (None if said is None else Reply.parse(int(said[:3]), said[4:]))


@each_plan
async def test_it_is_told_although_mail_was_delivered(plan: Plan) -> None:
    bench = a_bench()
    async with ScriptedServer(offering(plan, {"RCPT": ["250 ok", SLOW, "250 ok"]})) as server:
        ended = await bench.run(a_site(server.port), deliveries(3))

    assert ended.delivered >= 1
    assert ended.failure is None
    assert ended.throttled == Reply(451, "rate limited", EnhancedStatus(4, 7, 0))


@each_plan
async def test_who_asks_for_less_gets_no_more_than_what_is_under_way(plan: Plan) -> None:
    bench = a_bench()
    async with ScriptedServer(offering(plan, {"MAIL": ["250 ok", *[SLOW] * 100]})) as server:
        ended = await bench.run(a_site(server.port), deliveries(40))

    under_way = 16 if plan is Plan.CHUNKED else 2
    assert ended.settled <= 1 + under_way
    assert len(ended.undone) == 40 - ended.settled
    assert ended.failure is None


async def test_it_is_told_when_the_next_host_took_all() -> None:
    bench = a_bench()
    async with ScriptedServer({"greeting": LEAVING}) as first, ScriptedServer() as second:
        ended = await bench.run(a_site(first.port, second.port), [a_delivery()])

    assert (ended.delivered, ended.failure) == (1, None)
    assert ended.throttled is not None
    assert refusal(ended.throttled) is Refusal.CROWDED
    assert stated_connections(ended.throttled) == 3


async def test_it_is_told_when_it_was_said_of_an_extension_that_is_not_needed() -> None:
    bench = a_bench()
    replies: dict[str, Script] = {"EHLO": STARTTLS, "STARTTLS": "454 4.7.0 too many TLS sessions, slow down"}
    async with ScriptedServer(replies) as server:
        ended = await bench.run(a_site(server.port, tls=TlsPolicy.OPPORTUNISTIC), [a_delivery()])

    assert ended.delivered == 1
    assert ended.throttled is not None
    assert ended.throttled.code == 454


async def test_a_server_that_has_had_enough_recipients_throttles_nobody() -> None:
    bench = a_bench()
    async with ScriptedServer({"RCPT": ["250 ok", "452 4.5.3 too many recipients", "250 ok"]}) as server:
        ended = await bench.run(a_site(server.port), [a_delivery([ANN, BOB])])

    assert (ended.delivered, ended.throttled) == (1, None)


async def test_the_retry_of_a_greylisting_comes_from_the_address_of_the_first_try() -> None:
    """The server knows sender, recipient and our address; whoever comes from another one begins anew."""
    seen: set[tuple[str, str]] = set()

    def greylist(line: str) -> str:
        known = (server.connections[-1].peer, line)
        if known in seen:
            return "250 2.1.5 ok"
        seen.add(known)
        return "451 4.7.1 greylisted"

    async with ScriptedServer({"RCPT": greylist}) as server:
        site = a_site(server.port, source_addresses=("127.0.0.2", "127.0.0.3"))
        first, other, retry = Bench(), Bench(), Bench()
        await first.run(site, [a_delivery()])
        await other.run(site, [a_delivery([BOB])])
        await retry.run(site, [a_delivery()])

    assert [connection.peer for connection in server.connections] == ["127.0.0.2"] * 3
    assert isinstance(first.reports.outcome(), Deferred)
    assert isinstance(retry.reports.outcome(), Delivered)
    assert not any(isinstance(outcome, Failed) for outcome in other.reports.outcomes().values())
