"""How long a relayer can be silent: never longer than `Timeouts.longest_silence`, as long as it is alive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from relayd.mail.route import Host, Site, Target
from relayd.relay.relayer import Relayer
from relayd.relay.stirring import Stirring
from relayd.relay.timeouts import Timeouts
from tests.relay.faults import LARGE, a_bench
from tests.relay.kit import Bench, Book, a_delivery, a_site, deliveries, until
from tests.support.smtp import DEFAULTS, LOCK_STEP, STALL, Answer, Script, ScriptedServer

PHASES = [field.name for field in fields(Timeouts) if field.name != "min_data_rate"]
LATE = 0.5  # seconds that the loop of a busy machine may be late by
STAGES = ("greeting", "EHLO", "MAIL", "RCPT", "DATA", "final")


def within(seconds: float) -> Timeouts:
    """So long for everything."""
    times: dict[str, Any] = dict.fromkeys(PHASES, timedelta(seconds=seconds))
    return Timeouts(**times, min_data_rate=20_000)


BRIEF = within(0.5)


class Watch:
    """The longest silence of a relayer while it runs, in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0

    @contextlib.asynccontextmanager
    async def over(self, relayer: Relayer) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._look(relayer))
        try:
            yield
        finally:
            watching.cancel()

    async def _look(self, relayer: Relayer) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            self.longest = max(self.longest, clock() - relayer.stirred)
            await asyncio.sleep(0.01)


async def silence_of(bench: Bench, site: Site, *, file: bytes = b"") -> float:
    """Run a relayer with one message; return its longest silence."""
    bench.files.default = file or bench.files.default
    relayer, watch = bench.relayer(site), Watch()
    async with watch.over(relayer):
        await relayer.run([a_delivery(file=bench.files.default)])
    await bench.partings.over()
    return watch.longest


@pytest.mark.parametrize("name", PHASES)
def test_the_longest_silence_is_the_longest_timeout_but_for_quit(name: str) -> None:
    hour: dict[str, Any] = {name: timedelta(hours=1)}
    longer = Timeouts(**hour)

    assert Timeouts().longest_silence == timedelta(minutes=10)
    assert longer.longest_silence == (timedelta(minutes=10) if name == "quit" else timedelta(hours=1))


async def test_a_slow_server_is_silent_at_each_stage_and_not_for_their_sum() -> None:
    slowly: dict[str, Script] = {stage: Answer(str(DEFAULTS[stage]), delay=0.8) for stage in STAGES}
    bench = a_bench(timeouts=within(1.0))
    async with ScriptedServer(slowly) as server:
        longest = await silence_of(bench, a_site(server.port))

    assert len(server.taken) == 1
    assert 0.7 <= longest <= 1.0 + LATE


@pytest.mark.parametrize("stage", STAGES)
async def test_a_server_that_stalls_is_left_within_the_longest_silence(stage: str) -> None:
    bench = a_bench(timeouts=BRIEF)
    async with ScriptedServer({stage: STALL}) as first, ScriptedServer({stage: STALL}) as second:
        longest = await silence_of(bench, a_site(first.port, second.port))

    assert 0.4 <= longest <= BRIEF.longest_silence.total_seconds() + LATE


async def test_a_server_that_reads_slowly_stirs() -> None:
    bench = a_bench(timeouts=BRIEF)
    async with ScriptedServer(read_rate=400_000, receive_buffer=8192) as server:
        began = asyncio.get_running_loop().time()
        longest = await silence_of(bench, a_site(server.port), file=LARGE)
        took = asyncio.get_running_loop().time() - began

    assert len(server.taken) == 1
    assert took > 1.5
    assert longest <= BRIEF.longest_silence.total_seconds() + LATE


async def test_what_is_waited_for_on_our_own_side_is_no_silence() -> None:
    """An address, a file, the disk: two seconds each, where servers have half a second."""

    class SlowBook(Book):
        async def addresses(self, host: Host, site: Site, destinations: Sequence[str]) -> list[Target]:
            await asyncio.sleep(2)
            return [Target(host=host, address="127.0.0.1")]

    bench = a_bench(timeouts=BRIEF)
    bench.book = SlowBook()
    bench.reports.gate = asyncio.Event()
    bench.files.before_chunk = lambda offset: asyncio.sleep(0.1)
    loop = asyncio.get_running_loop()
    async with ScriptedServer() as server:
        loop.call_later(6, bench.reports.gate.set)
        longest = await silence_of(bench, a_site(server.port), file=LARGE)

    assert len(server.taken) == 1
    assert longest <= BRIEF.longest_silence.total_seconds() + LATE


async def test_a_full_stock_of_reports_is_no_silence_and_what_follows_it_has_its_time() -> None:
    bench = a_bench(timeouts=BRIEF, settings={"max_unreported": 1})
    bench.reports.gate = asyncio.Event()
    replies: dict[str, Script] = {"EHLO": LOCK_STEP, "MAIL": ["250 ok", Answer("250 ok", delay=0.3)]}
    async with ScriptedServer(replies) as server:
        relayer, watch = bench.relayer(a_site(server.port)), Watch()
        async with watch.over(relayer):
            running = asyncio.create_task(relayer.run(deliveries(3)))
            await until(lambda: bench.reports.attempts)
            await asyncio.sleep(2)
            assert len(bench.reports.attempts) == 1
            bench.reports.gate.set()
            assert (await running).delivered == 3

    assert watch.longest <= BRIEF.longest_silence.total_seconds() + LATE


def test_who_waits_for_us_stirs_all_the_time_and_begins_anew() -> None:
    now = 100.0
    stirring = Stirring(lambda: now)

    now = 160.0
    assert stirring.last == 100.0
    with stirring.waiting_for_us():
        now = 200.0
        assert stirring.last == 200.0
        now = 300.0
    now = 310.0
    assert stirring.last == 300.0
    stirring.stir()
    assert stirring.last == 310.0
