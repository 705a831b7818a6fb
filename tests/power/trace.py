"""What strace wrote (`-f -y -xx -s` more than anything): the calls that changed or synced files, and what was sent.

A call is known by its name, the thread, the descriptors it used (as paths), its strings, its numbers and its result.
Calls that failed are left out.  `begun` and `ended` are places in the log: calls of two threads may overlap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

FILES = ("openat", "write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate", "copy_file_range", "sendfile")
NAMES = ("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "mkdir", "mkdirat")
GONE = ("unlink", "unlinkat", "rmdir")
SYNCS = ("fsync", "fdatasync", "syncfs", "sync_file_range", "msync", "sync")
SENT = ("sendmsg", "sendto")
TRACED = (*FILES, *NAMES, *GONE, *SYNCS, *SENT)
OPTIONS = ("--seccomp-bpf", "-f", "-y", "-xx", "-s", "100000000", "-e", f"trace={','.join(TRACED)}")

_TEXT = r"(?:\\x[0-9a-f]{2})*"
_LINE = re.compile(r"(\d+) +(.*)")
_STRING = re.compile(rf'"({_TEXT})"')
_DESCRIPTOR = re.compile(rf"\b(\d+)<({_TEXT})>(\(deleted\))?")
_FLAGS = re.compile(r"\bO_[A-Z_|]+")
_NUMBER = re.compile(r"(?<![\w<])\d+(?![\w<])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """See the module."""

    name: str
    thread: int
    descriptors: tuple[tuple[int, str, bool], ...]  # number, path, whether it was unlinked
    strings: tuple[bytes, ...]
    flags: frozenset[str]
    numbers: tuple[int, ...]
    result: int
    begun: int
    ended: int


def calls(lines: Iterable[str]) -> list[Call]:
    """Return the calls of a log in the order in which they ended."""
    begun: dict[str, tuple[int, str]] = {}
    found = []
    for number, line in enumerate(lines):
        thread, text = _split(line)
        if text.endswith(" <unfinished ...>"):
            begun[thread] = number, text.removesuffix(" <unfinished ...>")
        elif resumed := re.match(r"<\.\.\. \w+ resumed>", text):
            start, first = begun.pop(thread)
            found.append((start, number, thread, first + text[resumed.end() :]))
        elif re.match(r"[a-z]\w*\(", text):
            found.append((number, number, thread, text))
    return [call for each in found if (call := _call(*each)) is not None]


def _split(line: str) -> tuple[str, str]:
    match = _LINE.match(line)
    return (match[1], match[2]) if match else ("", "")


def _call(begun: int, ended: int, thread: str, text: str) -> Call | None:
    body, _, result = text.rpartition(" = ")
    returned = re.match(r"\d+", result)
    if returned is None:
        return None
    bare = _STRING.sub("", _DESCRIPTOR.sub("", body))
    of_result = _DESCRIPTOR.match(result)
    return Call(
        name=text.partition("(")[0],
        thread=int(thread),
        descriptors=tuple(_descriptors([*_DESCRIPTOR.finditer(body), *([of_result] if of_result else [])])),
        strings=tuple(_octets(each) for each in _STRING.findall(body)),
        flags=frozenset(flag for flags in _FLAGS.findall(bare) for flag in flags.split("|")),
        numbers=tuple(int(each) for each in _NUMBER.findall(bare)),
        result=int(returned[0]),
        begun=begun,
        ended=ended,
    )


def _descriptors(matches: Iterable[re.Match[str]]) -> Iterator[tuple[int, str, bool]]:
    for match in matches:
        yield int(match[1]), _octets(match[2]).decode(errors="surrogateescape"), match[3] is not None


def _octets(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
