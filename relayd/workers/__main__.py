"""The program of a worker: `python -m relayd.workers CHANNEL LOCK DAEMON`, two descriptors and a process id.

What must come first comes before all that a worker imports: from here on it dies with the daemon, and a signal that
a terminal or a service manager sends to all of relayd's processes does not end it before the daemon wants that.  The
lock of the spool is kept open by being inherited, and so held as long as this process lives.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
NAME = b"relayd-worker"  # at most 15 octets; what ps and top call it
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(channel: int, lock: int, daemon: int) -> int:
    """Become a worker of `daemon`; return the exit code."""
    for number in IGNORED:
        signal.signal(number, _ignore)  # not SIG_IGN: programs that are started from here would inherit that
    for descriptor in (channel, lock):
        os.set_inheritable(descriptor, False)
    die_with(daemon)

    from relayd.workers.worker import run

    return run(socket.socket(fileno=channel))


def die_with(daemon: int) -> None:
    """Have the kernel kill this process when its parent, which must be `daemon`, ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NAME, NAME, 0, 0, 0)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "prctl")
    if os.getppid() != daemon:  # it ended before we asked
        sys.exit(0)


def _ignore(number: int, frame: object) -> None:
    """For signals that are the daemon's to see to."""


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
