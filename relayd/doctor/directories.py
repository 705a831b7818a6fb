"""The spool's directories and files: there, of one owner, on one file system, and what is private private.

Modes that somebody chose otherwise are left alone by the daemon, so they are no mistake; but mail that everybody can
read is told of, and so is a file of another owner, which a daemon cannot use.  (Whoever ran one as root once has such.)
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from relayd.doctor.finding import Finding, counted, error, information, warning

PUBLIC = ("new", "tmp", "cur")
PRIVATE = ("queue", "rejected")
FILES = (
    *("queue.db", "queue.db-wal", "queue.db-shm", "lock", "control"),
    *("tlsrpt.db", "tlsrpt.db-wal", "tlsrpt.db-shm"),
)
MOST = 1_000  # files of another owner that are counted


def of_directories(spool: Path) -> Iterator[Finding]:
    """Look at the directories of a spool that is there."""
    yield from _missing(spool)
    yield from _exposed(spool)
    yield from _of_another_owner(spool)
    yield from _apart(spool)


def _missing(spool: Path) -> Iterator[Finding]:
    for name in (*PUBLIC, *PRIVATE):
        mode = _mode(spool / name)
        if mode is None:
            yield warning(
                "directory", f"{spool / name} is missing", "start relayd, which makes it, or systemd-tmpfiles --create"
            )
        elif not stat.S_ISDIR(mode):
            yield error("directory", f"{spool / name} is not a directory", "move it away; relayd makes its own")


def _exposed(spool: Path) -> Iterator[Finding]:
    for name in (*PRIVATE, *FILES):
        mode = _mode(spool / name)
        if mode is not None and mode & 0o077:
            right = "0700" if stat.S_ISDIR(mode) else "0600"
            yield warning(
                "mode",
                f"{spool / name} has mode {stat.S_IMODE(mode):04o}: others can get at mail, or at the queue",
                f"chmod {right} {spool / name}",
            )
    mode = _mode(spool)
    if mode is not None and mode & 0o022:
        yield warning(
            "mode",
            f"{spool} has mode {stat.S_IMODE(mode):04o}: others can put another queue in the place of ours",
            f"chmod go-w {spool}, and let them drop into {spool / 'new'}",
        )
    mode = _mode(spool / "new")
    if mode is not None and mode & stat.S_IWOTH:
        yield information(
            "mode",
            f"{spool / 'new'} has mode {stat.S_IMODE(mode):04o}: every user of this machine can send mail",
            f"chmod 3770 {spool / 'new'} unless that is wanted",
        )


def _of_another_owner(spool: Path) -> Iterator[Finding]:
    """All that is the daemon's own belongs to whom the bodies' directory belongs to."""
    owner = _owner(spool / "queue")
    if owner is None:
        return
    paths = [*(spool / name for name in (*FILES, "rejected", "queue/incoming")), *(spool / "queue").glob("??")]
    strange = [str(path.relative_to(spool)) for path in paths if _owner(path) not in (None, owner)]
    if strange:
        whose = f"to another user than {_user(owner)}, to whom {spool / 'queue'} belongs"
        yield error(
            "owner",
            counted(strange[:MOST], f"file belongs {whose}", f"files belong {whose}", at_most=MOST),
            f"give them to {_user(owner)} (chown), and run relayd as {_user(owner)} only",
        )


def _apart(spool: Path) -> Iterator[Finding]:
    devices = {name: os.stat(spool / name).st_dev for name in ("new", "queue") if (spool / name).is_dir()}
    if len(set(devices.values())) > 1:
        yield information(
            "file-system",
            f"{spool / 'new'} and {spool / 'queue'} are on two file systems, so that every file is copied",
            "if that is too slow, mount one file system at the spool itself, and none below it",
        )


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None


def _owner(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except FileNotFoundError:
        return None


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
