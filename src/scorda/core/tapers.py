"""Localization: weights of observations that fall with their distance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from scorda.core.shapes import Float, Tensor

__all__ = ["GaspariCohn", "correlation_taper"]


@dataclass(frozen=True)
class GaspariCohn:
    r"""Weight of an observation by its distance, a fifth-order piecewise rational function.

    .. math:: \rho(r) = \begin{cases}
        1 - \frac53 r^2 + \frac58 r^3 + \frac12 r^4 - \frac14 r^5 & r \le 1 \\
        4 - 5 r + \frac53 r^2 + \frac58 r^3 - \frac12 r^4 + \frac1{12} r^5 - \frac{2}{3 r}
        & 1 < r \le 2 \\ 0 & r > 2 \end{cases}, \quad r = \mathrm{distance} / c

    with c = 1.82 radius, which gives it the curvature at 0 of a Gaussian whose standard deviation
    is the radius: at the radius the weight is 0.63, near :math:`e^{-1/2}`, and beyond 2c it is 0.
    It is a correlation function in up to three dimensions, and of great circles while 2c is at
    most half of the circumference (radius 5499 km on Earth); wider, it is slightly indefinite.

    Sources: Gaspari & Cohn (1999), Q. J. R. Meteorol. Soc. 125, equation 4.10; on the sphere
    Gneiting (2013), Bernoulli 19, 1327, theorem 3.

    Arguments:
        radius: Radius in the units of the space's distances (km on the globe), positive; infinite:
            weight 1.

    Example:
        >>> sc.GaspariCohn(radius=2.0)(torch.tensor([0.0, 1.0, 4.0]))
        tensor([1.0000, 0.8896, 0.1453])
    """

    radius: float

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise ValueError(f"Got radius = {self.radius}: a localization radius is positive.")

    @property
    def reach(self) -> float:
        """Return the distance 2c beyond which the weight is zero."""
        return 2 * 1.82 * self.radius

    def __call__(self, distance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the weight at given distances, in [0, 1]."""
        r = 2 * distance / self.reach
        near = 1 + r**2 * (-5 / 3 + r * (5 / 8 + r * (1 / 2 - r / 4)))
        # Clamped where the other branch holds, so that no division by zero leaves a NaN.
        q = r.clamp(1, 2)
        far = 4 + q * (-5 + q * (5 / 3 + q * (5 / 8 + q * (-1 / 2 + q / 12)))) - 2 / (3 * q)
        # Rounding near r = 2 would leave tiny negative weights, whose roots are taken later.
        return torch.where(r <= 1, near, far.clamp_min(0)) * (r < 2)


@runtime_checkable
class Placed(Protocol):
    """What has positions and distances, such as a `StateSpace`."""

    def positions(self) -> Float[Tensor, "points axes"]:
        """Return the position of each point."""

    def places(self, positions: Float[Tensor, "points axes"]) -> Float[Tensor, "points axes"]:
        """Return positions, infinite where there is none."""

    def distance(
        self, a: Float[Tensor, "m axes"], b: Float[Tensor, "n axes"]
    ) -> Float[Tensor, "m n"]:
        """Return distances between positions."""


def correlation_taper(
    taper: Callable[[Tensor], Tensor], space: Placed
) -> Float[Tensor, "points points"]:
    r"""Return tapers T between all points of a space, such that a tapered covariance is one.

    What has no position, such as a parameter, gets one factor with every point that has one: the
    largest that leaves the whole positive semidefinite, :math:`(1^T T^{-1} 1)^{-1/2}`, below 1.
    """
    where = space.positions()
    near = taper(space.distance(where, where))
    nowhere = ~space.places(where).isfinite().all(1)
    if not nowhere.any() or nowhere.all():
        return near
    inner = torch.linalg.pinv(near[~nowhere][:, ~nowhere].double(), rtol=1e-10, hermitian=True)
    factor = inner.sum().rsqrt().clamp(max=1.0).to(near)
    apart = nowhere[:, None] != nowhere
    return torch.where(apart, factor, near)
