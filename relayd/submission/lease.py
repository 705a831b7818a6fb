"""Asking the kernel whether anybody has a file open for writing (fcntl(2), "Leases")."""

from __future__ import annotations

import errno
import fcntl
import signal
from pathlib import Path

CAP_LEASE = 28  # capabilities(7)


def may_lease_any() -> bool:
    """Whether we have CAP_LEASE: leases on other users' files.

    Without it a file of theirs must not even be opened while it may still be written: that would drown the events by
    which its writer is watched.
    """
    try:
        status = Path("/proc/self/status").read_bytes()
    except OSError:
        return False
    capabilities = next((line.split()[1] for line in status.splitlines() if line.startswith(b"CapEff:")), b"0")
    return bool(int(capabilities, 16) >> CAP_LEASE & 1)


def has_writer(descriptor: int) -> bool | None:
    """Return whether a writer holds the file open; None where the kernel will not tell.

    A read lease is granted only if nobody does.  It is asked for one file at a time and given back at once.  A writer
    that opens the file in between waits that long, and the kernel sends us a signal: SIGURG, which is ignored by
    default, because the default one, SIGIO, would end the process.

    None: the file is another user's and we lack CAP_LEASE, or its file system has no leases.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    return False
