r"""Observed entries: an exact posterior denoiser from a prior's denoiser, without a gradient.

An observation :math:`y_i = x_{0,i} + R_i^{1/2} \epsilon` of an entry of the data is one more noisy
copy of it, like u itself, so both merge into one copy with less noise:

.. math:: \frac{1}{\nu_{*,i}^2} = \frac{1}{\nu^2} + \frac{1}{R_i}, \qquad
    u_{*,i} = \nu_{*,i}^2 \left( \frac{u_i}{\nu^2} + \frac{y_i}{R_i} \right), \qquad
    E[x_0 \mid u, y] = E[x_0 \mid x_0 + \nu_* \varepsilon = u_*].

The posterior's denoiser is the prior's at another noise level for each entry. Nothing is
approximated and nothing is differentiated, but the denoiser must know such levels.

A network knows them best where the noise is large: there it reads the trajectory off the
observations, which guidance cannot. Where the noise is small the observations change little, and
what little the network misses of it is what guidance gives. So a learned denoiser hands over from
the one to the other (`SwitchedDenoiser`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scorda.core.shapes import Float, Tensor
from scorda.diffusion.denoisers import Denoiser

__all__ = ["Conditioned", "SwitchedDenoiser"]


@dataclass(frozen=True, eq=False)
class Conditioned:
    """Denoiser of a prior given observations of single entries: exact where the prior's is.

    Arguments:
        prior: Denoiser of the prior, which takes a noise level per entry.
        values: y, shape ``(*shape)``; what stands at entries without observation is not used.
        precision: 1 / R, same shape; 0 where nothing was observed.
    """

    prior: Denoiser
    values: Float[Tensor, "..."]
    precision: Float[Tensor, "..."]

    @property
    def limit(self) -> float | None:
        """Largest size of a component, where the prior's denoiser has one."""
        return getattr(self.prior, "limit", None)

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        nu2, precision = noise.square(), self.precision.to(u)
        weight = nu2 * precision / (1 + nu2 * precision)
        merged = torch.where(precision > 0, u + weight * (self.values.to(u) - u), u)
        return self.prior.denoise(merged, (nu2 / (1 + nu2 * precision)).sqrt())


@dataclass(frozen=True, eq=False)
class SwitchedDenoiser:
    """One denoiser while the noise is large, another one below.

    Arguments:
        above: Denoiser at noise levels of at least `level`.
        below: Denoiser at the others.
        level: Noise level of the switch, in units of the data.
    """

    above: Denoiser
    below: Denoiser
    level: float

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        if noise.numel() != 1:
            raise ValueError("SwitchedDenoiser takes one noise level for all members.")
        return (self.above if noise >= self.level else self.below).denoise(u, noise)
