"""The drop directory: what stays there, and why it may.

The daemon takes a file within seconds.  Which it leaves, and why, is in its log; here it is told by age and type, so
that it can be asked without one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from relayd.doctor.finding import Finding, counted, error, information, warning
from relayd.doctor.running import Running
from relayd.submission.scan import is_candidate, is_root_candidate

PATIENCE = timedelta(minutes=10)
ABANDONED = timedelta(hours=36)  # Maildir's own: what is in tmp/ for longer has no writer any more
MOST = 1_000  # files of one kind that are counted


def of_drop(spool: Path, now: datetime, state: Running) -> Iterator[Finding]:
    """Look at what is there for long."""
    stays: dict[str, list[str]] = {}
    for path, status in _files(spool):
        kind = why_it_stays(path.name, status, now, in_new=path.parent != spool)
        if kind is not None and len(stays.setdefault(kind, [])) < MOST:
            stays[kind].append(path.name)
    for kind in sorted(stays):
        yield _stays(kind, sorted(stays[kind]), state)
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


def why_it_stays(name: str, status: os.stat_result, now: datetime, *, in_new: bool) -> str | None:
    """Return the kind of a file that has been there for long, None if it has not.  Pure."""
    age = now - datetime.fromtimestamp(status.st_ctime, UTC)
    if in_new and not is_candidate(name):
        return "unfinished" if age > ABANDONED else None
    if age <= PATIENCE:
        return None
    if not stat.S_ISREG(status.st_mode):
        return "strange"
    return "linked" if status.st_nlink > 1 else "waiting"


def _stays(kind: str, names: list[str], state: Running) -> Finding:
    def detail(one: str, several: str) -> str:
        return counted(names, f"dropped file {one}", f"dropped files {several}", at_most=MOST)

    match kind:
        case "unfinished":
            what = "have names that their writers use while they write, for 36 hours or longer"
            return information(
                "dropped-file", detail(what.replace("have", "has", 1), what), "remove what nobody writes"
            )
        case "strange":
            what = "no regular file, and never taken"
            return warning(
                "dropped-file", detail(f"is {what}", f"are {what}"), "drop files, not links or anything else"
            )
        case "linked":
            what = "a second link, and is not taken"
            return warning("dropped-file", detail(f"has {what}", f"have {what}"), "remove the other, or drop a copy")
        case _ if not state.answers:
            return information("dropped-file", detail("waits for a daemon", "wait for a daemon"), "start relayd")
        case _:
            advice = "see event=left in the log; can relayd's user read it, and has its writer closed it?"
            late = "not taken for more than 10 minutes"
            return error("dropped-file", detail(f"was {late}", f"were {late}"), advice)


def _half_taken(spool: Path, now: datetime, state: Running) -> Iterator[Finding]:
    """Another owner's files are in queue/incoming/ while they are copied."""
    try:
        paths = list((spool / "queue" / "incoming").iterdir())
    except FileNotFoundError:
        return
    old = sorted(path.name for path in paths if _age(path, now) > PATIENCE)[:MOST]
    if old:
        kind = warning if state.answers else information
        files = counted(old, "file", "files", at_most=MOST)
        yield kind(
            "half-taken", f"{files} half taken in, in queue/incoming/", "restart relayd: a start takes them anew"
        )


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
