"""Gridded variables of a data set, on axes in one order and with known roles.

`gridded` takes the variables that have the axis of time (where there is one) and the same other
axes, gives that axis the name ``time``, drops axes of one entry, joins the two streams of ERA5,
and sorts positions so that they increase: latitudes often fall in a file, and longitudes are often
counted from another meridian. What it changed or left out it says in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scorda.core.space import LARGEST
from scorda.core.sphere import is_latitude, is_longitude
from scorda.reading.blocks import in_blocks
from scorda.reading.declared import declared_range
from scorda.reading.labels import in_degrees, with_plain_times
from scorda.reading.opening import Source, name_of
from scorda.reading.points import place_names, with_places
from scorda.reading.roles import role_of_name, roles

if TYPE_CHECKING:
    import xarray

__all__ = ["Gridded", "contiguous", "gridded", "grids", "same_axes", "unwrapped"]

# Order of the axes of a space, after those without a role.
ORDER = ("level", "latitude", "longitude")


@dataclass(frozen=True)
class Gridded:
    """Variables on the same axes, not yet loaded.

    Arguments:
        data: The variables on ``(time, *axes)``, or ``(series, time, *axes)``.
        axes: Names of the spatial axes.
        roles: Role of each spatial axis that has one, by name.
        units: Unit of each variable and axis that has one.
        period: Length of each periodic axis.
        calendar: Calendar of the times.
        notes: What was understood, changed or left out, each in a phrase.
        places: Names of the positions that each point has, where axes do not have them.
    """

    data: xarray.Dataset
    axes: tuple[str, ...]
    roles: dict[str, str]
    units: dict[str, str]
    period: dict[str, float]
    calendar: str
    notes: tuple[str, ...]
    places: tuple[str, ...] = ()

    @property
    def timed(self) -> bool:
        """Say whether there is an axis of time with coordinates."""
        return "time" in self.data.dims and "time" in self.data.coords


def gridded(
    dataset: xarray.Dataset,
    source: Source,
    variables: Sequence[str] = (),
    series_axis: str | None = None,
    positions: Sequence[str] = (),
) -> Gridded:
    """Return the variables on common axes.

    Arguments:
        dataset: Opened by `opening.open_data`.
        source: Where it is from, for errors.
        variables: Which to take. Default: all that are numbers on the axes of most of them.
        series_axis: Axis of independent series. Default: one named series, trajectory, member or
            number, if there is one.
        positions: Names of positions of points that the caller knows. Default: latitudes and
            longitudes that are no axes.

    Raises:
        ValueError: If a variable is missing, or the variables share no axes.
    """
    notes: list[str] = []
    dataset = in_degrees(with_plain_times(dataset, notes), notes)
    names = _chosen(dataset, source, variables, notes)
    # The roles on this grid: another one may have latitudes of its own.
    known = roles(dataset[names])
    dataset = with_places(dataset, names)
    data = _one_stream(dataset[names], notes)
    series = series_axis or known.get("series") or known.get("member")
    if series_axis is not None and series_axis not in data.dims:
        raise ValueError(
            f"{name_of(source)} has the axes {list(data.dims)}: {series_axis!r}, named as that of "
            "series or members, must be one of them."
        )
    if series in data.dims and series_axis is None and data.sizes[series] > 1:
        notes.append(f"took {series!r} for an axis of independent series")
    if series in data.dims and series != "series":
        data = data.rename({series: "series"})
        if "series" in data.coords:
            data = data.drop_vars("series")
    for name in names:
        if declared := declared_range(data[name]):
            ends = f"{declared[0]:g} to {declared[1]:g}"
            notes.append(f"took values of {name} outside {ends} (valid_range) for missing")
    single = [str(d) for d, n in data.sizes.items() if n == 1 and d != "time"]
    if single:
        notes.append(f"left out the {_axes(single)} of one entry")
        data = data.isel({d: 0 for d in single}, drop=True)
    data = _swapped(data)
    places = place_names(data, source, positions)
    data = data.drop_vars([n for n in data.coords if n not in (*data.dims, *places)])
    of_axis = {n: r for r, n in known.items()}
    axes = _ordered(data[names[0]], of_axis)
    data = data.transpose(*[d for d in ("series", "time") if d in data.dims], *axes)
    of_axis = {n: r for n, r in of_axis.items() if n in axes}
    named = (*names, *axes, *places)
    units = {n: str(data[n].attrs["units"]) for n in named if _has_unit(data, n)}
    data, period = _on_sphere(data, axes, of_axis, units, notes)
    if places:
        data = _of_points(data, places, units, notes)
    if counted := [axis for axis in axes if axis not in data.coords]:
        notes.append(f"counted the positions of {', '.join(counted)} from 0, since there are none")
    data = _increasing(data, axes, source)
    return Gridded(data, axes, of_axis, units, period, _calendar(data), tuple(notes), places)


def _ordered(values: xarray.DataArray, of_axis: Mapping[str, str]) -> tuple[str, ...]:
    """Return the spatial axes in the order of the CF conventions, whatever that of the file."""
    return tuple(
        sorted(
            (str(d) for d in values.dims if d not in ("time", "series")),
            key=lambda axis: ORDER.index(of_axis[axis]) if of_axis.get(axis) in ORDER else -1,
        )
    )


def contiguous(index: np.ndarray) -> np.ndarray | slice:
    """Return an index, or which entries are wanted, as a slice where it is one: it reads less."""
    index = np.flatnonzero(index) if index.dtype == bool else index
    if len(index) and (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def unwrapped(longitudes: np.ndarray) -> np.ndarray:
    """Return longitudes of one strip of the globe, shifted by whole turns into one piece.

    Numbers are kept where the largest gap is between the last and the first of them. Otherwise the
    strip crosses their seam, and begins behind the largest gap, west of 0 with a negative number.
    """
    ordered = np.sort(longitudes)
    outside = ordered[0] + 360.0 - ordered[-1]
    if len(ordered) < 2 or np.diff(ordered).max() <= outside * (1 + 1e-6):
        return longitudes
    turn = np.sort(longitudes % 360.0)
    gaps = np.diff(np.append(turn, turn[0] + 360.0))
    first = turn[(int(gaps.argmax()) + 1) % len(turn)]
    return first + (longitudes - first) % 360.0 - (360.0 if first > 180.0 else 0.0)


def grids(
    dataset: xarray.Dataset, source: Source, variables: Sequence[str] = ()
) -> list[tuple[str, ...]]:
    """Return variables by their axes, those of one grid together, in the order of the first.

    Arguments:
        dataset: Opened by `opening.open_data`.
        source: Where it is from, for errors.
        variables: Which. Default: all fields of numbers that have an axis beside the time.

    Raises:
        ValueError: If a variable is missing.
    """
    fields = _numbers(with_plain_times(dataset, []))
    _check_present(dataset, fields, source, variables)
    names = list(variables) or [n for n, dims in fields.items() if dims - {"time"}]
    found: dict[frozenset[str], list[str]] = {}
    for name in names:
        found.setdefault(fields[name], []).append(name)
    return [tuple(group) for group in found.values()]


def same_axes(dataset: xarray.Dataset, parts: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return which axes of parts are the same as one of another part, by their attributes.

    Those are of one kind that have the same `standard_name`, or the same `axis`. The one with the
    shortest name stands for it.

    Arguments:
        dataset: Opened by `opening.open_data`.
        parts: Names of the axes of each part.
    """
    kinds: dict[tuple[str, str], dict[str, None]] = {}
    for axis in dict.fromkeys(axis for axes in parts for axis in axes):
        attributes = dataset[axis].attrs if axis in dataset.coords else {}
        for key in ("standard_name", "axis"):
            if key in attributes:
                kinds.setdefault((key, str(attributes[key])), {})[axis] = None
    found: dict[str, str] = {}
    for names in kinds.values():
        if all(len(names.keys() & set(axes)) < 2 for axes in parts):
            shortest = min(names, key=len)
            first = found.get(shortest, shortest)
            found |= {axis: first for axis in names if axis != first}
    return found


def _chosen(
    dataset: xarray.Dataset, source: Source, variables: Sequence[str], notes: list[str]
) -> list[str]:
    """Return the variables that are asked for, or all on the axes that most variables have."""
    bounds, fields = _bounds(dataset), _numbers(dataset)
    _check_present(dataset, fields, source, variables)
    if not fields:
        raise ValueError(
            f"{name_of(source)} has the variables {list(dataset)}: it needs one of numbers on the "
            "time."
        )
    if not variables:
        most = max(fields.values(), key=lambda d: (len(d), sum(d == e for e in fields.values())))
        chosen = [n for n, dims in fields.items() if dims == most]
        left = [str(n) for n in dataset.data_vars if n not in chosen and n not in bounds]
        if left:
            notes.append(
                f"left out {', '.join(sorted(left))}, which have other axes or no numbers"
            )
        return chosen
    shapes = {fields[n] for n in variables}
    if len(shapes) > 1:
        raise ValueError(
            f"{name_of(source)} has {list(variables)} on different axes "
            f"({', '.join(str(sorted(s)) for s in shapes)}): choose variables of one grid."
        )
    return list(variables)


def _bounds(dataset: xarray.Dataset) -> set[str]:
    """Return the names of the variables that hold bounds of others."""
    return {
        str(v.attrs[k])
        for v in dataset.variables.values()
        for k in ("bounds", "climatology")
        if k in v.attrs
    }


def _numbers(dataset: xarray.Dataset) -> dict[str, frozenset[str]]:
    """Return the axes of each variable of numbers, of those with the time where there are some."""
    bounds = _bounds(dataset)
    numbers = {
        str(n): frozenset(map(str, v.dims))
        for n, v in dataset.data_vars.items()
        if v.dtype.kind in "fiu" and n not in bounds
    }
    return {n: d for n, d in numbers.items() if "time" in d} or numbers


def _check_present(
    dataset: xarray.Dataset,
    fields: Mapping[str, frozenset[str]],
    source: Source,
    variables: Sequence[str],
) -> None:
    if missing := [n for n in variables if n not in fields]:
        if missing[0] in dataset.variables:
            raise ValueError(
                f"{name_of(source)} has {missing[0]!r} as {dataset[missing[0]].dtype} on the axes "
                f"{list(dataset[missing[0]].dims)}: it needs real numbers on the time."
            )
        raise ValueError(
            f"{name_of(source)} has the variables {sorted(fields) or list(dataset)}: it needs "
            f"{', '.join(map(repr, missing))}."
        )


def _one_stream(data: xarray.Dataset, notes: list[str]) -> xarray.Dataset:
    """Join the final and the preliminary stream of ERA5, of which each time is in one."""
    if "expver" not in data.dims:
        return data
    notes.append("joined the streams of expver")
    data = in_blocks(data)
    joined = data.isel(expver=0)
    for k in range(1, data.sizes["expver"]):
        joined = joined.fillna(data.isel(expver=k))
    for n in data.data_vars:
        joined[n].attrs = data[n].attrs
    return joined


def _on_sphere(
    data: xarray.Dataset,
    axes: tuple[str, ...],
    known: dict[str, str],
    units: dict[str, str],
    notes: list[str],
) -> tuple[xarray.Dataset, dict[str, float]]:
    """Give degrees their units, bring longitudes into one piece, and find the period."""
    period: dict[str, float] = {}
    for axis in axes:
        role = known.get(axis)
        unit = {"latitude": "degrees_north", "longitude": "degrees_east"}.get(str(role))
        if unit is None:
            continue
        known_unit = is_latitude if role == "latitude" else is_longitude
        if not known_unit(units.get(axis, "")):
            notes.append(f"took {axis!r} for the {role} by its name and range")
            units[axis] = unit
        if role == "longitude":
            positions = unwrapped(data[axis].values.astype(float))
            data = data.assign_coords({axis: (axis, positions)})
            if _closes(positions):
                period[axis] = 360.0
                notes.append("closed the circle of longitudes")
    return data, period


def _closes(longitudes: np.ndarray) -> bool:
    """Say whether longitudes go around the globe in equal steps."""
    ordered = np.sort(longitudes)
    gaps = np.diff(np.append(ordered, ordered[0] + 360.0))
    return len(ordered) > 2 and bool(np.allclose(gaps, gaps[0], rtol=1e-3))


def _swapped(data: xarray.Dataset) -> xarray.Dataset:
    """Name an axis by its latitudes or longitudes, which a file may have under another name."""
    known = roles(data)
    for role in ("latitude", "longitude"):
        name = known.get(role)
        if name is None or name in data.dims or data[name].ndim != 1:
            continue
        other = known.get("longitude" if role == "latitude" else "latitude")
        axis = data[name].dims[0]
        if other is not None and axis not in ("time", "series", *data[other].dims):
            data = data.swap_dims({axis: name})
    return data


def _of_points(
    data: xarray.Dataset, places: tuple[str, ...], units: dict[str, str], notes: list[str]
) -> xarray.Dataset:
    """Give positions of points their units, and count axes that have no increasing positions."""
    dims = [str(d) for d in data[places[0]].dims]
    kind = "curvilinear" if len(dims) > 1 else "unstructured"
    notes.append(f"took {' and '.join(places)} for the positions of points ({kind})")
    for name, unit in zip(places, ("degrees_north", "degrees_east"), strict=False):
        if role_of_name(name) or data[name].attrs.get("standard_name"):
            known = is_latitude(units.get(name, "")) or is_longitude(units.get(name, ""))
            units[name] = units[name] if known else unit
        if is_longitude(units.get(name, "")):
            values = data[name].values.astype(float)
            turned = unwrapped(values.ravel()).reshape(values.shape)
            data = data.assign_coords({name: (data[name].dims, turned, data[name].attrs)})
    for axis in dims:
        along = data[axis].values if axis in data.coords else np.array([""])
        if along.dtype.kind not in "fiu" or not (np.diff(along) > 0).all():
            data = data.assign_coords({axis: np.arange(data.sizes[axis], dtype=float)})
    return data


def _increasing(data: xarray.Dataset, axes: tuple[str, ...], source: Source) -> xarray.Dataset:
    points = math.prod(max(data.sizes[axis], 1) for axis in axes)
    if points > LARGEST:
        raise ValueError(
            f"{name_of(source)} has {points} points on the axes {list(axes)}: a state has at most "
            f"{LARGEST}; give a part of the grid."
        )
    for axis in axes:
        if axis not in data.coords:
            data = data.assign_coords({axis: np.arange(data.sizes[axis], dtype=float)})
            continue
        positions = data[axis].values
        if positions.dtype.kind not in "fiu":
            raise ValueError(f"{name_of(source)} has text as positions of {axis!r}: give numbers.")
        if len(np.unique(positions)) < len(positions):
            raise ValueError(
                f"{name_of(source)} has a position of {axis!r} twice: leave one of them out."
            )
        if not (np.diff(positions) > 0).all():
            data = data.sortby(axis)
    return data


def _calendar(data: xarray.Dataset) -> str:
    """Return the calendar of the times; datetimes of NumPy have the Gregorian one of all years."""
    if "time" not in data.coords or not data["time"].size or data["time"].dtype.kind != "O":
        return "proleptic_gregorian"
    return str(getattr(data["time"].values.flat[0], "calendar", "proleptic_gregorian"))


def _has_unit(data: xarray.Dataset, name: str) -> bool:
    return name in data.variables and "units" in data[name].attrs


def _axes(names: list[str]) -> str:
    return ("axis " if len(names) == 1 else "axes ") + ", ".join(names)
