r"""The rank histogram filter: scalar analyses by Bayes' rule, without a Gaussian prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import log_ndtr, ndtri, ndtri_exp

from scorda.assimilation.diagnostics import innovation_report
from scorda.assimilation.filter import PreparedFilter, Run
from scorda.assimilation.kalman_algebra import rotated
from scorda.assimilation.localization import check_taper
from scorda.assimilation.serial import Scalar, SerialLocal, serial_analysis, serial_memory
from scorda.core.errors import DegenerateEnsemble
from scorda.core.shapes import Float, Tensor
from scorda.core.tapers import GaspariCohn
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem

__all__ = ["RankHistogramFilter", "posterior_members"]

# Where the likelihood is evaluated beside the members: in standard deviations of the error, about
# the observation.
NODES = np.arange(-6, 6.25, 0.5)
# Of another likelihood: shares of the probability of a tail, and of the intervals between these
# and the members, at which it is evaluated.
STEPS, SPLIT = np.geomspace(1e-12, 1, 80, endpoint=False), np.arange(1, 4)[:, None] / 4

# The logarithm of a likelihood at given values of a scalar.
Likelihood = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class RankHistogramFilter(PreparedFilter):
    r"""Rank histogram filter: a serial filter that is not Gaussian in what is observed.

    The prior of a scalar z is that of a rank histogram: sorted members part the line into N + 1
    intervals of equal probability :math:`1 / (N + 1)`, uniform between two members, and beyond
    the outermost ones the tails of normal distributions with the standard deviation of the
    members. It is multiplied by the likelihood of the observation. New members are the quantiles
    :math:`k / (N + 1)` of the product, in the order of the old ones. The state follows by linear
    regression, as in the `EnSRF`. So what is observed may have any distribution; its dependence
    with the rest is taken to be linear.

    Between members the likelihood is a line through its values at them and, which is not in the
    paper, at points half a standard deviation of the error apart, so that precise observations are
    right too. The tails are exact. Any other law of observed values enters by its likelihood, also
    at points that part each interval in four, and the tails in steps of their probability.

    New members have more sampling noise than those of the `EnSRF`, which is the better filter
    where all is nearly Gaussian.

    Source: Anderson (2010), Mon. Wea. Rev. 138, 4186-4198.

    Arguments:
        localization: Taper of the regressions by distance, or None.
        rotation: Whether the anomalies are multiplied in each cycle by a random orthogonal matrix
            that keeps mean and covariance. It makes the members more Gaussian.
        lower: Lower bound of all observed variables, in their units: 0 for what is positive. The
            prior is uniform from there to the least member.
        upper: Upper bound, likewise. Bounds hold exactly for a component of the state that is
            itself observed, until other observations, a rotation or an inflation move it.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.RankHistogramFilter(inflation=1.02).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    localization: GaspariCohn | None = None
    rotation: bool = False
    lower: float = -math.inf
    upper: float = math.inf

    errors = "density"
    exact = "one observed variable, any prior, one analysis, N → ∞"

    def __post_init__(self) -> None:
        check_taper(self, self.localization)
        if not self.lower < self.upper:
            raise ValueError(
                f"Got lower = {self.lower} and upper = {self.upper}: give a lower bound below the "
                "upper one."
            )
        needs = ["simulator"]
        if self.localization is not None:
            needs.append("positions")
        if self.localization is not None or self._bounded:
            needs.append("independent_errors")
        object.__setattr__(self, "needs", tuple(needs))

    @property
    def _bounded(self) -> bool:
        return math.isfinite(self.lower) or math.isfinite(self.upper)

    def memory(self, problem: Problem, members: int) -> int:
        return super().memory(problem, members) + serial_memory(problem, self.localization)

    def begin(
        self, problem: Problem | None, weights: Float[Tensor, "ensemble"] | None = None
    ) -> Run:
        return _Serial(self, SerialLocal.of(problem, self.localization))


@dataclass(frozen=True)
class _Serial(Run):
    """Analyses of the rank histogram filter."""

    settings: RankHistogramFilter
    local: SerialLocal | None

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``innovation`` and ``chi2`` of this cycle."""
        y, predicted = y.double(), model.predict(forecast, y).double()
        told = innovation_report(y, predicted, model)
        bounds = self.settings.lower, self.settings.upper
        if model.law is None:
            # About the mean, in standard deviations of the errors.
            predicted, scalar = told["white"][0], _gaussian(y, told["white"][1], model, bounds)
        else:
            scalar = _of_law(y, model, bounds)
        analysis = serial_analysis(forecast, predicted, scalar, model, self.local)
        if self.settings.rotation:
            analysis = rotated(analysis, generator)
        return analysis, told


def _gaussian(
    y: Tensor, innovation: Tensor, model: ObservationModel, bounds: tuple[float, float]
) -> Scalar:
    """Return the scalar analysis of white observations, given as innovations."""
    centres = innovation.tolist()
    lower, upper = (
        (model.whiten((bound - y)[None])[0] + innovation).tolist()
        if math.isfinite(bound)
        else [bound] * len(centres)
        for bound in bounds
    )

    def scalar(z: Tensor, j: int) -> Tensor:
        moved = posterior_members(z.numpy(force=True), centres[j], (lower[j], upper[j]))
        return torch.from_numpy(moved).to(z) - z

    return scalar


def _of_law(y: Tensor, model: ObservationModel, bounds: tuple[float, float]) -> Scalar:
    """Return the scalar analysis of observed values of another law than the Gaussian."""
    std = model.scale(tuple(y.shape), y)

    def scalar(z: Tensor, j: int) -> Tensor:
        one = torch.zeros(len(y), dtype=torch.bool, device=y.device)
        one[j] = True
        law = model.law.only(one)

        def log_likelihood(h: np.ndarray) -> np.ndarray:
            column = torch.from_numpy(h).to(y)[:, None]
            found: np.ndarray = law.log_density(y[one], column, std[one])[:, 0].numpy(force=True)
            return np.nan_to_num(found, nan=-np.inf)

        about = (y[one] + std[one] * torch.from_numpy(NODES).to(y)).numpy(force=True)
        moved = posterior_members(z.numpy(force=True), log_likelihood, bounds, about)
        return torch.from_numpy(moved).to(z) - z

    return scalar


def posterior_members(
    members: np.ndarray,
    y: float | Likelihood,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    about: np.ndarray | tuple[()] = (),
) -> np.ndarray:
    """Return the members of the posterior of a scalar, in the order of those of the prior.

    Arguments:
        members: Members of the prior, ``(ensemble,)``.
        y: Observation of the scalar, with a Gaussian error of standard deviation 1; or the
            logarithm of the likelihood as a function of the scalar.
        bounds: Bounds of the scalar, infinite where it has none.
        about: Further points at which a function y is evaluated.

    Raises:
        DegenerateEnsemble: If the likelihood is zero at all members.
    """
    order, count = members.argsort(kind="stable"), len(members)
    z = members[order].clip(*bounds)
    std = float(z.std(ddof=1))
    if std == 0:
        return members
    first, last = (math.isfinite(bound) for bound in bounds)
    knots = np.concatenate((bounds[:1] if first else (), z, bounds[1:] if last else ()))
    levels = np.arange(1 - first, count + 1 + last) / (count + 1)
    left = right = None
    if callable(y):
        knots, levels = _with_tails(knots, levels, std, first, last)
        parts = (knots[:-1] + SPLIT * np.diff(knots)).ravel()
        x, cdf = _refined(knots, levels, np.sort(np.concatenate((parts, about))))
        log_likelihood = y(x)
    else:
        x, cdf = _refined(knots, levels, y + NODES)
        # Mirrored, the right tail is a left one.
        left = None if first else _Tail.of(z[0], std, y, count)
        right = None if last else _Tail.of(-z[-1], std, -y, count)
        log_likelihood = -((x - y) ** 2) / 2
    tails = [tail.log_mass for tail in (left, right) if tail is not None]
    most = max([float(log_likelihood.max()), *tails])
    if most == -math.inf:
        raise DegenerateEnsemble("The likelihood of an observation is zero at all members.")
    likelihood = np.exp(log_likelihood - most)
    masses = np.diff(cdf) * (likelihood[:-1] + likelihood[1:]) / 2
    below = np.concatenate(([0.0], masses)).cumsum()
    below += 0.0 if left is None else math.exp(left.log_mass - most)
    total = below[-1] + (0.0 if right is None else math.exp(right.log_mass - most))
    mass = np.arange(1, count + 1) / (count + 1) * total
    moved = _between(mass, x, cdf, likelihood, below)
    if left is not None and (out := mass < below[0]).any():
        moved[out] = left.quantile(np.log(mass[out]) + most)
    if right is not None and (out := mass > below[-1]).any():
        moved[out] = -right.quantile(np.log(total - mass[out]) + most)
    made = np.empty_like(members)
    made[order] = moved
    return made


def _with_tails(
    knots: np.ndarray, levels: np.ndarray, std: float, first: bool, last: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return knots and distribution function with steps of normal tails where no bound ends it."""
    share = float(np.diff(levels)[0])
    steps = STEPS * share
    out = std * (ndtri(steps) - ndtri(share))
    if not first:
        knots = np.concatenate((knots[0] + out, knots))
        levels = np.concatenate((steps, levels))
    if not last:
        knots = np.concatenate((knots, knots[-1] - out[::-1]))
        levels = np.concatenate((levels, 1 - steps[::-1]))
    return knots, levels


def _refined(
    knots: np.ndarray, levels: np.ndarray, nodes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return knots with nodes between them, and the distribution function, linear in between."""
    after = knots.searchsorted(nodes, side="right")
    within = (after > 0) & (after < len(knots))
    nodes, after = nodes[within], after[within]
    share = (nodes - knots[after - 1]) / (knots[after] - knots[after - 1])
    between = levels[after - 1] + share * (levels[after] - levels[after - 1])
    # After the knots that they equal, so that equal knots, an atom, stay together.
    return np.insert(knots, after, nodes), np.insert(levels, after, between)


def _between(
    mass: np.ndarray, x: np.ndarray, cdf: np.ndarray, likelihood: np.ndarray, below: np.ndarray
) -> np.ndarray:
    r"""Return where the posterior has a mass below, for a likelihood linear between points.

    In an interval with likelihoods a and b at its ends, the share u of it has the mass
    :math:`a u + (b - a) u^2 / 2` per mass of the prior.
    """
    i = (below.searchsorted(mass, side="right") - 1).clip(0, len(x) - 2)
    prior, a, b = cdf[i + 1] - cdf[i], likelihood[i], likelihood[i + 1]
    rest = (mass - below[i]).clip(0) / np.where(prior > 0, prior, 1.0)
    root = a + np.sqrt((a * a + 2 * (b - a) * rest).clip(0))
    share = (2 * rest / np.where(root > 0, root, 1.0)).clip(0, 1)
    return x[i] + share * (x[i + 1] - x[i])


@dataclass(frozen=True)
class _Tail:
    """A normal distribution left of an edge, times the likelihood, which is normal again.

    Arguments:
        edge: The least member.
        mean: Mean of the product.
        std: Standard deviation of the product.
        log_evidence: Logarithm of the integral of the product, if it had no edge.
    """

    edge: float
    mean: float
    std: float
    log_evidence: float

    @staticmethod
    def of(edge: float, std: float, y: float, members: int) -> _Tail:
        """Return the tail whose prior has the given std and one part in N + 1 left of the edge."""
        mean, var = edge - std * float(ndtri(1 / (members + 1))), std**2 + 1
        log_evidence = -((y - mean) ** 2) / (2 * var) - math.log(var) / 2
        return _Tail(edge, (mean + std**2 * y) / var, std / math.sqrt(var), log_evidence)

    @property
    def log_mass(self) -> float:
        """Return the logarithm of the mass left of the edge."""
        return self.log_evidence + float(log_ndtr((self.edge - self.mean) / self.std))

    def quantile(self, log_mass: np.ndarray) -> np.ndarray:
        """Return where a mass is to the left."""
        made: np.ndarray = self.mean + self.std * ndtri_exp(log_mass - self.log_evidence)
        return made.clip(max=self.edge)
