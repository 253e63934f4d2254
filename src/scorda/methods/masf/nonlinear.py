r"""MASF as published for nonlinear operators, with two heads.

The process blends the state with what the instrument would see,

.. math:: x_t = a x_0 + (1 - a) \, h(x_0) + s (1 - a^2)^{1/2} \varepsilon,

and ends at a measurement. It is no Markov process in x; its Markovian projection (Gyongy) has the
same law at each time, with

.. math:: \mathrm d x = a' (m_1 - m_2) \, \mathrm d t + (s^2 (1 - a^2))'^{1/2} \, \mathrm d w,
    \qquad m_1 = E[x_0 \mid x_t], \quad m_2 = E[h(x_0) \mid x_t],

and the score :math:`-(x_t - a m_1 - (1 - a) m_2) / (s^2 (1 - a^2))`. Two heads, m_1 and m_2, are
all that a sampler needs. The law of the end given x_t is approximated by a Gaussian,

.. math:: p(z \mid x_t) \approx N(z; x_t - a \, (m_1 - m_2), s^2 a^2),

whose gradient is added to the score.

**What that costs.** The projection keeps the law of x_t, not the joint law of x_t and the
measurement; the Gaussian is an approximation; and, as in the linear case, the likelihood is added
to the drift of the unconditional process (`methods.masf.bridge` says why this counts it twice).
With h(x) = x the sampler is the published linear one with H = 1 and has its variances. It is here
for comparison: the bridge in the augmented state (`augment`) has none of the three errors.

The heads are exact for the Gaussian or the kernel density of the pairs (x, h(x)); or they are
those of a network that is trained on the pairs (`priors.network.heads`).

Source: MASF v2 (arXiv 2604.02889) and its public code, whose networks have the two heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional as F

from scorda.assimilation.base import Cost
from scorda.assimilation.likelihood_score import standardised
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.methods.masf.published import ScaledSDE
from scorda.observations.augmentation import AugmentedSpace
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem
from scorda.priors.base import EnsemblePrior, PriorRun
from scorda.priors.gaussian import Gaussian
from scorda.priors.heads import Heads, Pairs, heads_of
from scorda.priors.prior_filter import PriorFilter, PriorFilterRun

__all__ = ["NonlinearMASF", "ProjectionSDE"]


@dataclass(frozen=True)
class ProjectionSDE(ScaledSDE):
    r"""Euler steps of the reverse SDE of the projection, with the endpoint Gaussian added.

    .. math:: x_t = x_s + (a_t - a_s) (m_1 - m_2) - \Delta \, (k_s \nabla \log p_s + k_g g_s)
        + |\Delta|^{1/2} \varepsilon, \quad \Delta = s^2 (a_s^2 - a_t^2),

    from the forecast noised to `end`, on the times of `PublishedSDE` and with its factors k.

    Deviations: scores and guidance are taken at the same time s, the terminal amplitude is 0, and
    entries that the instrument does not fill are given no guidance.

    Arguments:
        noise_levels: n.
        end: T.
        offset: Offset of the cosine schedule.
        prior_scale: k_0, k_1 and p of the prior's score.
        guidance_scale: The same of the guidance; (1, 1, 1) is the plain sum.
        floor: Last time.
    """

    noise_levels: int = 200
    prior_scale: tuple[float, float, float] = (0.95, 1.5, 1.0)

    def sample(
        self,
        heads: Heads,
        z: Float[Tensor, "entries"],
        std: Float[Tensor, "entries"],
        forecast: tuple[Float[Tensor, "ensemble entries"], Float[Tensor, "ensemble entries"]],
        seen: Float[Tensor, "entries"],
        noise: rng.Stream,
    ) -> Float[Tensor, "ensemble entries"]:
        """Draw one sample for each member of the forecast.

        Arguments:
            heads: m_1 and m_2.
            z: The measurement.
            std: s of each entry.
            forecast: Members and their simulated observations.
            seen: 1 where z is a measurement, 0 where it is noise.
            noise: Draws of the noise.
        """
        times = self.times(self.end, z)
        members, predicted = forecast
        a, var = self._amplitude(times[0]), std.square()
        x = a * members + (1 - a) * predicted + ((1 - a**2) * var).sqrt() * noise()
        for s, t in pairwise(times):
            a, after = self._amplitude(s), self._amplitude(t)
            noised = (1 - a**2) * var
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                m1, m2 = heads(x, a, noised)
                misfit = seen * (z - x + a * (m1 - m2))
                density = -0.5 * (misfit.square() / (a**2 * var)).sum()
            (guidance,) = torch.autograd.grad(density, x)
            x, m1, m2 = x.detach(), m1.detach(), m2.detach()
            k_prior, k_guidance = self.factors(s)
            score = k_prior * (a * m1 + (1 - a) * m2 - x) / noised + k_guidance * guidance
            delta = var * (a**2 - after**2)
            x = x + (after - a) * (m1 - m2) - delta * score + delta.abs().sqrt() * noise()
        return x

    def _amplitude(self, t: Tensor) -> Tensor:
        start = 0.5 * math.pi * self.offset / (1 + self.offset)
        angle = 0.5 * math.pi * (t + self.offset) / (1 + self.offset)
        return torch.cos(angle) / math.cos(start)


@dataclass(frozen=True)
class NonlinearMASF(PriorFilter):
    """MASF as published, for nonlinear operators: two heads, and the endpoint Gaussian added.

    The filter takes any operator, also a black box, of any number of values with independent
    errors. States and values are standardised. Where there are fewer values than entries, the
    remaining entries are measured as noise; where there are more, the state is filled up with
    zeros. It is not exact and is here for comparison: with the same prior `MASF` is exact where h
    is linear, and better elsewhere (docs/nonlinear.md). With localization it takes no absent
    values.

    Source: MASF v2, arXiv 2604.02889, and its public code.

    Arguments:
        prior: Prior of the pairs: `Gaussian`, `Kernel` or an `OnlineNetwork` without axis.
        sampler: Reverse SDE of the projection.
        inflation: Factor of the analysis anomalies, at least 1, or an inflation (`RTPS`, ...).

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.NonlinearMASF().assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    prior: EnsemblePrior = field(default_factory=Gaussian)
    sampler: ProjectionSDE = field(default_factory=ProjectionSDE)
    needs: tuple[str, ...] = field(
        default=("simulator", "independent_errors"), init=False, repr=False, compare=False
    )

    least_members = 2
    exact = "no problem"
    cost = Cost(1, 200, "gradient of the heads each")

    @classmethod
    def example(cls, problem: Problem) -> NonlinearMASF:
        """Return an instance that is quick to test."""
        # Without inflation a contract asks for the variance of the forecast, which it changes.
        return cls(sampler=ProjectionSDE(noise_levels=50), inflation=1.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sampler, ProjectionSDE):
            raise ValueError(
                f"Got {self.sampler}: the samplers of NonlinearMASF are of ProjectionSDE."
            )
        if self.prior.of_entries:
            raise ValueError(
                f"Got {type(self.prior).__name__} for NonlinearMASF, whose heads are of pairs "
                "without a place: give Gaussian, Kernel or a network without axis, or use MASF."
            )
        if getattr(self.prior, "localization", None) is not None:
            needs = ("simulator", "independent_errors", "nonlinear_positions")
            object.__setattr__(self, "needs", needs)

    def prepared(self, prior: PriorRun, space: StateSpace | None) -> PriorFilterRun:
        return _Run(prior, space, self)


@dataclass(frozen=True)
class _Run(PriorFilterRun):
    """One run of the published filter for nonlinear operators."""

    settings: NonlinearMASF

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and the report of this cycle, as `MASF` does.

        Raises:
            ValueError: If the errors of the observation are correlated, or the prior has no heads.
        """
        if model.cov is not None:
            raise ValueError(
                "NonlinearMASF takes independent errors of observation: give `std` instead of "
                "`cov`, or use MASF."
            )
        info: dict[str, Any] = {"evaluations": self.settings.sampler.evaluations}
        states = forecast.double()
        flat = states.flatten(1)
        predicted = model.operator(states).flatten(1).to(flat)
        if not (predicted.std(0) > 0).any():
            return forecast, info
        std = model.error_std(tuple(y.shape), flat)
        x, h, errors = _pairs(flat, predicted, std)
        entries = x.shape[1]
        (_, centre, unit), (_, level, scale) = standardised(flat), standardised(predicted)
        both = None
        if self.space is not None:
            both = AugmentedSpace(self.space, model.operator, torch.arange(predicted.shape[1]))
        seen = _filled(torch.ones_like(std), entries)
        z = _filled((y.double() - level) / scale, entries)

        def simulate(draws: Tensor) -> Pairs:
            values = model.operator(draws).flatten(1).to(flat)
            return _pairs(draws.to(flat).flatten(1), values, std)

        heads = heads_of(self.prior, x, h, both, errors, simulate)
        noise = rng.Stream(rng.key(generator), 0, len(x), (entries,), x)
        moved = self.settings.sampler.sample(heads, z, errors, (x, h), seen, noise)[
            :, : flat.shape[1]
        ]
        info |= getattr(heads, "report", {})
        return (centre + unit * moved).view_as(states).to(forecast), info


def _pairs(flat: Tensor, predicted: Tensor, std: Tensor) -> Pairs:
    """States, simulated observations and errors in standardised vectors of one length."""
    (x, _, _), (h, _, scale) = standardised(flat), standardised(predicted)
    entries = max(x.shape[1], h.shape[1])
    seen, std = _filled(torch.ones_like(std), entries), std / scale
    filled = torch.where(seen > 0, _filled(std, entries), std.mean())
    return _filled(x, entries), _filled(h, entries), filled


def _filled(x: Tensor, entries: int) -> Tensor:
    return F.pad(x, (0, entries - x.shape[-1]))
