"""What is kept of memory that was freed, and how often it is looked for.

The C library's allocator keeps little, so that a process stays at what it needs.  By itself glibc gives each thread an
area of its own, and begins to keep even large pieces once one was freed; after hours of mail each area is full of
holes, as large as it ever had to be.  docs/reliability.md, "Soak", has the figures.
"""

from __future__ import annotations

import ctypes
import gc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # mallopt(3)
SETTINGS = {
    M_ARENA_MAX: 2,
    M_MMAP_THRESHOLD: 128 * 1024,  # octets; a larger piece goes back to the system when it is freed
    M_TRIM_THRESHOLD: 1024 * 1024,  # octets that may be left free at the end of an area
}

GARBAGE = (5_000, 10, 1_000)  # thresholds of the three generations (gc.set_threshold)


def keep_little() -> None:
    """Set that, before threads start; another C library than glibc is left alone."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in SETTINGS.items():
            mallopt(option, value)


def rest_from_garbage() -> None:
    """Leave what is there by now out of all collections, and make full ones rare: with a long queue each would stop the
    loop for a tenth of a second.  What dies young, as nearly everything here does, is collected as before."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)
