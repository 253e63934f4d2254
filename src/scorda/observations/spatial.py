r"""Observation operators along the spatial axes: coarser grids and positions off the grid.

The spatial axes of a state are all but a leading channel axis (see `space`). `Stride` and
`Average` do not know the space, so by default they take the usual layouts: a state with one or two
axes has only spatial ones, a state with three or more has a channel axis in front. Their argument
`channels` says otherwise, and wherever the space is known (a `Problem`, `coordinates`) a wrong
guess is refused instead of used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import csr_array

from scorda.core.near import mean_positions
from scorda.core.parts import by_piece
from scorda.core.shapes import Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.observations.operators import Gather, Operator, sparse_rows
from scorda.observations.positions import (
    corners,
    extent,
    inside_domain,
    nearest_points,
    uses_land,
)

__all__ = ["Average", "Blur", "Interpolate", "Stride"]


@dataclass(frozen=True)
class Stride(Gather):
    """Observe every n-th entry along each spatial axis, from the first on, as a coarser grid.

    Arguments:
        n: Stride, one number or one per spatial axis, at least 1.
        channels: Whether the first axis of a state enumerates variables (all are observed).
            Default: whether a state has three axes or more.
    """

    n: int | tuple[int, ...]
    channels: bool | None = None

    def __post_init__(self) -> None:
        _check_blocks(self.n, "Stride")

    def check(self, space: StateSpace) -> None:
        _check_channels(self, space)

    def entries(self, shape: tuple[int, ...]) -> Int[Tensor, "obs"]:
        index = torch.arange(math.prod(shape)).reshape(1, *shape)
        return index[self._slices(tuple(shape))].flatten()

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        return x[self._slices(tuple(x.shape[1:]))]

    def _slices(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        return (slice(None), *(slice(None, None, n) for n in _per_axis(self, shape)))


@dataclass(frozen=True)
class Average(Operator):
    """Observe the means of blocks of n entries along each spatial axis.

    A block is placed at the mean position of its entries.

    Arguments:
        n: Size of a block, one number or one per spatial axis; must divide the size of the axis.
        channels: Whether the first axis of a state enumerates variables (each is averaged).
            Default: whether a state has three axes or more.
    """

    n: int | tuple[int, ...]
    channels: bool | None = None
    linear = True

    def __post_init__(self) -> None:
        _check_blocks(self.n, "Average")

    def check(self, space: StateSpace) -> None:
        _check_channels(self, space)

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        for axis, n in enumerate(_per_axis(self, tuple(x.shape[1:])), start=1):
            if x.shape[axis] % n:
                raise ValueError(
                    f"Got an axis of {x.shape[axis]} entries for blocks of {n}: the size of "
                    "Average's blocks must divide it."
                )
            x = x.unflatten(axis, (-1, n)).mean(axis + 1)
        return x

    def as_matrix(self, shape: tuple[int, ...]) -> csr_array:
        blocks = torch.arange(math.prod(shape)).reshape(1, *shape)
        sizes = _per_axis(self, shape)
        observed = self(torch.zeros(1, *shape)).shape[1:]
        # (1, blocks, size, blocks, size, ...) to (blocks, entries of a block).
        split = [size for pair in zip(observed, sizes, strict=True) for size in pair]
        axes = [*range(0, 2 * len(sizes), 2), *range(1, 2 * len(sizes), 2)]
        columns = blocks.reshape(split).permute(axes).reshape(math.prod(observed), -1).numpy()
        weights = np.full(columns.shape, 1 / columns.shape[1])
        return sparse_rows(columns, weights, math.prod(shape))

    def placed(
        self, positions: Float[Tensor, "entries axes"], shape: tuple[int, ...]
    ) -> Float[Tensor, "obs axes"]:
        return self(positions.T.reshape(positions.shape[1], *shape)).flatten(1).T

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        if space.points is None:
            return super().coordinates(space)
        self.check(space)
        positions, matrix = space.positions(), self.as_matrix(space.shape)
        entries = torch.from_numpy(matrix.indices).long().view(matrix.shape[0], -1)
        corners = positions[entries % len(positions)]
        return mean_positions(corners, torch.ones(corners.shape[:2], dtype=torch.bool), space)

    def variables(self, space: StateSpace) -> tuple[str, ...]:
        if not space.axes:
            return super().variables(space)
        blocks = len(self.coordinates(space)) // len(space.variables)
        return tuple(name for name in space.variables for _ in range(blocks))


@dataclass(frozen=True, eq=False)
class Blur(Operator):
    r"""Observe the periodic convolution of a state with a kernel, along its spatial axes.

    .. math:: y_j = \sum_l k_l \, x_{j - l}

    by the fast Fourier transform. The last axes of a state, as many as the kernel has, are the
    grid, which is taken as periodic; each variable on a leading axis is blurred alike.

    Arguments:
        kernel: k on the grid, its value at distance 0 first.
    """

    kernel: Float[Tensor, "..."]
    linear = True

    def check(self, space: StateSpace) -> None:
        if tuple(self.kernel.shape) != space.grid or any(
            a not in space.period for a in space.axes
        ):
            raise ValueError(
                f"Got a kernel of shape {tuple(self.kernel.shape)} for a grid of {space.grid} "
                f"that is periodic along {sorted(space.period)}: a Blur needs a kernel of the "
                "shape of the grid, periodic along each axis."
            )

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        self._check_shape(tuple(x.shape[1:]))
        axes = tuple(range(-self.kernel.ndim, 0))
        blurred = torch.fft.rfftn(x, dim=axes) * torch.fft.rfftn(self.kernel.to(x))
        return torch.fft.irfftn(blurred, s=self.kernel.shape, dim=axes)

    def transfer(self, shape: tuple[int, ...]) -> Tensor | None:
        self._check_shape(shape)
        return torch.fft.fftn(self.kernel.double())

    def placed(
        self, positions: Float[Tensor, "entries axes"], shape: tuple[int, ...]
    ) -> Float[Tensor, "obs axes"]:
        return positions

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if shape[-self.kernel.ndim :] != tuple(self.kernel.shape):
            raise ValueError(
                f"Got states of shape {shape} for a kernel of shape {tuple(self.kernel.shape)}: "
                "the last axes of a state must be the grid of the kernel."
            )


@dataclass(frozen=True, eq=False)
class Interpolate(Operator):
    r"""Observe at positions off the grid by linear interpolation.

    .. math:: y_j = \sum_c w_{jc} x_{jc}, \quad w_{jc} = \prod_a (1 - |p_{ja} - q_{jca}| / h_{ja})

    over the :math:`2^d` corners c, at q, of the grid cell that holds position j, whose sides are
    h. Exact for fields that are linear in each coordinate. Periodic where the space is.

    Where each point of the grid has a position of its own (`StateSpace.points`), the corners are
    those of the triangle that holds position j and the weights are barycentric (`triangles`).

    Arguments:
        points: Positions, ``(points, columns)``, in the `position_names` of the space. In a space
            of parts those columns count that the part of the variable has.
        space: Space of the states.
        variable: Variable to observe, or one for each point. Default: every variable, and the
            observation is ``(variables, points)`` where the states have a channel axis.
        nearest: Observe the nearest point of the state instead, up to this distance, in km on the
            globe, else in the unit of the coordinates.

    Raises:
        ValueError: If a position lies outside a domain that is not periodic, is farther from all
            points than `nearest` or takes a value from outside of the mask of the space, or a
            variable is unknown.
    """

    points: Float[Tensor, "points axes"] | np.ndarray
    space: StateSpace
    variable: str | tuple[str, ...] | None = None
    nearest: float | None = None
    linear = True

    _index: Tensor = field(init=False, repr=False)
    _weights: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        points = torch.as_tensor(self.points)
        names = self.space.position_names
        if points.ndim != 2 or not len(points) or points.shape[1] != len(names):
            raise ValueError(
                f"Got points of shape {tuple(points.shape)}: give (points, {len(names)}), one "
                f"column for each of {list(names)}."
            )
        variable = self._observed(len(points))
        if variable is None and self.space.parts is not None:
            raise ValueError(
                f"Give `variable`, one of {list(self.space.variables)} for all points or one for "
                "each: a position lies on the grid of its variable."
            )
        of = np.zeros(len(points), dtype=np.int64) if variable is None else variable
        where = points.double().numpy(force=True)
        found = []
        own = np.zeros(where.shape, dtype=bool)
        for piece, rows, columns in by_piece(self.space, of):
            if rows.any():
                numbers = np.flatnonzero(rows)
                part = _located(where[rows][:, columns], numbers, piece, self.nearest)
                found.append((rows, *part))
                own[np.ix_(rows, columns)] = True
        width = max(index.shape[1] for _, index, _ in found)
        index, weights = np.zeros((len(points), width), np.int64), np.zeros((len(points), width))
        for rows, near, share in found:
            # A corner more, without weight: one that is there, since 0 times NaN is NaN.
            more = width - near.shape[1]
            index[rows] = np.pad(near, ((0, 0), (0, more)), "edge")
            weights[rows] = np.pad(share, ((0, 0), (0, more)))
        if variable is not None:
            index = index + self.space.offsets[variable][:, None]
        object.__setattr__(self, "points", points.where(torch.from_numpy(own), torch.nan))
        object.__setattr__(self, "_index", torch.from_numpy(index))
        object.__setattr__(self, "_weights", torch.from_numpy(weights))

    def _observed(self, count: int) -> np.ndarray | None:
        """Return the index of the variable of each point, None where it is every one."""
        if self.variable is None:
            return None
        names = (self.variable,) * count if isinstance(self.variable, str) else self.variable
        if len(names) != count:
            raise ValueError(
                f"Got {len(names)} variables for {count} points: give one for all or one for each."
            )
        return np.array([self.space.variable(name) for name in names])

    def check(self, space: StateSpace) -> None:
        if space.shape != self.space.shape:
            raise ValueError(
                f"Got states of shape {space.shape} for an Interpolate made for "
                f"{self.space.shape}: make it with the space of the states."
            )

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        if tuple(x.shape[1:]) != self.space.shape:
            raise ValueError(
                f"Got states of shape {tuple(x.shape)}, members first, for an Interpolate made "
                f"for {self.space.shape}: make it with the space of the states."
            )
        each = self.variable is None and self.space.has_channels
        flat = x.flatten(2) if each else x.flatten(1)
        return (flat[..., self._index.to(x.device)] * self._weights.to(x)).sum(-1)

    def as_matrix(self, shape: tuple[int, ...]) -> csr_array:
        columns, weights = self._index.numpy(), self._weights.numpy()
        if self.variable is None and self.space.has_channels:
            starts = self.space.offsets
            columns = (starts[:, None, None] + columns).reshape(-1, columns.shape[1])
            weights = np.tile(weights, (len(starts), 1))
        return sparse_rows(columns, weights, math.prod(shape))

    def coordinates(self, space: StateSpace) -> Float[Tensor, "obs axes"]:
        self.check(space)
        points = torch.as_tensor(self.points, dtype=torch.get_default_dtype())
        return points.repeat(len(space.variables) if self.variable is None else 1, 1)

    def placed(
        self, positions: Float[Tensor, "entries axes"], shape: tuple[int, ...]
    ) -> Float[Tensor, "obs axes"]:
        return self.coordinates(self.space)

    def variables(self, space: StateSpace) -> tuple[str, ...]:
        self.check(space)
        if self.variable is None:
            return tuple(name for name in space.variables for _ in range(len(self.points)))
        if isinstance(self.variable, str):
            return (self.variable,) * len(self.points)
        return self.variable


def _located(
    points: np.ndarray, numbers: np.ndarray, space: StateSpace, nearest: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return flat index and weight of the points that each position takes, on one grid."""
    if nearest is not None:
        index, inside = nearest_points(points, space, nearest)
        words = f"farther than {nearest:g} from all points of the grid"
    else:
        inside = inside_domain(points, space)
        words = f"outside the domain {extent(space)}"
    if not inside.all():
        first = int(np.flatnonzero(~inside)[0])
        raise ValueError(
            f"Got the position {points[first].tolist()} of point {numbers[first]} {words}: leave "
            "it out."
        )
    if nearest is not None:
        return index, np.ones(index.shape)
    index, weights = corners(points, space)
    if (land := uses_land(index, space)).any():
        first = int(land.argmax())
        raise ValueError(
            f"Got the position {points[first].tolist()} of point {numbers[first]} on land, or "
            "next to it: leave it out."
        )
    return index, weights


def _check_blocks(n: int | tuple[int, ...], name: str) -> None:
    if min(n if isinstance(n, tuple) else (n,)) < 1:
        raise ValueError(f"Got {name}({n}): give a number of entries, at least 1.")


def _check_channels(operator: Stride | Average, space: StateSpace) -> None:
    if space.parts is not None:
        raise ValueError(
            f"{operator} goes along the axes of one grid, and the space has {len(space.parts)}: "
            "use `Select.stations(space, every=...)`."
        )
    # A flat state without coordinates has a variable per entry: there is nothing to mistake.
    if not space.axes:
        return
    channels = operator.channels
    if channels is None:
        channels = len(space.shape) > 2
    if channels != space.has_channels:
        raise ValueError(
            f"{operator} takes the first axis of states of shape {space.shape} as "
            f"{'variables' if channels else 'spatial'}, but the space as "
            f"{'spatial' if channels else 'variables'}: give it channels={not channels}."
        )


def _per_axis(operator: Stride | Average, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the stride or block size of each axis of a state."""
    channels = operator.channels
    if channels is None:
        channels = len(shape) > 2
    spatial = len(shape) - channels
    n = operator.n if isinstance(operator.n, tuple) else (operator.n,) * spatial
    if len(n) != spatial:
        raise ValueError(
            f"Got {operator} for states of shape {shape} with {spatial} spatial axes: give one "
            "number or one per spatial axis."
        )
    return ((1,) if channels else ()) + n
