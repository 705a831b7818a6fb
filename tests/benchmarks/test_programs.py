"""The benchmarks can be started, fill what they say, and see what they claim to."""

from __future__ import annotations

import asyncio
import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks import fill
from benchmarks.daemon import settings, toml
from benchmarks.load import Load
from benchmarks.noting import NotingSink, number_of
from benchmarks.sink import Player, message
from relayd.config import load as load_config
from relayd.spool.sqlite import SqliteQueue

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_says_what_it_measures_and_with_which_options(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])

    with pytest.raises(SystemExit) as ended:
        program.main()

    assert ended.value.code == 0
    assert program.__doc__ is not None
    assert program.__doc__.splitlines()[0] in capsys.readouterr().out


def test_make_bench_runs_programs_that_exist_and_have_a_short_run() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (names,) = (line.split("=")[1].split() for line in makefile.splitlines() if line.startswith("BENCHMARKS"))

    assert set(names) <= set(PROGRAMS)
    assert [name for name in names if "--quick" not in (ROOT / "benchmarks" / f"{name}.py").read_text()] == []


def test_a_configuration_is_one_that_relayd_takes(tmp_path: Path) -> None:
    tables = settings(tmp_path / "spool", 2525, "127.0.0.1:5353", max_connections=7, stop_grace="1s")
    path = tmp_path / "config.toml"
    path.write_text(toml(tables), encoding="utf-8")

    assert tomllib.loads(toml(tables)) == tables
    assert load_config(path).relay.max_connections == 7


def test_relay_processes_is_written_only_when_it_is_given(tmp_path: Path) -> None:
    assert "processes" not in settings(tmp_path, 25, "127.0.0.1:53")["relay"]
    assert settings(tmp_path, 25, "127.0.0.1:53", processes=2)["relay"]["processes"] == 2


async def test_a_filled_queue_has_each_message_once_with_its_body(tmp_path: Path) -> None:
    loads = Load(messages=7, size=1024, domains=3, sites=2), Load(messages=2, prefix="slow-", first=7)

    await fill.filled(tmp_path, loads)

    queue = await SqliteQueue.open(tmp_path / "queue.db", owner=None)
    try:
        listed = [each.message async for each in queue.messages()]
    finally:
        await queue.close()
    recipients = [str(each.address) for message in listed for each in message.envelope.recipients]
    bodies = {path.name: path.read_bytes() for path in (tmp_path / "queue").glob("??/*")}
    assert sorted(recipients) == sorted(load.recipient(number) for load in loads for number in load.numbers)
    assert sorted(map(len, bodies.values())) == [1024] * 7 + [4096] * 2
    assert bodies.keys() == {message.id for message in listed}
    assert all(len(bodies[message.id]) == message.body.size for message in listed)
    assert fill.waiting(tmp_path) == 9


def test_a_load_is_as_large_as_it_says_and_ends_its_lines() -> None:
    content = Load(messages=1, size=4096).content

    assert len(content) == 4096
    assert content.endswith(b"\r\n")
    assert b"\r\n\r\n" in content


def test_neighbours_go_to_different_domains_of_the_zone() -> None:
    load = Load(messages=4, domains=3, sites=2)

    assert [load.recipient(number) for number in load.numbers] == [
        "r0@d0.test",
        "r1@d1.test",
        "r2@d2.test",
        "r3@d0.test",
    ]
    assert load.zone.exchangers == {"d0.test": "mx0.test", "d1.test": "mx1.test", "d2.test": "mx0.test"}
    assert load.zone.hosts == {"mx0.test": "127.0.0.1", "mx1.test": "127.0.0.1"}


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b"RCPT TO:<r12@d0.test>\r\n", 12),
        (b"RCPT TO:<r0@d0.test> NOTIFY=NEVER\r\n", 0),
        (b"RCPT TO:<root@d0.test>\r\n", -1),
        (b"RCPT TO:<bob@example.net>\r\n", -1),
    ],
)
def test_a_message_is_known_by_its_recipient(line: bytes, number: int) -> None:
    assert number_of(line) == number


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Python 3.12: a fork beside pytest's own threads
async def test_a_noting_sink_tells_of_each_message_once_and_of_doubles() -> None:
    flights = [(b"HELO bench.test\r\n", 1)]
    for number in (5, 6, 5):
        envelope = b"MAIL FROM:<ann@example.org>\r\nRCPT TO:<r%d@d0.test>\r\nDATA\r\n" % number
        flights += [(envelope, 3), (message(200) + b".\r\n", 1)]
    loop = asyncio.get_running_loop()
    with NotingSink() as sink:
        done: asyncio.Future[None] = loop.create_future()
        await loop.create_connection(lambda: Player(iter(flights), done), "127.0.0.1", sink.port)
        await asyncio.wait_for(done, 10)
        taken = await asyncio.to_thread(sink.wait_for, 6, 10)

    assert taken is not None
    assert sink.times.keys() == {5, 6}
    assert sink.doubles == [5]
