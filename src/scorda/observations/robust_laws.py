"""Laws with tails that are heavier than those of a Gaussian: Student, Laplace, Huber."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from scipy import special

from scorda.core.shapes import Float, Tensor
from scorda.observations.laws import Law, check_positive, through

__all__ = ["Huber", "Laplace", "Normal", "Robust", "StudentT"]

ROOT2 = math.sqrt(2)
# Least residual of a law whose weight has a pole there, and least share of its curvature.
NEAREST, LEAST = 1e-6, 1e-8


class Robust(Law):
    """A law of the residual e = (y - h) / std that is a Gaussian of varying variance."""

    robust = True

    @abstractmethod
    def loss(self, e: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return minus the log density of e."""

    @abstractmethod
    def weight(self, e: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""Return :math:`w(e) = \rho'(e) / e`, by which the error variance is divided."""

    @abstractmethod
    def unit_quantile(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return quantiles of e."""

    def log_density(self, y: Tensor, h: Tensor, std: Tensor) -> Tensor:
        return -self.loss((y - h) / std) - std.log()

    def quantile(self, u: Tensor, h: Tensor, std: Tensor) -> Tensor:
        return h + std * self.unit_quantile(u)

    def linearised(
        self,
        y: Tensor,
        h: Tensor,
        std: Tensor,
        var: Tensor | float = 0.0,
        spread: Tensor | float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        r"""Return y - h, and :math:`s^2 / w` with the weight of :math:`(y-h)/(s^2+V)^{1/2}`."""
        square = std.square()
        e = (y - h) / (square + var).sqrt()
        return y - h, square / self.weight(e)


@dataclass(frozen=True)
class Normal(Robust):
    """The Gaussian law, beside others; a model has it without being told."""

    def loss(self, e: Tensor) -> Tensor:
        return 0.5 * e.square() + 0.5 * math.log(2 * math.pi)

    def weight(self, e: Tensor) -> Tensor:
        return torch.ones_like(e)

    def unit_quantile(self, u: Tensor) -> Tensor:
        return torch.special.ndtri(u)

    def text(self) -> str:
        return "gaussian"


@dataclass(frozen=True)
class StudentT(Robust):
    r"""Student's t: far values are ignored, so that a posterior may have two modes.

    Weight :math:`(\nu + 1) / (\nu + e^2)`. `std` of the model is the scale; the standard deviation
    is :math:`(\nu / (\nu - 2))^{1/2}` times that for more than two degrees of freedom.

    Arguments:
        df: :math:`\nu`, degrees of freedom, positive.
    """

    df: float = 4.0

    log_concave = False

    def __post_init__(self) -> None:
        check_positive("StudentT", "df", self.df)

    def loss(self, e: Tensor) -> Tensor:
        nu = self.df
        norm = math.lgamma(nu / 2) - math.lgamma((nu + 1) / 2) + 0.5 * math.log(nu * math.pi)
        return 0.5 * (nu + 1) * torch.log1p(e.square() / nu) + norm

    def weight(self, e: Tensor) -> Tensor:
        return (self.df + 1) / (self.df + e.square())

    def unit_quantile(self, u: Tensor) -> Tensor:
        return through(u, lambda p: special.stdtrit(self.df, p))

    def text(self) -> str:
        return f"student:{self.df:g}"


@dataclass(frozen=True)
class Laplace(Robust):
    r"""The double exponential law; `std` of the model is its standard deviation.

    Its gradient is a step and its curvature is all in one point, where the mode often lies. So the
    Gaussian that stands for it has the mean of both over the spread v of h,

    .. math:: g = \frac{\sqrt 2}{s} \, \mathrm{erf} \frac{y - h}{\sqrt{2 v}}, \qquad
        F = \frac{2 \sqrt 2}{s \sqrt v} \, \varphi \left( \frac{y - h}{\sqrt v} \right) .

    With v that of the analysis, its fixed point is the Gaussian nearest to the posterior in the
    divergence KL(q | p), whose spread does not vanish where the mode meets the observation.

    Source of the fixed point: Opper & Archambeau (2009), Neural Comput. 21, 786-792.
    """

    def loss(self, e: Tensor) -> Tensor:
        return ROOT2 * e.abs() + 0.5 * math.log(2)

    def weight(self, e: Tensor) -> Tensor:
        return ROOT2 / e.abs().clamp_min(NEAREST)

    def linearised(
        self,
        y: Tensor,
        h: Tensor,
        std: Tensor,
        var: Tensor | float = 0.0,
        spread: Tensor | float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Return those of the mean density over N(h, V), `var` and `spread` being parts of V."""
        wide = (std.square() * NEAREST**2 + var + spread).sqrt()
        e = (y - h) / wide
        slope = ROOT2 / std * torch.erf(e / ROOT2)
        bell = (-0.5 * e.square()).exp() * math.sqrt(2 / math.pi)
        curvature = ROOT2 / std * bell / wide
        curvature = curvature.clamp_min(LEAST * 2 / std.square())
        return slope / curvature, 1 / curvature

    def unit_quantile(self, u: Tensor) -> Tensor:
        return -(u - 0.5).sign() * torch.log1p(-2 * (u - 0.5).abs()) / ROOT2

    def text(self) -> str:
        return "laplace"


@dataclass(frozen=True)
class Huber(Robust):
    r"""Gaussian core, exponential tails: the pull of a far value is bounded.

    Weight :math:`\min(1, k / |e|)`; `std` of the model is that of the core.

    Arguments:
        k: Residual at which the tails begin, positive. 1.345 loses 5 % of the efficiency where
            all is Gaussian.
    """

    k: float = 1.345

    def __post_init__(self) -> None:
        check_positive("Huber", "k", self.k)

    @property
    def _areas(self) -> tuple[float, float]:
        """Integral of exp(-rho) over the core, and over one tail."""
        core = math.sqrt(2 * math.pi) * math.erf(self.k / ROOT2)
        return core, math.exp(-0.5 * self.k**2) / self.k

    def loss(self, e: Tensor) -> Tensor:
        core, tail = self._areas
        inner = e.clamp(-self.k, self.k)
        return 0.5 * inner.square() + self.k * (e - inner).abs() + math.log(core + 2 * tail)

    def weight(self, e: Tensor) -> Tensor:
        return self.k / e.abs().clamp_min(self.k)

    def unit_quantile(self, u: Tensor) -> Tensor:
        core, tail = self._areas
        side, low = (u - 0.5).sign(), torch.minimum(u, 1 - u) * (core + 2 * tail)
        # In the tail exp(-k (|e| - k)) is the share of it beyond e.
        outer = self.k - (low / tail).clamp_max(1).log() / self.k
        inner = special.ndtr(-self.k) + (low - tail).clamp_min(0) / math.sqrt(2 * math.pi)
        return side * torch.where(low < tail, outer, -torch.special.ndtri(inner))

    def text(self) -> str:
        return f"huber:{self.k:g}"
