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

F is a whitening (`priors.gaussian`): a Cholesky factor, or with fewer members than modes and no
localization one of low rank, whose cost is linear in the size of the state. The centres lie in the
span of the members, so that what the latter leaves out of u is the same for all kernels.

The weights see all that is known of u at once, and with many modes they leave one member. With a
taper :math:`r` of what they see each mode j has weights of its own,

.. math:: \log w_{ij} = \sum_k r_{kj} \left(\log |F|_k - \tfrac12 [F (u - c_i)]_k^2\right)
    + \mathrm{const}, \quad E[x \mid u]_j \approx \sum_i w_{ij} [E_i(u)]_j :

the terms are the log densities of the modes, each given those before it, so that evidence that
is shared counts once. This is no denoiser of any law, as a localized filter has no law of its
forecast; it is the one above where r = 1, and the Gaussian's where :math:`\beta = 1`.

`GaussianMixtureFilter` has a mixture with kernels of another shape, whose weights are computed by
the same functions, at the end of this file. Derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch

from scorda.core.gaussian import symmetric_map
from scorda.core.shapes import Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.observations.augmentation import AugmentedSpace
from scorda.observations.modes import FourierModes, Modes
from scorda.priors.base import EnsemblePrior
from scorda.priors.gaussian import (
    ByCholesky,
    ByValues,
    FittedGaussian,
    Gaussian,
    Latest,
    Whitening,
    taper_matrix,
)

__all__ = [
    "FittedMixture",
    "Mixture",
    "check_mixture",
    "evidence_terms",
    "kernel_logits",
    "mixture_weights",
    "shrinkage",
]

# Numbers held at once of the weights of modes by what is near them (32 MiB).
PLACES = 2**22


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
        """Return the columns of a matrix r."""
        weights, modes = taper.mT.topk(int((taper > 0).sum(0).max()))
        return cls(modes, weights)


@dataclass(frozen=True, eq=False)
class FittedMixture:
    r"""The mixture of an ensemble, in the modes.

    Arguments:
        gaussian: Gaussian with the mean :math:`\bar x` and the covariance :math:`\rho \circ P`.
        anomalies: a_i; in the span of the Gaussian's basis where that is not all.
        kernel_factor: :math:`\beta` in (0, 1].
        gaussian_weight: :math:`\epsilon` in [0, 1).
        nearby: Taper of what the weights see, or None for the weights of the law. It needs a
            basis of full rank.
        rotation: Whether `sample_members` makes new draws.
    """

    gaussian: FittedGaussian
    anomalies: Float[Tensor, "members ..."]
    kernel_factor: float
    gaussian_weight: float = 0.0
    nearby: Nearby | None = None
    rotation: bool = False

    @cached_property
    def var(self) -> Float[Tensor, "..."]:
        """Variance of each mode."""
        beta, epsilon = self.kernel_factor, self.gaussian_weight
        between = self.anomalies.square().sum(0) / (len(self.anomalies) - 1)
        kernels = beta * self.gaussian.var + (1 - beta) * between
        return (1 - epsilon) * kernels + epsilon * self.gaussian.var

    @property
    def gamma(self) -> float:
        r""":math:`\gamma`."""
        return shrinkage(self.kernel_factor, len(self.anomalies))

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the mean given u, exact for any levels unless `nearby` tapers the weights."""
        W = noise.to(u).expand(1, *u.shape[1:]).flatten().reciprocal()
        mean, centres = self.gaussian.mean.to(u), self.gamma * self.anomalies.to(u).flatten(1)
        kernel, gaussian = self._latest(W, self._whitenings)
        moved = (u - mean).flatten(1)
        queries, keys, whole = kernel.white(moved), kernel.white(centres), gaussian.white(moved)
        terms = evidence_terms(queries, whole, kernel.log_det - gaussian.log_det)
        shift = centres - kernel.gain(keys)
        if self.nearby is None:
            logits = kernel_logits(queries, keys, terms)
            w, total, other = _relative_weights(logits, self.gaussian_weight)
            between, other = w @ shift / total, other / total
        else:
            between, other = self._between(self.nearby, queries, keys, terms, shift)
        moved = between + (1 - other) * kernel.gain(queries) + other * gaussian.gain(whole)
        return mean + moved.view_as(u)

    def _between(
        self,
        nearby: Nearby,
        queries: Float[Tensor, "rows size"],
        keys: Float[Tensor, "members size"],
        terms: Float[Tensor, "rows size"],
        shift: Float[Tensor, "members size"],
    ) -> tuple[Float[Tensor, "rows size"], Float[Tensor, "rows size"]]:
        """Return the mean shift and the Gaussian's weight, of each mode by what is near it."""
        found = []
        most = (len(queries) + len(keys)) * nearby.modes.shape[1] + len(queries) * len(keys)
        for places in torch.arange(len(nearby.modes)).split(max(1, PLACES // most)):
            # (places, rows, near): a few modes at once, since each has weights of all members.
            q, k, t = (x[:, nearby.modes[places]].movedim(0, 1) for x in (queries, keys, terms))
            logits = kernel_logits(q, k, t, nearby.weights[places, None].to(queries))
            w, total, other = _relative_weights(logits, self.gaussian_weight)
            mean = w @ shift[:, places].mT[..., None] / total
            found.append(torch.stack((mean[..., 0].mT, (other / total)[..., 0].mT)))
        between, other = torch.cat(found, -1)
        return between, other

    @cached_property
    def _latest(self) -> Latest[tuple[Whitening, Whitening]]:
        return Latest()

    def sample_members(
        self, members: Float[Tensor, "ensemble ..."], noise: Callable[[], Tensor]
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the members, or with `rotation` each of them moved within its kernel.

        Moved members are made to have exactly the mean and covariance of the mixture again, by
        the symmetric map in the coordinates in which that covariance is 1. None is drawn from
        the Gaussian of the ensemble.
        """
        if not self.rotation:
            return members
        rank = self.gaussian.basis.shape[1]
        root = self.gaussian.basis * self.gaussian.spectrum.sqrt()
        mean = self.gaussian.mean
        # The columns of the root are orthogonal in standard deviations of the modes.
        own = ((members - mean) / self.gaussian.var).flatten(1) @ (root / self.gaussian.spectrum)
        x = self.gamma * own + self.kernel_factor**0.5 * noise().flatten(1)[:, :rank]
        x = x - x.mean(0)
        cov = x.mT @ x / (len(x) - 1)
        x = x @ symmetric_map(cov, torch.eye(rank).to(cov))
        return mean + (x @ root.mT).view_as(members)

    def map_latents(
        self, latents: Float[Tensor, "ensemble ..."], rate: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Map them as the Gaussian does, whose span is that of the mixture."""
        return self.gaussian.map_latents(latents, rate)

    def _whitenings(self, W: Float[Tensor, "size"]) -> tuple[Whitening, Whitening]:
        """Return the whitening of the kernels and that of the Gaussian."""
        beta = self.kernel_factor
        if self.gaussian.has_full_rank:
            cov = self.gaussian.cov.to(W)
            return ByCholesky.of(beta * cov, W), ByCholesky.of(cov, W)
        L = self.gaussian.basis.to(W) * self.gaussian.spectrum.to(W).sqrt()
        U, S, Vt = torch.linalg.svd(W[:, None] * L, full_matrices=False)
        # Modes without information leave directions of rounding, in which u may be far away.
        seen = S > S[0] * max(L.shape) * torch.finfo(S.dtype).eps
        WU, S, V = U[:, seen] * W[:, None], S[seen], Vt[seen].mT
        return ByValues(beta, WU, S, L, V), ByValues(1.0, WU, S, L, V)


@dataclass(frozen=True)
class Mixture(EnsemblePrior):
    r"""The Gaussian mixture on the members with kernels of a fraction of their covariance.

    .. math:: p(x) = \frac{1 - \epsilon}{N} \sum_i N(x; c_i, \beta \, (\rho \circ P))
        + \epsilon \, N(x; \bar x, \rho \circ P)

    with centres that leave mean and covariance as they are (see the module). :math:`\beta = 1` is
    `Gaussian`; :math:`\beta, \epsilon \to 0` are the members as points, moved away from
    their mean by :math:`(N / (N - 1))^{1/2}`: a particle filter. Unlike those of `Kernel`
    the kernels have the shape of the ensemble, so the prior needs no unit, and fewer members where
    the forecast is close to Gaussian. It is exact as N grows and :math:`\beta` and
    :math:`\epsilon` fall.

    The localization concerns the kernels. The weights of the members see all observations at
    once, and with many of these a small :math:`\beta` leaves weight to few members. With a
    `weight_localization` each mode has weights of its own, from the observations near it; this is
    not exact for any law.

    Arguments:
        kernel_factor: :math:`\beta` in (0, 1].
        gaussian_weight: :math:`\epsilon` in [0, 1): weight of the Gaussian of the ensemble.
        localization: Taper of the covariances by distance, or None.
        weight_localization: Taper by distance of what the weights of a mode see, or None where
            they see all.
        rotation: Whether a coupled bridge starts from new draws of the mixture, each member moved
            within its kernel, with exactly the mixture's mean and covariance; else, and with
            localization, it starts from the members themselves.
    """

    kernel_factor: float = 0.3
    gaussian_weight: float = 0.1
    localization: GaspariCohn | None = None
    weight_localization: GaspariCohn | None = None
    rotation: bool = True

    def __post_init__(self) -> None:
        check_mixture(self, self.kernel_factor)

    def check(self, space: StateSpace) -> None:
        Gaussian(self.localization).check(space)

    def memory(self, space: StateSpace, members: int) -> int:
        # Two whitenings beside the Gaussian's matrices, and the places that the weights see.
        matrices = 0 if self.localization is None else 4 * 8 * space.size**2
        return Gaussian(self.localization).memory(space, members) + matrices

    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> FittedMixture:
        gaussian = Gaussian(self.localization).fit(ensemble, modes, space)
        A = ensemble - ensemble.mean(0, keepdim=True)
        nearby = None
        if self.weight_localization is not None:
            if isinstance(modes, FourierModes):
                raise ValueError(
                    "Got a Blur for a Mixture with `weight_localization`: its modes are waves, "
                    "which have no place; leave `weight_localization` out."
                )
            assert space is not None  # The Gaussian has checked it.
            nearby = Nearby.of(taper_matrix(self.weight_localization, space).to(A))
        rotation = self.rotation and self.localization is None
        A = A if modes is None else modes.forward(A)
        return FittedMixture(
            gaussian, A, self.kernel_factor, self.gaussian_weight, nearby, rotation
        )


def check_mixture(settings: Any, kernel_factor: float) -> None:
    """Check the settings of a mixture, the prior or the filter, which have the same names.

    Raises:
        ValueError: If one is out of range, or needs another one.
    """
    name, weight = type(settings).__name__, settings.gaussian_weight
    if isinstance(kernel_factor, str) or not 0 < kernel_factor <= 1:
        raise ValueError(
            f"Got kernel_factor = {kernel_factor!r}: a {name} takes a number in (0, 1]"
            + (', or "adaptive".' if name == "GaussianMixtureFilter" else ".")
        )
    if not 0 <= weight < 1:
        raise ValueError(f"Got gaussian_weight = {weight}: a {name} takes a number in [0, 1).")
    if settings.weight_localization is not None and settings.localization is None:
        raise ValueError(
            f"Got a {name} with `weight_localization` and no `localization`: give both, or leave "
            "both out."
        )


T = TypeVar("T", float, Tensor)


def shrinkage(kernel_factor: T, members: int) -> T:
    r"""Return :math:`\gamma`, the factor of the anomalies in the centres of the kernels."""
    return ((1 - kernel_factor) * members / (members - 1)) ** 0.5


def evidence_terms(
    queries: Float[Tensor, "*batch rows modes"],
    whole: Float[Tensor, "*batch rows modes"],
    log_ratio: Float[Tensor, "..."],
) -> Float[Tensor, "*batch rows modes"]:
    """Return the log density of a kernel at the mean, less that of the Gaussian, mode by mode.

    Arguments:
        queries: Data less the mean, white under a kernel.
        whole: The same, white under the Gaussian of the ensemble.
        log_ratio: Log of the standard deviation of each mode of the Gaussian over a kernel's.
    """
    return log_ratio + 0.5 * (whole - queries) * (whole + queries)


def kernel_logits(
    queries: Float[Tensor, "*batch rows modes"],
    keys: Float[Tensor, "*batch members modes"],
    terms: Float[Tensor, "*batch rows modes"],
    taper: Float[Tensor, "..."] | float = 1.0,
) -> Float[Tensor, "*batch rows members"]:
    """Return the log densities of the kernels, less that of the Gaussian of the ensemble.

    Arguments:
        queries: Data less the mean, white under a kernel.
        keys: Centres of the kernels less the mean, white alike.
        terms: As `evidence_terms` returns them.
        taper: Weight of each mode.
    """
    logits = (queries * taper) @ keys.mT + (terms * taper).sum(-1, keepdim=True)
    return logits - 0.5 * (keys.square() * taper).sum(-1).unsqueeze(-2)


def mixture_weights(
    logits: Float[Tensor, "*batch rows members"], gaussian_weight: float
) -> tuple[Float[Tensor, "*batch rows members"], Float[Tensor, "*batch rows"]]:
    """Return the weights of the kernels and that of the Gaussian, which sum to 1."""
    w, total, other = _relative_weights(logits, gaussian_weight)
    return w / total, (other / total).squeeze(-1)


def _relative_weights(logits: Tensor, gaussian_weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the kernels, the sum of all weights, and the weight of the Gaussian."""
    rest = -math.inf
    if gaussian_weight:
        rest = math.log(gaussian_weight * logits.shape[-1] / (1 - gaussian_weight))
    top = logits.amax(-1, keepdim=True).clamp_min(rest)
    w, other = (logits - top).exp(), (rest - top).exp()
    return w, w.sum(-1, keepdim=True) + other, other
