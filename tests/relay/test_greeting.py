"""The greeting, on real sockets and both event loops: what is none ends the connection, in time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from relayd.mail.outcome import Deferred
from relayd.mail.reply import EnhancedStatus
from tests.relay.kit import QUICK, Bench, a_delivery, a_site, on
from tests.support.smtp import CLOSE, RESET, STALL, Answer, Script, ScriptedServer

LOOPS = ["asyncio", "uvloop"]
MANY = "\n".join(["220-a line"] * 40 + ["220 the last"])


async def greeted(greeting: Script, seconds: float = 5.0) -> tuple[Deferred | None, ScriptedServer]:
    """Try to deliver to a server that greets so; return why it could not be used, None if it could."""
    bench = Bench(timeouts=replace(QUICK, greeting=timedelta(seconds=seconds)))
    async with ScriptedServer({"greeting": greeting}) as server:
        ended = await bench.run(a_site(server.port), [a_delivery()])
        assert (ended.delivered == 1) == (ended.failure is None)
        assert ended.failure is None or isinstance(ended.failure, Deferred)
        return ended.failure, server


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("greeting", ["220 mx", "220", b"220 mx\n", MANY, Answer("220 slow", drip=0.001)])
def test_a_greeting_lets_us_in(loop: str, greeting: Script) -> None:
    async def story() -> None:
        failure, _ = await greeted(greeting)
        assert failure is None

    on(loop, story())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "greeting",
    [
        "220-hello\n554 go away",
        "554-no\n220 ok",
        "220 mx\n250 early",
        b"220 mx\r\n2",
        "SSH-2.0-OpenSSH_9.2",
        "150 wait",
        "000 what",
        "354 go ahead",
        "250 mx",
        b"220-x\r\n" * 20_000,
        b"220 " + b"x" * 10_000_000,
    ],
    ids=[
        "mixed",
        "mixed, positive last",
        "glued",
        "begun",
        "no SMTP",
        "1yz",
        "000",
        "3yz",
        "250",
        "endless",
        "one long line",
    ],
)
def test_what_is_no_greeting_is_a_protocol_error(loop: str, greeting: str | bytes) -> None:
    """A9, H1, H2, H9 and H10, before anything was said."""

    async def story() -> None:
        failure, server = await greeted(Answer(greeting))
        assert failure is not None
        assert failure.dsn == EnhancedStatus(4, 5, 0)
        assert server.connections[0].commands == []

    on(loop, story())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_greeting_that_drips_is_late(loop: str) -> None:
    """H3: one deadline for the whole of it."""

    async def story() -> None:
        began = asyncio.get_running_loop().time()
        failure, _ = await greeted(Answer("220 " + "x" * 1000, drip=0.02), seconds=0.3)
        assert str(failure) == "no greeting in 0.3 s"
        assert asyncio.get_running_loop().time() - began < 3

    on(loop, story())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (CLOSE, "connection lost before the greeting"),
        (RESET, "connection lost before the greeting"),
        (Answer(b"220-half\r\n", then="close"), "connection lost before the greeting"),
        (STALL, "no greeting in 0.3 s"),
        (Answer(b"22", then="stall"), "no greeting in 0.3 s"),
    ],
    ids=["close", "reset", "half", "silence", "half and silence"],
)
def test_no_greeting_is_told(loop: str, greeting: Answer, words: str) -> None:
    async def story() -> None:
        failure, _ = await greeted(greeting, seconds=0.3)
        assert words in str(failure)

    on(loop, story())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("code", "said"), [(554, ["QUIT"]), (450, ["QUIT"]), (421, [])])
def test_a_refusal_keeps_its_words_and_is_answered_with_quit(loop: str, code: int, said: list[str]) -> None:
    """R10; and H8 at the greeting."""

    async def story() -> None:
        failure, server = await greeted(f"{code}-5.7.1 line one\n{code} 5.7.1 line two")
        assert failure is not None
        assert failure.reply is not None
        assert failure.reply.code == code
        assert "line one" in failure.reply.text
        assert "line two" in failure.reply.text
        assert server.connections[0].verbs == said

    on(loop, story())
