"""State spaces: shape, variables, units, coordinates, periodic axes and time step of a state.

A state has shape ``(*state)``. Its *spatial axes* are the ones that have coordinates; a state with
several variables has one leading *channel axis* in front of them, whose entries are the
variables. Three cases::

    Lorenz-63            shape (3,)         variables x, y, z     no coordinates
    Lorenz-96            shape (40,)        variable x            coordinate site, period 40
    two-dimensional flow shape (2, 64, 64)  variables u, v        coordinates y, x, both periodic

Whatever needs geometry or names asks the space for it.

On a curvilinear or unstructured grid each point has a position of its own (`StateSpace.points`):
the axes count the points, and distances, observations and pictures take the positions.

Points of the grid that are no part of the state, such as land in a record of the ocean, are in its
`mask`. Their entries of a state mean nothing: they are NaN in what is handed out, and 0 inside of
methods, where nothing observes them and no member differs from another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch

from scorda.core.gaussian import component_std
from scorda.core.shapes import Bool, Float, Tensor
from scorda.core.sphere import great_circle, horizontal

__all__ = ["StateSpace", "variable_std"]


@dataclass(frozen=True)
class StateSpace:
    """Shape, names and geometry of a state.

    Arguments:
        shape: Shape of one state.
        dt: Length of one step, in units of ``units["time"]`` (model time units if absent).
        variables: Names of the variables. Default: ``("x",)`` or, for a flat state without
            coordinates, ``("x0", "x1", ...)``.
        coordinates: Spatial coordinates, name to increasing positions, in the order of the axes.
            Default: none for a flat state with one variable per entry, else an index per axis.
        period: Length of the domain per periodic coordinate name.
        units: Units per variable or coordinate name, and of time under ``"time"``.
        calendar: Calendar of the datetimes of its states, one of the CF conventions.
        mask: Which points of the grid belong to the state, of the shape of the spatial axes; None:
            all.
        points: Position of each point of the grid, name to an array of the shape of the spatial
            axes, where positions are not those along the axes. A name that is an axis too, such
            as a level, has the positions of that axis. `units` and `period` may name them.

    Raises:
        ValueError: If names, coordinates and shape do not fit together.
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

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if not shape or min(shape) < 1:
            raise ValueError(f"Got a state of shape {shape}: give at least one axis, each >= 1.")
        if not self.dt > 0:
            raise ValueError(f"Got dt = {self.dt}: the time step must be positive.")
        given = self.variables
        variables = (given,) if isinstance(given, str) else tuple(given)
        if self.coordinates is None:
            variables = variables or _usual_variables(shape)
            coordinates = _indices(shape, len(variables))
        else:
            variables = variables or ("x",)
            coordinates = {n: np.asarray(c, dtype=float) for n, c in self.coordinates.items()}
        _check_layout(shape, variables, coordinates)
        _check_geometry(coordinates)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "variables", variables)
        object.__setattr__(self, "coordinates", coordinates)
        object.__setattr__(self, "period", dict(self.period))
        object.__setattr__(self, "units", dict(self.units))
        if self.mask is not None:
            object.__setattr__(self, "mask", _checked_mask(self.mask, self.grid))
        if self.points is not None:
            object.__setattr__(self, "points", _checked_points(self.points, self))
        _check_period(self.period, self.ranges)

    def __eq__(self, other: object) -> bool:
        """Compare all names and positions, since arrays have no truth value."""
        return isinstance(other, StateSpace) and self._facts() == other._facts()

    def _facts(self) -> tuple[Any, ...]:
        positions = [(name, tuple(x)) for name, x in (self.coordinates or {}).items()]
        positions += [(name, tuple(x.flat)) for name, x in (self.points or {}).items()]
        names = self.shape, self.dt, self.variables
        mask = None if self.mask is None else self.mask.tobytes()
        return *names, positions, self.period, self.units, self.calendar, mask

    @property
    def size(self) -> int:
        """Return the number of components of one state."""
        return int(np.prod(self.shape))

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
        """Return the names of the columns of a position: those of `points`, else the axes."""
        return tuple(self.points or self.axes)

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
    def inside(self) -> Bool[Tensor, "size"]:
        """Return which components of a flattened state belong to it."""
        if self.mask is None:
            return torch.ones(self.size, dtype=torch.bool)
        return torch.from_numpy(np.broadcast_to(self.mask, self.shape).flatten())

    def masked(self, x: Float[Tensor, "..."], outside: float = np.nan) -> Float[Tensor, "..."]:
        """Return states ``(..., *state)`` with one value, NaN, at points that are not theirs."""
        if self.mask is None:
            return x
        return x.masked_fill(torch.from_numpy(~self.mask).to(x.device), outside)

    def filled(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return states ``(..., *state)`` with 0 at points that are not theirs."""
        return self.masked(x, 0.0)

    def variable(self, name: str) -> int:
        """Return the index of a variable.

        Raises:
            ValueError: If there is no such variable.
        """
        if name not in self.variables:
            raise ValueError(f"Unknown variable {name!r}: this space has {list(self.variables)}.")
        return self.variables.index(name)

    def positions(self) -> Float[Tensor, "points axes"]:
        """Return the position of each grid point of a flattened field, a column for each name."""
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
        coordinates, which must share one.
        """
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

    def check(self, x: Tensor, name: str = "state") -> None:
        """Check that the trailing axes of a tensor are one state and that it is finite.

        Points outside of the mask may hold anything.

        Raises:
            ValueError: If the shape is wrong or a value is not finite.
        """
        if tuple(x.shape[-len(self.shape) :]) != self.shape:
            raise ValueError(
                f"Got {name} of shape {tuple(x.shape)}: its last axes must be {self.shape}."
            )
        finite = torch.isfinite(self.filled(x))
        if not finite.all():
            raise ValueError(
                f"Got {int((~finite).sum())} values of {name} that are not finite: "
                "remove or repair them."
            )

    def as_json(self) -> dict[str, Any]:
        """Return all settings as JSON has them; the mask as lengths of runs, the first inside."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        positions = {name: list(map(float, c)) for name, c in (self.coordinates or {}).items()}
        # A header may sort its keys, and the order of the coordinates is that of the axes.
        content |= {"coordinates": positions, "axes": list(self.axes)}
        if self.points is not None:
            content["points"] = [[name, x.tolist()] for name, x in self.points.items()]
        if self.mask is not None:
            flat = np.concatenate(([True], self.mask.flatten(), [not self.mask.flat[-1]]))
            content["mask"] = np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()
        return content

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> StateSpace:
        """Return the space of `as_json`."""
        made = dict(content)
        axes = made.pop("axes", list(made["coordinates"]))
        made |= {name: tuple(made[name]) for name in ("shape", "variables")}
        made["coordinates"] = {n: np.asarray(made["coordinates"][n], float) for n in axes}
        if made.get("points") is not None:
            made["points"] = {name: np.asarray(x, float) for name, x in made["points"]}
        if made.get("mask") is not None:
            runs = made["mask"]
            flat = np.repeat(np.arange(len(runs)) % 2 == 0, runs)
            made["mask"] = flat.reshape([len(c) for c in made["coordinates"].values()])
        return StateSpace(**made)


def _checked_mask(mask: np.ndarray, grid: tuple[int, ...]) -> np.ndarray | None:
    """Return a mask as truth values; None where it leaves nothing out."""
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != grid or not mask.any():
        raise ValueError(
            f"Got a mask of {mask.dtype}, shape {mask.shape}, with {int(mask.sum())} points: give "
            f"truth values of the shape {grid} of the grid, with one true at least."
        )
    return None if mask.all() else mask


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
    grid = tuple(range(-len(space.grid), 0)) if space.grid else ()
    mean = var.mean(grid, keepdim=True) if grid else var
    return mean.sqrt().expand(var.shape)


def _usual_variables(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Name the variables of a state without coordinates: each entry of a flat one is one."""
    return tuple(f"x{i}" for i in range(shape[0])) if len(shape) == 1 else ("x",)


def _indices(shape: tuple[int, ...], variables: int) -> dict[str, np.ndarray]:
    """Take the index along each axis as coordinate; a flat state of variables has none."""
    if shape == (variables,):
        return {}
    sizes = shape[1:] if variables > 1 else shape
    names = ("site",) if len(sizes) == 1 else ("z", "y", "x")[max(3 - len(sizes), 0) :]
    # Of more axes than there are names `_check_layout` says that they do not fit.
    return {n: np.arange(size, dtype=float) for n, size in zip(names, sizes, strict=False)}


def _check_layout(
    shape: tuple[int, ...], variables: tuple[str, ...], coordinates: Mapping[str, np.ndarray]
) -> None:
    """Check that the shape is that of the coordinates, after an axis of variables if any."""
    sizes = tuple(len(c) for c in coordinates.values())
    channels, grid = (shape[0], shape[1:]) if len(shape) == len(sizes) + 1 else (1, shape)
    if sizes != grid or len(variables) != channels:
        raise ValueError(
            f"A state of shape {shape} does not fit {len(variables)} variables {variables} on "
            f"coordinates of sizes {sizes}: the shape must be the sizes of the coordinates, after "
            "one leading axis of variables if there is more than one."
        )


def _check_geometry(coordinates: Mapping[str, np.ndarray]) -> None:
    """Check that positions along axes increase."""
    for name, values in coordinates.items():
        if len(values) > 1 and not (np.diff(values) > 0).all():
            raise ValueError(
                f"Coordinate {name!r} is not increasing: sort it (and the states) first."
            )


def _checked_points(points: Mapping[str, np.ndarray], space: StateSpace) -> dict[str, np.ndarray]:
    """Return positions in double precision, one for each point of the grid."""
    checked = {name: np.asarray(x, dtype=float) for name, x in points.items()}
    if not checked or not space.grid:
        raise ValueError(
            f"Got points {list(points)} for a grid of shape {space.grid}: `points` needs a name, "
            "and a space with coordinates."
        )
    for axis, (name, along) in enumerate((space.coordinates or {}).items()):
        if name in checked and checked[name].shape == space.grid:
            other = [1] * len(space.grid)
            other[axis] = -1
            if not (checked[name] == along.reshape(other)).all():
                raise ValueError(
                    f"Got points of the name {name!r}, an axis with other positions: give them "
                    "another name."
                )
    for name, x in checked.items():
        if x.shape != space.grid or not np.isfinite(x).all():
            raise ValueError(
                f"Got points {name!r} of shape {x.shape}, {int((~np.isfinite(x)).sum())} of them "
                f"not finite: give a finite position for each point of the grid {space.grid}."
            )
    if max(space.grid) > 1 and all(np.ptp(x) == 0 for x in checked.values()):
        raise ValueError(
            "Got points that are all at one position: give each point of the grid its own."
        )
    return checked


def _check_period(period: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]) -> None:
    """Check that a period is longer than what the positions span."""
    unknown = set(period) - set(ranges)
    if unknown:
        raise ValueError(
            f"Got a period for {sorted(unknown)}: the coordinates are {list(ranges)}."
        )
    for name, length in period.items():
        extent = ranges[name][1] - ranges[name][0]
        if not length > extent:
            raise ValueError(
                f"Got the period {length} for {name!r}, whose positions span {extent}: the "
                "period must be longer."
            )
