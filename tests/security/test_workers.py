"""What a worker may be made to do, and what one that has gone mad can make the daemon do."""

from __future__ import annotations

import ast
import asyncio
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from relayd.workers.channel import MAX_FRAME, Channel
from tests.support.process import ROOT

PROGRAM = """
import asyncio, sys
from pathlib import Path
from tests.workers.kit import working
async def main():
    async with working(Path(sys.argv[1])):
        print("it runs")
asyncio.run(main())
"""


def test_a_worker_imports_nothing_from_where_the_daemon_was_started(tmp_path: Path) -> None:
    for planted in ("relayd.py", "ctypes.py", "socket.py"):
        (tmp_path / planted).write_text("raise SystemExit('planted')")
    (tmp_path / "spool").mkdir()

    ran = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, str(tmp_path / "spool")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert ran.stdout == "it runs\n", ran.stderr


def test_the_daemon_reads_no_pickle() -> None:
    """Only a worker does, of what the daemon wrote: none that a worker, a sender or a file could have made."""
    readers = {
        str(path.relative_to(ROOT / "relayd"))
        for path in (ROOT / "relayd").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id in ("setup_of", "settings_of", "pickle")
    }

    assert readers == {"workers/setup.py", "workers/worker.py"}


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff\xff\xff\xff",
        struct.pack(">I", MAX_FRAME + 1),
        struct.pack(">I", 3) + b"zzz",
        struct.pack(">I", 1) + b"N",
    ],
    ids=["longest", "too-long", "no-marshal", "no-list"],
)
async def test_a_frame_that_cannot_be_read_ends_the_channel_and_nothing_else(frame: bytes) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    lost = asyncio.Event()
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        channel = Channel(lambda told: print(*(name for name, *_ in told)), lost.set)
        await channel.open(ours)
        theirs.send(frame)

        async with asyncio.timeout(20):
            await lost.wait()

    assert len(complaints) <= 1
