r"""Adaptive inflation: each component of the state learns its inflation from the innovations.

The variance of a component of the forecast is inflated by :math:`\lambda`, of which a law with
mode :math:`\lambda_b` and standard deviation :math:`\sigma` is carried from cycle to cycle. A
scalar observation with innovation D, error variance r and prior variance :math:`\sigma_p^2`
*without* inflation is expected to have

.. math:: E D^2 = \theta^2(\lambda) = (1 + g (\sqrt\lambda - 1))^2 \sigma_p^2 + r, \quad
    g = |\mathrm{corr}(x, h(x))| \, \rho(\mathrm{distance}),

and :math:`p(\lambda) N(D; 0, \theta^2(\lambda))` has, with the likelihood linear about
:math:`\lambda_b`, its mode at the root nearest :math:`\lambda_b` of

.. math:: (\lambda - \lambda_b)(\ell + \lambda - \lambda_b) = \sigma^2 \quad \mathrm{(Gaussian)},
    \qquad (1 - \lambda_b / \beta) \lambda^2 + (\ell - 2 \lambda_b) \lambda + \lambda_b^2
    - \ell \lambda_b = 0 \quad \mathrm{(inverse\ gamma)},

with :math:`\ell = L / L'` the likelihood over its derivative. Below they are written for
:math:`u = \lambda - \lambda_b` and :math:`1 / \ell`, which is 0 where there is nothing to learn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch

from scorda.assimilation.inflation import Inflation
from scorda.assimilation.kalman_algebra import white_innovation
from scorda.assimilation.local import Geometry
from scorda.core.errors import DegenerateEnsemble
from scorda.core.shapes import Float, Int, Tensor
from scorda.core.tapers import GaspariCohn
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem

__all__ = ["Adaptive", "Law", "learned"]

Law = Literal["inverse-gamma", "gaussian"]

# Inflations of the variance that are allowed, and growth of a standard deviation at once.
LEAST, MOST, GROWTH = 1.0, 100.0, 1.05
# Steps after which the shape of an inverse gamma is exact to rounding.
NEWTON = 5


@dataclass(frozen=True)
class Adaptive(Inflation):
    r"""Multiply forecast anomalies by :math:`\sqrt\lambda`, of each component, which it learns.

    In each cycle :math:`\lambda \leftarrow 1 + d (\lambda - 1)`, the forecast is inflated with it,
    and :math:`\lambda` is updated for the next cycle by one observation after another. Components
    without correlation to any observation, or beyond reach, return to 1.

    Deviations from the sources, whose filter is serial: innovations and correlations are those of
    the forecast before any observation, so that it suits every filter; correlated errors are made
    white; and where an innovation is so large that the nearest root lies on the other side,
    :math:`\lambda` still grows.

    Source: Anderson (2009), Tellus A 61, 72-83 ("gaussian"), and El Gharamti (2018), Mon. Wea.
    Rev. 146, 623-640 ("inverse-gamma"), who also takes :math:`\sigma_p^2 / N` from
    :math:`\theta^2`.

    Arguments:
        law: Law of :math:`\lambda`, "inverse-gamma" or "gaussian".
        localization: Taper of g by distance, as that of the filter; None: the correlation alone.
        start: :math:`\lambda` at the start, from 1 to 100.
        std: :math:`\sigma` at the start; it falls as :math:`\lambda` is learned, and may grow by
            5 % at once with the inverse gamma.
        least_std: Smallest :math:`\sigma`; where it is `std`, that stays.
        damping: d in [0, 1], towards 1 in each cycle.

    Raises:
        ValueError: If a setting is out of range, or, in a run, errors of observations are not
            Gaussian, or with localization not independent.
        DegenerateEnsemble: In a run, if there is one member.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.EnKF(inflation=sc.Adaptive()).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    gaussian: ClassVar[bool] = True

    law: Law = "inverse-gamma"
    localization: GaspariCohn | None = None
    start: float = 1.0
    std: float = 0.6
    least_std: float = 0.6
    damping: float = 0.9

    def __post_init__(self) -> None:
        if self.law not in get_args(Law):
            raise ValueError(f"Got law = {self.law!r}: choose 'inverse-gamma' or 'gaussian'.")
        if not LEAST <= self.start <= MOST:
            raise ValueError(f"Got start = {self.start}: give Adaptive a number from 1 to 100.")
        if not 0 < self.least_std <= self.std < float("inf"):
            raise ValueError(
                f"Got std = {self.std} and least_std = {self.least_std}: give Adaptive positive "
                "numbers, of which `std` is not the smaller."
            )
        if not 0 <= self.damping <= 1:
            raise ValueError(f"Got damping = {self.damping}: give a number between 0 and 1.")

    def begin(self, problem: Problem) -> Inflation:
        geometry = None
        if self.localization is not None and self.localization.reach < float("inf"):
            problem.space.check_distances("Adaptive inflation with localization")
            geometry = Geometry.of(problem, (self.localization,), 1)
        return _Adapting(self, geometry)


class _Adapting(Inflation):
    """Adaptive inflation in one run: mode and standard deviation of each component's law."""

    def __init__(self, settings: Adaptive, geometry: Geometry | None) -> None:
        self.settings, self.geometry = settings, geometry
        self._law: tuple[Tensor, Tensor] | None = None

    @property
    def carried(self) -> dict[str, Tensor]:
        return {} if self._law is None else dict(zip(("mode", "std"), self._law, strict=True))

    def restore(self, carried: Mapping[str, Tensor]) -> None:
        self._law = carried["mode"], carried["std"]

    def report(self) -> dict[str, Any]:
        """Return ``inflation``, the mean factor of the variance from here on."""
        assert self._law is not None
        return {"inflation": self._law[0].mean()}

    def before(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator,
    ) -> Float[Tensor, "ensemble ..."]:
        if len(forecast) < 2:
            raise DegenerateEnsemble(
                "Got 1 member: Adaptive learns from the spread of several; give more, or leave "
                "`inflation` out."
            )
        if self._law is None:
            like = torch.zeros_like(forecast[0], dtype=torch.float64)
            self._law = like + self.settings.start, like + self.settings.std
        mode, std = self._law
        mode = 1 + self.settings.damping * (mode - 1)
        self._law = self._updated(mode, std, forecast, y, model)
        return forecast + (mode.sqrt() - 1).to(forecast) * (forecast - forecast.mean(0))

    def _updated(
        self, mode: Tensor, std: Tensor, forecast: Tensor, y: Tensor, model: ObservationModel
    ) -> tuple[Tensor, Tensor]:
        """Return the law of each component after one observation after another."""
        Y, d = white_innovation(forecast, y, model)
        members, geometry = len(forecast), self.geometry
        points = mode.numel() if geometry is None else geometry.points
        # (points, rows, variables)
        states = forecast.reshape(members, -1, points).permute(2, 0, 1)
        laws = torch.stack((mode, std)).reshape(2, -1, points).permute(2, 0, 1).contiguous()
        seen = _Seen(Y.mT, d)
        each: Iterator[tuple[Tensor, Tensor]]
        if geometry is None:
            each = ((j, d.new_ones(1)) for j in torch.arange(len(d), device=d.device)[:, None])
            columns = laws.permute(1, 0, 2).reshape(1, 2, -1)
            x = states.permute(1, 0, 2).reshape(1, members, -1)
            laws = self._learned(columns, x, seen, each)
            return laws[0, 0].reshape(mode.shape), laws[0, 1].reshape(std.shape)
        if model.cov is not None:
            raise ValueError(
                "Adaptive inflation with localization needs independent errors of observation: "
                "give `std` instead of `cov`, or leave its localization out."
            )
        for local in geometry.local(model.operator.coordinates(geometry.space), members):
            local = local.to(d)
            each = zip(local.observations.mT, local.root_weights[0].square().mT, strict=True)
            local.write(
                self._learned(local.columns(laws), local.columns(states), seen, each), laws
            )
        mode, std = (part.reshape(mode.shape) for part in laws.permute(1, 2, 0))
        return mode, std

    def _learned(
        self,
        laws: Float[Tensor, "blocks 2 columns"],
        x: Float[Tensor, "blocks ensemble columns"],
        seen: _Seen,
        each: Iterator[tuple[Int[Tensor, "blocks"], Float[Tensor, "blocks"]]],
    ) -> Float[Tensor, "blocks 2 columns"]:
        """Return the laws of some blocks after the observations near them, in turn."""
        mode, std = laws.unbind(1)
        A = x.double() - x.double().mean(1, keepdim=True)
        unit = A.square().sum(1).sqrt()
        A = torch.where(unit[:, None] > 0, A / unit[:, None], 0.0)
        for near, rho in each:
            g = rho[:, None] * (seen.directions[near].unsqueeze(1) @ A)[:, 0].abs()
            mode, std = learned(
                self.settings.law,
                (mode, std),
                g.clamp_max(1),
                seen.variances[near, None],
                seen.squares[near, None],
                len(x[0]),
                self.settings.least_std,
            )
        return torch.stack((mode, std), 1)


class _Seen:
    """White observations as the laws see them, in double precision.

    Arguments:
        anomalies: Of the predicted observations.
        innovation: Of the observations.
    """

    def __init__(
        self, anomalies: Float[Tensor, "obs ensemble"], innovation: Float[Tensor, "obs"]
    ) -> None:
        total = anomalies.square().sum(1)
        self.variances, self.squares = total / (anomalies.shape[1] - 1), innovation.square()
        unit = total.sqrt()[:, None]
        self.directions = torch.where(unit > 0, anomalies / unit, 0.0)


def learned(
    law: Law,
    prior: tuple[Float[Tensor, "..."], Float[Tensor, "..."]],
    g: Float[Tensor, "..."],
    variance: Float[Tensor, "..."],
    square: Float[Tensor, "..."],
    members: int,
    least_std: float,
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    r"""Return mode and standard deviation of :math:`\lambda` after one observation with r = 1.

    Arguments:
        law: Law of :math:`\lambda`.
        prior: Mode and standard deviation before.
        g: Share of the inflation that the observation sees.
        variance: Prior variance of the observation without inflation.
        square: Square of its innovation.
        members: Number of members, N.
        least_std: Smallest standard deviation.
    """
    mode, std = prior
    less = 1 / members if law == "inverse-gamma" else 0.0

    def expected(at: Tensor) -> Tensor:
        return ((1 + g * (at.sqrt() - 1)).square() - less) * variance + 1

    def log_likelihood(at: Tensor) -> Tensor:
        return -0.5 * (expected(at).log() + square / expected(at))

    total = expected(mode)
    slope = variance * g * (1 - g + g * mode.sqrt()) / mode.sqrt()
    # L' / L.
    q = 0.5 * slope / total * (square / total - 1)
    if law == "gaussian":
        u = 2 * std.square() * q / (1 + (1 + 4 * std.square() * q.square()).sqrt())
        new = (mode + u).clamp(LEAST, MOST)
        if not (std > least_std).any():
            return new, std
        change = log_likelihood(new + std) - log_likelihood(new)
        change = change - ((new + std - mode).square() - (new - mode).square()) / (
            2 * std.square()
        )
        narrower = std * torch.where(change < 0, -0.5 / change, 1.0).sqrt()
        return new, _kept(narrower, std, least_std, 1.0)
    alpha = shape_of(mode, std)
    c = 1 / (alpha + 1)
    b = 1 - 2 * c * mode * q
    root = (b.square() + 4 * q.square() * (1 - c) * c * mode.square()).sqrt()
    # The root to which the likelihood rises: also the nearest one, but for a huge innovation.
    u = 2 * q * c * mode.square() / (b + root)
    new = (mode + u).clamp(LEAST, MOST)
    if not (std > least_std).any():
        return new, std
    change = log_likelihood(new + std) - log_likelihood(new)
    beta = mode * (alpha + 1)
    change = change - (alpha + 1) * (1 + std / new).log() - beta * (1 / (new + std) - 1 / new)
    s = std / new
    # Shape of the inverse gamma with this mode and this change of its log density.
    shape = change / (s / (1 + s) - s.log1p()) - 1
    wide = new * (shape + 1) / ((shape - 1) * (shape - 2).clamp_min(1e-12).sqrt())
    return new, _kept(torch.where(shape > 2, wide, std), std, least_std, GROWTH)


def _kept(new: Tensor, std: Tensor, least: float, growth: float) -> Tensor:
    """Return a standard deviation that is not below the least and does not grow beyond a factor.

    One that is the least stays.
    """
    bounded = torch.minimum(new, growth * std).clamp_min(least)
    return torch.where(std > least, bounded, std)


def shape_of(mode: Float[Tensor, "..."], std: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    r"""Return :math:`\alpha` of the inverse gamma with a mode and a standard deviation.

    .. math:: (\alpha - 1)^2 (\alpha - 2) = k (\alpha + 1)^2, \quad k = \lambda_b^2 / \sigma^2,

    whose left side less the right is convex from the root that is above 2 on, so that Newton's
    steps from above fall to it. A first bound from above follows from the equation itself, which
    is :math:`\alpha = 2 + k + 4 k \alpha / (\alpha - 1)^2`, and the bound 2 + k from below.
    """
    k = (mode / std).square()
    alpha = 2 + k + 4 * k * (2 + k) / (1 + k).square()
    for _ in range(NEWTON):
        value = (alpha - 1).square() * (alpha - 2) - k * (alpha + 1).square()
        alpha = alpha - value / ((alpha - 1) * (3 * alpha - 5) - 2 * k * (alpha + 1))
    return alpha
