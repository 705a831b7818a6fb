"""Every class of reply at every stage, by each of the three plans (FAULTS.md A4, A5, H9; RFC.md R4, R6, R7, R10).

A code is judged by its first digit (RFC 5321 section 4.2.1), but for 421 (section 3.8), for 220 and 354, which say more
than their class, and for what RFC 3030 and sections 4.5.3.1.10 and 4.2.4 make of some.  The server says the same to
each of three messages, so that what comes of the second tells whether the connection was still of use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from relayd.mail.outcome import Deferred, Delivered, Failed, Scope
from relayd.mail.tls import TlsPolicy
from relayd.relay.plans import Plan
from tests.relay.faults import EHLO, LARGE, a_bench, offering
from tests.relay.kit import QUICK, a_delivery, a_site
from tests.support.smtp import Script, ScriptedServer

CODES = (0, 150, 200, 220, 250, 251, 252, 299, 354, 399, 421, 450, 452, 500, 503, 550, 552, 554, 650, 799, 850, 999)


@dataclass(frozen=True)
class Expected:
    """What is to come of the first message, and whether the rest of the batch is tried after it."""

    kind: type[Delivered] | type[Deferred] | type[Failed] | None  # None: given back, as if it had not been tried
    scope: Scope | None = None
    marked: bool = False  # as a possible duplicate
    goes_on: bool = True


DELIVERED = Expected(Delivered)
HOST = Expected(Deferred, Scope.MESSAGE, goes_on=False)  # the connection's failure, as one message's outcome
IN_DOUBT = Expected(Deferred, Scope.MESSAGE, marked=True, goes_on=False)
NOT_IN = Expected(None, goes_on=False)


def refusal(code: int, scope: Scope) -> Expected:
    """What a 4yz or 5yz means."""
    return Expected(Deferred if code < 500 else Failed, scope)


def expected(stage: str, code: int, plan: Plan) -> Expected:
    """The table."""
    digit = code // 100
    refuses = digit in (4, 5) and code != 421
    match stage:
        case "greeting":
            return DELIVERED if code == 220 else NOT_IN
        case "EHLO":
            # Refused for good it is followed by HELO.
            return DELIVERED if digit in (2, 5) else NOT_IN
        case "STARTTLS":  # where TLS is optional: in clear, here or, where nobody knows what it waits for, once more
            return NOT_IN if code == 421 else DELIVERED
        case "MAIL" | "RCPT":
            scope = Scope.MESSAGE if stage == "MAIL" else Scope.RECIPIENT
            if digit == 2 or refuses:
                return DELIVERED if digit == 2 else refusal(code, scope)
            # By the chunked plan the message was in the same flight.
            return IN_DOUBT if plan is Plan.CHUNKED and code != 421 else HOST
        case "DATA":
            return DELIVERED if code == 354 else refusal(code, Scope.MESSAGE) if refuses else HOST
        case "BDAT":
            if refuses and code not in (500, 503):
                return refusal(code, Scope.MESSAGE)
            # It does not do what it offers: by the next simpler plan it may.
            return HOST if code == 421 else DELIVERED
        case "final":
            if digit == 2:
                return DELIVERED
            if refuses:
                return refusal(code, Scope.MESSAGE)
            return HOST if code == 421 else IN_DOUBT
        case "RSET":
            # Of the chunked plan it confirms the count.  A 421 is none of its message's: that was answered.
            if plan is not Plan.CHUNKED or digit == 2:
                return DELIVERED
            if code == 421:
                return Expected(Delivered, goes_on=False)
            return IN_DOUBT
        case _:
            return DELIVERED


STAGES = ("greeting", "EHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "BDAT", "final", "RSET", "QUIT")
# What a plan never says has no answer; 220 to STARTTLS is for tests/relay/test_tls.py.
CASES = [
    pytest.param(plan, stage, code, id=f"{plan.value}-{stage}-{code:03}")
    for plan in Plan
    for stage in STAGES
    for code in CODES
    if stage != ("DATA" if plan is Plan.CHUNKED else "BDAT") and (stage, code) != ("STARTTLS", 220)
]


@pytest.mark.parametrize(("plan", "stage", "code"), CASES)
async def test_a_reply_means_what_its_class_says(plan: Plan, stage: str, code: int) -> None:
    """H9."""
    wanted = expected(stage, code, plan)
    # The end of a large one waits for answers.
    bench = a_bench(
        timeouts=replace(QUICK, quit=timedelta(seconds=0.02)), settings={"pipeline_window_size": 256 * 1024}
    )
    batch = [a_delivery(name=f"M{n}", file=LARGE) if stage == "BDAT" else a_delivery(name=f"M{n}") for n in range(3)]
    if stage == "BDAT":
        bench.files.default = LARGE
    async with ScriptedServer(script(stage, code, plan)) as server:
        site = a_site(server.port, tls=TlsPolicy.OPPORTUNISTIC if stage == "STARTTLS" else TlsPolicy.NONE)
        ended = await bench.run(site, batch)

        if wanted.kind is None:
            assert [one.id for one in ended.undone] == ["M0", "M1", "M2"]
            assert isinstance(ended.failure, Deferred)
            assert ended.failure.scope is Scope.HOST
            assert server.messages == []
            return
        outcome = bench.reports.outcome("M0")
        assert isinstance(outcome, wanted.kind)
        assert wanted.scope is None or (not isinstance(outcome, Delivered) and outcome.scope is wanted.scope)
        assert isinstance(outcome, Delivered) or outcome.reply is None or outcome.reply.code == code
        assert (isinstance(outcome, Deferred) and outcome.possible_duplicate) is wanted.marked
        assert (ended.settled, [one.id for one in ended.undone]) == ((3, []) if wanted.goes_on else (1, ["M1", "M2"]))
        taken = [message for message in server.taken if message.recipients]
        assert len(taken) == ended.delivered or stage in ("final", "RSET")
        if stage in ("MAIL", "RCPT", "DATA") and not isinstance(outcome, Delivered) and plan is not Plan.CHUNKED:
            assert not any(b"hello\r\n.\r\n" in connection.octets for connection in server.connections)


def script(stage: str, code: int, plan: Plan) -> dict[str, Script]:
    """Return what the server is to say."""
    ehlo = EHLO[plan]
    if stage == "EHLO":
        return {"EHLO": ehlo.replace("250", f"{code:03}")}
    if stage == "STARTTLS":
        return {"EHLO": ehlo.replace("250-mx.test", "250-mx.test\n250-STARTTLS"), stage: f"{code:03} x"}
    return offering(plan, {stage: f"{code:03} x"})
