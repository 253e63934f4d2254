r"""The generic score filter: process, prior, guidance, start and sampler, each of them free.

In standardised coordinates of the forecast, component by component, the ensemble makes a prior,
whose denoiser under the process is bent by a guidance towards the observation; a sampler leads
from noise to the analysis. Where the sampler is deterministic its start may come from the members:
encoded without the observation, by the same steps upwards, they come back as the analysis that
they move to. For a Gaussian and MMPS the two together are the affine map

.. math:: x \to m^+ + P_+^{1/2} U P^{-1/2} (x - m), \quad U \text{ orthogonal},

which has exactly the mean and covariance of the Kalman analysis with the members' own. Every
guidance is a gradient of h at the denoised state: where the prior given x_t is wide and h is
curved, that is the approximation. `MASF` needs no gradient, and conditions the joint law of the
members and their simulated observations instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from scorda.assimilation.base import Cost
from scorda.assimilation.kalman_algebra import white_innovation
from scorda.assimilation.likelihood_score import settled, standardised, standardised_model
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.diffusion.guidance import MMPS, Guidance
from scorda.diffusion.samplers import Multistep, Sampler, ScalarProcess
from scorda.diffusion.variance_preserving import VariancePreserving
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem
from scorda.priors.base import EnsemblePrior, PriorRun
from scorda.priors.gaussian import Gaussian
from scorda.priors.prior_filter import PriorFilter, PriorFilterRun

__all__ = ["ScoreFilter"]


@dataclass(frozen=True)
class ScoreFilter(PriorFilter):
    r"""Score filter of free parts: one reverse diffusion per member.

    With the defaults, a Gaussian prior and a linear operator it is exact up to the steps of the
    sampler, once the solver of `MMPS` has converged. With any other prior, operator or guidance it
    is approximate; `InflatedLikelihood` wants Langevin corrections, which need
    ``coupled=False``.

    In a filter with few members the coupled start is the better one. What the linearisation of a
    strongly curved h does to the first steps a deterministic sampler never forgets; `Ancestral`
    does to a part: see docs/nonlinear.md for both.

    Source: guidance and sampler name theirs; the coupling to the members is our own.

    Arguments:
        prior: Kind of the prior that is fitted to the standardised forecast ensemble.
        process: Scalar process of the states that are denoised.
        guidance: How the observation enters.
        sampler: How noise becomes the analysis; its noise levels are in standard deviations of
            the forecast, and must be among those of the process.
        coupled: Whether each start comes from a member, by a sampler that is deterministic (no
            corrections, not `Ancestral`); otherwise from the generator, with a sampling error.
        inflation: Factor of the analysis anomalies, at least 1, or an inflation (`RTPS`, ...).

    Raises:
        ValueError: If the sampler draws noise though it is coupled, or has noise levels that the
            process has not.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.ScoreFilter().assimilate(problem, 5, generator=0)
        >>> analysis.states.shape
        torch.Size([5, 17, 3])
    """

    prior: EnsemblePrior = field(default_factory=Gaussian)
    process: ScalarProcess = field(default_factory=VariancePreserving)
    guidance: Guidance = field(default_factory=MMPS)
    sampler: Sampler = field(
        default_factory=lambda: Multistep(32, 0, min_noise=1e-3, max_noise=1e3)
    )
    coupled: bool = True

    needs = ("simulator", "differentiable_operator")
    least_members = Gaussian.least_members
    errors = "density"
    exact = "linear-Gaussian, N → ∞ (MMPS)"
    cost = Cost(161, 159)

    @classmethod
    def example(cls, problem: Problem) -> ScoreFilter:
        """Return an instance that is quick to test."""
        return cls(guidance=MMPS(1), sampler=Multistep(8, 0, min_noise=1e-2, max_noise=1e2))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coupled and not self.sampler.deterministic:
            raise ValueError(
                f"Got {self.sampler}, which draws noise, to couple to members: give Multistep or "
                "PredictorCorrector with corrections=0, or coupled=False."
            )
        self.sampler.times(self.process)

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser per member, products with its Jacobian included."""
        encoding = self.sampler.noise_levels - 1 if self.coupled else 0
        return encoding + self.sampler.evaluations * (1 + self.guidance.products)

    def prepared(self, prior: PriorRun, space: StateSpace | None) -> PriorFilterRun:
        return _Run(prior, space, self)


@dataclass(frozen=True)
class _Run(PriorFilterRun):
    """One run of the score filter."""

    settings: ScoreFilter

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and the report of this cycle.

        ``innovation``, ``chi2``, ``evaluations``, what the prior reports, and ``ess``: the
        members that likelihood weights on the forecast would leave, as a particle filter has them.
        """
        settings = self.settings
        # In double precision: noise levels span six orders of magnitude.
        states, values = forecast.double(), y.double()
        x, mean, unit = standardised(states)
        shape = tuple(x.shape[1:])
        fitted = self.prior.fit(x, None, self.space)
        seen = standardised_model(model, mean, unit, values)
        posterior = settings.guidance.bind(fitted, values, seen)
        with torch.no_grad():
            latents = None
            if settings.coupled:
                noise = rng.Stream(rng.key(generator), 0, len(x), shape, x)
                start = fitted.sample_members(x, noise)
                latents = settings.sampler.encode(fitted, settings.process, start)
            moved = settings.sampler.sample(
                posterior, settings.process, shape, len(x), generator, like=x, start=latents
            )
        info: dict[str, Any] = {}
        if model.law is None:
            anomalies, innovation = white_innovation(states, values, model)
            logits = -0.5 * (innovation - anomalies).square().sum(1)
            info["white"] = anomalies, innovation
        else:
            logits = model.log_likelihood(values, states)
        info |= {
            "ess": 1 / logits.softmax(0).square().sum(),
            "evaluations": settings.evaluations,
            **getattr(fitted, "report", {}),
        }
        return settled(mean + unit * moved, states).to(forecast), info
