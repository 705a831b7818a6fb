"""The socket on which producers ask for the messages of their keys: each for his own, and none for long."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from pathlib import Path

import pytest

from relayd import keys
from relayd.keys import MOST, ask, listen
from relayd.mail.key import MAX_KEY, SubmissionKey

ID = "01M87WJNT0Y391M3MVA3"


async def keyed(key: SubmissionKey) -> str | None:
    return ID if key == SubmissionKey(os.geteuid(), "known key") else None


async def test_who_has_a_key_is_told(tmp_path: Path) -> None:
    async with listen(tmp_path / "keys", keyed):
        assert await asyncio.to_thread(ask, tmp_path / "keys", "known key") == ID
        assert await asyncio.to_thread(ask, tmp_path / "keys", "another") == ""
        assert await asyncio.to_thread(ask, tmp_path / "keys", "x" * MAX_KEY) == ""

    assert not (tmp_path / "keys").exists()


async def test_the_group_may_ask_and_nobody_else(tmp_path: Path) -> None:
    async with listen(tmp_path / "keys", keyed):
        assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o660


@pytest.mark.skipif(os.geteuid() != 0, reason="asks as another user")
async def test_a_key_of_another_user_is_not_told(tmp_path: Path) -> None:
    asking = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('keys'); s.sendall(b'known key\\n')"
    for directory in (tmp_path, *tmp_path.parents[:-1]):
        directory.chmod(0o755)
    async with listen(tmp_path / "keys", keyed):
        os.chown(tmp_path / "keys", 0, 64001)
        process = await asyncio.create_subprocess_exec(
            *("python3", "-c", f"{asking}; print(repr(s.recv(99)))"),
            user=64001,
            group=64001,
            extra_groups=[],
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()

    assert said == b"b'\\n'\n"


@pytest.mark.parametrize(
    "line", [b"\n", b"x" * 256 + b"\n", b"x" * 70_000, b"\xff\n", b" x\n", b"a\tb\n", b""], ids=range(7)
)
async def test_what_is_no_key_gets_no_answer(tmp_path: Path, line: bytes) -> None:
    async with listen(tmp_path / "keys", keyed):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "keys"))
        writer.write(line)
        writer.write_eof()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        assert await asyncio.to_thread(ask, tmp_path / "keys", "known key") == ID


def test_what_is_no_key_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a key"):
        ask(tmp_path / "keys", "two\nlines")


def test_nobody_answers_where_no_daemon_runs(tmp_path: Path) -> None:
    assert ask(tmp_path / "keys", "known key") is None
    assert ask(tmp_path / "nowhere" / "keys", "known key") is None


async def test_who_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "PATIENCE", 0.1)
    async with listen(tmp_path / "keys", keyed):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "keys"))
        assert await reader.read() == b""
        writer.close()


async def test_connections_are_few_and_those_who_come_later_are_served_again(tmp_path: Path) -> None:
    async with listen(tmp_path / "keys", keyed):
        silent = [await asyncio.open_unix_connection(str(tmp_path / "keys")) for _ in range(MOST)]
        assert await asyncio.to_thread(ask, tmp_path / "keys", "known key") is None

        for _, writer in silent:
            writer.close()
        for reader, _ in silent:
            await reader.read()

        assert await asyncio.to_thread(ask, tmp_path / "keys", "known key") == ID
