r"""Scores of an ensemble against a truth, or of one ensemble against another.

An ensemble is ``(ensemble, time, *state)`` and its truth ``(time, *state)``; one state alone is
``(ensemble, state)`` and ``(state,)``: a truth with one axis is one step, with more axes the
first is time. NaN in the truth marks what is absent (unobserved values), and is left out of every
average; NaN in the ensemble is divergence and shows in the score.

All may be arrays of any kind, masked ones among them; scores are tensors.

Weights are ``(ensemble,)`` or ``(ensemble, time)`` and need not be normalised; None means equal.
Weighted estimators replace :math:`1/N` by :math:`\sum_i w_i^2`, the inverse of the effective
ensemble size, and reduce to the unweighted ones when the weights are equal. They are unbiased for
weights that do not depend on the members, which importance weights do only in the limit.

Averages are taken in the order space, then time. Units are those of the state unless said.
"""

from scorda.metrics.accuracy import crps, gaussian_crps, pointwise_crps, rmse, spread, spread_skill
from scorda.metrics.calibration import RankHistogram, coverage, quantile, rank_histogram
from scorda.metrics.distance import energy_score, wasserstein
from scorda.metrics.fields import csi, spectrum, ssim
from scorda.metrics.trajectory import autocorrelation, log_prior, residual_std

__all__ = [
    "RankHistogram",
    "autocorrelation",
    "coverage",
    "crps",
    "csi",
    "energy_score",
    "gaussian_crps",
    "log_prior",
    "pointwise_crps",
    "quantile",
    "rank_histogram",
    "residual_std",
    "rmse",
    "spectrum",
    "spread",
    "spread_skill",
    "ssim",
    "wasserstein",
]
