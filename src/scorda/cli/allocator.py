"""The memory allocator: settings for many tensors of megabytes, and what is free given back."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["give_back_freed_memory", "keep_freed_memory"]

# Of mallopt(3), with the largest values that it takes, and one heap for all threads: what one of
# them has freed serves the others.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8
SETTINGS = {TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 2**26, MMAP_THRESHOLD: 2**25, ARENA_MAX: 1}


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next tensor; returns whether it does.

    By default glibc gives freed blocks of more than some hundred kilobytes back to the system. A
    sampler frees and takes such blocks in every operation, and the page faults may cost as much
    time as its computation. What a process holds at once is the same, but it falls no more.
    Nothing is done where the C library has no such settings.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*setting) for setting in SETTINGS.items())


def give_back_freed_memory() -> None:
    """Give back to the system, once, what is free now: tables need much while they are read."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
