"""Makes steps of calls: what each did to the spool's names and files, what it synced, and whose message it sent off."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.power.disk import ROOT, Effect, Image, Inode, Link, Rename, Resize, Sent, Step, Sync, Unlink, Write
from tests.power.trace import FILES, GONE, NAMES, SYNCS, Call

UNFOLLOWED = ("/lock", "-shm")  # says who has the lock; SQLite makes it anew


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
