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
    "LocalDenoisers",
    "laid_back",
    "laid_out",
    "standardised",
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
        """From forecast ensembles of many cycles."""
        states = laid_out(ensembles.flatten(0, 1), axes)
        over = (0, 1) if axes else (0,)
        scale = states.std(over, keepdim=True)[0]
        return cls(states.mean(over, keepdim=True)[0], torch.where(scale > 0, scale, 1.0))

    def context(
        self, fitted: FittedGaussian | FittedLocal, axes: Axes
    ) -> Float[Tensor, "points channels two"]:
        """Mean and log of the standard deviation of an ensemble."""
        mean, std = (laid_out(part[None], axes)[0] for part in (fitted.mean, fitted.var.sqrt()))
        centre, scale = self.centre.to(mean), self.scale.to(mean)
        # Where members are all alike, as where a sensor saturates, the logarithm has no bound.
        return torch.stack(((mean - centre) / scale, (std / scale).clamp_min(LEAST).log()), -1)


class Corrected(nn.Module):
    """A Gaussian denoiser and its correction, as `denoisers.precondition` wants a network.

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
        self.gaussian: GaussianDenoiser | LocalDenoiser | LocalDenoisers | None = None
        # What the correction is told of the ensemble, for all samples or each.
        self.context: Tensor | None = None
        self.corrects = True

    def meets(
        self,
        fitted: FittedGaussian | FittedLocal,
        axes: Axes,
        climate: Climate | None,
        gaussian: bool,
    ) -> None:
        """Take an ensemble's Gaussian to correct, if any, and what to tell of the ensemble."""
        self.gaussian = standardised(fitted, axes) if gaussian else None
        self.context = None if climate is None else climate.context(fitted, axes)

    def forward(
        self, x: Float[Tensor, "ensemble points channels"], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble points channels"]:
        """Unit-variance target; levels may be infinite, where x means nothing."""
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
        report: What the training reports, and the weights to carry to the next cycle.
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
        """Approximate, as good as the training; for any levels, also infinite ones."""
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

    def draws(
        self, members: Float[Tensor, "ensemble ..."], noise: Callable[[], Tensor]
    ) -> Float[Tensor, "ensemble ..."]:
        """The members themselves."""
        return members

    def carry(
        self, numbers: Float[Tensor, "ensemble ..."], clock: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """As the covariance has it, where it is in use."""
        return numbers if self.network.gaussian is None else self.gaussian.carry(numbers, clock)


@dataclass(frozen=True, eq=False)
class LocalDenoiser:
    """A local Gaussian about its mean, in standard deviations, in the layout of a network.

    Arguments:
        fitted: The Gaussian.
        axes: Axes that the network convolves along.
    """

    fitted: FittedLocal
    axes: Axes

    def denoise(
        self, z: Float[Tensor, "ensemble points channels"], nu: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble points channels"]:
        """As that of the Gaussian; fast where all samples share the levels."""
        mean, std = self.fitted.mean.to(z), self.fitted.var.sqrt().to(z)
        shape, levels = (torch.Size((len(x), *mean.shape)) for x in (z, nu))
        level = laid_back(nu.expand(len(nu), *z.shape[1:]), levels, self.axes)
        D = self.fitted.denoise(mean + std * laid_back(z, shape, self.axes), std * level)
        return laid_out((D - mean) / std, self.axes)


@dataclass(frozen=True, eq=False)
class LocalDenoisers:
    """Several of them, each for as many samples in a row.

    Arguments:
        parts: The denoisers.
    """

    parts: Sequence[LocalDenoiser]

    def denoise(
        self, z: Float[Tensor, "ensemble points channels"], nu: Float[Tensor, "ensemble ..."]
    ) -> Float[Tensor, "ensemble points channels"]:
        """Each part's samples share its levels."""
        size = len(z) // len(self.parts)
        samples = zip(self.parts, z.split(size), nu[::size].split(1), strict=True)
        # Copies, or each would keep the factors of its latest levels.
        return torch.cat([replace(p, fitted=replace(p.fitted)).denoise(*of) for p, *of in samples])


def standardised(
    fitted: FittedGaussian | FittedLocal, axes: Axes
) -> GaussianDenoiser | LocalDenoiser:
    """A Gaussian about its mean, in standard deviations, in the layout of a network."""
    if isinstance(fitted, FittedLocal):
        return LocalDenoiser(fitted, axes)
    basis = fitted.basis / fitted.var.sqrt().flatten()[:, None]
    rows = laid_out(basis.mT.reshape(-1, *fitted.var.shape), axes)
    mean = torch.zeros_like(rows[0]).double()
    return GaussianDenoiser(mean, rows.flatten(1).mT.double(), fitted.spectrum.double())


def laid_out(x: Float[Tensor, "ensemble ..."], axes: Axes) -> Tensor:
    """Points of the axes in one, and everything else as channels; without axes, entries."""
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
