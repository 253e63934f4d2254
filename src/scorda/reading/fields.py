"""Fields from a file or an object of xarray, aligned with a space by their labels.

Truths, fields of observations and initial ensembles are read here. Axes are found by name or role,
in any order and direction; longitudes are compared modulo a turn; values and levels are converted
to the units of the space. Nothing is aligned by its position in the array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from scorda.core.calendars import Start
from scorda.core.scratch import blocks
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.sphere import is_latitude, is_longitude
from scorda.core.times import match_times
from scorda.reading.blocks import NUMBERS, in_blocks, time_blocks
from scorda.reading.climate import climate_of, sampled
from scorda.reading.gridded import Gridded, contiguous, gridded
from scorda.reading.labels import in_time_unit
from scorda.reading.opening import Source, name_of, open_data, readable
from scorda.reading.points import at_points, free_axes
from scorda.reading.roles import role_of_name, same_kind
from scorda.reading.stations import is_gridded
from scorda.reading.units import conversion, converted

if TYPE_CHECKING:
    import xarray

__all__ = ["aligned", "far_values", "present_variables", "read_states", "role_of_axis"]

# Positions are the same within this share of the distance to the next.
SAME = 1e-3


def aligned(
    source: Source,
    space: StateSpace,
    variables: Sequence[str] | None = None,
    *,
    partly: bool = False,
    member_axis: str | None = None,
) -> tuple[xarray.Dataset, tuple[str, ...]]:
    """Return variables on the axes of a space, in its units, and what was changed in words.

    The dataset has the dimensions ``(series, time, *axes)``, the first for members, and the second
    where the source has it; nothing of it is loaded before it is selected. A variable without a
    unit is taken to have that of the space.

    Arguments:
        source: What `opening.open_data` takes.
        space: Space whose positions and units are wanted.
        variables: Variables of the space to read (default: all).
        partly: Whether the source may lack positions of the grid; they are NaN.
        member_axis: Axis of members; None: there is none, and several series are an error.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a variable, an axis or a position is missing, there are several series, or
            a unit cannot be converted.
    """
    names = list(space.variables if variables is None else variables)
    dataset = open_data(source)
    if space.parts is None:
        return _aligned(dataset, source, space, names, partly, member_axis)
    import xarray

    arrays, notes = dict[str, xarray.DataArray](), list[str]()
    for part in space.parts.values():
        if own := [name for name in names if name in part.variables]:
            # Another grid may have latitudes and longitudes of its own.
            kept = dataset[own] if set(own) <= set(dataset.data_vars) else dataset
            data, said = _aligned(kept, source, part, own, partly, member_axis)
            arrays |= {name: data[name] for name in own}
            notes += said
    return xarray.Dataset(arrays), tuple(dict.fromkeys(notes))


def _aligned(
    dataset: xarray.Dataset,
    source: Source,
    space: StateSpace,
    names: list[str],
    partly: bool,
    member_axis: str | None,
) -> tuple[xarray.Dataset, tuple[str, ...]]:
    """Do so for variables on one grid."""
    own = free_axes(space)
    positions = [n for n in space.position_names if n not in space.axes]
    found = gridded(dataset, source, names, member_axis, positions)
    if member_axis is None and "series" in found.data.dims:
        raise ValueError(
            f"{name_of(source)} has {found.data.sizes['series']} series or members: select one."
        )
    if found.places and not own:
        raise ValueError(
            f"{name_of(source)} has a position of each point, by {list(found.places)}, and the "
            f"space the axes {list(space.axes)}: interpolate it to these."
        )
    notes = list(found.notes)
    data, dims = found.data, list[str]()
    if own:
        data, dims = at_points(data, found, space, source, partly, notes)
    data = _renamed(data, found, space, source, dims)
    for axis in (axis for axis in space.axes if axis not in own):
        data = _at_positions(data, axis, found, space, source, partly, notes)
    leading = [d for d in ("series", "time") if d in data.dims]
    data = data.transpose(*leading, *space.axes)
    for name in names:
        data = _in_unit(data, name, found, space, source, notes)
    data = in_time_unit(data, space, notes)
    return data, tuple(notes)


def read_states(
    source: Source, space: StateSpace, steps: int, start: Start | None = None
) -> tuple[Float[Tensor, "time *state"], tuple[str, ...]]:
    """Read the states at steps 0 to `steps` by their times, and what was changed in words.

    Arguments:
        source: What `opening.open_data` takes, with all variables of the space.
        space: Space of the states.
        steps: Last step.
        start: Datetime of step 0, where the source has datetimes. A source without a time has
            its states in the order of the steps.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a variable, a position or a step is missing, or a value is not finite.
            Points that are NaN at all steps, or outside of the mask of the space, may be NaN.
    """
    data, notes = aligned(source, space)
    if "time" not in data.dims:
        raise ValueError(
            f"{name_of(source)} has no axis of time: give one, of {steps + 1} states."
        )
    if "time" in data.coords:
        exact = 1e-3 * space.dt
        found, reason = match_times(data["time"].values, space, start, exact, steps)
        places, of = np.full(steps + 1, -1), np.flatnonzero(reason == "")
        places[found[of]] = of
        if len(twice := of[places[found[of]] != of]):
            raise ValueError(
                f"{name_of(source)} has the time {data['time'].values[twice[0]]} of step "
                f"{found[twice[0]]} twice: give one state of each time."
            )
        wanted = f"steps 0 to {steps}" + (f" from {start} on" if start is not None else "")
    else:
        places = np.arange(steps + 1)
        places[data.sizes["time"] :] = -1
        wanted = f"{steps + 1} states"
    if (places < 0).any():
        raise ValueError(
            f"{name_of(source)} has {data.sizes['time']} states, of which none is of step "
            f"{int((places < 0).argmax())}: give {wanted}, {space.dt:g} "
            f"{space.units.get('time', 'units of time')} apart."
        )
    states = torch.empty((steps + 1, *space.shape), dtype=torch.float64)
    # Land of the source; a point that lacks some of its values is an error.
    inside = space.inside.view(space.shape)
    land = inside.clone()
    with readable(source, "fields"):
        for rows, part in _loaded(data, places):
            arrays = {name: part[name].values.astype(float) for name in space.variables}
            states[rows] = torch.from_numpy(space.joined(arrays))
            land &= states[rows].isnan().all(0)
    if land.all():
        raise ValueError(
            f"{name_of(source)} has no value at steps 0 to {steps}: give one that has."
        )
    known = inside & ~land
    if not all(block[..., known].isfinite().all() for _, block in blocks(states[None], NUMBERS)):
        space.check(torch.where(land, 0, states), f"states of {name_of(source)}")
    if land.any():
        notes = (*notes, f"{int(land.sum())} of {land.numel()} values are never there (land)")
    states.masked_fill_(~inside, np.nan)
    return states, (*notes, *far_values(states, space))


def far_values(states: Float[Tensor, "..."], space: StateSpace) -> Iterator[str]:
    """Say which variables have values that none of their measurements can be."""
    for name in space.variables:
        values = space.field(states, name)
        parts = (block.numpy() for _, block in blocks(values[None], NUMBERS))
        low, high = climate_of(sampled(parts, values.numel()))
        far = values[(values < low) | (values > high)]
        if len(far):
            yield f"{len(far)} values of {name} are far from all others, such as {far[0]:g}"


def _loaded(data: xarray.Dataset, places: np.ndarray) -> Iterator[tuple[slice, xarray.Dataset]]:
    """Give some times at once, of those at these places of the source."""
    index = contiguous(places)
    data = data.isel(time=index)
    for rows in time_blocks(data, NUMBERS, index.start if isinstance(index, slice) else 0):
        yield rows, data.isel(time=rows)


def present_variables(source: Source, space: StateSpace) -> list[str]:
    """Return the variables of the space that a source holds as fields, rather than as a table."""
    dataset = open_data(source)
    with readable(source, "fields"):
        if not is_gridded(dataset, space.variables):
            return []
        return [
            name
            for name in space.variables
            if name in dataset
            and dataset[name].squeeze().ndim >= max(len(space.piece_of(name).axes), 2)
        ]


def _renamed(
    data: xarray.Dataset, found: Gridded, space: StateSpace, source: Source, known: list[str]
) -> xarray.Dataset:
    """Give axes the names of the space: those of the same name, then those of the same role.

    Those along which points have positions, whose names are `known` here, are named already.
    """
    left = [axis for axis in found.axes if axis not in space.axes and axis not in known]
    names: dict[str, str] = {}
    for axis in space.axes:
        if axis in found.axes or axis in free_axes(space):
            continue
        role = role_of_axis(axis, space)
        unit = space.units.get(axis, "")
        same = [
            a
            for a in left
            if role is not None and found.roles.get(a) == role and same_kind(a, axis, unit)
        ]
        if same:
            names[same[0]] = axis
            left.remove(same[0])
        elif len((space.coordinates or {})[axis]) > 1:
            raise ValueError(
                f"{name_of(source)} has the axes {list(found.axes)}: it needs one for {axis!r} of "
                f"the space, whose axes are {list(space.axes)}."
            )
    if left:
        raise ValueError(
            f"{name_of(source)} has the axis {left[0]!r}, which the space does not have (its axes "
            f"are {list(space.axes)}): select one entry of it."
        )
    return data.rename(names)


def role_of_axis(axis: str, space: StateSpace) -> str | None:
    """Return what an axis of a space stands for: by its unit, else by its name."""
    unit = space.units.get(axis, "")
    if is_latitude(unit) or is_longitude(unit):
        return "latitude" if is_latitude(unit) else "longitude"
    return role_of_name(axis)


def _at_positions(
    data: xarray.Dataset,
    axis: str,
    found: Gridded,
    space: StateSpace,
    source: Source,
    partly: bool,
    notes: list[str],
) -> xarray.Dataset:
    """Select the positions of the space along one axis, NaN where the source lacks them."""
    wanted = (space.coordinates or {})[axis]
    if axis not in data.dims:
        return data.expand_dims({axis: wanted}, axis=-1)
    given = data[axis].values.astype(float)
    unit, own = space.units.get(axis, ""), str(data[axis].attrs.get("units", ""))
    if role_of_axis(axis, space) not in ("latitude", "longitude") and unit and own:
        given = converted(given, own, unit)
    index, off = _matched(given, wanted, _turn(axis, space))
    missing = index < 0
    if missing.all() or (missing.any() and not partly) or (partly and off.any()):
        raise ValueError(
            f"{name_of(source)} has {axis} {given.min():g} to {given.max():g} ({len(given)} "
            f"positions), and the space {wanted[0]:g} to {wanted[-1]:g} ({len(wanted)}): "
            f"{'each must be a position' if partly else 'it needs all positions'} of the space."
        )
    if missing.any():
        notes.append(f"without {int(missing.sum())} of {len(wanted)} positions of {axis}")
    chosen = data.isel({axis: np.where(missing, 0, index)}).assign_coords({axis: (axis, wanted)})
    if not missing.any():
        return chosen
    import xarray

    return in_blocks(chosen).where(xarray.DataArray(~missing, {axis: wanted}, (axis,)))


def _matched(
    given: np.ndarray, wanted: np.ndarray, turn: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the index into `given` of each wanted position, -1 where there is none.

    The second array says which given positions lie inside the wanted ones and are none of them.
    """
    spacing = float(np.diff(wanted).min()) if len(wanted) > 1 else max(abs(wanted[0]), 1.0)
    gap = given[:, None] - wanted
    if turn is not None:
        gap = (gap + turn / 2) % turn - turn / 2
    near = np.abs(gap)
    same = near <= max(SAME * spacing, 1e-6 * float(np.abs(wanted).max()))
    index = np.where(same.any(0), near.argmin(0), -1)
    between = (gap.max(1) > 0) & (gap.min(1) < 0)
    return index, between & ~same.any(1)


def _turn(axis: str, space: StateSpace) -> float | None:
    """Return the length after which positions repeat: a turn for longitudes, else the period."""
    return 360.0 if role_of_axis(axis, space) == "longitude" else space.period.get(axis)


def _in_unit(
    data: xarray.Dataset,
    name: str,
    found: Gridded,
    space: StateSpace,
    source: Source,
    notes: list[str],
) -> xarray.Dataset:
    """Return the data with one variable in the unit of the space."""
    given, wanted = found.units.get(name, "").strip(), space.units.get(name, "").strip()
    if not given or not wanted:
        return data
    try:
        factor, offset = conversion(given, wanted)
    except ValueError as error:
        raise ValueError(f"{name_of(source)}, variable {name!r}: {error}") from error
    if (factor, offset) == (1.0, 0.0):
        return data
    notes.append(f"converted {name} from {given} to {wanted}")
    data = in_blocks(data)
    values = data[name].astype(float) * factor + offset
    return data.assign({name: values.assign_attrs(units=wanted)})
