r"""A local Gaussian prior: a small matrix for each block of the grid and the entries near it.

A tapered covariance is a matrix of the size of the state, factored at each noise level
(`priors.gaussian`). Here each block of the grid has a Gaussian of its own for the entries k near
it, whose noise grows with their distance from the block's centre as the errors of distant
observations do in the LETKF, :math:`\nu_k^2 / \rho_k` with a taper :math:`\rho`. The covariance is

.. math:: C = (1 - \eta) \frac{A^T A}{N - 1} + \eta \, \mathrm{diag} \, v, \quad
    E[x_b \mid u] = m_b + C_{b \cdot} (C + \mathrm{diag} \, \nu^2 / \rho)^{-1} (u - m)

with the anomalies A of the N members and their variances v. The share :math:`\eta` is what the
members do not span: without it the denoiser of a block would not become the identity as the noise
vanishes, but a projection on the members, another one in each block. With :math:`W = 1 /
(\nu^2 / \rho + \eta v)` and :math:`Y = ((1 - \eta) / (N - 1))^{1/2} A^T` this is

.. math:: l = Y (1 + Y^T W Y)^{-1} Y^T W (u - m), \quad
    E[x_b \mid u] = m_b + l_b + \frac{\eta v_b}{\eta v_b + \nu_b^2} (u_b - m_b - l_b) :

a factor of size N for each block, and :math:`N^2` numbers and one per entry near it. The taper of
the block's own entries, outside the parentheses, is taken as 1.

Derived here. The tapered errors: Hunt, Kostelich & Szunyogh (2007), Physica D 230, section 2.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from scorda.assimilation.local import Geometry
from scorda.core.near import Near
from scorda.core.shapes import Bool, Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.observations.augmentation import AugmentedSpace
from scorda.observations.modes import Modes
from scorda.priors.base import PreparedPrior, PriorRun
from scorda.priors.gaussian import Latest, positive

if TYPE_CHECKING:
    from scorda.observations.problem import Problem

__all__ = ["FittedLocal", "LocalGaussian", "LocalRun"]

# Numbers near the blocks of a batch: what stays in a processor's cache is several times faster.
BATCH = 2**18


@dataclass(frozen=True, eq=False)
class Blocks:
    r"""A batch of blocks with the same numbers of entries, padded.

    Arguments:
        near: Entries near each block.
        taper: :math:`\rho` of them, 0 for those that are there to fill up.
        own: Entries of the block.
        exists: Which of these are not there to fill up.
    """

    near: Int[Tensor, "blocks near"]
    taper: Float[Tensor, "blocks near"]
    own: Int[Tensor, "blocks own"]
    exists: Bool[Tensor, "blocks own"]


@dataclass(frozen=True, eq=False)
class FittedLocal:
    r"""The local Gaussians of an ensemble.

    Arguments:
        mean: m, shape ``(*shape)``.
        root: Y, ``(size, members)``, in standard deviations of the entries: squares in the units
            of a caller may not be numbers in single precision.
        var: v, shape ``(*shape)``, positive.
        diagonal: :math:`\eta`.
        blocks: Blocks that cover the state.
        dtype: Precision of what the entries near a block tell; the entries themselves, their mean
            and what is returned are in that of u.
    """

    mean: Float[Tensor, "..."]
    root: Float[Tensor, "size members"]
    var: Float[Tensor, "..."]
    diagonal: float
    blocks: tuple[Blocks, ...]
    dtype: torch.dtype = torch.float64

    def denoise(
        self, u: Float[Tensor, "ensemble ..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the mean given u, exact for the Gaussian of each block, for any levels."""
        if noise.ndim == u.ndim and len(noise) > 1:
            pairs = zip(u.split(1), noise.split(1), strict=True)
            return torch.cat([self.denoise(*pair) for pair in pairs])
        mean, std = self.mean.double(), self.var.double().sqrt()
        Q = (noise / std).expand(1, *std.shape).flatten().square().to(self.dtype)
        root, exact = self.root.to(Q), ((u - mean) / std).flatten(1).mT.contiguous()
        rest, moved = exact.to(Q), torch.empty_like(exact)
        alone = (self.diagonal / (self.diagonal + Q))[:, None]
        for blocks, (W, factor) in zip(self.blocks, self._latest(Q, self._factors), strict=True):
            seen = _rows(root, blocks.near).mT @ (W[..., None] * _rows(rest, blocks.near))
            spanned = root[blocks.own] @ torch.cholesky_solve(seen, factor)
            found = spanned + alone[blocks.own] * (exact[blocks.own] - spanned)
            moved[blocks.own[blocks.exists]] = found[blocks.exists]
        return (mean + std * moved.mT.view_as(u)).to(u)

    def single(self) -> FittedLocal:
        """Return the same in single precision, for u whose rounding is single: twice as fast."""
        return replace(self, root=self.root.float(), dtype=torch.float32)

    def _factors(self, Q: Float[Tensor, "size"]) -> list[tuple[Tensor, Tensor]]:
        """W near each block and the Cholesky factor of 1 + Y^T W Y, a batch of blocks each."""
        found, root = [], self.root.to(Q)
        for blocks in self.blocks:
            rho = blocks.taper.to(Q)
            W = rho / (Q[blocks.near] + rho * self.diagonal)
            Y = _rows(root, blocks.near)
            G = (Y * W[..., None]).mT @ Y
            G.diagonal(dim1=-2, dim2=-1).add_(1)
            found.append((W, torch.linalg.cholesky(G)))
        return found

    def sample_members(
        self, members: Float[Tensor, "ensemble ..."], noise: Callable[[], Tensor]
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the members themselves."""
        return members

    def map_latents(
        self, latents: Float[Tensor, "ensemble ..."], rate: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the latents as they are.

        With fewer members than entries they do not fill the space that the diagonal reaches: the
        analysis of a coupled bridge then has less variance than that of C.
        """
        return latents

    @cached_property
    def _latest(self) -> Latest[list[tuple[Tensor, Tensor]]]:
        return Latest()


@dataclass(frozen=True)
class LocalGaussian(PreparedPrior):
    r"""Gaussians of the ensemble near each block of the grid.

    Exact for the covariance C, above, where the radius is infinite, and so for that of the
    ensemble as :math:`\eta \to 0`; else approximate, as the Gaussians of different blocks are not
    of one law. In two dimensions with many points it takes a fraction of the time of a tapered
    covariance (docs/kolmogorov.md).

    For observations of entries (masks, strides, selections with independent errors), and for
    nonlinear ones through the pairs of states and values (``PairsOnGrid``, `augment`).

    Arguments:
        localization: Taper by distance from the centre of a block.
        block: Grid points along each axis of a block, which must lie within the taper's reach.
        diagonal: :math:`\eta` in (0, 1).
    """

    localization: GaspariCohn
    block: int = 1
    diagonal: float = 0.01

    of_entries = True

    def __post_init__(self) -> None:
        if not isinstance(self.localization, GaspariCohn):
            raise ValueError(
                f"Got localization = {self.localization!r}: give a taper, such as "
                "GaspariCohn(0.4)."
            )
        if self.block < 1 or not 0 < self.diagonal < 1:
            raise ValueError(
                f"Got block = {self.block} and diagonal = {self.diagonal}: a LocalGaussian takes "
                "at least one point and a share between 0 and 1."
            )

    def check(self, space: StateSpace) -> None:
        space.check_distances("A LocalGaussian")

    def begin(self, problem: Problem | None) -> LocalRun:
        return LocalRun(self)


@dataclass(frozen=True, eq=False)
class LocalRun(PriorRun):
    """A run of local Gaussians, which keeps its blocks from one fit to the next.

    Arguments:
        settings: Settings of the prior.
    """

    settings: LocalGaussian
    _latest: Latest[tuple[Blocks, ...]] = field(default_factory=Latest, init=False)

    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> FittedLocal:
        if space is None:
            raise ValueError(
                "A LocalGaussian needs the space of the states: run the filter or call "
                "`begin(problem)` first."
            )
        if modes is not None and not modes.trivial:
            raise ValueError(
                "A LocalGaussian takes observations of entries of the state (masks, strides, "
                "selections with independent errors), which have places: use a Gaussian "
                "with localization for any other operator."
            )
        where = space.places(space.positions())
        where = where.repeat(space.size // len(where), 1)
        blocks = self._latest(where, lambda where: self._blocks(where, space, ensemble))
        mean, diagonal = ensemble.mean(0), self.settings.diagonal
        scale, var = ((1 - diagonal) / (len(ensemble) - 1)) ** 0.5, positive(ensemble.var(0))
        root = scale * ((ensemble - mean) / var.sqrt()).flatten(1).mT.contiguous()
        return FittedLocal(mean, root, var, diagonal, blocks)

    def _blocks(
        self, where: Tensor, space: StateSpace | AugmentedSpace, ensemble: Tensor
    ) -> tuple[Blocks, ...]:
        grid = space.space if isinstance(space, AugmentedSpace) else space
        localization, size = self.settings.localization, self.settings.block
        geometry = Geometry(grid, (localization,), size)
        # Which block each point is in, then each entry: simulated observations with the point
        # that is nearest.
        block = torch.empty(geometry.points, dtype=torch.long)
        numbers = torch.arange(len(geometry.members))[:, None].expand_as(geometry.members)
        block[geometry.members[geometry.exists]] = numbers[geometry.exists]
        tree = Near(grid.places(grid.positions()).numpy(), grid)
        nearest = torch.from_numpy(tree.nearest(where[grid.size :].numpy(force=True))[1])
        of = torch.cat((block.repeat(grid.size // geometry.points), block[nearest]))
        own, exists = _grouped(of, len(geometry.members))
        found = []
        corners = grid.positions()[geometry.members]
        far = grid.separation(corners, geometry.centres[:, None])[geometry.exists].max()
        if far >= localization.reach:
            raise ValueError(
                f"Got blocks of {size} points, up to {float(far):.3g} from their centres, "
                f"for a taper that reaches {localization.reach:.3g}: give smaller blocks or "
                "a larger radius."
            )
        for local in geometry.local(where, len(ensemble)):
            number = block[local.points[:, 0]]
            taper = local.root_weights[0].square()
            parts = local.observations.long(), taper, own[number], exists[number]
            rows = max(1, BATCH // (taper.shape[1] * len(ensemble)))
            for batch in zip(*(part.split(rows) for part in parts), strict=True):
                found.append(Blocks(*(part.to(ensemble.device) for part in batch)))
        return tuple(found)


def _rows(x: Float[Tensor, "size columns"], which: Int[Tensor, "blocks near"]) -> Tensor:
    """Return ``x[which]``, several times faster."""
    return x.index_select(0, which.flatten()).view(*which.shape, -1)


def _grouped(
    group: Int[Tensor, "entries"], groups: int
) -> tuple[Int[Tensor, "groups most"], Bool[Tensor, "groups most"]]:
    """Entries of each group, padded to the largest, and which are not padding."""
    counts = group.bincount(minlength=groups)
    order = group.argsort(stable=True)
    place = torch.arange(len(group)) - (counts.cumsum(0) - counts)[group[order]]
    entries = torch.zeros(groups, int(counts.max()), dtype=torch.long)
    entries[group[order], place] = order
    return entries, torch.arange(entries.shape[1]) < counts[:, None]
