r"""SF, the score-based filter: a reverse diffusion with a score that is learned in each cycle.

The forward process adds noise alone, :math:`dz = \sigma^t dW`, which has the standard deviation

.. math:: \beta(t) = \left( \frac{\sigma^{2t} - 1}{2 \log \sigma} \right)^{1/2}

at time t. From :math:`z \sim N(0, \beta(1)^2)`, K Euler steps of equal length lead from t = 1 to
the end,

.. math:: z \leftarrow z + \sigma^{2t} \Delta t \, s(z, t) + \sigma^t \Delta t^{1/2} \varepsilon,
    \quad s = \frac{E[z_0 \mid z] - z}{\beta^2}
    + \max(0, 1 - t / \tau) \, \nabla_z \log p(y \mid z) ,

the last of them without noise. The likelihood enters at the noisy state, for t < tau only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from scorda.assimilation.base import Cost
from scorda.assimilation.likelihood_score import bounded, likelihood_score, settled, standardised
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.diffusion.samplers import ScalarProcess
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem
from scorda.priors.base import EnsemblePrior, PriorRun
from scorda.priors.gaussian import Gaussian
from scorda.priors.network.online import OnlineNetwork
from scorda.priors.prior_filter import PriorFilter, PriorFilterRun

__all__ = ["SF", "PowerExploding"]


@dataclass(frozen=True)
class PowerExploding(ScalarProcess):
    """Noise of the module: variance exploding as a power of time.

    Arguments:
        base: sigma, above 1.
    """

    base: float = 25.0

    def __post_init__(self) -> None:
        if not self.base > 1:
            raise ValueError(f"Got base = {self.base}: the noise grows as base^t, so above 1.")

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.ones_like(t)

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        rate = 2 * math.log(self.base)
        return (torch.expm1(rate * t) / rate).sqrt()

    def time(self, noise: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        rate = 2 * math.log(self.base)
        return torch.log1p(rate * noise.square()) / rate

    def diffusion(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r""":math:`g^2 = \sigma^{2t}`, shape of t."""
        return torch.exp(2 * math.log(self.base) * t)


@dataclass(frozen=True)
class SF(PriorFilter):
    r"""Score-based filter: one reverse diffusion per member from fresh noise.

    The damping is a heuristic, so the filter is not exact, for Gaussian problems and an exact
    score either. For a forecast N(0.3, 1) and y = 1.7 the exact recursion of its moments (see
    tests) gives after 500 steps, without the bound on the score,

    ====================  ===========  ===========  ===========
    mean / variance       R = 1        R = .25      R = .01
    ====================  ===========  ===========  ===========
    Kalman update         1.000/.5000  1.420/.2000  1.686/.0099
    SF                    0.872/.3916  1.388/.1179  1.686/.0036
    ====================  ===========  ===========  ===========

    Steps of :math:`\sigma^{2t} \Delta t \, (1 - t / \tau) / R > 2` are unstable (R in variances of
    the forecast) but for the bound; it takes part of the observation away where it is in force.

    Mended here:

    * The noise of the published form has a standard deviation of 9.8 whatever the size of the
      state. Members are standardised first, component by component, so that the schedule, the
      bound and the network see numbers of order 1; ``standardise=False`` is the published form.
    * The published network sees noisy states as large as they come and has no preconditioning.
      `OnlineNetwork` has, corrects the Gaussian of the ensemble, and is held to members that it
      has not seen; ``OnlineNetwork(base=None, training=NetworkTraining(observed=0.0))`` is nearer
      to the published one. The prior may be any other: with `Gaussian` no network is trained.
    * The model error of the forecast is the system's own (the public code's experiments add noise
      of another size, and one component of Lorenz-96 does not move).
    * The Euler steps add up to the whole of time (a later copy of the method has squared times
      with a constant step, which add up to twice of it).

    Each analysis is drawn from fresh noise, so the analysis ensemble has a sampling error that
    filters which move the members of the forecast have not.

    Source: Bao, Zhang & Zhang (2024), J. Comput. Phys.; https://arxiv.org/abs/2306.09282, and its
    public code for the settings, the damping and the bound.

    Arguments:
        prior: Kind of the prior that is fitted to the (standardised) forecast ensemble.
        euler_steps: K.
        base: sigma.
        reach: tau, the time at which the likelihood sets in, in (0, 1].
        end: Last time.
        clip: Largest root mean square of the score of a member, or None.
        standardise: Whether to standardise the members.
        inflation: Factor of the analysis anomalies, at least 1, or an inflation (`RTPS`, ...).

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.SF(euler_steps=20).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    prior: EnsemblePrior = field(default_factory=OnlineNetwork)
    euler_steps: int = 500
    base: float = 25.0
    reach: float = 0.5
    end: float = 1e-3
    clip: float | None = 50.0
    standardise: bool = True

    needs = ("simulator", "differentiable_operator")
    errors = "density"
    in_double = False
    exact = "no problem"
    cost = Cost(249, 500, "a network trained per cycle")
    least_members = OnlineNetwork.least_members

    @classmethod
    def example(cls, problem: Problem) -> SF:
        """Return an instance that is quick to test."""
        return cls(Gaussian(), euler_steps=30)

    def __post_init__(self) -> None:
        super().__post_init__()
        PowerExploding(self.base)
        if self.euler_steps < 1 or not 0 < self.end < 1 or not 0 < self.reach <= 1:
            raise ValueError(
                f"Got euler_steps = {self.euler_steps}, end = {self.end}, reach = {self.reach}: "
                "need at least one step, 0 < end < 1 and 0 < reach <= 1."
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"Got clip = {self.clip}: give a positive bound, or None.")

    def prepared(self, prior: PriorRun, space: StateSpace | None) -> PriorFilterRun:
        return _Run(prior, space, self)


@dataclass(frozen=True)
class _Run(PriorFilterRun):
    """One run of the score-based filter."""

    settings: SF

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``evaluations`` and what the prior reports."""
        settings = self.settings
        if settings.standardise:
            x, mean, std = standardised(forecast)
        else:
            x, mean, std = forecast, forecast.new_zeros(()), forecast.new_ones(())
        denoiser, process = self.prior.fit(x, None, self.space), PowerExploding(settings.base)
        noise = rng.Stream(rng.key(generator), 0, len(x), tuple(x.shape[1:]), x)
        grid = torch.linspace(1, settings.end, settings.euler_steps + 1, dtype=torch.float64).to(x)
        dt = (1 - settings.end) / settings.euler_steps
        z = process.sigma(grid[0]) * noise()
        moved = z
        for k, t in enumerate(grid[:-1]):
            z = moved if k == 0 else moved + (process.diffusion(grid[k - 1]) * dt).sqrt() * noise()
            level = process.sigma(t).expand(1, *x.shape[1:])
            score = (denoiser.denoise(z, level) - z) / process.var(t)
            if t < settings.reach:
                likelihood = likelihood_score(z, mean, std, y, model)
                score = score + (1 - t / settings.reach) * likelihood
            moved = z + process.diffusion(t) * dt * bounded(score, settings.clip)
        info = {"evaluations": settings.euler_steps, **getattr(denoiser, "report", {})}
        return settled(mean + std * moved, forecast), info
