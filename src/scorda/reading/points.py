"""Positions of points: latitudes and longitudes that are no axes of a grid.

A data set has them as coordinates ``lat(y, x)`` and ``lon(y, x)``, or ``lat(cell)`` and
``lon(cell)``. Fields of such a data set are aligned with a space by these positions alone, in
whatever order they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scorda.core.near import Near, points_alone
from scorda.core.space import StateSpace
from scorda.core.sphere import EARTH_RADIUS, is_latitude, is_longitude
from scorda.reading.blocks import in_blocks
from scorda.reading.opening import Source, name_of
from scorda.reading.roles import role_of_name

if TYPE_CHECKING:
    import xarray

    from scorda.reading.gridded import Gridded

__all__ = ["at_points", "free_axes", "place_names", "points_of", "with_places"]

# Positions are the same within this share of the distance to the next point, or of the largest.
SAME, DIGITS = 1e-3, 1e-6
ROLES = ("latitude", "longitude")


def with_places(dataset: xarray.Dataset, variables: Sequence[str] = ()) -> xarray.Dataset:
    """Make coordinates of the data variables that are latitudes and longitudes of points."""
    found = [
        str(name)
        for name, values in dataset.data_vars.items()
        if name not in variables and "time" not in values.dims and _role(values, str(name))
    ]
    return dataset.set_coords(found)


def place_names(
    data: xarray.Dataset, source: Source, wanted: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the coordinates that are positions of points; none where axes have the positions.

    Arguments:
        data: Variables on common axes, with all their coordinates.
        source: Where they are from, for errors.
        wanted: Names of positions that the caller knows.

    Raises:
        ValueError: If several coordinates are latitudes, or longitudes, or a position is missing.
    """
    moving = {"time", "series"}
    there = {
        str(n): c
        for n, c in data.coords.items()
        if c.ndim and n not in data.dims and not moving & set(c.dims)
    }
    if wanted and set(wanted) <= set(there):
        return tuple(wanted)
    told = {
        name
        for values in data.data_vars.values()
        for name in str(values.encoding.get("coordinates", "")).split()
    }
    found = []
    for role in ROLES:
        names = [n for n, c in there.items() if _role(c, n) == role]
        names = [n for n in names if n in told] or names
        if any(_role(data[d], str(d)) == role for d in data.dims if d in data.coords):
            return ()
        if len(names) > 1:
            raise ValueError(
                f"{name_of(source)} has several coordinates of {role}, {names}: leave all but one "
                "out, or name the one in the attribute `coordinates` of the variables."
            )
        found += names
    if len(found) < 2 or set(there[found[0]].dims) != set(there[found[1]].dims):
        return ()
    for name in found:
        if missing := int(np.isnan(there[name].values.astype(float)).sum()):
            raise ValueError(
                f"{name_of(source)} lacks {name} of {missing} points: give a position to each."
            )
    return tuple(found)


def points_of(found: Gridded, data: xarray.Dataset) -> dict[str, np.ndarray] | None:
    """Return the positions of the points of a grid for `StateSpace.points`, or None."""
    if not found.places:
        return None
    along = [axis for axis in found.axes if axis not in data[found.places[0]].dims]
    sizes = tuple(data.sizes[axis] for axis in found.axes)
    points = {}
    for name in (*along, *found.places):
        own = [axis for axis in found.axes if axis in data[name].dims]
        shape = [data.sizes[axis] if axis in own else 1 for axis in found.axes]
        values = data[name].transpose(*own).values.astype(float)
        points[name] = np.broadcast_to(values.reshape(shape), sizes).copy()
    return points


def free_axes(space: StateSpace) -> list[str]:
    """Return the axes along which points have positions of their own."""
    return [] if space.points is None else [a for a in space.axes if a not in space.points]


def at_points(
    data: xarray.Dataset,
    found: Gridded,
    space: StateSpace,
    source: Source,
    partly: bool,
    notes: list[str],
) -> tuple[xarray.Dataset, list[str]]:
    """Select the points of a space by their positions, and name the axes that these replace.

    Arguments:
        data: The variables of `found`.
        found: What was understood of the source.
        space: Space with `points`.
        source: Where the data are from, for errors.
        partly: Whether some points may be missing; they are NaN.
        notes: What was changed, to add to.

    Raises:
        ValueError: If there are no positions, or they are those of other points.
    """
    import xarray

    alone = points_alone(space)
    given, dims = _given(data, found, alone, source)
    wanted = np.column_stack([x.ravel() for x in (alone.points or {}).values()])
    index, missing = _matched(given, wanted, alone)
    _, other = _matched(wanted, given, alone)
    if missing.all() or (missing.any() and not partly) or (partly and other.any()):
        place = wanted[missing.argmax()] if missing.any() else given[other.argmax()]
        raise ValueError(
            f"{name_of(source)} has {len(given)} points and the space {len(wanted)}: "
            f"{'each must be a point' if partly else 'it needs all points'} of the space, and "
            f"{tuple(round(float(x), 6) for x in place)} is one of the "
            f"{'space' if missing.any() else 'source'} alone."
        )
    if missing.any():
        notes.append(f"without {int(missing.sum())} of {len(wanted)} points")
    axes = free_axes(space)
    sizes = [data.sizes[d] for d in dims]
    grid = [len((space.coordinates or {})[axis]) for axis in axes]
    data = data.drop_vars([n for n in (*dims, *found.places) if n in data.coords])
    if sizes == grid and (index == np.arange(len(index))).all():
        data = data.rename(dict(zip(dims, axes, strict=True)))
    else:
        where = np.unravel_index(index, sizes)
        data = data.isel({d: (axes, i.reshape(grid)) for d, i in zip(dims, where, strict=True)})
    data = data.assign_coords({axis: (axis, (space.coordinates or {})[axis]) for axis in axes})
    if missing.any():
        data = in_blocks(data).where(xarray.DataArray(~missing.reshape(grid), dims=axes))
    return data, dims


def _given(
    data: xarray.Dataset, found: Gridded, alone: StateSpace, source: Source
) -> tuple[np.ndarray, list[str]]:
    """Return the positions of the points of a source, flattened, and their dimensions."""
    own = {role: name for name, role in found.roles.items()}
    of_points = {_role(data[n], n) or n: n for n in found.places}
    names = []
    for column, name in enumerate(alone.position_names):
        role = None if alone.sphere is None else ROLES[alone.sphere.index(column)]
        names.append(of_points.get(role or name) or own.get(role or name))
    if None in names:
        raise ValueError(
            f"{name_of(source)} has the axes {list(found.axes)} without a position of each point: "
            f"the space has one, by {list(alone.position_names)}."
        )
    import xarray

    parts = xarray.broadcast(*(data[name] for name in names))
    return np.column_stack([p.values.ravel() for p in parts]), list(map(str, parts[0].dims))


def _matched(
    given: np.ndarray, wanted: np.ndarray, alone: StateSpace
) -> tuple[np.ndarray, np.ndarray]:
    """Return which given position each wanted one is, and whether it is none of them."""
    distance, index = Near(given, alone).nearest(wanted)
    largest = EARTH_RADIUS if alone.sphere is not None else float(np.abs(wanted).max())
    slack = np.maximum(SAME * Near(wanted, alone).spacing, DIGITS * largest)
    return index, distance > slack


def _role(values: xarray.DataArray, name: str) -> str | None:
    """Return whether values are latitudes or longitudes of points by their attributes or name."""
    standard = values.attrs.get("standard_name")
    if standard is not None:
        return str(standard) if standard in ROLES else None
    unit = str(values.attrs.get("units", ""))
    if is_latitude(unit) or is_longitude(unit):
        return "latitude" if is_latitude(unit) else "longitude"
    role = role_of_name(name)
    return role if role in ROLES and unit in ("", "1", "degrees", "degree") else None
