r"""The Gaussian of an ensemble, localized or not, as a prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.diffusion.denoisers import GaussianDenoiser
from scorda.observations.augmentation import AugmentedSpace
from scorda.observations.modes import Modes
from scorda.priors.base import EnsemblePrior, clocks
from scorda.priors.whitening import ByCholesky, Latest

__all__ = ["EnsembleGaussian", "FittedGaussian", "taper_matrix"]


@dataclass(frozen=True, eq=False)
class FittedGaussian:
    r"""The Gaussian :math:`N(m, P)` of an ensemble, in the modes.

    Arguments:
        mean: m, shape ``(*shape)``.
        basis: Orthonormal columns, ``(size, rank)``.
        spectrum: Variances along them, ``(rank,)``.
        var: Diagonal of P, shape ``(*shape)``; where that is zero, a positive number that is
            nothing beside the others.
    """

    mean: Float[Tensor, "..."]
    basis: Float[Tensor, "size rank"]
    spectrum: Float[Tensor, "rank"]
    var: Float[Tensor, "..."]

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Exact for any levels, also infinite ones."""
        shared = noise.ndim < u.ndim or len(noise) == 1
        if not (shared and self.has_full_rank):
            return self._denoiser.denoise(u, noise)
        W = noise.to(u).expand(1, *u.shape[1:]).flatten().reciprocal()
        factor = self._latest(W, lambda W: ByCholesky.of(self.cov.to(W), W))
        mean = self.mean.to(u)
        moved = factor.gain(factor.white((u - mean).flatten(1)))
        return mean + moved.view_as(u)

    @property
    def has_full_rank(self) -> bool:
        """Whether a matrix of the size of the state is no larger than the basis."""
        size, rank = self.basis.shape
        return rank >= size

    @cached_property
    def cov(self) -> Float[Tensor, "size size"]:
        """P as a matrix, of full rank up to rounding."""
        C = (self.basis * self.spectrum) @ self.basis.mT
        # What is singular but for rounding has a Cholesky factor then, whatever the noise.
        C.diagonal().mul_(1 + 10 * len(C) * torch.finfo(C.dtype).eps)
        return C

    def draws(
        self, members: Float[Tensor, "ensemble ..."], noise: Callable[[], Tensor]
    ) -> Float[Tensor, "ensemble ..."]:
        """The members themselves."""
        return members

    def carry(
        self, numbers: Float[Tensor, "ensemble ..."], clock: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Turned by as little as takes one span to the other."""
        if self.has_full_rank:
            return numbers
        before, after = (
            torch.linalg.qr(root.flatten()[:, None] * self.basis)[0]
            for root in (self.var.rsqrt(), clock.sqrt())
        )
        left, _, right = torch.linalg.svd(after.mT @ before)
        turned = numbers.flatten(1) @ before @ (left @ right).mT @ after.mT
        return turned.view_as(numbers)

    @cached_property
    def _latest(self) -> Latest[ByCholesky]:
        return Latest()

    @cached_property
    def _denoiser(self) -> GaussianDenoiser:
        return GaussianDenoiser(self.mean, self.basis, self.spectrum)


@dataclass(frozen=True)
class EnsembleGaussian(EnsemblePrior):
    r"""The Gaussian with the mean and the covariance of the ensemble.

    With N members the covariance has rank N - 1 and is never formed. With localization it is
    tapered, :math:`\rho \circ A^T A / (N - 1)` (all variables at a distance alike), which makes a
    matrix of the size of the state: for states of up to some thousands of components.

    Arguments:
        localization: Taper of the covariance by distance, or None.
    """

    localization: GaspariCohn | None = None

    def check(self, space: StateSpace) -> None:
        if self.localization is not None and not space.axes:
            raise ValueError(
                "A prior with localization needs a space with coordinates: give the system's "
                "space some, or leave the localization out."
            )

    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> FittedGaussian:
        shape = ensemble.shape[1:]
        mean = ensemble.mean(0, keepdim=True)
        A = ensemble - mean
        if self.localization is None:
            turned = A if modes is None else modes.forward(A)
            _, scale, basis = torch.linalg.svd(turned.flatten(1), full_matrices=False)
            spectrum = scale.square() / (len(A) - 1)
            # The mean takes one direction from the members, and duplicates take more.
            kept = scale > scale[0] * max(A.flatten(1).shape) * torch.finfo(scale.dtype).eps
            basis, spectrum = basis[kept].mT, spectrum[kept]
            var = turned.square().sum(0) / (len(A) - 1)
        else:
            if space is None:
                raise ValueError("A localized Gaussian needs the space of the states.")
            taper = taper_matrix(self.localization, space).to(A)
            cov = taper * (A.flatten(1).mT @ A.flatten(1)) / (len(A) - 1)
            if modes is not None and not modes.trivial:
                for _ in range(2):
                    cov = modes.forward(cov.reshape(-1, *shape)).flatten(1).mT
            spectrum, basis = torch.linalg.eigh(cov)
            # On a periodic domain shorter than the reach the taper may be indefinite.
            spectrum = spectrum.clamp_min(0)
            var = (basis.square() @ spectrum).reshape(shape)
        centre = (mean if modes is None else modes.forward(mean))[0]
        return FittedGaussian(centre, basis, spectrum, clocks(var))


def taper_matrix(
    taper: GaspariCohn, space: StateSpace | AugmentedSpace
) -> Float[Tensor, "size size"]:
    """A taper between all components of a state; variables at a place are at no distance."""
    distance = space.distance(space.positions(), space.positions())
    repeats = space.size // len(distance)
    return taper(distance).repeat(repeats, repeats)
