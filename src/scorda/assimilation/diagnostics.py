"""What a run of a filter reports of each cycle, and how the reports of all cycles become one."""

from __future__ import annotations

from typing import Any

import torch

from scorda.assimilation.dropped import equal_weights
from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.observations.model import ObservationModel

__all__ = ["collect", "innovation_of", "join_weights", "spread_of"]


def innovation_of(
    forecast: Tensor, weights: Tensor | None, y: Tensor, model: ObservationModel
) -> Tensor:
    """Root mean square of y less the mean of h(x), in standard deviations of the error."""
    predicted = model.operator(forecast).flatten(1)
    if weights is None:
        mean = predicted.mean(0)
    else:
        mean = torch.tensordot(weights.to(predicted), predicted, 1)
    return model.whiten((y - mean)[None]).square().mean().sqrt()


def spread_of(space: StateSpace, ensemble: Tensor, weights: Tensor | None) -> Tensor:
    """Root of the spatial mean of the unbiased ensemble variance, as `scorda.metrics.spread`."""
    if space.has_land:
        ensemble = ensemble.flatten(1)[:, space.inside.to(ensemble.device)]
    if weights is None:
        # One member has no variance, and says so with a zero.
        freedom = max(len(ensemble) - 1, 1) * ensemble[0].numel()
        return torch.linalg.vector_norm(ensemble - ensemble.mean(0)) / freedom**0.5
    weights = weights.to(ensemble)
    mean = torch.tensordot(weights, ensemble, 1)
    square = torch.tensordot(weights, (ensemble - mean).square(), 1).mean()
    # Where one member has all the weight this is 0 / 0 but for the floor.
    rest = 1 - weights.square().sum()
    return (square / rest.clamp_min(torch.finfo(rest.dtype).eps)).sqrt()


def join_weights(weights: list[Tensor | None], states: Tensor) -> Tensor | None:
    """Return the weights of all steps, ``(ensemble, time)``; None where they are always equal.

    Arguments:
        weights: Weights of each step; None: those that are left count alike.
        states: States ``(ensemble, time, *state)``.
    """
    known = next((w for w in weights if w is not None), None)
    if known is None:
        return None
    equal = equal_weights(states, known.dtype).unbind(1)
    return torch.stack([e if w is None else w for e, w in zip(equal, weights, strict=True)], 1)


def collect(infos: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one tensor per key where all cycles have it in one shape, else a list."""
    collected: dict[str, Any] = {}
    for key in dict.fromkeys(key for info in infos for key in info):
        values = [info[key] for info in infos if key in info]
        numbers = [isinstance(v, Tensor | int | float) for v in values]
        if all(numbers) and len({tuple(torch.as_tensor(v).shape) for v in values}) == 1:
            stacked = [torch.as_tensor(v) for v in values]
            collected[key] = torch.stack(stacked) if len(stacked) == len(infos) else values
        else:
            collected[key] = values
    return collected
