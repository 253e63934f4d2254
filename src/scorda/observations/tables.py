"""Tables and fields of observations: the step and place of each row, and why one is not used.

A table has the columns ``time, variable, value, std`` and a position: columns named as the space's
positions, or as the CF conventions name latitude, longitude and level, in any convention of
longitudes; or ``point``, the flat index of the grid point. A space without coordinates needs no
position and a space with one variable needs no ``variable``. A column ``units`` says in which unit
value and std of its row are, if not in that of the space. A column ``since`` makes a row a mean or
a sum over the period up to its time (`periods`). Further columns are ignored.

``time`` is model time since step 0, in the unit of ``space.dt``, or a datetime (ISO 8601; without
a zone it is UTC). A row is matched to the nearest step. Rows are counted from 1, the header of a
CSV file not included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsFloat

import numpy as np

from scorda.core.arrays import ArrayLike, as_tensor
from scorda.core.calendars import start_text
from scorda.core.columns import distinct
from scorda.core.space import StateSpace
from scorda.core.times import match_times, same_times
from scorda.observations.circular import on_one_turn
from scorda.observations.law_columns import law_of_columns
from scorda.observations.laws import Law
from scorda.observations.periods import POINT, Period, periods_of
from scorda.observations.robust_laws import Normal
from scorda.observations.rows import How, Rows, UnusedRow, position_columns, unused_rows
from scorda.reading.blocks import NUMBERS, time_blocks
from scorda.reading.columns import read_columns
from scorda.reading.fields import aligned
from scorda.reading.gridded import contiguous
from scorda.reading.opening import Source, is_labelled, name_of, readable

__all__ = [
    "UsableRows",
    "arrange",
    "summary_of",
    "usable_fields",
    "usable_rows",
]

# Reason of fields of which the other values are used.
LAND = "some values on land"
# Reasons that a summary names; more are counted.
REASONS = 3
# Significant digits of values that are the same report in other units.
DIGITS = 12
# Spreads the bits of a number over 64 (the golden ratio in binary).
ODD = np.uint64(0x9E3779B97F4A7C15)
# Largest number of 64 bits.
LARGEST = 2**63 - 1


class UsableRows(NamedTuple):
    """The usable rows of a table, one entry per row.

    `place` is the index into the flattened state, ``(rows, 1)``; where a position is no grid
    point, it is variable and position of each row, ``(rows, 1 + axes)``. `law` is the index of
    each row's law among `laws`; the std of a law that has none is 1.
    """

    step: np.ndarray
    place: np.ndarray
    value: np.ndarray
    std: np.ndarray
    unused: tuple[UnusedRow, ...]
    notes: tuple[str, ...] = ()
    law: np.ndarray | int = 0
    laws: tuple[Law, ...] = (Normal(),)
    period: np.ndarray | int = 0
    periods: tuple[Period, ...] = (POINT,)

    def split(self) -> list[tuple[Period, UsableRows]]:
        """Return the rows of each period that there is; what is not used stands with the first."""
        if isinstance(self.period, int):
            return [(POINT, self)]
        found: list[tuple[Period, UsableRows]] = []
        for index in np.unique(self.period):
            of = self.period == index
            rows = self._replace(
                step=self.step[of], place=self.place[of], value=self.value[of], std=self.std[of],
                law=self.law if isinstance(self.law, int) else self.law[of], period=0,
            )  # fmt: skip
            rows = rows._replace(unused=(), notes=()) if found else rows
            found.append((self.periods[index], rows))
        return found


class Arranged(NamedTuple):
    """Rows by step: `values` and `std` are ``(cycle, obs)`` with NaN where absent.

    `places` is as in `UsableRows`, one row per observation; or ``(cycle, obs, 1 + axes)`` where
    each step has places of its own. `averaged` is the number of rows that share a place and a
    step with others. `law` is the law of all columns, None where it is Gaussian.
    """

    places: np.ndarray
    steps: list[int]
    values: np.ndarray
    std: np.ndarray
    averaged: int
    law: Law | None


def usable_rows(table: Source, space: StateSpace, how: How) -> UsableRows:
    """Find step, variable and position of each row; `Observations.from_table` has the arguments.

    Raises:
        ValueError: If a column is missing, no row can be used, or a unit cannot be converted.
    """
    columns = read_columns(table, space.variables)
    name = "The table" if isinstance(table, Mapping) else name_of(table)
    _check_columns(columns, name, space, how)
    rows = Rows(columns, space, how)
    variable = rows.variable()
    law, laws = rows.law(np.maximum(variable, 0))
    with_std = np.array([one.scaled for one in laws])[law]
    value = rows.number("value", "value")
    error = np.where(with_std, rows.number("std", "std", how.std, with_std), 1.0)
    rows.refuse(~(error > 0), "std not positive")
    told = error
    value, error, notes = rows.converted(variable, value, error)
    error = np.where(np.array([one.in_units for one in laws])[law], error, told)
    for variable_name, far in how.far(value, np.maximum(variable, 0), space.variables):
        # The climate is that of the state, whose unit a count has not.
        rows.refuse(far & with_std, f"value far from the climate of {variable_name}")
    position, point, on_grid = rows.position(variable)
    step, why = match_times(columns["time"], space, how.start, how.tolerance, how.steps)
    rows.refuse(why != "", why)
    period, periods, why = periods_of(columns, step, space, how.start, how.tolerance)
    rows.refuse(why != "", why)
    usable, unused = rows.usable, unused_rows(rows.reason)
    if not usable.any():
        raise ValueError(
            f"{name} has {len(usable)} rows of which none can be used ({summary_of(unused)}): "
            f"{_expected(space, how)}."
        )
    if on_grid[usable].all():
        place = (space.offsets[variable] + point).astype(float)[:, None]
    else:
        place = np.column_stack([variable, position])
    times = columns["time"]
    if not usable.all():
        times, step, place = times[usable], step[usable], place[usable]
        value, error, law = value[usable], error[usable], law[usable]
        period = period[usable]
    told_apart = [period] if len(periods) > 1 else []
    # Of a circular variable a report may be a turn off its copy.
    turned = on_one_turn(value, np.zeros(len(value), dtype=np.int64), place, space)
    numbers = [_rounded(turned), _rounded(error), *told_apart]
    kept = ~_repeated(times, space, step, *place.T, *numbers)
    if not kept.all():
        notes.append(f"{int((~kept).sum())} repeated reports counted once")
        step, place, value = step[kept], place[kept], value[kept]
        error, law, period = error[kept], law[kept], period[kept]
    return UsableRows(
        step, place, value, error, unused, tuple(notes), law, tuple(laws), period, tuple(periods)
    )


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
    if np.ndim(std) or not isinstance(std, SupportsFloat) or not 0 < float(std) < math.inf:
        raise ValueError(
            f"Got an observation error std of {std!r}: it must be positive and finite, one number."
        )
    array = _plain(array, name)
    given = "Got" if isinstance(array, np.ndarray) else f"{name_of(array)} has"
    if isinstance(array, np.ndarray):
        shape, parts = array.shape, _parts(array)
    else:
        shape, parts, times, notes = _read_fields(array, own, name, how)
    if len(shape) < 1 or shape[1:] != own.grid:
        raise ValueError(
            f"Got fields of shape {shape}: give one axis of time, then the grid "
            f"{own.grid} of the space."
        )
    times = space.dt * np.arange(shape[0]) if times is None else np.asarray(times)
    if times.shape != shape[:1]:
        raise ValueError(f"Got times of shape {times.shape} for {shape[0]} fields: give one each.")
    step, why = match_times(times, space, how.start, how.tolerance, how.steps)
    row, point, value = _present(parts, own, why, how)
    unused = unused_rows(why)
    law = how.law_of(name)
    far = dict(how.far(value, np.zeros(len(row), dtype=np.int64), [name]))
    if name in far and law.scaled:
        reason, kept = f"value far from the climate of {name}", ~far[name]
        unused += tuple(UnusedRow(int(i) + 1, reason) for i in row[~kept])
        row, point, value = row[kept], point[kept], value[kept]
    if not len(row):
        raise ValueError(
            f"{given} {shape[0]} fields of {name!r} of which no value can be used "
            f"({summary_of(unused) or 'all are NaN'}): give at least one."
        )
    place = (space.entries(name).start + point).astype(float)[:, None]
    errors = np.full(len(row), float(std))
    return UsableRows(step[row], place, value, errors, unused, notes, laws=(law,))


def arrange(rows: UsableRows, space: StateSpace) -> Arranged:
    """Arrange rows by step, averaged by 1/std^2 where they share a place and a step.

    Reports of a circular variable are averaged the short way round.

    A place is a column of `values`, unless that takes more numbers than a list of the places of
    each step, as for moving platforms whose positions are no grid points.
    """
    one, column = _places(rows.place)
    cycle, steps = _coded(rows.step)
    entry, cell = _coded(cycle * len(one) + column)
    weight = rows.std**-2.0
    count, total = np.bincount(entry), np.bincount(entry, weight)
    reported = on_one_turn(rows.value, entry, rows.place, space)
    value, error = np.bincount(entry, weight * reported) / total, total**-0.5
    # A single value stays what it was, to the last digit.
    single = count[entry] == 1
    value[entry[single]], error[entry[single]] = rows.value[single], rows.std[single]
    row, column = np.divmod(cell, len(one))
    counts, columns = np.bincount(row), rows.place.shape[1]
    most = int(counts.max())
    # Of a place of its own each value needs the variable and the position beside value and std.
    moving = columns > 1 and most * (2 + columns) < 2 * len(one)
    if moving:
        first = np.cumsum(counts) - counts
        found, column = one[column], np.arange(len(row)) - first[row]
        places = np.repeat(rows.place[found[first]][:, None], most, 1)
        places.reshape(-1, columns)[row * most + column] = rows.place.take(found, axis=0)
    else:
        places = rows.place.take(one, axis=0)
    shape = (len(steps), most if moving else len(one))
    values, std = np.full(shape, math.nan), np.full(shape, math.nan)
    values[row, column], std[row, column] = value, error
    averaged = int((count[entry] > 1).sum())
    law = law_of_columns(rows.laws, rows.law, averaged, column, entry, shape[1], moving)
    return Arranged(places, steps.tolist(), values, std, averaged, law)


def _places(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a row of each distinct place, in order, and the index of each row among these."""
    index, count = np.zeros(len(place), dtype=np.int64), 1
    for column in place.T:
        whole = column.astype(np.int64)
        code, values = _coded(whole if (whole == column).all() else column + 0.0)
        if count * len(values) > LARGEST:
            index, found = _coded(index)
            count = len(found)
        index, count = index * len(values) + code, count * len(values)
    index, found = _coded(index)
    one = np.empty(len(found), dtype=np.int64)
    one[index] = np.arange(len(place))
    return one, index


def _coded(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of each number among the distinct ones, and these in order."""
    if column.dtype.kind == "i" and (size := int(np.ptp(column)) + 1) <= 4 * len(column):
        # Of few possible numbers a table says which are there.
        first = column.min()
        there = np.zeros(size, dtype=bool)
        there[column - first] = True
        return (np.cumsum(there) - 1)[column - first], np.flatnonzero(there) + first
    order = _order(column)
    ordered = column[order]
    new = np.append(True, ordered[1:] != ordered[:-1])
    code = np.empty(len(column), dtype=np.int64)
    code[order] = np.cumsum(new) - 1
    return code, ordered[new]


def _order(column: np.ndarray) -> np.ndarray:
    """Return the rows in an order of rising numbers.

    To sort numbers is several times faster than to sort rows by them, so that each number has its
    row as its last bits. Of floating-point numbers the last bits are left out for this.
    """
    bits = column.view(np.int64)
    if column.dtype.kind == "f":
        # The numbers below 0 rise as their bits fall.
        bits = bits ^ ((bits >> 63) & np.int64(LARGEST))
    first, room = bits.min(), len(column).bit_length()
    lost = max((int(bits.max()) - int(first)).bit_length() + room - 64, 0)
    above = (bits.view(np.uint64) - first.view(np.uint64)) >> np.uint64(lost)
    keys = np.sort((above << np.uint64(room)) | np.arange(len(column), dtype=np.uint64))
    order = (keys & np.uint64(2**room - 1)).view(np.int64)
    if lost and (column[order][1:] < column[order][:-1]).any():
        return np.argsort(column, kind="stable")
    return order


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
    return "; ".join(parts[:REASONS] + [f"and {more} more reason{'s' * (more > 1)}"] * (more > 0))


def _check_columns(
    columns: Mapping[str, np.ndarray], name: str, space: StateSpace, how: How
) -> None:
    """Check that a table has rows, and the columns without which none of them can be used."""
    needed = {"time": "time", "value": "value"}
    if len(space.variables) > 1:
        needed["variable"] = "variable"
    if how.std is None and "law" not in columns and how.needs_std(space.variables):
        needed["std"] = "std (or give the argument `std`, --std in the shell)"
    given = set[str]()
    if space.parts is not None and "variable" in columns:
        given = {str(v).strip() for v in distinct(columns["variable"])[1]}
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
            raise ValueError(
                f"{name} has the columns {sorted(columns)}: it needs {words}, so rename a column "
                "or add one."
            )
    if not len(columns["value"]):
        raise ValueError(f"{name} has no rows: give at least one observation.")


def _rounded(column: np.ndarray) -> np.ndarray:
    """Return numbers of as many digits as are left after a conversion of units."""
    with np.errstate(divide="ignore"):
        size = np.floor(np.log10(np.abs(column)))
    # Beyond 1e-290 a number is 0.
    scale = 10.0 ** np.where(np.isfinite(size), np.clip(DIGITS - 1 - size, -300, 300), 0.0)
    return np.round(column * scale) / scale


def _repeated(times: np.ndarray, space: StateSpace, *numbers: np.ndarray) -> np.ndarray:
    """Return which rows have the same time and the same numbers as an earlier one."""
    import pandas

    # Equal rows have equal sums of odd multiples of their bits, and few others do.
    code = np.zeros(len(times), dtype=np.uint64)
    for column in numbers:
        # Adding 0 makes one zero of both.
        code = ODD * code + (column + 0.0).view(np.uint64)
    ordered = np.sort(code)
    alike = pandas.Series(code).isin(ordered[1:][ordered[1:] == ordered[:-1]]).to_numpy()
    rows = {str(i): column[alike] for i, column in enumerate(numbers)}
    out = np.zeros(len(times), dtype=bool)
    when = same_times(times[alike], space.calendar)
    out[alike] = pandas.DataFrame({"time": when, **rows}).duplicated().to_numpy()
    return out


def _expected(space: StateSpace, how: How) -> str:
    """Say what a usable row holds."""
    places = [
        f"{n} {low:g} to {high:g}"
        for piece in space.pieces
        for n, (low, high) in piece.ranges.items()
    ]
    calendar = space.calendar
    begin = "0" if how.start is None else start_text(how.start, calendar)
    times = f"times from {begin}" + ("" if how.steps is None else f" to step {how.steps}")
    words = [f"one of the variables {list(space.variables)}", times, *places]
    return f"a row needs {', '.join(words)}, a value and a positive std"


# A slice of the times and their fields, some at once.
Parts = Iterator[tuple[slice, np.ndarray]]


def _read_fields(
    source: Source, space: StateSpace, name: str, how: How
) -> tuple[tuple[int, ...], Parts, Any, tuple[str, ...]]:
    """Read a variable on ``(time, *axes)`` and its times, at the steps that are wanted.

    The fields are read when they are asked for, after their shape.
    """
    data, notes = aligned(source, space, [name], partly=True)
    if "time" not in data.dims:
        raise ValueError(
            f"{name!r} of {name_of(source)} has the dimensions {list(data.dims)}: it needs time, "
            f"with coordinates, and {list(space.axes)}."
        )
    times = data["time"].values if "time" in data.coords else None
    index: np.ndarray | slice = slice(0, None)
    if times is not None:
        _, why = match_times(times, space, how.start, how.tolerance, how.steps)
        # Of a long file only the window is read.
        wanted = why == ""
        if wanted.any() and not wanted.all():
            notes = (*notes, f"read {int(wanted.sum())} of {len(wanted)} times")
            index, times = contiguous(wanted), times[wanted]
    data = data[[name]].isel(time=index)
    first = index.start if isinstance(index, slice) else 0

    def parts() -> Parts:
        for rows in time_blocks(data, NUMBERS, first):
            with readable(source, "fields"):
                values = data[name].isel(time=rows).values
            yield rows, values

    return data[name].shape, parts(), times, notes


def _plain(array: Source | ArrayLike, name: str) -> Source | np.ndarray:
    """Return an array as one of NumPy, and what has labels with the name of its variable."""
    if is_labelled(array):
        return array.rename(name) if getattr(array, "name", "") is None else array
    if isinstance(array, np.ndarray) and array.dtype.kind != "c":
        return array
    paths = isinstance(array, Sequence) and all(isinstance(a, str | Path) for a in array)
    if isinstance(array, str | Path) or paths:
        return array
    return as_tensor(array, "the fields").numpy(force=True)


def _parts(array: np.ndarray) -> Parts:
    """Give some fields of an array at once."""
    size = max(1, NUMBERS * len(array) // max(array.size, 1)) if array.ndim else 1
    for first in range(0, len(array), size):
        yield slice(first, first + size), array[first : first + size]


def _present(
    parts: Parts, space: StateSpace, why: np.ndarray, how: How
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row, point and value of all that is there, where the times of the rows can be used.

    Fields with values on land have the reason of it in `why` afterwards.
    """
    sea, used, found = space.inside.numpy(), why == "", []
    for rows, fields in parts:
        filled: np.ndarray = np.ma.filled(np.ma.asarray(fields, dtype=float), math.nan)
        flat = filled.reshape(len(fields), -1)
        why[rows][used[rows] & np.isfinite(flat[:, ~sea]).any(1)] = LAND
        present = np.isfinite(flat) & ~how.is_missing(flat) & sea & used[rows, None]
        row, point = np.nonzero(present)
        found.append((row + rows.start, point, flat[present]))
    row, point, value = (np.concatenate(each) for each in zip(*found, strict=True))
    return row, point, value
