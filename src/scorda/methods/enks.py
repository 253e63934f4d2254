"""The ensemble Kalman smoother, in which each observation also updates the states before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from scorda.assimilation.base import Assimilator, Cost, check_needs
from scorda.assimilation.diagnostics import collect
from scorda.assimilation.filter import Filter
from scorda.assimilation.inflation import Inflation, check_inflation
from scorda.assimilation.kalman_algebra import inflate, perturbed_transform
from scorda.assimilation.memory import check_memory
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.tapers import GaspariCohn
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem

__all__ = ["EnKS"]


@dataclass(frozen=True)
class EnKS(Assimilator):
    r"""Ensemble Kalman smoother, stochastic.

    The forward run is that of the `EnKF` (with the same seed its last state is the same). At each
    observed step k the past members are combined with the weights W of that analysis,

    .. math:: x_{j,i}^a = \bar x_j + \sum_l W_{il} (x_{j,l} - \bar x_j), \quad j < k,

    which is the Kalman gain with the ensemble's covariance between the states at j and k. It tends
    to the RTS smoother for linear-Gaussian problems as N grows. Inflation acts on the analysis
    of the current step alone; smoothed states are not inflated again.

    Source: Evensen & van Leeuwen (2000), Mon. Wea. Rev. 128, 1852-1867.

    Arguments:
        inflation: Factor of the analysis anomalies of the current step, at least 1, or an
            inflation (`RTPS`, ...) of this step.
        lag: Number of past steps that an observation updates; None: all. With few members a lag
            keeps sampling errors of long correlations out; 0 is the EnKF.
        gross_error_check: Limit of the check of gross errors, as for a filter; None: no check.
        lag_radius: Radius, in steps, of a `GaspariCohn` taper of what an observation adds to past
            states, by the time between them, or None.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.EnKS(inflation=1.02, lag=16).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    inflation: float | Inflation = 1.0
    lag: int | None = None
    gross_error_check: float | None = None
    lag_radius: float | None = None

    smoother = True
    circular = True
    needs = ("simulator",)
    least_members = 2
    errors = "robust_errors"
    exact = "linear-Gaussian, N → ∞"
    cost = Cost(1, note="per cycle")

    def __post_init__(self) -> None:
        check_inflation(self.inflation)
        if self.lag is not None and self.lag < 0:
            raise ValueError(f"Got lag = {self.lag}: give a number of steps, >= 0, or None.")
        if self.lag_radius is not None:
            GaspariCohn(self.lag_radius)

    def assimilate(self, problem: Problem, members: int, generator: rng.Seed = None) -> Analysis:
        """Run forward, and smooth at each observed step; ``info`` as for the EnKF."""
        check_needs(self, problem)
        check_memory(self, problem, members)
        states: Tensor | None = None
        infos: list[dict[str, Any]] = []
        forward = _EnKS(self.inflation, gross_error_check=self.gross_error_check)
        for cycle in forward.run(problem, members, generator):
            k = cycle.step
            if states is None:
                shape = (members, problem.steps + 1, *problem.space.shape)
                states = cycle.ensemble.new_empty(shape)
            states[:, k] = cycle.ensemble
            if cycle.forecast is not None:
                # There is none where all values were left out as gross errors.
                transform = cycle.report.pop("transform", None)
                first = 0 if self.lag is None else max(0, k - self.lag)
                if first < k and transform is not None:
                    past = problem.space.unbounded(problem.space.unrolled(states[:, first:k]))
                    smoothed = transform(past)
                    if self.lag_radius is not None:
                        rho = GaspariCohn(self.lag_radius)(k - torch.arange(first, k).to(past))
                        rho = rho.view(-1, *[1] * len(problem.space.shape))
                        smoothed = torch.lerp(past, smoothed, rho.expand_as(past))
                    states[:, first:k] = problem.space.rolled(problem.space.bounded(smoothed))
                infos.append(cycle.report)
        assert states is not None
        cycle.statistics.settle()
        info = collect(infos)
        return Analysis(states, problem.space, None, info, self.name, start=problem.start)


@dataclass(frozen=True)
class _EnKS(Filter):
    """The stochastic EnKF, which also reports the transform of its analysis."""

    inflation: float | Inflation

    errors = "robust_errors"

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        transform, white = perturbed_transform(forecast, y, model, generator)
        info = {"transform": transform, "white": white}
        return inflate(transform(forecast), self.inflation_factor), info
