"""The pickup as an unprivileged user, with files of other users."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.submission.other_user import DAEMON, NOBODY, prepare, put
from tests.submission.support import SIMPLE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to other users")

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def spool() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are not open to other users
        Path(directory).chmod(0o755)
        prepare(Path(directory) / "spool")
        yield Path(directory) / "spool"


def start(scenario: str, spool: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.submission.other_user", scenario, str(spool)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def result(program: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = program.communicate(timeout=60)
    assert program.returncode == 0
    answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    return answer


def test_own_files_are_taken_at_once_and_those_of_others_are_copied_when_they_have_settled(spool: Path) -> None:
    put(spool / "new" / "own", SIMPLE, owner=NOBODY)
    put(spool / "new" / "daemon", SIMPLE, owner=DAEMON)
    put(spool / "new" / "root", SIMPLE, owner=0)
    put(spool / "new" / "secret", SIMPLE, owner=0, mode=0o600)
    put(spool / "new" / "junk", b"junk\n", owner=DAEMON)
    put(spool / "new" / "empty", b"", owner=DAEMON)

    found = result(start("settles", spool))

    assert found["first"] == ["own"]
    assert found["later"] == [["daemon", True, True], ["root", True, True]]
    assert found["left"] == ["secret"]
    assert found["rejected"] == ["empty", "empty.reason.txt", "junk", "junk.reason.txt"]
    assert found["incoming"] == []
    assert (spool / "new" / "secret").exists()


def test_a_writer_of_another_user_that_pauses_is_never_cut_short(spool: Path) -> None:
    program = start("writes_slowly", spool)
    assert program.stdout is not None
    assert program.stdin is not None
    assert program.stdout.readline() == "watching\n"
    with open(spool / "slow.eml", "wb", buffering=0) as file:
        os.chown(file.fileno(), DAEMON, DAEMON)
        file.write(SIMPLE)
        program.stdin.write("half\n")
        program.stdin.flush()
        assert program.stdout.readline() == "paused\n"
        file.write(b"the other half\n")

    found = result(program)

    assert found["early"] == 0
    assert found["size"] == len(SIMPLE) + len(b"the other half\n")


def test_what_cannot_be_moved_away_is_never_taken(spool: Path) -> None:
    put(spool / "new" / "x", SIMPLE, owner=DAEMON)
    os.chown(spool / "new", 0, 0)
    (spool / "new").chmod(0o1777)

    found = result(start("is_sticky", spool))

    assert found["found"] == 0
    assert found["left"] == ["it cannot be moved, so it is not sent: Operation not permitted"]
