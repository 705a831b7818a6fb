"""A story as the disk saw it: relayd is followed by strace from its start to its end, and what it did becomes steps.

The letters are in `new/` before it starts, and durable: what a careful producer has done.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kills.ground import Ground, Site
from tests.kills.oracle import judge
from tests.kills.runs import EX_OK, drain, is_told
from tests.kills.stories import MAIL, OTHER, Story, letter
from tests.power.disk import ROOT, Effect, Image, Inode, Link, Rename, Resize, Sent, Step, Sync, Unlink, Write
from tests.power.trace import FILES, GONE, NAMES, OPTIONS, SYNCS, Call, calls
from tests.support.process import Daemon, wait_until
from tests.support.world import octets

UNFOLLOWED = ("/lock", "-shm")  # says who has the lock; SQLite makes it anew
PATIENCE = 120.0  # seconds: strace makes a start slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What was there before relayd started, and what it did; `told`: the recipients that each notification names."""

    story: Story
    initial: Image
    steps: list[Step]
    told: dict[str, tuple[str, ...]]


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
        initial, inodes = photographed(site.spool)
        answered = len(ground.witness.answers)
        lines = _played(site, story)
        answers = ground.witness.answers[answered:]
        told = dict(_told(ground, story))
    steps = Reader(site.spool, initial.copy(), inodes, answers).steps(calls(lines))
    return Recording(story=story, initial=initial, steps=steps, told=told)


def _played(site: Site, story: Story) -> list[str]:
    log = site.directory / "strace"
    with Daemon(site.configured(), prefix=["strace", "-o", str(log), *OPTIONS]) as daemon:
        daemon.ready(PATIENCE)
        wait_until(lambda: is_told(site, daemon.log + "\n", story), f"the end; {daemon.log}", timeout=PATIENCE)
        os.kill(_child(daemon.pid), 15)
        assert daemon.wait(PATIENCE) == EX_OK
    site.log.write_text(daemon.log)
    drain(site)
    verdict = judge(site, story, site.ground.witness.ended[story.letters[0].name])
    assert not verdict.faults, verdict
    return log.read_text().splitlines()


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _told(ground: Ground, story: Story) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the ids of notifications with the recipients that they name."""
    for name in story.names:
        for envelope in ground.witness.taken[name]:
            content = octets(envelope)
            if envelope.mail_from == "<>" and (found := re.search(rb"^Message-ID: <(\w+)@", content, re.MULTILINE)):
                named = re.findall(rb"^Final-Recipient: rfc822; *(\S+)", content, re.MULTILINE)
                yield found[1].decode(), tuple(each.decode() for each in named)


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


class Reader:
    """Makes steps of calls.  `image` is what everything so far has come to, for looking up names."""

    def __init__(self, spool: Path, image: Image, inodes: int, answers: Sequence[tuple[tuple[str, ...], bool]]) -> None:
        self._spool = f"{spool}/"
        self._image = image
        self._inodes = inodes
        self._positions: dict[tuple[int, str], int] = {}
        self._sent: dict[tuple[int, str], Conversation] = {}
        self._answers = list(answers)
        self._steps: list[Step] = []

    def steps(self, calls: Sequence[Call]) -> list[Step]:
        """Return the steps of calls."""
        for call in calls:
            for effect in self._effects(call):
                self._steps.append(Step(effect=effect, begun=call.begun, ended=call.ended))
                self._image.apply(effect)
        return self._steps

    def _effects(self, call: Call) -> Iterator[Effect]:
        if call.name == "openat":
            yield from self._opened(call)
        elif call.name in NAMES or call.name in GONE:
            yield from self._named(call)
        elif call.descriptors and call.descriptors[0][1].startswith("socket:"):
            yield from self._spoken(call)
        elif call.descriptors and (inode := self._inode(call)) is not None:
            if call.name in SYNCS:
                yield Sync(inode=None if call.name == "syncfs" else inode)
            elif call.name in FILES:
                yield from self._written(call, inode)

    # files

    def _inode(self, call: Call) -> int | None:
        """Return which inode of the spool a call's descriptor is, None if it is none that has a name."""
        _, path, deleted = call.descriptors[0]
        return None if deleted else self._found(path)

    def _is_followed(self, path: str) -> bool:
        """Whether a path is in the spool, and what is there is relied upon."""
        return path.startswith(self._spool) and not path.endswith(UNFOLLOWED)

    def _found(self, path: str) -> int | None:
        if f"{path}/" == self._spool:
            return ROOT
        if not self._is_followed(path):
            return None
        directory, name = self._place(path)
        return self._image.names.get(directory, {}).get(name)

    def _place(self, path: str) -> tuple[int, str]:
        """Return the directory of a path, and the name in it."""
        *parents, name = path.removeprefix(self._spool).split("/")
        directory = ROOT
        for parent in parents:
            directory = self._image.names[directory][parent]
        return directory, name

    def _new(self, *, directory: bool) -> int:
        self._inodes += 1
        self._image.inodes[self._inodes] = Inode(number=self._inodes, owner=0, is_directory=directory)
        return self._inodes

    def _opened(self, call: Call) -> Iterator[Effect]:
        path = call.strings[-1].decode(errors="surrogateescape")
        if not self._is_followed(path) or "O_TMPFILE" in call.flags:
            return
        number, named, _ = call.descriptors[-1]
        self._positions[number, named] = 0
        inode = self._found(path)
        if inode is None and "O_CREAT" in call.flags:
            directory, name = self._place(path)
            yield Link(directory=directory, name=name, inode=self._new(directory=False))
        elif inode is not None and "O_TRUNC" in call.flags:
            yield Resize(inode=inode, size=0)

    def _written(self, call: Call, inode: int) -> Iterator[Effect]:
        number, path, _ = call.descriptors[0]
        match call.name:
            case "pwrite64":
                yield Write(inode=inode, offset=call.numbers[-1], content=call.strings[0][: call.result])
            case "write":
                offset = self._positions[number, path]
                self._positions[number, path] = offset + call.result
                yield Write(inode=inode, offset=offset, content=call.strings[0][: call.result])
            case "ftruncate":
                yield Resize(inode=inode, size=call.numbers[-1])
            case "fallocate":
                assert "/queue/.notes." in path, path  # mapped: see disk.py
            case _:
                raise AssertionError(f"a call that is not understood: {call.name} {path}")

    # names

    def _named(self, call: Call) -> Iterator[Effect]:
        paths = [each.decode(errors="surrogateescape") for each in call.strings]
        if not self._is_followed(paths[0]):
            return
        match call.name:
            case "mkdir":
                directory, name = self._place(paths[0])
                yield Link(directory=directory, name=name, inode=self._new(directory=True))
            case "unlink":
                if self._found(paths[0]) is not None:  # it is no socket
                    yield self._gone(paths[0])
            case "rename":
                old = self._gone(paths[0])
                directory, name = self._place(paths[1])
                yield Rename(old=old, new=Link(directory=directory, name=name, inode=old.inode))
            case _:
                raise AssertionError(f"a call that is not understood: {call.name} {paths}")

    def _gone(self, path: str) -> Unlink:
        directory, name = self._place(path)
        return Unlink(directory=directory, name=name, inode=self._image.names[directory][name])

    # what is sent

    def _spoken(self, call: Call) -> Iterator[Sent]:
        number, path, _ = call.descriptors[0]
        conversation = self._sent.setdefault((number, path), Conversation())
        for recipients in conversation.said(b"".join(call.strings)[: call.result]):
            yield Sent(recipients=self._taken(recipients))

    def _taken(self, recipients: Sequence[str]) -> tuple[str, ...]:
        """Return for which of the recipients of a message the server answered that it took it."""
        for answer in self._answers:
            if set(answer[0]) <= set(recipients):
                self._answers.remove(answer)
                return answer[0] if answer[1] else ()
        raise AssertionError(f"no server saw the end of a message to {recipients}")


class Conversation:
    """What a client says in SMTP, without BDAT: for whom is each message whose end has been said?"""

    def __init__(self) -> None:
        self._said = b""
        self._recipients: list[str] = []
        self._in_data = False

    def said(self, octets: bytes) -> Iterator[list[str]]:
        """Yield the recipients of each message that ends in these octets."""
        if self._in_data and not self._said and re.match(rb"MAIL |RSET|QUIT", octets):
            self._in_data = False  # DATA was refused
        self._said += octets
        while True:
            before, end, after = self._said.partition(b"\r\n.\r\n" if self._in_data else b"\r\n")
            if not end:
                return
            self._said = after
            if self._in_data:
                self._in_data = False
                yield self._recipients
            else:
                self._command(before)

    def _command(self, line: bytes) -> None:
        if line.startswith(b"MAIL "):
            self._recipients = []
        elif recipient := re.match(rb"RCPT TO:<([^>]*)>", line):
            self._recipients.append(recipient[1].decode())
        elif line == b"DATA":
            self._in_data = True
