"""Arguments and averages that all scores share."""

from __future__ import annotations

import torch

from scorda.core.shapes import Tensor

__all__ = [
    "as_series",
    "normalised",
    "ordered_members",
    "quotient",
    "step_mean",
    "time_mean",
    "variance",
]


def as_series(
    ensemble: Tensor, truth: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Check the arguments; return x (ensemble, time, D), y (time, D), w (ensemble, time, 1).

    A truth without axes stands for none.
    """
    shape = tuple(ensemble.shape[1:])
    if truth.ndim and tuple(truth.shape) != shape:
        raise ValueError(
            f"Got an ensemble of shape {tuple(ensemble.shape)} and a truth of shape "
            f"{tuple(truth.shape)}: the truth needs the ensemble's shape without its first axis."
        )
    if truth.isnan().all():
        raise ValueError("The truth is NaN everywhere: a score needs at least one value.")
    members, steps = len(ensemble), shape[0] if len(shape) > 1 else 1
    x = ensemble.reshape(members, steps, -1)
    y = truth.to(x).expand(shape).reshape(steps, -1)
    if weights is None:
        w = x.new_full((members, 1, 1), 1 / members)
    elif (shape := tuple(torch.as_tensor(weights).shape)) in ((members,), (members, steps)):
        w = normalised(weights.to(x)).reshape(members, -1, 1)
    else:
        raise ValueError(
            f"Got weights of shape {shape} for {members} members and {steps} "
            f"steps: weights are ({members},) or ({members}, {steps})."
        )
    return x, y, w.expand(members, steps, 1)


def normalised(weights: Tensor) -> Tensor:
    """Check the weights and divide them by their sum over the members."""
    total = weights.sum(0)
    if not ((weights >= 0).all() and (total > 0).all() and total.isfinite().all()):
        raise ValueError(
            "Weights need to be finite, not negative, and not all zero at a step; "
            f"got values from {float(weights.min())} to {float(weights.max())}."
        )
    return weights / total


def step_mean(field: Tensor, present: Tensor) -> Tensor:
    """Average the present values of each step; the mean is NaN where a step has none."""
    return torch.where(present, field, 0).sum(1) / present.sum(1)


def time_mean(values: Tensor, present: Tensor) -> Tensor:
    """Average over the steps that have a present value."""
    # Not nanmean: a member that diverged must not vanish from the average.
    return values[present.any(1)].mean()


def quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, with 0 where the denominator is 0 because one member has all the weight."""
    return torch.where(denominator > 0, numerator / denominator, 0 * numerator)


def variance(x: Tensor, w: Tensor) -> Tensor:
    """Return the unbiased weighted variance over the members, which is 0 for one member."""
    mean = (w * x).sum(0)
    return quotient((w * (x - mean).square()).sum(0), 1 - w.square().sum(0))


def ordered_members(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Sort the members at each component, and their weights along with them."""
    ordered, order = x.sort(0)
    return ordered, w.expand_as(x).gather(0, order)
