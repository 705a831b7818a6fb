"""A network of a test's own: a namespace with nothing but loopback, and whatever addresses the test wants to have."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def own_network(*addresses: str) -> Iterator[None]:
    """Move the calling thread into a new network namespace, and whatever threads and processes it starts there.

    `addresses`, with their prefix lengths, are on loopback beside 127.0.0.1 and ::1.  Skips the test where no
    namespace can be made.
    """
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(CLONE_NEWNET) != 0:
            pytest.skip(f"no network namespace can be made here: {os.strerror(ctypes.get_errno())}")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True, capture_output=True)
        for address in addresses:
            words = ["ip", "address", "add", address, "dev", "lo", *(["nodad"] if ":" in address else [])]
            subprocess.run(words, check=True, capture_output=True)
        yield
    finally:
        assert _libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)
