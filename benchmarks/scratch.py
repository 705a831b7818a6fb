"""Where benchmarks keep their files: on a real disk, since a spool in memory would not show what syncing costs.

`RELAYD_BENCH_DIR` names the directory, else it is /var/tmp.  What a run made there is removed at its end, also after
SIGINT and SIGTERM.

ext4 does not give out inodes anew that were freed in the last five minutes, and looks at each of them again for every
file that is made: after a run that removed thousands, making a file takes up to a millisecond.  What is timed does not
make files, but for producers, which may then be late.  Let it rest, or give another file system.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = 4096  # octets that even the smallest file takes
ROOM = 2  # times what files take, that must be free


def run(main: Callable[[], None]) -> None:
    """Run a benchmark: as many descriptors as may be had, and nothing left behind when it is told to stop."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    main()


@contextmanager
def scratch(*, files: int = 0, size: int = 0) -> Iterator[Path]:
    """Yield a directory of our own; end the program if there is no room for so many files of so many octets."""
    where = os.environ.get("RELAYD_BENCH_DIR", "/var/tmp")
    _check_room(where, files, -(-size // BLOCK) * BLOCK)
    with tempfile.TemporaryDirectory(prefix="relayd-bench-", dir=where) as name:
        Path(name).chmod(0o755)  # Postfix's own users go through it
        yield Path(name)


def _check_room(where: str, files: int, each: int) -> None:
    free = os.statvfs(where)
    if files * each * ROOM > free.f_bavail * free.f_frsize:
        sys.exit(f"{where}: {files} files of {each} octets need more than half of what is free")
    if free.f_files and files * ROOM > free.f_favail:
        sys.exit(f"{where}: {files} files need more than half of the inodes that are free")
