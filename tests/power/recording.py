"""A story as the disk saw it: relayd is followed by strace from its start to its end, and what it did becomes steps.

The letters are in `new/` before it starts, and durable: what a careful producer has done.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiosmtpd.smtp import Envelope

from tests.kills.ground import Ground, Site
from tests.kills.oracle import judge
from tests.kills.runs import EX_OK, EX_TEMPFAIL, drain, is_told
from tests.kills.stories import MAIL, OTHER, Story, letter
from tests.power.cuts import Cut
from tests.power.disk import ROOT, Image, Inode, Sent, Step, rebuilt, survived
from tests.power.reading import Reader
from tests.power.trace import OPTIONS, calls
from tests.support.process import Daemon, wait_until
from tests.support.world import octets

PATIENCE = 120.0  # seconds: strace makes a start slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What was there before relayd started, and what it did.

    `before` had been taken by servers already; `taken` is all that they have in the end, when the queue was drained.
    """

    story: Story
    initial: Image
    steps: list[Step]
    before: frozenset[str]
    taken: dict[str, list[Envelope]]

    @property
    def told(self) -> dict[str, tuple[str, ...]]:
        """The recipients that each notification names."""
        found = {}
        for envelope in (each for envelopes in self.taken.values() for each in envelopes):
            content = octets(envelope)
            if envelope.mail_from == "<>" and (named := re.search(rb"^Message-ID: <(\w+)@", content, re.MULTILINE)):
                recipients = re.findall(rb"^Final-Recipient: rfc822; *(\S+)", content, re.MULTILINE)
                found[named[1].decode()] = tuple(each.decode() for each in recipients)
        return found


def few() -> Story:
    """One of each kind, and no more files than are synced one by one."""
    letters = (
        letter("ok0", "ok1"),
        letter("ok0", f"later1@{OTHER}", own=False),
        letter("late0", "no0", own=False),
        letter("no0", null=True, domain=OTHER),
    )
    return Story(name="few", letters=letters)


def many() -> Story:
    """More files than are synced one by one."""
    kinds = ("ok0", "no0", "late0", "ok0", "later0", "ok0")
    letters = tuple(
        letter(kind, own=number % 2 > 0, domain=(MAIL, OTHER)[number % 2]) for number, kind in enumerate(kinds)
    )
    return Story(name="many", letters=letters)


def others() -> Story:
    """Only files of another owner."""
    return Story(name="others", letters=(letter("ok0", own=False), letter("no0", "later0", own=False)))


RECORDED = {"few": few, "many": many, "others": others}


def record(ground: Ground, story: Story) -> Recording:
    """Let relayd play a story to its end, on a new spool."""
    with ground.site() as site:
        for name in ("new", "tmp", "cur"):
            (site.spool / name).mkdir(parents=True)
        for each in story.letters:
            site.drop(each)

        def is_over(log: str) -> bool:
            return is_told(site, log + "\n", story)

        return _recorded(site, story, is_over, frozenset())


def record_again(ground: Ground, earlier: Recording, cut: Cut) -> Recording:
    """Let relayd start on what a power cut left and do all that can be done at once."""
    ground.witness.taken.update(taken_before(earlier, cut))
    with ground.site() as site:
        rebuilt(survived(earlier.initial, earlier.steps, cut.count, cut.torn), site.spool)
        return _recorded(site, earlier.story, None, left(earlier, cut.count))


def _recorded(site: Site, story: Story, is_over: Callable[[str], bool] | None, before: frozenset[str]) -> Recording:
    initial, inodes = photographed(site.spool)
    witness = site.ground.witness
    answered = len(witness.answers)
    lines = _played(site, is_over)
    answers = witness.answers[answered:]
    drain(site)
    verdict = judge(site, story, Counter())
    assert not verdict.faults, verdict
    steps = Reader(site.spool, initial.copy(), inodes, answers).steps(calls(lines))
    taken = {name: list(witness.taken[name]) for name in story.names}
    return Recording(story=story, initial=initial, steps=steps, before=before, taken=taken)


def _played(site: Site, is_over: Callable[[str], bool] | None) -> list[str]:
    """Follow a start of relayd until it is over, or, if nobody can tell, until nothing is left to do at once."""
    log = site.directory / "strace"
    once = [] if is_over else ["--once"]
    with Daemon(site.configured(), *once, prefix=["strace", "-o", str(log), *OPTIONS]) as daemon:
        if is_over:
            daemon.ready(PATIENCE)
            wait_until(lambda: is_over(daemon.log), f"the end; {daemon.log}", timeout=PATIENCE)
            os.kill(_child(daemon.pid), signal.SIGTERM)
        assert daemon.wait(PATIENCE) in (EX_OK, EX_TEMPFAIL), daemon.log
    site.log.write_text(daemon.log)
    return log.read_text().splitlines()


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def left(recording: Recording, count: int) -> frozenset[str]:
    """Return for whom the end of a message that was taken had left."""
    sent = (step.effect for step in recording.steps[:count])
    return recording.before.union(*(each.recipients for each in sent if isinstance(each, Sent)))


def taken_before(recording: Recording, cut: Cut) -> dict[str, list[Envelope]]:
    """Return what the servers had taken before a cut."""
    later = Counter(each.recipients for step in recording.steps[cut.count :] if isinstance(each := step.effect, Sent))
    found: dict[str, list[Envelope]] = {}
    for name, envelopes in recording.taken.items():
        found[name] = []
        for envelope in envelopes[::-1]:
            key = tuple(envelope.rcpt_tos)
            later[key] -= 1
            if later[key] < 0:
                found[name].insert(0, envelope)
    return found


def photographed(spool: Path) -> tuple[Image, int]:
    """Return what is in a spool, and how many inodes that is."""
    image, number = Image(), ROOT
    directories = {spool: ROOT}
    for path in sorted(spool.rglob("*")):
        number += 1
        directory = path.is_dir()
        image.inodes[number] = Inode(number=number, owner=path.stat().st_uid, is_directory=directory)
        image.names[directories[path.parent]][path.name] = number
        if directory:
            directories[path] = number
            image.names[number] = {}
        else:
            image.contents[number] = bytearray(path.read_bytes())
    return image, number
