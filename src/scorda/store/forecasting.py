"""Forecasts from the end of a stored run of a filter, and their place on disk."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorda.assimilation.free import Forecast
from scorda.core.calendars import Start
from scorda.core.shapes import Tensor
from scorda.observations.problem import Problem
from scorda.store.ending import Ending, check_complete

if TYPE_CHECKING:
    from scorda.store.posterior import Posterior

__all__ = ["forecast"]


def forecast(
    posterior: Posterior | str | Path,
    system: Any,
    steps: int,
    path: str | Path,
    device: str = "cpu",
    **how: Any,
) -> Posterior:
    """Advance the last members of a stored run, and store them.

    State 0 is the last one of the run, at its time. Weights stay as they are, and the model error
    is that of the run going on, so that a forecast of a filter is what the run would be without
    observations. A prior of trajectories moves its window on (`scorda.methods.sda`).

    Arguments:
        posterior: The run, or its path.
        system: Its system; or its prior, of a run of SDA.
        steps: Number of steps, at least 1.
        path: Store to write, named ``*.zarr``.
        device: Device of the computation.
        how: Settings of `scorda.store.run`, such as `resume`, `overwrite`, `keep`, `executor`.

    Raises:
        ValueError: If the run has not come to its end, the system has other states, or the path
            is taken.
        DivergenceError: If a member is no longer finite; the steps before are stored.

    Example:
        The end of a stored run goes on for eight steps:

        >>> from scorda import store
        >>> run = store.run(sc.EnKF(), problem, 20, "run.zarr", seed=0)
        >>> ahead = sc.forecast(run, problem.system, steps=8, path="ahead.zarr")
        >>> ahead.analysis.states.shape
        torch.Size([20, 9, 3])
    """
    from scorda.store.posterior import open_posterior
    from scorda.store.units import run

    if isinstance(posterior, str | Path):
        posterior = open_posterior(posterior)
    if steps < 1:
        raise ValueError(f"Got a forecast of {steps} steps: give at least 1.")
    if not hasattr(system, "step"):
        # By name, because the methods stand on a higher floor.
        sda = importlib.import_module("scorda.methods.sda")
        prior, past, start = _moved(posterior, system.to(device), steps)
        method = sda.WindowForecast(sda.SDA(prior), past)
        problem = Problem(prior, (), steps)
        seed = posterior.seed
        return run(method, problem, len(past), path, seed, start=start, **how)
    after = Ending.of(posterior)
    after = replace(after, ensemble=after.ensemble.to(device))
    problem, members = Problem(system, (), steps), len(after.ensemble)
    how |= {"after": after, "start": after.time}
    return run(Forecast(), problem, members, path, after.seed, **how)


def _moved(posterior: Posterior, prior: Any, steps: int) -> tuple[Any, Tensor, Start]:
    """Return a prior at its dates, the states that it goes on from, and the time of the last.

    They are as many as the network sees at once beside the one that it denoises.
    """
    check_complete(posterior)
    count = min(posterior.states, 2 * prior.half_width)
    first = posterior.states - count
    past = posterior.space.filled(posterior.members.states(slice(first, posterior.states)))
    times = posterior.times
    dates = times.dtype.kind not in "fiu"
    if dates:
        prior = prior.starting(times[first], count + steps)
    return prior, past, times[-1] if dates else float(times[-1])
