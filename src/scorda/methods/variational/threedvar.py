"""3D-Var: a forecast and its observations, with a covariance that never changes."""

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
from scorda.methods.variational.minimise import lbfgs
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem

__all__ = ["ThreeDVar"]

# Of the minimisation for a nonlinear operator: largest number, and gradient by white controls.
ITERATIONS, TOLERANCE = 200, 1e-5


@dataclass(frozen=True)
class ThreeDVar(PreparedFilter):
    r"""3D-Var with a climatological covariance B.

    .. math:: x_i^a = \arg\min_x \; \tfrac12 \lVert x - x_i^f \rVert^2_{B^{-1}}
        + \tfrac12 \lVert y + \varepsilon_i - h(x) \rVert^2_{R^{-1}}, \quad
        \varepsilon_i \sim N(0, R)

    For a linear h that is :math:`x_i^f + K (y + \varepsilon_i - h(x_i^f))` with :math:`K = B H^T
    (H B H^T + R)^{-1}`, computed exactly; for others L-BFGS finds it.

    One member is 3D-Var as it is known: its :math:`\varepsilon` is zero. Several are an ensemble
    of such assimilations, each with observations of its own (centred, so that their mean is the
    analysis of their mean for a linear h). Their spread is that of the error which B makes, be it
    right or wrong: for a linear model their covariance follows :math:`(I - K H) P (I - K H)^T + K
    R K^T`, that of the error of any gain, from the spread of the start on.

    Sources: Lorenc (1986), Q. J. R. Meteorol. Soc. 112, 1177-1194; ensemble of assimilations:
    Houtekamer et al. (1996), Mon. Wea. Rev. 124, 1225-1242.

    Arguments:
        climatology: The covariance B. Its factor is worth choosing: errors of a forecast are much
            smaller than the spread of the climate.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.ThreeDVar().assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    climatology: Climatology = field(default_factory=Climatology)

    needs = ("simulator", "prior", "differentiable_operator")
    least_members = 1
    exact = "linear-Gaussian, one analysis of the prior, N and draws → ∞"
    cost = Cost(None, note="1000 h per analysis for a linear h, else gradients of h")

    def memory(self, problem: Problem, members: int) -> int:
        return super().memory(problem, members) + self.climatology.memory(problem)

    def begin(
        self, problem: Problem | None, weights: Float[Tensor, "ensemble"] | None = None
    ) -> Run:
        return _ThreeDVar(self.climatology.of(problem))


@dataclass(frozen=True, eq=False)
class _ThreeDVar(Run):
    """Analyses with one covariance."""

    static: StaticCovariance

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis of each member."""
        residuals = model.white_residuals(y, forecast)
        noise = rng.normal(len(forecast), tuple(residuals.shape[1:]), generator, like=residuals)
        noise = noise - noise.mean(0)
        A = self.static.anomalies
        if model.operator.linear:
            Y, _ = self.static.predicted(forecast.mean(0), y, model)
            gain = kalman_transform(Y, residuals + noise)
            return forecast + in_double(gain.increment, A), {}
        roots = A.flatten(1) / (len(A) - 1) ** 0.5

        def states(v: Tensor, rows: Tensor) -> Tensor:
            return forecast[rows] + (v.to(roots) @ roots).view(-1, *forecast.shape[1:])

        def cost(v: Tensor, rows: Tensor) -> Tensor:
            misfit = model.white_residuals(y, states(v, rows)) + noise[rows]
            return 0.5 * (v.square().sum(1) + misfit.square().sum(1))

        start = residuals.new_zeros(len(forecast), len(A))
        minimum = lbfgs(cost, start, ITERATIONS, TOLERANCE)
        every = torch.arange(len(forecast), device=forecast.device)
        return states(minimum.points, every), {"converged": int(minimum.converged.sum())}
