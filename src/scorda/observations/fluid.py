r"""Observation operators of flows: vorticity, speed, and the difference of two states.

A velocity is ``(2, y, x)``: u along x, then v along y, on a periodic grid of equal spacing. The
operators work on the last three axes, so those of states at several steps, ``(ensemble, len, 2, y,
x)``, are taken too, and averages of velocities are again velocities, on a coarser grid:
``Chain(Vorticity(), Average(4))``. Nonlinear views of a field are `Pointwise`: the saturation
:math:`w / (1 + |w|)` is ``Pointwise(torch.nn.functional.softsign)``, the sigmoid
``Pointwise(torch.sigmoid)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_array

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.operators import Operator, sparse_rows

__all__ = ["Difference", "Speed", "Vorticity"]


@dataclass(frozen=True)
class Vorticity(Operator):
    r"""Observe the vorticity of velocities ``(2, y, x)`` on a periodic grid, ``(y, x)``.

    .. math:: \omega = \partial_x v - \partial_y u

    Central differences, the default, see the four neighbours of a point alone: each observation
    has a place, the matrix is sparse, and fields of any smoothness pass. They damp a wave of
    wavenumber k by :math:`\sin(k h) / (k h)` at the spacing h. Spectral derivatives are exact for
    fields that the grid resolves, and each observation then depends on its whole row and column.

    Unit: that of the velocity over that of `period`. Rozet & Louppe (2023) observe central
    differences at spacing 1 with the other sign: the number of points as `period` gives theirs.

    Arguments:
        period: Length of the domain along y and x, or one for both. Default: :math:`2 \pi`, and
            a space with other periods is refused.
        derivative: ``"central"`` or ``"spectral"``.

    Raises:
        ValueError: If an argument is out of range.
    """

    period: float | tuple[float, float] | None = None
    derivative: Literal["central", "spectral"] = "central"
    linear = True

    def __post_init__(self) -> None:
        if self.derivative not in ("central", "spectral"):
            raise ValueError(
                f"Got derivative = {self.derivative!r}: choose 'central' or 'spectral'."
            )
        if not min(self._lengths) > 0:
            raise ValueError(f"Got the period {self.period}: lengths must be positive.")

    def check(self, space: StateSpace) -> None:
        _check_velocity(self, space)
        for name, values in (space.coordinates or {}).items():
            steps, length = np.diff(values), space.period.get(name)
            if length is None or not np.allclose(steps, length / len(values), rtol=1e-3):
                raise ValueError(
                    f"Got a space whose coordinate {name!r} is not periodic with equal spacing: "
                    "Vorticity needs that; use Function for another grid."
                )
            if self.period is None and not math.isclose(length, 2 * math.pi, rel_tol=1e-6):
                raise ValueError(
                    f"Got a space of period {length} along {name!r} for Vorticity(), which takes "
                    "2 pi: give it `period`."
                )

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        self._check_shape(tuple(x.shape[1:]))
        u, v = x.unbind(-3)
        return self._along(v, -1) - self._along(u, -2)

    def as_matrix(self, shape: tuple[int, ...]) -> csr_array:
        self._check_shape(shape)
        if self.derivative == "spectral" or len(shape) > 3:
            return super().as_matrix(shape)
        u, v = np.arange(math.prod(shape)).reshape(shape)
        ends = [np.roll(v, -1, 1), np.roll(v, 1, 1), np.roll(u, -1, 0), np.roll(u, 1, 0)]
        columns = np.stack([end.ravel() for end in ends], 1)
        y, x = (n / (2 * length) for n, length in zip(shape[-2:], self._lengths, strict=True))
        weights = np.broadcast_to([x, -x, -y, y], columns.shape)
        return sparse_rows(columns, weights, math.prod(shape))

    def placed(
        self, positions: Float[Tensor, "entries axes"], shape: tuple[int, ...]
    ) -> Float[Tensor, "obs axes"]:
        return _of_first_component(positions, shape)

    @property
    def _lengths(self) -> tuple[float, float]:
        period = 2 * math.pi if self.period is None else self.period
        return period if isinstance(period, tuple) else (period, period)

    def _along(self, field: Tensor, axis: Literal[-1, -2]) -> Tensor:
        """Differentiate along an axis."""
        n, length = field.shape[axis], self._lengths[axis]
        if self.derivative == "central":
            return (field.roll(-1, axis) - field.roll(1, axis)) * (n / (2 * length))
        k = 2 * math.pi / length * torch.arange(n // 2 + 1, dtype=field.dtype, device=field.device)
        if n % 2 == 0:
            # The derivative of the shortest wave vanishes at every grid point; not every inverse
            # transform drops an imaginary part there by itself.
            k[-1] = 0
        spectrum = torch.fft.rfft(field, dim=axis)
        return torch.fft.irfft(1j * (k if axis == -1 else k[:, None]) * spectrum, n, axis)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        _check_components(self, shape)
        if shape[-3] != 2 or min(shape[-2:]) < 3:
            raise ValueError(
                f"Got states of shape {shape} for Vorticity: it needs velocities (2, y, x) on at "
                "least 3 x 3 points."
            )


@dataclass(frozen=True)
class Speed(Operator):
    r"""Observe the speed :math:`(u^2 + v^2)^{1/2}` of velocities ``(2, y, x)``, ``(y, x)``.

    Unit: that of the velocity. The gradient where the fluid rests is taken as 0. Any number of
    components is taken.
    """

    def check(self, space: StateSpace) -> None:
        _check_velocity(self, space)

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        _check_components(self, tuple(x.shape[1:]))
        return torch.linalg.vector_norm(x, dim=-3)

    def placed(
        self, positions: Float[Tensor, "entries axes"], shape: tuple[int, ...]
    ) -> Float[Tensor, "obs axes"]:
        return _of_first_component(positions, shape)


@dataclass(frozen=True)
class Difference(Operator):
    r"""Observe the difference of states at two steps, the first minus the second.

    .. math:: y = x_k - x_l

    for an entry ``(k, l)`` of the steps of `Observations`: ``(ensemble, 2, *state)`` to
    ``(ensemble, *state)``. Observed as 0 it asks for a loop. Put other operators outside:
    ``Chain(Average(4), Difference())``. It has no positions: only methods that see whole
    trajectories can use it, and they ask for none.
    """

    linear = True

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        if x.ndim < 3 or x.shape[1] != 2:
            raise ValueError(
                f"Got states of shape {tuple(x.shape[1:])} for Difference: it needs two of them, "
                "so make each entry of the observations' `steps` a pair of steps."
            )
        return x[:, 0] - x[:, 1]


def _of_first_component(positions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the positions of the grid, given those of every component on it."""
    each = positions.reshape(-1, shape[-3], math.prod(shape[-2:]), positions.shape[1])
    return each[:, 0].flatten(0, 1)


def _check_components(operator: Operator, shape: tuple[int, ...]) -> None:
    if len(shape) < 3:
        raise ValueError(
            f"Got states of shape {shape} for {type(operator).__name__}: it needs velocities, "
            "shape (2, y, x)."
        )


def _check_velocity(operator: Operator, space: StateSpace) -> None:
    if len(space.axes) != 2 or len(space.variables) != 2:
        raise ValueError(
            f"Got a space of the variables {list(space.variables)} on the axes "
            f"{list(space.axes)} for {type(operator).__name__}: it needs two velocities on two "
            "axes."
        )
