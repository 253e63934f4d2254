r"""Kalman algebra in the space of the ensemble, shared by the ensemble Kalman methods.

With N members, let A be the anomalies of the forecast, :math:`a_i = x_i - \bar x`, Y those of its
predicted observations and d the innovation :math:`y - \bar{h(x)}`, both multiplied by
:math:`R^{-1/2}` ("white"). Every analysis below is a linear combination of members,

.. math:: x_i^a = \bar x + \sum_j W_{ij} \, a_j ,

so the state enters through its anomalies alone, however large it is, and past states are smoothed
with the same weights. All functions accept leading batch axes.
"""

from __future__ import annotations

from typing import Any

import torch

from scorda import rng
from scorda.observe import ObservationModel
from scorda.shapes import Float, Tensor

__all__ = [
    "check_inflation",
    "combine",
    "inflate",
    "innovation_statistics",
    "kalman_weights",
    "perturbed_weights",
    "symmetric_weights",
    "white_innovation",
]


def inflate(
    ensemble: Float[Tensor, "ensemble ..."], factor: float
) -> Float[Tensor, "ensemble ..."]:
    r"""Multiply anomalies about the mean, :math:`\bar x + \lambda (x_i - \bar x)`."""
    if factor == 1:
        return ensemble
    mean = ensemble.mean(0, keepdim=True)
    return mean + factor * (ensemble - mean)


def check_inflation(factor: float) -> None:
    """Check the setting `inflation` of a filter.

    Raises:
        ValueError: If it is below 1 or not finite.
    """
    if not 1 <= factor < float("inf"):
        raise ValueError(
            f"Got inflation = {factor}: it multiplies the anomalies of the analysis, so give a "
            "number of at least 1."
        )


def combine(
    ensemble: Float[Tensor, "ensemble ..."], weights: Float[Tensor, "ensemble ensemble"]
) -> Float[Tensor, "ensemble ..."]:
    r"""Return the members :math:`\bar x + \sum_j W_{ij} (x_j - \bar x)`."""
    mean = ensemble.mean(0, keepdim=True)
    return mean + (weights @ (ensemble - mean).flatten(1)).reshape(ensemble.shape)


def white_innovation(
    forecast: Float[Tensor, "ensemble ..."], y: Float[Tensor, "obs"], model: ObservationModel
) -> tuple[Float[Tensor, "ensemble obs"], Float[Tensor, "obs"]]:
    """White anomalies Y of the predicted observations, and the white innovation d."""
    predicted = model.operator(forecast).flatten(1)
    mean = predicted.mean(0)
    white = model.whiten(torch.cat((predicted - mean, (y - mean)[None])))
    return white[:-1], white[-1]


def innovation_statistics(
    anomalies: Float[Tensor, "ensemble obs"], innovation: Float[Tensor, "obs"]
) -> dict[str, Any]:
    """What the ensemble Kalman methods report of an innovation.

    ``innovation``: its root mean square in standard deviations of the observation error;
    ``chi2``: the mean of its squares over their expected values, about 1 if spread and R are
    right.
    """
    square = innovation.square()
    expected = 1 + anomalies.square().sum(0) / (len(anomalies) - 1)
    return {"innovation": square.mean().sqrt(), "chi2": (square / expected).mean()}


def kalman_weights(
    anomalies: Float[Tensor, "*batch ensemble obs"], residuals: Float[Tensor, "*batch rows obs"]
) -> Float[Tensor, "*batch rows ensemble"]:
    r"""Weights of the anomalies in the Kalman increment of white residuals D.

    .. math:: D (Y^T Y + (N - 1) I)^{-1} Y^T = D Y^T (Y Y^T + (N - 1) I)^{-1},

    of which the smaller system is solved: over observations or (Woodbury) over members.
    """
    members, observations = anomalies.shape[-2:]
    if observations <= members:
        gram = anomalies.mT @ anomalies
        gram.diagonal(dim1=-2, dim2=-1).add_(members - 1)
        root = torch.linalg.cholesky(gram)
        return torch.cholesky_solve(residuals.mT, root).mT @ anomalies.mT
    gram = anomalies @ anomalies.mT
    gram.diagonal(dim1=-2, dim2=-1).add_(members - 1)
    root = torch.linalg.cholesky(gram)
    return torch.cholesky_solve(anomalies @ residuals.mT, root).mT


def perturbed_weights(
    forecast: Float[Tensor, "ensemble ..."],
    y: Float[Tensor, "obs"],
    model: ObservationModel,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "ensemble ensemble"], dict[str, Any]]:
    r"""Weights W of the stochastic analysis, and the statistics of its innovation.

    .. math:: x_i^a = x_i + K (y + \varepsilon_i - h(x_i)), \quad \varepsilon_i \sim N(0, R)

    The perturbations are centred, so that the analysis mean does not depend on their draw.
    """
    anomalies, innovation = white_innovation(forecast, y, model)
    noise = rng.normal(len(anomalies), tuple(innovation.shape), generator, like=anomalies)
    residuals = innovation + (noise - noise.mean(0)) - anomalies
    weights = kalman_weights(anomalies, residuals)
    weights.diagonal().add_(1)
    return weights, innovation_statistics(anomalies, innovation)


def symmetric_weights(
    anomalies: Float[Tensor, "*batch ensemble obs"], innovation: Float[Tensor, "*batch obs"]
) -> tuple[Float[Tensor, "*batch 1 ensemble"], Float[Tensor, "*batch ensemble ensemble"]]:
    r"""Weights w of the mean and T of the anomalies in the deterministic analysis.

    .. math:: w = d Y^T P_w, \quad T = \sqrt{N - 1} \, P_w^{1/2}, \quad
        P_w = (Y Y^T + (N - 1) I)^{-1}

    with the symmetric root, which keeps the mean and moves the members least. One symmetric
    eigenproblem, over members or over observations, whichever are fewer.
    """
    members, observations = anomalies.shape[-2:]
    rest = members - 1
    d = innovation.unsqueeze(-1)
    if observations < members:
        values, vectors = torch.linalg.eigh(anomalies.mT @ anomalies)
        total = values.clamp_min(0) + rest
        basis = anomalies @ vectors
        mean = (basis / total.unsqueeze(-2)) @ (vectors.mT @ d)
        # (sqrt(rest / total) - 1) / value, written so that it is regular where the value is zero.
        factor = -1 / (total.sqrt() * (total.sqrt() + rest**0.5))
        transform = (basis * factor.unsqueeze(-2)) @ basis.mT
        transform.diagonal(dim1=-2, dim2=-1).add_(1)
        return mean.mT, transform
    values, vectors = torch.linalg.eigh(anomalies @ anomalies.mT)
    total = (values.clamp_min(0) + rest).unsqueeze(-2)
    mean = (vectors / total) @ (vectors.mT @ (anomalies @ d))
    return mean.mT, (vectors * (rest / total).sqrt()) @ vectors.mT
