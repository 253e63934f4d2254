r"""A Gaussian mixture on the members of an ensemble, as a prior in the modes of an observation.

Between the Gaussian of the ensemble and its members as points: with N members
:math:`\bar x + a_i`, their sample covariance P and a taper :math:`\rho`,

.. math:: p(x) = \frac1N \sum_i N(x; c_i, B), \qquad B = \beta \, (\rho \circ P), \qquad
    c_i = \bar x + \gamma a_i, \quad \gamma^2 = (1 - \beta) \frac{N}{N - 1} .

The mean is that of the ensemble and the covariance is
:math:`\beta \, (\rho \circ P) + (1 - \beta) P`: without localization that of the ensemble too,
for every :math:`\beta`. Of u = x + noise of variances Q, one per mode,

.. math:: E[x \mid u] = c_w + B F^T F (u - c_w), \quad c_w = \sum_i w_i c_i, \quad
    w_i \propto \exp(-\tfrac12 |F (u - c_i)|^2), \quad F^T F = (B + Q)^{-1} .

With :math:`W = Q^{-1/2}`, which is 0 where nothing is known, F is found without a difference of
large numbers: as :math:`G^{-1} W` with the Cholesky factor G of :math:`1 + W B W`, or where B has
the root L of a lower rank as :math:`(1 + S^2)^{-1/2} U^T W` with the singular values
:math:`W L = U S V^T`. The centres lie in the span of L, so that what this leaves out of u is the
same for all of them; the cost is linear in the size of the state.

Derived here. The law without localization: `scorda.mixture`, with other kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from scorda.assimilate import GaspariCohn
from scorda.augment import AugmentedSpace
from scorda.ensemble_prior import EnsembleGaussian, EnsemblePrior, FittedGaussian
from scorda.modes import Modes
from scorda.shapes import Float, Tensor
from scorda.space import StateSpace

__all__ = ["EnsembleMixture", "FittedMixture"]


@dataclass(frozen=True, eq=False)
class FittedMixture:
    r"""The mixture of an ensemble, in the modes.

    Arguments:
        gaussian: Gaussian with the mean :math:`\bar x` and the covariance :math:`\rho \circ P`.
        anomalies: a_i; in the span of the Gaussian's basis where that is not all.
        beta: :math:`\beta` in (0, 1].
    """

    gaussian: FittedGaussian
    anomalies: Float[Tensor, "members ..."]
    beta: float

    @cached_property
    def var(self) -> Float[Tensor, "..."]:
        """Variance of each mode."""
        between = self.anomalies.square().sum(0) / (len(self.anomalies) - 1)
        return self.beta * self.gaussian.var + (1 - self.beta) * between

    @cached_property
    def centres(self) -> Float[Tensor, "members size"]:
        r""":math:`c_i - \bar x`."""
        members = len(self.anomalies)
        return ((1 - self.beta) * members / (members - 1)) ** 0.5 * self.anomalies.flatten(1)

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Exact for any levels, also infinite ones."""
        W = noise.expand(1, *u.shape[1:]).flatten().reciprocal()
        mean, centres = self.gaussian.mean.to(u), self.centres.to(u)
        white, gain = (self._full if self._has_full_rank else self._thin)(W)
        queries, keys = white((u - mean).flatten(1)), white(centres)
        w = (queries @ keys.mT - 0.5 * keys.square().sum(1)).softmax(1)
        moved = w @ centres + gain(queries - w @ keys)
        return mean + moved.view_as(u)

    def draws(
        self, members: Float[Tensor, "ensemble ..."], noise: Callable[[], Tensor]
    ) -> Float[Tensor, "ensemble ..."]:
        """The members themselves: without localization mean and covariance are the mixture's."""
        return members

    def carry(
        self, numbers: Float[Tensor, "ensemble ..."], clock: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """As those of the Gaussian, whose span is that of the mixture."""
        return self.gaussian.carry(numbers, clock)

    @property
    def _has_full_rank(self) -> bool:
        size, rank = self.gaussian.basis.shape
        return rank >= size

    @cached_property
    def _cov(self) -> Float[Tensor, "size size"]:
        """B, of full rank up to rounding."""
        basis, spectrum = self.gaussian.basis, self.gaussian.spectrum
        B = self.beta * (basis * spectrum) @ basis.mT
        # What is singular but for rounding has a Cholesky factor then, whatever W.
        B.diagonal().mul_(1 + 10 * len(B) * torch.finfo(B.dtype).eps)
        return B

    def _full(self, W: Float[Tensor, "size"]) -> tuple[_Map, _Map]:
        B = self._cov.to(W)
        G = torch.linalg.cholesky(torch.eye(len(W)).to(W) + W[:, None] * B * W)

        def white(x: Tensor) -> Tensor:
            return torch.linalg.solve_triangular(G, (x * W).mT, upper=False).mT

        def gain(y: Tensor) -> Tensor:
            return (torch.linalg.solve_triangular(G.mT, y.mT, upper=True).mT * W) @ B

        return white, gain

    def _thin(self, W: Float[Tensor, "size"]) -> tuple[_Map, _Map]:
        basis, spectrum = self.gaussian.basis.to(W), self.gaussian.spectrum.to(W)
        L = basis * (self.beta * spectrum).sqrt()
        U, S, Vt = torch.linalg.svd(W[:, None] * L, full_matrices=False)
        # Modes without information leave directions of rounding, in which u may be far away.
        seen = S > S[0] * max(L.shape) * torch.finfo(S.dtype).eps
        U, S, V = U[:, seen], S[seen], Vt[seen].mT
        scale = (1 + S.square()).rsqrt()

        def white(x: Tensor) -> Tensor:
            return ((x * W) @ U) * scale

        def gain(y: Tensor) -> Tensor:
            return ((y * (S * scale)) @ V.mT) @ L.mT

        return white, gain


_Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EnsembleMixture(EnsemblePrior):
    r"""The Gaussian mixture on the members with kernels of a fraction of their covariance.

    .. math:: p(x) = \frac1N \sum_i N(x; c_i, \beta \, (\rho \circ P))

    with centres that leave mean and covariance as they are (see the module). :math:`\beta = 1` is
    `EnsembleGaussian`; :math:`\beta \to 0` are the members as points, moved away from their mean
    by :math:`(N / (N - 1))^{1/2}`: a particle filter. Unlike those of `EnsembleKernel` the kernels
    have the shape of the ensemble, so it needs no unit, and fewer members where that is close to
    Gaussian. The taper concerns the kernels: the weights of the members see all observations at
    once, and with many of these a small :math:`\beta` leaves weight to few members.

    Arguments:
        bandwidth: :math:`\beta` in (0, 1].
        localization: Taper of the kernels' covariance by distance, or None.
    """

    bandwidth: float = 0.3
    localization: GaspariCohn | None = None

    def __post_init__(self) -> None:
        if not 0 < self.bandwidth <= 1:
            raise ValueError(
                f"Got bandwidth = {self.bandwidth}: an EnsembleMixture takes a number in (0, 1]."
            )

    def check(self, space: StateSpace) -> None:
        if self.localization is not None and not space.axes:
            raise ValueError(
                "A localized EnsembleMixture needs a space with coordinates: give the system's "
                "space some, or leave the localization out."
            )

    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> FittedMixture:
        gaussian = EnsembleGaussian(self.localization).fit(ensemble, modes, space)
        A = ensemble - ensemble.mean(0, keepdim=True)
        return FittedMixture(gaussian, A if modes is None else modes.forward(A), self.bandwidth)
