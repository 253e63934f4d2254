"""Laws of a single number: the priors of parameters, with their bounds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.transforms import Log, Logit, Transform

__all__ = ["Distribution", "LogNormal", "Normal", "Uniform", "Value", "distribution_of"]

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Distribution(ABC):
    """A law of one number; a draw is a smooth, increasing function of a standard normal one."""

    @property
    @abstractmethod
    def transform(self) -> Transform | None:
        """The map onto the real numbers in which the number is estimated, None for itself."""

    @property
    @abstractmethod
    def spread(self) -> float:
        """Standard deviation of what `transform` makes of the number."""

    @abstractmethod
    def quantile(self, probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the quantiles of probabilities in (0, 1), in double precision."""

    @abstractmethod
    def log_density(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the log of the density, minus infinity beyond the bounds."""

    def sample(
        self, members: int, generator: rng.Seed = None, like: Tensor | None = None
    ) -> Float[Tensor, "members"]:
        """Draw numbers, strictly inside of the bounds; that of member i depends on (key, i) only.

        Arguments:
            members: How many.
            generator: Source of randomness.
            like: Tensor whose dtype and device they have (default: torch's default dtype, CPU).
        """
        like = torch.empty(0) if like is None else like
        white = rng.normal(members, (), generator, like=torch.empty(0, dtype=torch.float64))
        x = self.quantile(torch.special.ndtr(white)).to(like)
        # Rounding may have put it on a bound.
        return x if self.transform is None else self.transform.inverse(self.transform.forward(x))


@dataclass(frozen=True)
class Uniform(Distribution):
    """The uniform law on an interval; its numbers are estimated by their logit.

    Arguments:
        lower: Lower bound.
        upper: Upper bound.

    Raises:
        ValueError: If the bounds are not finite, or not in this order.
    """

    lower: float
    upper: float

    def __post_init__(self) -> None:
        Logit(self.lower, self.upper)

    @property
    def transform(self) -> Transform:
        return Logit(self.lower, self.upper)

    @property
    def spread(self) -> float:
        """The logit of a uniform number has the logistic law."""
        return math.pi / math.sqrt(3)

    def quantile(self, probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.lower + (self.upper - self.lower) * probability

    def log_density(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        inside = (x >= self.lower) & (x <= self.upper)
        height = -math.log(self.upper - self.lower)
        return torch.where(inside, height, -math.inf)


@dataclass(frozen=True)
class LogNormal(Distribution):
    r"""The law of a positive number whose log is normal, :math:`\ln x \sim N(\ln m, s^2)`.

    Arguments:
        median: m, positive.
        sigma: s, the standard deviation of the log, positive: near the relative spread of x.

    Raises:
        ValueError: If one is not positive and finite.
    """

    median: float
    sigma: float

    def __post_init__(self) -> None:
        _check_positive(self, "median", "sigma")

    @property
    def transform(self) -> Transform:
        return Log()

    @property
    def spread(self) -> float:
        return self.sigma

    def quantile(self, probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.median * (self.sigma * torch.special.ndtri(probability)).exp()

    def log_density(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        log = x.clamp_min(0).log()
        white = (log - math.log(self.median)) / self.sigma
        found = -0.5 * white.square() - HALF_LOG_2PI - math.log(self.sigma) - log
        return torch.where(x > 0, found, -math.inf)


@dataclass(frozen=True)
class Normal(Distribution):
    r"""The normal law, cut off at bounds if there are any.

    Without bounds the number is estimated as it is, with a lower one by its log, with two by its
    logit.

    Arguments:
        mean: Mean, before it is cut off.
        std: Standard deviation, before it is cut off; positive.
        lower: Lower bound.
        upper: Upper bound; it needs a lower one.

    Raises:
        ValueError: If the standard deviation is not positive, or the bounds do not fit.
    """

    mean: float
    std: float
    lower: float = -math.inf
    upper: float = math.inf

    def __post_init__(self) -> None:
        _check_positive(self, "std")
        if not math.isfinite(self.mean):
            raise ValueError(f"Got mean = {self.mean}: give a finite number.")
        if math.isfinite(self.upper) and not math.isfinite(self.lower):
            raise ValueError(
                f"Got upper = {self.upper} without a lower bound: give both, such as one that is "
                "never reached."
            )
        if not self.lower < self.upper or self._mass < 1e-6:
            raise ValueError(
                f"Got the bounds {self.lower} and {self.upper} for N({self.mean}, {self.std}²): "
                "give a smaller and a larger one with some of the law between them."
            )

    @property
    def transform(self) -> Transform | None:
        if not math.isfinite(self.lower):
            return None
        return Logit(self.lower, self.upper) if math.isfinite(self.upper) else Log(self.lower)

    @property
    def spread(self) -> float:
        """Without bounds `std`, else from a thousand quantiles."""
        if self.transform is None:
            return self.std
        middle = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        return float(self.transform.forward(self.quantile(middle)).std())

    def quantile(self, probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        inside = torch.special.ndtri(self._below + self._mass * probability)
        return self.mean + self.std * inside

    def log_density(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        white = (x - self.mean) / self.std
        found = -0.5 * white.square() - HALF_LOG_2PI - math.log(self.std * self._mass)
        return torch.where((x >= self.lower) & (x <= self.upper), found, -math.inf)

    @property
    def _below(self) -> float:
        return _ndtr((self.lower - self.mean) / self.std)

    @property
    def _mass(self) -> float:
        return _ndtr((self.upper - self.mean) / self.std) - self._below


@dataclass(frozen=True)
class Value(Distribution):
    """One number without uncertainty, for the truth of a simulation.

    Arguments:
        value: The number.

    Raises:
        ValueError: If it is not finite.
    """

    value: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"Got value = {self.value}: give a finite number.")

    @property
    def transform(self) -> None:
        return None

    @property
    def spread(self) -> float:
        return 0.0

    def quantile(self, probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.full_like(probability, self.value)

    def log_density(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.where(x == self.value, 0.0, -math.inf)


KINDS: dict[str, type[Distribution]] = {
    "uniform": Uniform,
    "lognormal": LogNormal,
    "normal": Normal,
}


def distribution_of(text: str) -> Distribution:
    """Return the law that a text stands for: ``uniform:20,35``, ``normal:28,3``, or a number.

    The numbers are the arguments of `Uniform` (lower, upper), `LogNormal` (median, sigma) or
    `Normal` (mean, std, and bounds if wanted), in their order.

    Raises:
        ValueError: If it is none.
    """
    kind, colon, rest = text.partition(":")
    try:
        numbers = [float(part) for part in (rest if colon else kind).split(",")]
        if not colon:
            (number,) = numbers
            return Value(number)
        return KINDS[kind.strip().lower().replace("-", "")](*numbers)
    except (KeyError, TypeError, ValueError) as error:
        why = f" ({error})" if isinstance(error, ValueError) and str(error)[:4] == "Got " else ""
        raise ValueError(
            f"Got the law {text!r}{why}: give uniform:LOWER,UPPER, lognormal:MEDIAN,SIGMA, "
            "normal:MEAN,STD or normal:MEAN,STD,LOWER,UPPER."
        ) from error


def _check_positive(law: Distribution, *names: str) -> None:
    for name in names:
        if not 0 < getattr(law, name) < math.inf:
            raise ValueError(f"Got {name} = {getattr(law, name)}: give a positive, finite number.")


def _ndtr(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))
