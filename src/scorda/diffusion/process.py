r"""Forward processes: how data turns into noise over the diffusion time t.

A forward process is a linear diffusion with Gaussian kernels,

.. math:: x_t \mid x_0 \sim \mathcal N(A_t x_0, C_t), \qquad 0 \le t \le \mathrm{end},

data at t = 0 and (nearly) pure noise at the end. `t` and `s` are diffusion times throughout; the
physical time of a trajectory is an axis of x and is never meant here.

The scalar processes stand beside the samplers that walk down their noise levels (`samplers`,
`variance_preserving`); the process towards a measurement is in `measurement_aware`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.denoisers import align

__all__ = ["ForwardProcess", "Transition"]


class Transition(NamedTuple):
    r"""Law of :math:`x_t = \mathrm{scale} \, x_s + \mathcal N(0, \mathrm{var})`.

    For t < s it is the algebraic inverse, whose `var` is negative.
    """

    scale: Float[Tensor, "..."]
    var: Float[Tensor, "..."]


class ForwardProcess(ABC):
    """A Gaussian diffusion from data (t = 0) to noise (t = `end`)."""

    end: float = 1.0

    @abstractmethod
    def scale(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Amplitude A of the data; t is scalar or one per member."""

    @abstractmethod
    def var(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Variance C of x_t given x_0, shape of the amplitude."""

    def mean(self, x0: Float[Tensor, "..."], t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Mean of x_t given x_0, shape of x_0 [final]."""
        return align(self.scale(t), x0) * x0

    def transition(self, s: Float[Tensor, "..."], t: Float[Tensor, "..."]) -> Transition:
        r"""Law of x_t given x_s for t > s, and its algebraic inverse for t < s.

        Its scale is :math:`A_t / A_s`, its variance :math:`C_t - (A_t / A_s)^2 C_s`.
        """
        scale = self.scale(t) / self.scale(s)
        return Transition(scale, self.var(t) - scale**2 * self.var(s))

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
        x0: Float[Tensor, "ensemble ..."],
    ) -> Float[Tensor, "ensemble ..."]:
        """Score of p_t at x_t, from the denoised x_t (Tweedie) [final]."""
        return (self.mean(x0, t) - x_t) / align(self.var(t), x_t)
