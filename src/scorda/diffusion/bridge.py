r"""Samplers of the bridge: from a measurement back to the data, without guidance.

The measurement is the end of a measurement-aware process, so the posterior is nothing but its
time reversal started there (`methods.masf.bridge` says why no likelihood score is added). A
sampler carries the information :math:`b = \kappa u` in :math:`u = x_t / A = x_0 + \kappa^{-1/2}
\varepsilon`. As the signal-to-noise ratio r grows from 0 it obeys

.. math:: \mathrm d b = E[x_0 \mid b] \, \mathrm d \kappa + (\mathrm d \kappa)^{1/2} \varepsilon,
    \qquad b(0) = V^T H^T R^{-1} y, \qquad \kappa(r) = \lambda + g r ,

with g = lambda + 1 / P, P a prior variance per mode. This is the reverse SDE without its
singularities: a mode that is not observed starts at b = kappa = 0, which is no information,
instead of a draw from a wide Gaussian, and an eigenvalue may be as small or as large as it likes.
The start is exact for every prior.

The same law has a deterministic form, the bridge ODE. :math:`v = (b - b(0)) / (g r)` is one more
noisy copy of x_0, with the noise level :math:`\nu = (g r)^{-1/2}`, and

.. math:: \frac{\mathrm d v}{\mathrm d \log \nu} = v - D, \qquad D = E[x_0 \mid b]

is the probability-flow equation of the posterior. With :math:`\mu = D(r = 0)`, the posterior mean,
and :math:`v = \mu + w \, ((1 + r) / r)^{1/2}` it loses its linear part,

.. math:: \frac{\mathrm d w}{\mathrm d \log r} = \frac12 \left( \frac{r}{1 + r} \right)^{1/2}
    \left[ D - \mu - \frac{r}{1 + r} (v - \mu) \right],

whose right-hand side is 0 where the posterior is Gaussian with variances 1 / g, and falls to 0 at
both ends for every other. It starts from one standard normal number per mode, w = 1 / g^{1/2},
and ends with x_0 = mu + w.

These latents may come from the members of the forecast: encoded by the same equation with the
observation left out, they come back as the analysis that the members move to. For a Gaussian the
two together are an affine map of the members, which has exactly the mean and covariance of the
posterior of the Gaussian with the members' own; where its covariance P is diagonal in the modes
it is :math:`x \to m^+ + P_+^{1/2} P^{-1/2} (x - m)`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.denoisers import Denoiser

__all__ = ["BridgeODE", "BridgeSDE", "BridgeSampler", "EnsembleDenoiser"]


@runtime_checkable
class EnsembleDenoiser(Denoiser, Protocol):
    """The denoiser of a prior as a bridge needs it: in the modes, at any level per mode."""

    @property
    def var(self) -> Float[Tensor, "..."]:
        """Variance of each mode, positive, shape ``(*shape)``: it sets the rate of the mode."""
        ...

    def sample_members(
        self, members: Float[Tensor, "ensemble ..."], noise: Callable[[], Tensor]
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the members as samples of this prior: a kernel density adds its own noise."""
        ...

    def map_latents(
        self, latents: Float[Tensor, "ensemble ..."], rate: Float[Tensor, "..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the latents of the members, mapped to another rate.

        The latents are the standard normal numbers that the members are encoded to. Where a prior
        has not full rank they lie in the span of :math:`P^{-1/2}` times its directions, and those
        of the posterior in that of :math:`g^{1/2}` times them: they are turned there. Otherwise
        they stay as they are.

        Arguments:
            latents: Latents at the rate of the prior itself, 1 / var.
            rate: g of the posterior.
        """
        ...


@dataclass(frozen=True)
class BridgeSampler(ABC):
    """A walk from the measurement, at r = 0, to the data.

    Arguments:
        noise_levels: Number of steps from one noise level to the next.
        min_snr: Signal-to-noise ratio r after the start; steps are uniform in log r from there.
        max_snr: Largest r, in units of the precision of a mode by itself.
        order: Order of the steps; `orders` holds those that the sampler has.
    """

    noise_levels: int = 20
    min_snr: float = 1e-3
    max_snr: float = 1e4
    order: int = 2

    orders = (1, 2)

    def __post_init__(self) -> None:
        if self.noise_levels < 2 or not 0 < self.min_snr < self.max_snr:
            raise ValueError(
                f"Got noise_levels = {self.noise_levels}, min_snr = {self.min_snr}, max_snr = "
                f"{self.max_snr}: give noise_levels >= 2 and 0 < min_snr < max_snr."
            )
        if self.order not in self.orders:
            raise ValueError(f"Got order = {self.order}: choose one of {self.orders}.")

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Evaluations of the denoiser per member."""

    @abstractmethod
    def sample(
        self,
        denoiser: EnsembleDenoiser,
        precision: Float[Tensor, "..."],
        information: Float[Tensor, "..."],
        forecast: Float[Tensor, "ensemble ..."],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "ensemble ..."]:
        r"""Draw one sample of the posterior for each member of the forecast.

        Arguments:
            denoiser: Denoiser of the prior, in the modes.
            precision: lambda, shape ``(*shape)``.
            information: :math:`V^T H^T R^{-1} y`, same shape.
            forecast: Members in the modes; their number, and the start of a coupled sampler.
            generator: Source of randomness, advanced by one key.
        """

    def _levels(self, points: int) -> list[float]:
        low, high = math.log(self.min_snr), math.log(self.max_snr)
        return [math.exp(low + (high - low) * i / (points - 1)) for i in range(points)]


@dataclass(frozen=True)
class BridgeSDE(BridgeSampler):
    r"""The reverse SDE of the bridge.

    .. math:: b' = b + \Delta D + \left[ \Delta
        \left( \frac{1 + r'}{1 + r} \right)^{\mathrm{upper}} \right]^{1/2} \varepsilon, \qquad
        \Delta = \kappa' - \kappa, \quad D = E[x_0 \mid b]

    The conditional mean is exact for every prior. The conditional variance should be
    :math:`\Delta + \Delta^2 \mathrm{Cov}(x_0 \mid b)`: the lower bound (upper = 0) leaves the
    covariance out, the upper bound (upper = 1) has :math:`1 / (g (1 + r))` in its place, that of
    a Gaussian prior whose modes are independent, for which it is exact; correlated modes know
    more of each other. Order 2 corrects for that along the noise drawn, in a second evaluation at
    b', :math:`b'' = b' + \tfrac12 \Delta \, [D' - D - (b' - b - \Delta D) / (g (1 + r'))]`.

    The walk ends with the mean of u and D, whose variance is that of the posterior to second order
    in 1 / r; its mean is off by that of the posterior less that of the prior over r.

    Arguments:
        upper: Which variance, from 0 to 1.
    """

    min_snr: float = 5e-2
    max_snr: float = 1e3
    upper: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.upper <= 1:
            raise ValueError(f"Got upper = {self.upper}: it must be between 0 and 1.")

    @property
    def evaluations(self) -> int:
        return self.order * (self.noise_levels - 1) + 1

    def sample(
        self,
        denoiser: EnsembleDenoiser,
        precision: Float[Tensor, "..."],
        information: Float[Tensor, "..."],
        forecast: Float[Tensor, "ensemble ..."],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "ensemble ..."]:
        noise = _stream(forecast, generator)
        rate = _rate(precision, denoiser)
        levels = [0.0, *self._levels(self.noise_levels - 1)]
        b = information.expand(forecast.shape)
        u, D = _denoised(denoiser, precision, b)
        for r, later in pairwise(levels):
            delta = rate * (later - r)
            moved = b + delta * D
            noisy = moved + (delta * ((1 + later) / (1 + r)) ** self.upper).sqrt() * noise()
            b = noisy
            if self.order == 2:
                _, ahead = _denoised(denoiser, precision + later * rate, noisy)
                b = noisy + 0.5 * delta * (ahead - D - (noisy - moved) / (rate * (1 + later)))
            u, D = _denoised(denoiser, precision + later * rate, b)
        return 0.5 * (u + D)


@dataclass(frozen=True)
class BridgeODE(BridgeSampler):
    r"""The bridge ODE by a Runge-Kutta method in log r: deterministic given its start.

    Arguments:
        order: 2: Heun's method, two evaluations per step; 4: the classical one with four.
        coupled: Whether the start comes from the members of the forecast, encoded under the prior
            in as many steps again: the analysis is a transport of the members then, and adds no
            sampling error. Otherwise it comes from the generator.
    """

    noise_levels: int = 9
    order: int = 4
    coupled: bool = True

    orders = (2, 4)

    @property
    def evaluations(self) -> int:
        once = self.order * self.noise_levels + 1
        return 2 * once if self.coupled else once

    def sample(
        self,
        denoiser: EnsembleDenoiser,
        precision: Float[Tensor, "..."],
        information: Float[Tensor, "..."],
        forecast: Float[Tensor, "ensemble ..."],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "ensemble ..."]:
        noise = _stream(forecast, generator)
        posterior = _Flow(denoiser, precision, information)
        if not self.coupled:
            return posterior.mean + self._solve(posterior, posterior.start(noise()), False)
        prior = _Flow(denoiser, torch.zeros_like(precision), torch.zeros_like(information))
        w = denoiser.sample_members(forecast, noise) - prior.mean
        latents = self._solve(prior, w, True) * prior.rate.sqrt()
        latents = denoiser.map_latents(latents, posterior.rate)
        return posterior.mean + self._solve(posterior, posterior.start(latents), False)

    def _solve(self, flow: _Flow, w: Tensor, backwards: bool) -> Tensor:
        """Integrate from low to high r, or backwards."""
        ends = (math.log(self.min_snr), math.log(self.max_snr))
        s, end = reversed(ends) if backwards else ends
        h = (end - s) / self.noise_levels
        for _ in range(self.noise_levels):
            k1 = flow.slope(w, s)
            if self.order == 2:
                k2 = flow.slope(w + h * k1, s + h)
                w = w + h / 2 * (k1 + k2)
            else:
                k2 = flow.slope(w + h / 2 * k1, s + h / 2)
                k3 = flow.slope(w + h / 2 * k2, s + h / 2)
                k4 = flow.slope(w + h * k3, s + h)
                w = w + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            s = s + h
        return w


class _Flow:
    """The right-hand side of the bridge ODE."""

    def __init__(self, denoiser: EnsembleDenoiser, precision: Tensor, information: Tensor) -> None:
        self.denoiser, self.information = denoiser, information
        self.precision, self.rate = precision, _rate(precision, denoiser)
        _, self.mean = _denoised(denoiser, precision, information[None])

    def start(self, latents: Tensor) -> Tensor:
        """Return the w of standard normal latents."""
        return latents / self.rate.sqrt()

    def slope(self, w: Tensor, log_r: float) -> Tensor:
        r = math.exp(log_r)
        displaced = w * math.sqrt((1 + r) / r)
        b = self.information + r * self.rate * (self.mean + displaced)
        _, D = _denoised(self.denoiser, self.precision + r * self.rate, b)
        rest = D - self.mean - r / (1 + r) * displaced
        return 0.5 * math.sqrt(r / (1 + r)) * rest


def _denoised(denoiser: EnsembleDenoiser, kappa: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The noisy copy u of precision kappa that carries the information b, denoised too."""
    u = torch.where(kappa > 0, b / kappa, 0.0)
    return u, denoiser.denoise(u, kappa.rsqrt()[None])


def _rate(precision: Tensor, denoiser: EnsembleDenoiser) -> Tensor:
    """g, by which the precision grows with r."""
    return precision + denoiser.var.to(precision).reciprocal()


def _stream(forecast: Tensor, generator: torch.Generator | None) -> rng.Stream:
    shape = tuple(forecast.shape[1:])
    return rng.Stream(rng.key(generator), 0, len(forecast), shape, forecast)
