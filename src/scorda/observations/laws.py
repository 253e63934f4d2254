r"""Laws of an observed value y given what the operator predicts, h = h(x), beside the Gaussian.

Given the state the values are independent, each with its own h and, where the law has one, its own
standard deviation or scale s. With :math:`e = (y - h) / s`,

==================  ===================================================  =====================
law                 minus log density, up to a constant                    s
==================  ===================================================  =====================
`StudentT`          :math:`\frac{\nu+1}{2} \log(1 + e^2 / \nu)`            scale
`Laplace`           :math:`\sqrt 2 \, |e|`                                 standard deviation
`Huber`             :math:`e^2/2`, beyond k: :math:`k |e| - k^2/2`         of the core
`LogNormal`         :math:`(\log y - \log h)^2 / 2 s^2`                    std of log y
`Censored`          Gaussian; at the limit :math:`-\log \Phi((c - h)/s)`   standard deviation
`Poisson`           :math:`e^h - y h`                                      none
`NegativeBinomial`  :math:`(y + r) \log(r + e^h) - y h`                    none
`Bernoulli`         :math:`\log(1 + e^h) - y h`                            none
`Density`           a function of the user                                 none
==================  ===================================================  =====================

The first three are ``Robust``: Gaussians whose variance is :math:`s^2 / w(e)`, with the weight
:math:`w(e) = \rho'(e) / e`. Any law is near a state like the Gaussian with its gradient and its
curvature there (`Law.linearised`); for the counts this is Fisher scoring.

Sources: Huber (1964), Ann. Math. Stat. 35, 73-101; McCullagh & Nelder (1989), Generalized Linear
Models, chapter 2.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scorda.core import rng
from scorda.core.shapes import Bool, Float, Int, Tensor

__all__ = ["Density", "Law", "Several", "as_law", "check_positive", "joined", "through"]

# Least curvature, which keeps numbers finite.
LEAST = 1e-30


class Law(ABC):
    """The law of observed values, independent given what is predicted of each.

    A law of your own derives from it and writes `log_density`, with operations of torch for the
    methods that need a gradient; and `quantile`, to be drawn from. `scaled` says whether the model
    has a `std`, `in_units` whether that is in the unit of the values, `robust` whether the law is
    a Gaussian of varying variance (``Robust``), and `log_concave` whether its log density is
    concave in h, so that a Gaussian prior leaves one mode.
    """

    scaled: bool = True
    in_units: bool = True
    robust: bool = False
    log_concave: bool = True

    @abstractmethod
    def log_density(
        self, y: Float[Tensor, "..."], h: Float[Tensor, "..."], std: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Return the log density of each value.

        Arguments:
            y: Observed values.
            h: What is predicted of them.
            std: Their standard deviations or scales; 1 where the law has none.
        """

    def quantile(
        self, u: Float[Tensor, "..."], h: Float[Tensor, "..."], std: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Return the values below which the law has the probabilities u, in (0, 1).

        Raises:
            TypeError: If the law cannot be drawn from.
        """
        raise TypeError(
            f"{self} has no `quantile`, so it cannot be drawn from: give one, or values."
        )

    def residual(
        self, y: Float[Tensor, "..."], h: Float[Tensor, "..."], std: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Return residuals in units of the law, for diagnostics: (y - h) / std by default."""
        return (y - h) / std

    def check(self, y: Float[Tensor, "..."]) -> None:  # noqa: B027 (most take any value)
        """Check that values can be of the law; those that are NaN are absent.

        Raises:
            ValueError: If one cannot.
        """

    def only(self, kept: Bool[Tensor, "obs"]) -> Law:
        """Return the law of some entries of a flattened observation."""
        return self

    def with_std(self, size: int) -> Bool[Tensor, "obs"]:
        """Return which entries of a flattened observation of that size have a `std`."""
        return torch.full((size,), self.scaled)

    def draw(
        self, h: Float[Tensor, "rows ..."], std: Float[Tensor, "..."], generator: rng.Seed = None
    ) -> Float[Tensor, "rows ..."]:
        """Draw values, one for each prediction; row i depends on (key, i) only."""
        u = rng.uniform(len(h), tuple(h.shape[1:]), generator, like=h.double())
        u = u.clamp(2.0**-54, 1 - 2.0**-53)
        return self.quantile(u, h.double(), std.double()).to(h)

    def linearised(
        self,
        y: Float[Tensor, "..."],
        h: Float[Tensor, "..."],
        std: Float[Tensor, "..."],
        var: Float[Tensor, "..."] | float = 0.0,
        spread: Float[Tensor, "..."] | float = 0.0,
    ) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        r"""Return residual and error variance of the Gaussian that stands for the law at h.

        .. math:: \tilde y - h = g / F, \quad R = 1 / F, \quad
            g = \partial_h \log p(y \mid h), \quad F = -\partial_h^2 \log p(y \mid h)

        where F is positive, else with :math:`F = g^2`. A Gaussian analysis with it, repeated at
        its own mean, ends at the mode.

        Arguments:
            y: Observed values.
            h: What is predicted of them.
            std: As in `log_density`.
            var: Variance of what is not known of h, beside which robust laws judge a residual.
            spread: Variance of h in the analysis, over which `Laplace` takes a mean.
        """
        with torch.enable_grad():
            h = h.detach().double().requires_grad_()
            log_density = self.log_density(y.double(), h, std.double()).sum()
            (slope,) = torch.autograd.grad(log_density, h, create_graph=True)
            bent = torch.zeros_like(h)
            if slope.requires_grad:
                (bent,) = torch.autograd.grad(slope.sum(), h)
        slope = slope.detach()
        curvature = torch.where(bent < 0, -bent, slope.square()).clamp_min(LEAST)
        return slope / curvature, 1 / curvature

    def text(self) -> str:
        """Return the law as the command line and tables write it, such as ``student:4``."""
        return f"own:{type(self).__name__}"

    def texts(self, size: int) -> list[str]:
        """Return the text of each entry of a flattened observation of that size."""
        return [self.text()] * size


@dataclass(frozen=True)
class Density(Law):
    """A log density of your own, value by value.

    Arguments:
        function: ``function(y, h)`` returns the log density of each value, with operations of
            torch; y broadcasts to h, ``(ensemble, obs)``.
        draws: ``draws(u, h)`` returns the quantiles of the law at u, to draw from it; None: it
            cannot be drawn from.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    draws: Callable[[Tensor, Tensor], Tensor] | None = None

    scaled = False

    def log_density(self, y: Tensor, h: Tensor, std: Tensor) -> Tensor:
        value = self.function(y, h)
        if value.shape != h.shape:
            raise ValueError(
                f"Got log densities of shape {tuple(value.shape)} for predictions of shape "
                f"{tuple(h.shape)}: `log_density(y, h)` returns one number per value."
            )
        return value

    def quantile(self, u: Tensor, h: Tensor, std: Tensor) -> Tensor:
        return super().quantile(u, h, std) if self.draws is None else self.draws(u, h)


@dataclass(frozen=True, eq=False)
class Several(Law):
    """Laws of the entries of a flattened observation.

    Arguments:
        laws: The laws.
        which: Index of the law of each entry.
    """

    laws: tuple[Law, ...]
    which: Int[Tensor, "obs"]

    @property
    def robust(self) -> bool:  # type: ignore[override]
        return all(law.robust for law in self.laws)

    @property
    def log_concave(self) -> bool:  # type: ignore[override]
        return all(law.log_concave for law in self.laws)

    def only(self, kept: Bool[Tensor, "obs"]) -> Law:
        return Several(self.laws, self.which[kept.to(self.which.device)])

    def with_std(self, size: int) -> Bool[Tensor, "obs"]:
        return torch.tensor([law.scaled for law in self.laws])[self.which]

    def texts(self, size: int) -> list[str]:
        return [self.laws[i].text() for i in self.which.tolist()]

    def check(self, y: Tensor) -> None:
        for law, of in self._parts():
            law.check(y[..., of])

    def log_density(self, y: Tensor, h: Tensor, std: Tensor) -> Tensor:
        return self._each("log_density", h, y, h, std)

    def quantile(self, u: Tensor, h: Tensor, std: Tensor) -> Tensor:
        return self._each("quantile", h, u, h, std)

    def residual(self, y: Tensor, h: Tensor, std: Tensor) -> Tensor:
        return self._each("residual", h, y, h, std)

    def linearised(
        self,
        y: Tensor,
        h: Tensor,
        std: Tensor,
        var: Tensor | float = 0.0,
        spread: Tensor | float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        made = [torch.empty_like(h, dtype=torch.float64) for _ in range(2)]
        given = [torch.as_tensor(part).to(h).expand_as(h) for part in (y, h, std, var, spread)]
        for law, of in self._parts():
            for whole, part in zip(
                made, law.linearised(*(g[..., of] for g in given)), strict=True
            ):
                whole[..., of] = part.to(whole)
        return made[0], made[1]

    def _parts(self) -> list[tuple[Law, Tensor]]:
        """Return each law and the entries that are of it."""
        return [(law, (self.which == i).nonzero()[:, 0]) for i, law in enumerate(self.laws)]

    def _each(self, name: str, like: Tensor, *given: Tensor) -> Tensor:
        """Return what a function of each law makes of its entries."""
        given = tuple(part.expand_as(like) for part in given)
        values = [getattr(law, name)(*(g[..., of] for g in given)) for law, of in self._parts()]
        order = torch.cat([of for _, of in self._parts()]).argsort()
        return torch.cat(values, -1)[..., order]


def joined(laws: Sequence[tuple[Law, int]]) -> Law:
    """Return the law of observations that follow one another, each with its number of entries."""
    alone = laws[0][0]
    if not isinstance(alone, Several) and all(law == alone for law, _ in laws):
        return alone
    flat, which = list[Law](), list[Tensor]()
    for law, size in laws:
        parts = law.laws if isinstance(law, Several) else (law,)
        own = law.which if isinstance(law, Several) else torch.zeros(size, dtype=torch.long)
        which.append(own + len(flat))
        flat += parts
    return Several(tuple(flat), torch.cat(which))


def as_law(law: Any) -> Law:
    """Return a law; a function of (y, h) becomes a `Density`.

    Raises:
        TypeError: If it is neither.
    """
    if isinstance(law, Law):
        return law
    if callable(law) and not isinstance(law, type):
        return Density(law)
    raise TypeError(
        f"Got law = {law!r}: give a law such as StudentT(4), or a function log_density(y, h)."
    )


def through(u: Tensor, function: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """Return a function of NumPy of a tensor, as a tensor like it."""
    return torch.as_tensor(function(u.numpy(force=True))).to(u)


def check_positive(law: str, name: str, value: float) -> None:
    """Check the number of a law.

    Raises:
        ValueError: If it is not positive and finite.
    """
    if not 0 < value < math.inf:
        raise ValueError(f"Got {law} with {name} = {value}: give a positive number.")
