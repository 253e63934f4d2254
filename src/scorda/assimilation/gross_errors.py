r"""The gross-error check leaves out an observation far from all that the ensemble expects.

A sensor that sticks, or a wrong unit, is no draw of the Gaussian error that the methods assume,
and one such value can move a whole analysis. With the innovation :math:`d = y - \bar{h(x)}` of
each observed value, and the spread of the predicted values, a value is left out where

.. math:: |d_j| > k \, [(H P H^T)_{jj} + R_{jj}]^{1/2}, \qquad
    (H P H^T)_{jj} = \mathrm{Var}_i \, h_j(x_i) ,

and the other values are assimilated as if it had never been observed. This is the background check
of operational centres. Where all is Gaussian, and spread and R are right, the check loses a good
value with the probability of k standard deviations (6e-7 for k = 5). Where the ensemble has lost
the truth and does not know it, the check rejects good observations too. A filter that must find
its way back is better off without it, so it is not the default.

Source: Lorenc & Hammon (1988), Q. J. R. Meteorol. Soc. 114, 515-543, section 2 (background check).
"""

from __future__ import annotations

import torch

from scorda.core.shapes import Bool, Float, Tensor
from scorda.observations.model import ObservationModel

__all__ = ["check_gross_errors", "gross_errors"]


def check_gross_errors(limit: float | None) -> None:
    """Check the setting `gross_error_check` of a filter.

    Raises:
        ValueError: If it is not positive.
    """
    if limit is not None and not limit > 0:
        raise ValueError(
            f"Got gross_error_check = {limit}: give the standard deviations of an innovation "
            "beyond which an observation is left out, such as 5, or None."
        )


def gross_errors(
    forecast: Float[Tensor, "ensemble ..."],
    weights: Float[Tensor, "ensemble"] | None,
    y: Float[Tensor, "obs"],
    model: ObservationModel,
    limit: float,
) -> Bool[Tensor, "obs"]:
    """Return which values lie more than `limit` standard deviations from the predicted mean.

    It costs one evaluation of the operator.

    Arguments:
        forecast: Members.
        weights: Weights of the members, or None where all are equal.
        y: Flat observation.
        model: Model of the observation.
        limit: k.
    """
    if model.law is not None:
        raise ValueError(
            f"Got gross_error_check with errors of {type(model.law).__name__}: the check is for "
            "Gaussian ones; leave it out, and give a robust law where values may be wrong."
        )
    predicted = model.operator(forecast).flatten(1)
    if weights is None:
        mean = predicted.mean(0)
        var = predicted.var(0, correction=min(1, len(predicted) - 1))
    else:
        w = weights.to(predicted)
        mean = w @ predicted
        rest = (1 - w.square().sum()).clamp_min(torch.finfo(w.dtype).eps)
        var = (w @ (predicted - mean).square()) / rest
    std = torch.hypot(var.sqrt(), model.error_std(tuple(y.shape), y))
    return (y - mean).abs() > limit * std
