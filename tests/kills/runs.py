"""One run: a daemon plays a story, is killed at a call or has calls fail, and its queue is drained by another."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from tests.kills.ground import Ground, Site
from tests.kills.nursery import Daemon
from tests.kills.oracle import Verdict, judge
from tests.kills.stories import STORIES, Story
from tests.kills.strace import CALLS, POOL, WORKER, Strace, fatal_call, roles, workers
from tests.support.process import wait_until

EX_OK, EX_TEMPFAIL = 0, 75
LONG = 120.0  # seconds: strace is slow, and a machine may be busy
STARTS = 30  # until one has the thread
DRAINS = 60  # starts with `--once` until nothing waits


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """SIGKILL at the `when`-th time that a thread makes a call."""

    story: str
    processes: int  # relayd's workers
    role: str
    call: str
    when: int
    round: int = 1


def run(ground: Ground, kill: Kill) -> dict[str, Any]:
    """Play it; return what is to be recorded of it."""
    story = STORIES[kill.story]()
    began = time.monotonic()
    with ground.site(kill.processes) as site:
        at, drains, verdict = "", 0, Verdict()
        try:
            at = _killed(site, story, kill)
            ended = Counter(address for name in story.names for address in ground.witness.ended[name].elements())
            drains = drain(site)
            verdict = judge(site, story, ended)
        except AssertionError as error:  # a run that hangs is a fault like any other
            verdict.faults.append(str(error))
        if verdict.faults:
            ground.keep(site)
    seconds = round(time.monotonic() - began, 2)
    return asdict(kill) | {"fired": bool(at), "at": at, "drains": drains, "seconds": seconds} | asdict(verdict)


def _killed(site: Site, story: Story, kill: Kill) -> str:
    """Let a daemon play the story until it is killed, or has ended in order; return at which call, "" for none."""
    daemon, threads = started(site, kill.role)
    with daemon:
        inject = f"{kill.call}:signal=SIGKILL:when={kill.when}"
        of_worker = kill.role == WORKER
        with Strace(site.directory / "strace", threads, [kill.call], inject=inject, follow=of_worker) as strace:
            play(site, daemon, story)
        died = daemon.wait() == -signal.SIGKILL
        assert died or daemon.wait() == EX_OK, f"relayd ended with {daemon.wait()}"
        return fatal_call(strace.lines) if died or of_worker else ""


def started(site: Site, role: str) -> tuple[Daemon, list[int]]:
    """Start a daemon that has the threads of a role: of a pool some are born only when they are needed."""
    for _ in range(STARTS):
        daemon = site.daemon().ready()
        found = roles(daemon.pid)
        if role in found:
            return daemon, found[role]
        daemon.terminate()
        daemon.wait()
    raise AssertionError(f"no start of relayd had a thread {role}")


def play(site: Site, daemon: Daemon, story: Story) -> None:
    """Drop the story's letters and wait until all is done, and the daemon has ended in order; or until it died."""
    for letter in story.letters:
        site.drop(letter)
    wait_until(lambda: not daemon.running or is_told(site, daemon.log, story), "the end of the story", timeout=LONG)
    daemon.terminate()
    daemon.wait(LONG)


def is_told(site: Site, log: str, story: Story) -> bool:
    """Whether a story has come to its end, as the log tells, and what was finished of it is gone."""
    final = re.findall(r"r=(\S+) status=(?:delivered|failed)", log)
    accepted = re.findall(r"event=accepted .* file=([0-9a-f]{32})\b", log)
    if len(set(accepted)) < len(story.letters) or len({each for each in final if "from." not in each}) < story.final:
        return False
    if len(set(re.findall(r"event=repeated .* key=([0-9a-f]{32})", log))) < sum(each.twice for each in story.letters):
        return False
    return not story.final or not any(_bodies(site, log))


def _bodies(site: Site, log: str) -> list[str]:
    """Return the bodies that are still to go: of <> some are kept."""
    kept = set(re.findall(r"event=accepted q=(\S+) sender=\"?<>\"? .* file=[0-9a-f]{32}", log))
    found = (name for top in os.listdir(site.spool / "queue") if len(top) == 2 for name in _listed(site, top))
    return [name for name in found if name not in kept]


def _listed(site: Site, top: str) -> list[str]:
    return os.listdir(site.spool / "queue" / top)


def drain(site: Site) -> int:
    """Start `relayd --once` until nothing waits; return how often it took."""
    for count in range(1, DRAINS + 1):
        with site.drain() as daemon:
            code = daemon.wait(LONG)
        if code == EX_OK:
            return count
        assert code == EX_TEMPFAIL, f"relayd --once ended with {code}: {site.drained.read_text()}"
        time.sleep(0.1)  # mail waits for its time
    raise AssertionError(f"mail still waits: {site.drained.read_text()}")


def profile(ground: Ground, story_name: str, processes: int) -> Counter[tuple[str, str]]:
    """Return how often each thread makes each call while a story is told."""
    story = STORIES[story_name]()
    with ground.site(processes) as site, site.daemon() as daemon:
        daemon.ready()
        known = {threads[0]: name for name, threads in roles(daemon.pid).items() if name != POOL}
        pids = [daemon.pid, *workers(daemon.pid)]
        with Strace(site.directory / "strace", pids, CALLS, follow=True) as strace:
            play(site, daemon, story)
        counted: Counter[tuple[str, str]] = Counter()
        for (thread, call), count in strace.counted().items():
            counted[known.get(thread, "later"), call] += count
        return counted
