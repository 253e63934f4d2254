"""Posteriors on disk: one zarr store per run, written in units of work that survive a kill.

A *posterior* is a zarr store (format 3) that ``xarray.open_zarr`` reads: the ensemble at its root
with dims ``(ensemble, time, ...)``, and the groups ``observations``, ``truth`` and ``withheld``
where there are such. It depends on the configuration, the seed and the number of threads only;
what also depends on the day (timings, memory, versions) is in ``<name>.json`` beside it.

`run` makes a store from a method and a problem, `open_posterior` (``scorda.open``) reads it.
"""

from scorda.store.posterior import Posterior, open_posterior
from scorda.store.units import MemberSampler, run

__all__ = ["MemberSampler", "Posterior", "open_posterior", "run"]
