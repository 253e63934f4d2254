r"""The Gaussian-mixture filter, between the particle filter and the ensemble Kalman filter.

The forecast is a mixture of Gaussians on the members. The factor :math:`\beta` of their covariance
runs from the particle filter (0) to the ensemble Kalman filter (1), and the posterior is known in
closed form (`posterior`). The members of the analysis have exactly its mean, and its covariance
with the sampling error of its weights, so that no further sampling error of these two is made in
any cycle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch

from scorda.assimilation.filter import PreparedFilter, Run
from scorda.assimilation.inflation import Inflation, check_inflation
from scorda.assimilation.kalman_algebra import (
    white_innovation,
)
from scorda.assimilation.local import Geometry, Local
from scorda.assimilation.localization import (
    Localization,
    Scene,
    local_weights,
    needs_positions,
)
from scorda.assimilation.memory import pairs_near
from scorda.core import rng
from scorda.core.gaussian import component_std, psd_root, symmetric_map
from scorda.core.shapes import Float, Int, Tensor
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.methods.gaussian_mixture.posterior import MixturePosterior, Projection, adaptive_factor
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem
from scorda.priors.mixture import check_mixture

__all__ = ["GaussianMixtureFilter"]

# c of the adaptive factor, found by trial on Lorenz-63 and Lorenz-96.
ADAPTIVE = 0.4


@dataclass(frozen=True)
class GaussianMixtureFilter(PreparedFilter):
    r"""Posterior of a Gaussian mixture on the forecast, by a transform that keeps two moments.

    .. math:: p(x \mid y) = (1 - w_0) \sum_i w_i \, N(x; m_i, \beta P^a) + w_0 \, N(x; m^a, P^a),
        \quad w_i \propto N(y; H c_i, H B H^T + R), \quad m_i = c_i + K (y - H c_i)

    with :math:`m^a, P^a` mean and covariance of the Kalman filter's analysis and :math:`w_0` the
    weight left to the Gaussian of the ensemble, which has the weight :math:`\epsilon` in the
    prior: where no kernel reaches the observation it takes over. Without localization, members
    are drawn systematically in proportion to the weights. A member that is drawn keeps its place,
    moves to :math:`m_i`, and is spread by its kernel. Then the symmetric map between the two
    covariances makes mean and covariance of the analysis exactly those of the mixture, but for a
    factor of the covariance,

    .. math:: f = \frac{1 + \sum_i w_i^2}{1 + 1 / N} .

    It stands for the sampling error of the weighted mean, which as many members of equal weight
    would not make, and covers a part of it; without it few effective members are overconfident,
    and the filter may lose the truth. For equal weights it is 1. With :math:`\beta = 1` and
    without `rotation` this is the `ETKF` (for a linear h).

    With localization each grid point has its own mixture, from the observations near it and with
    their errors localized as in the `LETKF`. Its mean and covariance are again exact (but for f,
    of each point), but its shape is not drawn from: the analysis is the linear transform of the
    members with the symmetric root, which changes little from point to point. With
    :math:`\beta = 1` this is the `LETKF`. It takes a matrix ``(ensemble, ensemble)`` per point,
    in batches. With many observations near a point few members keep weight there. A
    `weight_localization` with a shorter reach lets the weights see the nearest observations
    alone, while kernels and centres still move by all: it is not exact for any law, as
    localization is not. Without localization nothing is larger than the ensemble or a square of
    its members or components, whichever are fewer.

    kernel_factor="adaptive" takes in each cycle, and at each point where localized, the solution
    of

    .. math:: \beta \, \mathrm{ESS}(\beta) = c \, r, \quad
        \mathrm{ESS} = 1 / \sum_i w_i^2, \quad r = \min(N - 1, \text{components})

    (r = N - 1 where localized: a local analysis is a map of all members). The weight of the
    Gaussian counts as one of all members alike. A covariance of r dimensions from ESS members has
    a relative error of the order r / ESS: the kernels, which have :math:`\beta` of the Kalman
    filter's, are as wide as what the weights leave unknown. Where the observation leaves few
    members this goes to the ensemble Kalman filter, and with many to the particle filter. It sees
    the observation by the weights alone: no truth, no past cycle. :math:`\beta` is at least
    c r / N. The form is derived here; c = 0.4 was found by trial on Lorenz-63 and Lorenz-96.

    Exact for a linear h and the mixture as prior, but for the shape of the draw; otherwise the
    kernels see the regression of h on the members, as in the EnKF. Derived here.

    Arguments:
        kernel_factor: :math:`\beta` in (0, 1], or "adaptive".
        gaussian_weight: :math:`\epsilon` in [0, 1), weight of the Gaussian in the prior.
        localization: Localization of the analysis by distance, or another, or None.
        weight_localization: Localization of what the weights see, or None for that of the
            analysis.
        rotation: Whether kernels are spread by new random numbers (with as many members as
            dimensions, or fewer: by a random rotation); else by the members' own anomalies. It
            prevents the outliers that deterministic filters grow. Not used with localization.
        inflation: Factor of the analysis anomalies, at least 1, or an inflation (`RTPS`, ...).

    Raises:
        ValueError: If a setting is out of range, or the forecast has no spread.

    Example:
        With `problem` as in `twin_experiment`:

        >>> method = sc.GaussianMixtureFilter(kernel_factor=0.5)
        >>> analysis = method.assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    kernel_factor: float | Literal["adaptive"] = "adaptive"
    gaussian_weight: float = 0.1
    localization: GaspariCohn | Localization | None = None
    weight_localization: GaspariCohn | None = None
    rotation: bool = True
    _: KW_ONLY
    inflation: float | Inflation = 1.0

    errors = "linearised_errors"
    exact = "linear-Gaussian, N → ∞ (any problem: kernel_factor, gaussian_weight → 0)"

    def __post_init__(self) -> None:
        check_inflation(self.inflation)
        factor = 1.0 if self.kernel_factor == "adaptive" else self.kernel_factor
        check_mixture(self, factor)
        if isinstance(self.localization, Localization) and self.weight_localization is not None:
            raise ValueError(
                f"Got localization = {self.localization!r} with a weight_localization: that is "
                "for GaspariCohn alone; leave it out."
            )
        if self.localization is not None:
            positions = ("positions",) if needs_positions(self.localization) else ()
            needs = ("simulator", *positions, "independent_errors")
            object.__setattr__(self, "needs", needs)

    def memory(self, problem: Problem, members: int) -> int:
        needed = super().memory(problem, members)
        if not isinstance(self.localization, GaspariCohn):
            return needed
        lists = 8 if self.weight_localization is None else 12
        return needed + lists * pairs_near(problem, self.localization)

    def begin(
        self, problem: Problem | None, weights: Float[Tensor, "ensemble"] | None = None
    ) -> Run:
        if self.localization is None:
            return _Whole(self)
        if problem is None:
            raise ValueError(
                "GaussianMixtureFilter with localization needs the geometry of the space: call "
                "`begin(problem)` first."
            )
        if isinstance(self.localization, Localization):
            return _Local(self, problem.space)
        tapers = self.localization, self.weight_localization or self.localization
        geometry = Geometry.of(problem, tuple(dict.fromkeys(tapers)), 1)
        return _Local(self, problem.space, geometry)

    def posterior(self, prior: Projection, rank: int) -> MixturePosterior:
        """Return the conditioned mixture, with the factor that a covariance of the rank needs."""
        if isinstance(self.kernel_factor, str):
            factor = adaptive_factor(prior, self.gaussian_weight, ADAPTIVE * rank)
        else:
            factor = torch.tensor(self.kernel_factor, dtype=torch.float64).to(prior.values)
        return MixturePosterior(prior, factor, self.gaussian_weight)


@dataclass(frozen=True)
class _Whole(Run):
    """Analyses without localization: draws of the mixture."""

    settings: GaussianMixtureFilter

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``innovation``, ``chi2``, ``kernel_factor`` and ``ess``."""
        white = white_innovation(forecast, y, model)
        prior = Projection.of(*white)
        rank = min(len(forecast) - 1, forecast[0].numel())
        posterior = self.settings.posterior(prior, rank)
        analysis = self._drawn(forecast, posterior, generator)
        info = {"kernel_factor": posterior.factor, "ess": 1 / posterior.inverse_ess()}
        return analysis, {"white": white, **info}

    def _drawn(
        self, forecast: Tensor, posterior: MixturePosterior, generator: torch.Generator | None
    ) -> Tensor:
        """Members of the posterior with its mean and covariance."""
        choice, noise = rng.spawn(generator, 2)
        # In double precision, as what was observed: their product is a difference of large terms.
        states = forecast.flatten(1).double()
        mean = states.mean(0)
        size = max(states.shape)
        rounding = (size * torch.finfo(forecast.dtype).eps) ** 2
        rounding = max(rounding, size * torch.finfo(states.dtype).eps)
        x, back = _whitened(states - mean, component_std(forecast).flatten(), rounding)
        members, rank = x.shape
        kernels, w0 = posterior.weights
        seen = posterior.prior.anomalies.mT @ x
        # The Gaussian of the whole ensemble is one more, behind the members'.
        centres = posterior.shrinkage * x + posterior.shifts() @ seen
        centres = torch.cat((centres, (posterior.gaussian_shift() @ seen)[None]))
        weights = torch.cat((kernels, w0[None]))
        centre = weights @ centres
        centres = centres - centre
        kalman = torch.eye(rank).to(x) - (seen.mT * posterior.reduction()) @ seen / (members - 1)
        widths = torch.where(torch.arange(members + 1).to(w0) < members, posterior.factor, 1.0)
        cov = (centres.mT * weights) @ centres + (weights @ widths) * kalman
        own = x
        if self.settings.rotation:
            own = rng.normal(members, (rank,), noise, like=x)
            own = own - own.mean(0)
        drawn = _draw(weights, members, choice)
        own = widths[drawn, None].sqrt() * (own @ symmetric_map(_cov(own), kalman))
        spread = centres[drawn] + own
        spread = spread - spread.mean(0)
        spread = spread @ symmetric_map(_cov(spread), cov)
        factor = self.settings.inflation_factor * _sampling(posterior.inverse_ess(), members)
        moved = mean + (centre + factor * spread) @ back
        return moved.to(forecast).reshape(forecast.shape)


@dataclass(frozen=True)
class _Local(Run):
    """Analyses with localization: a transform of the members at each grid point."""

    settings: GaussianMixtureFilter
    space: StateSpace
    geometry: Geometry | None = None

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``innovation``, ``chi2``, ``kernel_factor`` and ``ess``.

        The last two are means over the grid points that see anything.
        """
        members = len(forecast)
        points = forecast[0].numel() if self.geometry is None else self.geometry.points
        white = white_innovation(forecast, y, model)
        both = torch.cat((white[0], white[1][None])).mT.contiguous()
        states = forecast.reshape(members, -1, points).permute(2, 0, 1)
        analysis = states.clone(memory_format=torch.contiguous_format)
        sizes, factors = [], []
        for local in self._near(forecast, white[0], model):
            posterior, judge = self._posteriors(both, local.to(both), members - 1)
            mean_weights, transform = _transform(posterior, judge)
            x = local.columns(states).to(both)
            mean = x.mean(1, keepdim=True)
            A = x - mean
            inverse_ess = judge.inverse_ess()
            factor = (
                self.settings.inflation_factor * _sampling(inverse_ess, members)[:, None, None]
            )
            local.write(mean + mean_weights @ A + factor * (transform @ A), analysis)
            sizes.append(1 / inverse_ess)
            factors.append(posterior.factor.expand(len(x)))
        # Nothing is seen anywhere: all members count, whatever the factor.
        ess = torch.cat(sizes).mean() if sizes else torch.tensor(float(members))
        factor = torch.cat(factors).mean() if factors else torch.tensor(1.0)
        info = {"white": white, "kernel_factor": factor, "ess": ess}
        return analysis.permute(1, 2, 0).reshape(forecast.shape), info

    def _near(
        self, forecast: Tensor, anomalies: Tensor, model: ObservationModel
    ) -> Iterator[Local]:
        """Yield local analyses in batches."""
        if self.geometry is not None:
            where = model.operator.coordinates(self.space)
            return self.geometry.local(where, len(forecast))
        assert isinstance(self.settings.localization, Localization)
        scene = Scene(self.settings.localization, self.space, model, forecast, anomalies)
        return local_weights(scene)

    def _posteriors(
        self, both: Float[Tensor, "obs columns"], local: Local, rank: int
    ) -> tuple[MixturePosterior, MixturePosterior]:
        """One posterior that moves the members near each point, and one that weighs them."""
        prior, *other = (_near(both, local, roots) for roots in local.root_weights)
        weighed = other[0] if other else prior
        judge = self.settings.posterior(weighed, rank)
        return MixturePosterior(prior, judge.factor, judge.gaussian_weight), judge


def _near(
    both: Float[Tensor, "obs columns"], local: Local, root_weights: Float[Tensor, "blocks near"]
) -> Projection:
    """The white anomalies and the innovation near each point, with localized errors."""
    near = both[local.observations] * root_weights.unsqueeze(-1)
    return Projection.of(near[..., :-1].mT, near[..., -1])


def _transform(posterior: MixturePosterior, judge: MixturePosterior) -> tuple[Tensor, Tensor]:
    """Return the weights of the anomalies in the mean, and their symmetric transform.

    Arguments:
        posterior: Mixture that moves the centres and narrows the kernels.
        judge: Mixture that weighs them: the same, or one that sees less.
    """
    Z = posterior.prior.anomalies
    members = Z.shape[-2]
    kernels, gaussian = judge.weights
    w0 = gaussian[..., None, None]
    gamma, shifts = posterior.shrinkage.unsqueeze(-1), posterior.shifts()
    # Less 1 / N, which anomalies do not see: the root then keeps their mean.
    centred = torch.eye(members).to(Z) - 1 / members
    # Rows: what each kernel's centre takes of the anomalies, and behind them the Gaussian's.
    centres = torch.cat(
        (gamma * centred + shifts @ Z.mT, posterior.gaussian_shift().unsqueeze(-2) @ Z.mT), -2
    )
    weights = torch.cat((kernels.unsqueeze(-2), w0), -1)
    mean_weights = weights @ centres
    centres = centres - mean_weights
    kalman = centred - (Z * posterior.reduction().unsqueeze(-2)) @ Z.mT
    width = posterior.factor[..., None, None] * (1 - w0) + w0
    cov = (centres.mT * weights) @ centres + width / (members - 1) * kalman
    # Precise observations leave little of the terms that the covariance is a difference of.
    return mean_weights, (members - 1) ** 0.5 * psd_root(cov, 1 / (members - 1))


def _sampling(inverse_ess: Float[Tensor, "*batch"], members: int) -> Float[Tensor, "*batch"]:
    """Factor of the spread for the sampling error of a weighted mean, 1 for equal weights."""
    return ((1 + inverse_ess) / (1 + 1 / members)).sqrt()


def _cov(x: Float[Tensor, "ensemble rank"]) -> Float[Tensor, "rank rank"]:
    """Sample covariance of anomalies."""
    return x.mT @ x / (len(x) - 1)


def _draw(
    weights: Float[Tensor, "parts"], members: int, generator: torch.Generator
) -> Int[Tensor, "members"]:
    """Systematic draw of as many parts as members; a member that is drawn stays in its place."""
    start = rng.uniform(1, (), generator, like=weights)
    places = torch.arange(members, device=weights.device)
    total = weights.cumsum(0)
    drawn = torch.searchsorted(total, (places + start) / members * total[-1], right=True)
    counts = drawn.clamp_max(len(weights) - 1).bincount(minlength=len(weights))
    taken = counts[:members] > 0
    counts[:members] -= taken.to(counts)
    rest = torch.arange(len(weights), device=weights.device).repeat_interleave(counts)
    return torch.where(taken, places, 0).masked_scatter(~taken, rest)


def _whitened(
    A: Float[Tensor, "ensemble size"], std: Float[Tensor, "size"], rounding: float
) -> tuple[Float[Tensor, "ensemble rank"], Float[Tensor, "rank size"]]:
    """Anomalies as x B with x of unit covariance; and B.

    Directions are told apart in standard deviations of the components, so that none is lost for
    its unit.

    Arguments:
        A: Anomalies.
        std: Standard deviations of the components.
        rounding: Share of the largest variance of a direction below which it is none.
    """
    members, size = A.shape
    scaled = A / torch.where(std > 0, std, 1.0).to(A)
    gram = scaled @ scaled.mT if members <= size else scaled.mT @ scaled
    values, vectors = torch.linalg.eigh(gram)
    kept = values > rounding * values[-1]
    if not std.any() or not kept.any():
        raise ValueError(
            "The forecast has no spread, so no mixture can be made of it: add model error or "
            "start from an ensemble with spread."
        )
    scale = values[kept].sqrt() / (members - 1) ** 0.5
    if members <= size:
        x = vectors[:, kept] * (members - 1) ** 0.5
        return x, x.mT @ scaled * std.to(A) / (members - 1)
    return scaled @ vectors[:, kept] / scale, (vectors[:, kept] * scale).mT * std.to(A)
