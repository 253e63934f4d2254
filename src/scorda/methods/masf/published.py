r"""MASF as published for linear operators: the reverse SDE with the likelihood's score added.

The sampler tunes the two scores by factors of time,

.. math:: k = k_0 + (k_1 - k_0) \, \tau^p, \qquad \tau = s \text{ (prior's score)},
    \quad 1 - s \text{ (likelihood's)},

on the times :math:`(1 - j/n)^2`, scaled. It does not sample the posterior: ``methods.masf.bridge``
says why. `methods.masf.nonlinear` has the form for nonlinear operators.

Source: MASF, arXiv 2604.02889, and its public code for factors and times.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from scorda.assimilation.base import Cost
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace, variable_std
from scorda.diffusion.bridge import EnsembleDenoiser
from scorda.diffusion.measurement_aware import MeasurementAware
from scorda.observations.model import ObservationModel
from scorda.observations.modes import Modes
from scorda.observations.problem import Problem
from scorda.priors.base import EnsemblePrior, PriorRun
from scorda.priors.gaussian import Gaussian
from scorda.priors.prior_filter import PriorFilter, PriorFilterRun

__all__ = ["PublishedMASF", "PublishedSDE", "ScaledSDE", "square_form"]


@dataclass(frozen=True)
class ScaledSDE:
    """Times and factors of the published samplers.

    Arguments:
        noise_levels: n.
        end: T.
        offset: Offset of the cosine schedule.
        prior_scale: k_0, k_1 and p of the prior's score.
        guidance_scale: The same of the likelihood's; (1, 1, 1) is the paper's plain sum.
        floor: Last time.
    """

    noise_levels: int = 150
    end: float = 0.992
    offset: float = 0.008
    prior_scale: tuple[float, float, float] = (0.95, 1.6, 1.5)
    guidance_scale: tuple[float, float, float] = (1.1, 1.5, 2.0)
    floor: float = 1e-5

    def __post_init__(self) -> None:
        if self.noise_levels < 1 or not 0 < self.floor < self.end < 1:
            raise ValueError(
                f"Got noise_levels = {self.noise_levels}, end = {self.end}, floor = {self.floor}: "
                "give noise_levels >= 1 and 0 < floor < end < 1."
            )

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser, or of the heads, per member."""
        return self.noise_levels

    def times(self, start: float, like: Tensor) -> Float[Tensor, "times"]:
        """Return the times of the steps, from `start` to the floor."""
        grid = torch.linspace(1, 0, self.noise_levels + 1, dtype=torch.float64).square()
        return (self.floor + (start - self.floor) * grid).to(like)

    def factors(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of the prior's and of the likelihood's score at s."""
        return _ramp(self.prior_scale, s), _ramp(self.guidance_scale, 1 - s)


@dataclass(frozen=True)
class PublishedSDE(ScaledSDE):
    r"""The reverse SDE of MASF's public code, with the likelihood score added.

    .. math:: x_t = M x_s - \Delta \, (k_s \nabla \log p_s + k_g g_s) + |\Delta|^{1/2} \varepsilon,
        \quad M = A_t / A_s, \quad \Delta = \Sigma_t - M^2 \Sigma_s,

    from the forecast members noised to `end`. The factors tune a biased sampler, they do not mend
    it: see ``methods.masf.bridge``.

    Deviation: regularisers of 1e-5 in divisions are left out.

    Arguments:
        noise_levels: n.
        end: T.
        offset: Offset of the cosine schedule.
        prior_scale: k_0, k_1 and p of the prior's score.
        guidance_scale: The same of the likelihood's; (1, 1, 1) is the paper's plain sum.
        floor: Last time.
        twice: Whether the integration starts at T^2, and the likelihood refers to T, as in the
            code; else it starts at T and refers to 1.
    """

    twice: bool = True

    def sample(
        self,
        denoiser: EnsembleDenoiser,
        process: MeasurementAware,
        z: Float[Tensor, "..."],
        forecast: Float[Tensor, "ensemble ..."],
        noise: rng.Stream,
    ) -> Float[Tensor, "ensemble ..."]:
        """Draw one sample for each member of the forecast.

        Arguments:
            denoiser: Denoiser of the prior, in the modes.
            process: The published process, in the modes.
            z: The measurement in the modes, of the shape of the state.
            forecast: Members in the modes.
            noise: Draws of the noise.
        """
        last = z.new_tensor(self.end if self.twice else 1.0)
        x = process.mean(forecast, z.new_tensor(self.end))
        x = x + process.var(z.new_tensor(self.end)).sqrt() * noise()
        for s, t in pairwise(self.times(self.end**2 if self.twice else self.end, z)):
            A, var = process.scale(s), process.var(s)
            prior = (A * denoiser.denoise(x / A, var.sqrt() / A) - x) / var
            M, S = process.transition(s, last)
            guidance = M * (z - M * x) / S
            k_prior, k_guidance = self.factors(s)
            score = k_prior * prior + k_guidance * guidance
            M, delta = process.transition(s, t)
            x = M * x - delta * score + delta.abs().sqrt() * noise()
        return x


@dataclass(frozen=True)
class PublishedMASF(PriorFilter):
    """MASF as published, for linear operators: the likelihood's score is added.

    This counts the observation twice (see ``methods.masf.bridge``). Where the observation is at
    least as precise as the prior, the variance is 0.33 to 0.46 of the exact one, and the mean is
    too close to the observation. The filter takes what the process of the paper can do: operators
    that pick entries, or symmetric matrices with eigenvalues in [0, 1] and one error std. It is
    here for comparison; `MASF` is exact.

    Source: MASF, arXiv 2604.02889, and its public code. Deviation: entries that are picked may
    have errors of their own, and what is not observed is measured as noise of their mean, in
    standard deviations of each variable of the forecast. With one variable and one error std this
    is the published form.

    Arguments:
        prior: Kind of the prior that is fitted to the forecast ensemble.
        sampler: Reverse SDE with its factors of the two scores.
        inflation: Factor of the analysis anomalies, at least 1, or an inflation (`RTPS`, ...).

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.PublishedMASF().assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    prior: EnsemblePrior = field(default_factory=Gaussian)
    sampler: PublishedSDE = field(default_factory=PublishedSDE)

    needs = ("simulator", "linear_operator", "independent_errors")
    least_members = 2
    exact = "no problem"
    cost = Cost(0, 150)

    @classmethod
    def example(cls, problem: Problem) -> PublishedMASF:
        """Return an instance that is quick to test."""
        # Without inflation a contract asks for the variance of the forecast, which it changes.
        return cls(sampler=PublishedSDE(noise_levels=30), inflation=1.1)

    def prepared(self, prior: PriorRun, space: StateSpace | None) -> PriorFilterRun:
        return _Run(prior, space, self)


@dataclass(frozen=True)
class _Run(PriorFilterRun):
    """One run of the published filter."""

    settings: PublishedMASF

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and the report of this cycle, as `MASF` does.

        Raises:
            ValueError: If the process of the paper cannot take the observation.
        """
        sampler = self.settings.sampler
        states, values = forecast.double(), y.double()
        shape = tuple(states.shape[1:])
        modes = model.modes(shape)
        denoiser, members = self.prior.fit(states, modes, self.space), modes.forward(states)
        gain, z, seen, std = square_form(model, modes, values, shape)
        unit = torch.ones_like(std)
        if self.space is not None and len(self.space.variables) > 1:
            spread = variable_std(states, self.space)
            unit = torch.where(spread > 0, spread, 1.0)
        std = torch.where(seen, std, unit * (std / unit)[seen].mean())
        process = MeasurementAware(gain, std, offset=sampler.offset)
        noise = rng.Stream(rng.key(generator), 0, len(members), shape, members)
        # What is not observed is measured as noise of the same std, alike for all members.
        z = torch.where(seen, z, std * rng.normal(1, shape, generator, like=members)[0])
        moved = modes.inverse(sampler.sample(denoiser, process, z, members, noise))
        info = {"evaluations": sampler.evaluations, **getattr(denoiser, "report", {})}
        return moved.to(forecast), info


def square_form(
    model: ObservationModel, modes: Modes, y: Float[Tensor, "obs"], shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return eigenvalues of H, y in its eigenvectors, which are observed, and the errors' std.

    Raises:
        ValueError: If the published process cannot do it: errors that correlate, or differ where
            a matrix mixes entries; other operators than symmetric matrices and those that pick
            entries.
    """
    rows = model.operator.as_matrix(shape)
    if model.cov is not None:
        raise ValueError(
            "PublishedMASF takes independent errors of observation: use MASF for any other error."
        )
    columns = np.unique(rows.indices)
    picks = len(rows.data) == rows.shape[0] == len(columns) and bool((rows.data == 1).all())
    precision = modes.precision.to(y)
    seen = precision > 0
    if picks:
        std = torch.where(seen, precision, 1.0).rsqrt()
        return seen.to(y), (modes.information(y) * std.square()).to(y), seen, std
    errors = model.error_std(tuple(y.shape), y)
    if not torch.allclose(errors, errors[:1], atol=0):
        raise ValueError(
            "PublishedMASF takes one error std for all observations of a symmetric matrix: use "
            "MASF for any other error."
        )
    dense = torch.from_numpy(rows.toarray())
    if dense.shape[0] != dense.shape[1] or not torch.allclose(dense, dense.T):
        raise ValueError(
            "PublishedMASF takes operators that pick entries of the state, or symmetric matrices; "
            f"got one of shape {tuple(dense.shape)}. Use MASF, which takes every linear operator."
        )
    # The eigenvectors of H^T H are those of H where no eigenvalue is negative.
    MeasurementAware(torch.linalg.eigvalsh(dense), torch.ones(len(dense)).to(dense))
    std = torch.full_like(precision, float(errors[0]))
    z = modes.forward(y.reshape(1, *shape))[0]
    return precision.sqrt() * std, z, torch.ones_like(seen), std


def _ramp(scale: tuple[float, float, float], tau: Tensor) -> Tensor:
    low, high, power = scale
    return low + (high - low) * tau**power
