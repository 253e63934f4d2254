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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch

from scorda.core.arrays import ArrayLike
from scorda.core.shapes import Float, Tensor

__all__ = [
    "Circular",
    "Log",
    "Logit",
    "NormalScores",
    "Transform",
    "described_transforms",
    "made_transforms",
]


# Values of a sample at most, and the share of them whose slope the tails of its map have.
SAMPLED, OUTER = 10_000, 0.1


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
        """Return x on the turn from ``first`` on."""
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
        """Return members on the turns nearest to their mean ``direction``."""
        return self.near(x, self.direction(x, weights))


@dataclass(frozen=True)
class NormalScores(Transform):
    r"""Normal scores of a sample: a variable with any law is Gaussian where it has that of these.

    .. math:: z = \Phi^{-1} \bigl( (k - \tfrac12) / N \bigr)

    at the k-th smallest of N values, linear between values and, beyond the outermost, with the
    mean slope of the outer tenth. So the tails of the law are Gaussian, and no bounds hold there.
    Values that are equal have the score of their mean rank.

    Source: Bertino, Evensen & Wackernagel (2003), Int. Stat. Rev. 71, 223-241.

    Arguments:
        sample: Values of the variable, such as those of a record, at most 10 000; NaN is left out.

    Raises:
        ValueError: If there are more, fewer than two that differ, or one is infinite.
    """

    sample: Sequence[float] | ArrayLike
    lower = -math.inf
    upper = math.inf

    def __post_init__(self) -> None:
        values = torch.as_tensor(self.sample).double().flatten()
        values = values[~values.isnan()].sort().values
        if not values.isfinite().all() or len(values) > SAMPLED or len(values.unique()) < 2:
            raise ValueError(
                f"Got a sample of {len(values)} values, {len(values.unique())} of them different: "
                f"give finite ones, two that differ at least, and {SAMPLED} at most, such as some "
                "of them or their quantiles."
            )
        object.__setattr__(self, "sample", tuple(values.tolist()))

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self._mapped(x, *self._knots)

    def inverse(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self._mapped(z, *reversed(self._knots))

    def log_slope(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        _, slope = self._piece(x.double(), *self._knots)
        return slope.log().to(x)

    def _mapped(self, x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
        # In double precision: values of a sample may lie closer than single precision tells.
        precise = x.double()
        place, slope = self._piece(precise, knots, values)
        at, start = knots.to(x.device)[place], values.to(x.device)[place]
        return (start + (precise - at) * slope).to(x)

    def _piece(self, x: Tensor, knots: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the knot that each number is measured from, and the slope of the map there."""
        knots, values = knots.to(x.device), values.to(x.device)
        outer = min(max(1, round(OUTER * len(knots))), len(knots) - 1)
        first = (values[outer] - values[0]) / (knots[outer] - knots[0])
        last = (values[-1] - values[-1 - outer]) / (knots[-1] - knots[-1 - outer])
        slopes = torch.cat((first[None], values.diff() / knots.diff(), last[None]))
        # The knot below; before the first it is the first one, with the slope of its tail.
        below = torch.searchsorted(knots, x.detach().contiguous(), right=True)
        return (below - 1).clamp_min(0), slopes[below]

    @cached_property
    def _knots(self) -> tuple[Tensor, Tensor]:
        """Different values, and their scores."""
        values = torch.tensor(self.sample, dtype=torch.float64)
        knots = values.unique()
        ranks = torch.searchsorted(values, knots) + torch.searchsorted(values, knots, right=True)
        return knots, torch.special.ndtri(ranks.double() / (2 * len(values)))


KINDS: dict[str, type[Transform]] = {
    "log": Log,
    "logit": Logit,
    "circular": Circular,
    "scores": NormalScores,
}


def described_transforms(transforms: Mapping[str, Transform]) -> dict[str, list[Any]]:
    """Return transforms as JSON has them: kind and settings by variable."""
    names = {kind: name for name, kind in KINDS.items()}
    return {
        variable: [names[type(transform)], *_plain(transform)]
        for variable, transform in transforms.items()
    }


def made_transforms(content: Mapping[str, list[Any]]) -> dict[str, Transform]:
    """Return the transforms of `described_transforms`.

    Raises:
        ValueError: If a kind is unknown, or its bounds do not fit it.
    """
    made = {}
    for variable, (kind, *bounds) in ((n, entry or [""]) for n, entry in content.items()):
        of = bounds[0] if kind == "scores" and bounds and isinstance(bounds[0], list) else bounds
        numbers = all(isinstance(number, int | float) for number in of)
        if kind not in KINDS or not numbers or len(bounds) != len(KINDS[kind].__annotations__):
            raise ValueError(
                f"The space has the transform {[kind, *bounds]} of {variable!r}: give log and a "
                "bound, logit and two, circular with a period and a first value, or scores with a "
                "sample."
            )
        made[variable] = NormalScores(of) if of is not bounds else KINDS[kind](*map(float, of))
    return made


def _plain(transform: Transform) -> list[Any]:
    """Return the settings of a transform as JSON has them."""
    found = [getattr(transform, field.name) for field in fields(transform)]  # type: ignore[arg-type]
    return [list(value) if isinstance(value, tuple) else value for value in found]


def _inside(x: Tensor, lower: float, upper: float) -> Tensor:
    """Return values that rounding has not put on a bound; NaN stays."""
    low, high = (torch.tensor(bound, dtype=x.dtype, device=x.device) for bound in (lower, upper))
    return x.clamp(torch.nextafter(low, high), torch.nextafter(high, low))
