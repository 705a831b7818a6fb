"""A unit's system-call rules as seccomp filters, by Debian's libseccomp: what systemd would load for it.

The groups (`@system-service`) are asked of `systemd-analyze syscall-filter`, so that they are those of the systemd
that would run the unit.  Only what relayd.service uses is known here; anything else is refused, never ignored.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import NamedTuple

LIBRARY = "libseccomp.so.2"
ALLOW = 0x7FFF0000
REFUSE = 0x00050000  # with an errno in the low bits
NOT_EQUAL, LESS, EQUAL, GREATER, MASKED = 1, 2, 4, 6, 7  # enum scmp_compare
UNKNOWN = -1  # __NR_SCMP_ERROR: no such name on this architecture

PROT_WRITE, PROT_EXEC, SHM_EXEC = 2, 4, 0o100000
SET_ID_BITS = (0o4000, 0o2000)
REALTIME = (1, 2, 6)  # SCHED_FIFO, SCHED_RR, SCHED_DEADLINE
NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)  # CLONE_NEW*


class _Comparison(ctypes.Structure):
    _fields_ = (("argument", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Condition(NamedTuple):
    """On one argument of a call: `MASKED` compares `value` with the bits of `mask`, the others with `mask` itself."""

    argument: int
    op: int
    mask: int
    value: int = 0


class Filter:
    """One filter, built rule by rule; `load` puts it on this process for good."""

    def __init__(self, default: int) -> None:
        self._library = ctypes.CDLL(LIBRARY, use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(default)))

    def rule(self, action: int, call: str, *conditions: Condition) -> None:
        """Add a rule; a call that this architecture does not have is left out, as systemd does."""
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number == UNKNOWN:
            return
        array = (_Comparison * len(conditions))(*(_Comparison(*condition) for condition in conditions))
        result = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(conditions), array
        )
        if result not in (0, -errno.EDOM, -errno.EEXIST):
            raise OSError(-result, f"seccomp rule for {call}")

    def load(self) -> None:
        """Apply it; it can never be taken off again."""
        if result := self._library.seccomp_load(self._context):
            raise OSError(-result, "seccomp_load")
        self._library.seccomp_release(self._context)


def groups() -> dict[str, list[str]]:
    """Return systemd's groups of system calls, by name with the @."""
    text = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"], check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("@"):
            name = line.strip()
            found[name] = []
        elif (word := line.strip()) and not word.startswith("#"):
            found[name].append(word)
    return found


def allowed_calls(rules: Sequence[str], known: dict[str, list[str]]) -> set[str]:
    """Return the calls that a sequence of SystemCallFilter= values allows; the first must be an allow-list."""

    def expand(word: str) -> set[str]:
        return set().union(*map(expand, known[word])) if word.startswith("@") else {word}

    allowed = expand("@default")
    for rule in rules:
        words = [expand(word) for word in rule.removeprefix("~").split()]
        allowed = allowed.difference(*words) if rule.startswith("~") else allowed.union(*words)
    return allowed


def only(calls: set[str]) -> Filter:
    """SystemCallFilter= with SystemCallErrorNumber=EPERM."""
    made = Filter(REFUSE | errno.EPERM)
    for call in sorted(calls):
        made.rule(ALLOW, call)
    return made


def _refusing(fill: Callable[[Callable[..., None]], None], number: int = errno.EPERM) -> Filter:
    made = Filter(ALLOW)
    fill(lambda call, *conditions: made.rule(REFUSE | number, call, *conditions))
    return made


def deny_write_execute() -> Filter:
    """MemoryDenyWriteExecute=yes."""

    def fill(refuse: Callable[..., None]) -> None:
        refuse("mmap", Condition(2, MASKED, PROT_WRITE | PROT_EXEC, PROT_WRITE | PROT_EXEC))
        refuse("mprotect", Condition(2, MASKED, PROT_EXEC, PROT_EXEC))
        refuse("pkey_mprotect", Condition(2, MASKED, PROT_EXEC, PROT_EXEC))
        refuse("shmat", Condition(2, MASKED, SHM_EXEC, SHM_EXEC))

    return _refusing(fill)


def restrict_address_families(names: Sequence[str]) -> Filter:
    """RestrictAddressFamilies= with an allow-list."""
    kept = sorted(int(getattr(socket, name)) for name in names)

    def fill(refuse: Callable[..., None]) -> None:
        refuse("socket", Condition(0, LESS, kept[0]))
        refuse("socket", Condition(0, GREATER, kept[-1]))
        for family in set(range(kept[0], kept[-1])) - set(kept):
            refuse("socket", Condition(0, EQUAL, family))

    return _refusing(fill, errno.EAFNOSUPPORT)


def restrict_namespaces() -> list[Filter]:
    """RestrictNamespaces=yes; clone3 hides its flags, so that libc must fall back on clone."""

    def fill(refuse: Callable[..., None]) -> None:
        refuse("setns")
        for flag in NAMESPACES:
            refuse("unshare", Condition(0, MASKED, flag, flag))
            refuse("clone", Condition(0, MASKED, flag, flag))

    return [_refusing(fill), _refusing(lambda refuse: refuse("clone3"), errno.ENOSYS)]


def restrict_realtime() -> Filter:
    """RestrictRealtime=yes."""

    def fill(refuse: Callable[..., None]) -> None:
        for policy in REALTIME:
            refuse("sched_setscheduler", Condition(1, EQUAL, policy))

    return _refusing(fill)


def restrict_set_id() -> list[Filter]:
    """RestrictSUIDSGID=yes; openat2 hides its mode."""
    modes = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "mkdir": 1, "mkdirat": 2, "mknod": 1}
    modes |= {"mknodat": 2, "creat": 1, "open": 2, "openat": 3}

    def fill(refuse: Callable[..., None]) -> None:
        for call, argument in modes.items():
            for bit in SET_ID_BITS:
                refuse(call, Condition(argument, MASKED, bit, bit))

    return [_refusing(fill), _refusing(lambda refuse: refuse("openat2"), errno.ENOSYS)]


def lock_personality() -> Filter:
    """LockPersonality=yes."""

    def fill(refuse: Callable[..., None]) -> None:
        refuse("personality", Condition(0, NOT_EQUAL, 0))

    return _refusing(fill)
