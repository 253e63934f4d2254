r"""The normal-score ensemble Kalman filter: each variable is made Gaussian for the analysis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from scorda.assimilation.diagnostics import innovation_report
from scorda.assimilation.filter import Filter
from scorda.assimilation.kalman_algebra import (
    in_double,
    mean_preserving_rotation,
    symmetric_transform,
)
from scorda.core.shapes import Float, Tensor
from scorda.observations.laws import Law
from scorda.observations.model import ObservationModel

__all__ = ["NormalScoreEnKF", "Scores"]

# Outermost members, as a share of all, whose slope the tails of a map have.
OUTER = 0.1
# Points of the quadrature, how often it is narrowed to where the density is, and the logarithm of
# what is left out there; half its width at first.
POINTS, ZOOMS, SMALL, WIDE = 401, 4, 30.0, 8.0
# The least that an observation takes from a variance of 1.
LEAST = 1e-10
# Observations whose quadrature is made at once.
ROWS = 2**12


@dataclass(frozen=True)
class NormalScoreEnKF(Filter):
    r"""Ensemble Kalman filter in normal scores (Gaussian anamorphosis), with a symmetric root.

    Each variable of the state and each predicted observation has a map of its own to normal
    scores,

    .. math:: z = g(x), \quad g(x_{(k)}) = \Phi^{-1} \bigl( (k - \tfrac12) / N \bigr) / \sigma_N

    for the k-th smallest member, linear between members and, beyond the outermost, with the mean
    slope of the outer tenth; :math:`\sigma_N` makes the variance of the scores 1. Members that are
    equal have a score in common. The analysis is that of the `ETKF` in scores, mapped back by
    :math:`g^{-1}`.

    The error of an observation in scores is the Gaussian that leaves a prior N(0, 1) with the mean
    m and variance v that the likelihood :math:`p(y \mid g^{-1}(z))` leaves it with, by quadrature:
    variance :math:`r = v / (1 - v)` and value :math:`m r / v`. Here this differs from the papers,
    which map perturbed observations; that is exact where the error is Gaussian in scores, and here
    is no better than the EnKF for two modes. Correlations of Gaussian errors are kept. Any other
    law of observed values enters by its likelihood in the same way.

    Each variable may so have any distribution, but their dependence is taken to be that of
    Gaussian scores, and the posterior to be Gaussian in the scores of the prior. The maps are
    those of the members, so that tens of them are needed. Bounds hold up to the tails.

    Source: Bertino, Evensen & Wackernagel (2003), Int. Stat. Rev. 71, 223-241; Simon & Bertino
    (2009), Ocean Sci. 5, 495-510. https://doi.org/10.5194/os-5-495-2009; predicted observations
    with maps of their own: Amezcua & van Leeuwen (2014), Tellus A 66, 23493.
    https://doi.org/10.3402/tellusa.v66.23493

    Arguments:
        rotation: Whether the anomalies of the scores are multiplied in each cycle by a random
            orthogonal matrix that keeps mean and covariance, as in the `ETKF`.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.NormalScoreEnKF(inflation=1.02).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    rotation: bool = False

    errors = "density"
    exact = "linear-Gaussian, N → ∞"

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``innovation`` and ``chi2`` of this cycle."""
        predicted, y = model.predict(forecast, y).double(), y.double()
        scores = Scores.of(predicted)
        middle, var = scores.posterior(y, model)
        error = var / (1 - var)
        z = scores.members
        both = (torch.cat((z, (middle / var * error)[None])) - z.mean(0)) / error.sqrt()
        if model.law is None:
            # What correlations of errors there are is left to take away.
            both = model.whiten(both * model.error_std(tuple(y.shape), y))
        mean_weights, transform = symmetric_transform(both[:-1], both[-1])
        turn = mean_preserving_rotation(len(z), z, generator) if self.rotation else None

        def moved(x: Tensor) -> Tensor:
            scores = Scores.of(x)
            mean = scores.members.mean(0)
            A = scores.members - mean
            around = A + transform.increment(A)
            z = mean + mean_weights @ A + (around if turn is None else turn @ around)
            return scores.values(z.mT).mT

        return in_double(moved, forecast), innovation_report(y, predicted, model)


@dataclass(frozen=True)
class Scores:
    """Normal scores of members, and the maps g of each column.

    Arguments:
        members: Scores ``(ensemble, columns)``.
        knots: Scores of sorted members, ``(ensemble,)``, the same in each column.
        sorted: Sorted values, ``(columns, ensemble)``.
        slopes: Values per score in the left and the right tail, ``(columns, 1)``.
    """

    members: Float[Tensor, "ensemble columns"]
    knots: Float[Tensor, "ensemble"]
    sorted: Float[Tensor, "columns ensemble"]
    slopes: tuple[Float[Tensor, "columns 1"], Float[Tensor, "columns 1"]]

    @staticmethod
    def of(x: Float[Tensor, "ensemble columns"]) -> Scores:
        """Return the scores of the columns of an ensemble."""
        count, rows = len(x), x.mT.contiguous()
        s = rows.sort(-1).values
        # Twice the rank, less 1; of equal members the mean.
        ranks = torch.searchsorted(s, rows) + torch.searchsorted(s, rows, right=True)
        knots = torch.special.ndtri((torch.arange(count).to(x) + 0.5) / count)
        unit = knots.std()
        members = torch.special.ndtri(ranks.to(x) / (2 * count)) / unit
        knots = knots / unit
        outer = max(1, round(OUTER * count))
        left = (s[:, outer] - s[:, 0]) / (knots[outer] - knots[0])
        right = (s[:, -1] - s[:, -1 - outer]) / (knots[-1] - knots[-1 - outer])
        return Scores(members.mT, knots, s, (left[:, None], right[:, None]))

    def values(self, z: Float[Tensor, "columns points"]) -> Float[Tensor, "columns points"]:
        """Return the values that have given scores."""
        q, s, (left, right) = self.knots, self.sorted, self.slopes
        i = torch.searchsorted(q, z.contiguous()).clamp(1, len(q) - 1)
        low, high = s.gather(1, i - 1), s.gather(1, i)
        x = low + (z - q[i - 1]) / (q[i] - q[i - 1]) * (high - low)
        x = torch.where(z < q[0], s[:, :1] + (z - q[0]) * left, x)
        return torch.where(z > q[-1], s[:, -1:] + (z - q[-1]) * right, x)

    def posterior(
        self, y: Float[Tensor, "columns"], model: ObservationModel
    ) -> tuple[Float[Tensor, "columns"], Float[Tensor, "columns"]]:
        """Return mean and variance of each score given an observation of it, below 1.

        Arguments:
            y: Observation of each column.
            model: Its model, of which only the law of single values counts.
        """
        std, parts = model.scale(tuple(y.shape), y), []
        for rows in torch.arange(len(y)).split(ROWS):
            law = None if model.law is None else model.law.only(_mask(rows, y))
            parts.append(self._part(rows)._posterior(y[rows, None], std[rows, None], law))
        mean, var = (torch.cat(part) for part in zip(*parts, strict=True))
        return mean, var.clamp_max(1 - LEAST)

    def _part(self, rows: Tensor) -> Scores:
        left, right = self.slopes
        slopes = left[rows], right[rows]
        return Scores(self.members[:, rows], self.knots, self.sorted[rows], slopes)

    def _posterior(self, y: Tensor, std: Tensor, law: Law | None) -> tuple[Tensor, Tensor]:
        low, high = self._reach(y)
        steps = torch.linspace(0, 1, POINTS).to(y)
        for zoom in range(ZOOMS + 1):
            z = low + (high - low) * steps
            h = self.values(z)
            likelihood = -((y - h) / std).square() / 2
            if law is not None:
                # Values come last in a law. Where it has no density there is nothing.
                likelihood = law.log_density(y.mT, h.mT, std.mT).mT.nan_to_num(-torch.inf)
            log_density = likelihood - z.square() / 2
            if zoom < ZOOMS:
                small = log_density < log_density.amax(1, keepdim=True) - SMALL
                first = small.long().cumprod(1).sum(1, keepdim=True)
                last = POINTS - 1 - small.flip(1).long().cumprod(1).sum(1, keepdim=True)
                low = z.gather(1, (first - 1).clamp_min(0))
                high = z.gather(1, (last + 1).clamp_max(POINTS - 1))
        weights = log_density.softmax(1)
        mean = (weights * z).sum(1)
        return mean, (weights * (z - mean[:, None]).square()).sum(1)

    def _reach(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return bounds between which the posterior is: prior and observation are in there."""
        (left, right), s = self.slopes, self.sorted
        below, above = (s[:, :1] - y).clamp_min(0), (y - s[:, -1:]).clamp_min(0)
        low = torch.where(left > 0, below / left, 0.0)
        high = torch.where(right > 0, above / right, 0.0)
        return -WIDE - low, WIDE + high


def _mask(rows: Tensor, y: Tensor) -> Tensor:
    """Return which entries of an observation are among some rows."""
    chosen = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    chosen[rows] = True
    return chosen
