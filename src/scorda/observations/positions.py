"""Positions in a space: inside of its domain, on its points, on land, and between which points.

A position has a column for each of `StateSpace.position_names`. Along an axis it lies between two
grid points; where each point of the grid has a position of its own, in a triangle of three.
"""

from __future__ import annotations

import math

import numpy as np

from scorda.core.near import Near
from scorda.core.space import StateSpace
from scorda.observations.triangles import SNAP, triangles_of

__all__ = [
    "corners",
    "extent",
    "inside_domain",
    "nearest_points",
    "on_land",
    "snapped",
    "uses_land",
    "within_a_period",
]


def inside_domain(points: np.ndarray, space: StateSpace) -> np.ndarray:
    """Say whether each position ``(points, columns)`` is within the grid, or on a periodic axis.

    Raises:
        ValueError: If each point of the grid has a position and they span no triangles.
    """
    inside = np.isfinite(points).all(1)
    for column, name in _axes(space):
        if name not in space.period:
            positions = (space.coordinates or {})[name]
            slack = SNAP * _spacing(space, name)
            inside &= points[:, column] >= positions[0] - slack
            inside &= points[:, column] <= positions[-1] + slack
    if space.points is not None:
        if space.sphere is not None:
            inside &= np.abs(points[:, space.sphere[0]]) <= 90.0
        inside[inside] = triangles_of(space).corners(points[inside][:, _free(space)])[2]
    return inside


def on_land(points: np.ndarray, space: StateSpace) -> np.ndarray:
    """Say whether the value at each position would need one from outside of the mask."""
    if space.mask is None:
        return np.zeros(len(points), dtype=bool)
    return uses_land(corners(points, space)[0], space)


def uses_land(index: np.ndarray, space: StateSpace) -> np.ndarray:
    """Say which of ``(points, corners)`` have a corner outside of the mask."""
    if space.mask is None:
        return np.zeros(len(index), dtype=bool)
    return (~space.mask.flatten()[index]).any(1)


def within_a_period(points: np.ndarray, space: StateSpace) -> np.ndarray:
    """Say whether positions on periodic axes are on the grid or at most a period off.

    Longitudes may be counted from -180 or from 0; what is further off has another unit.
    """
    near = np.ones(len(points), dtype=bool)
    for column, name in enumerate(space.position_names):
        length = space.period.get(name)
        if space.points is not None and space.sphere is not None and column == space.sphere[1]:
            length = 360.0
        if length is not None:
            first = space.ranges[name][0]
            near &= np.abs(points[:, column] - first - length / 2) <= 1.5 * length
    return near


def snapped(points: np.ndarray, space: StateSpace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Move positions onto the grid where they are on it up to rounding.

    Returns the positions, the flat index of the grid point next to each, and whether it is there.
    """
    index, on_grid = np.zeros(len(points), dtype=np.int64), np.ones(len(points), dtype=bool)
    grid = np.zeros_like(points)
    if space.points is not None:
        triangles, columns = triangles_of(space), _free(space)
        nearest, on_grid = triangles.snapped(points[:, columns])
        grid[:, columns] = triangles.positions[nearest]
        index = _offsets(space)[nearest]
    for column, name in _axes(space):
        positions = (space.coordinates or {})[name]
        lower, fraction, step = _cell(points[:, column], space, name)
        nearest = np.where(fraction < 0.5, lower, (lower + 1) % len(positions))
        on_grid &= np.minimum(fraction, 1 - fraction) * step <= SNAP * _spacing(space, name)
        grid[:, column] = positions[nearest]
        index = index + nearest * _stride(space, name)
    return np.where(on_grid[:, None], grid, points), index, on_grid


def nearest_points(
    points: np.ndarray, space: StateSpace, within: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat index ``(points, 1)`` of the nearest point of the state to each position.

    The second array says which are within a distance of it, in km on the globe.

    Raises:
        ValueError: If the distance is not positive.
    """
    if not within > 0:
        raise ValueError(f"Got nearest = {within}: give a positive distance.")
    axes = np.meshgrid(*(space.coordinates or {}).values(), indexing="ij")
    columns = axes if space.points is None else list(space.points.values())
    there = np.flatnonzero(space.inside[: math.prod(space.grid)].numpy())
    tree = Near(np.column_stack([x.ravel()[there] for x in columns]), space)
    index, near = np.zeros((len(points), 1), dtype=np.int64), np.isfinite(points).all(1)
    distance, found = tree.nearest(points[near])
    index[near, 0], near[near] = there[found], distance <= within
    return index, near


def corners(points: np.ndarray, space: StateSpace) -> tuple[np.ndarray, np.ndarray]:
    """Return flat index and weight of the corners of each position's cell or triangle."""
    index = np.zeros((len(points), 1), dtype=np.int64)
    weights = np.ones((len(points), 1))
    if space.points is not None:
        found, weights, _ = triangles_of(space).corners(points[:, _free(space)])
        index = _offsets(space)[found]
    for column, name in _axes(space):
        size = len((space.coordinates or {})[name])
        lower, fraction, _ = _cell(points[:, column], space, name)
        sides = np.stack([lower, (lower + 1) % size], -1)
        share = np.stack([1 - fraction, fraction], -1)
        # A corner without weight is the other: outside of a mask it may be NaN, and so 0 times it.
        sides = np.where(share > 0, sides, sides[:, ::-1]) * _stride(space, name)
        shape = len(points), 2 * index.shape[1]
        index = (index[:, :, None] + sides[:, None, :]).reshape(shape)
        weights = (weights[:, :, None] * share[:, None, :]).reshape(shape)
    return index, weights


def extent(space: StateSpace) -> str:
    """Return the range of each column of a position, in words."""
    ranges = (
        f"{name} in [{low:g}, {high:g}]" + (" (periodic)" if name in space.period else "")
        for name, (low, high) in space.ranges.items()
    )
    return ", ".join(ranges)


def _axes(space: StateSpace) -> list[tuple[int, str]]:
    """Return the axes along which points have their positions, and the column of each."""
    return [(i, name) for i, name in enumerate(space.position_names) if name in space.axes]


def _free(space: StateSpace) -> list[int]:
    """Return the columns of which each point has a position of its own."""
    return [i for i, name in enumerate(space.position_names) if name not in space.axes]


def _stride(space: StateSpace, name: str) -> int:
    """Return how far apart in a flattened field neighbours along an axis are."""
    return math.prod(space.grid[space.axes.index(name) + 1 :])


def _offsets(space: StateSpace) -> np.ndarray:
    """Return the place in a flattened field of each point with a position of its own."""
    first = (0 if axis in (space.points or {}) else slice(None) for axis in space.axes)
    return np.arange(math.prod(space.grid)).reshape(space.grid)[tuple(first)].ravel()


def _cell(
    values: np.ndarray, space: StateSpace, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each value's lower grid index, fraction of the way to the next, and cell length."""
    positions = (space.coordinates or {})[name]
    if name in space.period:
        length = space.period[name]
        values = positions[0] + (values - positions[0]) % length
        ends = np.append(positions, positions[0] + length)
    elif len(positions) == 1:
        zero = np.zeros(len(values))
        return zero.astype(np.int64), zero, zero + 1
    else:
        values, ends = np.clip(values, positions[0], positions[-1]), positions
    # A guess that is right where the cells are equally long saves most of the search.
    share = (values - ends[0]) / (ends[-1] - ends[0]) * (len(ends) - 1)
    lower = np.nan_to_num(np.clip(share, 0, len(ends) - 2)).astype(np.int64)
    wrong = ~((ends[lower] <= values) & (values < ends[lower + 1]))
    found = np.searchsorted(ends, values[wrong], side="right") - 1
    lower[wrong] = np.clip(found, 0, len(ends) - 2)
    step = np.diff(ends)[lower]
    return lower, (values - ends[lower]) / step, step


def _spacing(space: StateSpace, name: str) -> float:
    positions = (space.coordinates or {})[name]
    return float(np.diff(positions).min()) if len(positions) > 1 else space.period.get(name, 1.0)
