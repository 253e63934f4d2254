r"""The denoiser of a Gaussian, corrected by a network: any noise level for each entry.

In units of its standard deviation about the mean, per entry, let :math:`z = (x - m) / s` and
:math:`\nu` a noise level for each entry. The denoiser is

.. math:: E[z \mid z + \nu \varepsilon = u] \approx G(u, \nu)
    + \frac{\nu}{(1 + \nu^2)^{1/2}} \, N_\theta(u, G, \nu) ,

with G the exact denoiser of a Gaussian and N the network; where it returns zero, G is left. What
changes with the flow from forecast to forecast is in m, s and G; a network for many forecasts also
sees m and log s, in units of the climate: how far from Gaussian a forecast is depends on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from scorda.core.shapes import Float, Tensor
from scorda.diffusion.denoisers import GaussianDenoiser
from scorda.priors.gaussian import FittedGaussian
from scorda.priors.local import FittedLocal

__all__ = [
    "Axes",
    "Climate",
    "Corrected",
    "FittedNetwork",
    "LocalDenoiser",
    "in_units",
    "laid_back",
    "laid_out",
]

# Axes of the state that a network convolves along; none for a dense network.
Axes = tuple[int, ...]
# Smallest spread that a network is told of, over that of the climate.
LEAST = 1e-2


@dataclass(frozen=True, eq=False)
class Climate:
    """Mean and standard deviation over many forecasts, in the layout of a network.

    Arguments:
        centre: The mean: of every channel on a ring, else of every entry.
        scale: The standard deviation, alike.
    """

    centre: Float[Tensor, "points channels"]
    scale: Float[Tensor, "points channels"]

    @classmethod
    def of(cls, ensembles: Float[Tensor, "cycles ensemble ..."], axes: Axes) -> Climate:
        """Return the climate of forecast ensembles of many cycles."""
        states = laid_out(ensembles.flatten(0, 1), axes)
        over = (0, 1) if axes else (0,)
        scale = states.std(over, keepdim=True)[0]
        return cls(states.mean(over, keepdim=True)[0], torch.where(scale > 0, scale, 1.0))

    def context(
        self, fitted: FittedGaussian | FittedLocal, axes: Axes
    ) -> Float[Tensor, "points channels two"]:
        """Return mean and log of the spread of an ensemble, in units of the climate."""
        mean, std = (laid_out(part[None], axes)[0] for part in (fitted.mean, fitted.var.sqrt()))
        centre, scale = self.centre.to(mean), self.scale.to(mean)
        # Where members are all alike, as where a sensor saturates, the logarithm has no bound.
        return torch.stack(((mean - centre) / scale, (std / scale).clamp_min(LEAST).log()), -1)


class Corrected(nn.Module):
    """A Gaussian denoiser and its correction, as `precondition` wants a network.

    States have the layout ``(ensemble, points, channels)``.

    Arguments:
        correction: Maps features to the correction.
        low: Smallest noise level of training.
        high: Largest noise level of training.
    """

    per_entry = True

    def __init__(self, correction: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.correction, self.low, self.high = correction, low, high
        self.gaussian: GaussianDenoiser | LocalDenoiser | None = None
        # Mean and spread of the ensemble, for all samples or each.
        self.context: Tensor | None = None
        self.corrects = True

    def meets(
        self,
        fitted: FittedGaussian | FittedLocal,
        axes: Axes,
        climate: Climate | None,
        gaussian: bool,
    ) -> None:
        """Take the Gaussian of an ensemble to correct, if any, and its context."""
        if not gaussian:
            self.gaussian = None
        elif isinstance(fitted, FittedLocal):
            self.gaussian = LocalDenoiser((fitted,), axes)
        else:
            self.gaussian = in_units(fitted, axes)
        self.context = None if climate is None else climate.context(fitted, axes)

    def forward(
        self, x: Float[Tensor, "ensemble points channels"], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble points channels"]:
        """Return the target of unit variance; levels may be infinite, where x means nothing."""
        # In double precision: at low noise the Gaussian's part is a small difference.
        z, nu = x.double(), noise.double()
        kappa = nu.square().reciprocal()
        z = torch.where(kappa > 0, z, 0.0)
        linear = torch.zeros_like(z)
        if self.gaussian is not None:
            rest = self.gaussian.denoise(z, nu) - z * kappa / (1 + kappa)
            linear = rest * (1 + kappa).sqrt()
        if not self.corrects:
            return linear.to(x)
        seen = z * (kappa / (1 + kappa)).sqrt()
        ends = math.log(self.low), math.log(self.high)
        level = nu.clamp(self.low, self.high).log().expand_as(z)
        level = (2 * level - sum(ends)) / (ends[1] - ends[0])
        weight = next(self.correction.parameters())
        features = [part.to(weight) for part in (seen, linear, level)]
        if self.context is not None:
            features += self.context.to(weight).expand(*z.shape, -1).unbind(-1)
        return (linear + self.correction(torch.stack(features, -1)).to(linear)).to(x)


@dataclass(frozen=True, eq=False)
class FittedNetwork:
    """The denoiser of one cycle, in the modes of an observation.

    Arguments:
        network: Correction and Gaussian, in the layout ``(ensemble, points, channels)``.
        gaussian: The Gaussian of the ensemble, in the modes.
        axes: Axes that the network convolves along.
        report: Losses of the training, and the weights to carry to the next cycle.
    """

    network: Corrected
    gaussian: FittedGaussian | FittedLocal
    axes: Axes
    report: dict[str, Any] = field(default_factory=dict)
    # It knows nothing far from the members.
    learned = True

    @property
    def var(self) -> Float[Tensor, "..."]:
        """Variance of each mode: the ensemble's."""
        return self.gaussian.var

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the mean given u, as good as the training, for any levels, also infinite ones."""
        mean, std = self.gaussian.mean, self.var.sqrt()
        level = noise.reshape((1,) * (u.ndim - noise.ndim) + noise.shape)
        level = level.expand(len(level), *u.shape[1:])
        z, nu = laid_out((u - mean) / std, self.axes), laid_out(level / std, self.axes)
        kappa = nu.square().reciprocal()
        # A guidance may ask for the gradient with respect to u; without one nothing is kept.
        with torch.set_grad_enabled(torch.is_grad_enabled() and u.requires_grad):
            target = self.network(z, nu)
        D = torch.where(kappa > 0, z * kappa, 0.0) / (1 + kappa) + target / (1 + kappa).sqrt()
        return mean + std * laid_back(D, u.shape, self.axes)

    def sample_members(
        self, members: Float[Tensor, "ensemble ..."], noise: Callable[[], Tensor]
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the members themselves."""
        return members

    def map_latents(
        self, latents: Float[Tensor, "ensemble ..."], rate: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Map them as the covariance does, where that is in use."""
        if self.network.gaussian is None:
            return latents
        return self.gaussian.map_latents(latents, rate)


@dataclass(frozen=True, eq=False)
class LocalDenoiser:
    """Local Gaussians about their means, in standard deviations, in the layout of a network.

    Arguments:
        parts: The Gaussians, each for as many samples in a row.
        axes: Axes that the network convolves along.
        shared: Whether the samples of a part share their levels: it is fast then.
    """

    parts: Sequence[FittedLocal]
    axes: Axes
    shared: bool = False

    def denoise(
        self, z: Float[Tensor, "ensemble points channels"], nu: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble points channels"]:
        """Denoise the samples of each part with its Gaussian."""
        if not self.shared:
            return self._part(self.parts[0], z, nu)
        size = len(z) // len(self.parts)
        samples = zip(self.parts, z.split(size), nu[::size].split(1), strict=True)
        # Copies, or each would keep the factors of its latest levels.
        return torch.cat([self._part(replace(fitted), *of) for fitted, *of in samples])

    def _part(self, fitted: FittedLocal, z: Tensor, nu: Tensor) -> Tensor:
        mean, std = fitted.mean.to(z), fitted.var.sqrt().to(z)
        shape, levels = (torch.Size((len(x), *mean.shape)) for x in (z, nu))
        level = laid_back(nu.expand(len(nu), *z.shape[1:]), levels, self.axes)
        D = fitted.denoise(mean + std * laid_back(z, shape, self.axes), std * level)
        return laid_out((D - mean) / std, self.axes)


def in_units(fitted: FittedGaussian, axes: Axes) -> GaussianDenoiser:
    """Return a Gaussian about its mean, in standard deviations, in the layout of a network."""
    basis = fitted.basis / fitted.var.sqrt().flatten()[:, None]
    rows = laid_out(basis.mT.reshape(-1, *fitted.var.shape), axes)
    mean = torch.zeros_like(rows[0]).double()
    return GaussianDenoiser(mean, rows.flatten(1).mT.double(), fitted.spectrum.double())


def laid_out(x: Float[Tensor, "ensemble ..."], axes: Axes) -> Tensor:
    """Return states with the points of the axes in one, and everything else as channels."""
    if not axes:
        return x.flatten(1)[..., None]
    moved = x.movedim([1 + axis for axis in axes], list(range(1, 1 + len(axes))))
    moved = moved.flatten(1, len(axes))
    return moved.reshape(*moved.shape[:2], -1)


def laid_back(x: Tensor, shape: torch.Size, axes: Axes) -> Tensor:
    """Undo `laid_out`."""
    if not axes:
        return x.reshape(shape)
    others = [n for i, n in enumerate(shape[1:]) if i not in axes]
    x = x.reshape(len(x), *(shape[1 + axis] for axis in axes), *others)
    return x.movedim(list(range(1, 1 + len(axes))), [1 + axis for axis in axes])
