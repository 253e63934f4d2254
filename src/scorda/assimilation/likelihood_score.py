"""Parts of the filters that add the score of the likelihood to that of the prior."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scorda.core.gaussian import component_std
from scorda.core.shapes import Float, Tensor
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Operator

__all__ = [
    "bounded",
    "held",
    "likelihood_score",
    "settled",
    "standardised",
    "standardised_model",
]

# Largest estimate, in units of the largest deviation of any member in its component: a network
# has learned nothing farther out.
HOLD = 1.5


def standardised(
    ensemble: Float[Tensor, "ensemble ..."],
) -> tuple[Float[Tensor, "ensemble ..."], Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Return standardised members, and the mean and the standard deviation of each component.

    A component in which all members agree keeps its unit.
    """
    mean, std = ensemble.mean(0), component_std(ensemble)
    unit = torch.where(std > 0, std, 1.0)
    return (ensemble - mean) / unit, mean, unit


def standardised_model(
    model: ObservationModel,
    mean: Float[Tensor, "..."],
    unit: Float[Tensor, "..."],
    y: Float[Tensor, "obs"],
) -> ObservationModel:
    """Return the model of a flat observation, whose operator takes standardised states."""
    operator = _Standardised(model.operator, mean, unit)
    if model.cov is None:
        return model.like(operator, model.scale(tuple(y.shape), y))
    return ObservationModel(operator, cov=model.cov.to(y))


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
        (gradient,) = torch.autograd.grad(-0.5 * model.misfit(y, mean + std * z).sum(), z)
    return gradient


def held(
    estimate: Float[Tensor, "ensemble ..."], members: Float[Tensor, "ensemble ..."]
) -> Float[Tensor, "ensemble ..."]:
    r"""Hold estimates :math:`E[z_0 \mid z]` near the members, component by component.

    No farther from their mean than 1.5 times the largest deviation of any member: so the score of
    the prior, :math:`(E[z_0 \mid z] - z) / \sigma^2`, points inwards far from the members,
    where a network says anything.
    """
    mean = members.mean(0)
    largest = HOLD * (members - mean).abs().amax(0)
    return estimate.clamp(mean - largest, mean + largest)


def bounded(
    score: Float[Tensor, "ensemble ..."], largest: float | None
) -> Float[Tensor, "ensemble ..."]:
    """Scale down the score of each member whose root mean square is above the largest, if any."""
    if largest is None:
        return score
    size = score.flatten(1).square().mean(1).sqrt()
    factor = torch.where(size > largest, largest / size, 1.0)
    return score * factor.reshape(-1, *(1,) * (score.ndim - 1))


def settled(
    analysis: Float[Tensor, "ensemble ..."], forecast: Float[Tensor, "ensemble ..."]
) -> Float[Tensor, "ensemble ..."]:
    """Return the analysis, but the forecast in components in which all its members agree."""
    return torch.where((forecast == forecast[:1]).all(0), forecast, analysis)


@dataclass(frozen=True, eq=False)
class _Standardised(Operator):
    """An operator on standardised states; its observations are flat."""

    operator: Operator
    mean: Float[Tensor, "..."]
    unit: Float[Tensor, "..."]

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return self.operator.differentiable

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble obs"]:
        return self.operator(self.mean + self.unit * x).flatten(1)
