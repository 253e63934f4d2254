r"""Bounded variables in coordinates without bounds, in which methods estimate them.

A variable x with bounds is estimated as z = f(x), which takes all real numbers: a Gaussian
analysis of z, whatever it adds, is inside of the bounds again as :math:`x = f^{-1}(z)`. Densities
change by the slope, :math:`p_z(z) = p_x(x) \, |dx / dz|`; medians and quantiles map to each other,
means do not.

A circular variable, such as a direction or a phase, has no bounds and is the same a period on. Its
coordinate is itself, on the turn that is nearest to something: the mean direction of the members.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from scorda.core.shapes import Float, Tensor

__all__ = ["Circular", "Log", "Logit", "Transform", "described_transforms", "made_transforms"]


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
        """Return x with the next number inside in place of one on a bound, or beyond."""
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


@dataclass(frozen=True)
class Circular(Transform):
    r"""A circular variable: x and x + P are the same.

    Differences go the short way round, :math:`d = x - y + k P` with the integer k that makes
    :math:`|d| \le P / 2`. A mean is that of the members on the turns nearest to their mean
    direction, :math:`\arg \sum_i w_i e^{2 \pi \mathrm i x_i / P}`. So for members within half a
    circle all linear methods are what they are for a variable that is not circular.

    Arguments:
        period: P, such as 360.
        first: States are kept from here on, up to first + P.

    Raises:
        ValueError: If the period is not positive, or one of both is not finite.
    """

    period: float
    first: float = 0.0
    lower = -math.inf
    upper = math.inf

    def __post_init__(self) -> None:
        if not 0 < self.period < math.inf or not math.isfinite(self.first):
            raise ValueError(
                f"Got the period {self.period} and the first value {self.first}: give a positive "
                "period, and finite numbers."
            )

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return x

    def inverse(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return z

    def within(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return x on the turn from `first` on."""
        turned = x - self.period * ((x - self.first) / self.period).floor()
        # Rounding may put what is just below the first value on the end of the turn.
        beyond = (turned >= self.first + self.period) | (turned < self.first)
        return turned.masked_fill(beyond, self.first)

    def log_slope(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.zeros_like(x)

    def near(
        self, x: Float[Tensor, "..."], place: float | Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Return x on the turn that is nearest to a place; what is there keeps its bits."""
        return x + self.period * ((place - x) / self.period).round()

    def direction(
        self, x: Float[Tensor, "ensemble ..."], weights: Float[Tensor, "ensemble ..."] | None
    ) -> Float[Tensor, "..."]:
        """Return the mean direction of members, without those that are NaN.

        Arguments:
            x: Members.
            weights: Weights of the members, with the first axes of `x`; None: all are equal.
        """
        angle = x * (2 * math.pi / self.period)
        w = torch.ones_like(x) if weights is None else weights.to(x)
        w = w.reshape(*w.shape, *[1] * (x.ndim - w.ndim))
        east, north = ((w * part.nan_to_num()).sum(0) for part in (angle.cos(), angle.sin()))
        return self.within(torch.atan2(north, east) * (self.period / (2 * math.pi)))

    def unrolled(
        self,
        x: Float[Tensor, "ensemble ..."],
        weights: Float[Tensor, "ensemble ..."] | None = None,
    ) -> Float[Tensor, "ensemble ..."]:
        """Return members on the turns nearest to their mean `direction`."""
        return self.near(x, self.direction(x, weights))


KINDS: dict[str, type[Transform]] = {"log": Log, "logit": Logit, "circular": Circular}


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
                "bound, logit and two, or circular with a period and a first value."
            )
        made[variable] = KINDS[kind](*map(float, bounds))
    return made


def _inside(x: Tensor, lower: float, upper: float) -> Tensor:
    """Return values that rounding has not put on a bound; NaN stays."""
    low, high = (torch.tensor(bound, dtype=x.dtype, device=x.device) for bound in (lower, upper))
    return x.clamp(torch.nextafter(low, high), torch.nextafter(high, low))
