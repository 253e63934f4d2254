"""The end of a stored run of a filter, from which another run goes on.

A filter needs no more than its last ensemble, the weights, what the method carries and the number
of the step: the noise of a step is a function of (seed, stream, step, member). So a run over
yesterday and one over today, which begins at yesterday's end, have the bytes of one run over both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from scorda.assimilation.base import Assimilator
from scorda.assimilation.cycle import Cycle
from scorda.assimilation.filter import Filter
from scorda.assimilation.free import Forecast
from scorda.core.calendars import Start
from scorda.core.shapes import Float, Tensor
from scorda.core.transforms import Circular
from scorda.observations.problem import Problem
from scorda.store.damage import telling
from scorda.store.keep import LAST

if TYPE_CHECKING:
    from scorda.store.posterior import Posterior

__all__ = ["Ending", "check_complete"]


@dataclass(frozen=True)
class Ending:
    """The last step of a stored run; of a smoother it serves forecasts alone.

    Arguments:
        path: The store.
        method: Name of the filter.
        seed: Seed of the run.
        ensemble: Members of the last step, ``(ensemble, *state)``; NaN: dropped.
        weights: Their weights, or None where all are equal.
        carried: What the method carries, or None.
        step: Number of the last step, counted through all runs that went on from each other.
        observed: Whether this step was analysed.
        time: Its datetime, or its model time.
        circular: Circular variables, on whose turns the members are.
    """

    path: Path
    method: str
    seed: int
    ensemble: Float[Tensor, "ensemble ..."]
    weights: Float[Tensor, "ensemble"] | None
    carried: dict[str, Tensor] | None
    step: int
    observed: bool
    time: Start
    circular: dict[str, Circular]

    @staticmethod
    def of(posterior: Posterior) -> Ending:
        """Read the end of a stored run.

        Raises:
            ValueError: If the run has not come to its end, or a file of its end is damaged.
        """
        import zarr

        from scorda.store import groups
        from scorda.store.layout import array

        path = posterior.path
        check_complete(posterior)
        with telling(path):
            root = zarr.open_group(path, mode="r")
            steps = posterior.states - 1
            if posterior.kept is None:
                ensemble = groups.read_states(root, posterior.space, steps)
                weights = array(root, "weight")[:, steps] if "weight" in root else None
            else:
                names = posterior.space.variables
                fields = {n: np.asarray(array(root, f"{LAST}/{n}")[...]) for n in names}
                ensemble = posterior.space.filled(torch.from_numpy(posterior.space.joined(fields)))
                weighted = f"{LAST}/weight" in root
                weights = array(root, f"{LAST}/weight")[...] if weighted else None
            time = posterior.times[-1]
            return Ending(
                path,
                posterior.method,
                posterior.seed,
                ensemble,
                None if weights is None else torch.from_numpy(np.asarray(weights)),
                groups.read_carried(root),
                posterior.first_step + steps,
                bool((posterior.observations["step"].values == steps).any()),
                float(time) if isinstance(time, np.number) else time,
                posterior.space.circular,
            )

    @property
    def cycle(self) -> Cycle:
        """What a run starts from, whose step 0 this is; it may yet be analysed."""
        return Cycle(-1, self.ensemble, self.weights, self.carried)

    @property
    def tensors(self) -> dict[str, Tensor | None]:
        """All numbers that a run goes on from."""
        return {"ensemble": self.ensemble, "weights": self.weights, **(self.carried or {})}

    def check(self, method: Assimilator, problem: Problem, members: int, seed: int) -> None:
        """Check that a run goes on with method, members and seed, and analyses no step twice.

        Raises:
            ValueError: If not.
        """
        if not isinstance(method, Filter):
            of = f"{self.method}, which runs over all observations at once"
            if method.smoother:
                of = f"the smoother {self.method}, whose past changes with each observation"
            raise ValueError(
                f"{self.path} is of {of}: run it again with all of them, or go on with a filter, "
                "such as EnKF."
            )
        same = type(method).__name__ == self.method or isinstance(method, Forecast)
        if not same:
            raise ValueError(
                f"{self.path} is a run of {self.method}, which {method.name} cannot go on with."
            )
        if (members, seed) != (len(self.ensemble), self.seed):
            raise ValueError(
                f"{self.path} has {len(self.ensemble)} members and the seed {self.seed}: got "
                f"{members} and {seed}."
            )
        if problem.space.circular != self.circular:
            had, now = (
                ", ".join(f"{n} ({c.first:g} to {c.first + c.period:g})" for n, c in of.items())
                for of in (self.circular, problem.space.circular)
            )
            raise ValueError(
                f"{self.path} has the circular variables {had or 'none'}, and the system now "
                f"{now or 'none'}: give it those of the run."
            )
        if problem.initial is not None:
            raise ValueError(f"The first members are those of {self.path}: leave `initial` out.")
        again = any(
            step == 0 and one.observed(k)
            for one in problem.instruments
            for k, step in enumerate(one.steps)
        )
        if self.observed and again:
            raise ValueError(
                f"Got observations of the step at which {self.path} ends, which it has analysed: "
                "leave them out."
            )


def check_complete(posterior: Posterior) -> None:
    """Check that a stored run came to its end.

    Raises:
        ValueError: If not.
    """
    if not posterior.complete:
        why = "" if posterior.stopped is None else f" ({posterior.stopped})"
        raise ValueError(
            f"{posterior.path} has not come to its end{why}: continue it with `scorda assimilate "
            "--resume` first."
        )
