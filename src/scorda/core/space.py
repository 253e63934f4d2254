"""State spaces: shape, variables, units, coordinates, periodic axes and time step of a state.

A state has shape ``(*state)``. Its *spatial axes* are the ones that have coordinates; a state with
several variables has one leading *channel axis* in front of them, whose entries are the
variables. Three cases::

    Lorenz-63            shape (3,)         variables x, y, z     no coordinates
    Lorenz-96            shape (40,)        variable x            coordinate site, period 40
    two-dimensional flow shape (2, 64, 64)  variables u, v        coordinates y, x, both periodic

Whatever needs geometry or names asks the space for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from scorda.core.gaussian import component_std
from scorda.core.shapes import Float, Tensor

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

    Raises:
        ValueError: If names, coordinates and shape do not fit together.
    """

    shape: tuple[int, ...]
    dt: float = 1.0
    variables: tuple[str, ...] = ()
    coordinates: Mapping[str, np.ndarray] | None = field(default=None, repr=False)
    period: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)

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
        _check_geometry(coordinates, self.period)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "variables", variables)
        object.__setattr__(self, "coordinates", coordinates)
        object.__setattr__(self, "period", dict(self.period))
        object.__setattr__(self, "units", dict(self.units))

    def __eq__(self, other: object) -> bool:
        """Compare all names and positions, since arrays have no truth value."""
        return isinstance(other, StateSpace) and self._facts() == other._facts()

    def _facts(self) -> tuple[Any, ...]:
        positions = [(name, tuple(x)) for name, x in (self.coordinates or {}).items()]
        return self.shape, self.dt, self.variables, positions, self.period, self.units

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
    def grid(self) -> tuple[int, ...]:
        """Return the shape of the spatial axes."""
        return self.shape[1:] if self.has_channels else self.shape

    def variable(self, name: str) -> int:
        """Return the index of a variable.

        Raises:
            ValueError: If there is no such variable.
        """
        if name not in self.variables:
            raise ValueError(f"Unknown variable {name!r}: this space has {list(self.variables)}.")
        return self.variables.index(name)

    def positions(self) -> Float[Tensor, "points axes"]:
        """Return the position of each grid point of a flattened field, one column per axis."""
        mesh = np.meshgrid(*(self.coordinates or {}).values(), indexing="ij")
        points = int(np.prod(self.grid))
        columns = [m.ravel() for m in mesh]
        grid = np.stack(columns, -1) if columns else np.zeros((points, 0))
        return torch.from_numpy(grid).to(torch.get_default_dtype())

    def distance(
        self, a: Float[Tensor, "m axes"], b: Float[Tensor, "n axes"]
    ) -> Float[Tensor, "m n"]:
        """Return the distance between positions, by the shortest way round on periodic axes.

        Unit: that of the coordinates, which must share one.
        """
        gap = (a[:, None] - b[None, :]).abs()
        for axis, name in enumerate(self.axes):
            if name in self.period:
                length = self.period[name]
                gap[..., axis] = torch.minimum(
                    gap[..., axis] % length, length - gap[..., axis] % length
                )
        return gap.square().sum(-1).sqrt()

    def check(self, x: Tensor, name: str = "state") -> None:
        """Check that the trailing axes of a tensor are one state and that it is finite.

        Raises:
            ValueError: If the shape is wrong or a value is not finite.
        """
        if tuple(x.shape[-len(self.shape) :]) != self.shape:
            raise ValueError(
                f"Got {name} of shape {tuple(x.shape)}: its last axes must be {self.shape}."
            )
        if not torch.isfinite(x).all():
            raise ValueError(
                f"Got {int((~torch.isfinite(x)).sum())} values of {name} that are not finite: "
                "remove or repair them."
            )


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


def _check_geometry(coordinates: Mapping[str, np.ndarray], period: Mapping[str, float]) -> None:
    """Check that positions increase, and that a period is longer than what they span."""
    for name, values in coordinates.items():
        if len(values) > 1 and not (np.diff(values) > 0).all():
            raise ValueError(
                f"Coordinate {name!r} is not increasing: sort it (and the states) first."
            )
    unknown = set(period) - set(coordinates)
    if unknown:
        raise ValueError(
            f"Got a period for {sorted(unknown)}: the coordinates are {list(coordinates)}."
        )
    for name, length in period.items():
        extent = coordinates[name][-1] - coordinates[name][0]
        if not length > extent:
            raise ValueError(
                f"Got the period {length} for {name!r}, whose positions span {extent}: the "
                "period must be longer."
            )
