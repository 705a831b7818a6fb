"""A bar is shown on a terminal for what takes longer than a second, and only then."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.support.process import ROOT

PROGRAM = """
import time
from relayd.cli.progress import Progress
with Progress("counting sheep", 10) as progress:
    for _ in range(10):
        time.sleep({rest})
        progress.advance(1)
print("counted")
"""


def said_on_a_terminal(program: str) -> str:
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", program])
    said = b""
    with suppress(OSError):  # the end of a terminal
        while more := os.read(terminal, 10_000):
            said += more
    os.waitpid(child, 0)
    return said.decode()


@pytest.mark.parametrize(("rest", "shown"), [(0.2, True), (0.0, False)])
def test_it_is_shown_only_for_what_takes_long(rest: float, shown: bool) -> None:
    said = said_on_a_terminal(PROGRAM.format(rest=rest))

    assert ("counting sheep" in said) is shown
    assert "counted" in said


def test_it_is_not_shown_where_nobody_looks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(rest=0.15)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert (done.stdout, done.stderr) == ("counted\n", "")
