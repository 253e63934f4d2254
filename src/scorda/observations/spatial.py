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

from scorda.core.parts import by_piece
from scorda.core.shapes import Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.observations.operators import Gather, Operator, sparse_rows

__all__ = ["Average", "Blur", "Interpolate", "Stride"]

# Positions are taken as grid points, and as inside the domain, within this part of the spacing:
# coordinates stored in single precision stay the ones that they were.
SNAP = 1e-3


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
    r"""Observe at positions off the grid by multilinear interpolation.

    .. math:: y_j = \sum_c w_{jc} x_{jc}, \quad w_{jc} = \prod_a (1 - |p_{ja} - q_{jca}| / h_{ja})

    over the :math:`2^d` corners c, at q, of the grid cell that holds position j, whose sides are
    h. Exact for fields that are linear in each coordinate. Periodic where the space is.

    Arguments:
        points: Positions, ``(points, axes)``, in the coordinates of the space. In a space of
            parts they have its columns, of which those count that the part of the variable has.
        space: Space of the states.
        variable: Variable to observe, or one for each point. Default: every variable, and the
            observation is ``(variables, points)`` where the states have a channel axis.

    Raises:
        ValueError: If a position lies outside a domain that is not periodic or takes a value from
            outside of the mask of the space, or a variable is unknown.
    """

    points: Float[Tensor, "points axes"] | np.ndarray
    space: StateSpace
    variable: str | tuple[str, ...] | None = None
    linear = True

    _index: Tensor = field(init=False, repr=False)
    _weights: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        points = torch.as_tensor(self.points)
        axes = self.space.position_names
        if points.ndim != 2 or not len(points) or points.shape[1] != len(axes):
            raise ValueError(
                f"Got points of shape {tuple(points.shape)}: give (points, {len(axes)}), one "
                f"column for each of {list(axes)}."
            )
        variable = self._observed(len(points))
        if variable is None and self.space.parts is not None:
            raise ValueError(
                f"Give `variable`, one of {list(self.space.variables)} for all points or one for "
                "each: a position lies on the grid of its variable."
            )
        of = np.zeros(len(points), dtype=np.int64) if variable is None else variable
        where = points.double().numpy(force=True)
        width = max(2 ** len(piece.axes) for piece in self.space.pieces)
        index, weights = np.zeros((len(points), width), np.int64), np.zeros((len(points), width))
        own = np.zeros(where.shape, dtype=bool)
        for piece, rows, columns in by_piece(self.space, of):
            if not rows.any():
                continue
            corners, share = _located(where[rows][:, columns], np.flatnonzero(rows), piece)
            # A corner more, without weight: one that is there, since 0 times NaN is NaN.
            more = width - corners.shape[1]
            index[rows] = np.pad(corners, ((0, 0), (0, more)), "edge")
            weights[rows] = np.pad(share, ((0, 0), (0, more)))
            own[np.ix_(rows, columns)] = True
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
    points: np.ndarray, numbers: np.ndarray, space: StateSpace
) -> tuple[np.ndarray, np.ndarray]:
    """Return flat index and weight of the corners of the cell of each position, on one grid."""
    inside = inside_domain(points, space)
    if not inside.all():
        first = int(np.flatnonzero(~inside)[0])
        raise ValueError(
            f"Got the position {points[first].tolist()} of point {numbers[first]} outside the "
            f"domain {_extent(space)}: leave it out."
        )
    index, weights = _corners(points, space)
    if (land := uses_land(index, space)).any():
        first = int(land.argmax())
        raise ValueError(
            f"Got the position {points[first].tolist()} of point {numbers[first]} on land, or "
            "next to it: leave it out."
        )
    return index, weights


def inside_domain(points: np.ndarray, space: StateSpace) -> np.ndarray:
    """Say whether each position ``(points, axes)`` is within the grid, or on a periodic axis."""
    inside = np.isfinite(points).all(1)
    for axis, name in enumerate(space.axes):
        if name not in space.period:
            positions = (space.coordinates or {})[name]
            slack = SNAP * _spacing(space, name)
            inside &= points[:, axis] >= positions[0] - slack
            inside &= points[:, axis] <= positions[-1] + slack
    return inside


def on_land(points: np.ndarray, space: StateSpace) -> np.ndarray:
    """Say whether the value at each position would need one from outside of the mask."""
    if space.mask is None:
        return np.zeros(len(points), dtype=bool)
    return uses_land(_corners(points, space)[0], space)


def uses_land(index: np.ndarray, space: StateSpace) -> np.ndarray:
    """Say which of ``(points, corners)`` have a corner outside of the mask."""
    if space.mask is None:
        return np.zeros(len(index), dtype=bool)
    return (~space.mask.flatten()[index]).any(1)


def within_a_period(points: np.ndarray, space: StateSpace) -> np.ndarray:
    """Say whether positions on periodic axes are on the grid or at most a period off.

    Longitudes may be counted from -180 or from 0; what is further off has another unit.
    """
    near = np.ones(len(points), dtype=bool)
    for axis, name in enumerate(space.axes):
        if name in space.period:
            first, length = (space.coordinates or {})[name][0], space.period[name]
            near &= np.abs(points[:, axis] - first - length / 2) <= 1.5 * length
    return near


def snapped(points: np.ndarray, space: StateSpace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Move positions onto the grid where they are on it up to rounding.

    Returns the positions, the flat index of the grid point next to each, and whether it is there.
    """
    index, on_grid = np.zeros(len(points), dtype=np.int64), np.ones(len(points), dtype=bool)
    grid = np.zeros_like(points)
    for axis, name in enumerate(space.axes):
        positions = (space.coordinates or {})[name]
        lower, fraction, step = _cell(points[:, axis], space, name)
        nearest = np.where(fraction < 0.5, lower, (lower + 1) % len(positions))
        on_grid &= np.minimum(fraction, 1 - fraction) * step <= SNAP * _spacing(space, name)
        index = index * len(positions) + nearest
        grid[:, axis] = positions[nearest]
    return np.where(on_grid[:, None], grid, points), index, on_grid


def _corners(points: np.ndarray, space: StateSpace) -> tuple[np.ndarray, np.ndarray]:
    """Return flat index and weight of the corners of each position's cell."""
    index = np.zeros((len(points), 1), dtype=np.int64)
    weights = np.ones((len(points), 1))
    for axis, name in enumerate(space.axes):
        size = len((space.coordinates or {})[name])
        lower, fraction, _ = _cell(points[:, axis], space, name)
        sides = np.stack([lower, (lower + 1) % size], -1)
        share = np.stack([1 - fraction, fraction], -1)
        # A corner without weight is the other: outside of a mask it may be NaN, and so 0 times it.
        sides = np.where(share > 0, sides, sides[:, ::-1])
        shape = len(points), 2 * index.shape[1]
        index = (index[:, :, None] * size + sides[:, None, :]).reshape(shape)
        weights = (weights[:, :, None] * share[:, None, :]).reshape(shape)
    return index, weights


def _cell(
    values: np.ndarray, space: StateSpace, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each value's lower grid index, fraction of the way to the next, and cell length."""
    positions = (space.coordinates or {})[name]
    if name in space.period:
        length = space.period[name]
        values = positions[0] + (values - positions[0]) % length
        ends = np.append(positions, positions[0] + length)
    elif len(positions) == 1:
        zero = np.zeros(len(values))
        return zero.astype(np.int64), zero, zero + 1
    else:
        values, ends = np.clip(values, positions[0], positions[-1]), positions
    lower = np.clip(np.searchsorted(ends, values, side="right") - 1, 0, len(ends) - 2)
    step = np.diff(ends)[lower]
    return lower, (values - ends[lower]) / step, step


def _spacing(space: StateSpace, name: str) -> float:
    positions = (space.coordinates or {})[name]
    return float(np.diff(positions).min()) if len(positions) > 1 else space.period.get(name, 1.0)


def _extent(space: StateSpace) -> str:
    ranges = (
        f"{name} in [{c[0]:g}, {c[-1]:g}]" + (" (periodic)" if name in space.period else "")
        for name, c in (space.coordinates or {}).items()
    )
    return ", ".join(ranges)


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
