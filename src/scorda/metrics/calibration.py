"""Scores of whether the truth could be a member: quantiles, coverage, rank histogram."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from scorda.core import rng
from scorda.core.arrays import takes_arrays
from scorda.core.shapes import Float, Int, Tensor
from scorda.metrics.series import as_series, ordered_members, quotient

__all__ = ["RankHistogram", "coverage", "quantile", "quantiles", "rank_histogram"]


@takes_arrays
def quantile(
    ensemble: Float[Tensor, "ensemble *shape"],
    level: float,
    weights: Float[Tensor, "ensemble *time"] | None = None,
) -> Float[Tensor, "*shape"]:
    r"""Return the quantile of the members at every component, without bias for the next draw.

    The k-th smallest of N members sits at :math:`k / (N + 1)`, the probability that a further
    draw falls below it, with linear interpolation between members (type 6 of Hyndman & Fan,
    1996) and the extreme members beyond. With weights it sits at
    :math:`(n (W_{k-1} + W_k) / 2 + 1/2) / (n + 1)`, :math:`n = 1 / \sum_i w_i^2`: the same for
    equal weights. NaN where a member is NaN.

    Raises:
        ValueError: If the level is no probability.
    """
    if not 0 <= level <= 1:
        raise ValueError(f"Got level {level}: it is a probability between 0 and 1, such as 0.9.")
    return quantiles(ensemble, (level,), weights)[0]


@takes_arrays
def coverage(
    ensemble: Float[Tensor, "ensemble *shape"],
    truth: Float[Tensor, "*shape"],
    weights: Float[Tensor, "ensemble *time"] | None = None,
    level: float = 0.9,
) -> Float[Tensor, ""]:
    """Return the share of the truth's values inside the central interval of the ensemble.

    The interval lies between the `quantile` at (1 - level) / 2 and at (1 + level) / 2, both
    included. N members cannot resolve more than (N - 1) / (N + 1): above it the interval is the
    range of the members, and the coverage of a reliable ensemble stays at that number.

    Raises:
        ValueError: If the level is not between 0 and 1.

    Example:
        >>> members, truth = torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([2.0, 5.0])
        >>> sc.metrics.coverage(members, truth)
        tensor(1.)
    """
    if not 0 < level < 1:
        raise ValueError(f"Got level {level}: it is a probability between 0 and 1, such as 0.9.")
    as_series(ensemble, truth, weights)
    low, high = quantiles(ensemble, ((1 - level) / 2, (1 + level) / 2), weights)
    inside = ((low <= truth) & (truth <= high)).to(ensemble.dtype)
    # A member that diverged must show, not count as a miss.
    return torch.where(low.isnan(), math.nan, inside)[~truth.isnan()].mean()


@dataclass(frozen=True)
class RankHistogram:
    """Counts of the truth's rank among the members, and the band they keep if it is uniform.

    Arguments:
        counts: Number of values in each bin.
        low: Lower end of the band around a flat histogram.
        high: Its upper end.
        level: Probability with which one bin stays in the band.
    """

    counts: Int[Tensor, " bins"]
    low: int
    high: int
    level: float

    @staticmethod
    def of(counts: Int[Tensor, " bins"], level: float = 0.95) -> RankHistogram:
        """Return counts with the band that they keep if ranks are uniform and independent."""
        from scipy.stats import binom

        tail, trials, bins = (1 - level) / 2, int(counts.sum()), len(counts)
        low, high = binom.ppf(tail, trials, 1 / bins), binom.ppf(1 - tail, trials, 1 / bins)
        return RankHistogram(counts, int(low), int(high), level)

    @property
    def outside(self) -> float:
        """Share of the bins outside the band; about ``1 - level`` for a reliable ensemble."""
        return float(((self.counts < self.low) | (self.counts > self.high)).double().mean())


@takes_arrays
def rank_histogram(
    ensemble: Float[Tensor, "ensemble *shape"],
    truth: Float[Tensor, "*shape"],
    weights: Float[Tensor, "ensemble *time"] | None = None,
    bins: int | None = None,
    level: float = 0.95,
    generator: rng.Seed = None,
) -> RankHistogram:
    r"""Count the ranks of the truth among the members, and give the binomial band of the counts.

    Each present value is placed at :math:`u = (n W_< + (n W_= + 1) U) / (n + 1)`, with U uniform,
    :math:`W_<` and :math:`W_=` the weight of the members below and equal to it, and
    :math:`n = 1 / \sum_i w_i^2`. With equal weights and N + 1 bins this is the classical
    histogram with ties broken at random, and u is exactly uniform when truth and members are
    exchangeable; with unequal weights it is uniform only approximately.

    The band holds, for each bin separately, the central ``level`` of a binomial distribution with
    one trial per value. Values that are correlated in space or time make it too narrow.

    Arguments:
        bins: Number of equal bins of u (default: members + 1; about 20 for large ensembles).
        level: Probability of the band.

    Raises:
        ValueError: If a member is NaN where the truth is present: counts cannot show it.
    """
    x, y, w = as_series(ensemble, truth, weights)
    bins = len(x) + 1 if bins is None else bins
    if bins < 1:
        raise ValueError(f"Got bins = {bins}: a histogram needs at least one bin.")
    broken = (x.isnan().any(0) & ~y.isnan()).sum()
    if broken:
        raise ValueError(
            f"Got members that are NaN at {int(broken)} values of the truth, where it has no "
            "rank: leave these values, or the run that diverged, out."
        )
    size = 1 / w.square().sum(0)
    below, equal = (w * (x < y)).sum(0), (w * (x == y)).sum(0)
    generator = rng.as_generator(generator)
    device = y.device if generator is None else generator.device
    draw = torch.rand(y.shape, generator=generator, device=device, dtype=torch.float64).to(y)
    position = (size * below + (size * equal + 1) * draw) / (size + 1)
    position = position[~y.isnan()]
    counts = torch.bincount((position * bins).long().clamp(max=bins - 1), minlength=bins)
    return RankHistogram.of(counts, level)


def quantiles(ensemble: Tensor, levels: tuple[float, ...], weights: Tensor | None) -> list[Tensor]:
    """Return the `quantile` at each of several levels from one sorting of the members."""
    x, _, w = as_series(ensemble, ensemble.new_zeros(()), weights)
    broken = x.isnan().any(0)
    if weights is None:
        ordered, last = x.sort(0).values, len(x) - 1
        found = []
        for level in levels:
            place = min(max(level * (len(x) + 1) - 1, 0.0), float(last))
            lower = min(int(place), max(last - 1, 0))
            low, high = ordered[lower], ordered[min(lower + 1, last)]
            found.append(low + (place - lower) * (high - low))
    else:
        ordered, w_ordered = ordered_members(x, w)
        size = 1 / w.square().sum(0)
        position = (size * (w_ordered.cumsum(0) - w_ordered / 2) + 0.5) / (size + 1)
        found = [_between(ordered, position, level) for level in levels]
    return [torch.where(broken, math.nan, q).reshape(ensemble.shape[1:]) for q in found]


def _between(ordered: Tensor, position: Tensor, level: float) -> Tensor:
    """Interpolate between the sorted members whose positions enclose a level."""
    upper = (position < level).sum(0, keepdim=True).clamp(max=len(ordered) - 1)
    lower = (upper - 1).clamp(min=0)
    left, right = position.gather(0, lower), position.gather(0, upper)
    share = quotient(level - left, right - left).clamp(0, 1)
    low, high = ordered.gather(0, lower)[0], ordered.gather(0, upper)[0]
    return low + share[0] * (high - low)
