"""Time integration of ordinary differential equations."""

from __future__ import annotations

from collections.abc import Callable

from scorda.core.shapes import Float, Tensor

__all__ = ["rk4"]


def rk4(
    field: Callable[[Tensor], Tensor], x: Float[Tensor, "..."], dt: float
) -> Float[Tensor, "..."]:
    r"""Advance :math:`\dot x = f(x)` by one step of the classical Runge-Kutta method.

    Fourth order: the error after a fixed time falls with :math:`dt^4` (tested).
    """
    k1 = field(x)
    k2 = field(x + 0.5 * dt * k1)
    k3 = field(x + 0.5 * dt * k2)
    k4 = field(x + dt * k3)
    return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
