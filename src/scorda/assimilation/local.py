"""Local analyses: blocks of a grid and the observations near them, in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from scorda.core.latest import LatestOf
from scorda.core.near import Near, mean_positions
from scorda.core.shapes import Bool, Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.observations.problem import Problem

__all__ = ["Geometry", "Local", "NearBlocks"]

# Numbers held at once by a batch of local analyses (16 MiB in single precision).
BATCH = 2**22
# Pairs of a block and an observation that are searched for at once, in a processor's cache, and
# the blocks from which their number is estimated.
PAIRS, SAMPLE = 2**16, 256


@dataclass(frozen=True)
class Local:
    """A batch of local analyses, with their points, observations and weights.

    Lists of unequal length are padded: points where `exists` is False, observations where the
    weights are 0. The weights are those of the tapers at the distances from the block's centre.
    """

    points: Int[Tensor, "blocks points"]
    exists: Bool[Tensor, "blocks points"]
    observations: Int[Tensor, "blocks near"]
    root_weights: tuple[Float[Tensor, "blocks near"], ...]

    def to(self, like: Tensor) -> Local:
        """Return the same on the device and in the precision of another tensor."""
        device = like.device
        return Local(
            self.points.to(device),
            self.exists.to(device),
            self.observations.to(device, torch.long),
            tuple(root.to(like) for root in self.root_weights),
        )

    def columns(
        self, states: Float[Tensor, "points ensemble variables"]
    ) -> Float[Tensor, "blocks ensemble columns"]:
        """Return the states of each block, with one column per point and variable."""
        return states[self.points].transpose(1, 2).flatten(2)

    def write(
        self,
        columns: Float[Tensor, "blocks ensemble columns"],
        states: Float[Tensor, "points ensemble variables"],
    ) -> None:
        """Write what `columns` returned, or what became of it, into states."""
        points = columns.unflatten(2, (self.points.shape[1], -1)).transpose(1, 2)
        states[self.points[self.exists]] = points[self.exists].to(states)


@dataclass(frozen=True)
class NearBlocks:
    """Blocks, the observations near them, padded to the longest list, and their weights."""

    blocks: Int[Tensor, "blocks"]
    observations: Int[Tensor, "blocks near"]
    root_weights: tuple[Float[Tensor, "blocks near"], ...]


class Geometry:
    """Blocks of a grid, and the observations near them; kept until the observations move.

    A k-d tree finds the observations. The lists are a function of the space, the settings and the
    positions alone, and take eight bytes for each pair of a block and an observation near it.

    Arguments:
        space: Space of the states.
        tapers: Tapers by distance. What is beyond the reach of the first is not near.
        block: Grid points along each axis of a block.
        tile: Grid points along each axis of a tile, whose blocks are made into batches together;
            None: blocks that follow one another are.
    """

    def __init__(
        self,
        space: StateSpace,
        tapers: tuple[GaspariCohn, ...],
        block: int,
        tile: int | None = None,
    ) -> None:
        self.space, self.tapers = space, tapers
        positions = space.places(space.positions())
        self.points = len(positions)
        self.members, self.exists = _blocks_of(space, block)
        corners = positions[self.members] * self.exists.unsqueeze(-1)
        self.centres = corners.sum(1) / self.exists.sum(1, keepdim=True)
        if space.points is not None and block > 1:
            self.centres = mean_positions(positions[self.members], self.exists, space)
        self.tiles = None if tile is None else _tiles(space, self.members, tile)
        self._latest: tuple[Tensor, list[list[NearBlocks]]] | None = None

    @staticmethod
    def of(
        problem: Problem,
        tapers: tuple[GaspariCohn, ...],
        block: int,
        tile: int | None = None,
    ) -> Geometry:
        """Return the geometry of a problem's space, one for all runs of the problem in turn."""
        settings = tapers, block, tile
        return _latest(problem, settings, lambda: Geometry(problem.space, *settings))

    def local(self, where: Float[Tensor, "obs axes"], ensemble: int) -> Iterator[Local]:
        """Yield batches of local analyses for observations at given positions."""
        for lists in self.lists(where):
            yield from self.batches(lists, ensemble)

    def lists(self, where: Float[Tensor, "obs axes"]) -> list[list[NearBlocks]]:
        """Return the observations near the blocks of each tile."""
        where = self.space.places(where)
        latest = self._latest
        if latest is None or not torch.equal(latest[0], where):
            self._latest = latest = where, self._near(where)
        return latest[1]

    def batches(self, lists: list[NearBlocks], ensemble: int) -> Iterator[Local]:
        """Yield the local analyses of some lists in batches that fit an ensemble."""
        for near in lists:
            size = _batch(ensemble, near.observations.shape[1])
            for rows in torch.arange(len(near.blocks)).split(size):
                # The lists grow: the last one of a batch is its longest.
                longest = int((near.root_weights[0][rows[-1]] > 0).sum())
                roots = tuple(root[rows, :longest] for root in near.root_weights)
                blocks, observations = near.blocks[rows], near.observations[rows, :longest]
                yield Local(self.members[blocks], self.exists[blocks], observations, roots)

    def _near(self, where: Tensor) -> list[list[NearBlocks]]:
        """Search the observations near the blocks of each tile."""
        reach = self.tapers[0].reach
        tree = Near(where.numpy(force=True), self.space) if np.isfinite(reach) else None
        near = float(len(where))
        if tree is not None:
            some = self.centres[:: max(1, len(self.centres) // SAMPLE)].numpy(force=True)
            near = Near(some, self.space).count(tree, reach) / len(some)
        rows = int(PAIRS / max(near, 1)) or 1
        tiles = self.tiles or torch.arange(len(self.centres)).split(rows)
        return [
            [near for blocks in tile.split(rows) for near in self._found(blocks, where, tree)]
            for tile in tiles
        ]

    def _found(self, blocks: Tensor, where: Tensor, tree: Near | None) -> list[NearBlocks]:
        """Return the lists of some blocks, those of like length in one."""
        if tree is None:
            found = np.divmod(np.arange(len(blocks) * len(where)), len(where))
        else:
            centres = Near(self.centres[blocks].numpy(force=True), self.space)
            found = centres.pairs(tree, self.tapers[0].reach)
        block, observation = (torch.from_numpy(index) for index in found)
        origin = self.centres[blocks].index_select(0, block)
        far = self.space.separation(origin, where.index_select(0, observation))
        values = [taper(far) for taper in self.tapers]
        near = values[0].nonzero()[:, 0]
        block = block.index_select(0, near)
        counts = block.bincount(minlength=len(blocks))
        order = counts.argsort(stable=True)
        order = order[counts[order] > 0]
        rank = torch.empty_like(counts)
        rank[order] = torch.arange(len(order))
        # By block, and in it by observation: a function of the positions, whatever the tree.
        key = rank.index_select(0, block) * len(where) + observation.index_select(0, near)
        near = near.index_select(0, key.argsort())
        parts = [part.index_select(0, near) for part in (observation.int(), *values)]
        parts = [parts[0], *(weights.sqrt() for weights in parts[1:])]
        return list(_padded(blocks[order], counts[order], parts))


# A run in units of a store begins anew in each of them.
_latest: LatestOf[Geometry] = LatestOf()


def _padded(blocks: Tensor, counts: Tensor, parts: list[Tensor]) -> Iterator[NearBlocks]:
    """Yield lists of increasing length, ``counts``, that follow one another, padded with 0."""
    ends = counts.cumsum(0)
    first = 0
    while first < len(blocks):
        begin = int(ends[first] - counts[first])
        # A list of half its length or less would be mostly padding.
        last = int(torch.searchsorted(counts, 2 * counts[first], right=True))
        near = torch.arange(int(counts[last - 1])) < counts[first:last, None]
        filled = []
        for part in parts:
            padded = part.new_zeros(near.shape)
            padded[near] = part[begin : int(ends[last - 1])]
            filled.append(padded)
        yield NearBlocks(blocks[first:last], filled[0], tuple(filled[1:]))
        first = last


def _batch(ensemble: int, near: int) -> int:
    """Return how many local analyses are made at once."""
    smaller = min(ensemble, near)
    return max(1, BATCH // (ensemble * (ensemble + near) + 2 * smaller**2))


def _tiles(space: StateSpace, members: Tensor, tile: int) -> list[Int[Tensor, "blocks"]]:
    """Return the blocks of each tile, by the tile that a block's first point is in."""
    points, exists = _blocks_of(space, tile)
    of = torch.empty(int(points.max()) + 1, dtype=torch.long)
    of[points[exists]] = torch.arange(len(points))[:, None].expand_as(points)[exists]
    number = of[members[:, 0]]
    order = number.argsort(stable=True)
    return list(order.split(number.bincount(minlength=len(points)).tolist()))


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
