"""What filters that add the likelihood's score to the prior's share."""

from __future__ import annotations

import torch

from scorda.observe import ObservationModel
from scorda.shapes import Float, Tensor

__all__ = ["bounded", "likelihood_score", "standardised"]


def standardised(
    ensemble: Float[Tensor, "ensemble ..."],
) -> tuple[Float[Tensor, "ensemble ..."], Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Standardised members, and the mean and standard deviation of each component.

    Raises:
        ValueError: If a component has no spread.
    """
    mean, std = ensemble.mean(0), ensemble.std(0)
    if not (std > 0).all():
        raise ValueError(
            f"The forecast has no spread in {int((~(std > 0)).sum())} components, so it cannot be "
            "standardised: add model error, inflation or jitter."
        )
    return (ensemble - mean) / std, mean, std


def likelihood_score(
    z: Float[Tensor, "ensemble ..."],
    mean: Float[Tensor, "..."],
    std: Float[Tensor, "..."],
    y: Float[Tensor, "obs"],
    model: ObservationModel,
) -> Float[Tensor, "ensemble ..."]:
    r"""Return :math:`\nabla_z \log p(y \mid \mu + \sigma z)`, one gradient for each member."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model.log_likelihood(y, mean + std * z).sum(), z)
    return gradient


def bounded(
    score: Float[Tensor, "ensemble ..."], largest: float | None
) -> Float[Tensor, "ensemble ..."]:
    """Scale down each member's score whose root mean square is above the largest; None: as is."""
    if largest is None:
        return score
    size = score.flatten(1).square().mean(1).sqrt()
    factor = torch.where(size > largest, largest / size, 1.0)
    return score * factor.reshape(-1, *(1,) * (score.ndim - 1))
