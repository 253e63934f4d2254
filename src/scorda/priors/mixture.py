r"""A Gaussian mixture on the members of an ensemble, as a prior in the modes of an observation.

Between the Gaussian of the ensemble and its members as points: with N members
:math:`\bar x + a_i`, their sample covariance P and a taper :math:`\rho`,

.. math:: p(x) = \frac{1 - \epsilon}{N} \sum_i N(x; c_i, \beta C) + \epsilon \, N(x; \bar x, C),
    \quad C = \rho \circ P, \quad c_i = \bar x + \gamma a_i, \quad
    \gamma^2 = (1 - \beta) \frac{N}{N - 1} .

The mean is that of the ensemble; without localization the covariance is too, for every
:math:`\beta` and :math:`\epsilon`. The Gaussian's share :math:`\epsilon` bounds the harm of
kernels none of which reaches the observation: it has the weight then, and the analysis is that of
a Kalman filter instead of copies of the nearest member.

Of u = x + noise of variances Q, one per mode, let
:math:`E_i(u) = c_i + \beta C F^T F (u - c_i)` with :math:`F^T F = (\beta C + Q)^{-1}`, which is
what the kernel i expects, and likewise :math:`E_0` with the factor :math:`F_0` of the Gaussian:

.. math:: E[x \mid u] = \sum_{i \ge 0} w_i E_i(u), \quad
    w_i \propto \frac{1 - \epsilon}{N} |F| \exp(-\tfrac12 |F (u - c_i)|^2), \quad
    w_0 \propto \epsilon |F_0| \exp(-\tfrac12 |F_0 (u - \bar x)|^2) .

F is a `priors.whitening`: a Cholesky factor, or with fewer members than modes and no localization
one of low rank, whose cost is linear in the size of the state. The centres lie in the span of the
members, so that what the latter leaves out of u is the same for all kernels.

The weights see all that is known of u at once, and with many modes they leave one member. With a
taper :math:`r` of the evidence each mode j has weights of its own,

.. math:: \log w_{ij} = \sum_k r_{kj} \left(\log |F|_k - \tfrac12 [F (u - c_i)]_k^2\right)
    + \mathrm{const}, \quad E[x \mid u]_j \approx \sum_i w_{ij} [E_i(u)]_j :

the terms are the log densities of the modes, each given those before it, so that evidence that
is shared counts once. This is no denoiser of any law, as a localized filter has no law of its
forecast; it is the one above where r = 1, and the Gaussian's where :math:`\beta = 1`.

Derived here. The law without localization: `gaussian_mixture.posterior`, with other kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from scorda.core.gaussian import symmetric_map
from scorda.core.shapes import Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.observations.augmentation import AugmentedSpace
from scorda.observations.modes import FourierModes, Modes
from scorda.priors.base import EnsemblePrior
from scorda.priors.gaussian import EnsembleGaussian, FittedGaussian, taper_matrix
from scorda.priors.whitening import ByCholesky, ByValues, Latest, Whitening

__all__ = ["EnsembleMixture", "FittedMixture"]


@dataclass(frozen=True, eq=False)
class Nearby:
    """A taper by its columns: the modes near each mode and their weights.

    Arguments:
        modes: k, as many as any mode has near it.
        weights: :math:`r_{kj}`, 0 for those that are there to fill up.
    """

    modes: Int[Tensor, "size near"]
    weights: Float[Tensor, "size near"]

    @classmethod
    def of(cls, taper: Float[Tensor, "size size"]) -> Nearby:
        """Of a matrix r."""
        weights, modes = taper.mT.topk(int((taper > 0).sum(0).max()))
        return cls(modes, weights)


@dataclass(frozen=True, eq=False)
class FittedMixture:
    r"""The mixture of an ensemble, in the modes.

    Arguments:
        gaussian: Gaussian with the mean :math:`\bar x` and the covariance :math:`\rho \circ P`.
        anomalies: a_i; in the span of the Gaussian's basis where that is not all.
        beta: :math:`\beta` in (0, 1].
        share: :math:`\epsilon` in [0, 1).
        nearby: Taper of the evidence, or None for the weights of the law. It needs a basis of
            full rank.
        rotation: Whether `draws` are new ones.
    """

    gaussian: FittedGaussian
    anomalies: Float[Tensor, "members ..."]
    beta: float
    share: float = 0.0
    nearby: Nearby | None = None
    rotation: bool = False

    @cached_property
    def var(self) -> Float[Tensor, "..."]:
        """Variance of each mode."""
        between = self.anomalies.square().sum(0) / (len(self.anomalies) - 1)
        kernels = self.beta * self.gaussian.var + (1 - self.beta) * between
        return (1 - self.share) * kernels + self.share * self.gaussian.var

    @property
    def gamma(self) -> float:
        r""":math:`\gamma`."""
        members = len(self.anomalies)
        return ((1 - self.beta) * members / (members - 1)) ** 0.5

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Exact for any levels, also infinite ones, but for a taper of the evidence."""
        W = noise.to(u).expand(1, *u.shape[1:]).flatten().reciprocal()
        mean, centres = self.gaussian.mean.to(u), self.gamma * self.anomalies.to(u).flatten(1)
        kernel, gaussian = self._latest(W, self._whitenings)
        moved = (u - mean).flatten(1)
        queries, keys, whole = kernel.white(moved), kernel.white(centres), gaussian.white(moved)
        # All less the logit of the Gaussian.
        terms = kernel.log_det - gaussian.log_det + 0.5 * (whole - queries) * (whole + queries)
        r = 1.0 if self.nearby is None else self.nearby.weights[:, None].to(u)
        near, own = self._gathered(terms) * r, self._gathered(keys)
        logits = (self._gathered(queries) * r) @ own.mT
        logits = logits + near.sum(-1, keepdim=True) - 0.5 * (own.square() * r).sum(-1)[:, None]
        rest = math.log(self.share * len(keys) / (1 - self.share)) if self.share else -math.inf
        top = logits.amax(-1, keepdim=True).clamp_min(rest)
        w, other = (logits - top).exp(), (rest - top).exp()
        total = w.sum(-1, keepdim=True) + other
        shift, other = centres - kernel.gain(keys), (other / total)[..., 0].mT
        if self.nearby is None:
            between = (w @ shift / total)[0]
        else:
            between = (w @ shift.mT[..., None] / total)[..., 0].mT
        moved = between + (1 - other) * kernel.gain(queries) + other * gaussian.gain(whole)
        return mean + moved.view_as(u)

    def _gathered(self, x: Float[Tensor, "rows size"]) -> Float[Tensor, "places rows near"]:
        """What each mode sees of the others; all see all without a taper, as one place."""
        return x[None] if self.nearby is None else x[:, self.nearby.modes].movedim(0, 1)

    @cached_property
    def _latest(self) -> Latest[tuple[Whitening, Whitening]]:
        return Latest()

    def draws(
        self, members: Float[Tensor, "ensemble ..."], noise: Callable[[], Tensor]
    ) -> Float[Tensor, "ensemble ..."]:
        """The members as draws: themselves, or with `rotation` each moved within its kernel.

        Those are made to have exactly the mean and covariance of the mixture again, by the
        symmetric map in the coordinates in which that covariance is 1. None is drawn from the
        Gaussian's share.
        """
        if not self.rotation:
            return members
        rank = self.gaussian.basis.shape[1]
        root = self.gaussian.basis * self.gaussian.spectrum.sqrt()
        mean = self.gaussian.mean
        own = (members - mean).flatten(1) @ (root / self.gaussian.spectrum)
        x = self.gamma * own + self.beta**0.5 * noise().flatten(1)[:, :rank]
        x = x - x.mean(0)
        cov = x.mT @ x / (len(x) - 1)
        x = x @ symmetric_map(cov, torch.eye(rank).to(cov))
        return mean + (x @ root.mT).view_as(members)

    def carry(
        self, numbers: Float[Tensor, "ensemble ..."], clock: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """As those of the Gaussian, whose span is that of the mixture."""
        return self.gaussian.carry(numbers, clock)

    def _whitenings(self, W: Float[Tensor, "size"]) -> tuple[Whitening, Whitening]:
        """Of the kernels, and of the Gaussian."""
        if self.gaussian.has_full_rank:
            cov = self.gaussian.cov.to(W)
            return ByCholesky.of(self.beta * cov, W), ByCholesky.of(cov, W)
        L = self.gaussian.basis.to(W) * self.gaussian.spectrum.to(W).sqrt()
        U, S, Vt = torch.linalg.svd(W[:, None] * L, full_matrices=False)
        # Modes without information leave directions of rounding, in which u may be far away.
        seen = S > S[0] * max(L.shape) * torch.finfo(S.dtype).eps
        WU, S, V = U[:, seen] * W[:, None], S[seen], Vt[seen].mT
        return ByValues(self.beta, WU, S, L, V), ByValues(1.0, WU, S, L, V)


@dataclass(frozen=True)
class EnsembleMixture(EnsemblePrior):
    r"""The Gaussian mixture on the members with kernels of a fraction of their covariance.

    .. math:: p(x) = \frac{1 - \epsilon}{N} \sum_i N(x; c_i, \beta \, (\rho \circ P))
        + \epsilon \, N(x; \bar x, \rho \circ P)

    with centres that leave mean and covariance as they are (see the module). :math:`\beta = 1` is
    `EnsembleGaussian`; :math:`\beta, \epsilon \to 0` are the members as points, moved away from
    their mean by :math:`(N / (N - 1))^{1/2}`: a particle filter. Unlike those of `EnsembleKernel`
    the kernels have the shape of the ensemble, so it needs no unit, and fewer members where that
    is close to Gaussian. Exact as N grows and :math:`\beta` and :math:`\epsilon` fall.

    The localization concerns the kernels: the weights of the members see all observations at
    once, and with many of these a small :math:`\beta` leaves weight to few members. `evidence`
    gives each mode weights of its own from what is known near it: not exact for any law.

    Arguments:
        bandwidth: :math:`\beta` in (0, 1].
        share: :math:`\epsilon` in [0, 1): weight of the Gaussian of the ensemble.
        localization: Taper of the covariances by distance, or None.
        evidence: Taper of what each mode's weights see by distance, or None for all of it.
        rotation: Whether a coupled bridge starts from new draws of the mixture, each member moved
            within its kernel, with exactly the mixture's mean and covariance; else, and with
            localization, from the members themselves.
    """

    bandwidth: float = 0.3
    share: float = 0.1
    localization: GaspariCohn | None = None
    evidence: GaspariCohn | None = None
    rotation: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.bandwidth <= 1:
            raise ValueError(
                f"Got bandwidth = {self.bandwidth}: an EnsembleMixture takes a number in (0, 1]."
            )
        if not 0 <= self.share < 1:
            raise ValueError(
                f"Got share = {self.share}: an EnsembleMixture takes a number in [0, 1)."
            )
        if self.evidence is not None and self.localization is None:
            raise ValueError(
                "Got an EnsembleMixture with `evidence` by distance and no `localization`: give "
                "both, or leave the evidence whole."
            )

    def check(self, space: StateSpace) -> None:
        EnsembleGaussian(self.localization).check(space)

    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> FittedMixture:
        gaussian = EnsembleGaussian(self.localization).fit(ensemble, modes, space)
        A = ensemble - ensemble.mean(0, keepdim=True)
        nearby = None
        if self.evidence is not None:
            nearby = Nearby.of(self._evidence(modes, space).to(A))
        rotation = self.rotation and self.localization is None
        A = A if modes is None else modes.forward(A)
        return FittedMixture(gaussian, A, self.bandwidth, self.share, nearby, rotation)

    def _evidence(
        self, modes: Modes | None, space: StateSpace | AugmentedSpace | None
    ) -> Float[Tensor, "size size"]:
        assert self.evidence is not None and space is not None
        if isinstance(modes, FourierModes):
            raise ValueError(
                "Got a Blur for an EnsembleMixture with `evidence` by distance: its modes are "
                "waves, which have no place; leave the evidence whole."
            )
        return taper_matrix(self.evidence, space)
