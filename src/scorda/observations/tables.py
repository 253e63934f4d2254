"""Tables of observations: the step and the place of each row, and why a row is not used.

A table has the columns ``time, variable, value, std`` and a position: the names of the space's
coordinates, or ``index``, the flat index of the grid point. A space without coordinates needs no
position and a space with one variable needs no ``variable``. Further columns are ignored.

``time`` is model time since step 0, in the unit of ``space.dt``, or a datetime (ISO 8601; without
a zone it is UTC). A row is matched to the nearest step. Rows are counted from 1, the header of a
CSV file not included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scorda.core.columns import numbers, read_columns
from scorda.core.files import open_dataset
from scorda.core.space import StateSpace
from scorda.core.times import Start, iso, match_times, parse_start
from scorda.observations.spatial import inside_domain, on_land, snapped, within_a_period

__all__ = ["UnusedRow", "UsableRows", "arrange", "summary_of", "usable_fields", "usable_rows"]

# Reasons that a summary names; more are counted.
REASONS = 3


class UnusedRow(NamedTuple):
    """A row that could not be used: its number, counted from 1, and the reason."""

    row: int
    reason: str


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


class _Rows:
    """The columns of a table, and the first reason why each row cannot be used."""

    def __init__(self, columns: Mapping[str, np.ndarray]) -> None:
        self.columns = columns
        self.reason = np.full(len(columns["value"]), "", dtype=object)

    def refuse(self, where: np.ndarray, why: str | np.ndarray) -> None:
        """Give a reason to the rows there, unless they have one already."""
        where = where & (self.reason == "")
        self.reason[where] = why if isinstance(why, str) else why[where]

    def number(self, column: str, words: str, default: float | None = None) -> np.ndarray:
        """Return a column as numbers; rows without a finite one are refused in these words."""
        value = np.full(len(self.reason), math.nan)
        if column in self.columns:
            value, text = numbers(self.columns[column])
            self.refuse(text, f"{words} is not a number")
        if default is not None:
            value = np.where(np.isnan(value), default, value)
        self.refuse(np.isnan(value), f"missing {words}")
        self.refuse(np.isinf(value), f"infinite {words}")
        return value

    def variable(self, space: StateSpace) -> np.ndarray:
        """Return the index of each row's variable."""
        import pandas

        if "variable" not in self.columns:
            return np.zeros(len(self.reason), dtype=np.int64)
        names = [str(name).strip() for name in self.columns["variable"].tolist()]
        index = pandas.Index(space.variables).get_indexer(np.array(names, dtype=object))
        why = np.array([f"unknown variable {name!r}" for name in names], dtype=object)
        self.refuse(index < 0, why)
        return index

    def position(self, space: StateSpace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return each row's position, the nearest grid point, and whether it is there.

        Positions on a grid point up to rounding are moved onto it.
        """
        rows = len(self.reason)
        position = np.zeros((rows, len(space.axes)))
        point, on_grid = np.zeros(rows, dtype=np.int64), np.ones(rows, dtype=bool)
        if all(axis in self.columns for axis in space.axes):
            for i, axis in enumerate(space.axes):
                position[:, i] = self.number(axis, "position")
            self.refuse(~inside_domain(position, space), "position outside the domain")
            self.refuse(~within_a_period(position, space), "position more than a period away")
            usable = self.reason == ""
            position[usable], point[usable], on_grid[usable] = snapped(position[usable], space)
            land = np.zeros(rows, dtype=bool)
            land[usable] = on_land(position[usable], space)
        else:
            index = self.number("index", "position")
            outside = (index < 0) | (index >= math.prod(space.grid)) | (index % 1 != 0)
            self.refuse(outside, "index outside the grid")
            usable = self.reason == ""
            point[usable] = index[usable]
            land = usable & ~space.inside[: math.prod(space.grid)].numpy()[point]
        self.refuse(land, "position on land")
        return position, point, on_grid


def usable_rows(
    table: str | Path | Mapping[str, Any],
    space: StateSpace,
    start: Start | None = None,
    tolerance: float | None = None,
    std: float | None = None,
    steps: int | None = None,
) -> UsableRows:
    """Find step, variable and position of each row; `Observations.from_table` has the arguments.

    Raises:
        ValueError: If a column is missing, or no row can be used.
    """
    columns = read_columns(table)
    name = f"The table {table}" if isinstance(table, str | Path) else "The table"
    _check_columns(columns, name, space, std)
    rows = _Rows(columns)
    variable = rows.variable(space)
    value, error = rows.number("value", "value"), rows.number("std", "std", std)
    rows.refuse(~(error > 0), "std not positive")
    position, point, on_grid = rows.position(space)
    step, why = match_times(columns["time"], space, start, tolerance, steps)
    rows.refuse(why != "", why)
    usable, unused = rows.reason == "", _unused(rows.reason)
    if not usable.any():
        raise ValueError(
            f"{name} has {len(usable)} rows of which none can be used ({summary_of(unused)}): "
            f"{_expected(space, start, steps)}."
        )
    if on_grid[usable].all():
        place = (variable * math.prod(space.grid) + point).astype(float)[:, None]
    else:
        place = np.column_stack([variable, position])
    return UsableRows(step[usable], place[usable], value[usable], error[usable], unused)


def usable_fields(
    array: str | Path | np.ndarray,
    space: StateSpace,
    std: float,
    variable: str | None = None,
    times: np.ndarray | None = None,
    start: Start | None = None,
    tolerance: float | None = None,
    steps: int | None = None,
) -> UsableRows:
    """Make a row of each present value of fields; `Observations.from_array` has the arguments.

    Raises:
        ValueError: If the fields do not fit the space, or no value can be used.
    """
    if variable is None and len(space.variables) > 1:
        raise ValueError(f"Give `variable`, one of {list(space.variables)}.")
    channel = 0 if variable is None else space.variable(variable)
    if not 0 < std < math.inf:
        raise ValueError(f"Got an observation error std of {std}: it must be positive and finite.")
    if isinstance(array, str | Path):
        array, times = _read_fields(Path(array), space, space.variables[channel])
    fields = np.asarray(array, dtype=float)
    if fields.ndim < 1 or fields.shape[1:] != space.grid:
        raise ValueError(
            f"Got fields of shape {fields.shape}: give one axis of time, then the grid "
            f"{space.grid} of the space."
        )
    times = space.dt * np.arange(len(fields)) if times is None else np.asarray(times)
    if times.shape != (len(fields),):
        raise ValueError(
            f"Got times of shape {times.shape} for {len(fields)} fields: give one each."
        )
    step, why = match_times(times, space, start, tolerance, steps)
    flat = fields.reshape(len(fields), -1)
    sea = space.inside[: flat.shape[1]].numpy()
    why[(why == "") & np.isfinite(flat[:, ~sea]).any(1)] = "some values on land"
    present = np.isfinite(flat) & sea & np.isin(why, ("", "some values on land"))[:, None]
    row, point = np.nonzero(present)
    unused = _unused(why)
    if not len(row):
        raise ValueError(
            f"Got {len(fields)} fields of which no value can be used "
            f"({summary_of(unused) or 'all are NaN'}): give at least one."
        )
    place = (channel * math.prod(space.grid) + point).astype(float)[:, None]
    return UsableRows(step[row], place, flat[present], np.full(len(row), float(std)), unused)


def arrange(rows: UsableRows) -> tuple[np.ndarray, list[int], np.ndarray, np.ndarray]:
    """Arrange rows as ``(places, steps, values, std)``, duplicates averaged by 1/std^2.

    `values` and `std` are ``(cycle, obs)`` with NaN where absent; `places` has a row per
    observation.
    """
    places, column = np.unique(rows.place, axis=0, return_inverse=True)
    steps, cycle = np.unique(rows.step, return_inverse=True)
    cell, cells = cycle * len(places) + column, len(steps) * len(places)
    weight = rows.std**-2.0
    count = np.bincount(cell, minlength=cells)
    total = np.bincount(cell, weight, cells)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.bincount(cell, weight * rows.value, cells) / total
        std = np.where(count > 0, total**-0.5, math.nan)
    # A single value stays what it was, to the last digit.
    single = count[cell] == 1
    values[cell[single]], std[cell[single]] = rows.value[single], rows.std[single]
    shape = (len(steps), len(places))
    return places, steps.tolist(), values.reshape(shape), std.reshape(shape)


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
    columns: Mapping[str, np.ndarray], name: str, space: StateSpace, std: float | None
) -> None:
    """Check that a table has rows, and the columns without which none of them can be used."""
    needed = {"time": "time", "value": "value"}
    if len(space.variables) > 1:
        needed["variable"] = "variable"
    if std is None:
        needed["std"] = "std (or give the argument `std`, --std in the shell)"
    if not all(axis in columns for axis in space.axes):
        needed["index"] = f"a position ({' and '.join(space.axes)}, or index)"
    for column, words in needed.items():
        if column not in columns:
            raise ValueError(f"{name} has the columns {sorted(columns)}: it needs {words}.")
    if not len(columns["value"]):
        raise ValueError(f"{name} has no rows: give at least one observation.")


def _unused(reason: np.ndarray) -> tuple[UnusedRow, ...]:
    return tuple(UnusedRow(int(i) + 1, str(reason[i])) for i in np.flatnonzero(reason != ""))


def _expected(space: StateSpace, start: Start | None, steps: int | None) -> str:
    """Say what a usable row holds."""
    places = [f"{n} {c[0]:g} to {c[-1]:g}" for n, c in (space.coordinates or {}).items()]
    calendar = space.calendar
    begin = "0" if start is None else iso(parse_start(start, calendar), calendar)
    times = f"times from {begin}" + ("" if steps is None else f" to step {steps}")
    words = [f"one of the variables {list(space.variables)}", times, *places]
    return f"a row needs {', '.join(words)}, a value and a positive std"


def _read_fields(path: Path, space: StateSpace, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a variable on ``(time, *axes)`` and its times from a NetCDF file or a zarr store."""
    with open_dataset(path) as dataset:
        if name not in dataset:
            raise ValueError(f"{path} has the variables {list(dataset)}: it needs {name!r}.")
        field = dataset[name]
        if set(field.dims) != {"time", *space.axes} or "time" not in field.coords:
            raise ValueError(
                f"{name!r} of {path} has the dimensions {field.dims}: it needs time, with "
                f"coordinates, and {list(space.axes)}."
            )
        for axis, positions in (space.coordinates or {}).items():
            given = dataset[axis].values
            if given.shape != positions.shape or not np.allclose(given, positions, rtol=1e-5):
                raise ValueError(
                    f"{axis!r} of {path} is not that of the space: use the same grid."
                )
        return field.transpose("time", *space.axes).values, dataset["time"].values
