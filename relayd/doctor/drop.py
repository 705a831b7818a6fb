"""The drop directory: what stays there, and why it may.

The daemon takes a file within seconds.  Which it leaves, and why, is in its log; here it is told by age and type, so
that it can be asked without one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import assert_never

from relayd.doctor.finding import Finding, counted, error, information, warning
from relayd.doctor.running import Running
from relayd.submission.scan import is_candidate, is_root_candidate

PATIENCE = timedelta(minutes=10)
ABANDONED = timedelta(hours=36)  # Maildir's own: what is in tmp/ for longer has no writer any more
MOST = 1_000  # files of one kind that are counted


class Stays(Enum):
    """Why a file has been there for long."""

    UNFINISHED = "unfinished"  # it has a name that writers use while they write
    STRANGE = "strange"  # it is no regular file
    LINKED = "linked"  # it has a second link
    WAITING = "waiting"  # nothing can be seen that keeps it


def of_drop(spool: Path, now: datetime, state: Running) -> Iterator[Finding]:
    """Look at what is there for long."""
    stays: dict[Stays, list[str]] = {kind: [] for kind in Stays}
    for path, status in _files(spool):
        kind = why_it_stays(path.name, status, now, in_new=path.parent != spool)
        if kind is not None and len(stays[kind]) < MOST:
            stays[kind].append(path.name)
    for kind, names in stays.items():
        if names:
            yield _stays(kind, sorted(names), state)
    yield from _half_taken(spool, now, state)
    yield from _rejected(spool)


def _files(spool: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for directory in (spool, spool / "new"):
        if not directory.is_dir():
            continue
        with os.scandir(directory) as entries:
            for entry in entries:
                if directory != spool or is_root_candidate(entry.name):
                    try:
                        yield Path(entry.path), entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # taken meanwhile


def why_it_stays(name: str, status: os.stat_result, now: datetime, *, in_new: bool) -> Stays | None:
    """Return why a file has been there for long, None if it has not.  Pure."""
    age = now - datetime.fromtimestamp(status.st_ctime, UTC)
    if in_new and not is_candidate(name):
        return Stays.UNFINISHED if age > ABANDONED else None
    if age <= PATIENCE:
        return None
    if not stat.S_ISREG(status.st_mode):
        return Stays.STRANGE
    return Stays.LINKED if status.st_nlink > 1 else Stays.WAITING


def _stays(kind: Stays, names: list[str], state: Running) -> Finding:
    def detail(one: str, several: str, what: str) -> str:
        return counted(names, f"dropped file {one} {what}", f"dropped files {several} {what}", at_most=MOST)

    match kind:
        case Stays.UNFINISHED:
            told = detail("has had", "have had", "the name of a file that is being written, for 36 hours or longer")
            return information("dropped-file", told, "remove what nobody writes")
        case Stays.STRANGE:
            told = detail("is", "are", "no regular file, and never taken")
            return warning("dropped-file", told, "drop files, not links or anything else")
        case Stays.LINKED:
            told = detail("has", "have", "a second link, and is not taken")
            return warning("dropped-file", told, "remove the other, or drop a copy")
        case Stays.WAITING if not state.answers:
            return information("dropped-file", detail("waits", "wait", "for a daemon"), "start relayd")
        case Stays.WAITING:
            told = detail("was", "were", "not taken for more than 10 minutes")
            advice = "see event=left in the log; can relayd's user read it, and has its writer closed it?"
            return error("dropped-file", told, advice)
        case _:
            assert_never(kind)


def _half_taken(spool: Path, now: datetime, state: Running) -> Iterator[Finding]:
    """Another owner's files are in queue/incoming/ while they are copied."""
    try:
        paths = list((spool / "queue" / "incoming").iterdir())
    except FileNotFoundError:
        return
    old = sorted(path.name for path in paths if _age(path, now) > PATIENCE)[:MOST]
    if old:
        kind = warning if state.answers else information
        detail = counted(old, "file is half taken in", "files are half taken in", at_most=MOST)
        yield kind("half-taken", f"in queue/incoming/ {detail}", "restart relayd: a start takes them anew")


def _age(path: Path, now: datetime) -> timedelta:
    try:
        return now - datetime.fromtimestamp(path.lstat().st_ctime, UTC)
    except FileNotFoundError:
        return timedelta(0)


def _rejected(spool: Path) -> Iterator[Finding]:
    try:
        names = sorted(name for name in os.listdir(spool / "rejected") if not name.endswith(".reason.txt"))
    except FileNotFoundError:
        return
    if names:
        detail = counted(names[:MOST], "file was not understood", "files were not understood", at_most=MOST)
        yield information("rejected", detail, "see rejected/*.reason.txt; then remove both")
