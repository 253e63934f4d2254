"""Masks: operators that observe the entries where a mask is true, and masks of parts of a grid.

The parts are given for a `StateSpace` or for the shape of what is observed, whose last two axes
are then the grid: ``Mask.grid(space, 10)`` observes velocities, and
``Chain(Mask.ring(space.grid, 0.4, 0.6), Vorticity())`` the vorticity in a ring. Any leading axes
are observed alike. `Stride` observes the same entries as `Mask.grid` and keeps the grid's shape.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from scorda.core.shapes import Bool, Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.observations.operators import Gather

__all__ = ["Mask"]


@dataclass(frozen=True, eq=False)
class Mask(Gather):
    """Observe the components where a mask is true, flattened.

    Arguments:
        mask: Truth values, shape ``(*state)``.
    """

    mask: Bool[Tensor, "..."] | np.ndarray

    _index: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        mask = torch.as_tensor(self.mask)
        if mask.dtype != torch.bool:
            raise ValueError(
                f"Got a mask of {mask.dtype}: give truth values, for instance `weights > 0`."
            )
        if not mask.any():
            raise ValueError(
                f"Got a mask of shape {tuple(mask.shape)} without a true entry: at least one "
                "component must be observed."
            )
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "_index", mask.flatten().nonzero()[:, 0])

    @classmethod
    def grid(cls, space: StateSpace | tuple[int, ...], every: int) -> Mask:
        """Observe every n-th point along each axis of the grid, from the first on.

        Raises:
            ValueError: If `every` is below 1, or the space has no grid.
        """
        if every < 1:
            raise ValueError(f"Got every = {every}: give a number of grid points, at least 1.")
        shape, axes = _grid(space)
        mask = torch.zeros(shape, dtype=torch.bool)
        index: tuple[Any, ...] = (..., *(slice(None, None, every),) * axes)
        mask[index] = True
        return cls(_inside(mask, space))

    @classmethod
    def centre(
        cls, space: StateSpace | tuple[int, ...], share: float = 0.5, hole: bool = True
    ) -> Mask:
        """Observe everything but the square in the middle of the grid, or that square alone.

        Arguments:
            space: Space of the states, or the shape of what is observed.
            share: Length of the square's sides over that of the domain's, between 0 and 1; the
                square has ``round(share * n)`` of n points along an axis.
            hole: Whether the square is what is not observed.

        Raises:
            ValueError: If the share is out of range, or nothing is left to observe.
        """
        if not 0 < share < 1:
            raise ValueError(f"Got share = {share}: give a number between 0 and 1.")
        shape, axes = _grid(space)
        inside = torch.zeros(shape, dtype=torch.bool)
        sides = [round(share * n) for n in shape[-axes:]]
        starts = [(n - side) // 2 for n, side in zip(shape[-axes:], sides, strict=True)]
        spans = (slice(a, a + side) for a, side in zip(starts, sides, strict=True))
        index: tuple[Any, ...] = (..., *spans)
        inside[index] = True
        return cls(_inside(~inside if hole else inside, space))

    @classmethod
    def ring(
        cls,
        space: StateSpace | tuple[int, ...],
        inner: float,
        outer: float,
        centre: tuple[float, ...] | None = None,
    ) -> Mask:
        r"""Observe the points with :math:`r_1 < r < r_2` from a centre, round a periodic domain.

        In relative coordinates: the domain is :math:`[-1, 1]` along each axis, and point j of n is
        at :math:`(2 j + 1 - n) / n`.

        Arguments:
            space: Space of the states, or the shape of what is observed.
            inner: r_1; a negative one gives the whole disc.
            outer: r_2.
            centre: In relative coordinates, in the order of the axes. Default: the middle.

        Raises:
            ValueError: If no point lies in the ring, or the centre has another number of axes.
        """
        shape, axes = _grid(space)
        centre = (0.0,) * axes if centre is None else centre
        if len(centre) != axes:
            raise ValueError(
                f"Got the centre {centre} on a grid of {axes} axes: give one number per axis."
            )
        square = torch.zeros(())
        for n, middle in zip(shape[-axes:], centre, strict=True):
            places = (2 * torch.arange(n, dtype=torch.float64) + 1 - n) / n
            distance = (places - middle + 1) % 2 - 1
            square = square[..., None] + distance.square()
        radius = square.sqrt()
        ring = (inner < radius) & (radius < outer)
        return cls(_inside(ring.expand(shape).clone(), space))

    def entries(self, shape: tuple[int, ...]) -> Int[Tensor, "obs"]:
        if tuple(shape) != tuple(self.mask.shape):
            raise ValueError(
                f"Got states of shape {tuple(shape)} for a mask of shape "
                f"{tuple(self.mask.shape)}: they must be equal."
            )
        return self._index

    def check(self, space: StateSpace) -> None:
        self.entries(space.shape)

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble obs"]:
        return x.flatten(1)[:, self.entries(tuple(x.shape[1:])).to(x.device)]


def _inside(mask: Tensor, space: StateSpace | tuple[int, ...]) -> Tensor:
    """Leave out what is outside of the mask of a space."""
    return mask & space.inside.view(mask.shape) if isinstance(space, StateSpace) else mask


def _grid(space: StateSpace | tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Return the shape of what is observed, and how many of its last axes are the grid."""
    shape, axes = (
        (space.shape, len(space.axes)) if isinstance(space, StateSpace) else (tuple(space), 2)
    )
    if not 0 < axes <= len(shape):
        raise ValueError(
            f"Got states of shape {shape} without a grid: give a space with coordinates, or a "
            "shape whose last two axes are a grid."
        )
    return shape, axes
