"""Messages that a server cannot take as they are, on real sockets."""

from __future__ import annotations

import pytest

from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Deferred, Delivered, Failed
from relayd.mail.reply import EnhancedStatus
from tests.relay.kit import ANN, Bench, a_body, a_delivery, a_site
from tests.relay.test_recast import HARMED, PLAIN, TEXT, TOP, leaves, multipart
from tests.support.smtp import CHUNKED, CLOSE, LOCK_STEP, PIPELINED, ScriptedServer

PLANS = {"lock-step": LOCK_STEP, "pipelined": PIPELINED, "chunked": CHUNKED}
SEVEN_BIT = {plan: ehlo.replace("8BITMIME", "X-NOTHING") for plan, ehlo in PLANS.items()}
SMALL = TOP + multipart(PLAIN + TEXT)
LARGE = TOP + multipart(PLAIN + TEXT, PLAIN + b"plain words, line after line\r\n" * 20_000)
LONG_LINE = TOP + PLAIN.replace(b"8bit", b"7bit") + b"word " * 1000 + b"\r\n"


def of(file: bytes, **fields: object) -> Delivery:
    long_lines = any(len(line) > 998 for line in file.split(b"\r\n"))
    return a_delivery(file=file, body=a_body(file, long_lines=long_lines, nul=b"\0" in file, **fields))


def bench_with(file: bytes) -> Bench:
    bench = Bench()
    bench.files.default = file
    return bench


@pytest.mark.parametrize("ehlo", SEVEN_BIT.values(), ids=SEVEN_BIT)
@pytest.mark.parametrize("file", [SMALL, LARGE], ids=["small", "large"])
async def test_a_server_without_8bitmime_gets_no_octet_above_127(file: bytes, ehlo: str) -> None:
    """A12, R23."""
    bench = bench_with(file)
    async with ScriptedServer({"EHLO": ehlo}) as server:
        await bench.run(a_site(server.port), [of(file)])

        assert isinstance(bench.reports.outcome(), Delivered)
        (message,) = server.taken
        assert message.content.isascii()
        assert leaves(message.content) == leaves(file)
        assert "BODY=" not in message.mail
        assert f"SIZE={len(message.content)}" in message.mail or "SIZE" not in ehlo
        assert bench.reports.of("M1").altered == "re-encoded"


@pytest.mark.parametrize("ehlo", PLANS.values(), ids=PLANS)
async def test_a_server_with_8bitmime_gets_it_as_it_is(ehlo: str) -> None:
    bench = bench_with(SMALL)
    async with ScriptedServer({"EHLO": ehlo}) as server:
        await bench.run(a_site(server.port), [of(SMALL)])

        (message,) = server.taken
        assert message.content == SMALL
        assert "BODY=8BITMIME" in message.mail
        assert bench.reports.of("M1").altered == ""


async def test_a_signed_message_is_not_broken_but_bounced() -> None:
    bench = bench_with(HARMED["signed"])
    async with ScriptedServer({"EHLO": SEVEN_BIT["pipelined"]}) as server:
        await bench.run(a_site(server.port), [of(HARMED["signed"])])

        outcome = bench.reports.outcome()
        assert isinstance(outcome, Failed)
        assert outcome.dsn == EnhancedStatus(5, 6, 3)
        assert "MAIL" not in server.connections[0].verbs


@pytest.mark.parametrize("ehlo", PLANS.values(), ids=PLANS)
async def test_a_long_line_is_re_encoded(ehlo: str) -> None:
    """R3."""
    bench = bench_with(LONG_LINE)
    async with ScriptedServer({"EHLO": ehlo}) as server:
        await bench.run(a_site(server.port), [of(LONG_LINE)])

        (message,) = server.taken
        assert max(map(len, message.content.split(b"\r\n"))) <= 998
        assert leaves(message.content) == leaves(LONG_LINE)


@pytest.mark.parametrize("ehlo", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("words", [1000, 100_000], ids=["small", "large"])
async def test_a_long_line_that_is_signed_is_folded(ehlo: str, words: int) -> None:
    file = TOP + multipart(PLAIN + b"word " * words, kind=b"signed")
    bench = bench_with(file)
    async with ScriptedServer({"EHLO": ehlo}) as server:
        await bench.run(a_site(server.port), [of(file)])

        (message,) = server.taken
        assert max(map(len, message.content.split(b"\r\n"))) <= 998
        assert message.content.replace(b"\r\n ", b"").replace(b" ", b"") == file.replace(b"\r\n ", b"").replace(
            b" ", b""
        )
        assert bench.reports.of("M1").altered == "folded"


async def test_another_server_that_takes_eight_bit_gets_what_was_dropped() -> None:
    bench = bench_with(SMALL)
    async with ScriptedServer({"EHLO": SEVEN_BIT["pipelined"], "MAIL": CLOSE}) as first, ScriptedServer() as second:
        await bench.run(a_site(first.port, second.port), [of(SMALL)])

        assert [message.content for message in second.taken] == [SMALL]
        assert bench.reports.of("M1").altered == ""


async def test_no_room_for_a_large_one_defers_it_and_leaves_the_others_alone() -> None:
    bench = bench_with(SMALL)
    bench.files.files["M2"] = LARGE
    bench.files.no_room = True
    async with ScriptedServer({"EHLO": SEVEN_BIT["pipelined"]}) as server:
        large = a_delivery(name="M2", file=LARGE)
        await bench.run(a_site(server.port), [large, of(SMALL)])

        assert isinstance(bench.reports.outcome(), Delivered)
        outcome = bench.reports.outcomes("M2")[ANN]
        assert isinstance(outcome, Deferred)
        assert "No space left" in str(outcome)


async def test_a_process_that_does_not_end_defers_its_message_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relayd.relay.recaster.STARTING", 0.0)
    monkeypatch.setattr("relayd.relay.recaster.SLOWEST", 2**40)
    bench = bench_with(LARGE)
    bench.files.files["M2"] = PLAIN
    async with ScriptedServer({"EHLO": SEVEN_BIT["pipelined"]}) as server:
        ended = await bench.run(a_site(server.port), [of(LARGE), a_delivery(name="M2", file=PLAIN)])

        outcome = bench.reports.outcome()
        assert isinstance(outcome, Deferred)
        assert "the process that re-encodes it did not end in" in outcome.reason
        assert isinstance(bench.reports.outcome("M2"), Delivered)
        assert (ended.delivered, ended.failure) == (1, None)
