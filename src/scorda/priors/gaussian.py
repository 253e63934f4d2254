r"""The Gaussian of an ensemble, localized or not, as a prior; and the whitening of its samples.

For samples u = x + noise of x ~ N(m, B), with noise of variances Q per component, and
:math:`W = Q^{-1/2}` (0 where nothing is known), let :math:`F^T F = (B + Q)^{-1}`. Then

.. math:: E[x \mid u] = m + B F^T F (u - m), \quad
    \log p(u) = \log |F| - \tfrac12 |F (u - m)|^2 + \mathrm{const} .

F is found without a difference of large numbers: as :math:`G^{-1} W` with the Cholesky factor G
of :math:`1 + W B W`, or where B has the root L of a lower rank as :math:`(1 + S^2)^{-1/2} U^T W`
with the singular values :math:`W L = U S V^T`. The latter leaves out what no x in the span of L
reaches, and its cost is linear in the size of x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from scorda.core.errors import DegenerateEnsemble
from scorda.core.gaussian import component_std, standard_deviations
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn, correlation_taper
from scorda.diffusion.denoisers import GaussianDenoiser
from scorda.observations.augmentation import AugmentedSpace
from scorda.observations.modes import Modes
from scorda.priors.base import EnsemblePrior, PriorRun

if TYPE_CHECKING:
    from scorda.observations.problem import Problem

__all__ = [
    "ByCholesky",
    "ByValues",
    "FittedGaussian",
    "Gaussian",
    "GaussianRun",
    "Latest",
    "Whitening",
    "positive",
    "taper_matrix",
]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class FittedGaussian:
    r"""The Gaussian :math:`N(m, P)` of an ensemble, in the modes.

    Arguments:
        mean: m, shape ``(*shape)``.
        basis: Columns Q with :math:`P = Q \Lambda Q^T`, ``(size, rank)``, orthonormal in
            standard deviations of the modes, so that all modes count alike.
        spectrum: Variances :math:`\Lambda` along them, ``(rank,)``.
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
        """Return the mean given u, exact for any levels, also infinite ones."""
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
        """The covariance P as a matrix, of full rank up to rounding."""
        C = (self.basis * self.spectrum) @ self.basis.mT
        # What is singular but for rounding has a Cholesky factor then, whatever the noise.
        C.diagonal().mul_(1 + 10 * len(C) * torch.finfo(C.dtype).eps)
        return C

    def sample_members(
        self, members: Float[Tensor, "ensemble ..."], noise: Callable[[], Tensor]
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the members themselves."""
        return members

    def map_latents(
        self, latents: Float[Tensor, "ensemble ..."], rate: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Turn the latents by as little as takes one span to the other."""
        if self.has_full_rank:
            return latents
        before, after = (
            torch.linalg.qr(root.flatten()[:, None] * self.basis)[0]
            for root in (self.var.rsqrt(), rate.sqrt())
        )
        left, _, right = torch.linalg.svd(after.mT @ before)
        turned = latents.flatten(1) @ before @ (left @ right).mT @ after.mT
        return turned.view_as(latents)

    @cached_property
    def _latest(self) -> Latest[ByCholesky]:
        return Latest()

    @cached_property
    def _denoiser(self) -> GaussianDenoiser:
        return GaussianDenoiser(self.mean, self.basis, self.spectrum)


@dataclass(frozen=True)
class Gaussian(EnsemblePrior):
    r"""The Gaussian with the mean and the covariance of the ensemble.

    With N members the covariance has rank N - 1 and is never formed. With localization it is
    tapered, :math:`\rho \circ A^T A / (N - 1)` (all variables at a distance alike), which makes a
    matrix of the size of the state: for states of up to some thousands of components.

    Arguments:
        localization: Taper of the covariance by distance, or None.
    """

    localization: GaspariCohn | None = None

    def check(self, space: StateSpace) -> None:
        if self.localization is not None:
            space.check_distances("A prior with localization")

    def memory(self, space: StateSpace, members: int) -> int:
        # Taper, covariance, its eigenvectors and their work, in double precision.
        matrices = 0 if self.localization is None else 5 * 8 * space.size**2
        return super().memory(space, members) + matrices

    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> FittedGaussian:
        return self.tapered(ensemble, modes, self.taper(space))

    def begin(self, problem: Problem | None) -> Gaussian | GaussianRun:
        return self if self.localization is None else GaussianRun(self)

    def taper(
        self, space: StateSpace | AugmentedSpace | None
    ) -> Float[Tensor, "size size"] | None:
        """Return the taper of the covariance, or None without localization.

        Raises:
            ValueError: If there is a localization and no space.
        """
        if self.localization is None:
            return None
        if space is None:
            raise ValueError("A localized Gaussian needs the space of the states.")
        return taper_matrix(self.localization, space)

    def tapered(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None,
        taper: Float[Tensor, "size size"] | None,
    ) -> FittedGaussian:
        """Return the Gaussian of an ensemble with a taper that is known."""
        shape = ensemble.shape[1:]
        mean = ensemble.mean(0, keepdim=True)
        A = ensemble - mean
        if taper is None:
            turned = A if modes is None else modes.forward(A)
            std = component_std(turned).flatten()
            unit = torch.where(std > 0, std, 1.0)
            _, scale, basis = torch.linalg.svd(turned.flatten(1) / unit, full_matrices=False)
            spectrum = scale.square() / (len(A) - 1)
            # The mean takes one direction from the members, and duplicates take more.
            kept = scale > scale[0] * max(A.flatten(1).shape) * torch.finfo(scale.dtype).eps
            basis, spectrum = basis[kept].mT, spectrum[kept]
            var = std.square()
        else:
            cov = taper.to(A) * (A.flatten(1).mT @ A.flatten(1)) / (len(A) - 1)
            if modes is not None and not modes.trivial:
                for _ in range(2):
                    cov = modes.forward(cov.reshape(-1, *shape)).flatten(1).mT
            unit = standard_deviations(cov)
            spectrum, basis = torch.linalg.eigh(cov / unit[:, None] / unit)
            # On a periodic domain shorter than the reach the taper may be indefinite.
            spectrum = spectrum.clamp_min(0)
            var = (basis.square() @ spectrum) * unit.square()
        basis, var = unit[:, None] * basis, var.reshape(shape)
        centre = (mean if modes is None else modes.forward(mean))[0]
        return FittedGaussian(centre, basis, spectrum, positive(var))


@dataclass(eq=False)
class GaussianRun(PriorRun):
    """A run of a localized Gaussian, which keeps its taper from one fit to the next.

    Arguments:
        settings: Settings of the prior.
    """

    settings: Gaussian
    _space: StateSpace | AugmentedSpace | None = None
    _taper: Tensor | None = None

    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> FittedGaussian:
        if self._taper is None or space is not self._space:
            self._space, self._taper = space, self.settings.taper(space)
        return self.settings.tapered(ensemble, modes, self._taper)


def taper_matrix(
    taper: GaspariCohn, space: StateSpace | AugmentedSpace
) -> Float[Tensor, "size size"]:
    """Return a taper between all components of a state; variables at a place have no distance."""
    near = correlation_taper(taper, space)
    repeats = space.size // len(near)
    return near.repeat(repeats, repeats)


def positive(var: Tensor) -> Tensor:
    """Return variances of modes that are positive also where all members agree."""
    seen = var > 0
    if not seen.any():
        raise DegenerateEnsemble(
            f"The ensemble has no spread in any of {var.numel()} modes of the observation; start "
            "from members that differ, or add model error or jitter."
        )
    # What the sampler leaves of such a mode is beyond the last digit of the others.
    least = var[seen].min() * torch.finfo(var.dtype).eps ** 2
    return torch.where(seen, var, least.clamp_min(torch.finfo(var.dtype).tiny))


@dataclass(frozen=True, eq=False)
class ByCholesky:
    """The factor F for a full matrix B.

    Arguments:
        B: Covariance, ``(size, size)``.
        W: Inverse standard deviations of the noise, ``(size,)``.
        G: Cholesky factor of 1 + W B W.
    """

    B: Tensor
    W: Tensor
    G: Tensor

    @classmethod
    def of(cls, B: Tensor, W: Tensor) -> ByCholesky:
        """Return the factor of a covariance and inverse standard deviations."""
        G = W[:, None] * B * W
        G.diagonal().add_(1)
        return cls(B, W, torch.linalg.cholesky(G))

    @property
    def log_det(self) -> Tensor:
        """Log of the determinant of F / W, term by term."""
        return -self.G.diagonal().log()

    def white(self, x: Tensor) -> Tensor:
        """Return F x, for rows x."""
        return torch.linalg.solve_triangular(self.G, (x * self.W).mT, upper=False).mT

    def gain(self, y: Tensor) -> Tensor:
        """Return B F^T y, for rows y."""
        solved = torch.linalg.solve_triangular(self.G.mT, y.mT, upper=True).mT
        return (solved * self.W) @ self.B


@dataclass(frozen=True, eq=False)
class ByValues:
    r"""The factor F for :math:`B = \beta L L^T` of low rank.

    Arguments:
        beta: :math:`\beta`.
        WU: W U, ``(size, rank)``.
        S: Singular values of W L, ``(rank,)``.
        L: Root, ``(size, rank)``.
        V: Right singular vectors, in columns.
    """

    beta: float
    WU: Tensor
    S: Tensor
    L: Tensor
    V: Tensor

    @property
    def log_det(self) -> Tensor:
        """Log of the determinant of F / W, term by term."""
        return -0.5 * (self.beta * self.S.square()).log1p()

    def white(self, x: Tensor) -> Tensor:
        """Return F x, for rows x."""
        return (x @ self.WU) * self.log_det.exp()

    def gain(self, y: Tensor) -> Tensor:
        """Return B F^T y, for rows y."""
        scale = self.beta * self.S * self.log_det.exp()
        return ((y * scale) @ self.V.mT) @ self.L.mT


Whitening = ByCholesky | ByValues


class Latest(Generic[T]):
    """The latest value of a function of a tensor, kept while the tensor is the same.

    Solvers ask for the same noise level again and again: each stage of a Runge-Kutta step, and the
    end of one step and the start of the next.
    """

    def __init__(self) -> None:
        self._key: Tensor | None = None
        self._value: T

    def __call__(self, key: Tensor, make: Callable[[Tensor], T]) -> T:
        """Return the value of `make` at the key."""
        known = self._key
        if known is None or known.dtype != key.dtype or not torch.equal(known, key):
            self._value, self._key = make(key), key.clone()
        return self._value
