"""Memory of a server that stays what it is: freed tensors go back to the system."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Options of glibc's `mallopt` (its malloc.h)."""

LARGE, KEPT, ARENAS = 2**20, 16 * 2**20, 2
"""Bytes of what is mapped by itself, and so is given back when it is freed; free bytes that are kept at the end of a
heap; and heaps."""


def give_back() -> bool:
    """Have the allocator give back what is freed, for the rest of this process.

    Batches of all sizes leave gaps of all sizes, and what glibc learns from them is to keep more and more: under load
    a server would grow by half for minutes.

    Returns:
        Whether it was done: only glibc has it.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False  # another C library
    options = ((_MMAP_THRESHOLD, LARGE), (_TRIM_THRESHOLD, KEPT), (_ARENA_MAX, ARENAS))
    # Each of them, whatever became of the one before.
    done = [mallopt(option, value) == 1 for option, value in options]
    return all(done)
