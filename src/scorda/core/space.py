"""State spaces: shape, variables, units, coordinates, periodic axes and time step of a state.

A state has shape ``(*state)``. Its *spatial axes* are the ones that have coordinates; a state with
several variables has one leading *channel axis* in front of them, whose entries are the
variables. Three cases::

    Lorenz-63            shape (3,)         variables x, y, z     no coordinates
    Lorenz-96            shape (40,)        variable x            coordinate site, period 40
    two-dimensional flow shape (2, 64, 64)  variables u, v        coordinates y, x, both periodic

A state of variables on several grids is flat, and its space has a space for each of its *parts*
(`StateSpace.of_parts`). Whatever needs geometry or names asks the space for it.

On a curvilinear or unstructured grid each point has a position of its own (`StateSpace.points`):
the axes count the points, and distances, observations and pictures take the positions.

Points of the grid that are no part of the state, such as land in a record of the ocean, are in its
`mask`. Their entries of a state mean nothing: they are NaN in what is handed out, and 0 inside of
methods, where nothing observes them and no member differs from another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from scorda.core.described import arguments, described, parts_of
from scorda.core.gaussian import component_std
from scorda.core.grids import (
    check_geometry,
    check_layout,
    check_marked,
    check_period,
    checked_mask,
    checked_points,
)
from scorda.core.layout import Layout
from scorda.core.names import check_names, usual_indices, usual_variable, usual_variables
from scorda.core.parts import combined, lacking, part_positions
from scorda.core.shapes import Bool, Float, Tensor
from scorda.core.sphere import great_circle, horizontal
from scorda.core.transforms import Transform

__all__ = ["LARGEST", "StateSpace", "variable_std"]

# Numbers of a state: 2 GB in double precision for one member.
LARGEST = 2**28


@dataclass(frozen=True)
class StateSpace(Layout):
    """Shape, names and geometry of a state.

    Arguments:
        shape: Shape of one state.
        dt: Length of one step, in units of ``units["time"]`` (model time units if absent).
        variables: Names of the variables. Default: ``("x0", "x1", ...)`` for a flat state without
            coordinates, else ``("x",)``, or ``("field",)`` where an axis is x.
        coordinates: Spatial coordinates, name to increasing positions, in the order of the axes.
            Default: none for a flat state with one variable per entry, else an index per axis,
            named site, or z, y, x, with ``_index`` at its end where a variable has that name.
        period: Length of the domain per periodic coordinate name.
        units: Units per variable or coordinate name, and of time under ``"time"``.
        calendar: Calendar of the datetimes of its states, one of the CF conventions.
        mask: Which points of the grid belong to the state, of the shape of the spatial axes; None:
            all.
        points: Position of each point of the grid, name to an array of the shape of the spatial
            axes, where positions are not those along the axes. A name that is an axis too, such
            as a level, has the positions of that axis. `units` and `period` may name them.
        parts: Spaces of variables on grids of their own; `of_parts` makes a space of them.
        same_as: Column of positions of axes that are not named as theirs, in a space of parts.
        transforms: Maps onto the real numbers of variables with bounds, by name: methods estimate
            what `unbounded` makes of a state, and return what is inside of the bounds.
        parameters: Variables that are parameters of the system, not its state: single numbers.

    Raises:
        ValueError: If names, coordinates and shape do not fit together, a name cannot be that of
            an array in a store or is there twice, a transform or a parameter is of no variable,
            or a state is too large.

    Example:
        Temperature and wind on a line of four points, a quarter of an hour apart:

        >>> space = sc.StateSpace(
        ...     (2, 4),
        ...     dt=0.25,
        ...     variables=("temperature", "wind"),
        ...     coordinates={"x": np.linspace(0.0, 30.0, 4)},
        ...     units={"temperature": "K", "wind": "m/s", "x": "km", "time": "h"},
        ... )
        >>> space.size, space.axes
        (8, ('x',))
    """

    shape: tuple[int, ...]
    dt: float = 1.0
    variables: tuple[str, ...] = ()
    coordinates: Mapping[str, np.ndarray] | None = field(default=None, repr=False)
    period: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    calendar: str = "proleptic_gregorian"
    mask: np.ndarray | None = field(default=None, repr=False)
    points: Mapping[str, np.ndarray] | None = field(default=None, repr=False)
    parts: Mapping[str, StateSpace] | None = field(default=None, repr=False)
    same_as: Mapping[str, str] = field(default_factory=dict, repr=False)
    transforms: Mapping[str, Transform] = field(default_factory=dict, repr=False)
    parameters: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.parts is not None:
            for name, value in combined(self.parts, self.same_as).items():
                object.__setattr__(self, name, value)
            check_names((), self.position_names)
            return
        shape = tuple(int(n) for n in self.shape)
        if not shape or min(shape) < 1:
            raise ValueError(f"Got a state of shape {shape}: give at least one axis, each >= 1.")
        if math.prod(shape) > LARGEST:
            raise ValueError(
                f"Got a state of shape {shape}, which is {math.prod(shape)} numbers: give at most "
                f"{LARGEST}."
            )
        if not self.dt > 0:
            raise ValueError(f"Got dt = {self.dt}: the time step must be positive.")
        given = self.variables
        variables = (given,) if isinstance(given, str) else tuple(given)
        if self.coordinates is None:
            variables = variables or usual_variables(shape)
            coordinates = usual_indices(shape, variables)
        else:
            variables = variables or (usual_variable({**self.coordinates, **(self.points or {})}),)
            coordinates = {n: np.asarray(c, dtype=float) for n, c in self.coordinates.items()}
        check_names(variables, {**coordinates, **(self.points or {})})
        check_layout(shape, variables, coordinates)
        check_marked(variables, self.transforms, self.parameters)
        check_geometry(coordinates)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "variables", variables)
        object.__setattr__(self, "coordinates", coordinates)
        object.__setattr__(self, "period", dict(self.period))
        object.__setattr__(self, "units", dict(self.units))
        object.__setattr__(self, "transforms", dict(self.transforms))
        object.__setattr__(self, "parameters", tuple(self.parameters))
        if self.mask is not None:
            object.__setattr__(self, "mask", checked_mask(self.mask, self.grid))
        if self.points is not None:
            object.__setattr__(self, "points", checked_points(self.points, coordinates))
        check_period(self.period, self.ranges)

    @staticmethod
    def of_parts(
        parts: Mapping[str, StateSpace], same_as: Mapping[str, str] | None = None
    ) -> StateSpace:
        """Return the space of flat states ``(size,)``, the parts one after the other in C order.

        Positions have one column per kind of axis: axes of one name share a column, and so do
        latitudes, and longitudes, in degrees. An axis whose name another part has at other
        positions is renamed ``axis_part``; its column keeps the name.

        Arguments:
            parts: Space of each part by name, in the order of the state.
            same_as: Further axes of the same kind, such as ``{"x_u": "x"}`` on a staggered grid.

        Raises:
            ValueError: If there is no part, the parts differ in `dt`, calendar or unit of time, a
                variable is in several, or axes of the same kind differ in unit or period.
        """
        return StateSpace((1,), parts=parts, same_as=same_as or {})

    def __eq__(self, other: object) -> bool:
        """Compare all names and positions, since arrays have no truth value."""
        return isinstance(other, StateSpace) and self._facts() == other._facts()

    def _facts(self) -> tuple[Any, ...]:
        positions = [(name, tuple(x)) for name, x in (self.coordinates or {}).items()]
        positions += [(name, tuple(x.flat)) for name, x in (self.points or {}).items()]
        names = self.shape, self.dt, self.variables
        mask = None if self.mask is None else self.mask.tobytes()
        parts = list((self.parts or {}).items()), self.same_as
        marked = self.transforms, self.parameters
        return *names, positions, self.period, self.units, self.calendar, mask, parts, marked

    @property
    def has_channels(self) -> bool:
        """Say whether the first axis enumerates the variables."""
        return len(self.shape) == len(self.axes) + 1

    @property
    def axes(self) -> tuple[str, ...]:
        """Return the names of the spatial coordinates, in the order of their axes."""
        return tuple(self.coordinates or ())

    @property
    def position_names(self) -> tuple[str, ...]:
        """Return the names of the columns of a position, those of `points`, else the axes."""
        if self.parts is None:
            return tuple(self.points or self.axes)
        axes = (axis for part in self.parts.values() for axis in part.axes)
        return tuple(dict.fromkeys(self.same_as.get(axis, axis) for axis in axes))

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return the smallest and the largest position by the name of its column."""
        positions = self.points or self.coordinates or {}
        return {name: (float(x.min()), float(x.max())) for name, x in positions.items()}

    @property
    def sphere(self) -> tuple[int, int] | None:
        """Return which columns of a position are latitude and longitude by units, or None."""
        return horizontal(self.position_names, self.units)

    @property
    def grid(self) -> tuple[int, ...]:
        """Return the shape of the spatial axes."""
        return self.shape[1:] if self.has_channels else self.shape

    @property
    def pieces(self) -> tuple[StateSpace, ...]:
        """Return the spaces of one grid each that make up the state, its parts or itself."""
        return (self,) if self.parts is None else tuple(self.parts.values())

    def only(self, name: str) -> StateSpace:
        """Return the space of one variable alone; without coordinates, of one number.

        Raises:
            ValueError: If there is no such variable.
        """
        of = self.piece_of(name)
        units = {
            n: u for n, u in of.units.items() if n in (name, "time", *of.axes, *of.position_names)
        }
        return StateSpace(
            of.grid or (1,),
            of.dt,
            (name,),
            of.coordinates,
            of.period,
            units,
            of.calendar,
            of.mask,
            of.points,
            transforms={n: t for n, t in of.transforms.items() if n == name},
            parameters=tuple(n for n in of.parameters if n == name),
        )

    def with_transforms(self, transforms: Mapping[str, Transform]) -> StateSpace:
        """Return the same space, of which further variables have bounds.

        Arguments:
            transforms: Maps onto the real numbers by the name of the variable, such as
                ``{"humidity": Logit(0, 1)}``.

        Raises:
            ValueError: If there is no such variable.
        """
        check_marked(self.variables, transforms, ())
        if self.parts is None:
            return replace(self, transforms={**self.transforms, **transforms})
        parts = {
            name: part.with_transforms(
                {n: t for n, t in transforms.items() if n in part.variables}
            )
            for name, part in self.parts.items()
        }
        return StateSpace.of_parts(parts, self.same_as)

    @cached_property
    def has_land(self) -> bool:
        """Say whether some component does not belong to the state."""
        return any(piece.mask is not None for piece in self.pieces)

    @property
    def inside(self) -> Bool[Tensor, "size"]:
        """Return which components of a flattened state belong to it."""
        if self.parts is not None:
            return torch.cat([part.inside for part in self.parts.values()])
        if self.mask is None:
            return torch.ones(self.size, dtype=torch.bool)
        return torch.from_numpy(np.broadcast_to(self.mask, self.shape).flatten())

    def masked(self, x: Float[Tensor, "..."], outside: float = np.nan) -> Float[Tensor, "..."]:
        """Return states ``(..., *state)`` with one value, NaN, at points that are not theirs."""
        if not self.has_land:
            return x
        return x.masked_fill(~self.inside.view(self.shape).to(x.device), outside)

    def filled(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return states ``(..., *state)`` with 0 at points that are not theirs."""
        return self.masked(x, 0.0)

    def check_distances(self, subject: str) -> None:
        """Check that any two entries have a distance, which the subject of a sentence needs.

        Raises:
            ValueError: If they have none.
        """
        if axes := lacking(self):
            raise ValueError(
                f"{subject} needs axes of the same kind in all parts ({axes}): say which are the "
                "same with `same_as`, or in a file with equal `axis` or `standard_name`."
            )
        if not self.position_names:
            raise ValueError(
                f"{subject} needs a space with coordinates: give the system's space some."
            )

    def positions(self) -> Float[Tensor, "points axes"]:
        """Return the position of each grid point of a flattened field, a column for each name.

        In a space of parts, it is that of each entry of a state, with the columns
        `position_names`, NaN where the part of the entry has no such axis.
        """
        if self.parts is not None:
            return part_positions(self)
        axes = (self.coordinates or {}).values()
        mesh = list(self.points.values()) if self.points else np.meshgrid(*axes, indexing="ij")
        points = int(np.prod(self.grid))
        columns = [m.ravel() for m in mesh]
        grid = np.stack(columns, -1) if columns else np.zeros((points, 0))
        return torch.from_numpy(grid).to(torch.get_default_dtype())

    def distance(
        self, a: Float[Tensor, "m axes"], b: Float[Tensor, "n axes"]
    ) -> Float[Tensor, "m n"]:
        """Return the `separation` of each position from each other one."""
        return self.separation(a[:, None], b[None, :])

    def separation(
        self, a: Float[Tensor, "*points axes"], b: Float[Tensor, "*others axes"]
    ) -> Float[Tensor, "..."]:
        """Return the distance between positions, elementwise.

        Where two columns are latitude and longitude by their units, it is the great circle in km,
        and further ones, such as levels, do not count: it is the horizontal distance. Elsewhere
        it is Euclidean, by the shortest way round on periodic axes, in the unit of the
        coordinates, which must share one. What has no position is next to everything, at 0.

        Raises:
            ValueError: If the space has parts that do not share their axes.
        """
        if self.parts is None:
            return self._separation(a, b)
        self.check_distances("A distance")
        placed = self._is_placed(a) & self._is_placed(b)
        return self._separation(a, b).masked_fill(~placed, 0.0)

    def places(self, positions: Float[Tensor, "*points axes"]) -> Float[Tensor, "*points axes"]:
        """Return positions that can be compared, infinite for what has none, as a parameter.

        A column that a part lacks and that does not count in a distance is 0.
        """
        filled = positions.nan_to_num()
        if self.parts is None:
            return filled
        return filled.masked_fill(~self._is_placed(positions).unsqueeze(-1), torch.inf)

    def _is_placed(self, positions: Tensor) -> Bool[Tensor, "..."]:
        """Return which positions are in a place: finite in all columns that count."""
        needed = positions if self.sphere is None else positions[..., list(self.sphere)]
        return needed.isfinite().all(-1)

    def _separation(self, a: Tensor, b: Tensor) -> Tensor:
        if self.sphere is not None:
            north, east = self.sphere
            far = great_circle(a[..., north], a[..., east], b[..., north], b[..., east])
            return far.to(a.dtype)
        gap = (a - b).abs()
        for axis, name in enumerate(self.position_names):
            if name in self.period:
                length = self.period[name]
                gap[..., axis] = torch.minimum(
                    gap[..., axis] % length, length - gap[..., axis] % length
                )
        return gap.square().sum(-1).sqrt()

    def as_json(self) -> dict[str, Any]:
        """Return all settings as JSON has them; the mask as lengths of runs, the first inside."""
        return described(self)

    @staticmethod
    def from_json(content: Any) -> StateSpace:
        """Return the space of `as_json`.

        Raises:
            ValueError: If a field is missing, of another type or too large, or they do not fit.
        """
        if isinstance(content, Mapping) and "parts" in content:
            parts = {name: StateSpace(**arguments(part)) for name, part in parts_of(content)}
            return StateSpace.of_parts(parts, content["same_as"])
        return StateSpace(**arguments(content))


def variable_std(
    ensemble: Float[Tensor, "ensemble ..."], space: StateSpace | None
) -> Float[Tensor, "..."]:
    """Return the spread of each variable of an ensemble, of the shape of a state.

    It is the root of the mean variance over the grid; 0 where the members agree within rounding.

    Arguments:
        ensemble: Members.
        space: Space of the states, whose first axis is that of the variables if it has several;
            None: each entry is a variable.
    """
    var = component_std(ensemble).square()
    if space is None:
        return var.sqrt()
    if space.parts is not None:
        means = [space.field(var, name).mean() for name in space.variables]
        return space.constant(torch.stack(means)).sqrt()
    grid = tuple(range(-len(space.grid), 0)) if space.grid else ()
    mean = var.mean(grid, keepdim=True) if grid else var
    return mean.sqrt().expand(var.shape)
