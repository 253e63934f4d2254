"""Filters that make a prior of their forecast ensemble."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, final

import torch

from scorda.assimilation.filter import PreparedFilter, Run
from scorda.assimilation.kalman_algebra import check_inflation, inflate
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem
from scorda.priors.base import EnsemblePrior, PriorRun

__all__ = ["PriorFilter"]


@dataclass(frozen=True)
class PriorFilter(PreparedFilter):
    """A filter whose analysis starts from a prior that is fitted to the forecast ensemble.

    A subclass writes `condition`. A run has a run of the prior, which may learn from cycle to
    cycle, and knows the space of the states.

    Arguments:
        prior: Kind of the prior that is fitted; it says how many members are needed.
        inflation: Factor of the analysis anomalies, at least 1.
    """

    prior: EnsemblePrior
    _: KW_ONLY
    inflation: float = 1.0

    def __post_init__(self) -> None:
        check_inflation(self.inflation)
        object.__setattr__(self, "least_members", self.prior.least_members)

    @final
    def begin(
        self, problem: Problem | None, weights: Float[Tensor, "ensemble"] | None = None
    ) -> Run:
        """Return a run with a run of the prior [final].

        Raises:
            ValueError: If the prior needs what the space lacks.
        """
        if problem is None:
            return _PriorFilterRun(self, self.prior.begin(None), None)
        self.prior.check(problem.space)
        return _PriorFilterRun(self, self.prior.begin(problem), problem.space)

    @abstractmethod
    def condition(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        prior: PriorRun,
        space: StateSpace | None,
        generator: torch.Generator | None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis without inflation, and the report of this cycle.

        Arguments:
            forecast: Ensemble ``(ensemble, *state)``; it must not be changed.
            y: Flat and complete observation.
            model: Model of the observation.
            prior: Run of the prior, which fits it to an ensemble.
            space: Space of the states, or None outside a run.
            generator: Source of randomness.
        """


@dataclass(frozen=True)
class _PriorFilterRun(Run):
    """One run of such a filter and of its prior."""

    settings: PriorFilter
    prior: PriorRun
    space: StateSpace | None

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        analysis, info = self.settings.condition(
            forecast, y, model, self.prior, self.space, generator
        )
        return inflate(analysis, self.settings.inflation), info

    def restore(self, carried: Mapping[str, Tensor]) -> None:
        self.prior.restore(carried)
