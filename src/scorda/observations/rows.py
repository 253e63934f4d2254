"""The rows of a table of observations: how they are read, and why one is not used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scorda.core.calendars import Start
from scorda.core.columns import distinct, numbers
from scorda.core.parts import by_piece
from scorda.core.space import StateSpace
from scorda.observations.law_columns import laws_of_rows
from scorda.observations.laws import Law
from scorda.observations.positions import (
    inside_domain,
    nearest_points,
    on_land,
    snapped,
    within_a_period,
)
from scorda.observations.robust_laws import Normal
from scorda.reading.climate import LIMIT, suspicious
from scorda.reading.fields import role_of_axis
from scorda.reading.roles import role_of_name, same_kind
from scorda.reading.units import conversion

__all__ = ["How", "Rows", "UnusedRow", "position_columns", "unused_rows"]


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
        law: Law of the values by variable, "" for all others, where the source does not say.
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
    law: Mapping[str, Law] | None = None

    def law_of(self, variable: str) -> Law:
        """Return the law of a variable."""
        laws = self.law or {}
        return laws.get(variable, laws.get("", Normal()))

    def needs_std(self, variables: Sequence[str]) -> bool:
        """Return whether the law of a variable has a standard deviation."""
        return any(self.law_of(name).scaled for name in variables)

    def far(
        self, value: np.ndarray, variable: np.ndarray, names: Sequence[str]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Give the variables that have values farther from the climate than allowed, and which.

        Arguments:
            value: Values, in units of the space.
            variable: Index of the variable of each.
            names: The variables.
        """
        for index, name in enumerate(names):
            mean, std = (self.climate or {}).get(name, (0.0, math.inf))
            of = variable == index
            far = of & (np.abs(value - mean) > self.gross_error_check * std)
            if self.first_climate and far.any():
                far[of] &= suspicious(value[of], self.gross_error_check)
            if far.any():
                yield name, far

    def is_missing(self, value: np.ndarray) -> np.ndarray:
        """Return which values stand for a missing one."""
        missing = np.array(list(self.missing), dtype=np.float32)
        if not len(missing):
            return np.zeros(value.shape, dtype=bool)
        return np.isin(value.astype(np.float32), missing)


class Rows:
    """The columns of a table, and the first reason why each row cannot be used."""

    def __init__(self, columns: Mapping[str, np.ndarray], space: StateSpace, how: How) -> None:
        self.columns, self.space, self.how = columns, space, how
        self.reason = np.full(len(columns["value"]), "", dtype=object)
        self.usable = np.ones(len(self.reason), dtype=bool)

    def refuse(self, where: np.ndarray, why: str | np.ndarray) -> None:
        """Give a reason to the rows there, unless they have one already."""
        if where.any():
            where = where & self.usable
            self.reason[where] = why if isinstance(why, str) else why[where]
            self.usable &= ~where

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
        code, names = distinct(self.columns["variable"])
        given = np.array([str(name).strip() for name in names], dtype=object)
        index = np.array([_index(name, self.space.variables) for name in given])[code]
        if (index < 0).any():
            why = np.array([f"unknown variable {name!r}" for name in given], dtype=object)
            self.refuse(index < 0, why[code])
        return index

    def law(self, variable: np.ndarray) -> tuple[np.ndarray, list[Law]]:
        """Return the index of each row's law, and the laws.

        Raises:
            ValueError: If the column ``law`` names one that there is not.
        """
        usual = [self.how.law_of(name) for name in self.space.variables]
        return laws_of_rows(self.columns.get("law"), variable, usual)

    def _check_units(self) -> None:
        """Check that units that are given can be converted to those of the state.

        Raises:
            ValueError: If there is no such variable, or it has no unit.
        """
        for name, unit in (self.how.units or {}).items():
            self.space.variable(name)
            if not self.space.units.get(name):
                raise ValueError(
                    f"Got the unit {unit} of {name}, which has no unit in the state: leave it "
                    "out, or give the space its `units`."
                )

    def converted(
        self, variable: np.ndarray, value: np.ndarray, error: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return values and errors in the units of the space, and what was converted.

        Raises:
            ValueError: If a unit is unknown or measures something else.
        """
        self._check_units()
        notes, usable = list[str](), self.usable
        if not self.how.units and not any(n in self.columns for n in ("units", "std_units")):
            return value, error, notes
        # An error that the caller gives is in the unit of the space already.
        own = np.zeros(len(value), dtype=bool)
        if "std" in self.columns:
            own = ~np.isnan(numbers(self.columns["std"])[0])
        for index, name in enumerate(self.space.variables):
            wanted, of = self.space.units.get(name, ""), (variable == index) & usable
            for unit, rows in self._by_unit("units", of):
                unit = unit or (self.how.units or {}).get(name, "")
                factor, offset = _conversion(unit, wanted, f"variable {name!r}", rows)
                if (factor, offset) != (1.0, 0.0):
                    value = np.where(rows, factor * value + offset, value)
                    count = int(rows.sum())
                    notes.append(f"{count} values of {name} converted from {unit} to {wanted}")
                for other, some in self._by_unit("std_units", rows & own):
                    to = wanted or unit
                    ratio = _conversion(other or unit, to, f"std of {name!r}", some)[0]
                    if ratio != 1.0:
                        error = np.where(some, abs(ratio) * error, error)
                    if ratio != 1.0 and other not in ("", unit):
                        count = int(some.sum())
                        notes.append(f"{count} std of {name} converted from {other} to {to}")
        return value, error, notes

    def _by_unit(self, column: str, of: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Give each unit that a column names for some of the rows, "" for none, and which."""
        if not of.any():
            return
        if column not in self.columns:
            yield "", of
            return
        code, units = distinct(self.columns[column])
        for k, unit in enumerate(units):
            if (rows := of & (code == k)).any():
                yield str(unit).strip() if isinstance(unit, str) else "", rows

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
            for i, (axis, column) in enumerate(zip(space.position_names, columns, strict=True)):
                given = self.number(column, "position", of=of)
                for unit, some in self._by_unit(f"{column}_units", of):
                    wanted = "" if unit == "1" else space.units.get(axis, "")
                    words = f"position {column!r}"
                    factor, offset = _conversion(unit, wanted, words, some)
                    if (factor, offset) != (1.0, 0.0):
                        given = np.where(some, factor * given + offset, given)
                position[:, i] = given
            self.refuse(of & ~within_a_period(position, space), "position more than a period away")
            position = _in_one_turn(position, space)
            if self.how.nearest is not None:
                index, near = nearest_points(position, space, self.how.nearest)
                self.refuse(of & ~near, "position far from all points")
                return position, index[:, 0], on_grid
            self.refuse(of & ~inside_domain(position, space), "position outside the domain")
            usable = of & self.usable
            position[usable], point[usable], on_grid[usable] = snapped(position[usable], space)
            land = np.zeros(rows, dtype=bool)
            land[usable] = on_land(position[usable], space)
        else:
            index = self.number("point", "position", of=of)
            inside = space.only(space.variables[0]).inside.numpy()
            outside = (index < 0) | (index >= len(inside)) | (index % 1 != 0)
            self.refuse(of & outside, "point outside the grid")
            usable = of & self.usable
            point[usable] = index[usable]
            land = usable & ~inside[point]
        self.refuse(land, "position on land")
        return position, point, on_grid


def unused_rows(reason: np.ndarray) -> tuple[UnusedRow, ...]:
    """Return the rows that have a reason why they cannot be used."""
    return tuple(UnusedRow(int(i) + 1, str(reason[i])) for i in np.flatnonzero(reason != ""))


def position_columns(
    columns: Mapping[str, np.ndarray], space: StateSpace, same_as: Mapping[str, str] = {}
) -> list[str] | None:
    """Return the column of each axis of a grid, by its name or role; None if one is missing."""
    found = []
    for axis in space.position_names:
        role = role_of_axis(axis, space)
        unit = space.units.get(axis, "")
        same = [
            c
            for c in columns
            if role is not None and role_of_name(c) == role and same_kind(c, axis, unit)
        ]
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


def _index(name: str, names: tuple[str, ...]) -> int:
    return names.index(name) if name in names else -1


def _conversion(unit: str, wanted: str, what: str, rows: np.ndarray) -> tuple[float, float]:
    """Return factor and offset of rows; they stay as they are where a unit is not known."""
    if not unit or not wanted:
        return 1.0, 0.0
    try:
        return conversion(unit, wanted)
    except ValueError as error:
        raise ValueError(f"Row {int(rows.argmax()) + 1}, {what}: {error}") from error
