"""Forecasts from the end of a stored run of a filter, and their place on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorda.assimilation.free import Forecast
from scorda.observations.problem import Problem

if TYPE_CHECKING:
    from scorda.store.posterior import Posterior

__all__ = ["forecast"]


def forecast(
    posterior: Posterior,
    system: Any,
    steps: int,
    path: str | Path,
    device: str = "cpu",
    **how: Any,
) -> Posterior:
    """Advance the last members of a stored run of a filter, and store them.

    State 0 is the last one of the run, at its time. Weights stay as they are, and the model error
    is that of the run going on, so that a forecast is what the run would be without observations.

    Arguments:
        posterior: The run.
        system: Its system.
        steps: Number of steps, at least 1.
        path: Store to write, named ``*.zarr``.
        device: Device of the computation.
        how: Settings of `scorda.store.run`, such as `resume`, `overwrite`, `keep`, `executor`.

    Raises:
        ValueError: If the run is none of a filter or has not come to its end, the system has
            other states, or the path is taken.
        DivergenceError: If a member is no longer finite; the steps before are stored.
    """
    from scorda.store.ending import Ending
    from scorda.store.units import run

    if steps < 1:
        raise ValueError(f"Got a forecast of {steps} steps: give at least 1.")
    after = Ending.of(posterior)
    after = replace(after, ensemble=after.ensemble.to(device))
    problem, members = Problem(system, (), steps), len(after.ensemble)
    how |= {"after": after, "start": after.time}
    return run(Forecast(), problem, members, path, after.seed, **how)
