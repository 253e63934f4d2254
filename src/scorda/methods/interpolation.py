"""Optimal interpolation: the climatology given the observations of one step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from scorda.assimilation.base import Cost
from scorda.assimilation.climatology import Climatology, StaticCovariance
from scorda.assimilation.filter import PreparedFilter, Run
from scorda.assimilation.kalman_algebra import in_double, kalman_transform
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem

__all__ = ["OptimalInterpolation"]


@dataclass(frozen=True)
class OptimalInterpolation(PreparedFilter):
    r"""Optimal interpolation with the climatology: a baseline that forgets all earlier data.

    .. math:: \bar x^a = m + K (y - \overline{h(c)}), \quad
        K = C_{xy} (C_{yy} + R)^{-1}

    with the mean m of climatological states c and their covariances with h(c): the best linear
    estimate from the observations of this step alone, for linear and nonlinear h. The forecast
    has no part in it; a method with a model must do better.

    The members are draws about this mean whose covariance is that of its error, :math:`B - K
    C_{yx}`: members :math:`c_i` of N(m, B), each moved by perturbed observations, :math:`c_i + K
    (y + \varepsilon_i - h_i)`, with :math:`h_i` linearised over the climatology. Both are centred,
    so that the mean of the members is that of the formula, and one member is this mean. Between
    observations the model moves the members as it does those of other filters.

    For a linear h and a Gaussian climatology the mean and the law of the members are exact, given
    one observation.

    Source: Gandin (1963), Objective analysis of meteorological fields; Daley (1991), Atmospheric
    data analysis, chapter 4.

    Arguments:
        climatology: Covariance and mean of the states.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.OptimalInterpolation().assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    climatology: Climatology = field(default_factory=Climatology)

    needs = ("simulator", "prior")
    least_members = 1
    forgets = True
    # A direction has no climatological mean that another could be compared with on a line.
    circular = False
    exact = "linear-Gaussian, one analysis of the prior, N and draws → ∞"
    cost = Cost(None, note="1000 h per analysis, whatever N")

    def memory(self, problem: Problem, members: int) -> int:
        return super().memory(problem, members) + self.climatology.memory(problem)

    def begin(
        self, problem: Problem | None, weights: Float[Tensor, "ensemble"] | None = None
    ) -> Run:
        return _Interpolation(self.climatology.of(problem))


@dataclass(frozen=True, eq=False)
class _Interpolation(Run):
    """Analyses that know the climatology."""

    static: StaticCovariance

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return draws of the climatology given y."""
        Y, d = self.static.predicted(self.static.mean, y, model)
        draws, obs = Y.shape
        # Coordinates of the states in the anomalies, and errors of observation.
        noise = rng.normal(len(forecast), (draws + obs,), generator, like=Y)
        noise = noise - noise.mean(0)
        z = noise[:, :draws] / (draws - 1) ** 0.5
        gain = kalman_transform(Y, d + noise[:, draws:] - z @ Y)

        def drawn(A: Tensor) -> Tensor:
            return z @ A + gain.increment(A)

        return self.static.mean + in_double(drawn, self.static.anomalies), {}
