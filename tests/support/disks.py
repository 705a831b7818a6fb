"""Small file systems of a test's own, to be filled, made read-only and taken away; and what a daemon burns meanwhile.

Only root can mount.  Each is unmounted at the end, lazily, since a daemon that was killed may hold a file still.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.process import Daemon, wait_until
from tests.support.world import World

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")

FEW_LINES = 10  # of trouble, in the time that a test looks at it


def mount(*arguments: str) -> None:
    """Mount; skip the test where that is forbidden."""
    mounted = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")


def unmount(path: Path) -> None:
    """Take the uppermost file system away from `path`, whoever uses it."""
    subprocess.run(["umount", "-l", str(path)], check=True)


class SmallDisk:
    """A tmpfs at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Leave not an octet."""
        with (self.path / "filler").open("ab", buffering=0) as file, suppress(OSError):
            while file.write(b"\0" * 4096) == 4096:
                pass

    def free(self) -> None:
        """Make room again."""
        (self.path / "filler").unlink()

    def fill_inodes(self) -> None:
        """Leave no inode."""
        (self.path / "fillers").mkdir()
        with suppress(OSError):
            for number in range(1_000_000):
                (self.path / "fillers" / f"{number}").touch()

    def free_inodes(self) -> None:
        """Give the inodes back."""
        for filler in (self.path / "fillers").iterdir():
            filler.unlink()
        (self.path / "fillers").rmdir()


@contextmanager
def small_disk(path: Path, options: str = "size=64m") -> Iterator[SmallDisk]:
    """Mount a tmpfs at `path`."""
    path.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", options, "none", str(path))
    try:
        yield SmallDisk(path)
    finally:
        unmount(path)


class JournaledDisk:
    """An ext4 in the file `image` at `path`, which the kernel turns read-only after an error."""

    def __init__(self, path: Path, image: Path) -> None:
        self.path = path
        self.image = image

    def mount(self) -> None:
        """Make it a part of the tree, owned by whoever owned it."""
        mount("-o", "loop,errors=remount-ro", str(self.image), str(self.path))

    def fail(self) -> None:
        """Let the kernel find an error: from now on nothing that is not synced gets to the disk."""
        device = os.stat(self.path).st_dev
        name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("found by a test")

    def repair(self) -> None:
        """Check it and mount it again, when nobody uses it any more."""
        subprocess.run(["umount", str(self.path)], check=True)
        checked = subprocess.run(["e2fsck", "-f", "-y", str(self.image)], capture_output=True, text=True, check=False)
        assert checked.returncode in (0, 1), checked.stdout  # 1: errors were corrected
        self.mount()


@contextmanager
def journaled_disk(path: Path, image: Path) -> Iterator[JournaledDisk]:
    """Make an ext4 of 64 MiB and mount it at `path`."""
    path.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    disk = JournaledDisk(path, image)
    disk.mount()
    try:
        yield disk
    finally:
        unmount(path)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Let `path` be read-only to whoever looks it up while the context lasts; files that are open stay writable."""
    mount("--bind", str(path), str(path))
    mount("-o", "remount,bind,ro", str(path))
    try:
        yield
    finally:
        unmount(path)


def processor_seconds(daemon: Daemon) -> float:
    """Return the processor time that a daemon has used, without its workers."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def troubles(daemon: Daemon) -> list[str]:
    """Return the lines that tell of trouble."""
    return [line for line in daemon.lines if "event=degraded" in line or "event=trouble" in line]


@contextmanager
def calm(daemon: Daemon, seconds: float = 2.0, share: float = 0.35) -> Iterator[None]:
    """Watch the daemon for `seconds` after the body: it burns at most `share` of a processor, and says little."""
    yield
    before, said = processor_seconds(daemon), len(troubles(daemon))
    time.sleep(seconds)  # the time itself is what is measured
    burnt, lines = processor_seconds(daemon) - before, len(troubles(daemon)) - said
    print(f"{burnt / seconds:.3f} of a processor and {lines} lines of trouble in {seconds} s")
    assert burnt < share * seconds
    assert lines < FEW_LINES, daemon.log


def degraded(world: World) -> set[str]:
    """Return the parts of which `relayd doctor` says that they cannot work."""
    looked = world.command("doctor", "--json")
    found = json.loads(looked.stdout)
    prefix = "the daemon cannot do a part of its work: "
    details = [each["detail"] for each in found if each["what"] == "degraded"]
    return {detail.removeprefix(prefix).partition(",")[0] for detail in details}


def seen_degraded(world: World, daemon: Daemon, part: str) -> None:
    """Wait until the trouble of a part is seen wherever one looks: log, doctor, health, metrics, the service manager's
    status."""
    daemon.logged(f"event=degraded part={part}")
    assert part in degraded(world)
    health = asked(world, "healthz")
    assert health.startswith("503 ")
    assert f"{part} is degraded: " in health
    assert f'relayd_part_degraded{{part="{part}"}} 1.0' in asked(world, "metrics")
    wait_until(lambda: _status_tells(daemon, part), f"a status that names {part}")


def asked(world: World, path: str) -> str:
    """Return the status and the answer of the daemon's web server."""
    connection = http.client.HTTPConnection("127.0.0.1", world.http_port, timeout=10)
    try:
        connection.request("GET", f"/{path}")
        answer = connection.getresponse()
        return f"{answer.status} {answer.read().decode()}"
    finally:
        connection.close()


def _status_tells(daemon: Daemon, part: str) -> bool:
    daemon.notify.received("")
    statuses = [state for state in daemon.notify.states if state.startswith("STATUS=")]
    return bool(statuses) and part in statuses[-1].partition("; degraded: ")[2]
