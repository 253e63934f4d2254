r"""Forward processes: how data turns into noise over the diffusion time t.

A forward process is a linear diffusion with Gaussian kernels,

.. math:: x_t \mid x_0 \sim \mathcal N(m_t(x_0), C_t), \qquad 0 \le t \le \mathrm{end},

data at t = 0 and (nearly) pure noise at the end. `t` and `s` are diffusion times throughout; the
physical time of a trajectory is an axis of x and is never meant here.

The scalar processes are :math:`x_t = \alpha(t) x_0 + \sigma(t) \varepsilon`. Divided by alpha they
all read :math:`x_0 + \nu \varepsilon` with the noise level :math:`\nu = \sigma / \alpha`, so a
denoiser that knows the noise level serves every one of them.

Tweedie's formula links the denoiser and the score:
:math:`\alpha E[x_0 \mid x_t] = x_t + \sigma^2 \nabla \log p_t(x_t)`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.denoisers import Denoiser, align

__all__ = [
    "ForwardProcess",
    "ScalarProcess",
    "Transition",
    "VarianceExploding",
    "VariancePreserving",
]


class Transition(NamedTuple):
    r"""Law of :math:`x_t = \mathrm{scale} \, x_s + \mathrm{shift} + \mathcal N(0, \mathrm{var})`.

    For t < s it is the algebraic inverse, whose `var` is negative.
    """

    scale: Float[Tensor, "..."]
    shift: Float[Tensor, "..."]
    var: Float[Tensor, "..."]


class ForwardProcess(ABC):
    """A Gaussian diffusion from data (t = 0) to noise (t = `end`).

    `targets` is what the denoiser predicts; here it is x_0.
    """

    end: float = 1.0

    @abstractmethod
    def mean(self, targets: Float[Tensor, "..."], t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Mean of x_t given the targets, shape of the targets; t is scalar or one per member."""

    @abstractmethod
    def var(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Variance of x_t given the targets, shape of t."""

    @abstractmethod
    def transition(self, s: Float[Tensor, "..."], t: Float[Tensor, "..."]) -> Transition:
        """Law of x_t given x_s for t > s, and its algebraic inverse for t < s."""

    def sample(
        self,
        x0: Float[Tensor, "ensemble ..."],
        t: Float[Tensor, "..."],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "ensemble ..."]:
        """Draw x_t given x_0 ``(ensemble, ...)`` [final]."""
        noise = rng.normal(x0.shape[0], tuple(x0.shape[1:]), generator, like=x0)
        return self.mean(x0, t) + align(self.var(t), x0).sqrt() * noise

    def score(
        self,
        x_t: Float[Tensor, "ensemble ..."],
        t: Float[Tensor, "..."],
        targets: Float[Tensor, "ensemble ..."],
    ) -> Float[Tensor, "ensemble ..."]:
        """Score of p_t at x_t, from the denoiser's output (Tweedie) [final]."""
        return (self.mean(targets, t) - x_t) / align(self.var(t), x_t)


class ScalarProcess(ForwardProcess):
    r""":math:`x_t = \alpha(t) x_0 + \sigma(t) \varepsilon` with positive scalars."""

    @abstractmethod
    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Amplitude of the data, shape of t."""

    @abstractmethod
    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Standard deviation of the noise, shape of t."""

    @abstractmethod
    def time(self, noise: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Diffusion time at which the noise level is `noise`: the inverse of `noise_level`."""

    def noise_level(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""Noise level :math:`\nu = \sigma / \alpha`, in units of the data [final]."""
        return self.sigma(t) / self.alpha(t)

    def denoise(
        self,
        denoiser: Denoiser,
        x_t: Float[Tensor, "ensemble ..."],
        t: Float[Tensor, "..."],
    ) -> Float[Tensor, "ensemble ..."]:
        """Mean of x_0 given x_t under the prior of a denoiser [final]."""
        return denoiser.denoise(x_t / align(self.alpha(t), x_t), align(self.noise_level(t), x_t))

    def mean(self, targets: Float[Tensor, "..."], t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Amplitude times targets [final]."""
        return align(self.alpha(t), targets) * targets

    def var(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Square of `sigma` [final]."""
        return self.sigma(t).square()

    def transition(self, s: Float[Tensor, "..."], t: Float[Tensor, "..."]) -> Transition:
        r"""Scale :math:`\alpha_t/\alpha_s`; variance as in the module, negative for t < s."""
        scale = self.alpha(t) / self.alpha(s)
        return Transition(scale, torch.zeros_like(scale), self.var(t) - scale**2 * self.var(s))


@dataclass(frozen=True)
class VariancePreserving(ScalarProcess):
    r"""The cosine process of SDA.

    .. math:: \alpha(t) = \cos^2(\omega t), \quad \sigma^2(t) = 1 - \alpha^2(t) + \eta^2, \quad
        \omega = \arccos \sqrt{10^{-3}}

    The amplitude, not its square, is cos^2. Source: Rozet & Louppe (2023), section 4; the floor
    `eta` is from their public code (the paper has none).

    Arguments:
        eta: Standard deviation of the noise at t = 0, in units of the data.
        floor: Amplitude at t = 1.
    """

    eta: float = 1e-3
    floor: float = 1e-3

    def __post_init__(self) -> None:
        if not (0 < self.floor < 1 and self.eta > 0):
            raise ValueError(
                f"Got floor = {self.floor}, eta = {self.eta}: need 0 < floor < 1 and eta > 0."
            )

    @property
    def omega(self) -> float:
        """Angular speed of the schedule."""
        return math.acos(math.sqrt(self.floor))

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.cos(self.omega * t).square()

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        # 1 - cos^4 = sin^2 (1 + cos^2), without cancellation near t = 0.
        squared_sin = torch.sin(self.omega * t).square()
        return (squared_sin * (2 - squared_sin) + self.eta**2).sqrt()

    def time(self, noise: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        # alpha^2 (nu^2 + 1) = 1 + eta^2, and sin^2(w t) = 1 - alpha, written without cancellation.
        squared_alpha = (1 + self.eta**2) / (1 + noise.square())
        rest = ((noise.square() - self.eta**2) / (1 + noise.square())).clamp(min=0)
        squared_sin = rest / (1 + squared_alpha.sqrt())
        return torch.asin(squared_sin.sqrt().clamp(max=1)) / self.omega


@dataclass(frozen=True)
class VarianceExploding(ScalarProcess):
    r"""Noise that grows geometrically: :math:`x_t = x_0 + \sigma(t) \varepsilon`.

    .. math:: \sigma(t) = \sigma_{min} (\sigma_{max} / \sigma_{min})^t

    Equal steps of t are equal steps of log sigma. Source: Song et al. (2021), appendix C.

    Arguments:
        min_noise: sigma(0), in units of the data; well below what the data resolve.
        max_noise: sigma(1), well above the extent of the data.
    """

    min_noise: float = 2e-3
    max_noise: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.min_noise < self.max_noise:
            raise ValueError(
                f"Got min_noise = {self.min_noise}, max_noise = {self.max_noise}: need "
                "0 < min_noise < max_noise."
            )

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.ones_like(t)

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.min_noise * torch.exp(t * math.log(self.max_noise / self.min_noise))

    def time(self, noise: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.log(noise / self.min_noise) / math.log(self.max_noise / self.min_noise)
