"""Ensembles from files: states of members at one time, and what each predicts.

The axis of the members is recognised by its name or its `standard_name` (`realization`), or named
by the caller; it is never guessed from the shape of an array. Where both files number their
members, these numbers say which prediction is whose, not the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from scorda.core.calendars import Start, instants, iso
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.times import match_times
from scorda.reading.columns import is_text_table, read_columns
from scorda.reading.fields import aligned, far_values
from scorda.reading.gridded import gridded
from scorda.reading.opening import Source, is_labelled, name_of, open_data, readable, space_of
from scorda.reading.points import points_of
from scorda.reading.roles import roles

if TYPE_CHECKING:
    import xarray

__all__ = ["read_initial", "read_members", "read_predicted"]


def read_members(
    source: Source, variables: Sequence[str] = (), member_axis: str | None = None
) -> tuple[Float[Tensor, "ensemble *state"], StateSpace, tuple[str, ...], np.ndarray | None]:
    """Read the members of an ensemble at one time, their space, what was understood, and labels.

    Points that are NaN in all members are no part of the state (land).

    Arguments:
        source: What `opening.open_data` takes: fields with an axis of members.
        variables: Variables to read. Default: all numbers on the axes of most of them.
        member_axis: Axis of the members, where its name does not say.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no axis of members, there are several times, or a value is missing
            in some of the members.
    """
    dataset = open_data(source)
    labels = _labels(dataset, _member_axis(dataset, member_axis), source)
    found = gridded(dataset, source, variables, member_axis)
    data, names = found.data, [str(n) for n in found.data.data_vars]
    if "series" not in data.dims:
        raise _without_members(source, data)
    if data.sizes.get("time", 1) > 1:
        raise ValueError(f"{name_of(source)} has {data.sizes['time']} times: select one of them.")
    with readable(source, "an ensemble"):
        data = data.isel(time=0, drop=True).load() if "time" in data.dims else data.load()
    arrays = [data[n].values.astype(np.float64) for n in names]
    several = len(arrays) > 1 or not found.axes
    states = np.stack(arrays, 1) if several else arrays[0]
    absent = np.isnan(states)
    land = absent.all(0)
    if (some := int((absent != land).sum())) > 0:
        raise ValueError(
            f"{name_of(source)} lacks {some} values of some of the members: give all of them, or "
            "leave the same points out of all."
        )
    inside = np.asarray(~(land.any(0) if several else land))
    points = points_of(found, data)
    with space_of(source):
        space = StateSpace(
            states.shape[1:],
            variables=tuple(names),
            coordinates={axis: data[axis].values for axis in found.axes},
            period=found.period,
            units=found.units,
            calendar=found.calendar,
            mask=inside if found.axes else None,
            points=points,
        )
    return torch.from_numpy(states), space, found.notes, labels


def read_predicted(
    source: Source,
    members: int,
    observations: int,
    member_axis: str | None = None,
    labels: np.ndarray | None = None,
) -> tuple[Float[Tensor, "ensemble obs"], str]:
    """Read what each member predicts of each observation, NaN where nothing, and its unit or "".

    Arguments:
        source: A NetCDF file or zarr store with one variable on the members and the observations,
            or a table (CSV, Parquet) with a row for each observation and a column for each member.
        members: Number of members.
        observations: Number of observations.
        member_axis: Axis of the members, where its name does not say.
        labels: Labels of the members, which those of the predictions must be, in any order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not hold one number for each member and observation.
    """
    labelled = is_labelled(source)
    if not labelled and (is_text_table(source) or str(source).endswith((".parquet", ".pq"))):
        columns = read_columns(source)
        values, unit = np.stack([_numbers(c, n, source) for n, c in columns.items()]), ""
    else:
        values, unit = _of_axes(source, member_axis, labels)
    if values.shape != (members, observations):
        raise ValueError(
            f"{name_of(source)} predicts {values.shape[1]} observations for {values.shape[0]} "
            f"members, where there are {observations} and {members}: give one number of each."
        )
    return torch.from_numpy(values), unit


def read_initial(
    source: Source, space: StateSpace, start: Start | None = None
) -> tuple[Float[Tensor, "ensemble *state"], tuple[str, ...]]:
    """Read an initial ensemble by its labels, and say what was changed in words.

    Members keep the order of the source, and land is 0. Of several times, that of step 0 is read,
    in the calendar of the source. A posterior of Scorda is such a source.

    Arguments:
        source: What `opening.open_data` takes, with an axis of members and all variables of the
            space.
        space: Space of the states.
        start: Datetime of step 0, where the source has datetimes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no axis of members, a variable, a position or the time is missing,
            a value is not finite, or members have unequal weights.
    """
    if is_labelled(source) and getattr(source, "name", "") is None and len(space.variables) == 1:
        source = source.rename(space.variables[0])
    dataset = open_data(source)
    axis = _member_axis(dataset, None)
    if axis is None or axis not in dataset.dims:
        raise _without_members(source, dataset, "")
    _labels(dataset, axis, source)
    data, notes = aligned(source, space, member_axis=axis)
    chosen, said = _at_start(_times(dataset, data), data, space, source, start)
    with readable(source, "an ensemble"):
        data = data.isel(time=chosen).load() if "time" in data.dims else data.load()
    arrays = {name: data[name].values.astype(float) for name in space.variables}
    states = torch.from_numpy(space.joined(arrays)).reshape(-1, *space.shape)
    space.check(states, f"the initial ensemble of {name_of(source)}")
    weights = dataset.get("weight")
    if weights is not None and "weight" not in space.variables and axis in weights.dims:
        weights = weights.isel(time=chosen) if "time" in weights.dims else weights
        if not np.allclose(weights.values, weights.values.flat[0]):
            raise ValueError(
                f"{name_of(source)} has members of unequal weight: resample it, and give members "
                "of equal weight."
            )
    # In the order of memory of any other tensor, so that sums have the same last bits.
    far = far_values(space.masked(states, np.nan), space)
    return space.filled(states).contiguous(), (*notes, *said, *far)


def _times(dataset: xarray.Dataset, data: xarray.Dataset) -> np.ndarray | None:
    """Return the labels of the times, which may be a single one without an axis."""
    if "time" in data.coords:
        return data["time"].values
    name = roles(dataset).get("time")
    if name is None or "time" in data.dims or name not in dataset.coords:
        return None
    return dataset[name].values[None] if dataset[name].ndim == 0 else None


def _at_start(
    times: np.ndarray | None,
    data: xarray.Dataset,
    space: StateSpace,
    source: Source,
    start: Start | None,
) -> tuple[int, tuple[str, ...]]:
    """Return which of the times is that of step 0, and what was understood."""
    count = data.sizes.get("time", 1)
    if times is None:
        if count > 1:
            raise ValueError(f"{name_of(source)} has {count} times without labels: select one.")
        return 0, ()
    dated = times.dtype.kind in "MO"
    # A date is the same in each calendar that has it.
    calendar = getattr(times.flat[0], "calendar", "proleptic_gregorian")
    ends = times[[0, -1]]
    first, last = [iso(i, calendar) for i in instants(ends, calendar)] if dated else map(str, ends)
    if count == 1 and (start is None or not dated):
        return 0, (f"took its only time, {first}, for step 0",) if dated or times[0] else ()
    if not dated or start is not None:
        unit = {k: v for k, v in space.units.items() if k == "time"}
        line = StateSpace((1,), space.dt, units=unit, calendar=calendar)
        _, reason = match_times(times, line, start, 1e-3 * space.dt, 0)
        if (reason == "").sum() > 1:
            raise ValueError(
                f"{name_of(source)} has the time of step 0 {int((reason == '').sum())} times: "
                "leave all but one out."
            )
        if (reason == "").any():
            return int((reason == "").argmax()), ()
    raise ValueError(
        f"{name_of(source)} has {count} times, {first} to {last}, and none is known to be that of "
        f"step 0 ({start if start and dated else 0}): select one, or say when the run starts."
    )


def _without_members(
    source: Source, data: xarray.Dataset | xarray.DataArray, flag: str = ", or by --member-axis"
) -> ValueError:
    return ValueError(
        f"{name_of(source)} has the axes {list(data.dims)}: it needs one of the members, named "
        f"member, number, realization or ensemble{flag}."
    )


def _member_axis(dataset: xarray.Dataset, given: str | None) -> str | None:
    """Return the axis of the members: the one that is given, or known by its name."""
    known = roles(dataset)
    return given or known.get("member") or known.get("series")


def _labels(dataset: xarray.Dataset, axis: str | None, source: Source) -> np.ndarray | None:
    """Return the labels of the members, None where they have none."""
    if axis is None or axis not in dataset.coords or axis not in dataset.dims:
        return None
    labels = np.asarray(dataset[axis].values)
    if len(np.unique(labels)) < len(labels):
        raise ValueError(f"{name_of(source)} has a member of {axis!r} twice: leave one out.")
    return labels


def _of_axes(
    source: Source, member_axis: str | None, labels: np.ndarray | None
) -> tuple[np.ndarray, str]:
    dataset = open_data(source)
    fields = [n for n, v in dataset.data_vars.items() if v.ndim == 2 and v.dtype.kind in "fiu"]
    if len(fields) != 1:
        raise ValueError(
            f"{name_of(source)} has the variables {list(dataset.data_vars)}: it needs one on the "
            "members and the observations."
        )
    axis, values = _member_axis(dataset, member_axis), dataset[fields[0]]
    if axis not in values.dims:
        raise _without_members(source, values)
    own = _labels(dataset, axis, source)
    if labels is not None and own is not None and len(own) == len(labels):
        if set(own.tolist()) != set(labels.tolist()):
            raise ValueError(
                f"{name_of(source)} has other members of {axis!r} than the ensemble: give the "
                "predictions of the same."
            )
        place = {label: i for i, label in enumerate(own.tolist())}
        values = values.isel({axis: [place[label] for label in labels.tolist()]})
    with readable(source, "predicted observations"):
        numbers = values.transpose(axis, ...).values.astype(np.float64)
    return numbers, str(values.attrs.get("units", ""))


def _numbers(column: np.ndarray, name: str, source: Source) -> np.ndarray:
    from scorda.core.columns import numbers

    values, text = numbers(column)
    if text.any():
        raise ValueError(
            f"{name_of(source)} has text in row {int(text.argmax()) + 1} of the column {name!r}: "
            "give a column of numbers for each member, and nothing else."
        )
    return values
