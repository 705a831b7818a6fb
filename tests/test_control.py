"""The control socket: the command line knocks, the daemon takes notice, and only then answers; or it asks."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path

import pytest

from relayd import control
from relayd.control import LONGEST_ANSWER, LONGEST_QUESTION, Said, ask, knock, listen
from relayd.mail.errors import QueueError


async def nothing(question: Said) -> Said | None:
    """Understand no question."""
    return None


async def unchanged() -> None:
    """Expect no knock."""
    raise AssertionError


async def test_a_knock_is_answered_when_the_daemon_has_taken_notice(tmp_path: Path) -> None:
    order: list[str] = []

    async def changed() -> None:
        await asyncio.sleep(0)
        order.append("noticed")

    async with listen(tmp_path / "control", changed, nothing):
        assert await asyncio.to_thread(knock, tmp_path / "control")
        order.append("answered")

    assert order == ["noticed", "answered"]


async def test_only_its_owner_may_knock(tmp_path: Path) -> None:
    async def changed() -> None: ...

    async with listen(tmp_path / "control", changed, nothing):
        assert stat.S_IMODE((tmp_path / "control").stat().st_mode) == 0o600


def test_nobody_answers_where_no_daemon_runs(tmp_path: Path) -> None:
    assert not knock(tmp_path / "control")


async def test_the_socket_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "control"))

    async def changed() -> None: ...

    assert not await asyncio.to_thread(knock, tmp_path / "control")
    async with listen(tmp_path / "control", changed, nothing):
        assert await asyncio.to_thread(knock, tmp_path / "control")
    assert not (tmp_path / "control").exists()


async def test_a_spool_deep_in_the_tree_is_reached(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)

    async def changed() -> None: ...

    async with listen(deep / "control", changed, nothing):
        assert await asyncio.to_thread(knock, deep / "control")


async def test_whoever_says_something_else_gets_no_answer(tmp_path: Path) -> None:
    calls: list[int] = []

    async def changed() -> None:
        calls.append(1)

    async with listen(tmp_path / "control", changed, nothing):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control"))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    assert not calls


async def test_a_daemon_that_cannot_take_notice_does_not_say_that_it_did(tmp_path: Path) -> None:
    async def changed() -> None:
        raise QueueError("the disk is full")

    async with listen(tmp_path / "control", changed, nothing):
        assert not await asyncio.to_thread(knock, tmp_path / "control")


# asking


async def test_a_question_is_answered(tmp_path: Path) -> None:
    async def echo(question: Said) -> Said | None:
        return {"you asked": question}

    async with listen(tmp_path / "control", unchanged, echo):
        answer = await asyncio.to_thread(ask, tmp_path / "control", {"ask": "ü\n\x1b"})

    assert answer == {"you asked": {"ask": "ü\n\x1b"}}


async def test_many_may_ask_at_once(tmp_path: Path) -> None:
    together = asyncio.Barrier(4)

    async def echo(question: Said) -> Said | None:
        await together.wait()
        return question

    async with listen(tmp_path / "control", unchanged, echo):
        asking = (asyncio.to_thread(ask, tmp_path / "control", {"n": number}) for number in range(4))
        assert [answer and answer["n"] for answer in await asyncio.gather(*asking)] == list(range(4))


async def test_a_question_that_is_not_understood_has_no_answer(tmp_path: Path) -> None:
    async with listen(tmp_path / "control", unchanged, nothing):
        assert await asyncio.to_thread(ask, tmp_path / "control", {"ask": "the meaning of life"}) is None


@pytest.mark.parametrize("line", [b"[1]\n", b"{\n", b"\xff\n", b"", b'{"a": "' + b"x" * LONGEST_QUESTION + b'"}\n'])
async def test_what_is_no_question_has_no_answer(tmp_path: Path, line: bytes) -> None:
    async def echo(question: Said) -> Said | None:
        return question

    async with listen(tmp_path / "control", unchanged, echo):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control"))
        writer.write(line)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("octets", [LONGEST_ANSWER // 2, LONGEST_ANSWER * 2])
async def test_a_long_answer_is_taken_up_to_a_bound(tmp_path: Path, octets: int) -> None:
    async def talk(question: Said) -> Said | None:
        return {"talk": "x" * octets}

    async with listen(tmp_path / "control", unchanged, talk):
        answer = await asyncio.to_thread(ask, tmp_path / "control", {})

    assert (answer is not None) == (octets < LONGEST_ANSWER)


async def test_a_daemon_that_hangs_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PATIENCE", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "control"))
        silent.listen()

        assert await asyncio.to_thread(ask, tmp_path / "control", {}) is None


def test_nobody_is_asked_where_no_daemon_runs(tmp_path: Path) -> None:
    assert ask(tmp_path / "control", {}) is None
    assert ask(tmp_path / "nowhere" / "control", {}) is None


async def test_a_question_that_is_nested_too_deep_is_not_answered_and_leaves_no_trace(tmp_path: Path) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

    async with listen(tmp_path / "control", unchanged, nothing):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "control")
        writer.write(b"[" * 4000 + b"\n")

        assert await reader.read() == b""
        writer.close()

    assert complaints == []
