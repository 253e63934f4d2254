r"""Ensemble Kalman filters: the Kalman analysis with the mean and covariance of an ensemble.

With anomalies A of the members and Y of their predicted observations, :math:`P H^T` is replaced by
:math:`A^T Y / (N - 1)` and :math:`H P H^T` by :math:`Y^T Y / (N - 1)`. So no gradient of the
operator is needed: any h will do, and the analysis is then that of the linear regression on the
members. For a linear h and Gaussian forecasts both filters tend to the Kalman filter as N grows;
for other problems they keep a Gaussian error of analysis that no number of members removes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from scorda.assimilation.filter import Filter, PreparedFilter, Run
from scorda.assimilation.hybrid import Hybrid, HybridEnKF, HybridETKF
from scorda.assimilation.inflation import Inflation, check_inflation
from scorda.assimilation.kalman_algebra import (
    in_double,
    inflate,
    mean_preserving_rotation,
    perturbed_transform,
    symmetric_transform,
    white_innovation,
)
from scorda.assimilation.localization import (
    Localization,
    Scene,
    local_weights,
    needs_positions,
)
from scorda.assimilation.memory import pairs_near
from scorda.assimilation.tapered import Tapered, shared_factor
from scorda.core import rng
from scorda.core.errors import DivergenceError
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem

__all__ = ["ETKF", "EnKF"]


@dataclass(frozen=True)
class EnKF(PreparedFilter):
    r"""Stochastic ensemble Kalman filter with perturbed observations.

    .. math:: x_i^a = x_i + K (y + \varepsilon_i - h(x_i)), \quad
        K = A^T Y (Y^T Y + (N - 1) R)^{-1}

    The perturbations :math:`\varepsilon_i \sim N(0, R)` are drawn anew in each cycle and centred.
    Without localization the system is solved over observations or members, whichever are fewer.
    With localization covariances are tapered, :math:`\rho \circ A^T Y` and
    :math:`\rho \circ Y^T Y`, and the system is over observations. Tapers of many are sparse, so
    that memory is linear in the state, in the ensemble and in the pairs within reach. Any other
    `Localization` acts likewise, with a matrix of the observations and a sentence where that is
    not positive definite; one of errors gives each component an analysis of its own, with
    :math:`R_{jj} / \rho_j`.

    Source: Burgers, van Leeuwen & Evensen (1998), Mon. Wea. Rev. 126, 1719-1724;
    tapering: Houtekamer & Mitchell (2001), Mon. Wea. Rev. 129, 123-137.

    Arguments:
        inflation: Factor of the analysis anomalies, at least 1, or an inflation (`RTPS`, ...).
        localization: Taper of the covariances by distance, another `Localization`, or None.
        hybrid: Share of the climatological covariance in the gain, or None; without localization.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.EnKF(inflation=1.02).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    inflation: float | Inflation = 1.0
    localization: GaspariCohn | Localization | None = None
    hybrid: Hybrid | None = None

    errors = "robust_errors"
    exact = "linear-Gaussian, N → ∞"

    def __post_init__(self) -> None:
        check_inflation(self.inflation)
        if self.hybrid is not None and self.localization is not None:
            raise ValueError("Got `hybrid` and `localization`: EnKF takes one of them.")
        if self.hybrid is not None and self.hybrid.weight:
            object.__setattr__(self, "needs", ("simulator", "prior"))
        if self.localization is not None:
            positions = ("positions",) if needs_positions(self.localization) else ()
            own = isinstance(self.localization, Localization)
            errors = ("independent_errors",) if own else ()
            object.__setattr__(self, "needs", ("simulator", *positions, *errors))

    def memory(self, problem: Problem, members: int) -> int:
        needed = super().memory(problem, members)
        if self.hybrid is not None:
            needed += self.hybrid.climatology.memory(problem)
        if not isinstance(self.localization, GaspariCohn):
            return needed
        observations = sum(
            instrument.model.operator.coordinates(problem.space).shape[0]
            for instrument in problem.instruments
        )
        # Lists of what is near grid points, and a sparse matrix of observations and its search.
        near = pairs_near(problem, self.localization)
        return needed + 8 * near + 64 * pairs_near(problem, self.localization, observations)

    def begin(
        self, problem: Problem | None, weights: Float[Tensor, "ensemble"] | None = None
    ) -> Run:
        if self.hybrid is not None and self.hybrid.weight:
            static = self.hybrid.climatology.of(problem)
            return HybridEnKF(self.inflation_factor, self.hybrid, static)
        if self.localization is None:
            return _Stochastic(self.inflation_factor)
        if problem is None:
            raise ValueError("EnKF with localization needs a space: call `begin(problem)` first.")
        if isinstance(self.localization, Localization):
            return _Weighed(self.inflation_factor, self.localization, problem.space)
        tapered = Tapered.of(problem, self.localization)
        return _Localized(self.inflation_factor, tapered, problem.space)


@dataclass(frozen=True)
class _Stochastic(Run):
    """Analyses of the EnKF in the space of the ensemble."""

    inflation: float

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``innovation`` and ``chi2`` of this cycle."""
        transform, white = perturbed_transform(forecast, y, model, generator)
        return inflate(transform(forecast), self.inflation), {"white": white}


@dataclass(frozen=True)
class _Localized(Run):
    """Analyses of the EnKF with tapered covariances."""

    inflation: float
    tapered: Tapered
    space: StateSpace

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``innovation`` and ``chi2`` of this cycle."""
        where = model.operator.coordinates(self.space)
        predicted = model.predict(forecast, y).double()
        mean = predicted.mean(0)
        noise = model.error(len(forecast), tuple(y.shape), predicted, generator)
        # In standard deviations of each error, so that the matrix is the same in any units.
        unit = model.error_std(tuple(y.shape), predicted)
        residuals = (y + (noise - noise.mean(0)) - predicted) / unit
        Y = (predicted - mean) / unit
        R = None if model.cov is None else model.cov.to(Y) / unit[:, None] / unit
        A = forecast - forecast.mean(0)
        analysis = forecast + self.tapered.increment(A, Y, residuals, R, where)
        white = model.whiten(torch.cat((predicted - mean, (y - mean)[None])))
        return inflate(analysis, self.inflation), {"white": (white[:-1], white[-1])}


@dataclass(frozen=True)
class _Weighed(Run):
    """Analyses of the EnKF with the weights of any localization."""

    inflation: float
    localization: Localization
    space: StateSpace

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``innovation`` and ``chi2`` of this cycle."""
        Y, d = white_innovation(forecast, y, model)
        noise = rng.normal(len(Y), tuple(d.shape), generator, like=Y)
        noise = noise - noise.mean(0)
        scene = Scene(self.localization, self.space, model, forecast, Y)
        move = self._by_errors if self.localization.errors else self._by_covariances
        analysis = move(forecast.flatten(1), scene, d - Y, noise).reshape(forecast.shape)
        return inflate(analysis, self.inflation), {"white": (Y, d)}

    def _by_covariances(self, x: Tensor, scene: Scene, residuals: Tensor, noise: Tensor) -> Tensor:
        """Return members with tapered covariances."""
        Y, analysis = scene.anomalies, x.clone()
        between = scene.between().to(Y)
        S = between * (Y.mT @ Y)
        S.diagonal().add_(len(Y) - 1)
        root, wrong = torch.linalg.cholesky_ex(S)
        if wrong.any():
            raise DivergenceError(
                f"The covariance of the observations is not positive definite with "
                f"{self.localization!r}: give another localization, a larger error of "
                "observation, or use LETKF, which needs no such weights."
            )
        solved = torch.cholesky_solve((residuals + noise).mT, root).mT
        # Of a parameter, as in `Tapered`.
        alone = shared_factor(between) if scene.space.parameters else 1.0
        for part, rho in scene.parts(alone):
            A = x[:, part].double()
            cross = (Y.mT @ (A - A.mean(0))) * rho.to(Y)
            analysis[:, part] += (solved @ cross).to(x)
        return analysis

    def _by_errors(self, x: Tensor, scene: Scene, residuals: Tensor, noise: Tensor) -> Tensor:
        """Return members with an analysis of each component, whose errors are enlarged."""
        analysis, Y = x.clone(), scene.anomalies
        for local in local_weights(scene):
            roots = local.root_weights[0].to(Y).unsqueeze(1)
            # (components, ensemble, near)
            near = Y[:, local.observations].transpose(0, 1) * roots
            error = noise[:, local.observations].transpose(0, 1)
            moved = residuals[:, local.observations].transpose(0, 1) * roots + error
            # The error of one without weight is infinite.
            moved = torch.where(roots > 0, moved, 0.0)
            A = x[:, local.points[:, 0]].double()
            A = (A - A.mean(0)).mT.unsqueeze(2)
            # Over observations or members, whichever are fewer.
            few = near.shape[2] <= len(Y)
            gram = near.mT @ near if few else near @ near.mT
            gram.diagonal(dim1=1, dim2=2).add_(len(Y) - 1)
            solved = torch.linalg.solve(gram, near.mT @ A if few else A)
            increment = moved @ (solved if few else near.mT @ solved)
            analysis[:, local.points[:, 0]] += increment[..., 0].mT.to(x)
        return analysis


@dataclass(frozen=True)
class ETKF(Filter):
    r"""Ensemble transform Kalman filter: deterministic, with the symmetric square root.

    .. math:: X^a = \bar x + w A + T A, \quad w = d R^{-1} Y^T P_w, \quad
        T = \sqrt{N - 1} \, P_w^{1/2}, \quad P_w = (Y R^{-1} Y^T + (N - 1) I)^{-1}

    Mean and covariance of the analysis are exactly those of the Kalman update with the sample
    moments of the forecast (for a linear h).

    Source: Bishop, Etherton & Majumdar (2001), Mon. Wea. Rev. 129, 420-436; in the symmetric form
    of Hunt, Kostelich & Szunyogh (2007), Physica D 230, equations 20-25. Rotations: Sakov & Oke
    (2008), Mon. Wea. Rev. 136, 1042-1053.

    Arguments:
        inflation: Factor of the analysis anomalies, at least 1, or an inflation (`RTPS`, ...).
        rotation: Whether the anomalies are multiplied in each cycle by a random orthogonal matrix
            that keeps mean and covariance; it prevents outliers that deterministic filters grow.
        hybrid: Share of the climatological covariance in the gains of the mean and, by square
            root, of the anomalies (see ``scorda.assimilation.hybrid``), or None.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.ETKF(inflation=1.02).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    inflation: float | Inflation = 1.0
    rotation: bool = False
    hybrid: Hybrid | None = None

    errors = "robust_errors"
    exact = "linear-Gaussian, N → ∞"

    def __post_init__(self) -> None:
        check_inflation(self.inflation)
        if self.hybrid is not None and self.hybrid.weight:
            object.__setattr__(self, "needs", ("simulator", "prior"))

    def memory(self, problem: Problem, members: int) -> int:
        needed = super().memory(problem, members)
        return needed + (self.hybrid.climatology.memory(problem) if self.hybrid else 0)

    def begin(
        self, problem: Problem | None, weights: Float[Tensor, "ensemble"] | None = None
    ) -> Run:
        if self.hybrid is None or not self.hybrid.weight:
            return self
        static = self.hybrid.climatology.of(problem)
        return HybridETKF(self.inflation_factor, self.hybrid, static, self.rotation)

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``innovation`` and ``chi2`` of this cycle."""
        if (run := self.begin(None)) is not self:
            return run.analyse(forecast, y, model, generator)
        anomalies, innovation = white_innovation(forecast, y, model)
        mean_weights, transform = symmetric_transform(anomalies, innovation)
        turn = None
        if self.rotation:
            turn = mean_preserving_rotation(len(forecast), anomalies, generator)

        def moved(x: Tensor) -> Tensor:
            mean = x.mean(0, keepdim=True)
            A = x - mean
            around = self.inflation_factor * (A + transform.increment(A))
            return mean + (mean_weights @ A + (around if turn is None else turn @ around))

        return in_double(moved, forecast), {"white": (anomalies, innovation)}
