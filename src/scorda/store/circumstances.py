"""The circumstances of a run: time, memory and versions, for the file beside its store."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from scorda.core.version import __version__

__all__ = ["circumstances", "peak_memory"]


def circumstances(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return time, memory and versions of a run, from the reports of its units."""
    versions = {"scorda": __version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("torch", "numpy", "zarr", "xarray")}
    return {
        "seconds": sum(report["seconds"] for report in reports),
        "units": len(reports),
        # Of the largest process, which may be a worker.
        "peak_memory_mb": max([peak_memory(), *(r.get("peak_memory_mb", 0) for r in reports)]),
        "threads": torch.get_num_threads(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions,
        "platform": platform.platform(terse=True),
    }


def peak_memory() -> float:
    """Return the largest memory that this process has had, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS, in kilobytes elsewhere.
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
