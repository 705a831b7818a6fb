"""What the daemon makes of the death of a worker: its runs, its notes, and the one that takes its place."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from relayd.mail.events import HeldAfterDeaths, Marked, WorkerDied
from relayd.relay.relayer import Ended
from relayd.spool.notes import Noted
from relayd.workers import pool as pools
from tests.relay.kit import until
from tests.support.smtp import LOCK_STEP, STALL, Answer, Script, ScriptedServer
from tests.workers.kit import alive, as_the_daemon, ids, killed, relaying, working


def test_before_the_end_of_a_message_nothing_is_marked_and_all_is_undone(tmp_path: Path) -> None:
    async def story() -> None:
        async with working(tmp_path) as yard, ScriptedServer({"DATA": STALL, "EHLO": LOCK_STEP}) as server:
            run = relaying(yard, server, "M1", "M2")
            await until(lambda: server.connections and "DATA" in server.connections[0].verbs)
            pid = yard.processes[0].pid
            await killed(yard)
            ended = await run

            assert ended == Ended(undone=tuple(yard.deliveries("M1", "M2")))
            (noted,) = yard.graves.buried
            assert noted == Noted(begun=frozenset({(1, "M1")}))
            assert yard.told(WorkerDied) == [WorkerDied(pid=pid, how="killed by SIGKILL", relayers=1)]
            assert yard.told(Marked) == []

    as_the_daemon(story())


def test_after_the_end_of_a_message_it_is_marked_and_only_the_rest_is_undone(tmp_path: Path) -> None:
    async def story() -> None:
        replies: dict[str, Script] = {"final": ["250 2.0.0 queued", STALL], "EHLO": LOCK_STEP}
        async with working(tmp_path) as yard, ScriptedServer(replies) as server:
            run = relaying(yard, server, "M1", "M2", "M3")
            await until(lambda: len(server.messages) == 2 and yard.reports.attempts)
            await killed(yard)
            ended = await run

            assert (ids(ended.undone), ended.settled, ended.delivered) == (["M3"], 1, 1)
            (noted,) = yard.graves.buried
            assert noted == Noted(begun=frozenset({(2, "M2")}), ending=frozenset({(2, "M2")}))
            assert [event.id for event in yard.told(Marked)] == ["M2"]

    as_the_daemon(story())


def test_the_others_go_on_and_another_takes_its_place(tmp_path: Path) -> None:
    async def story() -> None:
        replies: dict[str, Script] = {"final": Answer("250 2.0.0 queued", delay=0.5), "EHLO": LOCK_STEP}
        async with working(tmp_path, 2) as yard, ScriptedServer(replies) as server:
            runs = [relaying(yard, server, name) for name in ("M1", "M2")]
            await until(lambda: len(server.messages) == 2)
            victim, other = yard.processes
            os.kill(victim.pid, signal.SIGKILL)
            ends = await asyncio.gather(*runs)
            await until(lambda: len(yard.processes) == 2, seconds=60)

            assert sorted(ended.delivered for ended in ends) == [0, 1]
            assert other in yard.processes
            assert victim not in yard.processes
            assert (await relaying(yard, server, "M3")).delivered == 1

    as_the_daemon(story())


def test_its_notes_are_kept_until_all_that_it_had_reported_is_recorded(tmp_path: Path) -> None:
    async def story() -> None:
        async with working(tmp_path) as yard, ScriptedServer({"EHLO": LOCK_STEP}) as server:
            yard.reports.gate = asyncio.Event()
            run = relaying(yard, server, "M1")
            await until(lambda: yard.reports.attempts)
            (notes,) = yard.notes
            await killed(yard)

            assert not run.done()
            assert notes in yard.notes
            yard.reports.gate.set()
            assert (await run) == Ended(settled=1, delivered=1)
            await until(lambda: notes not in yard.notes)
            assert yard.graves.buried == []

    as_the_daemon(story())


def test_a_queue_that_cannot_write_is_asked_until_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "AGAIN", 0.05)

    async def story() -> None:
        async with working(tmp_path) as yard, ScriptedServer({"final": STALL, "EHLO": LOCK_STEP}) as server:
            yard.graves.failing = 3
            run = relaying(yard, server, "M1")
            await until(lambda: server.messages)
            await killed(yard)
            ended = await run

            assert ended.undone == ()
            assert yard.graves.failing == 0
            assert len(yard.graves.buried) == 1

    as_the_daemon(story())


def test_where_its_notes_are_lost_all_that_it_had_is_marked(tmp_path: Path) -> None:
    async def story() -> None:
        async with working(tmp_path) as yard, ScriptedServer({"DATA": STALL, "EHLO": LOCK_STEP}) as server:
            run = relaying(yard, server, "M1", "M2")
            await until(lambda: server.connections and "DATA" in server.connections[0].verbs)
            (yard.queue / yard.notes[0]).unlink()
            await killed(yard)

            assert (await run).undone == ()
            assert [event.id for event in yard.told(Marked)] == ["M1", "M2"]
            assert yard.told(HeldAfterDeaths) == []

    as_the_daemon(story())


def test_one_that_does_not_answer_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "PING_INTERVAL", 0.1)
    monkeypatch.setattr(pools, "MAX_SILENT", 3)

    async def story() -> None:
        async with working(tmp_path) as yard, ScriptedServer({"greeting": STALL}) as server:
            run = relaying(yard, server, "M1")
            await until(lambda: server.connections)
            process = yard.processes[0]
            os.kill(process.pid, signal.SIGSTOP)
            ended = await run

            assert ids(ended.undone) == ["M1"]
            assert not alive(process.pid)
            assert [event.how for event in yard.told(WorkerDied)] == ["killed by SIGKILL"]

    as_the_daemon(story())


def test_each_time_in_a_row_it_is_started_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "FIRST_PAUSE", 0.3)

    async def story() -> None:
        async with working(tmp_path) as yard:
            loop = asyncio.get_running_loop()
            began = loop.time()
            for _ in range(3):
                await killed(yard)

            assert loop.time() - began > 0.3 + 0.6 + 1.2

    as_the_daemon(story())
