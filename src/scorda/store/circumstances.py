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

__all__ = ["circumstances"]


def circumstances(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return time, memory and versions of a run, from the reports of its units.

    The peak of memory is that of the process that ends the run: what workers of its forecasts or
    units took, or a process before an interruption, is not in it.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    versions = {"scorda": __version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("torch", "numpy", "zarr", "xarray")}
    return {
        "seconds": sum(report["seconds"] for report in reports),
        "units": len(reports),
        # In bytes on macOS, in kilobytes elsewhere.
        "client_peak_memory_mb": round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1),
        "threads": torch.get_num_threads(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions,
        "platform": platform.platform(terse=True),
    }
