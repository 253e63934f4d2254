r"""Scenarios of smoothing flows with a trained prior, and scores of whole trajectories.

The scores are taken over all states of a trajectory:

* ``residual``: standard deviation of :math:`y - h(x)` over members and observations, in units of
  the error of observation. Of draws of the posterior it is 1 in expectation, since truth and draw
  are exchangeable given y;
* ``rmse``, ``crps``, ``spread_skill``: against the truth, where there is one;
* ``defect``: root mean square of :math:`x_{k+1} - M(x_k)`, where M is one step of the system, over
  that of :math:`x_{k+1} - x_k`;
* ``evaluations`` of the denoiser per member, ``member_seconds``: seconds per member.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from scorda.bench.entry import Entry
from scorda.bench.tuning import Tuning
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.metrics.accuracy import crps, rmse, spread_skill
from scorda.metrics.trajectory import residual_std
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Operator
from scorda.observations.problem import Problem
from scorda.systems.base import System

__all__ = ["Given", "Scenario", "defect"]

SHOWN = ("residual", "rmse", "crps", "spread_skill", "defect", "evaluations", "member_seconds")


@dataclass(frozen=True)
class Given:
    """A problem and the truth that was observed, or None where nothing was simulated."""

    problem: Problem
    truth: Float[Tensor, "time *state"] | None


@dataclass(frozen=True)
class Scenario:
    """A scenario has observations of a trajectory, and methods that draw trajectories from them.

    Arguments:
        system: System that draws the truth; the methods see only its space.
        operator: Observation operator.
        std: Standard deviation of its error.
        steps: Steps of the trajectories.
        observed: Observed steps, or tuples of steps that are observed together.
        entries: Methods.
        source: Where the set-up is from.
        wanted: Value of all observations, instead of those of a simulated truth.
        seeds: Number of truths and draws.
        tuning: As in other benchmarks; no entry has options to choose.
        shown: Scores that the command prints.
    """

    system: System
    operator: Operator
    std: float
    steps: int
    observed: Sequence[int | tuple[int, ...]]
    entries: tuple[Entry, ...]
    source: str
    wanted: float | None = None
    seeds: int = 3
    tuning: Tuning = field(default_factory=Tuning)
    shown: tuple[str, ...] = SHOWN

    statistic: ClassVar[str] = "mean"

    def prepare(self, seed: int) -> Given:
        """Return truth and observations of one seed; they are the same for all methods."""
        start, model_error, error = rng.spawn(rng.at((seed, 3), 0), 3)
        model = ObservationModel(self.operator, std=self.std)
        if self.wanted is None:
            truth = self.system.trajectory(self.system.prior(1, start), self.steps, model_error)
            values = model.sample(self._seen(truth), error)
        else:
            nothing = torch.zeros(1, self.steps + 1, *self.system.space.shape)
            values = torch.full_like(self.operator(self._seen(nothing)), self.wanted)
        problem = Problem(self.system, Observations(model, self.observed, values), self.steps)
        return Given(problem, truth[0] if self.wanted is None else None)

    def score(self, entry: Entry, given: Given, seed: int) -> dict[str, float]:
        """Return the scores of one run (see the module)."""
        analysis = self.run(entry, given, seed)
        x, members = analysis.states, len(analysis.states)
        residual = float(residual_std(x, given.problem.instruments[0])) / self.std
        scores = {"residual": residual, "defect": defect(x, self.system)}
        if given.truth is not None:
            compared = {"rmse": rmse, "crps": crps, "spread_skill": spread_skill}
            scores |= {name: float(f(x, given.truth)) for name, f in compared.items()}
        scores["evaluations"] = float(analysis.info["evaluations"])
        scores["member_seconds"] = float(analysis.info["seconds"]) / members
        return scores

    def run(self, entry: Entry, given: Given, seed: int) -> Analysis:
        """Draw the trajectories of an entry."""
        return entry.method.assimilate(given.problem, entry.members, rng.at((seed, 2), 0))

    def shortened(self) -> Scenario:
        """Return the scenario with few members of the first entry, to test that it runs."""
        return replace(self, entries=(replace(self.entries[0], members=2),), seeds=1)

    def trial(self) -> Scenario:
        """Return the scenario itself."""
        return self

    def _seen(self, path: Tensor) -> Tensor:
        """Return the states that the operator gets, a row for each observation."""
        return torch.cat([path[:, list(k) if isinstance(k, tuple) else k] for k in self.observed])


def defect(states: Float[Tensor, "ensemble time ..."], system: System) -> float:
    """Return the share of the changes in trajectories that the system does not explain."""
    explained = torch.stack([system.step(states[:, k]) for k in range(states.shape[1] - 1)], 1)
    missing = (states[:, 1:] - explained).square().mean().sqrt()
    return float(missing / (states[:, 1:] - states[:, :-1]).square().mean().sqrt())
