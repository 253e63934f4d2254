r"""The gross-error check: an observation far from all that the ensemble expects is left out.

A sensor that sticks or a wrong unit is no draw of the Gaussian error that the methods take for
granted, and a single one can move a whole analysis. With the innovation :math:`d = y - \bar{h(x)}`
of each observed value, and the spread of what the members predict, a value is left out where

.. math:: |d_j| > k \, [(H P H^T)_{jj} + R_{jj}]^{1/2}, \qquad
    (H P H^T)_{jj} = \mathrm{Var}_i \, h_j(x_i) ,

and the rest is assimilated as if it had never been observed. It is the background check of
operational centres. Where all is Gaussian and spread and R are right, a good value is lost with
the probability of k standard deviations (k = 5: 6e-7). Where the ensemble has lost the truth and
does not know it, good observations are rejected too: a filter that must find its way back is
better off without the check, which is why it is not the default.

Source: Lorenc & Hammon (1988), Q. J. R. Meteorol. Soc. 114, 515-543, section 2 (background check).
"""

from __future__ import annotations

import torch

from scorda.core.shapes import Bool, Float, Tensor
from scorda.observations.model import ObservationModel

__all__ = ["check_reject", "gross_errors"]


def check_reject(reject: float | None) -> None:
    """Check the setting `reject` of a filter.

    Raises:
        ValueError: If it is not positive.
    """
    if reject is not None and not reject > 0:
        raise ValueError(
            f"Got reject = {reject}: give the standard deviations of an innovation beyond which "
            "an observation is left out, such as 5, or None."
        )


def gross_errors(
    forecast: Float[Tensor, "ensemble ..."],
    weights: Float[Tensor, "ensemble"] | None,
    y: Float[Tensor, "obs"],
    model: ObservationModel,
    reject: float,
) -> Bool[Tensor, "obs"]:
    """Which values lie more than `reject` standard deviations from what the members predict.

    Costs one evaluation of the operator.

    Arguments:
        forecast: Members.
        weights: Their weights, or None where all are equal.
        y: Observation, flat.
        model: Its model.
        reject: k.
    """
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
    return (y - mean).abs() > reject * std
