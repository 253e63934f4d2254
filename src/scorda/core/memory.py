"""How much memory this process may still take."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["available", "in_words"]

GROUP = Path("/sys/fs/cgroup")


def available() -> int | None:
    """Return the bytes that this process may still take, None where the system does not say.

    It is the least of what the machine has free, what the group of processes may still hold (its
    cached files can go), and what the limit of the address space leaves.
    """
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
        limit = (GROUP / "memory.max").read_text().strip()
        if limit != "max":
            stat = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
            found.append(int(limit) - int(stat["anon"]))
    except (OSError, ValueError, KeyError):
        pass
    try:
        import resource

        limit_of_addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit_of_addresses != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            found.append(limit_of_addresses - pages * os.sysconf("SC_PAGE_SIZE"))
    except (ImportError, OSError, ValueError):
        pass
    return max(0, min(found)) if found else None


def in_words(size: float) -> str:
    """Return a number of bytes as people write it."""
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000:
            return f"{size:.3g} {unit}"
    return f"{size / 1000:,.3g} TB" if size < 1e6 else f"{size / 1000:,.0f} TB"
