r"""Two heads from a network, for the nonlinear measurement-aware process.

Of a pair of a state and its simulated observation, both standardised, the process tells
:math:`c = a x + (1 - a) h + v^{1/2} \varepsilon` (`methods.masf.nonlinear`). The heads are

.. math:: E[x_i \mid c] \approx G_i(c) + \rho_i N_\theta ,

alike for h, with the exact heads G of the Gaussian of the pairs, a network N and the standard
deviation :math:`\rho_i` that the Gaussian of the pair :math:`(x_i, h_i)` alone leaves of the entry
once :math:`c_i` is known. With C the covariance of that pair, :math:`b = 1 - a` and
:math:`s^2 = a^2 C_{xx} + 2 a b C_{xh} + b^2 C_{hh} + v`,

.. math:: \rho_x^2 = (b^2 \det C + v C_{xx}) / s^2, \qquad
    \rho_h^2 = (a^2 \det C + v C_{hh}) / s^2 .

So the heads are exact at low noise where h is linear, and the network has to find an h that is not
linear at every noise level. The loss is the squared error over :math:`\rho^2`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.diffusion.training import Loss
from scorda.observations.augmentation import AugmentedSpace
from scorda.priors.base import PriorRun
from scorda.priors.heads import Heads, Pairs, heads_of
from scorda.priors.network.dataset import folds

__all__ = ["FittedHeads", "HeadsPool", "Margins", "TwoHeads", "heads_loss"]


@dataclass(frozen=True, eq=False)
class Margins:
    """Means and covariances of the pairs of entries, each pair by itself.

    Arguments:
        x: Mean of the states.
        h: Mean of their simulated observations.
        xx: Variances of the states.
        xh: Covariances of each entry with its simulated observation.
        hh: Variances of the simulated observations.
    """

    x: Float[Tensor, "entries"]
    h: Float[Tensor, "entries"]
    xx: Float[Tensor, "entries"]
    xh: Float[Tensor, "entries"]
    hh: Float[Tensor, "entries"]

    @classmethod
    def of(
        cls, x: Float[Tensor, "ensemble entries"], h: Float[Tensor, "ensemble entries"]
    ) -> Margins:
        """Return the margins of an ensemble of pairs."""
        dx, dh = x - x.mean(0), h - h.mean(0)
        xx, xh, hh = (product.sum(0) / (len(x) - 1) for product in (dx * dx, dx * dh, dh * dh))
        return cls(x.mean(0), h.mean(0), xx, xh, hh)

    def heads(self, c: Tensor, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the heads of each pair by itself."""
        _, x, h = self._regressed(c, a, v)
        return x, h

    def scales(self, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the standard deviations rho that are left."""
        b, var = 1 - a, self._var(a, v)
        det = (self.xx * self.hh - self.xh.square()).clamp_min(0)
        x, h = b**2 * det + v * self.xx, a**2 * det + v * self.hh
        return (x / var).sqrt(), (h / var).sqrt()

    def seen(self, c: Tensor, a: Tensor, v: Tensor) -> Tensor:
        """Return the noisy pair with mean 0 and variance 1."""
        return self._regressed(c, a, v)[0]

    def _regressed(self, c: Tensor, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, var = 1 - a, self._var(a, v)
        rest = c - a * self.x - b * self.h
        gain_x, gain_h = a * self.xx + b * self.xh, a * self.xh + b * self.hh
        return rest / var.sqrt(), self.x + gain_x * rest / var, self.h + gain_h * rest / var

    def _var(self, a: Tensor, v: Tensor) -> Tensor:
        b = 1 - a
        return a**2 * self.xx + 2 * a * b * self.xh + b**2 * self.hh + v


class TwoHeads(nn.Module):
    """Heads of a Gaussian and their correction.

    Arguments:
        correction: Maps features, ``(ensemble, 2 entries, 1, 3)``, to the correction of both.
        margins: Of the pairs.
        low: Smallest noise level of training.
        gaussian: Heads to correct (default: those of each pair by itself).
    """

    def __init__(
        self, correction: nn.Module, margins: Margins, low: float, gaussian: Heads | None = None
    ) -> None:
        super().__init__()
        self.correction, self.margins, self.low = correction, margins, low
        self.gaussian = gaussian or margins.heads
        self.corrects = True

    def forward(
        self,
        c: Float[Tensor, "ensemble entries"],
        a: Float[Tensor, "..."],
        v: Float[Tensor, "..."],
    ) -> tuple[Float[Tensor, "ensemble entries"], Float[Tensor, "ensemble entries"]]:
        """Return m_1 and m_2 of noisy pairs, for one amplitude or for one per sample."""
        return self.corrected(self.gaussian(c, a, v), c, a, v)

    def corrected(
        self, G: tuple[Tensor, Tensor], c: Tensor, a: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the heads G with their correction."""
        if not self.corrects:
            return G
        alone, seen = self.margins.heads(c, a, v), self.margins.seen(c, a, v)
        scales = [scale.expand_as(c) for scale in self.margins.scales(a, v)]
        stds = self.margins.xx.sqrt(), self.margins.hh.sqrt()
        parts = []
        for g, d, scale, std in zip(G, alone, scales, stds, strict=True):
            linear = _over(g - d, scale)
            level = (_over(scale, std.expand_as(c)) + self.low).log() / -math.log(self.low)
            parts.append(torch.stack((seen, linear, level), -1))
        features = torch.cat(parts, 1)[:, :, None]
        weight = next(self.correction.parameters())
        N = self.correction(features.to(weight))[..., 0].to(c)
        first, second = N.split(c.shape[1], 1)
        return G[0] + scales[0] * first, G[1] + scales[1] * second


@dataclass(frozen=True, eq=False)
class FittedHeads:
    """The heads of one cycle.

    Arguments:
        network: Correction and Gaussian.
        report: Losses of the training, and the weights to carry to the next cycle.
    """

    network: TwoHeads
    report: dict[str, Any] = field(default_factory=dict)

    def __call__(self, c: Tensor, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], self.network(c, a, v))


@dataclass(frozen=True, eq=False)
class HeadsPool:
    """Pairs as training data, each beside the Gaussian of others, as in `dataset.Pool`.

    Arguments:
        members: ``(ensemble, 2 entries, 2)``: states and observations beside each other, and in
            the second channel which Gaussian is theirs.
        margins: Of the pairs.
        whole: Heads of the Gaussian of all of them.
        loss: Of a network on these pairs.
    """

    members: Float[Tensor, "ensemble entries two"]
    margins: Margins
    whole: Heads
    loss: Loss

    group = 1

    def levels(self, share: float) -> None:
        """There are none: pairs have one noise level for all entries."""

    @classmethod
    def of(
        cls,
        pairs: Pairs,
        held: int,
        prior: PriorRun | None,
        space: StateSpace | AugmentedSpace | None,
    ) -> HeadsPool:
        """Make a pool of pairs, the last held back; without a prior each pair is alone."""
        x, h, std = pairs
        margins = Margins.of(x, h)

        def gaussian(members: Tensor) -> Heads:
            if prior is None:
                return margins.heads
            return heads_of(prior, x[members], h[members], space)

        joint = torch.stack((torch.cat((x, h), 1), torch.zeros(len(x), 2 * x.shape[1]).to(x)), -1)
        parts = folds(len(x), held)
        for number, (_, own) in enumerate(parts):
            joint[own, :, 1] = number
        loss = heads_loss(std, [gaussian(others) for others, _ in parts])
        return cls(joint, margins, gaussian(torch.arange(len(x))), loss)


def heads_loss(std: Float[Tensor, "entries"], gaussians: Sequence[Heads]) -> Loss:
    r"""Return the loss of pairs, ``(ensemble, 2 entries, 2)``, at the amplitudes of noise levels.

    .. math:: a = (1 + \nu^2)^{-1/2}, \qquad v = s^2 (1 - a^2)

    with s the standard deviation of the observation's errors.

    Arguments:
        std: s.
        gaussians: Heads of Gaussians of other members; the second channel says which are a pair's.
    """

    def loss(network: nn.Module, x0: Tensor, noise: Tensor, eps: Tensor) -> Tensor:
        heads, which = cast(TwoHeads, network), x0[:, 0, 1]
        x, h = x0[..., 0].double().chunk(2, 1)
        nu = noise.double()[:, None]
        a, share = (1 + nu**2).rsqrt(), nu**2 / (1 + nu**2)
        v = std.to(x).square() * share
        c = a * x + (1 - a) * h + v.sqrt() * eps[:, : x.shape[1], 0].double()
        G = torch.empty_like(x), torch.empty_like(h)
        for number, gaussian in enumerate(gaussians):
            own = which == number
            if own.any():
                G[0][own], G[1][own] = gaussian(c[own], a[own], v[own])
        found, scales = heads.corrected(G, c, a, v), heads.margins.scales(a, v)
        errors = [
            _over(m - target, scale)
            for m, target, scale in zip(found, (x, h), scales, strict=True)
        ]
        return torch.cat(errors, 1).square().mean(1)

    return loss


def _over(x: Tensor, scale: Tensor) -> Tensor:
    """Divide, to 0 where an entry does not vary."""
    return torch.where(scale > 0, x / torch.where(scale > 0, scale, 1.0), 0.0)
