"""Posteriors on disk: one zarr store per run, written in units of work that survive a kill.

A *posterior* is a zarr store (format 3) that ``xarray.open_zarr`` reads: the ensemble at its root
with dims ``(ensemble, time, ...)``, and the groups ``observations``, ``truth`` and ``withheld``
where there are such. It depends on the configuration, the seed and the number of threads only;
what also depends on the day (timings, memory, versions) is in ``run.zarr.json`` beside
``run.zarr``, with the size and the hash of every file of the store.

A run keeps other writers away by a lock, and resumes with what it was begun with alone. What is
damaged on disk is never read as if it were whole, and ``resume=True`` does it again. A filter, and
a smoother that draws members one by one (SDA), lose a minute of work in a kill. Any other smoother
is one computation, and begins anew.

`run` makes a store from a method and a problem, and `open_posterior` reads it. `Keep` says what to
store of large ensembles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scorda.store.keep import Keep
from scorda.store.posterior import Posterior, open_posterior

if TYPE_CHECKING:
    from scorda.store.units import MemberSampler, run

__all__ = ["Keep", "MemberSampler", "Posterior", "open_posterior", "run"]


def __getattr__(name: str) -> Any:
    # Running needs zarr, which `import scorda` must not load.
    if name in ("MemberSampler", "run"):
        from scorda.store import units

        return getattr(units, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
