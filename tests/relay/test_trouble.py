"""Runs in which the trouble is ours, or a server tries to make it ours: files, reports, memory, secrets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import tracemalloc
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from relayd.mail.attempt import Attempt
from relayd.mail.reply import EnhancedStatus
from relayd.mail.route import Credentials
from relayd.relay.relayer import Relayer
from tests.relay.kit import QUICK, Bench, a_delivery, a_site, deliveries, talking_to, until
from tests.support.smtp import LOCK_STEP, STALL, Answer, Script, ScriptedServer

SHORT = timedelta(seconds=0.15)
LARGE = b"Subject: large\r\n\r\n" + b".line of a large message, number\r\n" * 30_000


async def test_a_large_file_that_is_gone_is_our_trouble_and_not_the_sites() -> None:
    bench = Bench()
    bench.files.files["M1"] = OSError("no such file")
    async with ScriptedServer() as server:
        ended = await bench.run(a_site(server.port), [a_delivery(file=LARGE), *deliveries(1), a_delivery(name="M2")])
        assert bench.reports.outcome("M1").dsn == EnhancedStatus(4, 3, 0)
        assert ended.failure is None
        assert ended.delivered + len(ended.undone) == 2


async def test_a_large_file_that_goes_with_the_connection_loses_no_delivery() -> None:
    bench = Bench()
    bench.files.files["M1"] = LARGE
    async with ScriptedServer({"EHLO": LOCK_STEP}) as server:

        async def fail(offset: int) -> None:
            if offset:
                server.talks[0].writer.transport.abort()
                await until(lambda: (engine := talking_to(relayer)) is None or engine.over)
                raise OSError("read error")

        bench.files.before_chunk = fail
        relayer = bench.relayer(a_site(server.port))
        ended = await relayer.run([a_delivery(file=LARGE), *deliveries(1)])
        assert len(bench.reports.attempts) + len(ended.undone) == 2


async def test_a_small_file_that_is_gone_defers_that_message_alone() -> None:
    bench = Bench()
    bench.files.files["M1"] = OSError("no such file")
    async with ScriptedServer() as server:
        ended = await bench.run(a_site(server.port), deliveries(3))
        assert (ended.settled, ended.delivered) == (3, 2)
        assert bench.reports.outcome("M1").dsn == EnhancedStatus(4, 3, 0)


async def test_a_report_that_fails_stops_the_run() -> None:
    bench = Bench()
    bench.reports.error = RuntimeError("disk full")
    async with ScriptedServer() as server:
        with pytest.raises(RuntimeError, match="disk full"):
            await bench.run(a_site(server.port), deliveries(20))
        assert len(server.taken) < 20


async def test_trouble_with_a_report_behind_the_servers_last_word_leaves_no_connection_open() -> None:
    bench = Bench()

    class Failing:
        def report(self, attempt: Attempt) -> Awaitable[None]:
            raise ZeroDivisionError

    equipment = bench.equipment
    final = Answer(b"250 queued\r\n421 closing\r\n")
    async with ScriptedServer({"EHLO": LOCK_STEP, "final": final}) as server:
        broken = replace(equipment, ports=replace(equipment.ports, reports=Failing()))
        with pytest.raises(ZeroDivisionError):
            await Relayer(a_site(server.port), broken).run(deliveries(2))
        await until(lambda: server.connections[0].ended, 3)


async def test_our_own_trouble_ends_the_run_with_its_exception() -> None:
    bench = Bench()

    def broken(name: str) -> bool:
        raise ZeroDivisionError(name)

    equipment = bench.equipment
    async with ScriptedServer() as server:
        relayer = Relayer(a_site(server.port), replace(equipment, ports=replace(equipment.ports, withdrawn=broken)))
        with pytest.raises(ZeroDivisionError):
            await relayer.run(deliveries(2))
        assert server.messages == []


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("stage", [0, 1, 2])
async def test_what_was_said_in_secret_is_not_told_when_the_server_stops_talking(mechanism: str, stage: int) -> None:
    bench = Bench(timeouts=replace(QUICK, ehlo=SHORT))
    secret = Credentials(username="relay", password="hunter2")
    challenges: list[Answer | str] = ["334 PDE4OTYuNjk3MTcwOTUyQHg+"] * stage
    replies: dict[str, Script] = {"EHLO": f"250-mx\n250 AUTH {mechanism}", "AUTH": [*challenges, STALL]}
    async with ScriptedServer(replies) as server:
        ended = await bench.run(a_site(server.port, credentials=secret, configured=True), [a_delivery()])
        said = server.connections[0].commands[1:]
        told = str(ended.failure)
    assert f"AUTH {mechanism}" in told
    assert not [word for line in said for word in line.split() if word not in ("AUTH", mechanism) and word in told]


async def test_a_server_that_talks_on_after_quit_is_not_listened_to() -> None:
    bench = Bench(timeouts=replace(QUICK, quit=timedelta(seconds=0.5)))
    line = b"221-" + b"x" * 100 + b"\r\n"

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            for reply in (b"220 mx", b"250 mx", b"250 ok", b"250 ok", b"354 go", b"250 queued"):
                writer.write(reply + b"\r\n")
                await reader.readuntil(b".\r\n" if reply == b"354 go" else b"\r\n")
            while True:
                writer.write(line * 1000)
                await writer.drain()
        writer.transport.abort()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server:
        relayer = bench.relayer(a_site(server.sockets[0].getsockname()[1]))
        assert (await relayer.run([a_delivery()])).delivered == 1
        tracemalloc.start()
        await bench.partings.over()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4_000_000


async def test_an_address_of_a_family_that_the_kernel_lacks_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.book.known["mx1.test"] = ["::1", "127.0.0.1"]
    real = socket.socket

    def without_ipv6(family: int = -1, *arguments: int, **named: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return real(family, *arguments, **named)

    async with ScriptedServer() as server:
        monkeypatch.setattr("relayd.relay.connection.socket.socket", without_ipv6)
        assert (await bench.run(a_site(server.port), [a_delivery()])).delivered == 1
