"""The errors of instruments and forecasts, of what a stored run has reported."""

from __future__ import annotations

import numpy as np

from scorda.assimilation.innovations import PREFIX, Consistency, consistencies
from scorda.store.posterior import Posterior

__all__ = ["errors_of"]

# Share of the cycles that do not count: a filter may not yet know where it is.
SPINUP = 0.2


def errors_of(posterior: Posterior, first: int = 0) -> list[Consistency]:
    """Return what a run with ``desroziers=True`` tells of errors; nothing of another run.

    The first fifth of the cycles does not count.

    Arguments:
        posterior: A stored posterior.
        first: First step that counts.
    """
    report = posterior.info.get("report", {})
    columns = {name: column for name, column in report.items() if name.startswith(PREFIX)}
    if not columns:
        return []
    steps = np.asarray(report["step"])
    counts = steps >= max(first, steps[int(SPINUP * len(steps))])
    chosen = np.flatnonzero(counts)
    return consistencies({name: [column[k] for k in chosen] for name, column in columns.items()})
