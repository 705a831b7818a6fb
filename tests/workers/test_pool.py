"""Relayers in real worker processes, against servers on real sockets: what the daemon sees of them, dead or alive."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from relayd.mail.events import Degraded, Restored, WorkerDied
from relayd.mail.outcome import Deferred, Delivered, Failed, Scope
from relayd.mail.route import Host, Site, Target
from relayd.relay.relayer import Ended
from relayd.spool.notes import read
from relayd.workers import pool as pools
from relayd.workers import process as processes
from relayd.workers.run import RelayerFailed
from tests.relay.kit import HELLO, QUICK, a_site, closed_port, until
from tests.support.smtp import LOCK_STEP, STALL, Answer, Received, Script, ScriptedServer
from tests.workers.kit import BOOT, Yard, aborted, alive, as_the_daemon, ids, killed, relaying, working


def taken(server: ScriptedServer) -> list[str]:
    """Who got something, in order of names."""
    return sorted(recipient_of(message) for message in server.taken)


def recipient_of(message: Received) -> str:
    (line,) = message.recipients
    return line.partition("<")[2].partition("@")[0]


class TestWhileTheyLive:
    def test_a_batch_is_sent_reported_and_recorded(self, tmp_path: Path) -> None:
        async def story() -> None:
            names = [f"M{n:02}" for n in range(60)]
            async with working(tmp_path) as yard, ScriptedServer() as server:
                batch = yard.deliveries(*names)
                relayer = yard.pool.new(a_site(server.port))
                ended = await relayer.run(batch)

                assert ended == Ended(settled=60, delivered=60, peer=f"mx1.test[127.0.0.1]:{server.port}")
                assert taken(server) == names
                assert {message.content for message in server.taken} == {HELLO}
                assert ids([attempt.delivery for attempt in yard.reports.attempts]) == names
                assert all(relayer.reported(each) for each in batch)
                assert isinstance(yard.reports.outcome("M07"), Delivered)
                assert len(server.connections) == 1

        as_the_daemon(story())

    def test_what_a_server_says_comes_back_as_it_does_in_process(self, tmp_path: Path) -> None:
        async def story() -> None:
            replies: dict[str, Script] = {
                "RCPT": ["550 5.1.1 no such user", "450 4.2.0 greylisted", "250 ok"],
                "EHLO": LOCK_STEP,
            }
            async with working(tmp_path) as yard, ScriptedServer(replies) as server:
                await yard.pool.new(a_site(server.port)).run(yard.deliveries("M1", "M2", "M3"))

                failed, deferred = yard.reports.outcome("M1"), yard.reports.outcome("M2")
                assert isinstance(failed, Failed)
                assert (failed.scope, str(failed.dsn)) == (Scope.RECIPIENT, "5.1.1")
                assert isinstance(deferred, Deferred)
                assert str(deferred.reply) == "450 4.2.0 greylisted"
                assert isinstance(yard.reports.outcome("M3"), Delivered)

        as_the_daemon(story())

    def test_a_relayer_of_a_limited_site_asks_before_each_connection(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with working(tmp_path) as yard, ScriptedServer() as server:
                asked: list[int] = []

                async def permit() -> None:
                    asked.append(len(server.connections))

                site = a_site(closed_port(), server.port)
                ended = await yard.pool.new(site, permit).run(yard.deliveries("M1"))

                assert ended.delivered == 1
                assert asked == [0, 0]

        as_the_daemon(story())

    def test_one_that_may_not_connect_can_be_told_to_finish(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with working(tmp_path) as yard, ScriptedServer() as server:
                asked, may = asyncio.Event(), asyncio.Event()

                async def permit() -> None:
                    asked.set()
                    await may.wait()

                relayer = yard.pool.new(a_site(server.port), permit)
                run = asyncio.create_task(relayer.run(yard.deliveries("M1")))
                await asked.wait()
                relayer.finish()
                ended = await run
                may.set()  # nobody asks any more
                await yard.pool.noticed()

                assert (ids(ended.undone), ended.failure) == (["M1"], None)
                assert not server.connections

        as_the_daemon(story())

    def test_a_site_that_cannot_be_reached_is_the_failure_and_all_is_undone(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with working(tmp_path) as yard:
                ended = await yard.pool.new(a_site(closed_port())).run(yard.deliveries("M1", "M2"))

                assert ids(ended.undone) == ["M1", "M2"]
                assert isinstance(ended.failure, Deferred)
                assert ended.failure.scope is Scope.HOST
                assert yard.book.asked == ["mx1.test"]

        as_the_daemon(story())

    def test_an_address_look_up_that_fails_is_the_sites_failure(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with working(tmp_path) as yard:
                why = Failed(scope=Scope.HOST, reason="mx1.test may not be connected to")
                yard.book.known["mx1.test"] = why
                ended = await yard.pool.new(a_site(25)).run(yard.deliveries("M1"))

                assert (ended.failure, ids(ended.undone)) == (why, ["M1"])

        as_the_daemon(story())

    def test_relayers_are_spread_evenly(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with working(tmp_path, 3) as yard, ScriptedServer({"greeting": STALL}) as server:
                runs = [relaying(yard, server, name) for name in ("M1", "M2", "M3", "M4", "M5", "M6", "M7")]
                await until(lambda: len(server.connections) == 7)

                assert sorted(len(process.runs) for process in yard.processes) == [2, 2, 3]
                await aborted(*runs)

        as_the_daemon(story())

    def test_what_is_not_recorded_yet_is_bounded(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with working(tmp_path, max_unreported=3) as yard, ScriptedServer({"EHLO": LOCK_STEP}) as server:
                yard.reports.gate = asyncio.Event()
                run = relaying(yard, server, *(f"M{n:02}" for n in range(10)))
                await until(lambda: len(yard.reports.attempts) == 3)
                await yard.pool.noticed()  # a round trip: it has had the time for more

                assert len(yard.reports.attempts) == 3
                yard.reports.gate.set()
                assert (await run).delivered == 10

        as_the_daemon(story())

    def test_finish_settles_what_is_under_way_and_leaves_the_rest(self, tmp_path: Path) -> None:
        async def story() -> None:
            replies: dict[str, Script] = {"EHLO": LOCK_STEP, "final": Answer("250 2.0.0 queued", delay=0.3)}
            async with working(tmp_path) as yard, ScriptedServer(replies) as server:
                relayer = yard.pool.new(a_site(server.port))
                run = asyncio.create_task(relayer.run(yard.deliveries("M1", "M2", "M3")))
                await until(lambda: server.messages)
                relayer.finish()
                ended = await run

                assert (ended.settled, ids(ended.undone), ended.failure) == (1, ["M2", "M3"], None)

        as_the_daemon(story())

    def test_one_that_is_finished_before_it_runs_leaves_all(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with working(tmp_path) as yard, ScriptedServer() as server:
                relayer = yard.pool.new(a_site(server.port))
                relayer.finish()
                ended = await relayer.run(yard.deliveries("M1", "M2"))

                assert (ids(ended.undone), ended.failure) == (["M1", "M2"], None)
                assert server.messages == []

        as_the_daemon(story())

    @pytest.mark.parametrize("soon", [True, False])
    def test_a_cancel_resets_the_connection_and_what_may_have_arrived_is_reported(
        self, tmp_path: Path, soon: bool
    ) -> None:
        async def story() -> None:
            async with working(tmp_path) as yard, ScriptedServer({"final": STALL, "EHLO": LOCK_STEP}) as server:
                relayer = yard.pool.new(a_site(server.port))
                batch = yard.deliveries("M1", "M2")
                run = asyncio.create_task(relayer.run(batch))
                if soon:
                    await until(lambda: yard.processes[0].runs)
                else:
                    await until(lambda: server.messages)
                await aborted(run)

                assert not yard.processes[0].runs
                if not soon:
                    await server.stop()
                    outcome = yard.reports.outcome("M1")
                    assert isinstance(outcome, Deferred)
                    assert outcome.possible_duplicate
                    assert [relayer.reported(each) for each in batch] == [True, False]

        as_the_daemon(story())

    def test_a_relayer_shows_for_how_long_it_has_not_stirred(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with working(tmp_path) as yard, ScriptedServer({"greeting": STALL}) as server:
                relayer = yard.pool.new(a_site(server.port))
                run = asyncio.create_task(relayer.run(yard.deliveries("M1")))
                await until(lambda: server.connections)
                silences = []
                for _ in range(3):
                    await asyncio.sleep(0.1)
                    await yard.pool.noticed()
                    silences.append(asyncio.get_running_loop().time() - relayer.stirred)
                await aborted(run)

                assert 0.05 < silences[0] < silences[1] < silences[2] < 5
                assert asyncio.get_running_loop().time() - relayer.stirred < 0.05

        as_the_daemon(story())

    def test_an_outcome_that_cannot_be_recorded_ends_the_run_as_our_trouble(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with working(tmp_path) as yard, ScriptedServer() as server:
                yard.reports.error = OSError("no disk")
                relayer = yard.pool.new(a_site(server.port))
                batch = yard.deliveries("M1")
                with pytest.raises(RelayerFailed, match="no disk"):
                    await relayer.run(batch)

                assert relayer.reported(batch[0])
                assert len(yard.processes) == 1

        as_the_daemon(story())

    def test_a_look_up_that_raises_ends_the_run_as_our_trouble(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with working(tmp_path) as yard:

                async def broken(host: Host, site: Site, destinations: Sequence[str]) -> list[Target]:
                    raise LookupError("a bug")

                yard.book.addresses = broken  # type: ignore[method-assign]
                with pytest.raises(RelayerFailed, match="a bug"):
                    await yard.pool.new(a_site(25)).run(yard.deliveries("M1"))

        as_the_daemon(story())

    def test_what_is_withdrawn_is_not_started_once_that_is_noticed(self, tmp_path: Path) -> None:
        async def story() -> None:
            replies: dict[str, Script] = {"EHLO": LOCK_STEP, "final": Answer("250 2.0.0 queued", delay=0.3)}
            async with working(tmp_path, 2) as yard, ScriptedServer(replies) as server:
                run = relaying(yard, server, "M1", "M2", "M3")
                await until(lambda: server.messages)
                yard.pool.withdraw(frozenset({"M2"}))
                await yard.pool.noticed()
                ended = await run

                assert (taken(server), ids(ended.undone)) == (["M1", "M3"], ["M2"])

        as_the_daemon(story())

    def test_a_worker_that_starts_later_knows_what_is_withdrawn_and_the_settings(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with working(tmp_path) as yard, ScriptedServer() as server:
                settings = replace(yard.settings, hostname="renamed.example.org")
                yard.pool.withdraw(frozenset({"M2"}))
                yard.pool.reload(settings)
                for _ in range(2):  # the one that is told, and the one that comes after it
                    ended = await relaying(yard, server, "M1", "M2")
                    assert ids(ended.undone) == ["M2"]
                    await killed(yard)

                assert {connection.commands[0] for connection in server.connections} == {"EHLO renamed.example.org"}

        as_the_daemon(story())

    def test_what_changes_while_a_worker_starts_reaches_it_too(self, tmp_path: Path) -> None:
        async def story() -> None:
            yard = Yard(tmp_path, 1, {})
            async with ScriptedServer() as server:
                yard.pool.start()
                await asyncio.sleep(0)
                yard.pool.withdraw(frozenset({"M2"}))
                yard.pool.reload(replace(yard.settings, hostname="renamed.example.org"))
                ended = await relaying(yard, server, "M1", "M2")
                await yard.pool.close()

                assert ids(ended.undone) == ["M2"]
                assert server.connections[0].commands[0] == "EHLO renamed.example.org"

        as_the_daemon(story())

    def test_signals_for_the_whole_group_pass_them_by(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with working(tmp_path) as yard, ScriptedServer() as server:
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    os.kill(yard.processes[0].pid, number)
                ended = await relaying(yard, server, "M1")

                assert ended.delivered == 1
                assert yard.told(WorkerDied) == []

        as_the_daemon(story())


class TestWhenNoneCanBeHad:
    def test_the_site_backs_off_with_the_reason(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processes, "PROGRAM", "relayd.workers.none")
        monkeypatch.setattr(pools, "PATIENCE", 0.2)

        async def story() -> None:
            yard = Yard(tmp_path, 1, {})
            yard.pool.start()
            await yard.pool.begun()
            ended = await yard.pool.new(a_site(25)).run(yard.deliveries("M1"))
            await yard.pool.close()

            assert ids(ended.undone) == ["M1"]
            assert str(ended.failure) == "no relayer process is running"
            (degraded,) = yard.told(Degraded)
            assert (degraded.part, degraded.reason) == ("workers", "ended with exit code 1")

        as_the_daemon(story())

    def test_one_that_cannot_keep_notes_says_why_and_starts_when_it_can(self, tmp_path: Path) -> None:
        async def story() -> None:
            yard = Yard(tmp_path, 1, {})
            moved = yard.queue.rename(tmp_path / "elsewhere")
            yard.pool.start()
            await until(lambda: yard.told(Degraded), seconds=60)
            moved.rename(yard.queue)
            await until(lambda: yard.processes, seconds=60)
            await yard.pool.close()

            (degraded,) = yard.told(Degraded)
            assert degraded.reason == f"{yard.queue}/notes.owner.1: No such file or directory"
            assert yard.told(Restored) == [Restored(part="workers")]

        as_the_daemon(story())

    def test_a_relayer_waits_for_the_first(self, tmp_path: Path) -> None:
        async def story() -> None:
            yard = Yard(tmp_path, 1, {})
            async with ScriptedServer() as server:
                yard.pool.start()
                assert not yard.processes
                ended = await relaying(yard, server, "M1")
                await yard.pool.close()

            assert ended.delivered == 1

        as_the_daemon(story())

    def test_one_that_is_told_to_finish_does_not_wait(self, tmp_path: Path) -> None:
        async def story() -> None:
            yard = Yard(tmp_path, 1, {})
            relayer = yard.pool.new(a_site(25))
            run = asyncio.create_task(relayer.run(yard.deliveries("M1")))
            await asyncio.sleep(0)
            relayer.finish()
            ended = await run

            assert (ids(ended.undone), ended.failure) == (["M1"], None)

        as_the_daemon(story())


class TestWhenItCloses:
    def test_all_have_ended_and_no_death_is_told(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with working(tmp_path, 2) as yard, ScriptedServer() as server:
                await relaying(yard, server, "M1")
                pids = [process.pid for process in yard.processes]
                await yard.pool.close()

                assert not any(alive(pid) for pid in pids)
                assert yard.told(WorkerDied) == []
                assert server.connections[0].verbs[-1] == "QUIT"

        as_the_daemon(story())

    def test_the_last_connections_are_seen_off(self, tmp_path: Path) -> None:
        async def story() -> None:
            slow = Answer("221 2.0.0 bye", delay=0.5, then="close")
            async with working(tmp_path) as yard, ScriptedServer({"QUIT": slow}) as server:
                await relaying(yard, server, "M1")
                began = asyncio.get_running_loop().time()
                await yard.pool.close()

                assert asyncio.get_running_loop().time() - began > 0.4
                await until(lambda: server.connections[0].ended)
                assert server.connections[0].ended == "eof"

        as_the_daemon(story())

    def test_what_still_runs_is_left_to_the_notes(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with working(tmp_path) as yard, ScriptedServer({"final": STALL, "EHLO": LOCK_STEP}) as server:
                run = relaying(yard, server, "M1")
                await until(lambda: server.messages)
                os.kill(yard.processes[0].pid, signal.SIGKILL)  # at the same time
                await yard.pool.close()
                with pytest.raises(RelayerFailed):
                    await run

                noted = read(yard.queue / "notes.owner.1", BOOT)
                assert noted is not None
                assert noted.ending == {(1, "M1")}
                assert yard.graves.buried == []

        as_the_daemon(story())

    def test_one_that_does_not_answer_does_not_keep_it_from_closing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pools, "STOP_MARGIN", 0.2)

        async def story() -> None:
            async with working(tmp_path, timeouts=replace(QUICK, quit=timedelta(seconds=0.1))) as yard:
                process = yard.processes[0]
                os.kill(process.pid, signal.SIGSTOP)
                await yard.pool.close()

                assert not alive(process.pid)

        as_the_daemon(story())
