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
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch

from scorda import rng
from scorda.augment import AugmentedSpace
from scorda.ensemble_prior import EnsembleKernel, EnsemblePrior, FittedGaussian
from scorda.published import ScaledSDE
from scorda.shapes import Float, Tensor
from scorda.space import StateSpace

__all__ = ["Heads", "LearnsHeads", "Pairs", "ProjectionSDE", "heads_of"]

Heads = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


# Members, their simulated observations and the errors' std, as `heads_of` takes them.
Pairs = tuple[Tensor, Tensor, Tensor]


@runtime_checkable
class LearnsHeads(Protocol):
    """A prior that makes its own heads."""

    def heads(
        self,
        pairs: Pairs,
        space: StateSpace | AugmentedSpace | None = None,
        simulate: Callable[[Tensor], Pairs] | None = None,
    ) -> Heads:
        """Arguments as those of `heads_of`."""
        ...


def heads_of(
    prior: EnsemblePrior,
    x: Float[Tensor, "ensemble entries"],
    h: Float[Tensor, "ensemble entries"],
    space: StateSpace | AugmentedSpace | None = None,
    std: Float[Tensor, "entries"] | None = None,
    simulate: Callable[[Tensor], Pairs] | None = None,
) -> Heads:
    r"""Return the map from :math:`c = a x_0 + (1 - a) h(x_0) + N(0, v)`, a and v to m_1 and m_2.

    c is ``(ensemble, entries)``, a one number or ``(ensemble, 1)``, and v broadcasts to c.

    Arguments:
        prior: A Gaussian or a kernel density, fitted to the pairs, or a prior that `LearnsHeads`.
        x: Members.
        h: Their simulated observations.
        space: Space of the pairs, for localization.
        std: Standard deviation of the errors of the observations (default: 1), for training.
        simulate: Makes pairs, with their std, of other states: to train on before the run.

    Raises:
        ValueError: If it is another prior.
    """
    entries = x.shape[1]
    if isinstance(prior, EnsembleKernel):
        width = prior.bandwidth**2

        def kernel(c: Tensor, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            b = 1 - a
            centres = a * x + b * h
            var = v + width * (a**2 + b**2)
            # |c - centre|^2 less what all members share.
            logits = (c / var) @ centres.mT - 0.5 * (centres.square() / var).sum(1)
            w = logits.softmax(1)
            rest = width * (c - w @ centres) / var
            return w @ x + a * rest, w @ h + b * rest

        return kernel
    if isinstance(prior, LearnsHeads):
        return prior.heads((x, h, torch.ones_like(x[0]) if std is None else std), space, simulate)
    joint = torch.cat((x, h), 1)
    varies = joint.std(0) > 0
    fitted = prior.fit(joint[:, varies], None, space if varies.all() else None)
    if not isinstance(fitted, FittedGaussian):
        raise ValueError(
            'MASF with mode="nonlinear" takes EnsembleGaussian, EnsembleKernel, LocalGaussian or '
            f'NetworkPrior; got {type(prior).__name__}: use mode="bridge", which takes any prior.'
        )
    mean, roots = joint[0].clone(), joint.new_zeros(2 * entries, len(fitted.spectrum))
    mean[varies] = fitted.mean
    roots[varies] = fitted.basis * fitted.spectrum.sqrt()
    (xm, hm), (xr, hr) = mean.split(entries), roots.split(entries)

    def gaussian(c: Tensor, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        # One matrix for each amplitude: for all samples, or for each.
        b, each = 1 - a, a.reshape(-1, 1, 1)
        root = each * xr + (1 - each) * hr
        cov = root @ root.mT + torch.diag_embed(v.expand(len(root), entries))
        rest = (c - a * xm - b * hm).unflatten(0, (len(root), -1))
        weights = (torch.linalg.solve(cov, rest.mT).mT @ root).flatten(0, 1)
        return xm + weights @ xr.mT, hm + weights @ hr.mT

    return gaussian


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
