"""Filters that make a prior of their forecast ensemble."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, final

import torch

from scorda.assimilation.filter import PreparedFilter, Run
from scorda.assimilation.inflation import Inflation, check_inflation
from scorda.assimilation.kalman_algebra import inflate
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem
from scorda.priors.base import EnsemblePrior, PriorRun

__all__ = ["PriorFilter", "PriorFilterRun"]


@dataclass(frozen=True)
class PriorFilter(PreparedFilter):
    """A filter whose analysis starts from a prior that is fitted to the forecast ensemble.

    A subclass writes `prepared`, which makes its `PriorFilterRun`.

    Arguments:
        prior: Kind of the prior that is fitted; it says how many members are needed.
        inflation: Factor of the analysis anomalies, at least 1, or an inflation (`RTPS`, ...).
    """

    prior: EnsemblePrior
    _: KW_ONLY
    inflation: float | Inflation = 1.0

    def __post_init__(self) -> None:
        check_inflation(self.inflation)
        object.__setattr__(self, "least_members", self.prior.least_members)

    def memory(self, problem: Problem, members: int) -> int:
        fit = self.prior.memory(problem.space, members) * self.bytes_of_prior(problem) // 8
        return super().memory(problem, members) + fit

    def bytes_of_prior(self, problem: Problem) -> int:
        """Return the bytes of a number of the prior: by default, of one of the method."""
        return self.bytes_each(problem)

    @final
    def begin(
        self, problem: Problem | None, weights: Float[Tensor, "ensemble"] | None = None
    ) -> Run:
        """Return a run with a run of the prior [final].

        Raises:
            ValueError: If the prior needs what the space lacks.
        """
        space = None if problem is None else problem.space
        if space is not None:
            self.prior.check(space)
        run = self.prepared(self.prior.begin(problem), space)
        return run if self.inflation_factor == 1 else _Inflated(run, self.inflation_factor)

    @abstractmethod
    def prepared(self, prior: PriorRun, space: StateSpace | None) -> PriorFilterRun:
        """Return a run whose analyses are not inflated.

        Arguments:
            prior: Run of the prior, which fits it to an ensemble.
            space: Space of the states, or None outside a run.
        """


@dataclass(frozen=True)
class PriorFilterRun(Run):
    """One run of such a filter: it owns a run of the prior, which may learn in each cycle.

    Arguments:
        prior: Run of the prior.
        space: Space of the states, or None outside a run.
    """

    prior: PriorRun
    space: StateSpace | None

    def restore(self, carried: Mapping[str, Tensor]) -> None:
        self.prior.restore(carried)


@dataclass(frozen=True)
class _Inflated(Run):
    """A run with inflation of its analyses."""

    run: Run
    factor: float

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        analysis, info = self.run.analyse(forecast, y, model, generator)
        return inflate(analysis, self.factor), info

    def restore(self, carried: Mapping[str, Tensor]) -> None:
        self.run.restore(carried)
