"""Laws of values that are no residuals: positive ones, censored ones, counts, yes or no."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from scorda.core.shapes import Tensor
from scorda.observations.laws import Law, check_positive, through

__all__ = ["Bernoulli", "Censored", "LogNormal", "NegativeBinomial", "Poisson"]

LOG2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class LogNormal(Law):
    r"""A positive value with a relative error: :math:`\log y \sim N(\log h, s^2)`.

    h is the median of y, in its unit; a prediction that is not positive has the density 0.
    """

    in_units = False
    log_concave = False

    def log_density(self, y: Tensor, h: Tensor, std: Tensor) -> Tensor:
        positive = torch.where(h > 0, h, 1.0)
        e = (y.log() - positive.log()) / std
        value = -0.5 * e.square() - std.log() - y.log() - 0.5 * LOG2PI
        return torch.where(h > 0, value, -torch.inf)

    def quantile(self, u: Tensor, h: Tensor, std: Tensor) -> Tensor:
        if not (h > 0).all():
            raise ValueError(
                f"Got a prediction of {float(h.min()):g} for LogNormal, which needs positive ones."
            )
        return h * (std * torch.special.ndtri(u)).exp()

    def residual(self, y: Tensor, h: Tensor, std: Tensor) -> Tensor:
        least = torch.finfo(h.dtype).tiny
        return (y.log() - h.clamp_min(least).log()) / std

    def check(self, y: Tensor) -> None:
        _check_values("LogNormal", y, y > 0, "positive")

    def text(self) -> str:
        return "lognormal"


@dataclass(frozen=True)
class Censored(Law):
    r"""A Gaussian error and a detection limit: a value at or below it says only that it is there.

    Arguments:
        limit: c. The probability of what lies below is :math:`\Phi((c - h) / s)`.
    """

    limit: float

    def log_density(self, y: Tensor, h: Tensor, std: Tensor) -> Tensor:
        value = -0.5 * ((y - h) / std).square() - std.log() - 0.5 * LOG2PI
        return torch.where(y > self.limit, value, torch.special.log_ndtr((self.limit - h) / std))

    def quantile(self, u: Tensor, h: Tensor, std: Tensor) -> Tensor:
        return (h + std * torch.special.ndtri(u)).clamp_min(self.limit)

    def residual(self, y: Tensor, h: Tensor, std: Tensor) -> Tensor:
        # Below the limit a prediction is as good as the value.
        return (y - h.clamp_min(self.limit)) / std

    def linearised(
        self,
        y: Tensor,
        h: Tensor,
        std: Tensor,
        var: Tensor | float = 0.0,
        spread: Tensor | float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Return those of the value with what is not known of h as a part of its error."""
        residual, total = super().linearised(y, h, (std.square() + var).sqrt())
        return residual, torch.maximum(total - var, std.square())

    def text(self) -> str:
        return f"censored:{self.limit:g}"


@dataclass(frozen=True)
class Poisson(Law):
    """A count whose mean is exp(h): the operator gives the logarithm of what is expected."""

    scaled = False

    def log_density(self, y: Tensor, h: Tensor, std: Tensor) -> Tensor:
        return y * h - h.exp() - torch.lgamma(y + 1)

    def quantile(self, u: Tensor, h: Tensor, std: Tensor) -> Tensor:
        from scipy.stats import poisson

        return through(u, lambda p: poisson.ppf(p, h.exp().numpy(force=True)))

    def residual(self, y: Tensor, h: Tensor, std: Tensor) -> Tensor:
        return (y - h.exp()) * (-0.5 * h).exp()

    def check(self, y: Tensor) -> None:
        _check_values("Poisson", y, (y >= 0) & (y == y.round()), "whole numbers from 0")

    def text(self) -> str:
        return "poisson"


@dataclass(frozen=True)
class NegativeBinomial(Law):
    r"""A count of mean :math:`m = e^h` and variance :math:`m + m^2 / r`, above that of `Poisson`.

    Arguments:
        dispersion: r, positive; a large one is Poisson.
    """

    dispersion: float

    scaled = False

    def __post_init__(self) -> None:
        check_positive("NegativeBinomial", "dispersion", self.dispersion)

    def log_density(self, y: Tensor, h: Tensor, std: Tensor) -> Tensor:
        r = torch.full_like(h, self.dispersion)
        norm = torch.lgamma(y + r) - torch.lgamma(r) - torch.lgamma(y + 1) + r * r.log()
        return norm + y * h - (y + r) * torch.logaddexp(r.log(), h)

    def quantile(self, u: Tensor, h: Tensor, std: Tensor) -> Tensor:
        from scipy.stats import nbinom

        r = self.dispersion
        share = r / (r + h.exp().numpy(force=True))
        return through(u, lambda p: nbinom.ppf(p, r, share))

    def residual(self, y: Tensor, h: Tensor, std: Tensor) -> Tensor:
        return (y - h.exp()) / (h.exp() + (2 * h).exp() / self.dispersion).sqrt()

    def check(self, y: Tensor) -> None:
        _check_values("NegativeBinomial", y, (y >= 0) & (y == y.round()), "whole numbers from 0")

    def text(self) -> str:
        return f"negative-binomial:{self.dispersion:g}"


@dataclass(frozen=True)
class Bernoulli(Law):
    r"""Yes (1) or no (0), with the probability :math:`1 / (1 + e^{-h})` of yes."""

    scaled = False

    def log_density(self, y: Tensor, h: Tensor, std: Tensor) -> Tensor:
        return y * h - torch.nn.functional.softplus(h)

    def quantile(self, u: Tensor, h: Tensor, std: Tensor) -> Tensor:
        return (u > torch.sigmoid(-h)).to(h)

    def residual(self, y: Tensor, h: Tensor, std: Tensor) -> Tensor:
        return (y - h.sigmoid()) / (h.sigmoid() * torch.sigmoid(-h)).sqrt()

    def check(self, y: Tensor) -> None:
        _check_values("Bernoulli", y, (y == 0) | (y == 1), "0 or 1")

    def text(self) -> str:
        return "bernoulli"


def _check_values(law: str, y: Tensor, good: Tensor, words: str) -> None:
    good = good | y.isnan()
    if not good.all():
        raise ValueError(
            f"Got the observed value {float(y[~good][0]):g} for {law}, whose values are {words}: "
            "correct it, leave it out (NaN), or give another law."
        )
