r"""The ensemble score filter (EnSF): a reverse diffusion with the likelihood added to the score.

The forward process has linear amplitude and variance with damped ends,

.. math:: \alpha(t) = 1 - (1 - \epsilon_\alpha) t, \quad
    \beta^2(t) = \epsilon_\beta + (1 - \epsilon_\beta) t, \qquad
    b = \frac{d \log \alpha}{dt}, \quad g^2 = \frac{d \beta^2}{dt} - 2 b \beta^2,

the score of the forecast needs no training, and the likelihood enters at the noisy state with a
damping h(t) that is 0 at t = 1 and 1 at t = 0. K Euler steps lead from t = 1 to 0:

.. math:: z \leftarrow z - \frac{1}{K} \left[ b z - g^2 s(z, t) \right]
    + \frac{g}{\sqrt K} \, \varepsilon, \quad
    s = s_{\mathrm{forecast}}(z, t) + h(t) \, \nabla_z \log p(y \mid z)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from scorda.assimilation.base import Cost
from scorda.assimilation.filter import Filter
from scorda.assimilation.likelihood_score import likelihood_score, settled, standardised
from scorda.core import rng
from scorda.core.errors import DegenerateEnsemble
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.denoisers import KernelDenoiser
from scorda.diffusion.samplers import ScalarProcess
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem

__all__ = ["EnSF", "LinearProcess"]

# Spread below which noise of unit variance leaves nothing of a forecast.
SMALLEST = 1e-4
# Numbers of a batch of members.
BATCH = 2**18

Form = Literal["paired", "mixture"]
Scale = Literal["none", "spread"]


@dataclass(frozen=True)
class LinearProcess(ScalarProcess):
    r"""Linear amplitude and variance: alpha and beta^2 of the module.

    Arguments:
        eps_alpha: Amplitude of the data at t = 1, in (0, 1].
        eps_beta: Variance of the noise at t = 0, in [0, 1).
    """

    eps_alpha: float = 0.5
    eps_beta: float = 0.025

    def __post_init__(self) -> None:
        if not (0 < self.eps_alpha <= 1 and 0 <= self.eps_beta < 1):
            raise ValueError(
                f"Got eps_alpha = {self.eps_alpha}, eps_beta = {self.eps_beta}: need "
                "0 < eps_alpha <= 1 and 0 <= eps_beta < 1."
            )

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 1 - (1 - self.eps_alpha) * t

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (self.eps_beta + (1 - self.eps_beta) * t).sqrt()

    def time(self, noise: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        # The smaller root of nu^2 alpha^2 = beta^2, without cancellation.
        square, slope = noise.square(), 1 - self.eps_alpha
        half = square * slope + 0.5 * (1 - self.eps_beta)
        rest = square - self.eps_beta
        return rest / (half + (half.square() - square * slope**2 * rest).sqrt())

    def drift(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """b, shape of t."""
        return (self.eps_alpha - 1) / self.alpha(t)

    def diffusion(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r""":math:`g^2`, shape of t."""
        return 1 - self.eps_beta - 2 * self.drift(t) * self.var(t)


@dataclass(frozen=True)
class EnSF(Filter):
    r"""Ensemble score filter: training free, linear in the size of state and ensemble.

    ``form="paired"`` is what the authors' experiments run: the score of member i knows member i
    alone, so that each member returns to its own forecast where nothing is observed,

    .. math:: s_{\mathrm{forecast}}(z_i, t) = -\frac{z_i - \alpha x_i}{\beta^2}.

    ``form="mixture"`` is the paper's equation with all members in each batch, the score of their
    noised mixture, :math:`\sum_j w_j (\alpha x_j - z) / \beta^2` with
    :math:`w_j \propto \exp(-|z - \alpha x_j|^2 / 2 \beta^2)`: O(N^2 d) time, O(N d) memory.

    Both act on each component by itself as far as the likelihood does. It is good to know that,
    in the paired form, no information passes from observed components to others: it suits states
    that are observed throughout; elsewhere the ensemble Kalman filters use the covariances.

    Damping is a heuristic, so neither form is exact, for Gaussian problems either; schedule ends,
    damping and steps set the strength of the assimilation. For a forecast N(0.3, 1), y = 1.7 and
    many members the exact recursion of its moments (see tests) gives after 500 steps as published

    ============================  ==================  ==================
    mean / variance               error variance .25  error variance .01
    ============================  ==================  ==================
    Kalman update                 1.420 / .200        1.686 / .0099
    paired, ends (.05, 0)         0.311 / .987        0.487 / .753
    paired, ends (.5, .025)       0.574 / .681        1.367 / .0628
    mixture, ends (.05, 0)        1.602 / .133        1.702 / .0056
    mixture, ends (.5, .025)      1.486 / .126        1.695 / .0056
    ============================  ==================  ==================

    With more steps and eps_beta = 0 the paired form tends to the forecast, whatever the data.
    As published (scale = "none") the noise has unit variance in the units of the state, whatever
    they are, so that the filter is made for states of about unit variance about zero: with a mean
    of 1000 standard deviations the default steps leave it 6 of them off, and variables of smaller
    numbers are lost in the noise. "spread" is the same in any units.
    Steps of :math:`g^2 h / (K R) > 2` are unstable: take K above 1 / (2 R) for unit slopes of h,
    or let `clip` bound them.

    Source: Bao, Zhang & Zhang (2024), CMAME 432, 117447, https://arxiv.org/abs/2309.00983; paired
    form, schedule ends, standardised initial noise and `clip` as in the authors' public code.
    Deviations: members are standardised; the state itself is not clipped (theirs to +-50).

    Arguments:
        form: "paired" or "mixture".
        eps_alpha: Amplitude of the data at t = 1, in (0, 1].
        eps_beta: Variance of the noise at t = 0, in [0, 1).
        euler_steps: K.
        damping: Exponent p of :math:`h(t) = (1 - t)^p`; 1 as published, 0 for no damping.
        scale: "spread": members are standardised by mean and standard deviation of each component
            of the forecast, and the likelihood with them; "none": the noise has unit variance in
            the units of the state, as published.
        clip: Largest size of a component of the likelihood's score, in 1 / (unit of z), or None.

    Raises:
        ValueError: If a setting is out of range.
        DegenerateEnsemble: With scale = "none", if no component has a spread above 1e-4.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.EnSF(euler_steps=100).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    form: Form = "paired"
    eps_alpha: float = 0.5
    eps_beta: float = 0.025
    euler_steps: int = 500
    damping: float = 1.0
    scale: Scale = "spread"
    clip: float | None = 1000.0

    needs = ("simulator", "differentiable_operator")
    errors = "density"
    in_double = False
    exact = "no problem"
    cost = Cost(500, 500, "gradient of h each")

    @classmethod
    def example(cls, problem: Problem) -> EnSF:
        """Return an instance that is quick to test."""
        return cls(euler_steps=20)

    def __post_init__(self) -> None:
        LinearProcess(self.eps_alpha, self.eps_beta)
        if self.form not in ("paired", "mixture"):
            raise ValueError(f"Got form = {self.form!r}: choose 'paired' or 'mixture'.")
        if self.scale not in ("none", "spread"):
            raise ValueError(f"Got scale = {self.scale!r}: choose 'none' or 'spread'.")
        if self.euler_steps < 1 or not 0 <= self.damping < torch.inf:
            raise ValueError(
                f"Got euler_steps = {self.euler_steps}, damping = {self.damping}: give at least "
                "one step and an exponent of at least 0."
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"Got clip = {self.clip}: give a positive bound, or None.")

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``evaluations`` (of the score, per member)."""
        x, mean, std = self._scaled(forecast)
        kernel = KernelDenoiser(x, 0.0) if self.form == "mixture" else None
        process, key = LinearProcess(self.eps_alpha, self.eps_beta), rng.key(generator)
        z = rng.normal_rows(key, 0, len(x), tuple(x.shape[1:]), x, draw=1)
        z = (z - z.mean(0)) / z.std(0)
        # Members go through all steps by themselves, a few at a time: most of the time of a large
        # state is that of its memory, and theirs stays in the cache.
        few = max(1, BATCH // x[0].numel())
        for first in range(0, len(x), few):
            rows = slice(first, first + few)
            noise = rng.Stream(key, first, min(first + few, len(x)), tuple(x.shape[1:]), x)
            noise()  # that of the start, which is here already
            for t, kept, pull, push, root in self._schedule(process, x):
                gradient = likelihood_score(z[rows], mean, std, y, model)
                gradient = (
                    gradient if self.clip is None else gradient.clamp_(-self.clip, self.clip)
                )
                targets = x[rows] if kernel is None else process.denoise(kernel, z[rows], t)
                z[rows].mul_(kept).add_(targets, alpha=pull).add_(gradient, alpha=push)
                z[rows].add_(noise(), alpha=root)
        return settled(mean + std * z, forecast), {"evaluations": self.euler_steps}

    def _schedule(self, process: LinearProcess, like: Tensor) -> Iterator[tuple[Any, ...]]:
        """Give t and the factors of z, of x, of the likelihood's score and of the noise.

        They are those of each Euler step, z - b z / K + (g^2 / K) score + (g / sqrt K) noise.
        """
        t = 1 - torch.arange(self.euler_steps, dtype=torch.float64) / self.euler_steps
        drift, step = process.drift(t) / self.euler_steps, process.diffusion(t) / self.euler_steps
        pull = step / process.var(t)
        push, root = step * (1 - t) ** self.damping, step.sqrt()
        columns = 1 - drift - pull, pull * process.alpha(t), push, root
        return zip(t.to(like), *(column.tolist() for column in columns), strict=True)

    def _scaled(self, forecast: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled members, and mean and standard deviation that scale them."""
        if self.scale == "spread":
            return standardised(forecast)
        largest = forecast.std(0).max()
        if not largest > SMALLEST:
            raise DegenerateEnsemble(
                f"The spread of the forecast is {float(largest):.1g} at most, while the noise of "
                "EnSF with scale='none' has the variance 1 in the units of the state: take "
                "scale='spread', or other units."
            )
        return forecast, torch.zeros_like(forecast[0]), torch.ones_like(forecast[0])
