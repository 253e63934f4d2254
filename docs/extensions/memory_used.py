"""Measure what a block of a script adds to the memory, for the foot of pages in the gallery."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

# So that their imports are not counted for the first script.
import matplotlib.pyplot as plt  # noqa: F401

import scorda.store  # noqa: F401

SECONDS = 0.01


def memory_used(block: Callable[[], Any]) -> tuple[float, Any]:
    """Run a block, and return the peak of the resident memory in MB with what it returned."""
    peak, done = [_resident()], threading.Event()

    def watch() -> None:
        while not done.wait(SECONDS):
            peak.append(max(peak.pop(), _resident()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        returned = block()
    finally:
        done.set()
        watcher.join()
    return max(peak[0], _resident()), returned


def _resident() -> float:
    file = Path("/proc/self/statm")
    if not file.exists():  # no Linux: the peak of the process so far
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(file.read_text().split()[1]) * resource.getpagesize() / 2**20
