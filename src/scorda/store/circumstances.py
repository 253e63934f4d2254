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

__all__ = ["circumstances"]


def circumstances(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Time, memory and versions of a run, from the reports of its units."""
    from scorda.core.version import __version__

    return {
        "seconds": sum(report["seconds"] for report in reports),
        "units": len(reports),
        "peak_memory_mb": _peak_memory_mb(),
        "threads": torch.get_num_threads(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {
            "scorda": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "zarr", "xarray")},
        },
        "platform": platform.platform(terse=True),
    }


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
