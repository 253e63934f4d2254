"""Spaces of several grids: what `StateSpace.of_parts` makes of its parts.

The state is flat, the parts one after the other, each in C order. A position has one column for
each kind of axis: axes of the same name share a column, as do latitudes and longitudes in degrees,
and those that `same_as` calls the same. An entry has NaN in the columns that its part lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scorda.core.shapes import Float, Tensor
from scorda.core.sphere import horizontal, is_latitude, is_longitude
from scorda.core.transforms import Transform

if TYPE_CHECKING:
    from scorda.core.space import StateSpace

__all__ = ["by_piece", "combined", "lacking", "part_positions"]


def combined(given: Mapping[str, StateSpace], same_as: Mapping[str, str]) -> dict[str, Any]:
    """Return the attributes of a space of parts by name; `StateSpace.of_parts` has the arguments.

    Raises:
        ValueError: If there is no part, the parts differ in their times, or names do not fit.
    """
    if not given:
        raise ValueError("Got no parts: give at least one space by its name.")
    for name, part in given.items():
        if part.parts is not None:
            raise ValueError(f"Part {name!r} has parts itself: give these instead.")
        if part.points is not None:
            raise ValueError(
                f"Part {name!r} has a position per point (`points`): parts are grids whose "
                "positions are those of their axes."
            )
    first, *others = given.values()
    for other in others:
        for what in ("dt", "calendar"):
            if getattr(first, what) != getattr(other, what):
                raise ValueError(
                    f"Got parts with {what} {getattr(first, what)} and {getattr(other, what)}: "
                    "all parts of a state have the same."
                )
        if first.units.get("time") != other.units.get("time"):
            raise ValueError(
                f"Got parts with times in {first.units.get('time')} and "
                f"{other.units.get('time')}: all parts of a state have the same unit."
            )
    parts, same_as = _told_apart(given, same_as)
    variables = [v for part in parts.values() for v in part.variables]
    _check_names(variables, {a for part in parts.values() for a in part.axes}, list(parts)[-1])
    columns = _columns(parts, same_as)
    units: dict[str, str] = {}
    period: dict[str, float] = {}
    transforms: dict[str, Transform] = {}
    for part in parts.values():
        transforms |= part.transforms
        units |= {columns[a]: part.units[a] for a in part.axes if a in part.units}
        units |= part.units
        period |= {columns[a]: length for a, length in part.period.items()}
    return {
        "shape": (sum(part.size for part in parts.values()),),
        "dt": first.dt,
        "variables": tuple(variables),
        "coordinates": {},
        "period": period,
        "units": units,
        "calendar": first.calendar,
        "mask": None,
        "parts": parts,
        "same_as": {axis: column for axis, column in columns.items() if axis != column},
        "transforms": transforms,
        "parameters": tuple(name for part in parts.values() for name in part.parameters),
    }


def lacking(space: StateSpace) -> str:
    """Say which axes the parts have, where some two entries have no distance; "" if all have one.

    On the sphere latitude and longitude are enough, elsewhere all parts need all columns. Parts
    without axes, such as parameters, are everywhere: next to any other entry.
    """
    if space.parts is None:
        return ""
    names, parts = space.position_names, space.parts
    sphere = horizontal(names, space.units)
    needed = set(names if sphere is None else (names[i] for i in sphere))
    own = {
        n: {space.same_as.get(a, a) for a in part.axes} for n, part in parts.items() if part.axes
    }
    if needed and all(needed <= columns for columns in own.values()):
        return ""
    return "; ".join(f"{name} has {', '.join(p.axes) or 'none'}" for name, p in parts.items())


def part_positions(space: StateSpace) -> Float[Tensor, "entries axes"]:
    """Return the position of each entry, NaN in the columns that its part lacks."""
    names, rows = space.position_names, []
    for part in (space.parts or {}).values():
        own = part.positions()
        full = own.new_full((len(own), len(names)), torch.nan)
        full[:, _columns_of(part, space)] = own
        rows.append(full.repeat(part.size // len(own), 1))
    return torch.cat(rows)


def by_piece(
    space: StateSpace, variable: np.ndarray
) -> Iterator[tuple[StateSpace, np.ndarray, np.ndarray]]:
    """Give each piece of a space, which entries are of its variables, and its columns.

    Arguments:
        space: The space.
        variable: Index of the variable of each entry.
    """
    for piece in space.pieces:
        own = [space.variable(name) for name in piece.variables]
        yield piece, np.isin(variable, own), _columns_of(piece, space)


def _columns_of(piece: StateSpace, space: StateSpace) -> np.ndarray:
    """Return which columns of positions are the axes of a piece, in their order."""
    names = space.position_names
    return np.array(
        [names.index(space.same_as.get(axis, axis)) for axis in piece.position_names], int
    )


def _told_apart(
    parts: Mapping[str, StateSpace], same_as: Mapping[str, str]
) -> tuple[dict[str, StateSpace], dict[str, str]]:
    """Rename axes that share their name with others at other positions, by the part's name.

    Also return what each renamed axis is the same as.
    """
    seen: dict[str, np.ndarray] = {}
    found, same = {}, dict(same_as)
    for name, part in parts.items():
        own = part.coordinates or {}
        new = {a: f"{a}_{name}" for a, c in own.items() if not np.array_equal(seen.get(a, c), c)}
        if new:
            part = replace(
                part,
                coordinates={new.get(a, a): c for a, c in own.items()},
                period={new.get(a, a): length for a, length in part.period.items()},
                units={new.get(n, n): unit for n, unit in part.units.items()},
            )
        same |= {renamed: same_as.get(axis, axis) for axis, renamed in new.items()}
        seen = dict(part.coordinates or {}) | seen
        found[name] = part
    return found, same


def _columns(parts: Mapping[str, StateSpace], same_as: Mapping[str, str]) -> dict[str, str]:
    """Return the column of positions of each axis.

    Raises:
        ValueError: If axes that share one differ in unit or period, or are of one part.
    """
    axes = {a for part in parts.values() for a in part.axes}
    if unknown := set(same_as) - axes:
        raise ValueError(
            f"Got `same_as` for {sorted(unknown)}: the axes of the parts are {sorted(axes)}."
        )
    found: dict[str, str] = {}
    facts: dict[tuple[str, str], str | float] = {}
    role: dict[str, str] = {}
    for name, part in parts.items():
        for axis in part.axes:
            unit = part.units.get(axis, "")
            kind = "N" if is_latitude(unit) else "E" if is_longitude(unit) else unit
            column = same_as.get(axis, axis)
            if kind in ("N", "E"):
                column = role.setdefault(kind, column)
            for what, own in (("unit", kind), ("period", part.period.get(axis))):
                if own and facts.setdefault((column, what), own) != own:
                    raise ValueError(
                        f"Axis {axis!r} of part {name!r} is the same as {column!r}, but its "
                        f"{what} is {own} instead of {facts[column, what]}: give it another name, "
                        "or convert it."
                    )
            found[axis] = column
        if len({found[axis] for axis in part.axes}) < len(part.axes):
            raise ValueError(
                f"Part {name!r} has several axes of the same kind among {list(part.axes)}: "
                "`same_as` joins axes of different parts."
            )
    return found


def _check_names(variables: list[str], axes: set[str], last: str) -> None:
    twice = sorted({v for v in variables if variables.count(v) > 1})
    if twice:
        raise ValueError(
            f"Got the variable {twice[0]!r} in several parts: rename one of them, such as to "
            f"'{twice[0]}_{last}'."
        )
    if both := sorted(axes & set(variables)):
        raise ValueError(f"Got {both[0]!r} as a variable and as an axis: rename one of them.")
