"""relayd.allocator: few areas, and large pieces go back to the system."""

from __future__ import annotations

import platform
import re
import subprocess
import sys

import pytest

from relayd.allocator import M_ARENA_MAX, SETTINGS

PROGRAM = """
import ctypes, sys, threading
from relayd.allocator import keep_little

if sys.argv[1] == "kept little":
    keep_little()

def work():
    pieces = [bytes(20_000) for _ in range(10)]
    barrier.wait()

barrier = threading.Barrier(12)
threads = [threading.Thread(target=work) for _ in range(12)]
for each in threads: each.start()
for each in threads: each.join()
large = bytes(4_000_000)
del large  # from here on glibc keeps pieces of that size
large = [bytes(2_000_000) for _ in range(10)]
libc = ctypes.CDLL(None)
libc.fopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
libc.fflush.argtypes = [ctypes.c_void_p]
out = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, out)
libc.fflush(out)
"""


def areas_and_mapped(how: str) -> tuple[int, int]:
    """Return how many areas a process of many threads has, and how many octets are in pieces of their own."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=60, check=True)
    mapped = re.findall(r'<total type="mmap" count="\d+" size="(\d+)"', done.stdout)
    return len(re.findall(r'<heap nr="', done.stdout)), int(mapped[-1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have an allocator of their own")
def test_many_threads_share_a_few_areas_and_large_pieces_are_in_none() -> None:
    usual, usually_mapped = areas_and_mapped("as usual")
    areas, mapped = areas_and_mapped("kept little")

    assert areas <= SETTINGS[M_ARENA_MAX] < usual
    assert usually_mapped < 20_000_000 <= mapped
