r"""Near positions in a space, by a k-d tree.

The tree holds positions as they are, or on the globe as unit vectors, whose distance is the chord
:math:`2 \sin (d / 2 R)` of a great circle of length d. It knows periodic positions.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from scipy.spatial import cKDTree

from scorda.core.shapes import Bool, Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.sphere import EARTH_RADIUS, HALF_CIRCUMFERENCE, unit_vectors

__all__ = ["Near", "mean_positions", "points_alone"]

# Distances in single precision are off by less, as a share of them or of the globe's radius.
SLACK = 1e-5


class Near:
    """Positions ``(points, columns)`` of a space, asked for those near others.

    What has no position is near all others.

    Arguments:
        positions: Positions, in the columns of the space; infinite where there is none
            (`StateSpace.places`).
        space: Their space, which says what a distance is.
    """

    def __init__(self, positions: np.ndarray, space: StateSpace) -> None:
        self.space = space
        self._placed, self._nowhere = _parted(positions, space)
        self._tree = cKDTree(self._embedded(positions[self._placed]), boxsize=self._box)

    @property
    def embedded(self) -> np.ndarray:
        """Return the positions as they are in the tree."""
        return self._tree.data

    def nearest(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the distance and the index of the nearest position to each of some others."""
        placed, nowhere = _parted(positions, self.space)
        distance, index = np.zeros(len(positions)), np.zeros(len(positions), np.int64)
        chord, found = self._tree.query(self._embedded(positions[placed]))
        distance[placed], index[placed] = self._arc(chord), self._placed[found]
        index[nowhere] = (self._nowhere if len(self._nowhere) else self._placed)[0]
        return distance, index

    def pairs(self, other: Near, reach: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of all pairs within a distance, or a little farther, in any order."""
        chord = self._chord(reach)
        found = self._tree.sparse_distance_matrix(other._tree, chord, output_type="ndarray")
        if not len(self._nowhere) and not len(other._nowhere):
            return found["i"], found["j"]
        first, second = self._placed[found["i"]], other._placed[found["j"]]
        rows = np.concatenate(
            [self._nowhere.repeat(len(other)), self._placed.repeat(other._alone)]
        )
        columns = np.concatenate(
            [
                np.tile(np.arange(len(other)), self._alone),
                np.tile(other._nowhere, len(self._placed)),
            ]
        )
        return np.concatenate([first, rows]), np.concatenate([second, columns])

    def count(self, other: Near, reach: float) -> int:
        """Return how many pairs there are within a distance, or a little farther."""
        near = int(self._tree.count_neighbors(other._tree, self._chord(reach)))
        return near + self._alone * len(other) + len(self._placed) * other._alone

    def __len__(self) -> int:
        return len(self._placed) + self._alone

    @property
    def _alone(self) -> int:
        return len(self._nowhere)

    @cached_property
    def spacing(self) -> np.ndarray:
        """Return the distance of each position from the next one, 0 where two are the same."""
        if self._tree.n == 1:
            return np.ones(1)
        return self._arc(self._tree.query(self._tree.data, k=2)[0][:, 1])

    @property
    def _box(self) -> list[float] | None:
        lengths = [self.space.period.get(name, 0.0) for name in self.space.position_names]
        return lengths if self.space.sphere is None and any(lengths) else None

    def _embedded(self, positions: np.ndarray) -> np.ndarray:
        if self.space.sphere is not None:
            north, east = (torch.from_numpy(positions[:, i]) for i in self.space.sphere)
            return unit_vectors(north, east).numpy()
        if self._box is None:
            return positions.astype(float)
        box = np.array(self._box)
        inside = np.where(box > 0, positions % np.where(box > 0, box, 1.0), positions)
        # The remainder of a tiny negative number is the period itself, by rounding.
        return np.where((box > 0) & (inside >= box), 0.0, inside)

    def _chord(self, distance: float) -> float:
        """Return what separates positions of that distance in the tree, and a little more."""
        if self.space.sphere is None:
            return distance * (1 + SLACK)
        return 2 * math.sin(min(distance, HALF_CIRCUMFERENCE) / (2 * EARTH_RADIUS)) + SLACK

    def _arc(self, chord: np.ndarray) -> np.ndarray:
        if self.space.sphere is None:
            return chord
        return 2 * EARTH_RADIUS * np.arcsin(np.clip(chord / 2, 0, 1))


def _parted(positions: np.ndarray, space: StateSpace) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of what has a position, and of what has none."""
    needed = positions if space.sphere is None else positions[:, list(space.sphere)]
    placed = np.isfinite(needed).all(1) if space.parts is not None else np.ones(len(needed), bool)
    return np.flatnonzero(placed), np.flatnonzero(~placed)


def points_alone(space: StateSpace) -> StateSpace:
    """Return the space of points with a position of their own, on one axis.

    Axes whose names are among those of the points, such as levels, have no part in it.

    Raises:
        ValueError: If positions change along such an axis.
    """
    columns = {n: x for n, x in (space.points or {}).items() if n not in space.axes}
    other = tuple(i for i, axis in enumerate(space.axes) if axis in (space.points or {}))
    for name, x in columns.items():
        if other and np.ptp(x, axis=other).any():
            raise ValueError(
                f"Got positions {name!r} that change along {[space.axes[i] for i in other]}: they "
                "must be the same there for triangles and fields; give `nearest`, or arrays."
            )
        columns[name] = x[tuple(0 if i in other else slice(None) for i in range(x.ndim))].ravel()
    size = len(next(iter(columns.values())))
    return StateSpace(
        (size,),
        coordinates={"index of the point": np.arange(size)},
        period={n: length for n, length in space.period.items() if n in columns},
        units={n: unit for n, unit in space.units.items() if n in columns},
        points=columns,
    )


def mean_positions(
    members: Float[Tensor, "blocks points columns"],
    exists: Bool[Tensor, "blocks points"],
    space: StateSpace,
) -> Float[Tensor, "blocks columns"]:
    """Return the mean position of some points of each block, also where it crosses a seam."""
    share = (exists / exists.sum(1, keepdim=True)).unsqueeze(-1).to(members)
    # From the first point of a block, the shortest way round.
    gap = members - members[:, :1]
    for column, name in enumerate(space.position_names):
        if name in space.period:
            length = space.period[name]
            gap[..., column] = (gap[..., column] + length / 2) % length - length / 2
    centres = members[:, 0] + (gap * share).sum(1)
    if space.sphere is not None:
        north, east = space.sphere
        mean = (unit_vectors(members[..., north], members[..., east]) * share).sum(1)
        level = mean[:, :2].norm(dim=1)
        centres[:, north] = torch.atan2(mean[:, 2], level).rad2deg().to(centres)
        centres[:, east] = torch.atan2(mean[:, 1], mean[:, 0]).rad2deg().to(centres)
    return centres
