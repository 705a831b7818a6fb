"""Where benchmarks keep their files: on a real disk, since a spool in memory would not show what syncing costs.

`RELAYD_BENCH_DIR` names the directory, else it is /var/tmp.  What a run made there is removed at its end, also after
SIGINT and SIGTERM.

ext4 does not give out inodes anew that were freed in the last five minutes, and looks at each of them again for every
file that is made: after a run that removed thousands, making a file takes up to a millisecond.  What is timed does not
make files, but for producers, which may then be late.  `fresh` gives a file system that has not been used.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

BLOCK = 4096  # octets that even the smallest file takes
IMAGE = 8 * 2**30  # octets of a fresh file system
PATIENCE = 60.0  # seconds to make, mount or unmount it
ROOM = 2  # times what files take, that must be free


def run(main: Callable[[], None]) -> None:
    """Run a benchmark: as many descriptors as may be had, and nothing left behind when it is told to stop."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    main()


@contextmanager
def scratch(*, files: int = 0, size: int = 0, fresh: bool = False) -> Iterator[Path]:
    """Yield a directory of our own; end the program if there is no room for so many files of so many octets.

    `fresh`: on an ext4 of its own, in an image that is mounted meanwhile, which takes root.
    """
    where = os.environ.get("RELAYD_BENCH_DIR", "/var/tmp")
    _check_room(where, files, -(-size // BLOCK) * BLOCK)
    with tempfile.TemporaryDirectory(prefix="relayd-bench-", dir=where) as name, ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)  # Postfix's own users go through it
        yield stack.enter_context(mounted(directory)) if fresh else directory


@contextmanager
def mounted(directory: Path) -> Iterator[Path]:
    """Yield the root of a new file system."""
    image, root = directory / "image", directory / "root"
    with image.open("wb") as file:
        file.truncate(IMAGE)  # what is not written takes no room
    root.mkdir()
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, timeout=PATIENCE)
        subprocess.run(["mount", "-o", "loop", str(image), str(root)], check=True, timeout=PATIENCE)
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"no fresh file system: {error}")
    try:
        yield root
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True, timeout=PATIENCE)


def _check_room(where: str, files: int, each: int) -> None:
    free = os.statvfs(where)
    if files * each * ROOM > free.f_bavail * free.f_frsize:
        sys.exit(f"{where}: {files} files of {each} octets need more than half of what is free")
    if free.f_files and files * ROOM > free.f_favail:
        sys.exit(f"{where}: {files} files need more than half of the inodes that are free")
