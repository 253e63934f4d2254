r"""Triangles between the points of a curvilinear or unstructured grid, and weights in them.

On a plane the triangles are those of Delaunay, repeated over the periods. On the globe they are
those of the spherical Delaunay triangulation. A stereographic projection turns it into the plane
one, since circles remain circles: of the half of the globe around the mean direction c of the
points (the north pole, where they have none), and of the other half where a position is there.

The weights of a position p in a triangle with corners v are barycentric. On the globe p and v are
unit vectors, and the weights depend on no projection:

.. math:: \sum_i \tilde w_i v_i = p, \quad w = \tilde w / \sum_i \tilde w_i

Linear functions of the unit vector have at p exactly the value of :math:`\tilde w`; that of w is
theirs where the line from the centre of the globe to p meets the plane of the triangle, nearer by
:math:`O(h^2)` for triangles of size h. So w is exact for constants, and of second order.

The triangles fill the convex hull of the points, and all of the globe where these lie in no half
of it. Axes whose names are among those of the points, such as levels, have no part in them.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
import torch
from scipy.spatial import Delaunay, QhullError, cKDTree

from scorda.core.near import Near, points_alone
from scorda.core.space import StateSpace
from scorda.core.sphere import unit_vectors

__all__ = ["SNAP", "Triangles", "triangles_of"]

# Positions are taken as grid points, and as inside the domain, within this part of the spacing:
# coordinates stored in single precision stay the ones that they were.
SNAP = 1e-3
# Points farther from the centre of a projection, 150 degrees, are left out of it.
FARTHEST = np.cos(np.radians(150.0))
# Steps from triangle to triangle: the first is found in the projection, or is next to the nearest
# point, and the right one is near.
STEPS = 100
# Weights that are smaller are rounding.
ROUNDING = 1e-12
# A triangle whose area is less, as a share of the square of its longest side, is a line.
FLAT = 1e-9


class Triangles:
    """Triangles between points: of two columns of positions, or tetrahedra of three on a plane.

    Arguments:
        space: Space of the points alone.
    """

    def __init__(self, space: StateSpace) -> None:
        self.space = space
        self.positions = np.column_stack([x.ravel() for x in (space.points or {}).values()])
        self.near = Near(self.positions, space)

    def corners(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return corners and weights of each position, and whether it is in some triangle.

        A corner without weight is one that has some.

        Raises:
            ValueError: If the points span no triangle.
        """
        found = np.zeros((len(positions), 3 if self._globe else positions.shape[1] + 1), int)
        weights, inside = np.zeros(found.shape), np.zeros(len(positions), dtype=bool)
        place = self._placed(positions)
        north = place @ self._centre >= 0 if self._globe else np.ones(len(place), dtype=bool)
        for half in (True, False):
            rows = np.flatnonzero(north == half)
            triangles = None if not len(rows) else self._first if half else self._second
            if triangles is not None:
                found[rows], weights[rows], inside[rows] = triangles.located(place[rows])
        weights = np.where(weights < ROUNDING, 0.0, weights)
        weights /= np.where(inside, weights.sum(1), 1.0)[:, None]
        largest = np.take_along_axis(found, weights.argmax(1)[:, None], 1)
        return np.where(weights > 0, found, largest), weights, inside

    def snapped(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the point nearest to each position, and whether it is there up to rounding."""
        distance, index = self.near.nearest(positions)
        return index, distance <= SNAP * self.near.spacing[index]

    @property
    def _globe(self) -> bool:
        return self.space.sphere is not None

    def _placed(self, positions: np.ndarray) -> np.ndarray:
        """Return unit vectors on the globe; on a plane positions within the first period."""
        if self._globe:
            north, east = (torch.from_numpy(positions[:, i]) for i in self.space.sphere or ())
            return unit_vectors(north, east).numpy()
        place = positions.astype(float)
        for column, name in enumerate(self.space.position_names):
            if name in self.space.period:
                low, length = self.space.ranges[name][0], self.space.period[name]
                place[:, column] = low + (place[:, column] - low) % length
        return place

    @cached_property
    def _centre(self) -> np.ndarray:
        mean = self._placed(self.positions).mean(0)
        far = float(np.linalg.norm(mean))
        return mean / far if far > 1e-3 else np.array([0.0, 0.0, 1.0])

    @cached_property
    def _first(self) -> _Half:
        place = self._placed(self.positions)
        if self._globe:
            return _Half.around(self._centre, place)
        index = np.arange(len(place))
        for column, name in enumerate(self.space.position_names):
            if name not in self.space.period:
                continue
            # Half a period on each side: no triangle of use is longer.
            low, length = self.space.ranges[name][0], self.space.period[name]
            turns = [place + turn * length * np.eye(place.shape[1])[column] for turn in (-1, 0, 1)]
            place, index = np.concatenate(turns), np.tile(index, 3)
            kept = np.abs(place[:, column] - low - length / 2) <= length
            place, index = place[kept], index[kept]
        return _Half(place, place, index)

    @cached_property
    def _second(self) -> _Half | None:
        try:
            return _Half.around(-self._centre, self._placed(self.positions))
        except ValueError:
            # The points of a region do not reach the other half.
            return None


class _Half:
    """A triangulation of points of a plane, or of a half of the globe in a projection.

    Arguments:
        plane: Points in the plane.
        corners: The same points as positions that have weights: on the globe unit vectors.
        index: Which point of the grid each is.
        axes: Axes of a projection and its centre, rows of unit vectors; None on a plane.
    """

    def __init__(
        self,
        plane: np.ndarray,
        corners: np.ndarray,
        index: np.ndarray,
        axes: np.ndarray | None = None,
    ) -> None:
        self.corners, self.index, self.axes = corners, index, axes
        try:
            self.mesh = Delaunay(plane)
        except (QhullError, ValueError) as error:
            raise ValueError(
                f"Got {len(plane)} points that span no triangle: give `nearest`, the distance up "
                "to which the nearest point is observed."
            ) from error

    @classmethod
    def around(cls, centre: np.ndarray, vectors: np.ndarray) -> _Half:
        """Return the triangulation of the points around a centre on the globe."""
        axes = np.concatenate((np.linalg.svd(centre[None])[2][1:], centre[None]))
        kept = np.flatnonzero(vectors @ centre > FARTHEST)
        return cls(_projected(vectors[kept], axes), vectors[kept], kept, axes)

    def located(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return corners and weights of each place, and whether it is in its triangle."""
        plane = place if self.axes is None else _projected(place, self.axes)
        at = self.mesh.find_simplex(plane)
        # Sides of the hull on the globe are arcs, which reach over those of the projection.
        lost = np.flatnonzero(at < 0)
        if len(lost):
            nearest = cKDTree(self.mesh.points).query(plane[lost])[1]
            at[lost] = np.maximum(self.mesh.vertex_to_simplex[nearest], 0)
        weights = self._weights(at, place)
        moving = np.flatnonzero((weights < -ROUNDING).any(1))
        for _ in range(STEPS):
            # Across the side from which the place is farthest, if there is a triangle behind.
            behind = self.mesh.neighbors[at[moving]]
            outwards = np.where(behind >= 0, weights[moving], np.inf)
            side = outwards.argmin(1)
            goes = outwards.min(1) < -ROUNDING
            moving, behind, side = moving[goes], behind[goes], side[goes]
            if not len(moving):
                break
            at[moving] = behind[np.arange(len(moving)), side]
            weights[moving] = self._weights(at[moving], place[moving])
        inside = np.asarray((weights >= -SNAP).all(1))
        return self.index[self.mesh.simplices[at]], np.where(inside[:, None], weights, 0), inside

    def _weights(self, at: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Return the weights of the corners of triangles, negative beyond the opposite side."""
        v = self.corners[self.mesh.simplices[at]]
        if self.axes is None:
            v = np.concatenate((v, np.ones((*v.shape[:2], 1))), 2)
            place = np.column_stack((place, np.ones(len(place))))
        # A triangle without area has none.
        side = np.linalg.norm(v - np.roll(v, 1, axis=1), axis=2).max(1)
        flat = np.abs(np.linalg.det(v)) <= FLAT * side**self.mesh.ndim
        v[flat] = np.eye(v.shape[1])
        solved = np.linalg.solve(v.mT, place[:, :, None])[..., 0]
        solved[flat] = -1.0
        total = np.abs(solved.sum(1, keepdims=True))
        return solved / np.where(total > 0, total, 1.0)


def _projected(vectors: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Project unit vectors onto a plane from the point opposite to the centre."""
    return vectors @ axes[:2].T / (1 + vectors @ axes[2])[:, None]


def triangles_of(space: StateSpace) -> Triangles:
    """Return the triangles between the points of a space, which are made once.

    Raises:
        ValueError: If the positions are no plane ones, nor latitudes and longitudes, or change
            along an axis that is a position itself.
    """
    alone = points_alone(space)
    names = alone.position_names
    # Of three positions on the globe one is no axis and no part of the sphere.
    if len(names) not in ((2,) if space.sphere else (2, 3)):
        raise ValueError(
            f"Got positions {list(space.position_names)}: triangles need two names on the globe, "
            "two or three elsewhere; give `nearest`, the distance up to which the nearest point "
            "is observed."
        )
    units, period = tuple(alone.units.items()), tuple(alone.period.items())
    places = np.stack(list((alone.points or {}).values()))
    return _made(names, places.tobytes(), units, period)


@lru_cache(maxsize=4)
def _made(
    names: tuple[str, ...],
    places: bytes,
    units: tuple[tuple[str, str], ...],
    period: tuple[tuple[str, float], ...],
) -> Triangles:
    points = dict(zip(names, np.frombuffer(places).reshape(len(names), -1), strict=True))
    space = StateSpace(
        points[names[0]].shape,
        coordinates={"index of the point": np.arange(len(points[names[0]]))},
        period=dict(period),
        units=dict(units),
        points=points,
    )
    return Triangles(space)
