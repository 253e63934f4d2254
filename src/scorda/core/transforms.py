r"""Bounded variables in coordinates without bounds, in which methods estimate them.

A variable x with bounds is estimated as z = f(x), which takes all real numbers: a Gaussian
analysis of z, whatever it adds, is inside of the bounds again as :math:`x = f^{-1}(z)`. Densities
change by the slope, :math:`p_z(z) = p_x(x) \, |dx / dz|`; medians and quantiles map to each other,
means do not.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from scorda.core.shapes import Float, Tensor

__all__ = ["Log", "Logit", "Transform", "described_transforms", "made_transforms"]


class Transform(ABC):
    """A smooth, increasing map f of an interval onto the real numbers, between two bounds."""

    lower: float
    upper: float

    @abstractmethod
    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return z = f(x); a value on a bound, or beyond, is taken as the next one inside."""

    @abstractmethod
    def inverse(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return x, which is inside of the bounds for every finite z."""

    def within(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return x with the next number inside in place of one on a bound, or beyond [final]."""
        return _inside(x, self.lower, self.upper)

    @abstractmethod
    def log_slope(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the log of dz / dx."""


@dataclass(frozen=True)
class Log(Transform):
    r"""A lower bound: :math:`z = \ln (x - a)`.

    Arguments:
        lower: a.

    Raises:
        ValueError: If the bound is not finite.
    """

    lower: float = 0.0
    upper = math.inf

    def __post_init__(self) -> None:
        if not math.isfinite(self.lower):
            raise ValueError(f"Got lower = {self.lower}: give a finite bound.")

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (self.within(x) - self.lower).log()

    def inverse(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.within(self.lower + z.exp())

    def log_slope(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return -self.forward(x)


@dataclass(frozen=True)
class Logit(Transform):
    r"""Two bounds: :math:`z = \ln \frac{x - a}{b - x}`.

    Arguments:
        lower: a.
        upper: b.

    Raises:
        ValueError: If the bounds are not finite, or not in this order.
    """

    lower: float
    upper: float

    def __post_init__(self) -> None:
        if not -math.inf < self.lower < self.upper < math.inf:
            raise ValueError(
                f"Got the bounds {self.lower} and {self.upper}: give two finite numbers, the "
                "smaller one first."
            )

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        x = self.within(x)
        return (x - self.lower).log() - (self.upper - x).log()

    def inverse(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.within(self.lower + (self.upper - self.lower) * z.sigmoid())

    def log_slope(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        x = self.within(x)
        width = math.log(self.upper - self.lower)
        return width - (x - self.lower).log() - (self.upper - x).log()


KINDS: dict[str, type[Transform]] = {"log": Log, "logit": Logit}


def described_transforms(transforms: Mapping[str, Transform]) -> dict[str, list[Any]]:
    """Return transforms as JSON has them: kind and bounds by variable."""
    names = {kind: name for name, kind in KINDS.items()}
    return {
        variable: [names[type(transform)], *vars(transform).values()]
        for variable, transform in transforms.items()
    }


def made_transforms(content: Mapping[str, list[Any]]) -> dict[str, Transform]:
    """Return the transforms of `described_transforms`.

    Raises:
        ValueError: If a kind is unknown, or its bounds do not fit it.
    """
    made = {}
    for variable, (kind, *bounds) in ((n, entry or [""]) for n, entry in content.items()):
        numbers = all(isinstance(bound, int | float) for bound in bounds)
        if kind not in KINDS or not numbers or len(bounds) != len(KINDS[kind].__annotations__):
            raise ValueError(
                f"The space has the transform {[kind, *bounds]} of {variable!r}: give log and a "
                "bound, or logit and two."
            )
        made[variable] = KINDS[kind](*map(float, bounds))
    return made


def _inside(x: Tensor, lower: float, upper: float) -> Tensor:
    """Return values that rounding has not put on a bound; NaN stays."""
    low, high = (torch.tensor(bound, dtype=x.dtype, device=x.device) for bound in (lower, upper))
    return x.clamp(torch.nextafter(low, high), torch.nextafter(high, low))
