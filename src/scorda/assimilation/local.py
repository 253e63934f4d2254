"""Local analyses: blocks of a grid and the observations near them, in batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from scorda.core.near import Near, mean_positions
from scorda.core.shapes import Bool, Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn

__all__ = ["Geometry", "Local"]

# Numbers held at once by a batch of local analyses (16 MiB in single precision).
BATCH = 2**22
# A k-d tree finds the observations near blocks where there are more pairs of these than `DENSE`,
# and no more than a `SPARSE` share of the pairs is near. Else all distances are taken.
DENSE = 2**16
SPARSE = 0.2


@dataclass(frozen=True)
class Local:
    """A batch of local analyses, with their points, observations and weights.

    Lists of unequal length are padded: points where `exists` is False, observations where the
    weight is 0. The weights are those of the taper at the distances from the block's centre.
    """

    points: Int[Tensor, "blocks points"]
    exists: Bool[Tensor, "blocks points"]
    observations: Int[Tensor, "blocks near"]
    root_weights: Float[Tensor, "blocks near"]
    distances: Float[Tensor, "blocks near"]

    def to(self, like: Tensor) -> Local:
        """Return the same on the device and in the precision of another tensor."""
        device = like.device
        return Local(
            self.points.to(device),
            self.exists.to(device),
            self.observations.to(device),
            self.root_weights.to(like),
            self.distances.to(like),
        )


class Geometry:
    """Blocks of a grid, and the observations near them; kept until the observations move."""

    def __init__(self, space: StateSpace, taper: GaspariCohn, block: int) -> None:
        self.space, self.taper = space, taper
        # A column that a part lacks does not count in a distance, and must not be NaN.
        positions = space.positions().nan_to_num()
        self.points = len(positions)
        self.members, self.exists = _blocks_of(space, block)
        corners = positions[self.members] * self.exists.unsqueeze(-1)
        self.centres = corners.sum(1) / self.exists.sum(1, keepdim=True)
        if space.points is not None and block > 1:
            self.centres = mean_positions(positions[self.members], self.exists, space)
        self.where: Tensor | None = None
        self.ensemble = 0
        self.batches: list[Local] = []

    def local(self, where: Float[Tensor, "obs axes"], ensemble: int) -> list[Local]:
        """Return batches of local analyses for observations at given positions."""
        where = where.nan_to_num()
        same = self.where is not None and self.ensemble == ensemble
        if not (same and self.where is not None and torch.equal(self.where, where)):
            self.batches = self._near(where, ensemble)
            self.where, self.ensemble = where, ensemble
        return self.batches

    def _near(self, where: Tensor, ensemble: int) -> list[Local]:
        batches = []
        width = len(where) * (where.shape[1] + 1)
        tree = self._tree(where)
        for rows in torch.arange(len(self.centres)).split(max(1, BATCH // width)):
            weights = self._weights(self.centres[rows], where, tree)
            counts = (weights > 0).sum(1)
            near = int(counts.max())
            if not near:
                continue
            # Sorted by weight, so that what is cut off has weight 0.
            values, indices = weights.topk(near, dim=1)
            rows, values, indices = (part[counts > 0] for part in (rows, values, indices))
            far = self.space.separation(self.centres[rows][:, None], where[indices])
            parts = rows, indices, values.sqrt(), far
            size = self._batch(ensemble, near)
            for r, *rest in zip(*(part.split(size) for part in parts), strict=True):
                batches.append(Local(self.members[r], self.exists[r], *rest))
        return batches

    def _tree(self, where: Tensor) -> Near | None:
        """Return a tree of the observations if it is faster than all distances."""
        reach, pairs = self.taper.reach, len(self.centres) * len(where)
        if not np.isfinite(reach) or pairs <= DENSE:
            return None
        tree = Near(where.numpy(force=True), self.space)
        near = Near(self.centres.numpy(force=True), self.space).count(tree, reach)
        return tree if near <= SPARSE * pairs else None

    def _weights(
        self, centres: Tensor, where: Tensor, tree: Near | None
    ) -> Float[Tensor, "blocks obs"]:
        """Return the weight of each observation for each block."""
        if tree is None:
            return self.taper(self.space.distance(centres, where))
        found = Near(centres.numpy(force=True), self.space).pairs(tree, self.taper.reach)
        block, observation = (torch.from_numpy(index) for index in found)
        near = self.taper(self.space.separation(centres[block], where[observation]))
        weights = near.new_zeros(len(centres), len(where))
        weights[block, observation] = near
        return weights

    @staticmethod
    def _batch(ensemble: int, near: int) -> int:
        smaller = min(ensemble, near)
        return max(1, BATCH // (ensemble * (ensemble + near) + 2 * smaller**2))


def _blocks_of(
    space: StateSpace, block: int
) -> tuple[Int[Tensor, "blocks points"], Bool[Tensor, "blocks points"]]:
    """Indices of the points of each block, or, in a space of parts, of its entries.

    The variables of a part share the blocks of its grid.
    """
    if space.parts is None:
        return _blocks(space, block)
    found, first = [], 0
    for part in space.pieces:
        tiles, exists = _blocks(part, block)
        points = part.size // len(part.variables)
        starts = first + points * torch.arange(len(part.variables))
        tiles = (tiles[:, None] + starts[:, None]).flatten(1)
        found.append((tiles, exists.repeat(1, len(starts))))
        first += part.size
    width = max(tiles.shape[1] for tiles, _ in found)
    members, exists = (
        torch.cat([F.pad(part, (0, width - part.shape[1])) for part in parts])
        for parts in zip(*found, strict=True)
    )
    return members, exists


def _blocks(
    space: StateSpace, block: int
) -> tuple[Int[Tensor, "blocks points"], Bool[Tensor, "blocks points"]]:
    """Indices of the grid points of each block, padded where a block has fewer than others.

    A block is a tile of the grid; of points along one axis it is a group that recursive halving
    at the median of the widest extent leaves, of about ``block ** columns`` points.
    """
    grid = space.grid
    if space.points is not None and len(grid) == 1 and block > 1:
        columns = 2 if space.sphere is not None else len(space.position_names)
        groups = _halved(Near(space.positions().numpy(), space).embedded, block**columns)
        members = torch.full((len(groups), max(map(len, groups))), -1)
        for row, group in zip(members, groups, strict=True):
            row[: len(group)] = torch.from_numpy(group)
        return members.clamp_min(0), members >= 0
    points = torch.arange(max(1, int(torch.tensor(grid).prod()))).reshape(grid)
    padded = torch.full([-(-n // block) * block for n in grid], -1)
    padded[tuple(slice(n) for n in grid)] = points
    split = [size for n in padded.shape for size in (n // block, block)]
    axes = [*range(0, 2 * len(grid), 2), *range(1, 2 * len(grid), 2)]
    tiles = padded.reshape(split).permute(axes).reshape(-1, block ** len(grid))
    exists = tiles >= 0
    return tiles.clamp_min(0), exists


def _halved(positions: np.ndarray, most: int) -> list[np.ndarray]:
    """Return the indices of positions in groups of near ones, none larger than `most`."""
    groups, left = [], [np.arange(len(positions))]
    while left:
        group = left.pop()
        if len(group) <= most:
            groups.append(np.sort(group))
            continue
        widest = int(np.ptp(positions[group], axis=0).argmax())
        order = group[positions[group, widest].argsort(kind="stable")]
        left += [order[len(order) // 2 :], order[: len(order) // 2]]
    return groups
