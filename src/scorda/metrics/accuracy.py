"""Scores of how far the ensemble is from the truth: error, spread, and the CRPS."""

from __future__ import annotations

import math

import torch

from scorda.core.arrays import takes_arrays
from scorda.core.shapes import Float, Tensor
from scorda.metrics.series import (
    as_series,
    ordered_members,
    quotient,
    step_mean,
    time_mean,
    variance,
)

__all__ = ["crps", "gaussian_crps", "pointwise_crps", "rmse", "spread", "spread_skill"]


@takes_arrays
def rmse(
    ensemble: Float[Tensor, "ensemble *shape"],
    truth: Float[Tensor, "*shape"],
    weights: Float[Tensor, "ensemble *time"] | None = None,
    per_step: bool = False,
) -> Float[Tensor, "*steps"]:
    r"""Return the root-mean-square error of the ensemble mean over space, then its time mean.

    .. math:: \frac{1}{T} \sum_k \Big( \frac{1}{D} \sum_d (\bar x_{kd} - y_{kd})^2 \Big)^{1/2}

    Every given step counts, so leave out the spin-up before.

    Arguments:
        per_step: Return the spatial RMSE of each step, shape ``(time,)``.

    Example:
        >>> members, truth = torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([2.0, 5.0])
        >>> sc.metrics.rmse(members, truth)
        tensor(0.7071)
    """
    x, y, w = as_series(ensemble, truth, weights)
    present = ~y.isnan()
    errors = step_mean(((w * x).sum(0) - y).square(), present).sqrt()
    return errors if per_step else time_mean(errors, present)


@takes_arrays
def spread(
    ensemble: Float[Tensor, "ensemble *shape"],
    truth: Float[Tensor, "*shape"] | None = None,
    weights: Float[Tensor, "ensemble *time"] | None = None,
    per_step: bool = False,
) -> Float[Tensor, "*steps"]:
    r"""Return the root of the spatial mean of the unbiased variance, then its time mean.

    .. math:: \frac{1}{T} \sum_k \Big( \frac{1}{D} \sum_d v_{kd} \Big)^{1/2}, \qquad
        v = \frac{\sum_i w_i (x_i - \bar x)^2}{1 - \sum_i w_i^2}

    With equal weights the denominator gives 1 / (N - 1). One member alone, or one that carries
    all the weight, has spread 0.

    Arguments:
        truth: Used only to leave out the values that are absent from it.
        per_step: Return the spread of each step, shape ``(time,)``.

    Example:
        >>> members, truth = torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([2.0, 5.0])
        >>> sc.metrics.spread(members, truth)
        tensor(2.2361)
    """
    x, y, w = as_series(ensemble, ensemble[0].new_zeros(()) if truth is None else truth, weights)
    present = ~y.isnan()
    spreads = step_mean(variance(x, w), present).sqrt()
    return spreads if per_step else time_mean(spreads, present)


@takes_arrays
def spread_skill(
    ensemble: Float[Tensor, "ensemble *shape"],
    truth: Float[Tensor, "*shape"],
    weights: Float[Tensor, "ensemble *time"] | None = None,
) -> Float[Tensor, ""]:
    r"""Return the ratio of spread to error, which is 1 on average for a reliable ensemble.

    .. math:: \Big( \frac{N + 1}{N} \frac{\sum v_{kd}}{\sum (\bar x_{kd} - y_{kd})^2} \Big)^{1/2}

    Both sums run over all steps and components, because only mean squares are unbiased: the
    ratio differs from ``spread / rmse``, whose roots are taken at each step. The factor
    (N + 1) / N accounts for the sampling error of a mean of N members, so that the average is 1
    for any number of members; with weights it is :math:`1 + \sum_i w_i^2`.

    Source: Fortin et al. (2014), J. Hydrometeor. 15, 1708, eq. 15.

    Example:
        >>> members, truth = torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([2.0, 5.0])
        >>> sc.metrics.spread_skill(members, truth)
        tensor(3.8730)
    """
    x, y, w = as_series(ensemble, truth, weights)
    present = ~y.isnan()
    spread_sq = (1 + w.square().sum(0)) * variance(x, w)
    error_sq = ((w * x).sum(0) - y).square()
    return (spread_sq[present].sum() / error_sq[present].sum()).sqrt()


@takes_arrays
def crps(
    ensemble: Float[Tensor, "ensemble *shape"],
    truth: Float[Tensor, "*shape"],
    weights: Float[Tensor, "ensemble *time"] | None = None,
    per_step: bool = False,
) -> Float[Tensor, "*steps"]:
    """Return the fair CRPS: the spatial mean of `pointwise_crps`, then its time mean.

    Arguments:
        per_step: Return the spatial mean of each step, shape ``(time,)``.

    Example:
        >>> members = torch.tensor([[1.0], [2.0], [4.0]])
        >>> sc.metrics.crps(members, torch.tensor([3.5]))
        tensor(0.5000)
    """
    _, y, _ = as_series(ensemble, truth, weights)
    present = ~y.isnan()
    scores = step_mean(pointwise_crps(ensemble, truth, weights).reshape(y.shape), present)
    return scores if per_step else time_mean(scores, present)


@takes_arrays
def pointwise_crps(
    ensemble: Float[Tensor, "ensemble *shape"],
    truth: Float[Tensor, "*shape"],
    weights: Float[Tensor, "ensemble *time"] | None = None,
    period: float | None = None,
) -> Float[Tensor, "*shape"]:
    r"""Return the fair continuous ranked probability score (CRPS) of every component.

    .. math:: \sum_i w_i |x_i - y|
        - \frac{\sum_{ij} w_i w_j |x_i - x_j|}{2 \, (1 - \sum_i w_i^2)}

    With equal weights the second term is :math:`\sum_{ij} |x_i - x_j| / 2N(N-1)`: the score is
    unbiased for that of the distribution the members are drawn from, so ensembles of different
    sizes compare. It can be negative. One member alone scores its absolute error. The double sum
    costs O(N log N): with :math:`W_k` the weight of the k smallest members, its half is
    :math:`\sum_k W_k (1 - W_k) (x_{(k+1)} - x_{(k)})`, and with equal weights
    :math:`\sum_k (2k - N - 1) x_{(k)} / N^2`, since each member is counted once for every member
    below it and subtracted for every one above.

    With a period P all differences are arcs, :math:`\min_k |x - y + k P|`, which costs O(N²): the
    score of a circular variable. It is the other one where all lie within half a circle.

    Source: Ferro (2014), Q. J. R. Meteorol. Soc. 140, 1917 (equal weights); for circular variables
    Grimit, Gneiting, Berrocal & Johnson (2006), Q. J. R. Meteorol. Soc. 132, 2925.

    Arguments:
        period: P of a circular variable; None: it is none.
    """
    x, y, w = as_series(ensemble, truth, weights)
    if period is not None:
        return _circular_crps(x, y, w, period).reshape(truth.shape)
    if weights is None:
        # Of the residuals, whose rounding is not that of a large mean.
        residual, members = x - y, len(x)
        skill = residual.abs().mean(0)
        ranks = torch.arange(1 - members, members, 2).to(x) / max(members * (members - 1), 1)
        return (skill - torch.tensordot(ranks, residual.sort(0).values, 1)).reshape(truth.shape)
    skill = (w * (x - y).abs()).sum(0)
    ordered, w_ordered = ordered_members(x, w)
    below = w_ordered.cumsum(0)[:-1]
    half = (below * (1 - below) * ordered.diff(dim=0)).sum(0)
    return (skill - quotient(half, 1 - w.square().sum(0))).reshape(truth.shape)


@takes_arrays
def gaussian_crps(
    mean: Float[Tensor, "*shape"], std: Float[Tensor, "..."], truth: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    r"""Return the continuous ranked probability score of a Gaussian for every component.

    .. math:: \sigma \big( z (2 \Phi(z) - 1) + 2 \varphi(z) - \pi^{-1/2} \big),
        \quad z = (y - \mu) / \sigma

    Source: Gneiting et al. (2005), Mon. Weather Rev. 133, 1098, eq. 5.

    Raises:
        ValueError: If a standard deviation is not positive.
    """
    if not (std > 0).all():
        raise ValueError(
            f"The smallest std is {float(std.min())}: a Gaussian needs a positive one; "
            "for a deterministic forecast take the absolute error."
        )
    z = (truth - mean) / std
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return std * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def _circular_crps(x: Tensor, y: Tensor, w: Tensor, period: float) -> Tensor:
    """Return the fair CRPS with arcs for differences."""

    def arc(difference: Tensor) -> Tensor:
        return (difference - period * (difference / period).round()).abs()

    skill = (w * arc(x - y)).sum(0)
    # Each pair of members once, and none of a member with itself.
    pairs = torch.zeros_like(skill)
    for i in range(1, len(x)):
        pairs = pairs + (w[i] * w[:i] * arc(x[i] - x[:i])).sum(0)
    return skill - quotient(pairs, 1 - w.square().sum(0))
