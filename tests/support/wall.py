"""A wall clock that a test turns, for a process and its children: wall.c, compiled and preloaded."""

from __future__ import annotations

import shutil
import struct
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler, for a clock to be turned")

YEAR = timedelta(days=365.25)


class WallClock:
    """`environment` makes a process look at this clock."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "wall-clock"
        self._library = directory / "wall.so"
        self._path.write_bytes(bytes(8))
        source = Path(__file__).with_name("wall.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(self._library), str(source)], check=True)

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "WALL_CLOCK": str(self._path)}

    def turn(self, offset: timedelta) -> None:
        """Let it be so far from the true time."""
        with self._path.open("r+b") as file:
            file.write(struct.pack("=q", offset // timedelta(microseconds=1) * 1000))
