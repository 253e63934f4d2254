"""Tables of observations: read them, find step and place of each row, write them.

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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scorda.core import files
from scorda.core.space import StateSpace
from scorda.core.times import Start, match_times, parse_start
from scorda.observations.spatial import inside_domain, nearest_grid_point, within_a_period

if TYPE_CHECKING:
    pass

__all__ = ["UnusedRow", "UsableRows", "arrange", "summary_of", "usable_fields", "usable_rows"]


# Reasons that a summary names; more are counted.
REASONS = 3


class UnusedRow(NamedTuple):
    """A row that could not be used: its number, counted from 1, and the reason."""

    row: int
    reason: str


@dataclass(frozen=True)
class UsableRows:
    """What the usable rows of a table observe, one entry per row.

    Arguments:
        step: Step that the time was matched to.
        variable: Index of the variable.
        point: Flat index of the grid point next to the position.
        position: Position, ``(rows, axes)``, moved onto the grid point where it is one.
        on_grid: Whether the position is a grid point.
        value: Observed value.
        std: Standard deviation of its error.
        unused: The other rows.
    """

    step: np.ndarray
    variable: np.ndarray
    point: np.ndarray
    position: np.ndarray
    on_grid: np.ndarray
    value: np.ndarray
    std: np.ndarray
    unused: tuple[UnusedRow, ...]


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
    columns = files.read_columns(table)
    name = f"The table {table}" if isinstance(table, str | Path) else "The table"
    _require(columns, name, "time", "time")
    _require(columns, name, "value", "value")
    if len(space.variables) > 1:
        _require(columns, name, "variable", "variable")
    if std is None:
        _require(columns, name, "std", "std (or give the argument `std`, --std in the shell)")
    placed = all(axis in columns for axis in space.axes)
    if not placed and "index" not in columns:
        needed = f"{' and '.join(space.axes)}, or index"
        raise ValueError(
            f"{name} has the columns {sorted(columns)}: it needs a position ({needed})."
        )
    rows = len(columns["value"])
    if not rows:
        raise ValueError(f"{name} has no rows: give at least one observation.")

    reason = np.full(rows, "", dtype=object)

    def refuse(where: Any, why: str | np.ndarray) -> None:
        where = where & (reason == "")
        reason[where] = why[where] if isinstance(why, np.ndarray) else why

    variable = np.zeros(rows, dtype=np.int64)
    if "variable" in columns:
        names = np.array([str(v).strip() for v in columns["variable"].tolist()], dtype=object)
        known = {n: i for i, n in enumerate(space.variables)}
        variable = np.array([known.get(n, -1) for n in names], dtype=np.int64)
        why = np.array(["" if n in known else f"unknown variable {n!r}" for n in names], object)
        refuse(variable < 0, why)

    value, text = files.numbers(columns["value"])
    refuse(text, "value is not a number")
    refuse(np.isnan(value), "missing value")
    refuse(np.isinf(value), "infinite value")

    error = np.full(rows, math.nan)
    if "std" in columns:
        error, text = files.numbers(columns["std"])
        refuse(text, "std is not a number")
    if std is not None:
        error = np.where(np.isnan(error), std, error)
    refuse(np.isnan(error), "missing std")
    refuse(~(error > 0), "std not positive")
    refuse(np.isinf(error), "infinite std")

    if placed:
        numbers = [files.numbers(columns[axis]) for axis in space.axes]
        position = np.stack([n for n, _ in numbers], -1) if numbers else np.zeros((rows, 0))
        refuse(~np.isfinite(position).all(1), "missing position")
        refuse(~inside_domain(position, space), "position outside the domain")
        refuse(~within_a_period(position, space), "position more than a period away")
        usable = reason == ""
        point, on_grid = np.zeros(rows, dtype=np.int64), np.ones(rows, dtype=bool)
        point[usable], on_grid[usable] = nearest_grid_point(position[usable], space)
    else:
        index, _ = files.numbers(columns["index"])
        refuse(np.isnan(index), "missing position")
        points = math.prod(space.grid)
        refuse((index < 0) | (index >= points) | (index % 1 != 0), "index outside the grid")
        point = np.where(reason == "", index, 0).astype(np.int64)
        on_grid = np.ones(rows, dtype=bool)
        position = np.zeros((rows, len(space.axes)))
    mesh = np.meshgrid(*(space.coordinates or {}).values(), indexing="ij")
    grid = np.stack([m.ravel() for m in mesh], -1) if mesh else np.zeros((1, 0))
    position = np.where(on_grid[:, None], grid[point], position)

    step, why = match_times(columns["time"], space, start, tolerance, steps)
    refuse(why != "", why)

    usable = reason == ""
    unused = tuple(UnusedRow(int(i) + 1, str(reason[i])) for i in np.flatnonzero(~usable))
    if not usable.any():
        raise ValueError(
            f"{name} has {rows} rows of which none can be used ({summary_of(unused)}): "
            f"{_expected(space, start, steps)}."
        )
    return UsableRows(
        step=step[usable],
        variable=variable[usable],
        point=point[usable],
        position=position[usable],
        on_grid=on_grid[usable],
        value=value[usable],
        std=error[usable],
        unused=unused,
    )


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
    """One row per present value of fields; `Observations.from_array` has the arguments.

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
    unused = tuple(UnusedRow(k + 1, str(why[k])) for k in range(len(fields)) if why[k])
    flat = np.where((why == "")[:, None], fields.reshape(len(fields), -1), math.nan)
    row, point = np.nonzero(np.isfinite(flat))
    if not len(row):
        raise ValueError(
            f"Got {len(fields)} fields of which no value can be used "
            f"({summary_of(unused) or 'all are NaN'}): give at least one."
        )
    return UsableRows(
        step=step[row],
        variable=np.full(len(row), channel),
        point=point,
        position=np.zeros((len(row), len(space.axes))),
        on_grid=np.ones(len(row), dtype=bool),
        value=flat[row, point],
        std=np.full(len(row), float(std)),
        unused=unused,
    )


def arrange(
    rows: UsableRows, space: StateSpace
) -> tuple[np.ndarray, list[int], np.ndarray, np.ndarray]:
    """Arrange rows as ``(columns, steps, values, std)``, duplicates averaged by 1/std^2.

    `values` and `std` are ``(cycle, obs)`` with NaN where absent. `columns` has a row per
    observation: the index into the flattened state where every position is a grid point, else
    variable and position.
    """
    if rows.on_grid.all():
        keys = (rows.variable * math.prod(space.grid) + rows.point).astype(float)[:, None]
    else:
        keys = np.column_stack([rows.variable, rows.position])
    columns, column = np.unique(keys, axis=0, return_inverse=True)
    steps, cycle = np.unique(rows.step, return_inverse=True)
    cell, cells = cycle * len(columns) + column, len(steps) * len(columns)
    weight = rows.std**-2.0
    count = np.bincount(cell, minlength=cells)
    total = np.bincount(cell, weight, cells)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.bincount(cell, weight * rows.value, cells) / total
        std = np.where(count > 0, total**-0.5, math.nan)
    # A single value stays what it was, to the last digit.
    single = count[cell] == 1
    values[cell[single]], std[cell[single]] = rows.value[single], rows.std[single]
    shape = (len(steps), len(columns))
    return columns, steps.tolist(), values.reshape(shape), std.reshape(shape)


def summary_of(unused: tuple[UnusedRow, ...]) -> str:
    """Reasons with the number of rows and the first few of them, the most frequent first."""
    groups: dict[str, list[int]] = {}
    for row, reason in unused:
        groups.setdefault(reason, []).append(row)
    parts = []
    for reason, rows in sorted(groups.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        parts.append(f"{len(rows)} {reason} (row{'s' * (len(rows) > 1)} {shown})")
    more = len(parts) - REASONS
    return "; ".join(parts[:REASONS] + [f"and {more} more reasons"] * (more > 0))


def _expected(space: StateSpace, start: Start | None, steps: int | None) -> str:
    """What a usable row holds, in words."""
    places = [f"{n} {c[0]:g} to {c[-1]:g}" for n, c in (space.coordinates or {}).items()]
    begin = "0" if start is None else f"{parse_start(start).astype('M8[m]')}"
    times = f"times from {begin}" + ("" if steps is None else f" to step {steps}")
    words = [f"one of the variables {list(space.variables)}", times, *places]
    return f"a row needs {', '.join(words)}, a value and a positive std"


def _read_fields(path: Path, space: StateSpace, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Variable on ``(time, *axes)`` and times of a NetCDF file or a zarr store."""
    import xarray

    if not path.exists():
        raise FileNotFoundError(f"There is no file or store {path}: check the path.")
    settings: dict[str, Any] = {"engine": "zarr", "consolidated": False} if path.is_dir() else {}
    with xarray.open_dataset(path, decode_timedelta=False, **settings) as dataset:
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


def _require(columns: Mapping[str, np.ndarray], table: str, name: str, words: str) -> None:
    if name not in columns:
        raise ValueError(f"{table} has the columns {sorted(columns)}: it needs {words}.")
