"""The control socket: the command line knocks, the daemon takes notice, and only then answers."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path

from relayd.control import knock, listen
from relayd.mail.errors import QueueError


async def test_a_knock_is_answered_when_the_daemon_has_taken_notice(tmp_path: Path) -> None:
    order: list[str] = []

    async def changed() -> None:
        await asyncio.sleep(0)
        order.append("noticed")

    async with listen(tmp_path / "control", changed):
        assert await asyncio.to_thread(knock, tmp_path / "control")
        order.append("answered")

    assert order == ["noticed", "answered"]


async def test_only_its_owner_may_knock(tmp_path: Path) -> None:
    async def changed() -> None: ...

    async with listen(tmp_path / "control", changed):
        assert stat.S_IMODE((tmp_path / "control").stat().st_mode) == 0o600


def test_nobody_answers_where_no_daemon_runs(tmp_path: Path) -> None:
    assert not knock(tmp_path / "control")


async def test_the_socket_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "control"))

    async def changed() -> None: ...

    assert not await asyncio.to_thread(knock, tmp_path / "control")
    async with listen(tmp_path / "control", changed):
        assert await asyncio.to_thread(knock, tmp_path / "control")
    assert not (tmp_path / "control").exists()


async def test_a_spool_deep_in_the_tree_is_reached(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)

    async def changed() -> None: ...

    async with listen(deep / "control", changed):
        assert await asyncio.to_thread(knock, deep / "control")


async def test_whoever_says_something_else_gets_no_answer(tmp_path: Path) -> None:
    calls: list[int] = []

    async def changed() -> None:
        calls.append(1)

    async with listen(tmp_path / "control", changed):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control"))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    assert not calls


async def test_a_daemon_that_cannot_take_notice_does_not_say_that_it_did(tmp_path: Path) -> None:
    async def changed() -> None:
        raise QueueError("the disk is full")

    async with listen(tmp_path / "control", changed):
        assert not await asyncio.to_thread(knock, tmp_path / "control")
