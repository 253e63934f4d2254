"""Tables and fields of observations: the step and place of each row, and why one is not used.

A table has the columns ``time, variable, value, std`` and a position: columns named as the space's
positions, or as the CF conventions name latitude, longitude and level, in any convention of
longitudes; or ``point``, the flat index of the grid point. A space without coordinates needs no
position and a space with one variable needs no ``variable``. A column ``units`` says in which unit
value and std of its row are, if not in that of the space. Further columns are ignored.

``time`` is model time since step 0, in the unit of ``space.dt``, or a datetime (ISO 8601; without
a zone it is UTC). A row is matched to the nearest step. Rows are counted from 1, the header of a
CSV file not included.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from scorda.core.columns import numbers
from scorda.core.parts import by_piece
from scorda.core.space import StateSpace
from scorda.core.times import Start, iso, match_times, parse_start
from scorda.observations.positions import (
    inside_domain,
    nearest_points,
    on_land,
    snapped,
    within_a_period,
)
from scorda.reading.climate import LIMIT, suspicious
from scorda.reading.columns import read_columns
from scorda.reading.fields import aligned, role_of_axis
from scorda.reading.gridded import contiguous
from scorda.reading.opening import Source, name_of, readable
from scorda.reading.roles import role_of_name
from scorda.reading.units import conversion

__all__ = [
    "How",
    "UnusedRow",
    "UsableRows",
    "arrange",
    "position_columns",
    "summary_of",
    "usable_fields",
    "usable_rows",
]

# Reason of fields of which the other values are used.
LAND = "some values on land"
# Reasons that a summary names; more are counted.
REASONS = 3
# Spreads the bits of a number over 64 (the golden ratio in binary).
ODD = np.uint64(0x9E3779B97F4A7C15)


class UnusedRow(NamedTuple):
    """A row that could not be used: its number, counted from 1, and the reason."""

    row: int
    reason: str


@dataclass(frozen=True)
class How:
    """How observations are read, whatever holds them.

    Arguments:
        start: Datetime of step 0, needed where times are datetimes; UTC unless it says.
        tolerance: Largest distance of a time from its step, in the unit of ``space.dt``.
            Default: half of ``space.dt``, so that every time has its nearest step.
        std: Standard deviation of the error where the source has none, in units of the space.
        steps: Last step to use. Default: no limit.
        units: Unit of the values by variable, where the source does not say.
        missing: Values that stand for a missing one.
        climate: Mean and standard deviation by variable, in units of the space.
        first_climate: Whether the climate is that of first states, which later ones may leave:
            then a value is not used only if it is far from all others of its variable too.
        gross_error_check: Values farther from the climate than so many of its standard
            deviations are not used.
        nearest: Observe the nearest point of the state up to this distance, in km on the globe,
            else in the unit of the coordinates, instead of interpolating.
    """

    start: Start | None = None
    tolerance: float | None = None
    std: float | None = None
    steps: int | None = None
    units: Mapping[str, str] | None = None
    missing: Iterable[float] = ()
    climate: Mapping[str, tuple[float, float]] | None = None
    first_climate: bool = False
    gross_error_check: float = LIMIT
    nearest: float | None = None

    def far(self, value: np.ndarray, names: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Give each variable and which of its values are farther from the climate than allowed.

        Arguments:
            value: Values, in units of the space.
            names: Variable of each.
        """
        for name, (mean, std) in (self.climate or {}).items():
            far = (names == name) & (np.abs(value - mean) > self.gross_error_check * std)
            if self.first_climate:
                far[names == name] &= suspicious(value[names == name], self.gross_error_check)
            yield name, far

    def is_missing(self, value: np.ndarray) -> np.ndarray:
        """Return which values stand for a missing one."""
        return np.isin(value.astype(np.float32), np.array(list(self.missing), dtype=np.float32))


class UsableRows(NamedTuple):
    """The usable rows of a table, one entry per row.

    `place` is the index into the flattened state, ``(rows, 1)``; where a position is no grid
    point, it is variable and position of each row, ``(rows, 1 + axes)``.
    """

    step: np.ndarray
    place: np.ndarray
    value: np.ndarray
    std: np.ndarray
    unused: tuple[UnusedRow, ...]
    notes: tuple[str, ...] = ()


class Arranged(NamedTuple):
    """Rows by step: `values` and `std` are ``(cycle, obs)`` with NaN where absent.

    `places` is as in `UsableRows`, one row per observation; or ``(cycle, obs, 1 + axes)`` where
    each step has places of its own. `averaged` is the number of rows that share a place and a
    step with others.
    """

    places: np.ndarray
    steps: list[int]
    values: np.ndarray
    std: np.ndarray
    averaged: int


class _Rows:
    """The columns of a table, and the first reason why each row cannot be used."""

    def __init__(self, columns: Mapping[str, np.ndarray], space: StateSpace, how: How) -> None:
        self.columns, self.space, self.how = columns, space, how
        self.reason = np.full(len(columns["value"]), "", dtype=object)

    def refuse(self, where: np.ndarray, why: str | np.ndarray) -> None:
        """Give a reason to the rows there, unless they have one already."""
        if where.any():
            where = where & (self.reason == "")
            self.reason[where] = why if isinstance(why, str) else why[where]

    def number(
        self,
        column: str,
        words: str,
        default: float | None = None,
        of: np.ndarray | bool = True,
    ) -> np.ndarray:
        """Return a column as numbers; rows without a finite one are refused in these words.

        Arguments:
            column: Name of the column.
            words: What it is, in words.
            default: Number of rows without one.
            of: Which rows need one.
        """
        value = np.full(len(self.reason), math.nan)
        if column in self.columns:
            value, text = numbers(self.columns[column])
            self.refuse(text & of, f"{words} is not a number")
            value = np.where(self.how.is_missing(value), math.nan, value)
        if default is not None:
            value = np.where(np.isnan(value), default, value)
        self.refuse(np.isnan(value) & of, f"missing {words}")
        self.refuse(np.isinf(value) & of, f"infinite {words}")
        return value

    def variable(self) -> np.ndarray:
        """Return the index of each row's variable."""
        if "variable" not in self.columns:
            return np.zeros(len(self.reason), dtype=np.int64)
        code, names = _distinct(self.columns["variable"])
        given = np.array([str(name).strip() for name in names], dtype=object)
        index = np.array([_index(name, self.space.variables) for name in given])[code]
        why = np.array([f"unknown variable {name!r}" for name in given], dtype=object)[code]
        self.refuse(index < 0, why)
        return index

    def converted(
        self, variable: np.ndarray, value: np.ndarray, error: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return values and errors in the units of the space, and what was converted.

        Raises:
            ValueError: If a unit is unknown or measures something else.
        """
        notes, usable = list[str](), self.reason == ""
        code, units = np.zeros(len(value), dtype=np.int64), np.array([""], dtype=object)
        if "units" in self.columns:
            code, units = _distinct(self.columns["units"])
        for index, name in enumerate(self.space.variables):
            for k, unit in enumerate(units):
                told = str(unit).strip() if isinstance(unit, str) else ""
                unit = told or (self.how.units or {}).get(name, "")
                wanted = self.space.units.get(name, "")
                rows = (variable == index) & (code == k) & usable
                if not unit or not wanted or not rows.any():
                    continue
                factor, offset = _conversion(unit, wanted, name, int(rows.argmax()) + 1)
                if (factor, offset) != (1.0, 0.0):
                    # An error that the caller gives is in the unit of the space already.
                    own = "std" in self.columns and ~np.isnan(numbers(self.columns["std"])[0])
                    value = np.where(rows, factor * value + offset, value)
                    error = np.where(rows & own, abs(factor) * error, error)
                    count = int(rows.sum())
                    notes.append(f"{count} values of {name} converted from {unit} to {wanted}")
        return value, error, notes

    def position(self, variable: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return each row's position, the nearest point of its grid, and whether it is there.

        Positions on a grid point up to rounding are moved onto it. A position is 0 in the columns
        that the grid of its variable does not have.
        """
        rows = len(self.reason)
        position = np.zeros((rows, len(self.space.position_names)))
        point, on_grid = np.zeros(rows, dtype=np.int64), np.ones(rows, dtype=bool)
        for piece, of, columns in by_piece(self.space, variable):
            if not of.any():
                continue
            own, point[of], on_grid[of] = (part[of] for part in self._on_grid(piece, of))
            position[np.ix_(of, columns)] = own
        return position, point, on_grid

    def _on_grid(
        self, space: StateSpace, of: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Do the same for the rows that are of variables on one grid."""
        rows = len(self.reason)
        position = np.zeros((rows, len(space.position_names)))
        point, on_grid = np.zeros(rows, dtype=np.int64), np.ones(rows, dtype=bool)
        columns = position_columns(self.columns, space, self.space.same_as)
        if columns is not None:
            for i, column in enumerate(columns):
                position[:, i] = self.number(column, "position", of=of)
            self.refuse(of & ~within_a_period(position, space), "position more than a period away")
            position = _in_one_turn(position, space)
            if self.how.nearest is not None:
                index, near = nearest_points(position, space, self.how.nearest)
                self.refuse(of & ~near, "position far from all points")
                return position, index[:, 0], on_grid
            self.refuse(of & ~inside_domain(position, space), "position outside the domain")
            usable = of & (self.reason == "")
            position[usable], point[usable], on_grid[usable] = snapped(position[usable], space)
            land = np.zeros(rows, dtype=bool)
            land[usable] = on_land(position[usable], space)
        else:
            index = self.number("point", "position", of=of)
            inside = space.only(space.variables[0]).inside.numpy()
            outside = (index < 0) | (index >= len(inside)) | (index % 1 != 0)
            self.refuse(of & outside, "point outside the grid")
            usable = of & (self.reason == "")
            point[usable] = index[usable]
            land = usable & ~inside[point]
        self.refuse(land, "position on land")
        return position, point, on_grid


def usable_rows(table: Source, space: StateSpace, how: How) -> UsableRows:
    """Find step, variable and position of each row; `Observations.from_table` has the arguments.

    Raises:
        ValueError: If a column is missing, no row can be used, or a unit cannot be converted.
    """
    columns = read_columns(table, space.variables)
    name = "The table" if isinstance(table, Mapping) else name_of(table)
    _check_columns(columns, name, space, how)
    rows = _Rows(columns, space, how)
    variable = rows.variable()
    value, error = rows.number("value", "value"), rows.number("std", "std", how.std)
    rows.refuse(~(error > 0), "std not positive")
    value, error, notes = rows.converted(variable, value, error)
    names = np.array(space.variables, dtype=object)[np.maximum(variable, 0)]
    for name, far in how.far(value, names):
        rows.refuse(far, f"value far from the climate of {name}")
    position, point, on_grid = rows.position(variable)
    step, why = match_times(columns["time"], space, how.start, how.tolerance, how.steps)
    rows.refuse(why != "", why)
    usable, unused = rows.reason == "", _unused(rows.reason)
    if not usable.any():
        raise ValueError(
            f"{name} has {len(usable)} rows of which none can be used ({summary_of(unused)}): "
            f"{_expected(space, how)}."
        )
    if on_grid[usable].all():
        place = (space.offsets[variable] + point).astype(float)[:, None]
    else:
        place = np.column_stack([variable, position])
    repeated = usable & _repeated(columns["time"], place, value, error, usable)
    if repeated.any():
        notes.append(f"{int(repeated.sum())} repeated reports counted once")
        usable &= ~repeated
    kept = (step[usable], place[usable], value[usable], error[usable])
    return UsableRows(*kept, unused, tuple(notes))


def usable_fields(
    array: Source | np.ndarray,
    space: StateSpace,
    std: float,
    variable: str | None = None,
    times: np.ndarray | None = None,
    how: How = How(),
) -> UsableRows:
    """Make a row of each present value of fields; `Observations.from_array` has the arguments.

    Raises:
        ValueError: If the fields do not fit the space, or no value can be used.
    """
    if variable is None and len(space.variables) > 1:
        raise ValueError(f"Give `variable`, one of {list(space.variables)}.")
    name = space.variables[0] if variable is None else variable
    own, notes = space.only(name), tuple[str, ...]()
    if not 0 < std < math.inf:
        raise ValueError(f"Got an observation error std of {std}: it must be positive and finite.")
    if not isinstance(array, np.ndarray):
        array, times, notes = _read_fields(array, own, name, how)
    fields: np.ndarray = np.ma.filled(np.ma.asarray(array, dtype=float), math.nan)
    if fields.ndim < 1 or fields.shape[1:] != own.grid:
        raise ValueError(
            f"Got fields of shape {fields.shape}: give one axis of time, then the grid "
            f"{own.grid} of the space."
        )
    times = space.dt * np.arange(len(fields)) if times is None else np.asarray(times)
    if times.shape != (len(fields),):
        raise ValueError(
            f"Got times of shape {times.shape} for {len(fields)} fields: give one each."
        )
    step, why = match_times(times, space, how.start, how.tolerance, how.steps)
    flat = fields.reshape(len(fields), -1)
    sea = own.inside.numpy()
    why[(why == "") & np.isfinite(flat[:, ~sea]).any(1)] = LAND
    present = np.isfinite(flat) & ~how.is_missing(flat) & sea & np.isin(why, ("", LAND))[:, None]
    row, point = np.nonzero(present)
    value, unused = flat[present], _unused(why)
    far = dict(how.far(value, np.full(len(row), name, dtype=object)))
    if name in far:
        reason, kept = f"value far from the climate of {name}", ~far[name]
        unused += tuple(UnusedRow(int(i) + 1, reason) for i in row[~kept])
        row, point, value = row[kept], point[kept], value[kept]
    if not len(row):
        raise ValueError(
            f"Got {len(fields)} fields of which no value can be used "
            f"({summary_of(unused) or 'all are NaN'}): give at least one."
        )
    place = (space.entries(name).start + point).astype(float)[:, None]
    return UsableRows(step[row], place, value, np.full(len(row), float(std)), unused, notes)


def arrange(rows: UsableRows) -> Arranged:
    """Arrange rows by step, averaged by 1/std^2 where they share a place and a step.

    A place is a column of `values`, unless that takes more numbers than a list of the places of
    each step, as for moving platforms whose positions are no grid points.
    """
    places, column = _places(rows.place)
    cycle, steps = _coded(rows.step)
    entry, cell = _coded(cycle * len(places) + column)
    weight = rows.std**-2.0
    count, total = np.bincount(entry), np.bincount(entry, weight)
    value, error = np.bincount(entry, weight * rows.value) / total, total**-0.5
    # A single value stays what it was, to the last digit.
    single = count[entry] == 1
    value[entry[single]], error[entry[single]] = rows.value[single], rows.std[single]
    row, column = np.divmod(cell, len(places))
    most = int(np.bincount(row).max())
    # Of a place of its own each value needs the variable and the position beside value and std.
    moving = places.shape[1] > 1 and most * (2 + places.shape[1]) < 2 * len(places)
    own = places
    if moving:
        found, column = column, np.arange(len(row)) - np.searchsorted(row, row)
        own = np.repeat(places[found[column == 0]][:, None], most, 1)
        own[row, column] = places[found]
    shape = (len(steps), most if moving else len(places))
    values, std = np.full(shape, math.nan), np.full(shape, math.nan)
    values[row, column], std[row, column] = value, error
    averaged = int((count[entry] > 1).sum())
    return Arranged(own, steps.tolist(), values, std, averaged)


def _places(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows in order, and the index of each row among them."""
    index = np.zeros(len(place), dtype=np.int64)
    for column in place.T:
        code, values = _coded(column)
        index, distinct = _coded(index * len(values) + code)
    one = np.empty(len(distinct), dtype=np.int64)
    one[index] = np.arange(len(place))
    return place[one], index


def _coded(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of each number among the distinct ones, and these in order."""
    import pandas

    # Hashing is faster than the sorting of `np.unique` where few are distinct.
    return pandas.factorize(column, sort=True)


def summary_of(unused: tuple[UnusedRow, ...]) -> str:
    """Count the rows of each reason and name the first few, the most frequent reason first."""
    groups: dict[str, list[int]] = {}
    for row, reason in unused:
        groups.setdefault(reason, []).append(row)
    parts = []
    for reason, rows in sorted(groups.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        parts.append(f"{len(rows)} {reason} (row{'s' * (len(rows) > 1)} {shown})")
    more = len(parts) - REASONS
    return "; ".join(parts[:REASONS] + [f"and {more} more reasons"] * (more > 0))


def _check_columns(
    columns: Mapping[str, np.ndarray], name: str, space: StateSpace, how: How
) -> None:
    """Check that a table has rows, and the columns without which none of them can be used."""
    needed = {"time": "time", "value": "value"}
    if len(space.variables) > 1:
        needed["variable"] = "variable"
    if how.std is None:
        needed["std"] = "std (or give the argument `std`, --std in the shell)"
    given = {str(v).strip() for v in columns.get("variable", ())}
    for piece in space.pieces:
        positions = position_columns(columns, piece, space.same_as)
        if space.parts is not None and not given & set(piece.variables):
            continue
        if positions is None:
            needed["point"] = f"a position ({' and '.join(piece.position_names)}, or point)"
        elif positions and "point" in columns:
            raise ValueError(
                f"{name} has the column point beside {' and '.join(positions)}: a position is "
                "given by one or the other."
            )
    for column, words in needed.items():
        if column not in columns:
            raise ValueError(f"{name} has the columns {sorted(columns)}: it needs {words}.")
    if not len(columns["value"]):
        raise ValueError(f"{name} has no rows: give at least one observation.")


def position_columns(
    columns: Mapping[str, np.ndarray], space: StateSpace, same_as: Mapping[str, str] = {}
) -> list[str] | None:
    """Return the column of each axis of a grid, by its name or role; None if one is missing."""
    found = []
    for axis in space.position_names:
        role = role_of_axis(axis, space)
        same = [c for c in columns if role is not None and role_of_name(c) == role]
        if axis in columns:
            found.append(axis)
        elif same_as.get(axis) in columns:
            found.append(same_as[axis])
        elif len(same) == 1:
            found.append(same[0])
        else:
            return None
    return found


def _in_one_turn(position: np.ndarray, space: StateSpace) -> np.ndarray:
    """Return positions with longitudes in the convention of the space."""
    out = position.copy()
    for i, axis in enumerate(space.position_names):
        if role_of_axis(axis, space) == "longitude" and axis not in space.period:
            middle = sum(space.ranges[axis]) / 2
            turned = middle + (position[:, i] - middle + 180.0) % 360.0 - 180.0
            # What is right already keeps its last digits.
            out[:, i] = np.where(np.abs(turned - position[:, i]) < 1.0, position[:, i], turned)
    return out


def _distinct(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of each entry among the distinct ones, and these."""
    import pandas

    code, found = pandas.factorize(column, use_na_sentinel=False)
    return code, np.asarray(found, dtype=object)


def _index(name: str, names: tuple[str, ...]) -> int:
    return names.index(name) if name in names else -1


def _conversion(unit: str, wanted: str, name: str, row: int) -> tuple[float, float]:
    try:
        return conversion(unit, wanted)
    except ValueError as error:
        raise ValueError(f"Row {row}, variable {name!r}: {error}") from error


def _repeated(
    times: np.ndarray, place: np.ndarray, value: np.ndarray, error: np.ndarray, usable: np.ndarray
) -> np.ndarray:
    """Return which rows say the same as an earlier one that can be used: time, place and value."""
    import pandas

    rows = np.flatnonzero(usable)
    # Adding 0 makes one zero of both.
    numbers = np.column_stack([place[rows], value[rows], error[rows]]) + 0.0
    # Equal rows have equal sums of odd multiples of their bits, and few others do.
    code = (numbers.view(np.uint64) * ODD ** np.arange(numbers.shape[1], dtype=np.uint64)).sum(1)
    ordered = np.sort(code)
    alike = pandas.Series(code).isin(ordered[1:][ordered[1:] == ordered[:-1]]).to_numpy()
    rows, numbers = rows[alike], numbers[alike]
    frame = pandas.DataFrame(numbers).assign(time=times[rows])
    out = np.zeros(len(usable), dtype=bool)
    out[rows] = frame.duplicated().to_numpy()
    return out


def _unused(reason: np.ndarray) -> tuple[UnusedRow, ...]:
    return tuple(UnusedRow(int(i) + 1, str(reason[i])) for i in np.flatnonzero(reason != ""))


def _expected(space: StateSpace, how: How) -> str:
    """Say what a usable row holds."""
    places = [
        f"{n} {low:g} to {high:g}"
        for piece in space.pieces
        for n, (low, high) in piece.ranges.items()
    ]
    calendar = space.calendar
    begin = "0" if how.start is None else iso(parse_start(how.start, calendar), calendar)
    times = f"times from {begin}" + ("" if how.steps is None else f" to step {how.steps}")
    words = [f"one of the variables {list(space.variables)}", times, *places]
    return f"a row needs {', '.join(words)}, a value and a positive std"


def _read_fields(
    source: Source, space: StateSpace, name: str, how: How
) -> tuple[np.ndarray, Any, tuple[str, ...]]:
    """Read a variable on ``(time, *axes)`` and its times, at the steps that are wanted."""
    data, notes = aligned(source, space, [name], partly=True)
    if "time" not in data.dims:
        raise ValueError(
            f"{name!r} of {name_of(source)} has the dimensions {list(data.dims)}: it needs time, "
            f"with coordinates, and {list(space.axes)}."
        )
    times = data["time"].values if "time" in data.coords else None
    if times is not None:
        _, why = match_times(times, space, how.start, how.tolerance, how.steps)
        # Of a long file only the window is read.
        wanted = why == ""
        if wanted.any() and not wanted.all():
            notes = (*notes, f"read {int(wanted.sum())} of {len(wanted)} times")
            data, times = data.isel(time=contiguous(wanted)), times[wanted]
    with readable(source, "fields"):
        return data[name].values, times, notes
