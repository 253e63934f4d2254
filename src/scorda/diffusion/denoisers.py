r"""Denoisers: :math:`D(x_t, t) = E[x_0 \mid x_t]`, the one thing a sampler asks of a prior.

Gaussian and kernel denoisers are exact for their prior; a network's is learned. All are bound to a
scalar process :math:`x_t = \alpha x_0 + \sigma \varepsilon` and are called alike, with noisy
samples ``(ensemble, ...)`` and a diffusion time t (a scalar, or one per member).

Some also know :math:`E[x_0 \mid u = x_0 + \nu \varepsilon]` for a noise level :math:`\nu` that
differs from entry to entry (`AnyNoise`). Observed entries then need no guidance: see `merging`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from scorda.core.align import align
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.process import ScalarProcess

__all__ = [
    "AnyNoise",
    "Denoiser",
    "GaussianDenoiser",
    "KernelDenoiser",
    "NetworkDenoiser",
    "precondition",
]


@runtime_checkable
class Denoiser(Protocol):
    """Expectation of the data given noisy samples."""

    @property
    def process(self) -> ScalarProcess:
        """The forward process that it is bound to."""
        ...

    def __call__(
        self, x_t: Float[Tensor, "ensemble ..."], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Return E[x_0 | x_t], same shape as x_t."""
        ...


@runtime_checkable
class AnyNoise(Denoiser, Protocol):
    """A denoiser that takes a noise level for each entry, if `any_noise` says so."""

    @property
    def any_noise(self) -> bool:
        """Whether `denoise` takes levels that differ between the entries of a sample."""
        ...

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        r"""Return :math:`E[x_0 \mid x_0 + \nu \varepsilon = u]`, same shape as u.

        Arguments:
            u: Noisy samples in units of the data.
            noise: Their noise levels, positive, of a shape that broadcasts to that of u.
        """
        ...


@dataclass(frozen=True)
class GaussianDenoiser:
    r"""Exact denoiser of a Gaussian prior with covariance :math:`Q \Lambda Q^T`.

    .. math:: D(x_t) = m + Q \frac{\alpha \Lambda}{\alpha^2 \Lambda + \sigma^2} Q^T
        (x_t - \alpha m)

    Directions outside the span of Q have no variance: a thin Q makes a low-rank prior.

    Arguments:
        mean: Mean m, shape ``(*shape)``, in the sampler's coordinates.
        basis: Orthonormal columns Q, ``(size, rank)``; for `denoise` also one matrix per sample,
            ``(ensemble, size, rank)``.
        spectrum: Variances Lambda, ``(rank,)``.
        process: The forward process.
    """

    mean: Float[Tensor, "..."]
    basis: Float[Tensor, "*ensemble size rank"]
    spectrum: Float[Tensor, "rank"]
    process: ScalarProcess
    any_noise = True

    @classmethod
    def from_cov(
        cls, mean: Float[Tensor, "..."], cov: Float[Tensor, "size size"], process: ScalarProcess
    ) -> GaussianDenoiser:
        """From a full covariance of the flattened data."""
        spectrum, basis = torch.linalg.eigh(cov)
        return cls(mean, basis, spectrum.clamp(min=0), process)

    @classmethod
    def from_samples(
        cls, samples: Float[Tensor, "ensemble ..."], process: ScalarProcess
    ) -> GaussianDenoiser:
        """From the sample mean and covariance, of rank ``ensemble - 1``, never formed."""
        mean = samples.mean(0)
        _, scale, basis = torch.linalg.svd((samples - mean).flatten(1), full_matrices=False)
        return cls(mean, basis.mT, scale.square() / (len(samples) - 1), process)

    def __call__(
        self, x_t: Float[Tensor, "ensemble ..."], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        mean, basis = self.mean.to(x_t), self.basis.to(x_t)
        alpha, var = self.process.alpha(t)[..., None], self.process.var(t)[..., None]
        spectrum = self.spectrum.to(x_t)
        gain = alpha * spectrum / (alpha**2 * spectrum + var)
        centred = (x_t - align(self.process.alpha(t), x_t) * mean).flatten(1)
        return mean + (((centred @ basis) * gain) @ basis.mT).view_as(x_t)

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        # m + L (I + L^T N^-1 L)^-1 L^T N^-1 (u - m) with L = Q Lambda^1/2, N the squared levels.
        mean, root = self.mean.to(u), self.basis.to(u) * self.spectrum.to(u).sqrt()
        # One matrix for all members where they share the levels and the basis.
        shared = noise.ndim < u.ndim or noise.shape[0] == 1
        levels = noise.expand((1 if shared else len(u), *u.shape[1:])).flatten(1)
        scaled = root / levels[..., None]
        matrix = torch.eye(root.shape[-1]).to(u) + scaled.mT @ scaled
        factor, rest = torch.linalg.cholesky(matrix), (u - mean).flatten(1) / levels
        if shared and root.ndim == 2:
            weights = torch.cholesky_solve((rest @ scaled[0]).mT, factor[0])
            return mean + (root @ weights).mT.view_as(u)
        weights = torch.cholesky_solve(scaled.mT @ rest[..., None], factor)
        return mean + (root @ weights)[..., 0].view_as(u)


@dataclass(frozen=True)
class KernelDenoiser:
    r"""Exact denoiser of a kernel density on members, :math:`\sum_i w_i N(x_i, b^2 I)`.

    .. math:: D(x_t) = \frac{\sigma^2 \bar x + \alpha b^2 x_t}{\sigma^2 + \alpha^2 b^2}, \quad
        \bar x = \sum_i \bar w_i x_i, \quad
        \bar w_i \propto w_i \exp \frac{-|x_t - \alpha x_i|^2}{2 (\sigma^2 + \alpha^2 b^2)}

    The weights are a softmax, evaluated as fused attention: O(N d) memory where the device has it
    for the precision (CPUs do). With bandwidth 0 the law at t = 0 is the members themselves, and
    the weights are undefined where sigma is 0.

    Arguments:
        members: x_i, ``(members, *shape)``.
        bandwidth: b, in units of the data, at least 0.
        process: The forward process.
        log_weights: log w_i up to a constant, ``(members,)`` (default: equal).
    """

    members: Float[Tensor, "members ..."]
    bandwidth: float
    process: ScalarProcess
    log_weights: Float[Tensor, "members"] | None = None
    any_noise = True

    def __post_init__(self) -> None:
        if self.bandwidth < 0:
            raise ValueError(f"Got bandwidth = {self.bandwidth}: it must not be negative.")

    def __call__(
        self, x_t: Float[Tensor, "ensemble ..."], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        alpha = align(self.process.alpha(t), x_t)
        return self.denoise(x_t / alpha, align(self.process.noise_level(t), x_t))

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        members = self.members.to(u)
        # Centred, so that large means do not cancel in single precision.
        centre = members.mean(0)
        keys = (members - centre).flatten(1)
        queries = (u - centre).flatten(1)
        level = noise.reshape((1,) * (u.ndim - noise.ndim) + noise.shape)
        per_entry = level[:1].numel() > 1
        level = level.expand(u.shape) if per_entry else level.expand(len(u), *level.shape[1:])
        var = level.square().reshape(len(u), -1)
        # Both stay finite where a level is infinite, which is where nothing is known.
        precision = (var + self.bandwidth**2).reciprocal()
        share = (1 + self.bandwidth**2 / var).reciprocal()
        # The logits -|x_t - x_i|^2 / 2 total as one scalar product, less what all i share.
        squares = keys.square() if per_entry else keys.square().sum(1, keepdim=True)
        left = [queries * precision, -0.5 * precision]
        right = [keys, squares - squares.mean(0)]
        if self.log_weights is not None:
            # Finite, so that no block of keys of weight zero is 0 / 0.
            floor = torch.finfo(u.dtype).min / 4
            left.append(torch.ones_like(queries[:, :1]))
            right.append(self.log_weights.to(u).clamp_min(floor)[:, None])
        mean = _attention(torch.cat(left, 1), torch.cat(right, 1), keys)
        drawn = self.bandwidth**2 * precision * queries
        return centre + (share * mean + drawn).view_as(u)


def _attention(
    queries: Float[Tensor, "ensemble k"],
    keys: Float[Tensor, "members k"],
    values: Float[Tensor, "members size"],
) -> Float[Tensor, "ensemble size"]:
    """Return softmax(Q K^T) V, fused where the device can: no (ensemble, members) array."""
    size = values.shape[1]
    # The fused kernels want values as wide as keys, and four axes.
    wide = torch.nn.functional.pad(values, (0, keys.shape[1] - size))
    q, k, v = (x[None, None] for x in (queries, keys, wide))
    mean = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)
    return mean[0, 0, :, :size]


def precondition(
    network: nn.Module, x: Float[Tensor, "ensemble time ..."], noise: Float[Tensor, "ensemble ..."]
) -> Float[Tensor, "ensemble time ..."]:
    r"""Denoise :math:`x = x_0 + \nu \varepsilon` with a network F that sees unit variances.

    .. math:: D(x, \nu) = \frac{x}{1 + \nu^2} + \frac{\nu}{\sqrt{1 + \nu^2}} F(x, \nu)

    F scales and sees its own input. Its target has unit variance at every noise level, for data
    of unit variance, so the error of D falls in proportion to the noise: what a process with
    little model error needs. The noise level is one per member, or one per entry of x for networks
    that take it so. Source: Karras et al. (2022), table 1, with sigma_data = 1.
    """
    nu = align(noise, x)
    squared = nu.square()
    return x / (1 + squared) + nu / (1 + squared).sqrt() * network(x, noise)


@dataclass(frozen=True)
class NetworkDenoiser:
    """Learned denoiser of standardised trajectories ``(ensemble, time, *state)``.

    Approximate: as good as its training. Inputs are cast to the precision of the network and back.

    Arguments:
        network: Maps (noisy trajectories in units of the data, noise level) to the unit-variance
            target of `precondition`.
        process: The forward process; any scalar one serves, whichever the training used.
        limit: Largest size of a component of the denoised mean, in standardised units: where a
            sampler with large steps leaves what the network has seen, it comes back instead of
            running away. None disables it.
    """

    network: nn.Module
    process: ScalarProcess
    limit: float | None = None

    def __call__(
        self, x_t: Float[Tensor, "ensemble time ..."], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble time ..."]:
        u = x_t / align(self.process.alpha(t), x_t)
        return self._denoise(u, self.process.noise_level(t).expand(x_t.shape[0]))

    @property
    def any_noise(self) -> bool:
        """Whether the network was trained with levels that differ between entries."""
        return getattr(self.network, "per_entry", False)

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        return self._denoise(u, noise.expand(u.shape))

    def covariance(
        self, v: Float[Tensor, "ensemble ..."], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Product with the covariance of x_0 given x_t under the Gaussian law of the network.

        Raises:
            ValueError: If the network has none.
        """
        product = getattr(self.network, "covariance", None)
        if product is None:
            raise ValueError(
                f"{type(self.network).__name__} has no Gaussian law, whose covariance was asked "
                'for: use MMPS(covariance="denoiser").'
            )
        like = next(self.network.parameters())
        noise = self.process.noise_level(t).expand(v.shape[0])
        found: Tensor = product(v.to(like.dtype), noise.to(like.dtype))
        return found.to(v.dtype)

    def _denoise(self, u: Tensor, noise: Tensor) -> Tensor:
        like = next(self.network.parameters())
        mean = precondition(self.network, u.to(like.dtype), noise.to(like.dtype)).to(u.dtype)
        return mean if self.limit is None else mean.clamp(-self.limit, self.limit)
