"""`relayd demo`: it tells the truth, also when something goes wrong, and leaves nothing behind."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from relayd.demo import play as playing
from relayd.demo.play import play
from relayd.demo.story import EXCHANGERS, Story, stories
from tests.support.process import PATIENCE, ROOT, wait_until


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the demo makes its directory; nothing may be left in it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def a_terminal() -> tuple[Console, io.StringIO]:
    """Return a console of 80 columns, and what is written to it."""
    screen = io.StringIO()
    return Console(file=screen, force_terminal=True, no_color=True, highlight=False, width=80), screen


def demo() -> subprocess.Popen[str]:
    """Run it in a session of its own; a shell's background jobs ignore SIGINT, and so would their children."""
    return subprocess.Popen(
        [sys.executable, "-m", "relayd", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_piped_to_a_file_each_event_is_a_line(temporary: Path) -> None:
    with demo() as program:
        out, err = program.communicate(timeout=2 * PATIENCE)

    assert (program.returncode, err) == (0, "")
    told = [line.split()[2:4] for line in out.splitlines() if line[6:8] == " s"]
    for name, event in [
        *(("prompt", event) for event in ("dropped", "accepted", "received", "delivered")),
        *(("greylisted", event) for event in ("deferred", "delivered")),
        *(("second-exchanger", "delivered"), ("refused", "failed"), ("refused", "bounced")),
    ]:
        assert [name, event] in told, out
    assert "\x1b" not in out
    assert "relayd:" not in out
    assert out.count(" yes ") == 4


async def test_on_a_terminal_of_80_columns_long_lines_go_on_below_themselves(temporary: Path) -> None:
    console, screen = a_terminal()

    assert await play(console)

    lines = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    timeline = lines[: next(number for number, line in enumerate(lines) if "What should" in line)]
    assert all(line[6:8] == " s" or line[:36].isspace() for line in timeline), timeline


async def test_what_does_not_happen_is_told(temporary: Path) -> None:
    never = Story("prompt", "bob@prompt.example", "delivered by a pigeon", lambda story: False)
    console, screen = a_terminal()

    assert not await play(console, [never, *stories()[2:3]], patience=10)

    assert "not everything happened in time" in screen.getvalue()
    assert screen.getvalue().count("NO") == 1


async def test_a_daemon_that_does_not_start_is_told_in_its_own_words(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playing, "CONFIG", playing.CONFIG + "[nonsense]\n")
    console, screen = a_terminal()

    assert not await play(console)

    assert "nonsense: no such section" in screen.getvalue().replace("\n", "")
    assert "the demo cannot go on: the daemon did not start" in screen.getvalue()


async def test_unexpected_words_of_the_daemon_are_shown(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playing, "CONFIG", playing.CONFIG.replace('"relay.sender.example"', '""'))
    monkeypatch.setattr(playing, "OURS", playing.OURS - {"started"})
    console, screen = a_terminal()

    await play(console, stories()[:1])

    assert "relayd: time=" in screen.getvalue()
    assert "event=started" in screen.getvalue()


async def test_a_port_that_is_taken_ends_the_demo(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = {**EXCHANGERS, "refusing.example": [("mx.refusing.example", "127.0.0.2")]}
    monkeypatch.setattr(playing, "EXCHANGERS", twice)
    console, screen = a_terminal()

    assert not await play(console)

    assert "the demo cannot go on: [Errno 98]" in screen.getvalue()


def test_when_it_goes_wrong_the_exit_code_is_1(temporary: Path) -> None:
    program = (
        "import sys; from relayd.demo import play; from relayd.__main__ import run;"
        "play.CONFIG += '[nonsense]'; sys.exit(run(['demo']))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=2 * PATIENCE)

    assert done.returncode == 1
    assert "cannot go on" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_no_daemon_and_no_directory(temporary: Path, number: signal.Signals) -> None:
    with demo() as program:
        assert program.stdout is not None
        assert "dropped" in program.stdout.readline()
        os.kill(program.pid, number)
        program.communicate(timeout=PATIENCE)

    assert program.returncode != 0
    wait_until(lambda: not in_session(program.pid), "its daemon ends")


def test_who_has_seen_enough_leaves_no_daemon_and_no_directory(temporary: Path) -> None:
    with demo() as program:
        assert program.stdout is not None
        program.stdout.readline()
        program.stdout.close()
        program.wait(PATIENCE)

    assert program.returncode != 0
    wait_until(lambda: not in_session(program.pid), "its daemon ends")


def in_session(session: int) -> list[str]:
    """Return the processes of a session."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(directory.name)
    return found
