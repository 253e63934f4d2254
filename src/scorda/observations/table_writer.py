"""Observations written as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scorda.core import files
from scorda.core.space import StateSpace
from scorda.core.times import Start, add_time

if TYPE_CHECKING:
    from scorda.observations.observations import Observations
from scorda.observations.observations import Observations

__all__ = ["write_table"]


def write_table(
    path: str | Path, observations: Observations, space: StateSpace, start: Start | None = None
) -> None:
    """Write observations as a table, CSV (``*.csv``) or NetCDF (``*.nc``), atomically.

    Absent values have no row. Times are datetimes if `start` is given, else model time.

    Arguments:
        path: File to write.
        observations: Observations of single variables at single steps, with independent errors.
        space: Space of the states.
        start: Datetime of step 0.

    Raises:
        ValueError: If a table cannot hold the observations.
    """
    if observations.model.cov is not None and observations.std is None:
        raise ValueError("Got correlated errors (`cov`), which a table cannot hold: give `std`.")
    if any(isinstance(step, tuple) for step in observations.steps):
        raise ValueError("Got observations of several steps at once: a table has one per row.")
    names = np.array(observations.model.operator.variables(space), dtype=object)
    places = observations.model.operator.coordinates(space).numpy(force=True)
    if not any(observations.observed(k) for k in range(len(observations))):
        raise ValueError("Got observations without a present value: there is nothing to write.")
    rows: list[tuple[np.ndarray, ...]] = []
    for k in range(len(observations)):
        y, model = observations.at(k)
        present = (~observations.values[k].isnan()).flatten().numpy(force=True)
        error = model.error_std(tuple(y.shape), y)
        time = np.full(len(y), float(observations.steps[k]))  # type: ignore[arg-type]
        values = (y.numpy(force=True), error.numpy(force=True))
        rows.append((time, names[present], *places[present].T, *values))
    header = ["time", "variable", *space.axes, "value", "std"]
    columns = dict(zip(header, map(np.concatenate, zip(*rows, strict=True)), strict=True))
    elapsed = columns["time"] * space.dt
    if start is not None:
        columns["time"] = add_time(start, elapsed, space)
    else:
        # Fifteen digits: 0.05 * 3 is written as 0.15.
        columns["time"] = np.array([float(f"{t:.15g}") for t in elapsed])
    files.write_columns(path, columns)
