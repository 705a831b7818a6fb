"""One run in which calls fail: once, at the n-th, or all of them from there on until strace lets go.

The daemon has to live, to say that it is in trouble, not to storm, and to bring the story to its end by itself when
the trouble is over; nothing may come twice, since nobody died.
"""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tests.kills.ground import Ground, Site
from tests.kills.nursery import Daemon
from tests.kills.oracle import Verdict, judge
from tests.kills.runs import EX_OK, drain, is_told, started
from tests.kills.stories import STORIES, Story
from tests.kills.strace import Strace, named
from tests.support.process import wait_until

LASTING = 1.5  # seconds that a lasting trouble lasts
RECOVERY = 60.0  # seconds in which all has to be well again
STORM = 200  # failed calls a second, or lines of the log: more would be a loop without a rest
TOLD = r"event=(degraded|trouble|left)|status=deferred dsn=4\.(3\.|4\.3)|Too many open files"
UNTOLD = {"unlink"}  # what is left of a file that was copied is unlinked at the next start
HARMLESS = {"spool/queue", "spool/queue/incoming"}  # to make what is there
WAKING = "anon_inode:[eventfd]"  # threads wake the loop by it; libuv ends the process where that fails

# What fails, in which thread, and how: disks, quotas and tables of open files do all of these.
TROUBLES = {
    ("commits", "pwrite64"): ("EIO", "ENOSPC", "EDQUOT"),
    ("commits", "fdatasync"): ("EIO", "ENOSPC"),
    ("commits", "fsync"): ("EIO",),
    ("commits", "ftruncate"): ("EIO",),
    ("commits", "unlink"): ("EIO",),
    ("commits", "openat"): ("EMFILE", "EIO"),
    ("commits", "pread64"): ("EIO",),
    ("looks", "pread64"): ("EIO",),
    ("looks", "openat"): ("EMFILE",),
    ("main", "openat"): ("EMFILE",),
    ("main", "socket"): ("EMFILE",),
    ("pool", "rename"): ("EIO", "ENOSPC", "EDQUOT"),
    ("pool", "fsync"): ("EIO",),
    ("pool", "fdatasync"): ("EIO",),
    ("pool", "syncfs"): ("EIO",),
    ("pool", "unlink"): ("EIO",),
    ("pool", "openat"): ("EMFILE", "ENFILE", "EIO"),
    ("pool", "mkdir"): ("ENOSPC", "EIO"),
    ("pool", "read"): ("EIO",),
    ("pool", "write"): ("ENOSPC", "EIO"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A thread's `when`-th call fails, or with `lasting` all from there on, for a time."""

    story: str
    role: str
    call: str
    error: str
    when: int
    lasting: bool
    processes: int = 0

    @property
    def inject(self) -> str:
        """As strace wants it."""
        return f"{self.call}:error={self.error}:when={self.when}{'+' * self.lasting}"


def run(ground: Ground, failure: Failure) -> dict[str, Any]:
    """Play it; return what is to be recorded of it."""
    story = STORIES[failure.story]()
    began = time.monotonic()
    with ground.site(failure.processes) as site:
        found: dict[str, Any] = {"fired": 0, "at": {}, "told": False, "lines": 0}
        verdict = Verdict()
        try:
            found |= _failed(site, story, failure)
            drain(site)
            ended = Counter(address for name in story.names for address in ground.witness.ended[name].elements())
            verdict = judge(site, story, ended)
            verdict.faults += _wrong(failure, found, verdict)
        except AssertionError as error:  # a run that hangs is a fault like any other
            verdict.faults.append(str(error))
        if verdict.faults:
            ground.keep(site)
    return asdict(failure) | found | {"seconds": round(time.monotonic() - began, 2)} | asdict(verdict)


def _failed(site: Site, story: Story, failure: Failure) -> dict[str, Any]:
    """Let a daemon play the story in trouble and then without; return what there is to say of it."""
    daemon, threads = started(site, failure.role)
    with daemon:
        log = site.directory / "strace"
        with Strace(log, threads, [failure.call], inject=failure.inject) as strace:
            for letter in story.letters:
                site.drop(letter)
            if failure.lasting:
                _wait(daemon, lambda: bool(strace.injected) or is_told(site, daemon.log, story), "a failed call")
                time.sleep(LASTING)  # the time itself is the stimulus
                strace.detach()
            lines = len(daemon.lines)
            _wait(daemon, lambda: is_told(site, daemon.log, story), "the end of the story")
            daemon.terminate()
            _wait(daemon, lambda: not daemon.running, "the end of relayd")
        at = Counter(place for line in strace.lines if (place := _place(line)))
        ends = {EX_OK, -signal.SIGABRT} if WAKING in at else {EX_OK}
        assert daemon.wait() in ends, f"relayd ended with {daemon.wait()}"
        told = bool(re.search(TOLD, daemon.log))
        return {"fired": strace.injected, "at": dict(at), "told": told, "lines": lines}


def _wait(daemon: Daemon, claim: Any, what: str) -> None:
    wait_until(lambda: claim() or not daemon.running, f"{what}; {daemon.log}", timeout=RECOVERY)


def _place(line: str) -> str:
    """Return on what a call failed, "" if it did not."""
    if "(INJECTED)" not in line:
        return ""
    name, _, paths = named(line).partition(" ")
    return paths or name


def _wrong(failure: Failure, found: dict[str, Any], verdict: Verdict) -> Iterator[str]:
    if (verdict.twice or verdict.marked) and WAKING not in found["at"]:
        yield f"came twice {verdict.twice}, was marked {verdict.marked}, and nobody died"
    if failure.lasting and found["fired"] > STORM * LASTING:
        yield f"{found['fired']} failed calls in {LASTING} s"
    if failure.lasting and found["lines"] > STORM * LASTING:
        yield f"{found['lines']} lines of the log in {LASTING} s"
    harmed = sum(count for place, count in found["at"].items() if place not in HARMLESS)
    # A socket that was not to be had once may be asked for again before anybody is kept waiting.
    enough = 2 if failure.call == "socket" else 1
    ended = WAKING in found["at"] or failure.call in UNTOLD
    if failure.lasting and harmed >= enough and not (found["told"] or ended):
        yield "nothing in the log tells of the trouble"
