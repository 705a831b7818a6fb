"""strace(1) on some threads of a daemon that runs: it counts calls, kills at one of them, or makes them fail.

strace counts each thread's calls by themselves (`when=N`), so one thread is followed at a time, from when the daemon
is READY: else a thread that calls often would hide what another does more seldom.  A daemon's threads are known by
their order, in which it makes them: see ROLES.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.process import PATIENCE, wait_until

# What changes the spool or syncs it, and what goes to a server.
CALLS = (
    *("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendmsg", "sendto", "sendfile", "copy_file_range"),
    *("fsync", "fdatasync", "syncfs", "sync_file_range", "msync", "fallocate", "ftruncate", "openat"),
    *("mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "rmdir"),
)
ROLES = ("main", "log", "commits", "looks")  # then pool0, pool1, ...: threads for what blocks
POOL = "pool"
ENOUGH = 2  # threads of the pool: with so many there is seldom another born
WORKER = "worker"


def threads(pid: int) -> list[int]:
    """Return the threads of a process, the oldest first."""
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))


def role(index: int) -> str:
    """Name a thread of the daemon by its place among its threads."""
    return ROLES[index] if index < len(ROLES) else f"{POOL}{index - len(ROLES)}"


def roles(daemon: int) -> dict[str, list[int]]:
    """Return the threads of a daemon by their roles: POOL has all of the pool, and a worker is followed as a whole."""
    found = {role(index): [thread] for index, thread in enumerate(threads(daemon))}
    if len(pool := threads(daemon)[len(ROLES) :]) >= ENOUGH:
        found[POOL] = pool
    for process in workers(daemon):
        found[WORKER] = [process]
    return found


def workers(daemon: int) -> list[int]:
    """Return the processes that a daemon has started."""
    return [int(pid) for pid in Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()]


class Strace:
    """strace on `threads`, from the moment that the context is entered; its words go to the file `log`.

    `inject` is one of strace's ("write:signal=SIGKILL:when=3"); with `follow` threads that are born later are
    followed, and all of a process.
    """

    def __init__(
        self,
        log: Path,
        threads: Sequence[int],
        calls: Collection[str] = CALLS,
        *,
        inject: str = "",
        follow: bool = False,
    ) -> None:
        self._log = log
        self._threads = threads
        self.command = ["strace", "-y", "-s", "64", "-o", str(log), "-e", f"trace={','.join(calls)}"]
        self.command += ["-f"] * follow + ["-e", f"inject={inject}"] * bool(inject)
        for thread in threads:
            self.command += ["-p", str(thread)]

    def __enter__(self) -> Self:
        self._attached = self._log.with_suffix(".attached")
        with self._attached.open("wb") as said:
            self._process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stderr=said)
        wait_until(self._is_attached, f"strace at {self._threads}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.detach()

    def _is_attached(self) -> bool:
        ended = self._process.poll() is not None
        said = self._attached.read_text()
        attached = all(re.search(rf"\b{thread} attached", said) for thread in self._threads)
        assert attached or not ended, f"strace ended: {said}"
        return attached  # it may have ended since: one that it followed was killed at once

    def detach(self) -> None:
        """Let go of what still runs."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE)

    @property
    def lines(self) -> list[str]:
        """What it has written so far."""
        return self._log.read_text(errors="backslashreplace").splitlines() if self._log.exists() else []

    @property
    def injected(self) -> int:
        """How often it made a call fail."""
        return sum("(INJECTED)" in line for line in self.lines)

    def counted(self) -> Counter[tuple[int, str]]:
        """Return how often each thread made each call; of a log with thread ids (`follow`)."""
        calls = (re.match(r"(\d+) +([a-z]\w*)\(", line) for line in self.lines)
        return Counter((int(call[1]), call[2]) for call in calls if call)


def fatal_call(lines: Sequence[str]) -> str:
    """Return the call that never returned, with paths for descriptors and without what is chance in them; "" if there
    is none."""
    begun: dict[str, str] = {}
    for line in lines:
        thread, text = re.fullmatch(r"(\d*) *(.*)", line).groups()  # type: ignore[union-attr]
        if re.match(r"[a-z]\w*\(", text):
            begun[thread] = text
        if text.endswith("= ?"):
            return named(begun.get(thread, ""))
        if re.match(r"<\.\.\. \w+ resumed>", text):
            begun.pop(thread, None)
    left = [text for text in begun.values() if text.endswith("<unfinished ...>")]
    return named(left[-1]) if left else ""


def named(line: str) -> str:
    """Return the name of a call, and the paths and descriptors that it was given."""
    text = re.sub(r"^\d+ +", "", line)
    text = re.sub(r" = -?[\d?].*| <unfinished \.\.\.>$", "", text)
    found = re.findall(r'\b\d+<([^<>]+)>|"(/[^"]*)"', text)
    paths = [_kind(first or second) for first, second in found]
    return f"{text.partition('(')[0]} {' '.join(paths)}".strip()


def _kind(path: str) -> str:
    """Name what a path is."""
    if re.match(r"/(?!.*/spool\b)", path):
        return "elsewhere"
    path = re.sub(r"^.*/spool\b", "spool", path)
    path = re.sub(r"^(socket|TCP|UDP|UNIX|pipe)\b.*", r"\1", path)
    path = re.sub(r"\b[0-9A-Z]{20}\b", "ID", path)
    path = re.sub(r"queue/[0-9A-Z]{2}\b", "queue/ab", path)
    return re.sub(r"spool/(new|tmp|cur)/.*", r"spool/\1/FILE", path)
