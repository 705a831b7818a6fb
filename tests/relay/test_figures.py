"""What a run measures: each wait under what was waited for, each connection by its TLS."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from relayd.mail.figures import Figures, Histogram, Phase
from relayd.mail.route import Credentials
from relayd.mail.tls import TlsPolicy
from tests.relay.kit import QUICK, Bench, a_delivery, a_site, closed_port, trusting
from tests.support.smtp import CHUNKED, DEFAULTS, LOCK_STEP, PIPELINED, STALL, Answer, Authority, ScriptedServer

SLOW = 0.12  # seconds that one answer takes
STEPS = {
    "greeting": Phase.GREETING,
    "EHLO": Phase.EHLO,
    "MAIL": Phase.MAIL,
    "RCPT": Phase.RCPT,
    "DATA": Phase.DATA,
    "final": Phase.FINAL,
}


def total(figures: list[Figures], phase: Phase) -> float:
    return sum((each.waits[phase].total for each in figures if phase in each.waits), 0.0)


def slow(step: str, text: str = "") -> dict[str, Answer]:
    usual = text or DEFAULTS[step]
    assert isinstance(usual, str)
    return {step: Answer(usual, delay=SLOW)}


@pytest.mark.parametrize("step", STEPS)
async def test_each_wait_counts_as_what_was_waited_for(step: str) -> None:
    bench = Bench()
    script = {"EHLO": LOCK_STEP} | slow(step, LOCK_STEP if step == "EHLO" else "")
    async with ScriptedServer(script) as server:
        await bench.run(a_site(server.port), [a_delivery()])

    assert len(bench.figures) == 1
    waited = {phase: total(bench.figures, phase) for phase in Phase}
    assert waited[STEPS[step]] >= SLOW * 0.9
    assert max(waited, key=lambda phase: waited[phase]) is STEPS[step]


@pytest.mark.parametrize(
    ("ehlo", "step", "phase"),
    [
        (PIPELINED, "RCPT", Phase.RCPT),
        (PIPELINED, "final", Phase.FINAL),
        (CHUNKED, "final", Phase.FINAL),
    ],
    ids=["pipelined-rcpt", "pipelined-final", "chunked-final"],
)
async def test_in_every_plan_the_slow_answer_is_the_one_that_counts(ehlo: str, step: str, phase: Phase) -> None:
    bench = Bench()
    async with ScriptedServer({"EHLO": ehlo, **slow(step)}) as server:
        await bench.run(a_site(server.port), [a_delivery(name="M1"), a_delivery(name="M2")])

    assert total(bench.figures, phase) >= SLOW


async def test_tls_and_a_password_are_waits_of_their_own(tmp_path: Path) -> None:
    authority = Authority()
    bench = Bench(contexts=trusting(authority.pem, tmp_path))
    ehlo = "250-mx.test\n250-AUTH PLAIN\n250 STARTTLS"
    script = {"EHLO": ehlo} | slow("STARTTLS", "220 go") | slow("AUTH", "235 2.7.0 welcome")
    async with ScriptedServer(script, tls=authority.server("mx1.test")) as server:
        secret = Credentials(username="relay", password="hunter2")
        site = a_site(server.port, tls=TlsPolicy.VERIFY, configured=True, credentials=secret)
        assert (await bench.run(site, [a_delivery()])).delivered == 1

    (figures,) = bench.figures
    assert total(bench.figures, Phase.STARTTLS) >= SLOW * 0.9
    assert total(bench.figures, Phase.AUTH) >= SLOW * 0.9
    assert sum(figures.waits[Phase.STARTTLS].counts) == 2  # the reply, and the handshake
    assert figures.connections == {("1.3", "verified", "verify"): 1}


async def test_a_wait_that_came_to_nothing_counts_too() -> None:
    bench = Bench(timeouts=replace(QUICK, final=timedelta(seconds=SLOW)))
    async with ScriptedServer({"EHLO": LOCK_STEP, "final": STALL}) as server:
        await bench.run(a_site(closed_port(), server.port), [a_delivery()])

    (figures,) = bench.figures
    assert total(bench.figures, Phase.FINAL) >= SLOW * 0.9
    assert sum(figures.waits[Phase.CONNECT].counts) == 2
    assert figures.connections == {("none", "none", "none"): 1}


def test_a_bound_belongs_to_its_bucket_and_what_is_merged_adds_up() -> None:
    one, other = Histogram((1.0, 2.0)), Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        one.add(value)
    other.add(2.0)

    one.merge(other)

    assert (one.counts, one.total, other.counts) == ([2, 2, 1], 14.0, [0, 1, 0])


def test_what_measured_nothing_is_nothing() -> None:
    assert not Figures()
