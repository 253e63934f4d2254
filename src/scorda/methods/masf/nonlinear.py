r"""The measurement-aware process of a nonlinear observation, as published.

The process blends the state with what the instrument would see,

.. math:: x_t = a x_0 + (1 - a) \, h(x_0) + s (1 - a^2)^{1/2} \varepsilon,

and ends at a measurement. It is no Markov process in x; its Markovian projection (Gyongy) has the
same law at each time, with

.. math:: \mathrm d x = a' (m_1 - m_2) \, \mathrm d t + (s^2 (1 - a^2))'^{1/2} \, \mathrm d w,
    \qquad m_1 = E[x_0 \mid x_t], \quad m_2 = E[h(x_0) \mid x_t],

and the score :math:`-(x_t - a m_1 - (1 - a) m_2) / (s^2 (1 - a^2))`. Two heads, m_1 and m_2, are
all that a sampler needs. What the end says of x_t is approximated by a Gaussian,

.. math:: p(z \mid x_t) \approx N(z; x_t - a \, (m_1 - m_2), s^2 a^2),

whose gradient is added to the score.

**What that costs.** The projection keeps the law of x_t, not the joint law of x_t and the
measurement; the Gaussian is an approximation; and, as in the linear case, the likelihood is added
to the drift of the unconditional process (`methods.masf` says why this counts it twice). With
h(x) = x the sampler is the published linear one with H = 1 and has its variances. It is here for
comparison: the bridge in the augmented state (`augment`) has none of the three.

The heads are exact for what is fitted to the pairs (x, h(x)), their Gaussian or their kernel
density; or they are those of a network that is trained on the pairs (`network_heads`).

Source: MASF v2 (arXiv 2604.02889) and its public code, whose networks have the two heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.methods.masf.published import ScaledSDE
from scorda.priors.heads import Heads

__all__ = ["ProjectionSDE"]


@dataclass(frozen=True)
class ProjectionSDE(ScaledSDE):
    r"""Euler steps of the reverse SDE of the projection, with the endpoint Gaussian added.

    .. math:: x_t = x_s + (a_t - a_s) (m_1 - m_2) - \Delta \, (k_s \nabla \log p_s + k_g g_s)
        + |\Delta|^{1/2} \varepsilon, \quad \Delta = s^2 (a_s^2 - a_t^2),

    from the forecast noised to `end`, on the times of `published` and with its factors k.

    Deviations: scores and guidance are taken at the same time s, the terminal amplitude is 0, and
    entries that the instrument does not fill are given no guidance.

    Arguments:
        steps: n.
        end: T.
        offset: Offset of the cosine schedule.
        prior_scale: k_0, k_1 and p of the prior's score.
        guidance_scale: The same of the guidance; (1, 1, 1) is the plain sum.
        floor: Last time.
    """

    steps: int = 200
    prior_scale: tuple[float, float, float] = (0.95, 1.5, 1.0)

    @property
    def evaluations(self) -> int:
        """Evaluations of the heads per member."""
        return self.steps

    def sample(
        self,
        heads: Heads,
        z: Float[Tensor, "entries"],
        std: Float[Tensor, "entries"],
        forecast: tuple[Float[Tensor, "ensemble entries"], Float[Tensor, "ensemble entries"]],
        seen: Float[Tensor, "entries"],
        noise: rng.Stream,
    ) -> Float[Tensor, "ensemble entries"]:
        """Run it.

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
