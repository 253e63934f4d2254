"""Records of gridded fields: what a prior is learned from.

A record has states on regular times, their space, and the datetime of the first. Times are regular
in seconds or in months. A value that is missing is NaN, and so is the field of a missing time. A
point without any value is no part of the state (land): it is outside of the mask of the space.
Series that are independent of each other, such as the members of an ensemble, have an axis of
their own and are never space.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from scorda.core.arrays import ArrayLike, as_tensor
from scorda.core.calendars import Start, instants, iso, parse_start, total_months
from scorda.core.scratch import blocks, release, scratch
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.reading.blocks import NUMBERS, time_blocks
from scorda.reading.climate import check_values
from scorda.reading.gridded import Gridded, contiguous, gridded, grids, same_axes
from scorda.reading.opening import Source, name_of, open_data, readable, space_of
from scorda.reading.points import points_of
from scorda.reading.static import on_grid, static_fields

if TYPE_CHECKING:
    import xarray

__all__ = ["Fields", "closed", "read_fields", "regular_times"]

# Most fields of a record for one that is there: what has more gaps has no step.
MOST_MISSING = 20


@dataclass(frozen=True, eq=False)
class Fields:
    """States on regular times.

    Arguments:
        states: ``(time, *state)``, or ``(series, time, *state)`` of independent series, which it
            always is afterwards; in the units of the space, in single or double precision, NaN
            where a value is missing.
        space: Their space; its `dt` is the time between them.
        start: Datetime of the first, as ISO 8601 text in the space's calendar, if known.
        notes: What was understood, changed or left out when they were read, in phrases.
        static: Fields of the grid that do not change with time, such as the height of the ground,
            by name. They are no part of the states; NaN where one has no value.
    """

    states: Float[Tensor, "..."]
    space: StateSpace
    start: str | None = None
    notes: tuple[str, ...] = ()
    static: Mapping[str, ArrayLike] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.states.ndim == 1 + len(self.space.shape):
            object.__setattr__(self, "states", self.states[None])
        if self.states.ndim != 2 + len(self.space.shape):
            raise ValueError(
                f"Got fields of shape {tuple(self.states.shape)}: give (time, "
                f"*{self.space.shape}), or (series, time, *{self.space.shape})."
            )
        static = {n: as_tensor(v, f"the static field {n}") for n, v in self.static.items()}
        object.__setattr__(self, "static", static)
        for name, values in static.items():
            if tuple(values.shape) != self.space.grid:
                raise ValueError(
                    f"Got the static field {name} of shape {tuple(values.shape)}: give one value "
                    f"for each point of the grid, {self.space.grid}."
                )
        for _, block in blocks(self.states, NUMBERS):
            self.space.check(torch.where(block.isnan(), 0, block), "the fields")

    def __len__(self) -> int:
        """Return the number of times."""
        return self.states.shape[1]

    @cached_property
    def missing(self) -> int:
        """Return the number of values that are missing."""
        return sum(
            int(self.space.filled(b).isnan().sum()) for _, b in blocks(self.states, NUMBERS)
        )


def read_fields(
    source: Source,
    variable: str | Sequence[str] = (),
    since: Start | None = None,
    until: Start | None = None,
    series_axis: str | None = None,
    missing: Sequence[float] = (),
    periodic: Sequence[str] = (),
    static: Sequence[str] = (),
) -> Fields:
    """Read variables on ``(time, ...)`` as a record.

    Axes may come in any order and direction, and longitudes in any convention; the space has them
    in increasing order. Datetimes give a time step in hours, or in months.

    Arguments:
        source: What `opening.open_data` takes: a path, several, or an xarray Dataset.
        variable: Variable or variables; of those on several grids the space has a part for each
            grid, named by its first variable. Default: all numbers on the axes of most of them.
        since: First datetime to use (default: all).
        until: Last datetime to use; a date without a time means the whole day.
        series_axis: Axis of independent series. Default: one named series, trajectory, member or
            number, if there is one.
        missing: Values that stand for what is missing, beside those that the file declares.
        periodic: Axes that close after one more step of theirs, such as those of a model on a
            periodic square. A circle of longitudes is one by itself.
        static: Variables without a time on the same grid, such as the height of the ground.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, a variable is missing or has no values, times are
            not regular or are repeated, or values are infinite or are no values of their variable;
            or if a periodic axis has no equal steps, or a static variable changes with time.
    """
    still = static_fields(source, static, missing) if static else {}
    fields = _read(source, variable, since, until, series_axis, missing, static)
    if periodic:
        fields = replace(fields, space=closed(fields.space, periodic))
    if static:
        fields = replace(fields, static=on_grid(still, fields.space))
    return fields


def closed(space: StateSpace, axes: Sequence[str]) -> StateSpace:
    """Return a space some of whose axes close after one more step.

    Raises:
        ValueError: If one is no axis of equal steps.
    """
    period = dict(space.period)
    for axis in axes:
        places = (space.coordinates or {}).get(axis)
        if places is None or space.parts is not None or space.points is not None:
            raise ValueError(
                f"Got the periodic axis {axis!r}: the axes with positions of one grid are "
                f"{[] if space.parts or space.points else list(space.axes)}."
            )
        steps = np.diff(places)
        if len(places) < 3 or not np.allclose(steps, steps[0], rtol=1e-3, atol=0):
            raise ValueError(
                f"Got the periodic axis {axis!r} of {len(places)} positions that are not three or "
                "more in equal steps: leave it out."
            )
        period[axis] = float(steps.mean()) * len(places)
    return replace(space, period=period)


def _read(
    source: Source,
    variable: str | Sequence[str],
    since: Start | None,
    until: Start | None,
    series_axis: str | None,
    missing: Sequence[float],
    static: Sequence[str],
) -> Fields:
    """Read a record without its static variables, and without what is said of its axes."""
    names = [variable] if isinstance(variable, str) else list(variable)
    dataset = open_data(source).drop_vars(static, errors="ignore")
    groups = grids(dataset, source, names) if names else []
    if len(groups) < 2:
        found = gridded(dataset, source, names, series_axis)
        return _record(found, source, since, until, missing)
    each = [
        _record(gridded(dataset[list(g)], source, g, series_axis), source, since, until, missing)
        for g in groups
    ]
    return _of_parts(each, dataset, source)


def _of_parts(each: Sequence[Fields], dataset: xarray.Dataset, source: Source) -> Fields:
    """Join records on grids of their own, which are named by their first variables."""
    first = each[0]
    for fields in each:
        if (fields.states.shape[:2], fields.start) != (first.states.shape[:2], first.start):
            raise ValueError(
                f"{name_of(source)} has {fields.space.variables[0]} at other times, or of other "
                f"series, than {first.space.variables[0]}: choose variables of the same."
            )
    same = same_axes(dataset, [fields.space.axes for fields in each])
    with space_of(source):
        space = StateSpace.of_parts({f.space.variables[0]: f.space for f in each}, same)
    values = {n: f.space.field(f.states, n) for f in each for n in f.space.variables}
    dtypes = {values.dtype for values in values.values()}
    kind = torch.float32 if dtypes == {torch.float32} else torch.float64
    states = space.joined({name: field.to(kind) for name, field in values.items()})
    notes = tuple(dict.fromkeys(note for fields in each for note in fields.notes))
    return Fields(states, space, first.start, notes)


def _record(
    found: Gridded,
    source: Source,
    since: Start | None,
    until: Start | None,
    missing: Sequence[float],
) -> Fields:
    """Make a record of variables on one grid."""
    if not found.timed:
        raise ValueError(
            f"{name_of(source)} has the axes {list(found.data.dims)}: it needs a time with "
            "coordinates."
        )
    within = contiguous(_within(found, since, until, source))
    first, data = within.start if isinstance(within, slice) else 0, found.data.isel(time=within)
    times = data["time"].values
    places, dt, unit = regular_times(times, found.calendar, source)
    units = dict(found.units) | ({"time": unit} if unit else {})
    variables = [str(n) for n in data.data_vars]
    with readable(source, "fields"):
        states = _states(data, variables, found.axes, places, missing, first)
    notes = list(found.notes)
    mask = _mask(states, variables, found.axes, source, notes)
    coordinates = {a: data[a].values for a in found.axes}
    shape = states.shape[2:]
    points = points_of(found, data)
    with space_of(source):
        space = StateSpace(
            shape,
            dt,
            tuple(variables),
            coordinates,
            found.period,
            units,
            found.calendar,
            mask,
            points,
        )
    check_values(states, space, name_of(source))
    start = iso(instants(times[:1], found.calendar)[0], found.calendar) if unit else None
    if mask is not None:
        for _, block in blocks(states, NUMBERS):
            block[..., torch.from_numpy(~mask)] = torch.nan
    fields = Fields(states, space, start)
    if fields.missing:
        share = fields.missing / int(space.inside.sum()) / fields.states.shape[:2].numel()
        notes.append(f"{fields.missing} values are missing ({share:.2%})")
    return replace(fields, notes=tuple(notes))


def _within(
    found: Gridded, since: Start | None, until: Start | None, source: Source
) -> np.ndarray:
    """Return which times lie between two datetimes."""
    times, calendar = found.data["time"].values, found.calendar
    if len(times) < 2:
        raise ValueError(
            f"{name_of(source)} has {len(times)} times: a record needs at least 2, from which the "
            "step is known."
        )
    kept = np.ones(len(times), dtype=bool)
    if times.dtype.kind not in "MO":
        if since is not None or until is not None:
            raise ValueError(
                f"The times of {name_of(source)} are no datetimes: leave since, until out."
            )
        return kept
    when = instants(times, calendar)
    if since is not None:
        kept &= when >= parse_start(since, calendar)
    if until is not None:
        kept &= when <= _end(until, calendar)
    if kept.sum() < 2:
        first, last = (iso(t, calendar).removesuffix(":00") for t in when[[0, -1]])
        raise ValueError(
            f"{name_of(source)} has {kept.sum()} times from {since or first} to {until or last}: "
            f"its times are {first} to {last}, and at least two are needed."
        )
    return kept


def _end(until: Start, calendar: str) -> np.timedelta64:
    """Return the last instant that counts: the end of the day where only a date is given."""
    whole_day = isinstance(until, datetime.date) and not isinstance(until, datetime.datetime)
    text = str(until).strip().replace("-", "")
    if whole_day or (len(text) == 8 and text.isdigit()):
        return parse_start(str(until), calendar) + np.timedelta64(86400 * 10**6 - 1, "us")
    return parse_start(until, calendar)


def regular_times(
    times: np.ndarray, calendar: str, source: Source
) -> tuple[np.ndarray, float, str]:
    """Return the step of each time, the length of a step, and its unit ("" of model time).

    The step is the smallest gap. Where some gap is no multiple of it, it is a number of months.
    """
    if times.dtype.kind in "SU":
        raise ValueError(
            f"{name_of(source)} has a time {times[0]!s:.40}, which is text: give numbers with "
            "`units` as CF has them, or datetimes."
        )
    if times.dtype.kind not in "MO":
        elapsed, unit = times.astype(float), ""
    else:
        when = instants(times, calendar)
        if np.isnat(when).any():
            raise ValueError(f"{name_of(source)} has a missing time: leave its field out.")
        elapsed, unit = (when - when[0]) / np.timedelta64(1, "h"), "hours"
    gaps = np.diff(elapsed)
    if not (gaps > 0).all():
        k = int((~(gaps > 0)).argmax())
        what = "twice" if gaps[k] == 0 else f"after {times[k]}"
        raise ValueError(
            f"{name_of(source)} has the time {times[k + 1]} {what} (fields {k + 1} and {k + 2}): "
            "give times that increase."
        )
    places = np.round(elapsed / gaps.min() - elapsed[0] / gaps.min())
    # The mean step has less rounding than the smallest.
    step = float((elapsed[-1] - elapsed[0]) / places[-1])
    if _are_multiples(elapsed - elapsed[0], places, step, 1e-6 * step):
        return places.astype(np.int64), step, unit
    if unit:
        months = total_months(when, calendar)
        step = float(np.round(np.diff(months).min()))
        places = np.round((months - months[0]) / max(step, 1.0))
        # A month's middle is another share of a month of 28 days than of one of 31.
        if step >= 1 and _are_multiples(months - months[0], places, step, 0.1):
            return places.astype(np.int64), step, "months"
    raise ValueError(
        f"The times of {name_of(source)} are not regular{', in hours or months' if unit else ''}: "
        "give equal steps."
    )


def _mask(
    states: Tensor,
    variables: list[str],
    axes: tuple[str, ...],
    source: Source,
    notes: list[str],
) -> np.ndarray | None:
    """Return which points have values of all variables at some time."""
    known: np.ndarray = np.zeros(tuple(states.shape[2:]), dtype=bool)
    for _, block in blocks(states, NUMBERS):
        known |= (~block.isnan()).any(0).any(0).numpy()
    each = known if known.ndim > len(axes) else known[None]
    for variable, points in zip(variables, each, strict=True):
        if not points.any():
            raise ValueError(f"{name_of(source)} has no values of {variable}: choose others.")
    if not axes:
        return None
    mask = np.asarray(each.all(0))
    if not mask.any():
        raise ValueError(
            f"{name_of(source)} has no point with values of all of {variables}: choose fewer."
        )
    if not mask.all():
        notes.append(f"{int((~mask).sum())} of {mask.size} points have no values (land)")
    if (each != mask).any():
        notes.append("left out points that have values of some of the variables only")
    return mask


def _are_multiples(elapsed: np.ndarray, places: np.ndarray, step: float, slack: float) -> bool:
    near = np.abs(elapsed - places * step) <= slack
    return bool(near.all() and places[-1] < MOST_MISSING * len(places))


def _states(
    data: xarray.Dataset,
    variables: list[str],
    axes: tuple[str, ...],
    places: np.ndarray,
    missing: Sequence[float],
    first: int,
) -> Tensor:
    """Return ``(series, time, *state)``, NaN at times that are missing; it is read in blocks."""
    # Single precision stays: a record may be large, and double would add nothing to it.
    single = np.result_type(*(data[n].dtype for n in variables)) == np.float32
    several = len(variables) > 1 or not axes
    state = (len(variables),) * several + tuple(data.sizes[axis] for axis in axes)
    shape = (data.sizes.get("series", 1), int(places[-1]) + 1, *state)
    states = scratch(shape, torch.float32 if single else torch.float64)
    out = states.numpy() if several else states.unsqueeze(2).numpy()
    out[:, np.setdiff1d(np.arange(shape[1]), places)] = np.nan
    for rows in time_blocks(data, NUMBERS, first):
        part, onto = data.isel(time=rows), contiguous(places[rows])
        for k, name in enumerate(variables):
            values = part[name].values.reshape(shape[0], -1, *out.shape[3:])
            values = values.astype(out.dtype, copy=False)
            for code in missing:
                near = np.isclose(values, code, rtol=1e-6, atol=0.0)
                values = np.where(near, np.nan, values)
            out[:, onto, k] = values
        release(states)
    return states
