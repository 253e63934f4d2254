r"""Priors from ensembles: a forecast ensemble becomes a denoiser in the modes of an observation.

Both kinds here are exact: the denoiser of a Gaussian or of a kernel density on the members, at a
noise level for each mode, finite or infinite. That the ensemble is a sample is the one
approximation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from scorda.assimilate import DegenerateEnsemble, GaspariCohn
from scorda.augment import AugmentedSpace
from scorda.bridge import EnsembleDenoiser
from scorda.denoise import GaussianDenoiser, KernelDenoiser
from scorda.modes import Modes
from scorda.problem import Problem
from scorda.process import VarianceExploding
from scorda.shapes import Float, Tensor
from scorda.space import StateSpace
from scorda.whitening import ByCholesky, Latest

__all__ = [
    "EnsembleGaussian",
    "EnsembleKernel",
    "EnsemblePrior",
    "FittedGaussian",
    "FittedKernel",
    "clocks",
    "taper_matrix",
]


class EnsemblePrior(ABC):
    """A way to make a distribution of an ensemble; subclasses write `fit`."""

    least_members: int = 2
    # Whether the modes of an observation must be entries of the state.
    of_entries: bool = False

    def check(self, space: StateSpace) -> None:  # noqa: B027 (most have nothing to check)
        """Check before a run that a space has what the prior needs.

        Raises:
            ValueError: If it has not.
        """

    def begin(self, problem: Problem) -> EnsemblePrior:
        """Return self, or a copy that owns what one run needs: a network and its weights.

        What `fit` of such a copy returns has a `report`: what a filter reports of its cycle, with
        the tensors to carry to the next one under ``carried``.
        """
        return self

    def restore(self, carried: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Take up what an earlier cycle carried, in a copy of `begin`."""

    @abstractmethod
    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> EnsembleDenoiser:
        """Return the denoiser of the distribution.

        Arguments:
            ensemble: Members, ``(ensemble, *state)``.
            modes: Coordinates x' of the denoiser (default: those of the ensemble).
            space: Space of the states, where distances count.

        Raises:
            DegenerateEnsemble: If the ensemble has no spread at all.
        """


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
        # The process of a denoiser plays no part in `denoise`.
        return GaussianDenoiser(self.mean, self.basis, self.spectrum, VarianceExploding())


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


@dataclass(frozen=True, eq=False)
class FittedKernel:
    r"""The kernel density :math:`\sum_i w_i N(x_i, h^2 I)` of an ensemble, in the modes.

    Its denoiser is `KernelDenoiser`, with a level for each mode, also infinite ones.

    Arguments:
        members: x_i, ``(members, *shape)``.
        bandwidth: h.
        log_weights: log w_i up to a constant, ``(members,)`` (default: equal).
    """

    members: Float[Tensor, "members ..."]
    bandwidth: float
    log_weights: Float[Tensor, "members"] | None = None

    @property
    def var(self) -> Float[Tensor, "..."]:
        """Variance of each mode."""
        if self.log_weights is None:
            return self.members.var(0, correction=0) + self.bandwidth**2
        w = self.log_weights.softmax(0)
        mean = torch.tensordot(w, self.members, 1)
        return torch.tensordot(w, (self.members - mean).square(), 1) + self.bandwidth**2

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Exact for any levels, also infinite ones."""
        return self._denoiser.denoise(u, noise)

    def draws(
        self, members: Float[Tensor, "ensemble ..."], noise: Callable[[], Tensor]
    ) -> Float[Tensor, "ensemble ..."]:
        """The members, each moved within its kernel."""
        return members + self.bandwidth * noise()

    def carry(
        self, numbers: Float[Tensor, "ensemble ..."], clock: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """As they are: the kernels reach in every direction."""
        return numbers

    @cached_property
    def _denoiser(self) -> KernelDenoiser:
        # The process of a denoiser plays no part in `denoise`.
        return KernelDenoiser(self.members, self.bandwidth, VarianceExploding(), self.log_weights)


@dataclass(frozen=True)
class EnsembleKernel(EnsemblePrior):
    """The kernel density on the members.

    Exact as N grows and the bandwidth falls, however far the forecast is from Gaussian; the
    members that this takes grow exponentially with the number of directions that are observed.
    The variance of the density is that of the members plus the square of the bandwidth.

    Arguments:
        bandwidth: Standard deviation of a kernel, in the units of the state, positive.
    """

    bandwidth: float

    def __post_init__(self) -> None:
        if not self.bandwidth > 0:
            raise ValueError(f"Got bandwidth = {self.bandwidth}: it must be positive.")

    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> FittedKernel:
        return FittedKernel(ensemble if modes is None else modes.forward(ensemble), self.bandwidth)


def taper_matrix(
    taper: GaspariCohn, space: StateSpace | AugmentedSpace
) -> Float[Tensor, "size size"]:
    """A taper between all components of a state; variables at a place are at no distance."""
    distance = space.distance(space.positions(), space.positions())
    repeats = space.size // len(distance)
    return taper(distance).repeat(repeats, repeats)


def clocks(var: Tensor) -> Tensor:
    """Variances of the modes, positive: where members are all alike the clock must still run."""
    top = var.max()
    if not top > 0:
        raise DegenerateEnsemble(
            f"The ensemble has no spread in any of {var.numel()} modes of the observation; start "
            "from members that differ, or add model error or jitter."
        )
    # What the sampler leaves of such a mode is beyond the last digit of the others.
    return var.clamp_min(top * torch.finfo(var.dtype).eps ** 2)
