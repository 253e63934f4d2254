r"""Denoisers: :math:`E[x_0 \mid x_0 + \nu \varepsilon = u]`, the one thing a prior knows.

The noise level :math:`\nu` is one number for each sample, or one for each entry of a sample; a
network takes the latter only if it was trained so. A scalar process
:math:`x_t = \alpha x_0 + \sigma \varepsilon` has :math:`u = x_t / \alpha` and
:math:`\nu = \sigma / \alpha`: one denoiser serves every process and is bound to none.

Gaussian and kernel denoisers are exact for their prior; that of a network is learned.

**Observed entries need no guidance.** An observation
:math:`y_i = x_{0,i} + R_i^{1/2} \epsilon` of an entry of the data is one more noisy copy of it,
like u itself, so both merge into one copy with less noise:

.. math:: \frac{1}{\nu_{*,i}^2} = \frac{1}{\nu^2} + \frac{1}{R_i}, \qquad
    u_{*,i} = \nu_{*,i}^2 \left( \frac{u_i}{\nu^2} + \frac{y_i}{R_i} \right), \qquad
    E[x_0 \mid u, y] = E[x_0 \mid x_0 + \nu_* \varepsilon = u_*].

The posterior's denoiser is the prior's at another noise level for each entry. Nothing is
approximated and nothing is differentiated, but the denoiser must know such levels.

A network knows them best where the noise is large: there it reads the trajectory off the
observations, which guidance cannot. Where the noise is small the observations change little, and
what little the network misses of it is what guidance gives. So a learned denoiser hands over from
the one to the other (`SwitchedDenoiser`).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from scorda.core.shapes import Float, Tensor

__all__ = [
    "Conditioned",
    "Denoiser",
    "GaussianDenoiser",
    "KernelDenoiser",
    "NetworkDenoiser",
    "SwitchedDenoiser",
    "align",
    "precondition",
]


@runtime_checkable
class Denoiser(Protocol):
    """Mean of the data given one more noisy copy of them."""

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

    With :math:`L = Q \Lambda^{1/2}` and N the squared noise levels,

    .. math:: D(u) = m + L (1 + L^T N^{-1} L)^{-1} L^T N^{-1} (u - m).

    Directions outside the span of Q have no variance: a thin Q makes a low-rank prior. Nothing
    rests on orthonormal columns.

    Arguments:
        mean: Mean m, shape ``(*shape)``, in the sampler's coordinates.
        basis: Columns Q, ``(size, rank)``, or one matrix per sample, ``(ensemble, size, rank)``.
        spectrum: Variances Lambda, ``(rank,)``.
    """

    mean: Float[Tensor, "..."]
    basis: Float[Tensor, "*ensemble size rank"]
    spectrum: Float[Tensor, "rank"]

    @classmethod
    def from_cov(
        cls, mean: Float[Tensor, "..."], cov: Float[Tensor, "size size"]
    ) -> GaussianDenoiser:
        """Make one from a full covariance of the flattened data."""
        spectrum, basis = torch.linalg.eigh(cov)
        return cls(mean, basis, spectrum.clamp(min=0))

    @classmethod
    def from_samples(cls, samples: Float[Tensor, "ensemble ..."]) -> GaussianDenoiser:
        """Make one from the sample mean and covariance, of rank ``ensemble - 1``, never formed."""
        mean = samples.mean(0)
        _, scale, basis = torch.linalg.svd((samples - mean).flatten(1), full_matrices=False)
        return cls(mean, basis.mT, scale.square() / (len(samples) - 1))

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        mean, rest = self.mean.to(u), (u - self.mean.to(u)).flatten(1)
        level = _one_level(noise, u)
        if level is not None:
            # L V (nu^2 + S)^-1 V^T L^T with L^T L = V S V^T: no matrix to factor at each level.
            var, turned = (part.to(u) for part in self._gram)
            moved = _rows(rest, turned) / (level.square()[:, None] + var)
            return mean + _rows(moved, turned.mT).view_as(u)
        root = self._root.to(u)
        # One matrix for all members where they share the levels and the basis.
        shared = noise.ndim < u.ndim or noise.shape[0] == 1
        levels = noise.expand((1 if shared else len(u), *u.shape[1:])).flatten(1)
        scaled = root / levels[..., None]
        matrix = torch.eye(root.shape[-1]).to(u) + scaled.mT @ scaled
        factor, rest = torch.linalg.cholesky(matrix), rest / levels
        if shared and root.ndim == 2:
            weights = torch.cholesky_solve((rest @ scaled[0]).mT, factor[0])
            return mean + (root @ weights).mT.view_as(u)
        weights = torch.cholesky_solve(scaled.mT @ rest[..., None], factor)
        return mean + (root @ weights)[..., 0].view_as(u)

    @property
    def _root(self) -> Float[Tensor, "*ensemble size rank"]:
        return self.basis * self.spectrum.sqrt()

    @cached_property
    def _gram(self) -> tuple[Tensor, Tensor]:
        """S, ``(*ensemble, rank)``, and L V, ``(*ensemble, size, rank)``."""
        root = self._root
        var, V = torch.linalg.eigh(root.mT @ root)
        return var.clamp(min=0), root @ V


@dataclass(frozen=True)
class KernelDenoiser:
    r"""Exact denoiser of a kernel density on members, :math:`\sum_i w_i N(x_i, b^2 I)`.

    .. math:: D(u) = \frac{\nu^2 \bar x + b^2 u}{\nu^2 + b^2}, \quad
        \bar x = \sum_i \bar w_i x_i, \quad
        \bar w_i \propto w_i \exp \frac{-|u - x_i|^2}{2 (\nu^2 + b^2)}

    The weights are a softmax, evaluated as fused attention: O(N d) memory where the device has it
    for the precision (CPUs do). With bandwidth 0 the law without noise is the members themselves,
    and the weights are undefined where nu is 0.

    Arguments:
        members: x_i, ``(members, *shape)``.
        bandwidth: b, in units of the data, at least 0; one number, or one per entry, ``(*shape)``.
        log_weights: log w_i up to a constant, ``(members,)`` (default: equal).
    """

    members: Float[Tensor, "members ..."]
    bandwidth: float | Float[Tensor, "..."]
    log_weights: Float[Tensor, "members"] | None = None

    def __post_init__(self) -> None:
        if not (torch.as_tensor(self.bandwidth) >= 0).all():
            raise ValueError(f"Got bandwidth = {self.bandwidth}: it must not be negative.")

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        members = self.members.to(u)
        # Centred, so that large means do not cancel in single precision.
        centre = members.mean(0)
        keys = (members - centre).flatten(1)
        queries = (u - centre).flatten(1)
        level, square = _one_level(noise, u), torch.as_tensor(self.bandwidth).to(u).square()
        per_entry = level is None or square.ndim > 0
        square = square.expand(u.shape[1:]).flatten() if square.ndim else square
        levels = noise.expand(u.shape).flatten(1) if level is None else level[:, None]
        var = levels.expand(len(u), -1).square()
        # Both stay finite where a level is infinite, which is where nothing is known.
        precision = (var + square).reciprocal()
        share = (1 + square / var).reciprocal()
        # The logits -|u - x_i|^2 / 2 var as one scalar product, less what all i share.
        squares = keys.square() if per_entry else keys.square().sum(1, keepdim=True)
        left = [queries * precision, -0.5 * precision]
        right = [keys, squares - squares.mean(0)]
        if self.log_weights is not None:
            # Finite, so that no block of keys of weight zero is 0 / 0.
            floor = torch.finfo(u.dtype).min / 4
            left.append(torch.ones_like(queries[:, :1]))
            right.append(self.log_weights.to(u).clamp_min(floor)[:, None])
        mean = _attention(torch.cat(left, 1), torch.cat(right, 1), keys)
        drawn = square * precision * queries
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
        limit: Largest size of a component of the denoised mean, in standardised units: where a
            sampler with large steps leaves what the network has seen, it comes back instead of
            running away. None disables it.
        precision: "float32", that of the weights, or "bfloat16" for the products and convolutions
            of the network; its sums, and all around it, stay as they are.
    """

    network: nn.Module
    limit: float | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"Got precision = {self.precision!r}: it is float32 or bfloat16.")

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        like, level = next(self.network.parameters()), _one_level(noise, u)
        level = noise.expand(u.shape) if level is None else level.expand(len(u))
        half = self.precision == "bfloat16"
        with torch.autocast(u.device.type, torch.bfloat16) if half else nullcontext():
            mean = precondition(self.network, u.to(like.dtype), level.to(like.dtype)).to(u.dtype)
        return mean if self.limit is None else mean.clamp(-self.limit, self.limit)

    def covariance(
        self, v: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Product with the covariance of x_0 given u under the Gaussian law of the network.

        Arguments:
            v: What the covariance is applied to.
            noise: One noise level per sample.

        Raises:
            ValueError: If the network has none.
        """
        product = getattr(self.network, "covariance", None)
        if product is None:
            raise ValueError(
                f"{type(self.network).__name__} has no Gaussian law, whose covariance was asked "
                'for: use MMPS(covariance="denoiser").'
            )
        like, level = next(self.network.parameters()), noise.flatten().expand(len(v))
        found: Tensor = product(v.to(like.dtype), level.to(like.dtype))
        return found.to(v.dtype)


@dataclass(frozen=True, eq=False)
class Conditioned:
    """Denoiser of a prior given observations of single entries: exact where the prior's is.

    Arguments:
        prior: Denoiser of the prior, which takes a noise level per entry.
        values: y, shape ``(*shape)``; what stands at entries without observation is not used.
        precision: 1 / R, same shape; 0 where nothing was observed.
    """

    prior: Denoiser
    values: Float[Tensor, "..."]
    precision: Float[Tensor, "..."]

    @property
    def limit(self) -> float | None:
        """Largest size of a component, where the prior's denoiser has one."""
        return getattr(self.prior, "limit", None)

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        nu2, precision = noise.square(), self.precision.to(u)
        weight = nu2 * precision / (1 + nu2 * precision)
        merged = torch.where(precision > 0, u + weight * (self.values.to(u) - u), u)
        return self.prior.denoise(merged, (nu2 / (1 + nu2 * precision)).sqrt())


@dataclass(frozen=True, eq=False)
class SwitchedDenoiser:
    """One denoiser while the noise is large, another one below.

    Arguments:
        above: Denoiser at noise levels of at least `level`.
        below: Denoiser at the others.
        level: Noise level of the switch, in units of the data.
    """

    above: Denoiser
    below: Denoiser
    level: float

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        if noise.numel() != 1:
            raise ValueError("SwitchedDenoiser takes one noise level for all members.")
        return (self.above if noise >= self.level else self.below).denoise(u, noise)


def align(per_member: Float[Tensor, "..."], x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Append axes to a scalar or a value per member, so that it broadcasts with x."""
    return per_member.reshape(per_member.shape + (1,) * (x.ndim - per_member.ndim))


def _one_level(noise: Tensor, u: Tensor) -> Float[Tensor, "samples"] | None:
    """The level of each sample, or one for all, where it is the same for a sample's entries."""
    level = noise.reshape((1,) * (u.ndim - noise.ndim) + noise.shape)
    return level.flatten() if level[:1].numel() == 1 else None


def _rows(rows: Float[Tensor, "ensemble a"], matrix: Float[Tensor, "*ensemble a b"]) -> Tensor:
    """Rows times one matrix for all, or each times its own."""
    return rows @ matrix if matrix.ndim == 2 else (rows[:, None] @ matrix)[:, 0]
