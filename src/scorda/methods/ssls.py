r"""SSLS, score-based sequential Langevin sampling: from the forecast members to the posterior.

One noise level :math:`\sigma_d` stands for the prior: its score is that of the standardised
forecast members with so much noise added, :math:`s(z) = (E[z_0 \mid z] - z) / \sigma_d^2`. The
members walk by Langevin steps from where they are,

.. math:: z \leftarrow e^{-\lambda h} z
    + h \, \varphi(-\lambda h) \left[ s(z) + \nabla_z \log p(y \mid z) \right]
    + \left( 2 h \, \varphi(-2 \lambda h) \right)^{1/2} \varepsilon, \qquad
    \varphi(v) = \frac{e^v - 1}{v} ,

with a confinement lambda that falls from stage to stage; at lambda = 0 these are Euler steps of
the Langevin equation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd import functional

from scorda.assimilation.base import Cost
from scorda.assimilation.likelihood_score import (
    bounded,
    held,
    likelihood_score,
    settled,
    standardised,
)
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem
from scorda.priors.base import EnsemblePrior, PriorRun
from scorda.priors.gaussian import Gaussian
from scorda.priors.network.online import OnlineNetwork
from scorda.priors.prior_filter import PriorFilter, PriorFilterRun

__all__ = ["SSLS"]

# Share of the largest stable step that is taken where none is given.
SAFETY = 0.1
# Power iterations for the curvature of the likelihood.
ITERATIONS = 12


@dataclass(frozen=True)
class SSLS(PriorFilter):
    r"""Score-based sequential Langevin sampling.

    In the limit of small steps and long walks it samples the posterior of the prior *with the
    noise in it*: in standard deviations of the forecast, a Gaussian prior of variance P
    counts as :math:`P + \sigma_d^2`, so that :math:`\sigma_d = 0.1` makes the prior's variances
    1 % too large. Steps inflate variances: that of a direction with the precision c comes out
    larger by :math:`1 / (1 - h c / 2)`. And a walk of length T = steps * h forgets its start no
    faster than :math:`e^{-c T}`: with the published settings, T = 0.5, the members of a wide
    posterior are still on their way. It cannot pass from one mode to another that is far away.

    Mended here:

    * The step is bounded by stability, :math:`h < 2 / (1 / R + 1 / \sigma_d^2)`, with 1 / R the
      largest curvature of the likelihood in standardised coordinates, found by power iterations at
      the members. By default h is 0.1 of that bound; a given one above it is refused.
    * Everything happens in standardised coordinates, the confinement and the bound on the score
      too, so that the settings do not depend on units.
    * The network is held to members that it has not seen (`OnlineNetwork`), and corrects the
      Gaussian of the ensemble, so that the score is defined away from the members. Far from them
      the network's estimate is held near them, component by component: without that, single
      members walked off by 24 standard deviations (Lorenz-96, gap 8), and held to the largest
      deviation in any component one member went farther each time (gap 4); forecasts blew up.

    Source: SSLS, https://arxiv.org/abs/2411.13443, and its public code for the settings: 500 steps
    of 1e-3, sigma_d = 0.1 (0.2 for flows), lambda = 1e-3, one stage, a bound of 10. Deviations:
    those above; one network serves all noise levels, one with ``NetworkTraining(min_noise=0.09,
    max_noise=0.11, observed=0.0)`` trains at this one.

    Arguments:
        prior: Kind of the prior that is fitted to the standardised forecast ensemble.
        noise_level: sigma_d, in standard deviations of the forecast.
        langevin_steps: Steps of a stage.
        step_size: h, or None for a tenth of the bound.
        stages: Number of stages.
        confinement: lambda of the first stage, at least 0; it confines to the forecast mean.
        decay: Factor of lambda from stage to stage.
        clip: Largest root mean square of the score of a member, or None.
        inflation: Factor of the analysis anomalies, at least 1, or an inflation (`RTPS`, ...).

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.SSLS(langevin_steps=50).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    prior: EnsemblePrior = field(default_factory=OnlineNetwork)
    noise_level: float = 0.1
    langevin_steps: int = 500
    step_size: float | None = None
    stages: int = 1
    confinement: float = 1e-3
    decay: float = 0.5
    clip: float | None = 10.0

    needs = ("simulator", "differentiable_operator")
    errors = "density"
    in_double = False
    exact = "no problem"
    cost = Cost(524, 500, "a network trained per cycle")
    least_members = OnlineNetwork.least_members

    @classmethod
    def example(cls, problem: Problem) -> SSLS:
        """Return an instance that is quick to test."""
        return cls(Gaussian(), langevin_steps=20)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.noise_level > 0 or self.langevin_steps < 1 or self.stages < 1:
            raise ValueError(
                f"Got noise_level = {self.noise_level}, langevin_steps = {self.langevin_steps}, "
                f"stages = {self.stages}: give a positive noise level, and at least one step and "
                "stage."
            )
        if not (0 <= self.confinement < math.inf and 0 < self.decay <= 1):
            raise ValueError(
                f"Got confinement = {self.confinement}, decay = {self.decay}: need a confinement "
                "of at least 0 and a decay in (0, 1]."
            )
        for name in ("step_size", "clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Got {name} = {value}: give a positive number, or None.")

    def stable_step(
        self, z: Tensor, mean: Tensor, std: Tensor, y: Tensor, model: ObservationModel
    ) -> float:
        """Return the step of a cycle: the given one, if it is stable, or a part of the bound."""
        whiten = model.whiten
        if model.law is not None:
            predicted, scale = model.predict(mean + std * z, y), model.scale(tuple(y.shape), y)
            # The curvature of a law with a corner is that of the corner rounded over its scale.
            _, var = model.law.linearised(y, predicted, scale, 0.0, scale.square())
            root = var.sqrt().to(z)

            def whiten(residual: Tensor) -> Tensor:
                return residual / root

        curvature = _curvature(lambda x: whiten(model.operator(mean + std * x).flatten(1)), z)
        bound = 2 / (curvature + self.noise_level**-2)
        if self.step_size is None:
            return SAFETY * bound
        if self.step_size >= bound:
            raise ValueError(
                f"Got step_size = {self.step_size}: with these observations SSLS is stable below "
                f"{bound:.3g} only; give a smaller step or a larger noise level, or leave it out."
            )
        return self.step_size

    def prepared(self, prior: PriorRun, space: StateSpace | None) -> PriorFilterRun:
        return _Run(prior, space, self)


@dataclass(frozen=True)
class _Run(PriorFilterRun):
    """One run of SSLS."""

    settings: SSLS

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``evaluations``, ``step_size`` and what the prior reports.

        Raises:
            ValueError: If a step size is given and is not stable.
        """
        settings = self.settings
        members, mean, std = standardised(forecast)
        z = members
        h = settings.stable_step(z, mean, std, y, model)
        denoiser = self.prior.fit(members, None, self.space)
        draw = rng.Stream(rng.key(generator), 0, len(z), tuple(z.shape[1:]), z)
        level = torch.full_like(z[:1], settings.noise_level)
        learned = getattr(denoiser, "learned", False)
        for stage in range(settings.stages):
            pull = settings.confinement * settings.decay**stage
            shrink, drift, spread = _coefficients(pull, h)
            for _ in range(settings.langevin_steps):
                estimate = denoiser.denoise(z, level)
                # An exact prior needs no hold, and a far observation may lead beyond it.
                estimate = held(estimate, members) if learned else estimate
                score = (estimate - z) / settings.noise_level**2
                score = score + likelihood_score(z, mean, std, y, model)
                z = shrink * z + drift * bounded(score, settings.clip) + spread * draw()
        info = {"evaluations": settings.stages * settings.langevin_steps, "step_size": h}
        info |= getattr(denoiser, "report", {})
        return settled(mean + std * z, forecast), info


def _coefficients(pull: float, h: float) -> tuple[float, float, float]:
    """Factors of the state, the score and the noise."""
    return math.exp(-pull * h), h * _phi(-pull * h), math.sqrt(2 * h * _phi(-2 * pull * h))


def _phi(v: float) -> float:
    return math.expm1(v) / v if v != 0 else 1.0


def _curvature(white: Callable[[Tensor], Tensor], z: Float[Tensor, "ensemble ..."]) -> float:
    r"""Largest eigenvalue of :math:`J^T R^{-1} J` at any member, by power iterations.

    From below: within a few per cent where the largest eigenvalues lie close together.
    """
    v = rng.normal(len(z), tuple(z.shape[1:]), rng.seeded(0), like=z)
    size = v.new_zeros(len(v))
    for _ in range(ITERATIONS):
        norm = v.flatten(1).norm(dim=1).clamp_min(torch.finfo(v.dtype).tiny)
        v = v / norm.reshape(-1, *(1,) * (v.ndim - 1))
        _, along = functional.jvp(white, z, v)
        _, v = functional.vjp(white, z, along)
        size = v.flatten(1).norm(dim=1)
    return float(size.max())
