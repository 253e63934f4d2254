r"""Observation operators: they map states to observations without error.

An operator h maps states to observations. It takes states with exactly one leading axis, the
members: ``(ensemble, *state)`` to ``(ensemble, *obs)``; a single state is ``x[None]``. This file
holds the interface, the operators that work on any state, and their compositions; `spatial` holds
those that work along the spatial axes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from scorda.core import rng
from scorda.core.arrays import ArrayLike, as_indices, as_positions, as_tensor
from scorda.core.errors import ShapeError
from scorda.core.shapes import Float, Int, Tensor
from scorda.core.space import StateSpace

__all__ = [
    "Chain",
    "Function",
    "Gather",
    "Linear",
    "Operator",
    "Pointwise",
    "Select",
    "sparse_rows",
]


class Operator(ABC):
    """An observation operator h, ``(ensemble, *state)`` to ``(ensemble, *obs)``.

    `linear` and `differentiable` say what a method may ask of it; wrappers take them over.
    """

    linear: bool = False
    differentiable: bool = True

    @abstractmethod
    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        """Observe states without error."""

    def adjoint(
        self, y: Float[Tensor, "ensemble ..."], shape: tuple[int, ...]
    ) -> Float[Tensor, "ensemble ..."]:
        r"""Apply the transpose of a linear operator.

        .. math:: \langle h x, y \rangle = \langle x, h^T y \rangle

        Arguments:
            y: Cotangents, shape ``(ensemble, *obs)``.
            shape: Shape of one state.

        Raises:
            TypeError: If the operator is not linear.
        """
        if not self.linear:
            raise TypeError(
                f"{type(self).__name__} is not linear, so it has no adjoint: use a linear "
                "operator, or a method that does not ask for one."
            )
        zero = y.new_zeros(y.shape[0], *shape)
        return torch.func.vjp(self, zero)[1](y)[0]

    def as_matrix(self, shape: tuple[int, ...]) -> csr_array:
        """Return the matrix of a linear operator, sparse, ``(obs, state)``, of flattened states.

        Arguments:
            shape: Shape of one state.

        Raises:
            TypeError: If the operator is not linear.
        """
        observed = tuple(self(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
        rows = torch.eye(math.prod(observed), dtype=torch.float64).reshape(-1, *observed)
        return csr_array(self.adjoint(rows, shape).flatten(1).numpy(force=True))

    def transfer(self, shape: tuple[int, ...]) -> Tensor | None:
        """Return the Fourier transform of the kernel if this is a periodic convolution."""
        return None

    def check(self, space: StateSpace) -> None:  # noqa: B027 (most have nothing to check)
        """Check that the operator fits the states of a space, as far as it can tell.

        Raises:
            ValueError: If it does not.
        """

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        """Return the position of each entry of the flattened observation, one per row.

        Raises:
            ValueError: If the operator has no positions.
        """
        self.check(space)
        points = space.positions()
        return self.placed(points.repeat(space.size // len(points), 1), space.shape)

    def placed(
        self, positions: Float[Tensor, "entries axes"], shape: tuple[int, ...]
    ) -> Float[Tensor, "obs axes"]:
        """Return the positions of observations of an input whose entries have given positions.

        Arguments:
            positions: One row per entry of the flattened input.
            shape: Shape of one input.

        Raises:
            ValueError: If the operator has no positions.
        """
        raise ValueError(
            f"{type(self).__name__} does not know where its observations are: give it "
            "`positions`, one row per observation, or use a method without localization."
        )

    def variables(self, space: StateSpace) -> tuple[str, ...]:
        """Return the variable that each entry of the flattened observation observes.

        Raises:
            ValueError: If the entries are not values of single variables.
        """
        raise ValueError(
            f"{type(self).__name__} does not observe single variables of the space: only "
            "Select, Mask, Stride, Average and Interpolate do."
        )


class Gather(Operator):
    """Base of operators that pick entries of the flattened state."""

    linear = True

    @abstractmethod
    def entries(self, shape: tuple[int, ...]) -> Int[Tensor, "obs"]:
        """Return the index of each observation into a flattened state of that shape."""

    def as_matrix(self, shape: tuple[int, ...]) -> csr_array:
        columns = self.entries(shape).numpy(force=True)
        return sparse_rows(columns[:, None], np.ones((len(columns), 1)), math.prod(shape))

    def placed(
        self, positions: Float[Tensor, "entries axes"], shape: tuple[int, ...]
    ) -> Float[Tensor, "obs axes"]:
        return positions[self.entries(shape)]

    def variables(self, space: StateSpace) -> tuple[str, ...]:
        self.check(space)
        of = space.variable_of(self.entries(space.shape).numpy(force=True))
        return tuple(space.variables[i] for i in of.tolist())


@dataclass(frozen=True)
class Select(Gather):
    """Observe the components with given indices of the flattened state.

    Arguments:
        indices: Indices into the flattened state, whole numbers, each at least 0.

    Example:
        >>> sc.Select([0, 2])(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[1., 3.]])
    """

    indices: Sequence[int] | ArrayLike

    _index: Tensor = field(init=False, repr=False, compare=False)
    _largest: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        indices = as_indices(self.indices, "indices")
        if not indices or min(indices) < 0:
            raise ValueError(f"Got indices {list(indices)}: give at least one, each >= 0.")
        object.__setattr__(self, "indices", indices)
        object.__setattr__(self, "_index", torch.tensor(indices))
        object.__setattr__(self, "_largest", max(indices))

    @classmethod
    def stations(
        cls,
        space: StateSpace,
        number: int | None = None,
        generator: rng.Seed = None,
        variables: Sequence[str] = (),
        every: int = 1,
    ) -> Select:
        """Observe each variable at stations: grid points on a stride, or drawn from these.

        The variables of a grid share their stations.

        Arguments:
            space: Space of the states.
            number: Stations to draw at random (default: all points).
            generator: Source of randomness.
            variables: Variables to observe, in this order (default: all but parameters).
            every: Stride of the points along each axis.

        Raises:
            ValueError: If there are fewer points, the stride is below 1, or a variable is unknown.
        """
        if every < 1:
            raise ValueError(f"Got every = {every}: give a number of grid points, at least 1.")
        names = variables or [n for n in space.variables if n not in space.parameters]
        source = rng.as_generator(generator)
        stations = {
            name: points
            for piece in space.pieces
            if set(piece.variables) & set(names)
            for points in [_stations(piece, number, source, every)]
            for name in piece.variables
        }
        firsts = {name: space.entries(name).start for name in names}
        return cls([firsts[name] + i for name in names for i in stations[name]])

    def entries(self, shape: tuple[int, ...]) -> Int[Tensor, "obs"]:
        if self._largest >= math.prod(shape):
            raise ValueError(
                f"Got index {self._largest} for states of shape {shape} with {math.prod(shape)} "
                "components: indices must be smaller."
            )
        return self._index

    def check(self, space: StateSpace) -> None:
        self.entries(space.shape)

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble obs"]:
        return x.flatten(1).index_select(1, self.entries(tuple(x.shape[1:])).to(x.device))


class Positioned(Operator):
    """Base of operators whose positions the caller may give."""

    positions: Float[Tensor, "obs axes"] | None

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        return super().coordinates(space) if self.positions is None else self.positions

    def placed(
        self, positions: Float[Tensor, "entries axes"], shape: tuple[int, ...]
    ) -> Float[Tensor, "obs axes"]:
        return super().placed(positions, shape) if self.positions is None else self.positions


@dataclass(frozen=True, eq=False)
class Linear(Positioned):
    """Multiply the flattened state by a matrix.

    Arguments:
        matrix: Shape ``(obs, state)``, a tensor or an array.
        positions: Position of each row, ``(obs, axes)``, for localization only.
    """

    matrix: Float[Tensor, "obs state"] | ArrayLike
    linear = True
    positions: Float[Tensor, "obs axes"] | ArrayLike | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", as_tensor(self.matrix, "matrix"))
        if self.matrix.ndim != 2:
            raise ValueError(
                f"Got a matrix of shape {tuple(self.matrix.shape)}: give (obs, state)."
            )
        object.__setattr__(self, "positions", as_positions(self.positions, len(self.matrix)))

    def as_matrix(self, shape: tuple[int, ...]) -> csr_array:
        self._check_size(math.prod(shape))
        return csr_array(self.matrix.double().numpy(force=True))

    def check(self, space: StateSpace) -> None:
        self._check_size(space.size)

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble obs"]:
        flat = x.flatten(1)
        self._check_size(flat.shape[1])
        return flat @ self.matrix.to(x).T

    def _check_size(self, components: int) -> None:
        if components != self.matrix.shape[1]:
            raise ValueError(
                f"Got states of {components} components for a matrix with "
                f"{self.matrix.shape[1]} columns: they must be equal."
            )


@dataclass(frozen=True)
class Pointwise(Operator):
    """Apply a differentiable torch function to every component of the state.

    Arguments:
        fn: Elementwise function of a tensor, such as ``torch.atan``.
    """

    fn: Callable[[Tensor], Tensor]

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        y = _of_torch(self.fn, x, "Pointwise")
        if y.shape != x.shape:
            raise ShapeError(
                f"The function of Pointwise made shape {tuple(y.shape)} of {tuple(x.shape)}: it "
                "must work element by element; use Function for any other."
            )
        return y

    def placed(
        self, positions: Float[Tensor, "entries axes"], shape: tuple[int, ...]
    ) -> Float[Tensor, "obs axes"]:
        return positions


@dataclass(frozen=True, eq=False)
class Function(Positioned):
    """Observe with any function of ``(ensemble, *state)``.

    Arguments:
        fn: Torch function, or with ``differentiable=False`` a black box: it gets a copy of the
            states as a NumPy array, and returns an array of any real type.
        differentiable: Whether gradients flow through `fn`.
        positions: Position of each observation, ``(obs, axes)``, for localization only.
    """

    fn: Callable[..., Any]
    differentiable: bool = True
    positions: Float[Tensor, "obs axes"] | ArrayLike | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", as_positions(self.positions))

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        if self.differentiable:
            y = _of_torch(self.fn, x, "Function, with differentiable=False for any other library,")
        else:
            y = as_tensor(self.fn(x.numpy(force=True).copy()), "fn(x)").to(x)
        if y.ndim < 1 or len(y) != len(x):
            raise ShapeError(
                f"The function of Function made shape {tuple(y.shape)} of {tuple(x.shape)}: the "
                "first axis, the members, must stay."
            )
        as_positions(self.positions, math.prod(y.shape[1:]))
        return y


@dataclass(frozen=True)
class Chain(Operator):
    """Apply one operator to the observation of another: ``outer(inner(x))``.

    ``Chain(Pointwise(torch.atan), Stride(2))`` is the arctangent of every second component.

    Arguments:
        outer: Applied to the observations of `inner`.
        inner: Applied to the state.
    """

    outer: Operator
    inner: Operator

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.outer.linear and self.inner.linear

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return self.outer.differentiable and self.inner.differentiable

    def as_matrix(self, shape: tuple[int, ...]) -> csr_array:
        if not self.linear:
            return super().as_matrix(shape)
        between = tuple(self.inner(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
        return self.outer.as_matrix(between) @ self.inner.as_matrix(shape)

    def check(self, space: StateSpace) -> None:
        self.inner.check(space)

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        return self.outer(self.inner(x))

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        if isinstance(self.outer, Positioned) and self.outer.positions is not None:
            return self.outer.positions
        between = tuple(self.inner(torch.zeros(1, *space.shape)).shape[1:])
        return self.outer.placed(self.inner.coordinates(space), between)

    def placed(
        self, positions: Float[Tensor, "entries axes"], shape: tuple[int, ...]
    ) -> Float[Tensor, "obs axes"]:
        between = tuple(self.inner(torch.zeros(1, *shape)).shape[1:])
        return self.outer.placed(self.inner.placed(positions, shape), between)


def _of_torch(fn: Callable[..., Any], x: Tensor, name: str) -> Tensor:
    """Call a function of torch, and check that it returns a tensor and leaves its input alone."""
    # What is made for inference alone counts no changes.
    before = None if x.is_inference() else x._version
    y = fn(x)
    if not isinstance(y, Tensor) or y.is_complex():
        kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"The function of {name} returned {kind}: it must be a real torch tensor.")
    if before is not None and x._version != before:
        raise ValueError(
            f"The function of {name} changed the states that it got: let it work on a copy, "
            "x.clone()."
        )
    return y


def _stations(
    space: StateSpace, number: int | None, generator: torch.Generator | None, every: int
) -> list[int]:
    """Return grid points on a stride, or some that are drawn from these."""
    points = torch.arange(math.prod(space.grid)).reshape(space.grid)
    points = points[(slice(None, None, every),) * len(space.axes)].flatten()
    if number is not None:
        if not 1 <= number <= len(points):
            raise ValueError(
                f"Got {number} stations on {len(points)} grid points: give at least 1, and not "
                "more than there are points."
            )
        order = torch.randperm(len(points), generator=generator)[:number]
        points = points[order.sort().values]
    return points.tolist()


def sparse_rows(columns: np.ndarray, weights: np.ndarray, size: int) -> csr_array:
    """Make rows with given weights at given columns, ``(rows, entries)``."""
    ends = np.arange(0, columns.size + 1, columns.shape[1])
    return csr_array((weights.ravel(), columns.ravel(), ends), shape=(len(columns), size))
