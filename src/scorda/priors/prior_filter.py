"""What filters share that make a prior of their forecast ensemble."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field

from scorda.assimilation.filter import Filter
from scorda.assimilation.kalman_algebra import check_inflation
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.problem import Problem
from scorda.priors.base import EnsemblePrior

__all__ = ["PriorFilter"]


@dataclass(frozen=True)
class PriorFilter(Filter):
    """A filter whose analysis starts from a prior that is fitted to the forecast ensemble.

    In a run it has a copy of the prior of its own, which may learn from cycle to cycle, and knows
    the space of the states, `_space`; `analyse` alone knows none.

    Arguments:
        prior: What is made of the forecast ensemble; it says how many members are needed.
        inflation: Factor of the analysis anomalies, at least 1.
    """

    prior: EnsemblePrior
    _: KW_ONLY
    inflation: float = 1.0
    _space: StateSpace | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_inflation(self.inflation)
        object.__setattr__(self, "least_members", self.prior.least_members)

    def begin(
        self, problem: Problem, weights: Float[Tensor, "ensemble"] | None = None
    ) -> PriorFilter:
        """Return a copy that knows the space, with a prior of its own [final].

        Raises:
            ValueError: If the prior needs what the space lacks.
        """
        self.prior.check(problem.space)
        run = copy.copy(self)
        object.__setattr__(run, "_space", problem.space)
        object.__setattr__(run, "prior", self.prior.begin(problem))
        return run

    def restore(self, carried: Mapping[str, Tensor]) -> None:
        """Hand the prior what an earlier analysis carried [final]."""
        self.prior.restore(carried)
